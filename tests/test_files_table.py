"""What a scan learnt of the files is kept in a table, and what was scanned is not opened before it is read."""

import hashlib
import json
import os
import pickle
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from helpers.streams import quiet_scan
from hypothesis import given, settings
from hypothesis import strategies as st

from mlaas4hep_tf import DataWarning, ReadOptions, RootDataset, Specs, files_table, scan, scanned_files, table_store
from mlaas4hep_tf.errors import SpecsError
from mlaas4hep_tf.files_table import FileSpec, FilesTable, FriendSpec
from mlaas4hep_tf.io import inspection
from mlaas4hep_tf.io.basket_index import BranchIndex
from mlaas4hep_tf.io.branches import BranchInfo
from mlaas4hep_tf.io.lists import DistantTexts
from mlaas4hep_tf.io.reals import Reals
from mlaas4hep_tf.io.workers import WorkerPool
from mlaas4hep_tf.table_store import read_table, write_table
from mlaas4hep_tf.testing import make_events, write_files, write_tree
from mlaas4hep_tf.updating import update

RISING = st.lists(st.integers(0, 2**40), max_size=5).map(lambda own: tuple(sorted(own)))
FILES = st.lists(
    st.builds(
        FileSpec, url=st.text(max_size=9), uuid=st.text("0123456789abcdef", max_size=9), entries=st.integers(0, 2**40),
        edges=RISING, passing=st.lists(st.integers(-1, 2**33), max_size=4).map(tuple), dataset=st.text(max_size=3),
        friends=st.sampled_from([(), (FriendSpec("more", "b.root", "t", "77", ("event",)),)]),
        size=st.integers(0, 2**50), stamp=st.text("0123456789", max_size=9), offsets=RISING,
        baskets=st.text("abc=", max_size=5),
    ),
    max_size=6,
)  # fmt: skip


@settings(max_examples=30)
@given(FILES, st.data())
def test_columns_hold_what_the_files_say(files, data):
    table = FilesTable.of(files)
    assert list(table) == files
    assert table.events.tolist() == [file.events for file in files]
    some = data.draw(st.permutations(range(len(files))).map(lambda order: order[::2]))
    assert list(table.take(np.array(some, np.int64))) == [files[n] for n in some]


@pytest.mark.parametrize("ending", ["parquet", "npz"])
def test_a_table_comes_back_from_disk_as_it_was(ending, tmp_path):
    if ending == "parquet":
        pytest.importorskip("pyarrow")

    @settings(max_examples=20)
    @given(FILES)
    def comes_back(files):
        stored = (BranchIndex("x", ">f4", jagged=False), BranchIndex("y", ">f8", jagged=True, reals=Reals("float64")))
        table = FilesTable.of(files, (BranchInfo("x", "float", "flat", "float32"),), stored)
        write_table(table, tmp_path / f"t.{ending}")
        found = read_table(tmp_path / f"t.{ending}", table.summary)
        assert list(found) == files
        assert (found.branches, found.indexed) == (table.branches, stored)

    comes_back()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return write_files(tmp_path_factory.mktemp("files"), [700, 430, 101], basket=90)


@pytest.fixture(scope="module")
def specs(files):
    return quiet_scan(files)


def bits(ds):
    return [[part.numpy().tobytes() for part in tf.nest.flatten(element)] for element in ds]


@pytest.fixture
def asked(monkeypatch):
    """Names of the functions that reader processes were asked to run."""
    names = []
    submit = WorkerPool.submit

    def watched(self, function, *args):
        names.append(getattr(function, "func", function).__name__)
        return submit(self, function, *args)

    monkeypatch.setattr(WorkerPool, "submit", watched)
    return names


def test_specs_name_their_table_and_are_unbound_without_it(specs, tmp_path):
    specs.save(tmp_path / "specs.json")
    told = json.loads((tmp_path / "specs.json").read_text())["files"]
    assert (told["count"], told["entries"]) == (3, 1231)
    assert Specs.load(tmp_path / "specs.json") == specs
    (tmp_path / told["table"]).rename(tmp_path / "elsewhere")
    with pytest.warns(DataWarning, match=f"files table {told['table']} is not beside .*specs.json"):
        alone = Specs.load(tmp_path / "specs.json")
    assert (alone.bound, alone.entries, alone.fingerprint) == (False, 1231, specs.fingerprint)
    alone.save(tmp_path / "again.json")
    assert Specs.load(tmp_path / "again.json") == alone


def test_the_table_of_other_specs_and_a_damaged_one_are_errors(specs, tmp_path):
    specs.save(tmp_path / "specs.json")
    (table,) = tmp_path.glob("specs.files.*")
    write_table(FilesTable.of(specs.files[:2]), table)
    with pytest.raises(SpecsError, match="is not the one of these specs"):
        Specs.load(tmp_path / "specs.json")
    table.write_bytes(table.read_bytes()[:-20])
    with pytest.raises(SpecsError, match="cannot be read"):
        Specs.load(tmp_path / "specs.json")


def test_specs_with_a_list_of_files_are_still_read(specs, files, tmp_path):
    old = json.loads(json.dumps(specs.to_json()))
    old["files"] = [{name: getattr(f, name) for name in ("url", "uuid", "entries")} for f in specs.files]
    content = {name: value for name, value in old.items() if name not in ("version", "fingerprint", "checksum")}
    checksum = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
    (tmp_path / "s.json").write_text(json.dumps(content | {"version": 1, "checksum": checksum}))
    loaded = Specs.load(tmp_path / "s.json")
    assert loaded.bound
    assert loaded.fingerprint == specs.fingerprint
    assert RootDataset(files, loaded).entries == 1231


def test_nothing_is_opened_to_build_a_dataset_and_the_batches_are_the_same(specs, files, asked, monkeypatch):
    options: dict[str, Any] = {"labels": [0, 1, 1], "batch_size": 50, "chunk_size": 300, "keep": False}
    ds = RootDataset(files, specs, **options)
    train, test = ds.split(0.7, 0.3)
    assert not asked
    assert bits(train) == bits(RootDataset(files, specs.unbound(), **options).split(0.7, 0.3)[0])
    assert bits(test) == bits(RootDataset(specs.files, specs, **options).split(0.7, 0.3)[1])
    monkeypatch.setattr(scanned_files, "KEPT_BYTES", 0)
    assert bits(RootDataset(files, specs, **options)) == bits(RootDataset(files, specs.unbound(), **options))
    some = RootDataset(files[2:0:-1], specs, labels=[0, 1])
    assert [file.num_entries for file in some.files] == [101, 430]


def test_a_table_of_before_tells_of_no_baskets_and_is_still_read(specs, tmp_path):
    pq = pytest.importorskip("pyarrow.parquet")
    old = FilesTable.of([replace(file, baskets="") for file in specs.files], specs.files.branches)
    write_table(old, tmp_path / "t.parquet")
    pq.write_table(pq.read_table(tmp_path / "t.parquet").drop_columns("baskets"), tmp_path / "t.parquet")
    assert [*read_table(tmp_path / "t.parquet", old.summary)] == [*old]


def test_files_of_few_baskets_are_never_parsed_again(specs, files, monkeypatch):
    assert all(specs.files.texts("baskets"))
    expected = bits(RootDataset(files, specs.unbound(), batch_size=50, keep=False))
    monkeypatch.setattr(inspection, "OpenTree", None)
    with ThreadPoolExecutor(1) as executor:
        ds = RootDataset(files, specs, batch_size=50, keep=False, read=ReadOptions(executor=executor))
        assert bits(ds) == expected


def test_what_memory_does_not_hold_is_read_from_the_table_when_it_is_asked_for(specs, files, tmp_path, monkeypatch):
    pytest.importorskip("pyarrow")
    expected = bits(RootDataset(files, specs, batch_size=50, keep=False))
    monkeypatch.setattr(files_table, "BASKETS_HELD", 9)
    monkeypatch.setattr(table_store, "_ROWS", 2)
    told = replace(specs, files=FilesTable.of(list(specs.files), specs.files.branches, specs.files.indexed))
    told.save(tmp_path / "specs.json")
    loaded = Specs.load(tmp_path / "specs.json")
    assert isinstance(loaded.files.columns["baskets"], DistantTexts)
    assert [*loaded.files] == [*specs.files]
    assert [*loaded.files.take(np.array([2, 0]))] == [specs.files[2], specs.files[0]]
    assert [*pickle.loads(pickle.dumps(loaded.files))] == [*specs.files]
    loaded.save(tmp_path / "again.json")
    assert [*Specs.load(tmp_path / "again.json").files] == [*specs.files]
    monkeypatch.setattr(inspection, "OpenTree", None)
    with ThreadPoolExecutor(1) as executor:
        ds = RootDataset(files, loaded, batch_size=50, keep=False, read=ReadOptions(executor=executor))
        assert bits(ds) == expected
    with np.load(_as_npz(loaded, tmp_path)) as plain:
        assert plain["baskets"].tobytes().decode() == "".join(file.baskets for file in specs.files)


def _as_npz(specs, folder):
    write_table(specs.files, folder / "t.npz")
    return folder / "t.npz"


def test_a_damaged_text_that_is_read_late_is_an_error(specs, tmp_path, monkeypatch):
    pq = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr(files_table, "BASKETS_HELD", 9)
    path, table = tmp_path / "t.parquet", FilesTable.of(list(specs.files), (), specs.files.indexed)
    write_table(table, path)
    group = pq.ParquetFile(path).metadata.row_group(0)
    (column,) = (own for n in range(group.num_columns) if (own := group.column(n)).path_in_schema == "baskets")
    whole, at = path.read_bytes(), column.data_page_offset + column.total_compressed_size - 9
    path.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
    found = read_table(path, table.summary)
    with pytest.raises(SpecsError, match="t.parquet cannot be read"):
        found[0]


def test_where_baskets_lie_is_told_up_to_a_limit(specs, monkeypatch):
    lengths = [len(text) for text in specs.files.texts("baskets")]
    monkeypatch.setattr(files_table, "BASKETS_KEPT", sum(lengths) - 1)
    assert [len(text) for text in specs.files.limited().texts("baskets")] == [*lengths[:2], 0]


def test_what_a_reader_learns_of_a_file_is_kept(specs, files):
    told = [replace(file, baskets="") for file in specs.files]
    specs = replace(specs, files=FilesTable.of(told, specs.files.branches))
    ds = RootDataset(files, specs, keep=False)
    assert all(file.unopened for file in ds.files)
    list(ds)
    assert not any(file.unopened for file in ds.files)
    assert all(file.index.nbytes for file in ds.files)


def test_selection_label_branch_and_weights_need_no_opening(files, asked):
    chosen = quiet_scan(files, select="x > 0", labels="id")
    asked.clear()
    given: dict[str, Any] = {"labels": "id", "batch_size": 50, "keep": False}
    ds = RootDataset(files, chosen, **given)
    assert not asked
    assert bits(ds) == bits(RootDataset(files, chosen.unbound(), **given))


@pytest.mark.parametrize("how", ["touched", "grown", "replaced", "another uuid"])
def test_what_changed_since_the_scan_is_named_when_it_is_read(how, tmp_path):
    paths = write_files(tmp_path, [200, 150], basket=90)
    specs = quiet_scan(paths)
    if how == "touched":
        os.utime(paths[1], ns=(10**18, 10**18))
    elif how == "grown":
        with open(paths[1], "ab") as file:
            file.write(b"more")
    elif how == "another uuid":
        written = os.stat(paths[1]).st_mtime_ns
        with open(paths[1], "rb+") as file:
            file.seek(50)
            file.write(b"another")
        os.utime(paths[1], ns=(written, written))
    else:
        write_tree(paths[1], make_events(150))
    ds = RootDataset(paths, specs)
    with pytest.raises(SpecsError, match=rf"{paths[1]}, tree events has changed since it was scanned: .*--update"):
        list(ds)


def test_files_that_were_moved_are_known_by_their_uuid(tmp_path):
    paths = write_files(tmp_path, [200, 150], basket=90)
    specs = quiet_scan(paths)
    (tmp_path / "there").mkdir()
    moved = [os.path.join(tmp_path, "there", os.path.basename(path)) for path in paths]
    for path, to in zip(paths, moved, strict=True):
        os.rename(path, to)
    assert len([*RootDataset(moved, specs, batch_size=50)]) == 7


def test_a_card_tells_of_the_table_and_not_of_each_file(specs):
    told = specs.to_json()["files"]
    assert told == {"table": ""} | asdict(specs.files.summary)
    other = replace(specs, files=FilesTable.of(specs.files[:2], specs.files.branches))
    assert other.to_json()["files"]["checksum"] != told["checksum"]


def test_unbound_specs_without_a_table_do_not_warn(specs, tmp_path):
    specs.unbound().save(tmp_path / "s.json")
    next(tmp_path.glob("s.files.*")).unlink()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not Specs.load(tmp_path / "s.json").bound


def test_an_update_reads_only_new_files_and_gives_what_a_scan_of_all_does(files, asked):
    options: dict[str, Any] = {"select": "x > 0", "labels": "id", "progress": False}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        two, three, new = (scan(own, **options) for own in (files[:2], files, files[2]))
        asked.clear()
        scan(files[2], **options)
        alone = asked.count("scan_range")
        asked.clear()
        got = update(two, files, **options)
    assert asked.count("scan_range") == alone
    assert got.entries == three.entries == two.entries + new.entries
    assert list(got.files) == list(three.files)
    assert got.cutflow == three.cutflow
    told: list[list[Any]] = [[*of.branches, *of.targets] for of in (got, three)]
    for a, b in zip(*told, strict=True):
        assert replace(a, mean=None, variance=None) == replace(b, mean=None, variance=None)
        assert (a.mean, a.variance) == pytest.approx((b.mean, b.variance))
    asked.clear()
    assert update(got, files, **options) == got
    assert "scan_range" not in asked


def test_an_update_reads_all_again_where_a_file_changed_or_is_gone(tmp_path):
    paths = write_files(tmp_path, [200, 150], basket=90)
    specs = quiet_scan(paths)
    write_tree(paths[1], make_events(170, seed=5))
    with pytest.warns(DataWarning, match=rf"all files are read again: {paths[1]} changed since it was scanned"):
        assert update(specs, paths, progress=False) == quiet_scan(paths)
    with pytest.warns(DataWarning, match="is not among them any more"):
        assert update(specs, paths[:1], progress=False) == quiet_scan(paths[0])


def test_an_update_with_other_options_is_refused(files):
    with pytest.raises(SpecsError, match="updated with the options that they were made with: selection"):
        update(quiet_scan(files[:2]), files, exclude="x", progress=False)
