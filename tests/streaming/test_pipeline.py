"""The graph of a dataset holds on to nothing once the dataset is gone."""

import gc
import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from helpers.soak import cases
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


MANY = """
import resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[3]),) * 2)
from mlaas4hep_tf import RootDataset, scan
specs = scan(sys.argv[1], progress=False)
for _ in range(int(sys.argv[2])):
    parts = RootDataset(sys.argv[1], specs, batch_size=100).split(0.8, 0.2)
    assert sum(len(x) for part in parts for x in part) == 200
"""


@pytest.mark.slow
@pytest.mark.soak
def test_any_number_of_datasets_fits_into_a_few_descriptors(tmp_path):
    """Those that keep three descriptors each are too many: 500 for 256, 40 for 128."""
    write_files(tmp_path, [200])
    done = subprocess.run(
        [sys.executable, "-c", MANY, str(tmp_path), str(cases(40, 500)), str(cases(128, 256))],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
