"""Streams packed events of a plan's lanes from the reader processes; knows no TensorFlow yet."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from mlaas4hep_tf.branches import Layout
from mlaas4hep_tf.buffers import ArrayPool, ArraySpec, BufferPool, BufferRef, keep_freed_memory
from mlaas4hep_tf.engine import Engine
from mlaas4hep_tf.errors import BranchError, LabelError, near_misses, shorten
from mlaas4hep_tf.files import RootFile, matches
from mlaas4hep_tf.plan import EntryRange, Plan

PerFile = Mapping[str, float] | Sequence[float] | str
Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Target:
    """Labels or weights: one number per file, or a branch.

    Attributes:
        per_file: a number for each file, or empty.
        branch: name of the branch that has it per event, or empty.
    """

    per_file: tuple[float, ...] = ()
    branch: str = ""


def resolve_target(what: str, given: PerFile | None, files: Sequence[RootFile]) -> Target | None:
    """Labels or weights as the user gave them -> a number per file or a flat branch.

    Raises:
        LabelError: patterns that match no file, files that no pattern matches, or a list of another length.
        BranchError: no such flat branch.
    """
    if given is None:
        return None
    if isinstance(given, str):
        return Target(branch=_flat_branch(what, given, files))
    if isinstance(given, Mapping):
        return Target(tuple(_by_pattern(what, given, files)))
    values = tuple(float(v) for v in given)
    if len(values) != len(files):
        raise LabelError(f"a list of {what} needs one number per file: {len(values)} for {len(files)} files")
    return Target(values)


def _by_pattern(what: str, patterns: Mapping[str, float], files: Sequence[RootFile]) -> Iterator[float]:
    used = Counter[str]()
    for file in files:
        pattern = next((p for p in patterns if matches(file.url, p)), None)
        if pattern is None:
            raise LabelError(
                f"no pattern of {what} matches file {file.url}: there are {shorten(map(repr, patterns))}; "
                "add one, for example '*'"
            )
        used[pattern] += 1
        yield float(patterns[pattern])
    idle = [p for p in patterns if not used[p] and not any(matches(f.url, p) for f in files)]
    if idle:
        raise LabelError(
            f"pattern {idle[0]!r} of {what} matches none of the {len(files)} files "
            f"({shorten((f.url for f in files), 3)}); correct it or take it out"
        )


def _flat_branch(what: str, name: str, files: Sequence[RootFile]) -> str:
    for file in files:
        info = next((b for b in file.branches if b.name == name), None)
        if info is None:
            close = near_misses(name, [b.name for b in file.branches])
            raise BranchError(f"no branch {name!r}{close} for the {what} in {file.where}")
        if info.kind != "flat":
            raise BranchError(f"{what} need one number per event: {name!r} is {info.kind} in {file.where}")
    return name


@dataclass(frozen=True)
class Stream:
    """Reads packed events of a plan's lanes and mixes them into chunks.

    It is the part of a dataset that knows files and processes but no TensorFlow.

    Attributes:
        files: all files.
        layout: branches of the packed matrices; label and weight branches are the last flat ones.
        lengths: group -> objects kept per event, to count what is truncated.
        labels, weights: where the numbers come from.
        engine, pool: where reading runs, and the memory that it fills.
        chunk_pool: memory of the chunks.
        truncated: events and objects beyond `lengths` in the latest epoch, by group.
        delivered: events of each file in the latest epoch, by its number.
        failures: errors that ended an epoch; TensorFlow passes on only their text.
    """

    files: tuple[RootFile, ...]
    layout: Layout
    lengths: Mapping[str, int]
    labels: Target | None
    weights: Target | None
    engine: Engine
    pool: BufferPool = field(default_factory=BufferPool)
    chunk_pool: ArrayPool = field(default_factory=ArrayPool)
    truncated: Counter[str] = field(default_factory=Counter)
    delivered: Counter[int] = field(default_factory=Counter)
    failures: list[Exception] = field(default_factory=list)

    @property
    def targets(self) -> tuple[Target, ...]:
        return tuple(t for t in (self.labels, self.weights) if t is not None)

    def fresh(self) -> Stream:
        """The same files and processes with counts and chunk memory of its own."""
        return replace(self, chunk_pool=ArrayPool(), truncated=Counter(), delivered=Counter(), failures=[])

    @property
    def read_layout(self) -> Layout:
        return replace(self.layout, flat=self.layout.flat + tuple(t.branch for t in self.targets if t.branch))

    def chunks(self, plan: Plan, epoch: int) -> Iterator[tuple[Array, ...]]:
        """The chunks of an epoch, packed; each takes its share of every lane.

        The blocks of a whole chunk are asked for at once, so that the reader processes never wait for one lane.

        Yields:
            order of the rows int32 [n]; flat branches, labels and weights float32 [n, F + T]; of each group the
            row of each event's first object and how many it has, int32 [n, 2 G]; and per group a row of NaN and
            the values, float32 [1 + m, F].
        """
        lanes: list[_Lane] = []
        self.truncated.clear()
        self.delivered.clear()
        self.failures.clear()
        try:
            lanes += (_Lane(self, plan.blocks(number, epoch)) for number in range(len(plan.lanes)))
            for number, takes in enumerate(plan.takes.tolist()):
                for lane, events in zip(lanes, takes, strict=True):
                    lane.ask(events)
                pieces = [piece for lane, events in zip(lanes, takes, strict=True) for piece in lane.take(events)]
                yield plan.rows(epoch, number, sum(takes)), *self._assemble(pieces)
        except Exception as error:
            self.failures.append(error)
            raise
        finally:
            for lane in lanes:
                lane.close()

    def _assemble(self, pieces: Sequence[tuple[Array, ...]]) -> tuple[Array, ...]:
        """Copy pieces behind each other into one chunk, in recycled memory."""
        groups = self.layout.groups
        events = sum(len(piece[0]) for piece in pieces)
        objects = [sum(len(piece[1 + 2 * g]) for piece in pieces) for g in range(len(groups))]
        width = len(self.layout.flat) + len(self.targets)
        specs = [ArraySpec((events, width), "float32"), ArraySpec((events, 2 * len(groups)), "int32")]
        specs += [ArraySpec((1 + m, len(names)), "float32") for m, (_, names) in zip(objects, groups, strict=True)]
        flat, bounds, *values = chunk = self.chunk_pool.take(specs)
        _join(flat, [piece[0] for piece in pieces])
        for g, (group, _) in enumerate(groups):
            values[g][0] = np.nan
            _join(values[g][1:], [piece[1 + 2 * g] for piece in pieces])
            counts = np.concatenate([piece[2 + 2 * g] for piece in pieces])
            bounds[:, 2 * g] = 1 + np.cumsum(counts) - counts
            bounds[:, 2 * g + 1] = counts
            self._count(group, counts)
        return tuple(chunk)

    def _count(self, group: str, counts: Array) -> None:
        beyond = counts - self.lengths[group]
        beyond = beyond[beyond > 0]
        if len(beyond):
            self.truncated[f"{group} events"] += len(beyond)
            self.truncated[f"{group} objects"] += int(beyond.sum())

    def read(self, block: EntryRange) -> _Reading:
        """Ask a reader process for a block."""
        ref = self.pool.lend() if self.engine.shares_memory else None
        try:
            return _Reading(block, ref, self._submit(block, ref))
        except BaseException:
            if ref is not None:
                self.pool.give_back(ref)
            raise

    def result(self, reading: _Reading) -> tuple[Array, ...]:
        """Wait for a block: flat with targets; per group values and counts."""
        try:
            packed = self.engine.result(reading.future, partial(self._submit, reading.block, reading.ref))
        except BaseException:
            self.cancel(reading)
            raise
        arrays = packed.arrays if reading.ref is None else self.pool.arrays(reading.ref, packed.specs)
        return self._with_targets(arrays, self.files[reading.block.file], reading.block.file)

    def cancel(self, reading: _Reading) -> None:
        """Forget a block that was asked for; its buffer comes back when no reader writes to it any more."""
        reading.future.cancel()
        if reading.ref is not None:
            reading.future.add_done_callback(partial(self._give_back, reading.ref))

    def _give_back(self, ref: BufferRef, future: Future[Any]) -> None:
        if not future.cancelled() and isinstance(future.exception(), BrokenProcessPool):
            self.pool.drop(ref)  # the reader may be alive for a moment yet, and write
        else:
            self.pool.give_back(ref)

    def _submit(self, block: EntryRange, ref: BufferRef | None) -> Future[Any]:
        file = self.files[block.file]
        return self.engine.submit(
            read_block, file.part(self.read_layout.names, block.start, block.stop), block.start, block.stop,
            self.read_layout, ref,
        )  # fmt: skip

    def _with_targets(self, arrays: Sequence[Array], file: RootFile, number: int) -> tuple[Array, ...]:
        """The arrays of a block, with labels and weights as the last columns of the flat ones."""
        flat, rest = arrays[0], arrays[1:]
        column = len(self.layout.flat)
        columns = [flat[:, :column]]
        for target in self.targets:
            if target.branch:
                columns.append(flat[:, column : column + 1])
                column += 1
                if not np.isfinite(columns[-1]).all():
                    raise LabelError(
                        f"branch {target.branch!r} must be finite in every event; it is not in {file.where}"
                    )
            else:
                columns.append(np.full((len(flat), 1), target.per_file[number], np.float32))
        return (np.hstack(columns) if len(columns) > 1 else flat, *rest)


@dataclass(frozen=True)
class _Reading:
    """A block that a reader process is working on."""

    block: EntryRange
    ref: BufferRef | None
    future: Future[Any]


class _Lane:
    """The blocks of one lane, read ahead in order, from which any number of events is taken."""

    def __init__(self, stream: Stream, blocks: Sequence[EntryRange]) -> None:
        self._stream = stream
        self._todo = iter(blocks)
        self._reading: deque[_Reading] = deque()
        self._rest: tuple[Array, ...] | None = None
        self._file = 0  # from which it is
        self._asked = 0  # events that are being read, or left over

    def ask(self, events: int) -> None:
        """Have the blocks read that the next `events` events lie in, and one more."""
        while self._asked < events + 1 and (block := next(self._todo, None)) is not None:
            self._reading.append(self._stream.read(block))
            self._asked += len(block)

    def take(self, events: int) -> list[tuple[Array, ...]]:
        """The next events as packed pieces; they were asked for."""
        self._asked -= events
        pieces = []
        while events:
            piece, self._rest = self._rest or self._next(), None
            if len(piece[0]) > events:
                piece, self._rest = _cut(piece, events, len(self._stream.layout.groups))
            pieces.append(piece)
            self._stream.delivered[self._file] += len(piece[0])
            events -= len(piece[0])
        return pieces

    def _next(self) -> tuple[Array, ...]:
        reading = self._reading.popleft()
        self._file = reading.block.file
        return self._stream.result(reading)

    def close(self) -> None:
        for reading in self._reading:
            self._stream.cancel(reading)


def read_block(file: RootFile, start: int, stop: int, layout: Layout, ref: BufferRef | None) -> Any:
    """Runs in a reader process: read and pack one block."""
    from mlaas4hep_tf.reader import read_packed  # here, so that the training process never imports uproot

    keep_freed_memory()
    return read_packed(file, start, stop, layout, ref)


def read_flat(names: tuple[str, ...], task: tuple[RootFile, EntryRange]) -> dict[str, Any]:
    """Runs in a reader process: flat branches in their own dtype."""
    from mlaas4hep_tf.reader import read

    file, entries = task
    columns = read(file, entries.start, entries.stop, names)
    return {
        name: np.concatenate([np.empty(0, pieces[0].dtype.newbyteorder("=") if pieces else np.float32), *pieces])
        for name, pieces in columns.values.items()
    }


def _join(out: Array, parts: Sequence[Array]) -> None:
    if parts:
        np.concatenate(parts, out=out)


def _cut(events: tuple[Array, ...], at: int, groups: int) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
    """Cut packed events in two behind event `at`."""
    head, tail = [events[0][:at]], [events[0][at:]]
    for number in range(groups):
        values, counts = events[1 + 2 * number], events[2 + 2 * number]
        objects = int(counts[:at].sum())
        head += [values[:objects], counts[:at]]
        tail += [values[objects:], counts[at:]]
    return tuple(head), tuple(tail)
