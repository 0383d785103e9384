"""The compiled step gives the batches of the plain graph bit for bit, and is compiled once."""

import logging

import pytest
import tensorflow as tf
from helpers.streams import quiet_scan

from mlaas4hep_tf import RootDataset
from mlaas4hep_tf.streaming import pipeline
from mlaas4hep_tf.streaming.chunks import Room
from mlaas4hep_tf.streaming.position import BEGINNING
from mlaas4hep_tf.testing import write_files


def bits(ds: RootDataset) -> list[list[bytes]]:
    return [[part.numpy().tobytes() for part in tf.nest.flatten(element)] for element in ds]


@pytest.fixture
def files(tmp_path):
    write_files(tmp_path, [700, 430, 101])
    return str(tmp_path)


@pytest.mark.parametrize("options", [{"mask": True}, {"layout": "columns", "mask": True}, {"normalize": "standard"}])
def test_the_same_batches_bit_for_bit(files, monkeypatch, options):
    specs = quiet_scan(files)

    def two_epochs() -> list[list[bytes]]:
        ds = RootDataset(files, specs, labels={"*": 1}, batch_size=64, chunk_size=500, **options)
        return bits(ds) + bits(ds)

    plain = two_epochs()
    monkeypatch.setattr(pipeline, "COMPILED_ENTRIES", 0)
    compiled = []
    function = tf.function

    def watched(work, **options):
        compiled.append(options.get("jit_compile"))
        return function(work, **options)

    monkeypatch.setattr(tf, "function", watched)
    assert two_epochs() == plain
    assert True in compiled


def test_without_xla_the_plain_graph_serves(files, monkeypatch):
    specs = quiet_scan(files)
    plain = bits(RootDataset(files, specs, batch_size=64))
    monkeypatch.setattr(pipeline, "COMPILED_ENTRIES", 0)
    monkeypatch.setattr(pipeline, "compiles", lambda: False)
    assert bits(RootDataset(files, specs, batch_size=64)) == plain


def test_room_grows_by_doubling_and_says_so(caplog):
    room = Room(100)
    with caplog.at_level(logging.INFO):
        assert [room.objects("Jet", needed) for needed in (80, 90, 12)] == [90, 90, 90]
        assert not caplog.records
        assert [room.objects("Jet", needed) for needed in (91, 400, 100)] == [180, 720, 720]
    assert [record.args for record in caplog.records] == [(180, "Jet", 90), (720, "Jet", 180)]


def test_chunks_have_one_shape(files):
    ds = RootDataset(files, quiet_scan(files), batch_size=50, chunk_size=400)
    stream, room = ds._stream, Room(400)  # noqa: SLF001 (chunks before TensorFlow)
    chunks = [chunk[1:] for chunk in stream.chunks(ds.plan, BEGINNING, room)]
    assert len(chunks) == 4
    assert len({tuple(array.shape for array in chunk) for chunk in chunks}) == 1
