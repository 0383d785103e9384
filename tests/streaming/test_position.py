"""A dataset goes on where another process left it, and epochs have numbers."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uproot
from helpers.streams import quiet_scan

from mlaas4hep_tf import RootDataset
from mlaas4hep_tf.errors import ResumeError
from mlaas4hep_tf.io.read_options import ReadOptions
from mlaas4hep_tf.streaming.plan import ORDER
from mlaas4hep_tf.testing import write_files


def batches(ds):
    return [x.numpy() for x, _ in ds]


def same(one, other):
    return len(one) == len(other) and all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.fixture(scope="module")
def ds(demo_files, demo_specs):
    return RootDataset(demo_files, demo_specs, labels={"*signal*": 1, "*": 0}, batch_size=64, chunk_size=1024, seed=3)


VARIANTS = {
    "proportional": lambda ds: ds.split(0.5, 0.5)[0],
    "mixed": lambda ds: ds.sample(2000).mixed("equal"),
    "shard": lambda ds: ds.shard(3, 1),
    "unshuffled": lambda ds: ds.sample(2000).in_order(),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_rest_from_a_state_on_is_what_was_left(ds, variant):
    whole = VARIANTS[variant](ds)
    first, second = batches(whole), batches(whole)
    for epoch, batch in ((0, 0), (0, 5), (0, 16), (1, len(first) - 1), (1, len(first))):
        state = json.loads(json.dumps(whole.state(epoch, batch)))
        rest = VARIANTS[variant](ds).starting_at(state)
        assert same(batches(rest), (first, second)[epoch][batch:])
        if epoch == 0:
            assert same(batches(rest), second)  # and then the epoch behind it


def test_what_was_delivered_counts_as_delivered(ds):
    whole = ds.split(0.5, 0.5)[0]
    batches(whole)
    rest = whole.starting_at(whole.state(0, 20))
    batches(rest)
    assert rest.delivered == whole.delivered


@pytest.mark.parametrize("taken", [1, 2, 3])
def test_an_epoch_is_used_up_by_its_last_batch_and_not_by_a_peek(ds, taken):
    three, again = ds.sample(192), ds.sample(192)
    epochs = [batches(again), batches(again)]
    assert same(batches(three.take(taken)), epochs[0][:taken])
    assert same(batches(three), epochs[taken == 3])


def test_an_epoch_can_be_chosen(ds):
    some, again = ds.sample(400), ds.sample(400)
    epochs = [batches(some) for _ in range(3)]
    again.set_epoch(2)
    assert same(batches(again), epochs[2])


CHANGES: dict[str, Any] = {
    "seed: 3 then, 4 now": {"seed": 4},
    "batch_size: 64 then, 128 now": {"batch_size": 128},
    "chunk_size: 1024 then, 2048 now": {"chunk_size": 2048},
    "shuffle: True then, False now": {"shuffle": False},
}


@pytest.mark.parametrize("what", CHANGES)
def test_another_order_is_refused_with_what_differs(ds, demo_files, demo_specs, what):
    given: Any = dict({"batch_size": 64, "chunk_size": 1024, "seed": 3}, **CHANGES[what])
    other = RootDataset(demo_files, demo_specs, labels={"*signal*": 1, "*": 0}, **given)
    with pytest.raises(ResumeError, match=what):
        other.starting_at(ds.state(0, 3))


def test_other_files_another_split_and_another_version_are_refused(ds, demo_files, demo_specs):
    fewer = RootDataset(
        [demo_files[0], demo_files[-1]], demo_specs.unbound(), labels=[0, 1], batch_size=64, chunk_size=1024, seed=3
    )  # fmt: skip
    with pytest.raises(ResumeError, match="number of files: 9 then, 2 now"):
        fewer.starting_at(ds.state(0, 1))
    with pytest.raises(ResumeError, match="split, shard or sample"):
        ds.split(0.5, 0.5, seed=8)[0].starting_at(ds.split(0.5, 0.5)[0].state(0, 1))
    old = ds.state(0, 1)
    old["order"]["order of the library"] = 0
    with pytest.raises(ResumeError, match=f"order of the library: 0 then, {ORDER} now"):
        ds.starting_at(old)


@pytest.mark.parametrize("state", [{}, {"epoch": 0}, {"epoch": -1, "batch": 0, "lost": [], "account": [], "order": {}}])
def test_what_is_no_state_is_refused(ds, state):
    with pytest.raises(ResumeError):
        ds.starting_at(state)


def broken(folder, number=1):
    """Three files, in one of which a basket is damaged; and how to mend it."""
    files = write_files(folder, [1500, 1000, 500], basket=250)
    specs = quiet_scan(files)
    with uproot.open(files[number]) as file:
        branch = file["events"]["Jet_1"]
        at = branch.member("fBasketSeek")[1] + branch.member("fBasketBytes")[1] // 2
    whole = Path(files[number]).read_bytes()
    Path(files[number]).write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
    return files, specs, lambda: Path(files[number]).write_bytes(whole)


def tolerant(files, specs):
    return RootDataset(
        files, specs.unbound(), normalize=None, batch_size=50, chunk_size=300, labels=[0, 1, 0],
        read=ReadOptions(on_bad_file="skip", max_lost_fraction=0.5, workers=1),
    )  # fmt: skip


def test_with_losses_the_rest_is_that_of_the_epoch_that_was_left(tmp_path):
    files, specs, mend = broken(tmp_path)
    ds = tolerant(files, specs)
    states, epoch = [], []
    for x, _ in ds:
        epoch.append(x.numpy())
        states.append(json.loads(json.dumps(ds.state(0, len(epoch)))))
    lost = ds.skipped.now
    assert lost and len(epoch) * 50 < 3000
    for batch in (1, 5, 11, len(epoch) - 2, len(epoch)):
        rest = tolerant(files, specs).starting_at(states[batch - 1])
        assert same(batches(rest), epoch[batch:])
        assert rest.skipped.now == lost
    mend()  # what is known to be lost stays so to the end of this epoch, and no longer
    os.utime(files[1], (0, 0))
    rest = tolerant(files, specs).starting_at(states[-1])
    assert len(batches(rest)) == 0
    assert sum(map(len, batches(rest))) == 3000
