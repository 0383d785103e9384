"""Where the events of a file that pass a selection lie: it is planned as a file of as many events."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise

SEGMENT_ENTRIES = 32_768  # read at a time at most, unless counted together


@dataclass(frozen=True)
class Segment:
    """Entries [start, stop) of a file, of which `events` pass the selection; of those [first, last) are wanted."""

    start: int
    stop: int
    events: int
    first: int
    last: int


@dataclass(frozen=True)
class Passing:
    """The passing events of a file, which are numbered from 0.

    Attributes:
        edges: entries between which they were counted, from 0 to the last.
        events: how many pass between each two.
    """

    edges: tuple[int, ...]
    events: tuple[int, ...]

    @cached_property
    def _ends(self) -> tuple[int, ...]:
        """The number of the first event behind each edge."""
        return (0, *accumulate(self.events))

    @property
    def entries(self) -> int:
        """How many there are."""
        return self._ends[-1]

    @cached_property
    def entry_offsets(self) -> tuple[int, ...]:
        """Numbers of events at which they are best divided."""
        return tuple(dict.fromkeys(self._ends))

    @cached_property
    def raw_offsets(self) -> tuple[int, ...]:
        """The entries of the file at which these lie."""
        return tuple(dict(zip(self._ends, self.edges, strict=True)).values())

    def segments(self, start: int, stop: int) -> tuple[Segment, ...]:
        """What to read of the file for events [start, stop); entries where none passes are left out."""
        found: list[Segment] = []
        for place in range(bisect_right(self._ends, start) - 1, len(self.events)):
            low, high = self._ends[place], self._ends[place + 1]
            if low >= stop:
                break
            if low < high:
                first, last = max(start - low, 0), min(stop, high) - low
                _extend(found, Segment(self.edges[place], self.edges[place + 1], high - low, first, last))
        return tuple(found)


def _extend(found: list[Segment], more: Segment) -> None:
    """Add a segment, joined to the one before where they meet and are not too long."""
    if found and found[-1].stop == more.start and more.stop - found[-1].start <= SEGMENT_ENTRIES:
        last = found[-1]
        more = Segment(last.start, more.stop, last.events + more.events, last.first, last.events + more.last)
        found.pop()
    found.append(more)


def estimated(events: Sequence[int], edges: Sequence[int]) -> list[tuple[int, int, int]]:
    """Entries (start, stop) that could not be counted (-1), and how many of them pass if as many do as elsewhere."""
    sizes = [stop - start for start, stop in pairwise(edges)]
    known = sum(size for size, n in zip(sizes, events, strict=True) if n >= 0)
    share = sum(n for n in events if n >= 0) / known if known else 1.0
    return [
        (start, start + size, round(share * size))
        for start, size, n in zip(edges, sizes, events, strict=False)
        if n < 0
    ]
