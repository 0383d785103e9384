"""Packed events that stay in memory, so that what fits there is read from the files once."""

from __future__ import annotations

import threading
from bisect import bisect_right, insort
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal
from weakref import WeakSet, finalize

from mlaas4hep_tf.errors import PlanError
from mlaas4hep_tf.io.memory import free_memory
from mlaas4hep_tf.streaming.pieces import Events, cut
from mlaas4hep_tf.streaming.ranges import EntryRange

Keep = Literal["auto"] | bool | int

SHARE = 4  # of the memory that is free all datasets of a process together keep one part in so many


def check_keep(keep: Keep) -> None:
    """Raise PlanError unless it says what is kept."""
    if not (isinstance(keep, int) and keep >= 0) and keep != "auto":
        raise PlanError(f"keep must be 'auto', True, False or a number of bytes, not {keep!r}")


@dataclass(frozen=True)
class _Range:
    """Kept events [start, stop) of a file."""

    start: int
    stop: int
    events: Events


class Kept:
    """Packed events of a dataset's files, as ranges that do not overlap; shared by the datasets made from one another.

    Args:
        keep: ``"auto"``: as much as a quarter of the free memory holds; True: everything; else so many bytes.
        groups: of the packed events.
    """

    def __init__(self, keep: Keep, groups: int) -> None:
        self.nbytes = 0
        self._keep, self._groups = keep, groups
        self._ranges: defaultdict[int, list[_Range]] = defaultdict(list)  # by file, in order
        with _lock:
            _all.add(self)

    def fresh(self) -> Kept:
        """Room of the same size for events that are numbered otherwise."""
        return Kept(self._keep, self._groups)

    def get(self, block: EntryRange) -> list[Events] | None:
        """The events of a block in their order, or None unless all of them are kept."""
        with _lock:
            found = list(self._within(block))
        if sum(min(r.stop, block.stop) - max(r.start, block.start) for r in found) < len(block):
            return None
        return [cut(r.events, max(block.start - r.start, 0), block.stop - r.start, self._groups) for r in found]

    def reserve(self, owner: object, size: int) -> bool:
        """Whether so many bytes more fit; they count as kept as long as the owner lives."""
        with _lock:
            if self.nbytes + size > self._limit():
                return False
            self.nbytes += size
        finalize(owner, self._release, size)
        return True

    def _release(self, size: int) -> None:
        self.nbytes -= size  # without the lock: garbage is collected anywhere, also where it is held

    def add(self, block: EntryRange, events: Events) -> None:
        """Copy the events of a block that are not kept already, as far as there is room."""
        with _lock:
            at = block.start
            for known in (*self._within(block), None):
                until = block.stop if known is None else known.start
                if at < until:
                    self._insert(block, at, until, events)
                at = block.stop if known is None else known.stop

    def _within(self, block: EntryRange) -> Iterator[_Range]:
        ranges = self._ranges[block.file]
        first = max(bisect_right(ranges, block.start, key=lambda r: r.start) - 1, 0)
        for known in ranges[first:]:
            if known.start >= block.stop:
                break
            if known.stop > block.start:
                yield known

    def _insert(self, block: EntryRange, start: int, stop: int, events: Events) -> None:
        part = cut(events, start - block.start, stop - block.start, self._groups)
        size = sum(array.nbytes for array in part)
        if self.nbytes + size > self._limit():
            return
        self.nbytes += size
        insort(self._ranges[block.file], _Range(start, stop, tuple(a.copy() for a in part)), key=lambda r: r.start)

    def _limit(self) -> float:
        if self._keep is True:
            return float("inf")
        if self._keep == "auto":
            all_kept = sum(kept.nbytes for kept in _all)
            return self.nbytes + (free_memory() + all_kept) / SHARE - all_kept
        return self._keep


_lock = threading.Lock()
_all: WeakSet[Kept] = WeakSet()


def make_kept(keep: Keep, groups: int) -> Kept | None:
    """Where events are kept, or None where none are."""
    return Kept(keep, groups) if keep else None
