"""Streams packed events of a plan's lanes from the reader processes; knows no TensorFlow yet."""

from __future__ import annotations

import itertools
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from mlaas4hep_tf.branches import Layout
from mlaas4hep_tf.buffers import BufferPool, BufferRef
from mlaas4hep_tf.engine import Engine
from mlaas4hep_tf.errors import BranchError, LabelError, MlaasError, near_misses, shorten
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
    """Reads lanes of packed events; the part of a dataset that knows files and processes but no TensorFlow.

    Attributes:
        files: all files.
        layout: branches of the packed matrices; label and weight branches are the last flat ones.
        lengths: group -> objects kept per event, to count what is truncated.
        labels, weights: where the numbers come from.
        engine, pool: where reading runs, and the memory that it fills.
        truncated: events and objects beyond `lengths` so far, by group.
        failures: errors that ended a lane; TensorFlow passes on only their text.
    """

    files: tuple[RootFile, ...]
    layout: Layout
    lengths: Mapping[str, int]
    labels: Target | None
    weights: Target | None
    engine: Engine
    pool: BufferPool = field(default_factory=BufferPool)
    truncated: Counter[str] = field(default_factory=Counter)
    failures: list[Exception] = field(default_factory=list)

    @property
    def targets(self) -> tuple[Target, ...]:
        return tuple(t for t in (self.labels, self.weights) if t is not None)

    @property
    def read_layout(self) -> Layout:
        return replace(self.layout, flat=self.layout.flat + tuple(t.branch for t in self.targets if t.branch))

    def lane(self, plan: Plan, lane: int, epoch: int) -> Iterator[tuple[Array, ...]]:
        """One element per chunk: the events that the chunk takes from this lane, packed.

        Yields:
            flat float32 [n, F]; per group values float32 [m, F] and counts int32 [n]; labels, weights
            float32 [n] where there are any.
        """
        try:
            yield from self._chunks(plan, lane, epoch)
        except MlaasError as error:
            self.failures.append(error)
            raise

    def _chunks(self, plan: Plan, lane: int, epoch: int) -> Iterator[tuple[Array, ...]]:
        takes = plan.takes[:, lane].tolist()
        ahead = 1 + -(-(self.engine.workers + 1) // len(plan.lanes))
        source = self._read_ahead(plan.blocks(lane, epoch), ahead)
        rest: list[tuple[Array, ...]] = []
        for wanted in takes:
            pieces = []
            while wanted:
                events = rest.pop() if rest else self._count(next(source))
                if len(events[0]) > wanted:
                    events, tail = _cut(events, wanted, len(self.layout.groups))
                    rest.append(tail)
                pieces.append(events)
                wanted -= len(events[0])
            yield self._join(pieces)

    def _count(self, events: tuple[Array, ...]) -> tuple[Array, ...]:
        for number, (group, _) in enumerate(self.layout.groups):
            beyond = events[2 + 2 * number] - self.lengths[group]
            beyond = beyond[beyond > 0]
            if len(beyond):
                self.truncated[f"{group} events"] += len(beyond)
                self.truncated[f"{group} objects"] += int(beyond.sum())
        return events

    def _join(self, pieces: Sequence[tuple[Array, ...]]) -> tuple[Array, ...]:
        if len(pieces) == 1:
            return pieces[0]
        if pieces:
            return tuple(np.concatenate(parts) for parts in zip(*pieces, strict=True))
        empty: list[Array] = [np.empty((0, len(self.layout.flat)), np.float32)]
        for _, names in self.layout.groups:
            empty += [np.empty((0, len(names)), np.float32), np.empty(0, np.int32)]
        return (*empty, *(np.empty(0, np.float32) for _ in self.targets))

    def _read_ahead(self, blocks: Sequence[EntryRange], ahead: int) -> Iterator[tuple[Array, ...]]:
        """The blocks in order, with `ahead` of them being read while one is worked on."""
        waiting: deque[tuple[EntryRange, BufferRef | None, Future[Any]]] = deque()
        todo = iter(blocks)
        try:
            while True:
                for block in itertools.islice(todo, ahead - len(waiting)):
                    ref = self.pool.lend() if self.engine.shares_memory else None
                    waiting.append((block, ref, self._submit(block, ref)))
                if not waiting:
                    return
                block, ref, future = waiting.popleft()
                packed = self.engine.result(future, partial(self._submit, block, ref))
                arrays = packed.arrays if ref is None else self.pool.arrays(ref, packed.specs)
                yield self._with_targets(arrays, self.files[block.file], block.file)
        finally:
            for _, ref, future in waiting:
                future.cancel()
                if ref is not None:
                    future.add_done_callback(partial(self._give_back, ref))

    def _give_back(self, ref: BufferRef, _: Future[Any]) -> None:
        self.pool.give_back(ref)

    def _submit(self, block: EntryRange, ref: BufferRef | None) -> Future[Any]:
        file = self.files[block.file]
        return self.engine.submit(
            read_block, file.part(self.read_layout.names, block.start, block.stop), block.start, block.stop,
            self.read_layout, ref,
        )  # fmt: skip

    def _with_targets(self, arrays: Sequence[Array], file: RootFile, number: int) -> tuple[Array, ...]:
        flat, rest = arrays[0], arrays[1:]
        column = len(self.layout.flat)
        targets = []
        for target in self.targets:
            if target.branch:
                targets.append(np.ascontiguousarray(flat[:, column]))
                column += 1
            else:
                targets.append(np.full(len(flat), target.per_file[number], np.float32))
        if column > len(self.layout.flat):
            flat = np.ascontiguousarray(flat[:, : len(self.layout.flat)])
        for target, values in zip(self.targets, targets, strict=True):
            if target.branch and not np.isfinite(values).all():
                raise LabelError(f"branch {target.branch!r} must be finite in every event; it is not in {file.where}")
        return (flat, *rest, *targets)


def read_block(file: RootFile, start: int, stop: int, layout: Layout, ref: BufferRef | None) -> Any:
    """Runs in a reader process: read and pack one block."""
    from mlaas4hep_tf.reader import read_packed  # here, so that the training process never imports uproot

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


def _cut(events: tuple[Array, ...], at: int, groups: int) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
    """Cut packed events in two behind event `at`."""
    head, tail = [events[0][:at]], [events[0][at:]]
    for number in range(groups):
        values, counts = events[1 + 2 * number], events[2 + 2 * number]
        objects = int(counts[:at].sum())
        head += [values[:objects], counts[:at]]
        tail += [values[objects:], counts[at:]]
    targets = events[1 + 2 * groups :]
    return (*head, *(t[:at] for t in targets)), (*tail, *(t[at:] for t in targets))
