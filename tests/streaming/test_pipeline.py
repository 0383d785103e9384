"""The graph of a dataset holds on to nothing once the dataset is gone."""

import gc
import os

import numpy as np
import pytest
import tensorflow as tf
from helpers.streams import quiet_scan

from mlaas4hep_tf import RootDataset
from mlaas4hep_tf.testing import write_files


def buffers() -> int:
    """Anonymous buffers that this process has open."""
    links = []
    for number in os.listdir("/proc/self/fd"):
        try:
            links.append(os.readlink(f"/proc/self/fd/{number}"))
        except FileNotFoundError:  # the descriptor of this listing
            continue
    return sum(link.startswith("/memfd:mlaas4hep") for link in links)


@pytest.fixture
def dataset(tmp_path):
    write_files(tmp_path, [300, 200])
    specs = quiet_scan(str(tmp_path))
    return lambda: RootDataset(str(tmp_path), specs, batch_size=50)


def test_datasets_that_are_gone_leave_no_buffer_open(dataset):
    def use() -> int:
        for part in dataset().split(0.6, 0.4):
            assert sum(len(x) for x in part) > 0
        gc.collect()
        return buffers()

    before = use()
    assert [use() for _ in range(5)] == [before] * 5


def test_an_iterator_and_a_derived_dataset_outlive_the_name_of_their_dataset(dataset):
    doubled = dataset().map(lambda x: 2 * x)
    iterator = iter(dataset())
    gc.collect()
    assert sum(len(x) for x in iterator) == sum(len(x) for x in doubled) == 500
    ones = dataset().unbatch().batch(500)
    gc.collect()
    assert np.isfinite(next(iter(ones)).numpy()).all()
    assert isinstance(ones, tf.data.Dataset)
