"""Entry ranges of files, cut where clusters begin; pure, no I/O."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

RAW_ENTRIES = 8 * 16_384  # of a file that a block of passing events spans at most


@dataclass(frozen=True)
class EntryRange:
    """Entries [start, stop) of one file; `file` is its number in the list of files."""

    file: int
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


def blocks(file: int, entries: int, entry_offsets: Sequence[int], size: int) -> list[EntryRange]:
    """A whole file as blocks of about `size` entries (see `cut`)."""
    return cut(EntryRange(file, 0, entries), entry_offsets, size)


def cut(
    part: EntryRange, entry_offsets: Sequence[int], size: int, largest: int | None = None,
    raw_offsets: Sequence[int] | None = None,
) -> list[EntryRange]:  # fmt: skip
    """Cut a range into blocks where clusters begin, so that few baskets are decoded twice.

    Neighbouring clusters are joined up to `size` entries; a cluster of more than `largest` (default: twice the size)
    is cut in equal pieces.

    Args:
        raw_offsets: where entries are the events that pass a selection, the entries of the file at the same places,
            of which a block spans no more than `RAW_ENTRIES`, unless a cluster does.
    """
    raw = entry_offsets if raw_offsets is None else raw_offsets
    at = {entry: place for entry, place in zip(entry_offsets, raw, strict=True) if part.start < entry < part.stop}
    first = raw[max(bisect_right(entry_offsets, part.start) - 1, 0)] if raw else 0
    largest = 2 * size if largest is None else largest
    inner = [entry for entry in entry_offsets if part.start < entry < part.stop]
    bounds = [part.start]
    for start, stop in zip([part.start, *inner], [*inner, part.stop], strict=True):
        spanned = at.get(stop, raw[-1] if raw else 0) - at.get(bounds[-1], first)
        if bounds[-1] != start and (stop - bounds[-1] > size or (raw_offsets and spanned > RAW_ENTRIES)):
            bounds.append(start)
        if stop - start > largest:
            pieces = -(-(stop - start) // size)
            bounds.extend(start + (stop - start) * i // pieces for i in range(1, pieces))
    bounds = [*dict.fromkeys(bounds), part.stop]
    return [EntryRange(part.file, a, b) for a, b in pairwise(bounds) if a < b]


def window(ranges: Iterable[EntryRange], start: int, stop: int) -> Iterator[EntryRange]:
    """Events [start, stop) of a sequence of ranges laid end to end."""
    at = 0
    for r in ranges:
        if at >= stop:
            break
        low, high = max(start - at, 0), min(stop - at, len(r))
        if low < high:
            yield EntryRange(r.file, r.start + low, r.start + high)
        at += len(r)


def join(ranges: Iterable[EntryRange]) -> list[EntryRange]:
    """The same entries with those ranges joined that meet."""
    joined: list[EntryRange] = []
    for part in ranges:
        if joined and joined[-1].stop == part.start:
            joined[-1] = EntryRange(part.file, joined[-1].start, part.stop)
        else:
            joined.append(part)
    return joined
