"""How many bytes of the files an epoch reads where few events pass."""

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from helpers.streams import quiet_scan

from mlaas4hep_tf import ReadOptions, RootDataset
from mlaas4hep_tf.testing import make_events, write_tree

ENTRIES = 40_000


@pytest.fixture
def taken(monkeypatch):
    """Sizes of what is read of local files; it is read in threads of this process."""
    sizes: list[int] = []
    pread = os.pread

    def counted(fd, size, seek):
        sizes.append(size)
        return pread(fd, size, seek)

    monkeypatch.setattr(os, "pread", counted)
    return sizes


def test_an_epoch_of_few_events_reads_little_where_most_clusters_are_empty(tmp_path, taken):
    events = make_events(ENTRIES, groups={"Jet": 8, "Muon": 4})
    events["trigger"] = ((np.arange(ENTRIES) // 400) == 17).astype(np.int32)  # 1 % of the events, side by side
    path = str(write_tree(tmp_path / "f.root", events, basket=1000))
    with ThreadPoolExecutor(2) as executor:
        read = ReadOptions(executor=executor)
        found = {}
        for cut in ("trigger == 1", "trigger >= 0"):
            ds = RootDataset(path, quiet_scan(path, select=cut, read=read), batch_size=500, read=read)
            taken.clear()
            found[cut] = sum(len(x) for x in ds), sum(taken)
    (few, little), (every, much) = found.values()
    assert (few, every) == (ENTRIES // 100, ENTRIES)
    assert 0 < little < 0.2 * much
