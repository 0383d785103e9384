"""Which events are read when: file groups, blocks, chunks and epochs, as pure arithmetic on entry numbers.

Nothing here opens a file, and nothing is worked out before its turn, so that a million files are planned at once: a
plan has a few numbers per file.  Every rule of the dataset that counts (exactly once, in proportion, in the same order
for the same seed) is a property of these functions and tested as such.
"""

from __future__ import annotations

import itertools
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from mlaas4hep_tf.errors import PlanError
from mlaas4hep_tf.io.lists import IntArray, IntLists
from mlaas4hep_tf.streaming.parts import ROWS, SHUFFLE, Parts, generator, largest_remainder
from mlaas4hep_tf.streaming.ranges import EntryRange, cut, window

MAX_FILE_GROUPS = 64  # more files than that share groups, as each group keeps a block in memory and a file open
MIXED_FILES = 8  # files of a group of which the blocks are shuffled together
BLOCK_ENTRIES = 16_384  # entries per block at most; larger blocks take more memory and are not faster
OPEN_CLUSTERS = 4  # large clusters of a file group of which blocks are read in turn
ORDER = 2  # changes with the order that these functions give: a training cannot go on in another one


@dataclass(frozen=True, eq=False)
class Plan:
    """The order of one dataset: file groups of blocks, mixed into chunks, cut into batches.

    Attributes:
        parts: the events of the dataset.
        entry_offsets: for each file the entries at which its clusters begin, and its end.
        raw_offsets: as for `cut`, for each file, where there is a selection.
        file_groups: numbers of the files of each file group; one group if `shuffle` is off.
        block_size: entries of a block up to which clusters are joined.
        quotas: events that each file group gives per epoch; its size under the proportional law.
        chunk_size: events mixed at a time; a multiple of `batch_size`.
        batch_size: events per batch.
        shuffle: permute the files and blocks of each file group anew in every epoch.
        seed: of the permutations.
        drop_remainder: leave out the events at the end of an epoch that fill no batch.
    """

    parts: Parts
    entry_offsets: IntLists
    raw_offsets: IntLists | None
    file_groups: tuple[IntArray, ...]
    block_size: int
    quotas: tuple[int, ...]
    chunk_size: int
    batch_size: int
    shuffle: bool
    seed: int
    drop_remainder: bool = False

    @cached_property
    def file_group_entries(self) -> tuple[int, ...]:
        return tuple(int(self.parts.events[numbers].sum()) for numbers in self.file_groups)

    @property
    def entries(self) -> int:
        """Events of an epoch, as many as the file groups have."""
        return sum(self.quotas)

    @property
    def file_entries(self) -> dict[int, int]:
        """Events of each file in an epoch."""
        found: dict[int, int] = {}
        for numbers, quota, size in zip(self.file_groups, self.quotas, self.file_group_entries, strict=True):
            # a file group with a share of its own is one file
            events = self.parts.events[numbers].tolist() if quota == size else [quota]
            found.update(zip(numbers.tolist(), events, strict=True))
        return found

    @property
    def batches(self) -> int:
        whole = self.entries // self.batch_size
        return whole if self.drop_remainder else -(-self.entries // self.batch_size)

    def chunk_quotas(self) -> Iterator[list[int]]:
        """Events that each chunk takes from each file group."""
        return chunk_quotas(self.quotas, self.chunk_size)

    def blocks(self, file_group: int, epoch: int) -> Iterator[EntryRange]:
        """The blocks of a file group in the order in which this epoch reads them.

        A file group is read in rounds, each a new permutation of all its blocks; an epoch begins where the one before
        ended.  So no event comes again before all others of its group have come as often: in any number of epochs it
        comes floor or ceil of (events that the group gave / events that it has) times.  Where the quota is the
        group's size, as under the proportional law, a round is an epoch and every event comes once.
        """
        size, first = self.file_group_entries[file_group], epoch * self.quotas[file_group]
        last = first + self.quotas[file_group]
        for number in range(first // size, -(-last // size)):
            yield from window(self._round(file_group, number), first - number * size, last - number * size)

    def _round(self, file_group: int, number: int) -> Iterator[EntryRange]:
        """A permutation of the files, of which so many at a time (`MIXED_FILES`) have their blocks shuffled together.

        All blocks of a group of more files would not fit into memory, nor would what opening its files tells.
        """
        files = self.file_groups[file_group]
        if not self.shuffle:
            for file in files.tolist():
                yield from self._cut(file)
            return
        files = generator(self.seed, SHUFFLE, number, file_group).permutation(files)
        for first in range(0, len(files), MIXED_FILES):
            blocks = [b for file in files[first : first + MIXED_FILES].tolist() for b in self._cut(file)]
            generator(self.seed, SHUFFLE, number, file_group, first).shuffle(blocks)
            yield from self._by_cluster(blocks)

    def _cut(self, file: int) -> Iterator[EntryRange]:
        """The blocks of a file in its order."""
        offsets, raw = self.entry_offsets[file], self.raw_offsets[file] if self.raw_offsets is not None else None
        for part in self.parts.ranges(file):
            yield from cut(part, offsets, self.block_size, 2 * BLOCK_ENTRIES, raw)

    def _by_cluster(self, blocks: list[EntryRange]) -> list[EntryRange]:
        """The same blocks; where clusters have several, those of a few clusters follow each other.

        So what a reader has decoded of a large cluster serves all its blocks.
        """
        offsets = {file: self.entry_offsets[file] for file in {block.file for block in blocks}}
        clusters = [(block.file, bisect_right(offsets[block.file], block.start)) for block in blocks]
        if len({*clusters}) == len(blocks):
            return blocks
        turn = {cluster: n // OPEN_CLUSTERS for n, cluster in enumerate(dict.fromkeys(clusters))}
        order = sorted(range(len(blocks)), key=lambda n: turn[clusters[n]])
        return [blocks[n] for n in order]

    def in_order(self) -> Iterator[EntryRange]:
        """All blocks in the order of files and entries."""
        return (block for numbers in self.file_groups for file in numbers.tolist() for block in self._cut(file))

    def order(self, epoch: int) -> npt.NDArray[np.int32]:
        """The events of an epoch by their number in the order of files and entries, int32 [entries].

        It is for laws under which every event comes once.
        """
        blocks = [*self.in_order()]
        first = dict(zip(blocks, itertools.accumulate(map(len, blocks), initial=0), strict=False))
        groups = [
            np.concatenate([np.arange(first[b], first[b] + len(b), dtype=np.int32) for b in self.blocks(number, epoch)])
            for number in range(len(self.file_groups))
        ]
        quotas = np.array([*self.chunk_quotas()])
        ends = np.cumsum(quotas, axis=0)
        chunks = [
            np.concatenate([group[start:stop] for group, start, stop in zip(groups, starts, stops, strict=True)])
            for starts, stops in zip((ends - quotas).tolist(), ends.tolist(), strict=True)
        ]
        return np.concatenate([chunk[self.rows(epoch, n, len(chunk))] for n, chunk in enumerate(chunks)])

    def rows(self, epoch: int, chunk: int, events: int) -> npt.NDArray[np.int32]:
        """The order of the rows of one chunk, a permutation of range(events)."""
        order = np.arange(events, dtype=np.int32)
        if self.shuffle:
            generator(self.seed, ROWS, epoch, chunk).shuffle(order)
        return order


def chunk_quotas(file_group_entries: Sequence[int], chunk_size: int) -> Iterator[list[int]]:
    """Events that each chunk takes from file groups with so many events left."""
    entries = sum(file_group_entries)
    return apportion(file_group_entries, itertools.chain(range(chunk_size, entries, chunk_size), [entries]))


def apportion(sizes: Sequence[int], ends: Iterable[int]) -> Iterator[list[int]]:
    """Events that each file group gives in each step, so that all steps mix the groups in proportion to their sizes.

    After step k `ends[k]` events have been given, floor or ceil of `ends[k] * size / total` by each group.  Every group
    first gives the floor.  The rest comes, one event each, from groups whose ceil is larger, those first that need
    to give their next event soonest: earliest deadline first, which always works out (R. Tijdeman, The chairman
    assignment problem, 1980; G. Steiner and S. Yeomans, 1993).

    Args:
        sizes: events of each file group.
        ends: events of all groups together after each step, increasing; at most the sum of `sizes`.

    Yields:
        For each step the events of each file group.
    """
    total = sum(sizes)
    exact: Any = np.int64 if total < 2**31 else object  # products of two counts must not overflow
    size = np.array(sizes, dtype=exact)
    given = np.zeros(len(sizes), dtype=exact)
    for end in ends:
        now = np.maximum(given, size * end // max(total, 1))
        rest = int(end - now.sum())
        if rest:
            may = np.flatnonzero(now < -(-size * end // total))
            deadline = -(-(now[may] + 1) * total // size[may])
            now[may[np.argsort(deadline, kind="stable")[:rest]]] += 1
        yield (now - given).tolist()
        given = now


def make_plan(
    parts: Parts,
    entry_offsets: IntLists,
    *,
    chunk_size: int,
    batch_size: int,
    shuffle: bool,
    seed: int,
    shares: Sequence[float] | None = None,
    raw_offsets: IntLists | None = None,
    drop_remainder: bool = False,
) -> Plan:
    """The plan of a dataset.  A file group is one file, or several neighbours where there are over `MAX_FILE_GROUPS`.

    Args:
        parts: the events to read.
        entry_offsets: for each file the entries at which its clusters begin, and its end.
        chunk_size: events mixed at a time; rounded down to whole batches.
        batch_size: events per batch.
        shuffle: mix the file groups and permute their blocks.
        seed: of the permutations.
        shares: the mixing law, a number per file to which the file's part of every chunk is proportional;
            None: the number of its events, as in the paper.
        raw_offsets: as for `cut`, for each file.
        drop_remainder: as of `Plan`.

    Raises:
        PlanError: sizes or shares that are not positive, no event at all, or shares of too many files.
    """
    for name, value in (("batch_size", batch_size), ("chunk_size", chunk_size)):
        if value < 1:
            raise PlanError(f"{name} must be at least 1 event, not {value}")
    numbers = np.flatnonzero(parts.events)
    if not len(numbers):
        raise PlanError("there is no event to read: every file is empty or cut away")
    file_groups = min(len(numbers), MAX_FILE_GROUPS) if shuffle else 1
    groups = tuple(np.array_split(numbers, file_groups))
    chunk = max(batch_size, chunk_size - chunk_size % batch_size)
    size = int(np.clip(chunk // file_groups, 256, BLOCK_ENTRIES))
    sizes = tuple(int(parts.events[group].sum()) for group in groups)
    quotas = sizes if shares is None else _quotas(sum(sizes), [shares[n] for n in numbers.tolist()], shuffle=shuffle)
    return Plan(
        parts, entry_offsets, raw_offsets, groups, size, quotas, chunk, batch_size, shuffle, seed, drop_remainder
    )


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
    quotas = largest_remainder(ideal / ideal.sum() * entries, entries)
    if not all(quotas):
        raise PlanError(f"a share of {min(shares):g} in {ideal.sum():g} leaves a file without an event per epoch")
    return tuple(quotas)
