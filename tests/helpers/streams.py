"""Scans without notes, and how often each event came."""

import warnings
from collections import Counter

from helpers.layout import EVENTS
from mlaas4hep_tf import DataWarning, ReadPolicy, RootDataset, scan

QUICK = ReadPolicy(request_timeout_s=2, work_timeout_s=15, retries=6, backoff_s=0.2)


def quiet_scan(files, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        return scan(files, progress=False, **options)


def delivered(files, specs, chunk_size=2000, **options):
    """How often each event came."""
    ds = RootDataset(files, specs.unbound(), normalize=None, batch_size=100, chunk_size=chunk_size, **options)
    column = specs.vector_names.index("id")
    return Counter(int(i) for x in ds for i in x[:, column].numpy())


def assert_all_once(counts):
    assert counts == dict.fromkeys(range(EVENTS), 1)
