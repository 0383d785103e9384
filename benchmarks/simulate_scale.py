"""An epoch of a data set that no machine here holds: the real plan and mixing, and a model of readers and network.

    python benchmarks/simulate_scale.py [--files 1000000] [--entries 1000000] [--readers 1000] [--chunk 32000000]

Nothing is read and no clock is waited for: a piece of work takes as long as `Model` says, and the trainer waits for it
in simulated seconds.  What is counted is real: every block that the plan gives goes through the code that mixes blocks
into chunks, and the events of each file that come out are held to those that are in it.
"""

from __future__ import annotations

import argparse
import heapq
import random
import resource
from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, fields
from itertools import islice
from statistics import mean
from time import process_time
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

from mlaas4hep_tf.io.lists import IntLists
from mlaas4hep_tf.io.policy import DEFAULT_POLICY
from mlaas4hep_tf.streaming.chunks import _FileGroup, _mix, _Quotas
from mlaas4hep_tf.streaming.parts import WholeFiles
from mlaas4hep_tf.streaming.plan import Plan, make_plan
from mlaas4hep_tf.streaming.ranges import EntryRange

BATCH = 1000
FILES_KEPT = 10_000  # of which the basket index is remembered
_MASK = 2**64 - 1


@dataclass(frozen=True)
class Model:
    """What a piece of work takes, beyond what is measured here.

    Attributes:
        readers: pieces that are worked on at a time.
        events_per_s: of a reader that decodes.
        bytes_per_event: compressed, that cross the network.
        bandwidth: of the storage, in bytes per second for all readers together.
        latency_s: of a request; a block takes two, and the first one of a file three more.
        open_s: of a reader's time, to open a file, after which its basket index is known.
        slow, slowness: share of the pieces that take so many times as long.
        failing: share of the tries that fail, half-way; they are tried again as the `ReadPolicy` says.
        dying: share of the tries whose reader dies and is gone for `restart_s` seconds.
        trainer: events per second that training takes at most; the next chunk is read meanwhile.
    """

    readers: int = 1000
    events_per_s: float = 50_000.0
    bytes_per_event: float = 355.0
    bandwidth: float = 400e9 / 8
    latency_s: float = 0.05
    open_s: float = 0.005
    slow: float = 0.01
    slowness: float = 20.0
    failing: float = 1e-3
    dying: float = 1e-5
    restart_s: float = 60.0
    trainer: float = float("inf")


def hashed(number: int) -> int:
    """A number of 64 bits that looks random (splitmix64)."""
    number = (number + 0x9E3779B97F4A7C15) * 0xBF58476D1CE4E5B9 & _MASK
    number = (number ^ number >> 27) * 0x94D049BB133111EB & _MASK
    return number ^ number >> 31


class Account:
    """Which events of each file came, in 16 bytes per file.

    The sum of ``hashed(stop) - hashed(start)`` over ranges that follow each other is that of the whole; a gap, an
    overlap or a range that came twice leaves a term that nothing takes away.
    """

    def __init__(self, files: int) -> None:
        self._sums, self._events = array("Q", bytes(8 * files)), array("q", bytes(8 * files))

    def add(self, block: EntryRange) -> None:
        self._sums[block.file] = self._sums[block.file] + hashed(block.stop) - hashed(block.start) & _MASK
        self._events[block.file] += len(block)

    def wrong(self, events: list[int]) -> list[int]:
        """The files of which not each of so many events came once."""
        came = zip(self._sums, self._events, events, strict=True)
        return [n for n, (s, count, all_) in enumerate(came) if (s, count) != (hashed(all_) - hashed(0) & _MASK, all_)]


class Readers:
    """Reader processes and the network between them and the storage, in simulated seconds.

    Attributes:
        busy: seconds that each of them worked.
        happened: how often what went wrong, and how many files were opened.
    """

    def __init__(self, model: Model, seed: int) -> None:
        self._model, self._chance = model, random.Random(seed)
        self._free = [(0.0, n) for n in range(model.readers)]
        self._link = 0.0  # until when it is taken
        self._opened: dict[int, None] = {}
        self.busy = [0.0] * model.readers
        self.happened: Counter[str] = Counter()

    def read(self, block: EntryRange, now: float) -> float:
        """When a block that is asked for now will have come."""
        for attempt in range(DEFAULT_POLICY.retries + 1):
            now, worked = self._try(block, now)
            if worked:
                return now
            now += DEFAULT_POLICY.pause_s(attempt, self._chance.random())
        raise RuntimeError(f"{block} failed {DEFAULT_POLICY.retries + 1} times, which ends an epoch")

    def _try(self, block: EntryRange, now: float) -> tuple[float, bool]:
        """When a try ends, by the reader that is free first, and whether it worked."""
        model, luck = self._model, self._chance.random()
        free, reader = heapq.heappop(self._free)
        start = max(now, free)
        self._link = max(self._link, start) + len(block) * model.bytes_per_event / model.bandwidth
        arrived = max(self._link, start + 2 * model.latency_s + self._opening(block.file))
        work = len(block) / model.events_per_s
        if self._chance.random() < model.slow:
            self.happened["slow pieces"] += 1
            work *= model.slowness
        dies, fails = luck < model.dying, luck < model.dying + model.failing
        end = arrived + (0.5 * work if fails else work)
        self.happened["readers that died" if dies else "tries that failed" if fails else "blocks"] += 1
        self.busy[reader] += end - start
        heapq.heappush(self._free, (end + model.restart_s * dies, reader))
        return end, not fails

    def _opening(self, file: int) -> float:
        """Seconds to open a file, of which some are remembered."""
        if file in self._opened:
            return 0.0
        self._opened[file] = None
        if len(self._opened) > FILES_KEPT:
            del self._opened[next(iter(self._opened))]
        self.happened["openings"] += 1
        return self._model.open_s + 3 * self._model.latency_s


class Simulated:
    """What `_FileGroup` takes for a stream: blocks come when `Readers` say, and are ranges of numbers.

    Attributes:
        now: simulated seconds since the epoch began.
    """

    kept, layout = None, SimpleNamespace(groups=())

    def __init__(self, readers: Readers, account: Account) -> None:
        self._readers, self._account = readers, account
        self.now, self.held, self.peak = 0.0, 0, 0
        self.delivered: Counter[int] = Counter()

    def read(self, block: EntryRange) -> Any:
        self.held += len(block)
        self.peak = max(self.peak, self.held)
        return SimpleNamespace(block=block, due=self._readers.read(block, self.now))

    def result(self, reading: Any) -> tuple[range]:
        self.now = max(self.now, reading.due)
        self.held -= len(reading.block)
        self._account.add(reading.block)
        return (range(len(reading.block)),)

    @staticmethod
    def weighed(piece: Any, file: int) -> Any:  # noqa: ARG004 (as `Stream.weighed`)
        return piece


class Chunk(NamedTuple):
    """When a chunk was whole, how many events it has, and by how many a file group's share misses its due."""

    ready: float
    events: int
    off: float


def epoch(plan: Plan, stream: Simulated, readers: int, trainer: float) -> Iterator[Chunk]:
    """The chunks of an epoch; one is read while the one before waits and another one is trained on."""
    ahead = -(-2 * 2 * readers // len(plan.quotas))  # as for an executor that does so many pieces at a time
    groups = [_FileGroup(stream, plan.blocks(n, 0), frozenset(), quota, ahead) for n, quota in enumerate(plan.quotas)]  # type: ignore[arg-type]  # simulated
    share = np.array(plan.quotas) / plan.entries
    trained = [0.0, 0.0]  # when training on the last two chunks began
    for pieces in _mix(groups, _Quotas(plan)):
        events = sum(len(piece[0]) for piece in pieces)
        given = plan.quotas - np.array([group.left for group in groups])
        yield Chunk(stream.now, events, float(abs(given - share * given.sum()).max()))
        trained = [trained[1], max(stream.now, trained[1] + events / trainer)]
        stream.now = max(stream.now, trained[0])


def planned(files: int, entries: int, cluster: int, chunk: int) -> Plan:
    """The plan of files that are all alike."""
    edges = np.array([*range(0, entries, cluster), entries])
    ends = np.arange(1, files + 1) * len(edges)
    return make_plan(
        WholeFiles(np.full(files, entries)), IntLists(np.tile(edges, files), ends), chunk_size=chunk, batch_size=BATCH,
        shuffle=True, seed=1,
    )  # fmt: skip


def simulate(plan: Plan, model: Model, chunks: int | None = None) -> dict[str, Any]:
    """What came out of an epoch, or of its first chunks."""
    readers, account = Readers(model, seed=2), Account(len(plan.parts.events))
    stream, began = Simulated(readers, account), process_time()
    came = [*islice(epoch(plan, stream, model.readers, model.trainer), chunks)]
    seconds, events = came[-1].ready, sum(chunk.events for chunk in came)
    found = {
        "events": events, "simulated seconds": seconds, "events/s": events / seconds,
        "of what the readers could": events / seconds / model.readers / model.events_per_s,
        "first chunk after s": came[0].ready, "of that the planning": process_time() - began,
        "most events off a file group's share": max(chunk.off for chunk in came),
        "busiest reader / mean": max(readers.busy) / mean(readers.busy),
        "least busy reader / mean": min(readers.busy) / mean(readers.busy),
        "most events in flight": stream.peak, **readers.happened,
    }  # fmt: skip
    if chunks is None:
        found["files of which an event was lost or came twice"] = len(account.wrong(plan.parts.events.tolist()))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=1_000_000)
    parser.add_argument("--entries", type=int, default=1_000_000, help="of each file")
    parser.add_argument("--cluster", type=int, default=25_000, help="entries of a cluster")
    parser.add_argument("--chunk", type=int, nargs="+", default=[32_000_000])
    parser.add_argument(
        "--chunks", type=int, help="how many are simulated; all by default, which is then accounted for"
    )
    for known in fields(Model):
        parser.add_argument(f"--{known.name.replace('_', '-')}", type=type(known.default), default=known.default)
    args = parser.parse_args()
    model = Model(**{known.name: getattr(args, known.name) for known in fields(Model)})
    print(model)
    for chunk in args.chunk:
        began = process_time()
        plan = planned(args.files, args.entries, args.cluster, chunk)
        print(f"\nchunks of {plan.chunk_size:,} events; planned in {process_time() - began:.2f} s of CPU")
        for what, value in simulate(plan, model, args.chunks).items():
            print(f"  {what}: {value:,.4g}" if isinstance(value, float) else f"  {what}: {value:,}")
        print(f"  peak memory of all this, MB: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:,.0f}")
        print(f"  CPU, s: {process_time() - began:,.0f}", flush=True)


if __name__ == "__main__":
    main()
