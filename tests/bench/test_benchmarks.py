"""The benchmarks run, on tiny layouts; nothing here looks at a clock (``make bench-history`` does, on larger ones)."""

import json
from dataclasses import replace

import first_batch
import numpy as np
import paper_tables
import pytest
import rewrite
import simulate_epoch
import sweep
import uproot
from simulate_scale import Model, planned

from mlaas4hep_tf import RootDataset, scan
from mlaas4hep_tf.io.branches import Selection
from mlaas4hep_tf.io.files import Source
from mlaas4hep_tf.io.inspection import inspect
from mlaas4hep_tf.io.reader import read
from mlaas4hep_tf.testing import has_xrootd, write_files

pytestmark = pytest.mark.filterwarnings("ignore::mlaas4hep_tf.DataWarning")


@pytest.fixture
def scale(request):
    """How many times as large the files are where the clock runs."""
    return 100 if request.config.getoption("benchmark_enable") else 1


@pytest.fixture
def files(tmp_path, scale):
    tmp_path.chmod(0o755)
    return write_files(tmp_path, [60 * scale, 40 * scale], basket=20 * scale, groups={"Jet": 3, "Mu": 1})


@pytest.mark.parametrize("compression", ["none", "zlib", "lz4", "zstd", "lzma"])
def test_decode_a_block(benchmark, tmp_path, scale, compression):
    (path,) = write_files(tmp_path, [50 * scale], basket=20 * scale, compression=compression)
    file = inspect(Source(path), Selection((), (), ()))
    columns = benchmark(read, file, 0, 50 * scale, ["x", "Jet_0"])
    assert columns.num_entries == 50 * scale


def test_open_a_file(benchmark, files, scale):
    assert benchmark(inspect, Source(files[0]), Selection((), (), ())).num_entries == 60 * scale


def test_scan(benchmark, files, scale):
    assert benchmark(scan, files, progress=False).entries == 100 * scale


@pytest.mark.parametrize("batch_size", [16, 64])
@pytest.mark.parametrize("layout", ["vector", "columns", "ragged"])
def test_dataset(benchmark, files, scale, batch_size, layout):
    ds = RootDataset(
        files, scan(files, progress=False), labels=[0, 1], batch_size=batch_size, layout=layout, keep=False
    )
    assert benchmark(lambda: sum(len(y) for _, y in ds)) == 100 * scale


@pytest.mark.slow
def test_every_sweep_has_points_and_gives_plot_and_table(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        sweep, "shape_of", lambda name, value: replace(sweep.Shape(), entries=40, files=2, columns=4, basket=10)
    )
    sweep.main(["--columns", "4", "--basket", "10", "--rounds", "1", "--out", str(tmp_path)])
    results = json.loads((tmp_path / "sweep.json").read_text())["results"]
    assert {name: len(points) for name, points in results.items()} == {"columns": 1, "basket": 1}
    assert all(point[way] > 0 for points in results.values() for point in points.values() for way in sweep.WAYS)
    assert (tmp_path / "sweep.png").stat().st_size > 10_000
    assert (tmp_path / "sweep.md").read_text().count("| entries in a basket |") == 1
    assert "cores" in capsys.readouterr().out


@pytest.mark.parametrize(("name", "value"), [(n, v) for n, (_, values) in sweep.SWEEPS.items() for v in values])
def test_a_point_of_a_sweep_changes_what_it_says(name, value):
    shape = sweep.shape_of(name, value)
    assert getattr(shape, name) == value
    assert shape.entries >= shape.files


def test_tables_of_the_paper(files, capsys):
    paper_tables.main([*files, "--tree", "events", "--rounds", "1"])
    out = capsys.readouterr().out
    assert "| paper: VM with local files | 1,132 | 978 | 2,153 | 13,366 |" in out
    assert out.count("| **local files**") == 2
    assert ("| **local XRootD server**" in out) == has_xrootd()


@pytest.mark.parametrize("compression", ["lz4", "zstd"])
def test_rewritten_files_hold_the_same_events(files, tmp_path, compression):
    rewrite.main([files[0], "--tree", "events", "--basket", "50", "--compression", compression,
                  "--out", str(tmp_path / "new")])  # fmt: skip
    before, after = (uproot.open(path)["events"] for path in (files[0], tmp_path / "new" / "f000.root"))
    assert set(before.keys()) == set(after.keys())
    assert all(before[k].array().tolist() == after[k].array().tolist() for k in before.keys())  # noqa: SIM118 (uproot)
    assert after["x"].num_baskets == 2


@pytest.mark.parametrize(("twice", "dropped", "wrong"), [([], [], 0), ([3], [], 1), ([], [3], 1), ([3], [4], 2)])
def test_the_simulation_of_an_epoch_tells_what_came_twice_or_never(twice, dropped, wrong):
    blocks = np.concatenate([*simulate_epoch.walk(planned(30, 1000, 100, 5000))])
    account = simulate_epoch.Account(30, 1000)
    account.add(np.concatenate([np.delete(blocks, dropped, axis=0), blocks[twice]]))
    assert account.wrong() == wrong


def test_readers_of_the_simulation_deliver_every_event():
    plan = planned(30, 1000, 100, 5000)
    found = simulate_epoch.simulate(plan, 1000, Model(readers=4, slow=0, failing=0, dying=0))
    blocks = len(np.concatenate([*simulate_epoch.walk(plan)]))
    assert (found["events"], found["blocks"], found["openings"]) == (30_000, blocks, 30)
    least = (30_000 / 50_000 + 0.1 * blocks + 0.155 * 30) / 4  # decoding, requests and openings of four at a time
    assert least <= found["simulated seconds"] <= least + 1


def test_the_first_batch_of_files_that_were_scanned(tmp_path):
    first_batch.make(tmp_path, files=3, events=20)
    found = first_batch.measure(tmp_path)
    assert 0 < found["of the dataset s"] < found["to the first batch s"]
    assert found["CPU of the readers s"] > 0
