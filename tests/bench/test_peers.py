"""Loaders of others beside ours: found where they are installed, asked in processes of their own."""

import sys

import pytest
from helpers.streams import quiet_scan

from mlaas4hep_tf import RootDataset
from mlaas4hep_tf.bench.peers import peer_ways
from mlaas4hep_tf.errors import MlaasError
from mlaas4hep_tf.testing import write_files

STUB = """
from types import SimpleNamespace
import numpy as np

def RDataFrame(tree, files):
    return tree, files

class Loader:
    def __init__(self, frame, batch_size, columns, max_vec_sizes, drop_remainder, set_seed, load_eager):
        assert frame[0] == "events" and len(frame[1]) == 2 and batch_size == 20
        assert sorted(columns) == ["Jet_0", "Jet_1", "id", "nJet", "x"] and set(max_vec_sizes) == {"Jet_0", "Jet_1"}
        print("noise")
    def as_numpy(self):
        return [np.zeros((20, 3)), np.zeros((10, 3))]

Experimental = SimpleNamespace(ML=SimpleNamespace(RDataLoader=Loader))
"""


@pytest.fixture
def ways(tmp_path, monkeypatch):
    """With ROOT's Python as the only one, in which ROOT is a stub."""
    files = write_files(tmp_path, [40, 30])
    ds = RootDataset(files, quiet_scan(files))
    monkeypatch.chdir(tmp_path)
    assert peer_ways(ds.files, ds.specs, 20, 3) == {}
    python = tmp_path / ".peers/root/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nPYTHONPATH={tmp_path} exec {sys.executable} "$@"\n')
    python.chmod(0o700)
    (tmp_path / "ROOT.py").write_text(STUB)
    return peer_ways(ds.files, ds.specs, 20, 3)


def test_those_that_are_installed_are_asked_for_epochs(ways):
    assert list(ways) == ["root_tensorflow", "root_numpy", "root_eager"]
    assert ways["root_numpy"]() > 0
    assert ways["root_eager"]() > 0
    assert ways["root_eager"]() > 0


def test_one_that_fails_is_named(ways):
    with pytest.raises(MlaasError, match="root_tensorflow ended without an answer"):
        ways["root_tensorflow"]()
