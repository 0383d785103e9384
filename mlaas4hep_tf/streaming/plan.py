"""Which events are read when: splits, shards, file groups, chunks and epochs, as pure arithmetic on entry numbers.

Nothing here opens a file.  Every rule of the dataset that counts (exactly once, in proportion, in the same
order for the same seed) is a property of these functions and tested as such.
"""

from __future__ import annotations

import itertools
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from math import isclose
from typing import Any

import numpy as np
import numpy.typing as npt

from mlaas4hep_tf.errors import PlanError

IntArray = npt.NDArray[np.int64]

MAX_FILE_GROUPS = 64  # more files than that share groups, as each group keeps a block in memory and a file open
BLOCK_ENTRIES = 16_384  # entries per block at most; larger blocks take more memory and are not faster
OPEN_CLUSTERS = 4  # large clusters of a file group of which blocks are read in turn
RAW_ENTRIES = 8 * BLOCK_ENTRIES  # of a file that a block of passing events spans at most
SPLIT_BLOCKS = (8, 64)  # blocks per file in a split: at least 8, cutting clusters if needed, at most 64
ORDER = 1  # changes with the order that these functions give: a training cannot go on in another one
_SPLIT, _SHUFFLE, _ROWS = 1, 2, 3  # keys of the random generators, one for each purpose


@dataclass(frozen=True)
class EntryRange:
    """Entries [start, stop) of one file; `file` is its number in the list of files."""

    file: int
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True)
class Plan:
    """The order of one dataset: file groups of blocks, mixed into chunks, cut into batches.

    Attributes:
        file_groups: blocks of each file group in the order of the files; one file group if `shuffle` is off.
        quotas: events that each file group gives per epoch; its size under the proportional law.
        chunk_size: events mixed at a time; a multiple of `batch_size`.
        batch_size: events per batch.
        shuffle: permute the blocks of each file group anew in every epoch.
        seed: of the permutations.
        clusters: number of the cluster in which each block of a file group begins; empty where each has its own.
    """

    file_groups: tuple[tuple[EntryRange, ...], ...]
    quotas: tuple[int, ...]
    chunk_size: int
    batch_size: int
    shuffle: bool
    seed: int
    clusters: tuple[tuple[int, ...], ...] = ()

    @cached_property
    def file_group_entries(self) -> tuple[int, ...]:
        return tuple(sum(map(len, file_group)) for file_group in self.file_groups)

    @property
    def entries(self) -> int:
        """Events of an epoch, as many as the file groups have."""
        return sum(self.quotas)

    @property
    def file_entries(self) -> dict[int, int]:
        """Events of each file in an epoch."""
        found: dict[int, int] = {}
        for file_group, quota, size in zip(self.file_groups, self.quotas, self.file_group_entries, strict=True):
            for block in file_group:
                found[block.file] = found.get(block.file, 0) + len(block)
            if quota != size:
                found[file_group[0].file] = quota  # a file group with a share of its own is one file
        return found

    @property
    def batches(self) -> int:
        return -(-self.entries // self.batch_size)

    @cached_property
    def chunk_quotas(self) -> IntArray:
        """Events that each chunk takes from each file group, int64 [chunks, file groups]."""
        return chunk_quotas(self.quotas, self.chunk_size)

    def blocks(self, file_group: int, epoch: int) -> list[EntryRange]:
        """The blocks of a file group in the order in which this epoch reads them.

        A file group is read in rounds, each a new permutation of all its blocks; an epoch begins where the one before
        ended.  So no event comes again before all others of its group have come as often: in any number of epochs it
        comes floor or ceil of (events that the group gave / events that it has) times.  Where the quota is the
        group's size, as under the proportional law, a round is an epoch and every event comes once.
        """
        size, first = self.file_group_entries[file_group], epoch * self.quotas[file_group]
        last = first + self.quotas[file_group]
        rounds = range(first // size, -(-last // size))
        return [b for n in rounds for b in _window(self._round(file_group, n), first - n * size, last - n * size)]

    def _round(self, file_group: int, number: int) -> list[EntryRange]:
        """A permutation of the blocks; where clusters have several, those of a few clusters follow each other.

        So what a reader has decoded of a large cluster serves all its blocks.
        """
        blocks = list(self.file_groups[file_group])
        if self.shuffle:
            _generator(self.seed, _SHUFFLE, number, file_group).shuffle(blocks)
        if self.shuffle and self.clusters and self.clusters[file_group]:
            cluster = dict(zip(self.file_groups[file_group], self.clusters[file_group], strict=True))
            turn = {c: n // OPEN_CLUSTERS for n, c in enumerate(dict.fromkeys(cluster[block] for block in blocks))}
            blocks.sort(key=lambda block: turn[cluster[block]])
        return blocks

    def order(self, epoch: int) -> npt.NDArray[np.int32]:
        """The events of an epoch by their number in the order of files and entries, int32 [entries].

        It is for laws under which every event comes once.
        """
        blocks = [block for file_group in self.file_groups for block in file_group]
        first = dict(zip(blocks, itertools.accumulate(map(len, blocks), initial=0), strict=False))
        groups = [
            np.concatenate([np.arange(first[b], first[b] + len(b), dtype=np.int32) for b in self.blocks(number, epoch)])
            for number in range(len(self.file_groups))
        ]
        ends = np.cumsum(self.chunk_quotas, axis=0)
        chunks = [
            np.concatenate([group[start:stop] for group, start, stop in zip(groups, starts, stops, strict=True)])
            for starts, stops in zip((ends - self.chunk_quotas).tolist(), ends.tolist(), strict=True)
        ]
        return np.concatenate([chunk[self.rows(epoch, n, len(chunk))] for n, chunk in enumerate(chunks)])

    def rows(self, epoch: int, chunk: int, events: int) -> npt.NDArray[np.int32]:
        """The order of the rows of one chunk, a permutation of range(events)."""
        order = np.arange(events, dtype=np.int32)
        if self.shuffle:
            _generator(self.seed, _ROWS, epoch, chunk).shuffle(order)
        return order


def _generator(seed: int, *stream: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=stream))


def chunk_quotas(file_group_entries: Sequence[int], chunk_size: int) -> IntArray:
    """Events that each chunk takes from file groups with so many events left, int64 [chunks, file groups]."""
    entries = sum(file_group_entries)
    return apportion(file_group_entries, [*range(chunk_size, entries, chunk_size), entries])


def _window(ranges: Sequence[EntryRange], start: int, stop: int) -> Iterator[EntryRange]:
    """Events [start, stop) of a sequence of ranges laid end to end."""
    at = 0
    for r in ranges:
        low, high = max(start - at, 0), min(stop - at, len(r))
        if low < high:
            yield EntryRange(r.file, r.start + low, r.start + high)
        at += len(r)


def apportion(sizes: Sequence[int], ends: Sequence[int]) -> IntArray:
    """Events that each file group gives in each step, so that all steps mix the groups in proportion to their sizes.

    After step k `ends[k]` events have been given, floor or ceil of `ends[k] * size / total` by each group.  Every group
    first gives the floor.  The rest comes, one event each, from groups whose ceil is larger, those first that need
    to give their next event soonest: earliest deadline first, which always works out (R. Tijdeman, The chairman
    assignment problem, 1980; G. Steiner and S. Yeomans, 1993).

    Args:
        sizes: events of each file group.
        ends: events of all groups together after each step, increasing; at most the sum of `sizes`.

    Returns:
        Events of each step and file group, int64 [len(ends), len(sizes)].
    """
    total = sum(sizes)
    exact: Any = np.int64 if total < 2**31 else object  # products of two counts must not overflow
    size = np.array(sizes, dtype=exact)
    given = np.zeros(len(sizes), dtype=exact)
    steps = np.zeros((len(ends), len(sizes)), np.int64)
    for number, end in enumerate(ends):
        now = np.maximum(given, size * end // max(total, 1))
        rest = int(end - now.sum())
        if rest:
            may = np.flatnonzero(now < -(-size * end // total))
            deadline = -(-(now[may] + 1) * total // size[may])
            now[may[np.argsort(deadline, kind="stable")[:rest]]] += 1
        steps[number] = now - given
        given = now
    return steps


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
    sizes = _largest_remainder(ideal, entries)
    if not all(sizes[: len(fractions)]):
        raise PlanError(
            f"a split of {entries} events into {tuple(fractions)} leaves a part without an event; "
            "use more data or fewer parts"
        )
    return sizes


def _largest_remainder(ideal: npt.NDArray[np.float64], total: int) -> list[int]:
    sizes = np.floor(ideal).astype(np.int64)
    sizes[np.argsort(sizes - ideal, kind="stable")[: total - int(sizes.sum())]] += 1
    return [int(s) for s in sizes]


def partition(
    parts: Sequence[Sequence[EntryRange]], entry_offsets: Sequence[Sequence[int]], sizes: Sequence[int], seed: int
) -> list[tuple[tuple[EntryRange, ...], ...]]:
    """Divide the events of each file among datasets of the given sizes: disjoint, and together all of them.

    Each dataset gets its share of every file, to within two events, in blocks that are chosen at random but
    follow the clusters, so that a basket is seldom needed by two datasets.

    Args:
        parts: for each file the ranges to divide.
        entry_offsets: for each file the entries at which its clusters begin, and its end.
        sizes: events of each dataset; they sum to the events of `parts`.
        seed: of the choice of blocks.

    Returns:
        For each dataset, for each file, its ranges in order.
    """
    per_file = [sum(map(len, ranges)) for ranges in parts]
    shares = apportion(sizes, np.cumsum(per_file).tolist())
    out: list[list[tuple[EntryRange, ...]]] = [[] for _ in sizes]
    for number, ranges in enumerate(parts):
        size = _split_size(per_file[number], len(entry_offsets[number]) - 1)
        pieces = [piece for r in ranges for piece in cut(r, entry_offsets[number], size)]
        _generator(seed, _SPLIT, number).shuffle(pieces)
        for dataset, taken in enumerate(_partition_pieces(pieces, shares[number].tolist())):
            out[dataset].append(tuple(_join(sorted(taken, key=lambda r: r.start))))
    return [tuple(dataset) for dataset in out]


def _split_size(entries: int, clusters: int) -> int:
    few, many = (max(1, -(-entries // count)) for count in SPLIT_BLOCKS)
    return min(few, max(many, entries // max(clusters, 1)))


def _partition_pieces(pieces: Sequence[EntryRange], sizes: Sequence[int]) -> list[list[EntryRange]]:
    """Lists of ranges with the given numbers of events, taken from a sequence of ranges from front to back."""
    stack = list(reversed(pieces))
    runs = []
    for wanted in sizes:
        run = []
        while wanted:
            piece = stack.pop()
            if len(piece) > wanted:
                stack.append(EntryRange(piece.file, piece.start + wanted, piece.stop))
                piece = EntryRange(piece.file, piece.start, piece.start + wanted)
            run.append(piece)
            wanted -= len(piece)
        runs.append(run)
    return runs


def _join(ranges: Sequence[EntryRange]) -> list[EntryRange]:
    joined: list[EntryRange] = []
    for part in ranges:
        if joined and joined[-1].stop == part.start:
            joined[-1] = EntryRange(part.file, joined[-1].start, part.stop)
        else:
            joined.append(part)
    return joined


def make_plan(
    parts: Sequence[Sequence[EntryRange]],
    entry_offsets: Sequence[Sequence[int]],
    *,
    chunk_size: int,
    batch_size: int,
    shuffle: bool,
    seed: int,
    shares: Sequence[float] | None = None,
    raw_offsets: Sequence[Sequence[int] | None] | None = None,
) -> Plan:
    """The plan of a dataset.  A file group is one file, or several neighbours where there are over `MAX_FILE_GROUPS`.

    Args:
        parts: for each file the ranges to read.
        entry_offsets: for each file the entries at which its clusters begin, and its end.
        chunk_size: events mixed at a time; rounded down to whole batches.
        batch_size: events per batch.
        shuffle: mix the file groups and permute their blocks.
        seed: of the permutations.
        shares: the mixing law, a number per file to which the file's part of every chunk is proportional;
            None: the number of its events, as in the paper.
        raw_offsets: as for `cut`, for each file.

    Raises:
        PlanError: sizes or shares that are not positive, no event at all, or shares of too many files.
    """
    for name, value in (("batch_size", batch_size), ("chunk_size", chunk_size)):
        if value < 1:
            raise PlanError(f"{name} must be at least 1 event, not {value}")
    numbers = [n for n, ranges in enumerate(parts) if any(map(len, ranges))]
    if not numbers:
        raise PlanError("there is no event to read: every file is empty or cut away")
    file_groups = min(len(numbers), MAX_FILE_GROUPS) if shuffle else 1
    groups = [group.tolist() for group in np.array_split(numbers, file_groups)]
    chunk = max(batch_size, chunk_size - chunk_size % batch_size)
    size = int(np.clip(chunk // file_groups, 256, BLOCK_ENTRIES))
    cuts = [
        tuple(
            block
            for number in group
            for part in parts[number]
            for block in cut(
                part, entry_offsets[number], size, 2 * BLOCK_ENTRIES, raw_offsets[number] if raw_offsets else None
            )
        )
        for group in groups
    ]  # fmt: skip
    sizes = tuple(sum(map(len, file_group)) for file_group in cuts)
    quotas = sizes if shares is None else _quotas(sum(sizes), [shares[n] for n in numbers], shuffle=shuffle)
    clusters = tuple(_clusters(blocks, entry_offsets) for blocks in cuts)
    return Plan(tuple(cuts), quotas, chunk, batch_size, shuffle, seed, clusters)


def _clusters(blocks: Sequence[EntryRange], entry_offsets: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """The number of the cluster in which each block begins; nothing where each has its own."""
    found: dict[tuple[int, int], int] = {}
    own = [
        found.setdefault((block.file, bisect_right(entry_offsets[block.file], block.start)), len(found))
        for block in blocks
    ]
    return tuple(own) if len(found) < len(blocks) else ()


def _quotas(entries: int, shares: Sequence[float], *, shuffle: bool) -> tuple[int, ...]:
    """Events of an epoch of each file, in proportion to its share."""
    if not shuffle:
        raise PlanError("a mixing law needs shuffle=True: without it files are read one after the other")
    if len(shares) > MAX_FILE_GROUPS:
        raise PlanError(
            f"a mixing law reads each file on its own, at most {MAX_FILE_GROUPS}; there are {len(shares)} files: "
            "join some of them, or give event weights instead"
        )
    ideal = np.array(shares, np.float64)
    if not (np.isfinite(ideal).all() and (ideal > 0).all()):
        raise PlanError(f"shares of a mixing law must be positive numbers, not {min(shares):g}; leave the file out")
    quotas = _largest_remainder(ideal / ideal.sum() * entries, entries)
    if not all(quotas):
        raise PlanError(f"a share of {min(shares):g} in {ideal.sum():g} leaves a file without an event per epoch")
    return tuple(quotas)
