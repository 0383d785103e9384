"""A whole epoch of a data set that no machine here holds: every block of the plan, and a model of readers and network.

    python benchmarks/simulate_epoch.py [--files 1000000] [--entries 1000000] [--readers 1000]

`simulate_scale.py` has the real code mix blocks into chunks, which would take most of an hour for 10^12 events.  Here
all blocks of the plan are walked, one of each file group in turn, which is the order in which chunks take them where
all files are alike.  Readers take them in that order, as many ahead as the real streams ask for, and each is delivered
when all before it were.  Whether every event came once is told from the blocks themselves.
"""

from __future__ import annotations

import argparse
import resource
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import fields
from heapq import heapreplace
from itertools import islice, zip_longest
from statistics import mean
from time import process_time
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from simulate_scale import Model, hashed, planned

from mlaas4hep_tf.io.policy import DEFAULT_POLICY
from mlaas4hep_tf.streaming.plan import Plan

Array = npt.NDArray[Any]
CHUNK = 16_000_000
ROUNDS = 2000  # blocks of each file group that are worked out at a time


def walk(plan: Plan) -> Iterator[Array]:
    """All blocks of an epoch, one of each file group in turn: file, start and stop, int64 [blocks, 3]."""
    turns = zip_longest(*(plan.blocks(n, 0) for n in range(len(plan.quotas))))
    while some := [*islice(turns, ROUNDS)]:
        yield np.array([(b.file, b.start, b.stop) for turn in some for b in turn if b is not None])


class Account:
    """Which events of each file came; how it knows is told in `simulate_scale.Account`."""

    def __init__(self, files: int, entries: int) -> None:
        self._hashes = np.array([hashed(n) for n in range(entries + 1)], np.uint64)
        self._sums, self._events = np.zeros(files, np.uint64), np.zeros(files, np.int64)

    def add(self, blocks: Array) -> None:
        file, start, stop = blocks.T
        np.add.at(self._sums, file, self._hashes[stop] - self._hashes[start])
        np.add.at(self._events, file, stop - start)

    def wrong(self) -> int:
        """Files of which not each event came once."""
        whole = np.diff(self._hashes[[0, -1]])
        return int(((self._sums != whole) | (self._events != len(self._hashes) - 1)).sum())


class Pieces(NamedTuple):
    """Of each block: its events, seconds of waiting and of work, and for how long its reader is gone then."""

    events: Array
    waits: Array
    works: Array
    gone: Array


class Luck:
    """What goes wrong with blocks, as `Model` says.

    Attributes:
        happened: how often what went wrong.
    """

    def __init__(self, model: Model, files: int, seed: int) -> None:
        self._model, self._chance = model, np.random.default_rng(seed)
        self._opened = np.zeros(files, bool)
        self.happened: Counter[str] = Counter()

    def pieces(self, blocks: Array) -> Pieces:
        model, events = self._model, blocks[:, 2] - blocks[:, 1]
        slow, failing, dying = (self._chance.random(len(blocks)) < p for p in (model.slow, model.failing, model.dying))
        opening = np.zeros(len(blocks), bool)
        opening[np.unique(blocks[:, 0], return_index=True)[1]] = True
        opening &= ~self._opened[blocks[:, 0]]
        self._opened[blocks[:, 0]] = True
        self.happened.update({
            "blocks": len(blocks), "openings": int(opening.sum()), "slow pieces": int(slow.sum()),
            "tries that failed": int(failing.sum()), "readers that died": int(dying.sum()),
        })  # fmt: skip
        work = events / model.events_per_s * np.where(slow, model.slowness, 1.0)
        again = (failing | dying) * (0.5 * work + DEFAULT_POLICY.pause_s(0, 1.0) + 2 * model.latency_s)
        wait = 2 * model.latency_s + opening * (model.open_s + 3 * model.latency_s)
        return Pieces(events, wait, work + again, dying * model.restart_s)


class Readers:
    """Readers who take pieces in order, so many ahead of those that were delivered.

    Attributes:
        now: when all pieces so far were delivered, in simulated seconds.
        busy: seconds that each of them worked.
    """

    def __init__(self, model: Model) -> None:
        self._free = [(0.0, n) for n in range(model.readers)]
        self._due = deque([0.0] * 4 * model.readers)  # when the pieces that were asked for last are delivered
        self._link, self._per_event = 0.0, model.bytes_per_event / model.bandwidth
        self.now, self.busy = 0.0, [0.0] * model.readers

    def read(self, pieces: Pieces) -> None:
        free, due, busy, link, now = self._free, self._due, self.busy, self._link, self.now
        for events, wait, work, gone in zip(*(column.tolist() for column in pieces), strict=True):
            at, reader = free[0]
            asked = due.popleft()
            start = max(asked, at)
            link = max(start, link) + events * self._per_event
            arrived = start + wait
            end = max(arrived, link) + work
            busy[reader] += end - start
            heapreplace(free, (end + gone, reader))
            now = max(now, end)
            due.append(now)
        self._link, self.now = link, now


def simulate(plan: Plan, entries: int, model: Model) -> dict[str, Any]:
    files = len(plan.parts.events)
    account, luck, readers = Account(files, entries), Luck(model, files, seed=2), Readers(model)
    events = 0
    for blocks in walk(plan):
        account.add(blocks)
        pieces = luck.pieces(blocks)
        readers.read(pieces)
        events += int(pieces.events.sum())
    return {
        "events": events, "files of which an event was lost or came twice": account.wrong(),
        "simulated seconds": readers.now, "events/s": events / readers.now,
        "of what the readers could": events / readers.now / model.readers / model.events_per_s,
        "busiest reader / mean": max(readers.busy) / mean(readers.busy),
        "least busy reader / mean": min(readers.busy) / mean(readers.busy), **luck.happened,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=1_000_000)
    parser.add_argument("--entries", type=int, default=1_000_000, help="of each file")
    parser.add_argument("--cluster", type=int, default=25_000, help="entries of a cluster")
    for known in fields(Model):
        parser.add_argument(f"--{known.name.replace('_', '-')}", type=type(known.default), default=known.default)
    args = parser.parse_args()
    model = Model(**{known.name: getattr(args, known.name) for known in fields(Model)})
    print(model)
    began = process_time()
    plan = planned(args.files, args.entries, args.cluster, CHUNK)
    print(f"planned in {process_time() - began:.2f} s of CPU")
    for what, value in simulate(plan, args.entries, model).items():
        print(f"  {what}: {value:,.4g}" if isinstance(value, float) else f"  {what}: {value:,}")
    print(f"  peak memory of all this, MB: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:,.0f}")
    print(f"  CPU, s: {process_time() - began:,.0f}")


if __name__ == "__main__":
    main()
