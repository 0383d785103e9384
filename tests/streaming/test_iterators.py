"""Iterators are made at their first element, and what was read early goes to the one that is used."""

import numpy as np
import pytest
import tensorflow as tf
from helpers.streams import quiet_scan

from mlaas4hep_tf import RootDataset
from mlaas4hep_tf.streaming.chunks import Stream
from mlaas4hep_tf.testing import write_files


@pytest.fixture
def reads(monkeypatch):
    """The blocks that are asked for."""
    found = []
    read = Stream.read

    def counted(self, block):
        found.append(block)
        return read(self, block)

    monkeypatch.setattr(Stream, "read", counted)
    return found


@pytest.fixture
def dataset(tmp_path):
    write_files(tmp_path, [900, 700], basket=100)
    specs = quiet_scan(str(tmp_path))
    return lambda: RootDataset(str(tmp_path), specs, batch_size=50, chunk_size=800, seed=5, keep=False)


def events(iterator):
    return np.concatenate([x.numpy() for x in iterator])


def test_iterators_that_are_not_used_read_nothing_and_take_no_epoch(dataset, reads):
    expected = events(iter(dataset()))
    reads.clear()
    ds = dataset()
    unused = [iter(ds) for _ in range(3)]
    assert reads == []
    used = iter(ds)
    assert np.array_equal(events(used), expected)
    blocks = sum(1 for group in range(len(ds.plan.quotas)) for _ in ds.plan.blocks(group, 0))
    assert len(reads) == len(set(reads)) == blocks
    again = events(unused[0])
    assert not np.array_equal(again, expected)
    assert np.array_equal(np.sort(again, axis=0), np.sort(expected, axis=0))
    assert len(reads) == 2 * blocks


def test_reading_has_begun_before_the_graph_is_built(dataset, reads, monkeypatch):
    ds = dataset()
    begun = []
    make = tf.data.Dataset.__iter__

    def made(self):
        begun.extend(reads)
        return make(self)

    monkeypatch.setattr(tf.data.Dataset, "__iter__", made)
    next(iter(ds))
    assert begun
    assert len(reads) == len(set(reads))


def test_two_iterators_at_once_each_have_all_events(dataset):
    ds = dataset()
    one, other = iter(ds), iter(ds)
    pairs = [(next(one).numpy(), next(other).numpy()) for _ in range(32)]
    assert all(np.array_equal(a, b) for a, b in pairs)  # both began before either had ended: it is one epoch


def test_iterators_are_tensorflows_own(dataset):
    ds = dataset()
    assert isinstance(iter(ds), tf.data.Iterator)
    assert iter(ds).element_spec == ds.element_spec
    total = tf.function(lambda iterator: tf.reduce_sum(next(iterator)))
    assert np.isfinite(total(iter(ds)).numpy())
    assert iter(ds).get_next_as_optional().has_value()


def test_the_epochs_of_a_single_batch_have_numbers_too(dataset):
    ds = dataset().sample(40)
    assert len(ds) == 1
    epochs = [events(iter(ds)) for _ in range(3)]
    ds.set_epoch(0)
    assert np.array_equal(events(iter(ds)), epochs[0])
    ds.set_epoch(2)
    assert np.array_equal(events(iter(ds)), epochs[2])
    assert not np.array_equal(epochs[0], epochs[2])
