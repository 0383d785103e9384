"""Pages of RNTuples: each is decompressed once, whatever the cluster, and damage is told."""

import pickle
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import uproot

from mlaas4hep_tf.errors import InputFileError
from mlaas4hep_tf.io import pages, reader
from mlaas4hep_tf.io.branches import Selection
from mlaas4hep_tf.io.files import RootFile, Source
from mlaas4hep_tf.io.inspection import inspect
from mlaas4hep_tf.io.page_index import PageIndex
from mlaas4hep_tf.io.reader import read

FOLDER = Path(__file__).parents[1] / "data" / "root640"


def index_of(file: RootFile) -> PageIndex:
    assert isinstance(file.index, PageIndex)
    return file.index


def test_a_page_that_several_blocks_need_is_decompressed_once(tmp_path, monkeypatch):
    values = np.arange(5000, dtype=np.float32)
    with uproot.recreate(tmp_path / "one_cluster.root") as out:
        out.mkrntuple("events", {"x": values})
    file = inspect(Source(str(tmp_path / "one_cluster.root")), Selection())
    fetched = Counter[tuple[int, int]]()
    fetch = reader.fetch

    def counting(file, spans):
        fetched.update(spans)
        return fetch(file, spans)

    monkeypatch.setattr(reader, "fetch", counting)
    found = [read(file.part(["x"], at, at + 100), at, at + 100, ["x"]).values["x"] for at in range(0, 5000, 100)]
    assert np.array_equal(np.concatenate([piece for pieces in found for piece in pieces]), values)
    assert set(fetched.values()) == {1}


@pytest.mark.parametrize(("kept", "times"), [(4 * 400, {1}), (3 * 400, {2})])
def test_clusters_that_are_read_in_turn_are_decompressed_once_where_all_fit(tmp_path, monkeypatch, kept, times):
    monkeypatch.setattr(reader, "_own", reader._Own())  # noqa: SLF001 (as a process of its own has it)
    reader.keep(1, kept)
    with uproot.recreate(tmp_path / "clusters.root") as out:
        events = out.mkrntuple("events", {"x": np.float32})
        for _ in range(4):
            events.extend({"x": np.arange(100, dtype=np.float32)})
    file = inspect(Source(str(tmp_path / "clusters.root")), Selection())
    fetched = Counter[tuple[int, int]]()
    fetch = reader.fetch
    monkeypatch.setattr(reader, "fetch", lambda file, spans: fetched.update(spans) or fetch(file, spans))
    for at in (0, 100, 200, 300, 50, 150, 250, 350):
        read(file.part(["x"], at, at + 50), at, at + 50, ["x"])
    assert len(fetched) == 4
    assert {*fetched.values()} == times


def test_an_index_is_the_same_after_its_way_to_another_process():
    file = inspect(Source(str(FOLDER / "objects_rntuple.root")), Selection())
    names = [info.name for info in file.branches if info.kind != "other"]
    part = file.part(names, 4, 11)
    there = pickle.loads(pickle.dumps(part))
    for name, pieces in read(part, 4, 11, names).values.items():
        for mine, other in zip(pieces, read(there, 4, 11, names).values[name], strict=True):
            assert np.array_equal(mine, other, equal_nan=mine.dtype.kind == "f")
    assert index_of(there).nbytes == index_of(part).nbytes > 0


def test_pages_of_several_files_are_kept_apart():
    cache = pages.PageCache(100)
    cache.of("a").put((0, 1), np.zeros(40, np.uint8))
    assert cache.of("b").get((0, 1)) is None
    cache.put((0, 1), np.ones(40, np.uint8))
    kept = [cache.of(file).get((0, 1)) for file in "ab"]
    assert [[] if page is None else set(page.tolist()) for page in kept] == [{0}, {1}]


def test_kept_pages_stay_within_their_limit():
    cache = pages.PageCache(100)
    for at in range(5):
        cache.put((at, 1), np.zeros(40, np.uint8))
        cache.get((0, 1))
    assert [at for at in range(5) if cache.get((at, 1)) is not None] == [0, 4]


def test_a_damaged_page_is_told(tmp_path):
    content = bytearray((FOLDER / "numbers_rntuple.root").read_bytes())
    column = index_of(inspect(Source(str(FOLDER / "numbers_rntuple.root")), Selection())).columns[0]
    content[int(column.seeks[0])] ^= 1
    (tmp_path / "damaged.root").write_bytes(content)
    file = inspect(Source(str(tmp_path / "damaged.root")), Selection())
    with pytest.raises(InputFileError, match="the checksum of a page is wrong"):
        read(file, 0, file.num_entries, ["bool"])


def test_large_clusters_are_cut_where_pages_begin():
    file = inspect(Source(str(FOLDER / "late_rntuple.root")), Selection(("late",)))
    assert file.entry_offsets == (0, 4, 5, 8, 12)  # clusters at 0, 4 and 8; the field was added at 5
