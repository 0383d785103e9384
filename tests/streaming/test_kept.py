"""What stays in memory gives the batches that the files give, bit for bit, and is not read again."""

import gc
import weakref
from pathlib import Path
from types import SimpleNamespace
from weakref import WeakSet

import numpy as np
import pytest
import tensorflow as tf
from helpers.packed import expected, packed, unpacked
from helpers.streams import quiet_scan
from hypothesis import given
from hypothesis import strategies as st

from mlaas4hep_tf import ReadOptions, RootDataset
from mlaas4hep_tf.errors import InputFileError, PlanError
from mlaas4hep_tf.io import memory
from mlaas4hep_tf.streaming import finished, kept
from mlaas4hep_tf.streaming.chunks import Stream
from mlaas4hep_tf.streaming.kept import Kept
from mlaas4hep_tf.streaming.permuted import Rows
from mlaas4hep_tf.streaming.ranges import EntryRange
from mlaas4hep_tf.testing import write_files
from mlaas4hep_tf.transforms.image_axes import Axis, Image


def bits(ds):
    return [[part.numpy().tobytes() for part in tf.nest.flatten(element)] for element in ds]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    write_files(folder, [700, 430, 101], basket=90)
    return str(folder)


@pytest.fixture
def asked(monkeypatch):
    """The blocks that reader processes were asked for."""
    blocks = []
    read = Stream.read

    def watched(self, block):
        blocks.append(block)
        return read(self, block)

    monkeypatch.setattr(Stream, "read", watched)
    return blocks


def parts(ds):
    """Three epochs of a training, and two looks at its validation."""
    train, valid = ds.split(0.7, 0.3)
    epochs = [bits(train), bits(valid), bits(train), bits(valid.in_order()), bits(train), bits(valid.in_order())]
    return epochs, train.delivered, train.truncated


def equal(ds):
    ds = ds.mixed("equal")
    return [bits(ds) for _ in range(3)], ds.delivered


def whole(ds):
    """Epochs of which the later ones are finished rows, with a peek and an interrupted one between them."""
    epochs = [(bits(ds), ds.delivered, ds.truncated) for _ in range(2)]
    looked = bits(ds.take(2))
    return epochs, looked, [(bits(ds), ds.delivered, ds.truncated) for _ in range(2)]


def resumed(ds):
    whole = [bits(ds) for _ in range(2)]
    again = ds.starting_at(ds.state(1, 3))
    assert bits(again) == whole[1][3:]
    return whole, bits(again), again.delivered


@pytest.mark.parametrize(
    ("use", "keep"), [(parts, "auto"), (parts, 20_000), (equal, True), (whole, "auto"), (resumed, "auto")]
)
def test_the_same_batches_bit_for_bit(files, use, keep):
    specs = quiet_scan(files, select="nJet > 1") if use is parts else quiet_scan(files)

    def epochs(keep):
        ds = RootDataset(files, specs, labels={"*": 1}, batch_size=64, chunk_size=300, mask=True, keep=keep)
        return use(ds)

    assert epochs(keep) == epochs(False)


def test_what_is_kept_is_not_read_again(files, asked):
    specs = quiet_scan(files)
    ds = RootDataset(files, specs, batch_size=64, chunk_size=300)
    train, valid = ds.split(0.7, 0.3)
    bits(train), bits(valid)
    assert sum(map(len, asked)) == ds.entries
    del asked[:]
    bits(train), bits(valid), bits(valid.in_order()), bits(train.masked()), bits(train.mixed("equal")), bits(ds)
    assert asked == []


IMAGE = Image((Axis("Jet_0", 3, 0.0, 1.0),), ("Jet_1",))


@pytest.mark.parametrize(
    "options", [{"mask": True}, {"batch_size": 411}, {"shuffle": False}, {"layout": "image", "image": IMAGE}]
)
def test_later_epochs_are_permutations_of_finished_rows(files, monkeypatch, options):
    specs = quiet_scan(files).with_lengths(quantile=0.8)
    options = {"batch_size": 64, "chunk_size": 300} | options
    ds, plain = (RootDataset(files, specs, labels={"*": 1}, keep=keep, **options) for keep in ("auto", False))
    for epoch in range(4):
        with monkeypatch.context() as patched:
            if epoch > 1:  # in the second the rows are made
                patched.setattr(Stream, "chunks", None)
            mine = bits(ds), ds.delivered, ds.truncated
        assert mine == (bits(plain), plain.delivered, plain.truncated)


def in_python(ds):
    return bits(ds)


def in_a_graph(ds):
    batches, following = iter(ds), tf.function(lambda its: next(its), autograph=False)
    return [[p.numpy().tobytes() for p in tf.nest.flatten(following(batches))] for _ in range(ds.plan.batches)]


def half_in_each(ds):
    """An iterator of which Python takes some batches and hands it to a graph."""
    batches, following = iter(ds), tf.function(lambda its: next(its), autograph=False)
    first = [next(batches) for _ in range(3)]
    rest = [following(batches) for _ in range(ds.plan.batches - 3)]
    return [[p.numpy().tobytes() for p in tf.nest.flatten(element)] for element in first + rest]


def mapped(ds):
    return bits(ds.map(lambda *element: element))


@pytest.mark.parametrize("drop_remainder", [False, True])
@pytest.mark.parametrize("take", [in_python, in_a_graph, half_in_each, mapped])
def test_finished_rows_come_alike_however_they_are_taken(files, take, drop_remainder):
    specs = quiet_scan(files)
    kept, plain = (
        RootDataset(
            files, specs, labels={"*": 1}, mask=True, batch_size=64, chunk_size=300, keep=keep,
            drop_remainder=drop_remainder,
        )
        for keep in (True, False)
    )  # fmt: skip
    for epoch in range(5):
        theirs = bits(plain)
        assert (take(kept) if epoch > 1 else bits(kept)) == theirs


def test_an_epoch_of_finished_rows_that_was_not_taken_to_its_end_comes_again(files):
    ds = RootDataset(files, quiet_scan(files), batch_size=64, chunk_size=300)
    bits(ds), bits(ds)
    batches = iter(ds)
    begun = [next(batches).numpy().tobytes() for _ in range(3)]
    whole = [batch for (batch,) in bits(ds)]
    assert whole[:3] == begun
    assert bits(ds) != [[batch] for batch in whole]


def test_batches_of_finished_rows_stay_what_they_are_while_others_are_made(files):
    ds = RootDataset(files, quiet_scan(files), batch_size=64, chunk_size=300)
    bits(ds), bits(ds)
    held = list(ds)
    before = [batch.numpy().tobytes() for batch in held]
    bits(ds), bits(ds)
    assert [batch.numpy().tobytes() for batch in held] == before


@pytest.mark.parametrize("take", [in_python, in_a_graph])
def test_finished_rows_go_with_their_dataset(files, monkeypatch, take):
    made = []

    def watched(arrays, *others):
        made.extend(map(weakref.ref, arrays))
        return Rows(arrays, *others)

    monkeypatch.setattr(finished, "Rows", watched)
    ds = RootDataset(files, quiet_scan(files), labels={"*": 1}, batch_size=64, chunk_size=300)
    bits(ds), bits(ds), take(ds)
    assert [rows() is not None for rows in made] == [True, True]
    del ds
    gc.collect()
    assert [rows() is None for rows in made] == [True, True]


def test_no_more_is_kept_than_the_limit(files, asked):
    specs = quiet_scan(files)
    ds = RootDataset(files, specs, batch_size=64, chunk_size=300, keep=20_000)
    bits(ds)
    first = len(asked)
    bits(ds)
    assert first < len(asked) < 2 * first


def test_of_the_free_memory_a_quarter_is_kept_by_all_datasets_together(monkeypatch):
    monkeypatch.setattr(kept, "_all", WeakSet())
    left = 4000
    stores = [Kept("auto", 0), Kept("auto", 0)]
    monkeypatch.setattr(kept, "free_memory", lambda: left - sum(store.nbytes for store in stores))
    for start in range(100):
        for store in stores:
            store.add(EntryRange(0, start, start + 1), (np.zeros((1, 10), np.float32),))
    assert sum(store.nbytes for store in stores) == 1000


def test_a_loss_counts_in_each_epoch_in_which_it_happens(files, monkeypatch):
    specs = quiet_scan(files)
    ds = RootDataset(
        files, specs, batch_size=64, chunk_size=300, read=ReadOptions(on_bad_file="skip", max_lost_fraction=0.5)
    )
    assert ds.skipped is not None
    result, bad = Stream.result, next(ds.plan.in_order())

    def failing(self, reading):
        if reading.block == bad:
            reading.future.result()
            reading.future.result = lambda: (_ for _ in ()).throw(InputFileError("no such basket"))
        return result(self, reading)

    monkeypatch.setattr(Stream, "result", failing)
    for _ in range(2):
        bits(ds)
        assert sum(ds.delivered.values()) == ds.entries - len(bad)
    (lost,) = ds.skipped.ever.values()
    assert (lost.start, lost.stop, lost.times) == (bad.start, bad.stop, 2)
    monkeypatch.setattr(Stream, "result", result)
    bits(ds)
    assert sum(ds.delivered.values()) == ds.entries
    assert [lost] == [*ds.skipped.ever.values()]


@pytest.mark.parametrize("keep", ["all", -1, None, 0.5])
def test_other_words_are_refused(files, keep):
    with pytest.raises(PlanError, match="keep must be"):
        RootDataset(files, quiet_scan(files), keep=keep)


ranges = st.tuples(st.integers(0, 40), st.integers(1, 40)).map(lambda pair: (pair[0], pair[0] + pair[1]))


@given(st.lists(ranges, max_size=6), ranges)
def test_any_range_is_given_back_whole_or_not_at_all(added, asked_for):
    store = Kept(True, 2)
    for start, stop in added:
        store.add(EntryRange(3, start, stop), packed(start, stop))
    known = {event for start, stop in added for event in range(start, stop)}
    found = store.get(EntryRange(3, *asked_for))
    assert (found is not None) == (set(range(*asked_for)) <= known)
    assert store.get(EntryRange(2, *asked_for)) is None
    assert store.nbytes == sum(part.nbytes for event in known for part in packed(event, event + 1))
    if found is not None:
        assert [event for part in found for event in unpacked(*part)] == expected(*asked_for)


def group(folder: Path, files: dict[str, str]) -> None:
    folder.mkdir(parents=True)
    for name, text in files.items():
        (folder / name).write_text(text)


def test_the_limit_of_a_batch_job_counts(tmp_path):
    statistics = "anon 1\ninactive_file 300\n"
    group(tmp_path / "two/job/step", {"memory.max": "max\n", "memory.current": "900\n", "memory.stat": statistics})
    (tmp_path / "two/job/memory.max").write_text("2000\n")
    (tmp_path / "two/job/memory.current").write_text("1500\n")
    (tmp_path / "two/job/memory.stat").write_text(statistics)
    (tmp_path / "membership").write_text("0::/job/step\n")
    assert list(memory.left_in_groups(tmp_path / "membership", tmp_path / "two")) == [800]
    first = {"memory.limit_in_bytes": "5000", "memory.usage_in_bytes": "100", "memory.stat": "total_inactive_file 7\n"}
    group(tmp_path / "one/memory", first)
    (tmp_path / "membership").write_text("5:cpu:/x\n4:memory:/a/container\n")
    assert list(memory.left_in_groups(tmp_path / "membership", tmp_path / "one")) == [4907]
    assert list(memory.left_in_groups(tmp_path / "none", tmp_path)) == []
    assert memory.free_memory() > 0


def test_the_kernel_is_asked_for_the_free_memory_four_times_a_second_at_most(monkeypatch):
    clock, left = [1e9], iter((10, 20))
    monkeypatch.setattr(memory, "left_in_groups", lambda *_: [next(left)])
    monkeypatch.setattr(memory, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    assert [memory.free_memory() for _ in range(100)] == [10] * 100
    clock[0] += 0.25
    assert [memory.free_memory() for _ in range(100)] == [20] * 100
