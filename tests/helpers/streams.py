"""Scans without notes, and how often each event came."""

import warnings
from collections import Counter
from collections.abc import Sequence
from typing import Any

from helpers.layout import EVENTS
from mlaas4hep_tf import DataWarning, ReadPolicy, RootDataset, Specs, scan

Files = str | Sequence[str]
QUICK = ReadPolicy(request_timeout_s=2, work_timeout_s=15, retries=6, backoff_s=0.2)


def quiet_scan(files: Files, **options: Any) -> Specs:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        return scan(files, progress=False, **options)


def delivered(files: Files, specs: Specs, chunk_size: int = 2000, **options: Any) -> Counter[int]:
    """How often each event came."""
    ds = RootDataset(files, specs.unbound(), normalize=None, batch_size=100, chunk_size=chunk_size, **options)
    column = specs.vector_names.index("id")
    return Counter(int(i) for x in ds for i in x[:, column].numpy())


def assert_all_once(counts: Counter[int]) -> None:
    assert counts == dict.fromkeys(range(EVENTS), 1)
