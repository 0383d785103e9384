"""Reference histograms of a model's raw inputs, for the model card: what a server compares with what it is asked."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from mlaas4hep_tf.analysis.applied import Applied
from mlaas4hep_tf.analysis.reading import arrays, group_counts, passing
from mlaas4hep_tf.analysis.steps import Steps
from mlaas4hep_tf.errors import DataWarning, MlaasError
from mlaas4hep_tf.expressions.by_numpy import NumPy
from mlaas4hep_tf.io.branches import Selection
from mlaas4hep_tf.io.files import FileArgument, RootFile, expand
from mlaas4hep_tf.io.read_options import DEFAULT_READ, ReadOptions
from mlaas4hep_tf.io.reader import read_grouped
from mlaas4hep_tf.io.workers import WorkerPool
from mlaas4hep_tf.specs import Specs
from mlaas4hep_tf.streaming.open_files import inspect_files
from mlaas4hep_tf.streaming.ranges import blocks

Array = npt.NDArray[Any]
BINS = 50
EVENTS = 100_000  # that are looked at, at most
_BLOCK = 8192  # entries read together
_CELLS = BINS + 3  # below the range, the bins, above it, and missing (NaN, infinite)


@dataclass(frozen=True)
class _Task:
    """What is counted: branch -> its group ("" for a flat one), branch -> its range, and the steps of the selection."""

    groups: Mapping[str, str]
    ranges: Mapping[str, tuple[float, float]]
    steps: Steps


def reference(
    files: FileArgument, specs: Specs, *, events: int = EVENTS, read: ReadOptions = DEFAULT_READ
) -> dict[str, Any]:
    """Histograms of the inputs that the exported model takes, as they are in the files.

    Each feature has 50 equal bins between the least and the largest value that scan found, which those of other events
    may lie beyond; lists are counted value by value, before any cut of objects.  Inputs that only expressions use have
    no range in the specs and are left out.

    Args:
        files: those of the training, or of any other sample that shall be the reference.
        specs: of the model.
        events: how many are looked at; of more every so many blocks of each file are.

    Returns:
        For `export(..., card={"reference": reference(files, specs)})`: ``events``; ``inputs``: branch -> ``range``,
        ``all`` [below, 50 bins, above, missing] and, where the specs have a selection, ``passing``, the same of the
        events that pass.

    Raises:
        MlaasError: files that cannot be read, or lack a branch.
    """
    pool = WorkerPool(read)
    task = _Task(_groups(specs), _ranges(specs), specs.steps_beside())
    names = tuple(dict.fromkeys([*task.ranges, *task.steps.reads(())]))
    opened = inspect_files(specs.with_friends(expand(files, specs.tree or None)), Selection(names, (), ()), pool)
    places = [
        block for n, file in enumerate(opened) for block in blocks(n, file.num_entries, file.entry_offsets, _BLOCK)
    ]
    places = places[:: max(1, -(-sum(map(len, places)) // events))]
    parts = ((opened[at.file].part(names, at.start, at.stop), at.start, at.stop) for at in places)
    found = list(pool.map(partial(_counted, task), parts))
    return {"events": sum(map(len, places)), "inputs": _inputs(task, found)}


def card_entry(files: FileArgument, specs: Specs) -> dict[str, Any]:
    """`reference` as an entry of a model card; a warning and no entry where the files cannot be read any more."""
    try:
        return {"reference": reference(files, specs)}
    except MlaasError as error:
        warnings.warn(f"the model card has no reference histograms of the inputs: {error}", DataWarning, stacklevel=2)
        return {}


def _ranges(specs: Specs) -> dict[str, tuple[float, float]]:
    known = {branch.name: (branch.min, branch.max) for branch in specs.branches}
    bounds = {one.name: known.get(one.name, (None, None)) for one in specs.served_inputs}
    return {name: (low, high) for name, (low, high) in bounds.items() if low is not None and high is not None}


def _groups(specs: Specs) -> dict[str, str]:
    return {one.name: "" if one.kind == "flat" else one.group for one in specs.served_inputs}


def _counted(task: _Task, part: tuple[RootFile, int, int]) -> dict[str, Array]:
    """Branch -> cells of all events, and below them of those that pass, int64 [2, cells]; in a reader process."""
    file, start, stop = part
    names = tuple(dict.fromkeys([*task.ranges, *task.steps.reads(())]))
    members: dict[str, list[str]] = {}
    for name in names:
        if task.groups.get(name):
            members.setdefault(task.groups[name], []).append(name)
    columns = read_grouped(file, start, stop, names, list(members.items()))
    values = arrays(columns)
    applied = Applied(task.steps, NumPy(), values, group_counts(columns, task.steps), columns.num_entries)
    held = passing(applied, task.steps.select)
    own = {group: np.repeat(held, counts) for group, counts in columns.counts.items()}
    return {
        name: np.stack([cells(values[name], *bounds), cells(values[name][own.get(task.groups[name], held)], *bounds)])
        for name, bounds in task.ranges.items()
    }


def cells(values: Array, low: float, high: float) -> npt.NDArray[np.int64]:
    """How many values lie below a range, in its 50 bins, above it, and are missing, int64 [53]."""
    finite = values[np.isfinite(values)].astype(np.float64)
    width = (high - low) / BINS or 1.0
    place = np.clip(np.floor((finite - low) / width), -1, BINS)
    place[finite == high] = BINS - 1  # the last bin has both its edges
    found = np.bincount((place + 1).astype(np.int64), minlength=_CELLS)
    found[-1] = len(values) - len(finite)
    return found


def _inputs(task: _Task, found: Sequence[Mapping[str, Array]]) -> dict[str, dict[str, Any]]:
    kinds = ("all", "passing") if task.steps.select else ("all",)
    summed = {name: np.sum([part[name] for part in found], axis=0).tolist() for name in task.ranges}
    return {
        name: {"range": list(bounds), **dict(zip(kinds, summed[name], strict=False))}
        for name, bounds in task.ranges.items()
    }
