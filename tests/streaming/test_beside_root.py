"""What ROOT's RDataLoader and we deliver in the same cases (docs/beside-root.md)."""

import json
import os
import subprocess
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import uproot
from helpers.streams import quiet_scan

from mlaas4hep_tf import RootDataset

ROOT_PYTHON = os.environ.get("MLAAS4HEP_ROOT_PYTHON", "")
EVENTS = 3000


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("root") / "t.root"
    with uproot.recreate(path) as out:
        x = np.random.default_rng(0).normal(size=EVENTS).astype("f4")
        out["events"] = {"id": np.arange(1, EVENTS + 1, dtype="f4"), "x": x}
    return str(path)


@pytest.fixture(scope="module")
def passing(file):
    """The events with x > 0, by uproot."""
    with uproot.open(file) as opened:
        arrays = opened["events"].arrays(library="np")
    return [int(i) for i in arrays["id"][arrays["x"] > 0]]


def dataset(file, **options):
    options = {"normalize": None, "batch_size": 64, "chunk_size": 512} | options
    return RootDataset(file, quiet_scan(file, select="x > 0"), **options)


def ids(ds):
    return [int(i) for batch in ds for i in batch[:, ds.specs.vector_names.index("id")].numpy()]


def test_every_event_that_passes_comes_once_in_every_epoch(file, passing):
    ds = dataset(file)
    assert [sorted(ids(ds)) for _ in range(3)] == [passing] * 3


def test_no_event_of_the_validation_is_trained_on(file, passing):
    train, valid = dataset(file).split(0.8, 0.2)
    for _ in range(2):
        assert Counter(ids(train)) + Counter(ids(valid)) == Counter(passing)


def test_two_iterations_at_once_do_not_disturb_each_other(file, passing):
    ds = dataset(file)
    at = ds.specs.vector_names.index("id")
    pairs = [(a[:, at].numpy(), b[:, at].numpy()) for a, b in zip(ds, ds, strict=True)]
    for side in zip(*pairs, strict=True):
        assert sorted(np.concatenate(side).astype(int).tolist()) == passing


def test_batches_stay_what_they_were(file, passing):
    ds = dataset(file)
    assert sorted(ids_of for batch in list(ds) for ids_of in batch[:, 0].numpy().astype(int).tolist()) == passing


def test_a_chunk_may_be_one_batch(file, passing):
    ds = dataset(file, chunk_size=64)
    assert [sorted(ids(ds)) for _ in range(2)] == [passing] * 2


@pytest.mark.slow
@pytest.mark.skipif(
    not ROOT_PYTHON, reason="MLAAS4HEP_ROOT_PYTHON names a Python with ROOT 6.40, from `pip install root`"
)
def test_what_the_page_says_of_root(file, passing):
    program = Path(__file__).parents[1] / "helpers" / "root_loader.py"
    done = subprocess.run([ROOT_PYTHON, program, file], capture_output=True, text=True, timeout=600, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    assert [sorted(epoch) for epoch in found["plain"]] == [list(range(1, EVENTS + 1))] * 2
    first, second = found["filter"]
    assert sorted(first) == passing
    assert second.count(0) > 0  # no event has this number
    assert set(found["train"][0]) & set(found["valid"][0])
