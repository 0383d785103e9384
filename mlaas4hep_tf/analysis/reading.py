"""Reads entry ranges of ROOT trees and applies the steps of an analysis; runs in reader processes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mlaas4hep_tf.analysis.applied import Applied
from mlaas4hep_tf.analysis.draws import ENTRY, FILE, FOLD, Draw, Drawn, number_of
from mlaas4hep_tf.analysis.passing import Segment
from mlaas4hep_tf.analysis.steps import Steps
from mlaas4hep_tf.errors import InputFileError, PlanError
from mlaas4hep_tf.expressions.by_numpy import NumPy
from mlaas4hep_tf.expressions.tree import Node
from mlaas4hep_tf.io.branches import Layout
from mlaas4hep_tf.io.buffers import BufferRef
from mlaas4hep_tf.io.columns import Columns, behind_each_other
from mlaas4hep_tf.io.files import RootFile
from mlaas4hep_tf.io.reader import Packed, pack_checked, read_grouped

Array = npt.NDArray[Any]
SELECTED = "selected"


def read_applied(file: RootFile, start: int, stop: int, names: Iterable[str], steps: Steps) -> Applied:
    """The branches behind the cuts of objects, and what is derived, of all events of an entry range.

    Args:
        names: branches of the files to have, besides those that the steps read.
    """
    columns = read_columns(file, start, stop, steps.reads(names), steps)
    return Applied(steps, NumPy(), arrays(columns), group_counts(columns, steps), columns.num_entries)


def read_columns(
    file: RootFile, start: int, stop: int, names: Sequence[str], steps: Steps, *, counters: Iterable[str] = ()
) -> Columns:
    """Branches of the files in the groups that the steps know."""
    groups: dict[str, list[str]] = {}
    for name in names:
        if name in steps.group_of:
            groups.setdefault(steps.groups[steps.group_of[name]], []).append(name)
    return read_grouped(file, start, stop, names, list(groups.items()), counters=counters)


def arrays(columns: Columns) -> dict[str, Array]:
    """Branch -> its values as one array of the machine's byte order."""
    return {name: _one_array(pieces) for name, pieces in columns.values.items()}


def _one_array(pieces: Sequence[Array]) -> Array:
    if len(pieces) == 1 and pieces[0].dtype.isnative:
        return pieces[0]
    dtype = pieces[0].dtype.newbyteorder("=") if pieces else np.dtype(np.float32)
    return np.concatenate([np.empty(0, dtype), *pieces], dtype=dtype)


def group_counts(columns: Columns, steps: Steps) -> dict[str, Array]:
    """Group, as expressions name it -> objects of each event; lists in them -> values of each object."""
    inner = {name: columns.inner[name] for name in steps.inner if name in columns.inner}
    return inner | {name: columns.counts[group] for group, name in steps.name_of.items() if group in columns.counts}


def passing(applied: Applied, conditions: Sequence[Node]) -> Array:
    """Which events all conditions hold for."""
    held = applied.truths(conditions)
    return np.asarray(np.logical_and.reduce(held)) if held else np.ones(applied.entries, bool)


def columns_of(applied: Applied, names: Iterable[str], steps: Steps) -> Columns:
    """Some branches of applied steps as columns, by the groups of the specs."""
    counts = {steps.groups[name]: own for name, own in applied.counts.items()}
    return Columns(applied.entries, {name: (applied[name],) for name in names}, counts)


def read_beside(
    names: Sequence[str], steps: Steps, draw: Draw | None, task: tuple[RootFile, int, int]
) -> dict[str, Array]:
    """Flat branches in their own dtype of all events of an entry range; also ``selected``, and `FOLD` of a draw."""
    file, start, stop = task
    applied = read_applied(file, start, stop, names, steps)
    found = {name: np.asarray(applied[name]) for name in names}
    if draw is not None:
        found[FOLD] = read_parts(draw, file, start, stop).astype(np.int32)
    return found | ({SELECTED: passing(applied, steps.select)} if steps.select else {})


def read_parts(draw: Draw, file: RootFile, start: int, stop: int) -> Array:
    """The number of the part of each event of an entry range, int64; read where it rests on branches.

    Raises:
        PlanError: numbers that are none of a part.
    """
    steps = draw.steps(file.branches)
    values = {FILE: np.full(stop - start, number_of(file)), ENTRY: np.arange(start, stop)}
    if draw.servable:
        values = arrays(read_columns(file, start, stop, [info.name for info in steps.inputs], steps))
    found: Array = draw.of(steps, NumPy(), values, stop - start)
    wrong = found[(found < 0) | (found >= len(draw.shares))]
    if len(wrong):
        raise PlanError(
            f"{draw.describe()} must give 0 to {len(draw.shares) - 1}, and gives {wrong[0]} in "
            f"{file.where}, entries {start} to {stop}; take a remainder, for example event % {len(draw.shares)}"
        )
    return found


def count_parts(
    draw: Draw, drawn: Sequence[Drawn], steps: Steps | None, task: tuple[RootFile, Sequence[int]]
) -> list[list[int]]:
    """How many events of each part there are between two edges, of those that are `drawn` and pass the selection."""
    file, edges = task
    start, stop = edges[0], edges[-1]
    held = np.ones(stop - start, bool)
    if steps is not None:
        held = passing(read_applied(file, start, stop, (), steps), (*steps.select, *steps.train_select))
    for one in drawn:
        held &= np.isin(read_parts(one.draw, file, start, stop), one.parts)
    numbers = np.where(held, read_parts(draw, file, start, stop), -1)
    counts = [counts_between(edges, numbers == part) for part in range(len(draw.shares))]
    return [list(own) for own in counts]


def read_passing(
    file: RootFile, segments: Sequence[Segment], layout: Layout, steps: Steps, ref: BufferRef | None,
    drawn: Sequence[Drawn] = (),
) -> Packed:  # fmt: skip
    """The packed events of some segments that pass, and that are `drawn`.

    Raises:
        InputFileError: also where other events pass than did when they were counted.
    """
    parts = [_read_segment(file, segment, layout.names, steps, drawn) for segment in segments]
    where = f"{file.where}, entries {segments[0].start} to {segments[-1].stop}"
    return pack_checked(behind_each_other(parts).stream(), layout, where, ref)


def _read_segment(
    file: RootFile, segment: Segment, names: Sequence[str], steps: Steps, drawn: Sequence[Drawn]
) -> Columns:
    applied = read_applied(file, segment.start, segment.stop, names, steps)
    if steps.analysis.selects or drawn:
        held = passing(applied, (*steps.select, *steps.train_select))
        for one in drawn:
            held &= np.isin(read_parts(one.draw, file, segment.start, segment.stop), one.parts)
        _check_count(file, segment, int(np.count_nonzero(held)))
        held[np.flatnonzero(held)[: segment.first]] = False
        held[np.flatnonzero(held)[segment.last - segment.first :]] = False
        if not held.all():
            applied.choose_events(held)
    return columns_of(applied, names, steps)


def _check_count(file: RootFile, segment: Segment, found: int) -> None:
    if found != segment.events:
        raise InputFileError(
            f"{found} of the entries {segment.start} to {segment.stop} of {file.where} pass the selection, and "
            f"{segment.events} did when they were counted: the file has changed; scan again"
        )


def counts_between(edges: Sequence[int], held: Array) -> tuple[int, ...]:
    """How many of the events between two edges, which begin with the first of them, are true."""
    sums = np.concatenate([[0], np.cumsum(held)])
    return tuple(np.diff(sums[np.asarray(edges) - edges[0]]).tolist())
