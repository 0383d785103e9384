"""Streams packed events of a plan's file groups from the reader processes; knows no TensorFlow yet."""

from __future__ import annotations

import itertools
import logging
import weakref
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from functools import cached_property
from hashlib import sha256
from typing import Any, Protocol

import numpy as np

from mlaas4hep_tf.analysis.draws import Draw, Drawn
from mlaas4hep_tf.analysis.passing import Passing, Segment
from mlaas4hep_tf.analysis.steps import Steps
from mlaas4hep_tf.errors import InputFileError, ReaderError
from mlaas4hep_tf.io.branches import Layout
from mlaas4hep_tf.io.buffers import ArrayPool, ArraySpec, BufferPool, BufferRef, keep_freed_memory
from mlaas4hep_tf.io.files import NOTHING_ALIKE, Alike, RootFile
from mlaas4hep_tf.io.lists import IntArray, IntLists
from mlaas4hep_tf.io.processes import Once
from mlaas4hep_tf.io.workers import WorkerPool
from mlaas4hep_tf.scanned_files import ScannedFiles, entries_of, offsets_of
from mlaas4hep_tf.streaming.kept import Kept
from mlaas4hep_tf.streaming.pieces import Array, Events, divided, join, objects_of
from mlaas4hep_tf.streaming.plan import Plan, apportion, chunk_quotas
from mlaas4hep_tf.streaming.position import Position
from mlaas4hep_tf.streaming.ranges import EntryRange
from mlaas4hep_tf.streaming.skipped import Skipped, SkippedRange
from mlaas4hep_tf.streaming.targets import Target

SMALL_FILE = 8192  # baskets, about, of a file up to which readers remember where all of them lie
_log = logging.getLogger(__name__)


class Room:
    """Rows that every chunk has room for, so that chunks have few shapes: a compiled step is compiled for each anew.

    There are always enough for `events` events.  A group has room for an eighth more objects than the first chunk
    has, and twice as much where that is too little.
    """

    def __init__(self, events: int) -> None:
        self.events = events
        self._objects: dict[str, int] = {}

    def objects(self, group: str, needed: int) -> int:
        """Rows for the objects of a group."""
        known = self._objects.setdefault(group, needed + needed // 8)
        while self._objects[group] < needed:
            self._objects[group] *= 2
        if self._objects[group] != known:
            _log.info(
                "room for %d objects of %s in a chunk, no longer %d; the step is compiled once more",
                self._objects[group], group, known,
            )  # fmt: skip
        return self._objects[group]


@dataclass(frozen=True)
class Stream:
    """Reads packed events of a plan's file groups and mixes them into chunks.

    It is the part of a dataset that knows files and processes but no TensorFlow.

    Attributes:
        files: all files.
        layout: feature branches of the packed matrices.
        lengths: group -> objects kept per event, to count what is truncated.
        labels, weights: where the numbers come from.
        numbers: targets beside the labels, or instead of them.
        worker_pool, pool: where reading runs, and the memory that it fills.
        chunk_pool: memory of the chunks.
        truncated: events and objects beyond `lengths` in the latest epoch, by group.
        delivered: events of each file in the latest epoch, by its number.
        failures: errors that ended an epoch; TensorFlow passes on only their text.
        skipped: where blocks that cannot be read are accounted for; None: they are errors.
        entries: events of an epoch.
        steps: of an analysis, or None.
        passing: of each file, where there is a selection; then blocks are of the events that pass.
        drawn: folds, or what is held out, that are a selection too; then there are steps and passing events.
        scales: of each file by what its weights are multiplied, and how many events that is for; or empty.
        factors: the same for the events of this dataset, which may be a part of them.
        sums_of_weights: where the scales come from, in words.
        kept: events that were read and stay in memory, or None.
        packed_as: name of the events under which packed blocks are kept in the cache's folder; empty: they are not.
    """

    files: Sequence[RootFile]
    layout: Layout
    lengths: Mapping[str, int]
    labels: Target | None
    weights: Target | None
    worker_pool: WorkerPool
    pool: BufferPool = field(default_factory=BufferPool)
    chunk_pool: ArrayPool = field(default_factory=ArrayPool)
    truncated: Counter[str] = field(default_factory=Counter)
    delivered: Counter[int] = field(default_factory=Counter)
    failures: list[Exception] = field(default_factory=list)
    skipped: Skipped | None = None
    entries: int = 0
    steps: Steps | None = None
    passing: tuple[Passing, ...] = ()
    drawn: tuple[Drawn, ...] = ()
    scales: tuple[tuple[float, int], ...] = ()
    factors: tuple[float, ...] = ()
    sums_of_weights: tuple[str, ...] = ()
    kept: Kept | None = None
    numbers: tuple[Target, ...] = ()
    packed_as: str = ""

    @cached_property
    def events(self) -> IntArray:
        """How many events each file has, int64 [files]."""
        return np.array([own.entries for own in self.passing]) if self.passing else entries_of(self.files)

    @cached_property
    def entry_offsets(self) -> IntLists:
        """For each file the events at which its clusters begin, and their number."""
        if not self.passing:
            return offsets_of(self.files)
        return IntLists.of((own.entry_offsets for own in self.passing), rising=True)

    @cached_property
    def raw_offsets(self) -> IntLists | None:
        """The entries at which these lie, where there is a selection."""
        return IntLists.of((own.raw_offsets for own in self.passing), rising=True) if self.passing else None

    @property
    def targets(self) -> tuple[Target, ...]:
        """All that comes with the features; weights are the last."""
        return tuple(t for t in (self.labels, *self.numbers, self.weights) if t is not None)

    def fresh(self, entries: int) -> Stream:
        """The same files and processes with counts and chunk memory of its own, for so many events."""
        return replace(
            self, chunk_pool=ArrayPool(), truncated=Counter(), delivered=Counter(), failures=[], entries=entries,
            skipped=None if self.skipped is None else self.skipped.fresh(),
        )  # fmt: skip

    def blocks_ahead(self, plan: Plan) -> int:
        """Blocks of each file group that are asked for before the first is waited for."""
        return -(-self.worker_pool.ahead // len(plan.quotas))

    def keeps(self, plan: Plan) -> bool:
        """Whether all events of a plan are kept."""
        kept = self.kept
        return kept is not None and all(kept.get(block) for block in plan.in_order())

    def begin_kept(self, plan: Plan, truncated: Mapping[str, int]) -> None:
        """Count an epoch that is delivered whole without being read."""
        self.delivered.clear()
        self.delivered.update(plan.file_entries)
        self.truncated.clear()
        self.truncated.update(truncated)
        self.failures.clear()
        if self.skipped is not None:
            self.skipped.begin()

    @property
    def read_layout(self) -> Layout:
        return replace(self.layout, targets=tuple((t.branch, t.dtype) for t in self.targets if t.branch))

    def chunks(
        self, plan: Plan, start: Position, room: Room | None = None, ahead: Ahead | None = None
    ) -> Iterator[tuple[Array, ...]]:
        """The chunks of an epoch from a position on, packed; each takes its share of every file group.

        The blocks of a whole chunk are asked for at once, so that the reader processes never wait for one of them.
        What was delivered before is not read again, but for the chunk in which the position lies: which events those
        were is arithmetic.

        Yields:
            order of the rows int32 [n]; flat branches float32 [n, F]; of each group the row of each event's first
            object and how many it has, int32 [n, 2 G]; per group a row of NaN and the values, float32 [1 + m, F];
            and labels and weights [n], each in its own dtype.  With `room` all but the order have more rows than that,
            and what is in them means nothing.
        """
        file_groups: list[_FileGroup] = []
        self.truncated.clear()
        self.delivered.clear()
        self.failures.clear()
        if self.skipped is not None:
            self.skipped.begin(start.lost)
        try:
            first, row = divmod(start.batch * plan.batch_size, plan.chunk_size)
            passed = [
                _Passed(self.delivered, start.lost, plan.blocks(number, start.epoch), events)
                for number, events in enumerate(plan.quotas)
            ]
            quotas = _Quotas(plan)
            before = sum(1 for _ in itertools.islice(_mix(passed, quotas), first))
            begun = ahead.take(start) if ahead is not None else ()
            each = self.blocks_ahead(plan)
            file_groups += begun or (_FileGroup(self, group.blocks, start.lost, group.left, each) for group in passed)
            for number, pieces in enumerate(_mix(file_groups, quotas), before):
                order = plan.rows(start.epoch, number, _events(pieces))
                yield order[row if number == first else 0 :], *self._assemble(pieces, room)
        except Exception as error:
            self.failures.append(error)
            raise
        finally:
            for file_group in file_groups:
                file_group.close()

    def _assemble(self, pieces: Sequence[tuple[Array, ...]], room: Room | None) -> tuple[Array, ...]:
        """Copy pieces behind each other into one chunk, in recycled memory."""
        events, objects = _events(pieces), objects_of(pieces, len(self.layout.groups))
        chunk = self.chunk_pool.take(self._chunk_specs(events, (1 + objects.sum(axis=0)).tolist(), room))
        join(chunk, pieces, objects)
        for number, (group, _) in enumerate(self.layout.groups):
            self._count(group, chunk[1][:events, 2 * number + 1])
        return tuple(chunk)

    def _chunk_specs(self, events: int, objects: Sequence[int], room: Room | None) -> list[ArraySpec]:
        groups = self.layout.groups
        if room is not None:
            events = room.events
            objects = [room.objects(group, rows) for (group, _), rows in zip(groups, objects, strict=True)]
        specs = [ArraySpec((events, len(self.layout.flat)), "float32"), ArraySpec((events, 2 * len(groups)), "int32")]
        specs += [ArraySpec((rows, len(names)), "float32") for rows, (_, names) in zip(objects, groups, strict=True)]
        return [*specs, *(ArraySpec((events,), target.dtype) for target in self.targets)]

    def _count(self, group: str, counts: Array) -> None:
        beyond = counts - self.lengths[group]
        beyond = beyond[beyond > 0]
        if len(beyond):
            self.truncated[f"{group} events"] += len(beyond)
            self.truncated[f"{group} objects"] += int(beyond.sum())

    def read(self, block: EntryRange) -> _Reading:
        """Ask a reader process for a block."""
        ref = self.pool.lend() if self.worker_pool.shares_memory else None
        try:
            return _Reading(block, ref, self._submit(block, ref))
        except BaseException:
            if ref is not None:
                self.pool.give_back(ref)
            raise

    def result(self, reading: _Reading) -> tuple[Array, ...] | None:
        """Wait for the events of a block; None if it is lost."""
        try:
            packed = reading.future.result()
        except (InputFileError, ReaderError) as error:
            self.cancel(reading)
            if self.skipped is None:
                raise
            self.skipped.add(self._lost(reading.block, error), self.entries)
            return None
        except BaseException:
            self.cancel(reading)
            raise
        if packed.opened is not None and isinstance(self.files, ScannedFiles):
            self.files.learn(reading.block.file, packed.opened)
        arrays = packed.arrays if reading.ref is None else self.pool.arrays(reading.ref, packed.specs)
        events = self._with_targets(arrays, reading.block.file)
        if self.kept is not None:
            self.kept.add(reading.block, events)
        return events

    def _lost(self, block: EntryRange, error: Exception) -> SkippedRange:
        per_file = self.labels.per_file if self.labels is not None else ()
        label = per_file[block.file] if per_file else None
        url, segments = self.files[block.file].url, self._segments(block)
        passing = len(block) if self.passing else None
        return SkippedRange(url, block.file, segments[0].start, segments[-1].stop, str(error), label, passing=passing)

    def cancel(self, reading: _Reading) -> None:
        """Forget a block that was asked for; its buffer comes back when no reader writes to it any more."""
        reading.future.cancel()
        ref = reading.ref
        if ref is not None:
            reading.future.add_done_callback(lambda _: self.pool.give_back(ref))

    def _submit(self, block: EntryRange, ref: BufferRef | None) -> Future[Any]:
        layout, steps, drawn, alike = self._told
        segments = self._segments(block)
        file = self._file(block.file, segments[0].start, segments[-1].stop)
        kept = f"{self._content} {segments}" if self.packed_as else ""
        if self.steps is None:
            return self.worker_pool.submit(read_block, file, alike, block.start, block.stop, layout, ref, kept)
        return self.worker_pool.submit(read_passing_block, file, alike, segments, layout, steps, ref, drawn, kept)

    @cached_property
    def _told(self) -> tuple[Once, Once, Once, Once]:
        alike = self.files.alike if isinstance(self.files, ScannedFiles) else NOTHING_ALIKE
        return Once(self.read_layout), Once(self.steps), Once(self.drawn), Once(alike)

    @cached_property
    def _content(self) -> str:
        """A digest of what blocks hold of their events, which are those of `packed_as`."""
        return sha256(repr((self.packed_as, self.read_layout, self.drawn)).encode()).hexdigest()

    @cached_property
    def _reads(self) -> list[str]:
        """The branches that are read."""
        names = [*self.read_layout.names]
        if self.steps is not None:
            names = [*self.steps.reads(names), *(name for one in self.drawn for name in one.draw.names)]
        return names

    @cached_property
    def _small(self) -> dict[int, Once]:
        """By number what readers are told of files of which they can remember all."""
        return {}

    def _file(self, number: int, start: int, stop: int) -> Once | RootFile:
        """What a reader is told of a file to read some entries."""
        known = self._small.get(number)
        if known is not None:
            return known
        file, few = self.files[number], len(self.files) <= self.worker_pool.remembers
        if file.unopened is not None:
            return file.bare(file.unopened)
        if not few or file.friends or len(self._reads) * len(file.entry_offsets) > SMALL_FILE:
            return file.part(self._reads, start, stop)
        return self._small.setdefault(number, Once(file.part(self._reads, 0, file.num_entries)))

    def _segments(self, block: EntryRange) -> tuple[Segment, ...]:
        """The entries of the file that a block stands for."""
        if self.passing:
            return self.passing[block.file].segments(block.start, block.stop)
        return (Segment(block.start, block.stop, len(block), 0, len(block)),)

    def of_parts(self, events: IntArray) -> Stream:
        """The same for so many events of each file, which stand for all of them where weights are scaled."""
        if not self.scales:
            return self
        scaled = zip(self.scales, events.tolist(), strict=True)
        return replace(self, factors=tuple(scale * whole / max(n, 1) for (scale, whole), n in scaled))

    def weighed(self, piece: tuple[Array, ...], file: int) -> tuple[Array, ...]:
        """Events of a file with their weights scaled."""
        return (*piece[:-1], piece[-1] * np.float32(self.factors[file])) if self.factors else piece

    def _with_targets(self, arrays: Sequence[Array], file: int) -> tuple[Array, ...]:
        """The arrays of a block, with the labels and weights that are numbers of its file in their place."""
        features = 2 + len(self.layout.groups)
        read = iter(arrays[features:])
        targets = (next(read) if t.branch else np.full(len(arrays[0]), t.per_file[file], t.dtype) for t in self.targets)
        return (*arrays[:features], *targets)


@dataclass(frozen=True)
class _Reading:
    """A block that a reader process is working on."""

    block: EntryRange
    ref: BufferRef | None
    future: Future[Any]


@dataclass(frozen=True)
class _Held:
    """Events of a file that are kept in memory."""

    file: int
    events: Events


class _Events(Protocol):
    """The events of one file group in their order; `left` are those that were not taken."""

    left: int

    def ask(self, events: int) -> None: ...

    def take(self, events: int) -> list[tuple[Array, ...]]: ...


class _Passed:
    """The blocks of one file group of which the first were delivered in an earlier process: events without content."""

    def __init__(
        self, delivered: Counter[int], lost: frozenset[tuple[int, int]], blocks: Iterator[EntryRange], left: int
    ) -> None:
        self._delivered, self._lost = delivered, lost
        self.blocks, self.left = blocks, left

    def ask(self, events: int) -> None:
        """Nothing is read."""

    def take(self, events: int) -> list[tuple[Array, ...]]:
        """As `_FileGroup.take`, with rows without columns."""
        pieces: list[tuple[Array, ...]] = []
        while events:
            block = next(self.blocks)
            if (block.file, block.start) in self._lost:
                self.left -= len(block)
                break
            taken = min(events, len(block))
            if taken < len(block):
                self.blocks = itertools.chain([EntryRange(block.file, block.start + taken, block.stop)], self.blocks)
            pieces.append((np.empty((taken, 0), np.float32),))
            self._delivered[block.file] += taken
            self.left -= taken
            events -= taken
        return pieces


class _FileGroup:
    """The blocks of one file group, read ahead in order, from which any number of events is taken.

    Blocks that are known to be `lost` are not read.  At least `ahead` of them are asked for or in part taken.
    """

    def __init__(
        self, stream: Stream, blocks: Iterator[EntryRange], lost: frozenset[tuple[int, int]], left: int, ahead: int
    ) -> None:
        self._stream, self._lost, self._ahead = stream, lost, ahead
        self._todo, self.left = blocks, left
        self._reading: deque[_Reading | _Held | EntryRange] = deque()
        self._rest: tuple[Array, ...] | None = None
        self._file = 0  # from which it is
        self.asked = 0  # events that are being read, or left over

    def ask(self, events: int) -> None:
        """Have the blocks read that the next `events` events lie in, and one more; more where many readers wait."""
        while self.asked < events + 1 or len(self._reading) + (self._rest is not None) < self._ahead:
            block = next(self._todo, None)
            if block is None:
                break
            self._reading.extend(self._begin(block))
            self.asked += len(block)

    def _begin(self, block: EntryRange) -> Sequence[_Reading | _Held | EntryRange]:
        if (block.file, block.start) in self._lost:
            return [block]
        held = self._stream.kept.get(block) if self._stream.kept is not None else None
        return [_Held(block.file, events) for events in held] if held else [self._stream.read(block)]

    def take(self, events: int) -> list[tuple[Array, ...]]:
        """The next events as packed pieces; they were asked for.  Fewer if a block is lost: `left` tells."""
        pieces = []
        while events:
            piece, self._rest = self._rest or self._next(), None
            if piece is None:
                break
            if len(piece[0]) > events:
                piece, self._rest = divided(piece, events, len(self._stream.layout.groups))
            pieces.append(self._stream.weighed(piece, self._file))
            self._stream.delivered[self._file] += len(piece[0])
            events -= len(piece[0])
            self._forget(len(piece[0]))
        return pieces

    def _next(self) -> tuple[Array, ...] | None:
        reading = self._reading.popleft()
        if isinstance(reading, EntryRange):
            self._forget(len(reading))
            return None
        if isinstance(reading, _Held):
            self._file = reading.file
            return reading.events
        self._file = reading.block.file
        piece = self._stream.result(reading)
        if piece is None:
            self._forget(len(reading.block))
        return piece

    def _forget(self, events: int) -> None:
        self.asked -= events
        self.left -= events

    def close(self) -> None:
        for reading in self._reading:
            if isinstance(reading, _Reading):
                self._stream.cancel(reading)


class Ahead:
    """The beginning of an epoch, read while TensorFlow still builds the graph of its iterator."""

    def __init__(self, stream: Stream, plan: Plan) -> None:
        self._stream, self._plan = stream, plan
        self._begun: dict[int, list[_FileGroup]] = {}  # by epoch
        weakref.finalize(self, _forget, self._begun).atexit = False

    def begin(self, start: Position) -> None:
        """Have the first blocks read of a whole epoch that was not begun yet."""
        if start.batch or start.lost or start.epoch in self._begun:
            return
        _forget(self._begun)
        plan, each = self._plan, self._stream.blocks_ahead(self._plan)
        groups = [
            _FileGroup(self._stream, plan.blocks(number, start.epoch), start.lost, events, each)
            for number, events in enumerate(plan.quotas)
        ]
        self._begun[start.epoch] = groups
        for group in groups:
            group.ask(0)

    def take(self, start: Position) -> Sequence[_FileGroup]:
        """What was begun of an epoch, for the first that asks for it; nothing if that is not its beginning."""
        return self._begun.pop(start.epoch, ()) if not start.batch and not start.lost else ()


def _forget(begun: dict[int, list[_FileGroup]]) -> None:
    while begun:
        for group in begun.popitem()[1]:
            group.close()


class _Quotas:
    """The events that each chunk takes from every file group, dealt out anew where some are lost."""

    def __init__(self, plan: Plan) -> None:
        self._chunk_size, self._rest = plan.chunk_size, plan.chunk_quotas()

    def __iter__(self) -> Iterator[list[int]]:
        while (step := next(self._rest, None)) is not None:
            yield step

    def deal(self, left: Sequence[int]) -> None:
        """Go on with so many events left in each file group."""
        self._rest = chunk_quotas(left, self._chunk_size) if any(left) else iter(())


def _mix(file_groups: Sequence[_Events], quotas: _Quotas) -> Iterator[list[tuple[Array, ...]]]:
    """The pieces of each chunk.

    Where a block is lost, the chunk is filled up from what is left in each file group, in proportion to that, and the
    chunks behind it are dealt out anew; so each but the last is still a whole one.
    """
    for step in quotas:
        before = sum(file_group.left for file_group in file_groups)
        pieces = _take(file_groups, step)
        while (short := sum(step) - _events(pieces)) and (rest := sum(file_group.left for file_group in file_groups)):
            (more,) = apportion([file_group.left for file_group in file_groups], [min(short, rest)])
            pieces += _take(file_groups, more)
        left = [file_group.left for file_group in file_groups]
        if before - sum(left) != _events(pieces):
            quotas.deal(left)
        if pieces:
            yield pieces


def _take(file_groups: Sequence[_Events], step: Sequence[int]) -> list[tuple[Array, ...]]:
    for file_group, events in zip(file_groups, step, strict=True):
        file_group.ask(events)
    return [piece for file_group, events in zip(file_groups, step, strict=True) for piece in file_group.take(events)]


def _events(pieces: Sequence[tuple[Array, ...]]) -> int:
    return sum(len(piece[0]) for piece in pieces)


def read_block(
    file: RootFile, alike: Alike, start: int, stop: int, layout: Layout, ref: BufferRef | None, kept: str
) -> Any:
    """Runs in a reader process: read and pack one block, or take it from the cache where it is `kept`."""
    from mlaas4hep_tf.io.opening import opened  # here, so that the training process never imports uproot
    from mlaas4hep_tf.io.packed_blocks import remembered
    from mlaas4hep_tf.io.reader import read_packed

    def read() -> Any:
        found = opened(file)
        return _with_opened(read_packed(found, start, stop, layout, ref), file, found)

    keep_freed_memory()
    file = file.with_alike(alike)
    return remembered(kept, file, ref, read)


def read_passing_block(
    file: RootFile, alike: Alike, segments: Sequence[Segment], layout: Layout, steps: Steps, ref: BufferRef | None,
    drawn: Sequence[Drawn] = (), kept: str = "",
) -> Any:  # fmt: skip
    """Runs in a reader process: read, cut, derive and pack one block, or take it from the cache where it is `kept`."""
    from mlaas4hep_tf.analysis.reading import read_passing
    from mlaas4hep_tf.io.opening import opened
    from mlaas4hep_tf.io.packed_blocks import remembered

    def read() -> Any:
        found = opened(file)
        return _with_opened(read_passing(found, segments, layout, steps, ref, drawn), file, found)

    keep_freed_memory()
    file = file.with_alike(alike)
    return remembered(kept, file, ref, read)


def _with_opened(packed: Any, file: RootFile, found: RootFile) -> Any:
    """The packed block and, if its file had to be opened for it, what opening it told."""
    recalled = found is file or (file.unopened is not None and file.unopened.baskets)
    return packed if recalled else replace(packed, opened=found)


def read_others(
    names: tuple[str, ...], steps: Steps, draw: Draw | None, task: tuple[RootFile, int, int]
) -> dict[str, Array]:
    """Runs in a reader process: flat branches in their own dtype, which events are selected, and of which fold."""
    from mlaas4hep_tf.analysis.reading import read_beside

    return read_beside(names, steps, draw, task)
