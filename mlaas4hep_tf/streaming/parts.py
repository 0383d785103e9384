"""Which events of each file a dataset has: whole files, or a part of a split, in closed form.

What is kept is a number or two per file; the ranges of a file are worked out when it is its turn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from math import isclose
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from mlaas4hep_tf.errors import PlanError
from mlaas4hep_tf.io.lists import IntArray, IntLists
from mlaas4hep_tf.streaming.ranges import EntryRange, cut, join, window

SPLIT_BLOCKS = (8, 64)  # blocks per file in a split: at least 8, cutting clusters if needed, at most 64
SPLIT, SHUFFLE, ROWS = 1, 2, 3  # keys of the random generators, one for each purpose
_BEYOND_64_BITS = 65_536  # files whose products are worked out at a time as Python's integers


def generator(seed: int, *stream: int) -> np.random.Generator:
    """The random numbers of one purpose; those of different streams have nothing to do with each other."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=stream))


class Parts(Protocol):
    """The events of a dataset.

    Attributes:
        events: how many it has of each file, int64 [files].
    """

    @property
    def events(self) -> IntArray: ...

    def ranges(self, file: int) -> Sequence[EntryRange]:
        """Where those of a file lie, in order."""
        ...

    def describe(self) -> list[str]:
        """What they are, the same for the same events."""
        ...


@dataclass(frozen=True, eq=False)
class WholeFiles:
    """All events of each file."""

    events: IntArray

    def ranges(self, file: int) -> Sequence[EntryRange]:
        return (EntryRange(file, 0, int(self.events[file])),)

    def describe(self) -> list[str]:
        return [_digest(self.events)]


@dataclass(frozen=True, eq=False)
class Part:
    """One of several datasets among which events are divided.

    Each gets its share of a file in blocks that are chosen at random but follow the clusters, so that a basket is
    seldom needed by two datasets.

    Attributes:
        of: what is divided.
        entry_offsets: for each file the entries at which its clusters begin, and its end.
        first: events of each file that go to the datasets before this one, int64 [files].
        events: those that go to this one.
        seed: of the choice of blocks.
    """

    of: Parts
    entry_offsets: IntLists
    first: IntArray
    events: IntArray
    seed: int

    def ranges(self, file: int) -> Sequence[EntryRange]:
        first, events = int(self.first[file]), int(self.events[file])
        if not events:
            return ()
        entry_offsets = self.entry_offsets[file]
        size = _split_size(int(self.of.events[file]), len(entry_offsets) - 1)
        pieces = [piece for r in self.of.ranges(file) for piece in cut(r, entry_offsets, size)]
        generator(self.seed, SPLIT, file).shuffle(pieces)
        return tuple(join(sorted(window(pieces, first, first + events), key=lambda r: r.start)))

    def describe(self) -> list[str]:
        return [*self.of.describe(), f"{self.seed} {_digest(self.first)} {_digest(self.events)}"]


def _digest(numbers: IntArray) -> str:
    return sha256(np.ascontiguousarray(numbers, "<i8").tobytes()).hexdigest()[:16]


def _split_size(entries: int, clusters: int) -> int:
    few, many = (max(1, -(-entries // count)) for count in SPLIT_BLOCKS)
    return min(few, max(many, entries // max(clusters, 1)))


def part_of(parts: Parts, entry_offsets: IntLists, sizes: Sequence[int], seed: int, index: int) -> Part:
    """One of the datasets of the given sizes among which events are divided: disjoint, and together all of them.

    Each dataset gets its share of every file, to within two events where the sizes are equal or four at most, else to
    within the logarithm (to base 2) of their number: they are halved time and again, and each half gets the floor of
    its share of all events up to a file, less that of all before it.

    Args:
        parts: what to divide.
        entry_offsets: for each file the entries at which its clusters begin, and its end.
        sizes: events of each dataset; they sum to the events of `parts`.
        seed: of the choice of blocks.
        index: of the dataset.
    """
    first, events = np.zeros_like(parts.events), parts.events
    while len(sizes) > 1:
        half = len(sizes) // 2
        lower = _in_proportion(events, sum(sizes[:half]))
        if index < half:
            events, sizes = lower, sizes[:half]
        else:
            first, events, sizes, index = first + lower, events - lower, sizes[half:], index - half
    return Part(parts, entry_offsets, first, events, seed)


def _in_proportion(events: IntArray, wanted: int) -> IntArray:
    """So many of the events in proportion to those of each file, to within one, and no more than it has."""
    total = int(events.sum())
    ends = np.cumsum(events)
    if total < 2**31:
        given = ends * wanted // max(total, 1)
    else:
        some = np.array_split(ends, -(-len(ends) // _BEYOND_64_BITS))
        exact: list[Any] = [own.astype(object) * wanted // total for own in some]
        given = np.concatenate(exact).astype(np.int64)
    return np.diff(given, prepend=0)


def split_sizes(entries: int, fractions: Sequence[float]) -> list[int]:
    """Events of each part, rounded by largest remainder; what the fractions leave over becomes a last part.

    Raises:
        PlanError: fractions that are not positive, sum to more than 1, or leave a part without an event.
    """
    if not fractions or any(not 0 < f <= 1 for f in fractions) or sum(fractions) > 1 + 1e-9:
        raise PlanError(f"fractions of a split must be positive and sum to at most 1, not {tuple(fractions)}")
    rest = 1 - sum(fractions)
    shares = np.array([*fractions, 0.0 if isclose(rest, 0, abs_tol=1e-9) else rest])
    ideal = shares / shares.sum() * entries
    sizes = largest_remainder(ideal, entries)
    if not all(sizes[: len(fractions)]):
        raise PlanError(
            f"a split of {entries} events into {tuple(fractions)} leaves a part without an event; "
            "use more data or fewer parts"
        )
    return sizes


def largest_remainder(ideal: npt.NDArray[np.float64], total: int) -> list[int]:
    """Whole numbers with this sum, each the floor or ceil of an ideal one."""
    sizes = np.floor(ideal).astype(np.int64)
    sizes[np.argsort(sizes - ideal, kind="stable")[: total - int(sizes.sum())]] += 1
    return [int(s) for s in sizes]
