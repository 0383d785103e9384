"""What a reader process finds in the entries of one block, and how the findings of blocks merge."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mlaas4hep_tf.analysis.cutflow import Counted, counted, merged
from mlaas4hep_tf.analysis.steps import Steps
from mlaas4hep_tf.examples import Example, example_event
from mlaas4hep_tf.grouping import Agreement, Candidate, agreement, differing
from mlaas4hep_tf.identified import NOT_SEEN, Identified, identified
from mlaas4hep_tf.io.branches import BranchInfo
from mlaas4hep_tf.io.buffers import keep_freed_memory
from mlaas4hep_tf.io.columns import ColumnStream
from mlaas4hep_tf.io.files import RootFile
from mlaas4hep_tf.specs import FOUND
from mlaas4hep_tf.statistics import (
    NO_TARGET,
    NOTHING,
    BranchStats,
    TargetStats,
    beyond_float32,
    statistics,
    target_statistics,
)

if TYPE_CHECKING:
    from mlaas4hep_tf.analysis.applied import Applied

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Scanned:
    """What is known of some entries; `merge` of two is that of both.

    Attributes:
        features, targets: statistics of each branch.
        agreements: which members of each group that might be one agree.
        apart: list branches that differ from their group, and in how many events.
        example: an event, of the first block that has one.
        passing: events that pass the selection, between each two edges.
        flow: number of a file -> its cut flow.
        large: integer branches with values that float32 does not hold.
        identified: whether identifiers tell the events apart.
    """

    features: list[BranchStats]
    targets: list[TargetStats]
    agreements: list[Agreement]
    apart: Counter[str]
    example: Example
    passing: tuple[int, ...] = ()
    flow: Mapping[int, Counted] = field(default_factory=dict)
    large: frozenset[str] = frozenset()
    identified: Identified = NOT_SEEN

    def merge(self, other: Scanned) -> Scanned:
        return Scanned(
            [a.merge(b) for a, b in zip(self.features, other.features, strict=True)],
            [a.merge(b) for a, b in zip(self.targets, other.targets, strict=True)],
            [a.merge(b) for a, b in zip(self.agreements, other.agreements, strict=True)],
            self.apart + other.apart,
            self.example or other.example,
            self.passing + other.passing,
            {n: merged([one.flow.get(n, {}) for one in (self, other)]) for n in {**self.flow, **other.flow}},
            self.large | other.large,
            self.identified.merge(other.identified),
        )


@dataclass(frozen=True)
class Wanted:
    """What is to be known.

    Attributes:
        features: feature branches, as they are behind the steps.
        targets: branches of labels and weights.
        groups: groups that might be one.
        steps: of an analysis, or None.
        labels, weights: branches of `targets` that the cut flow is told by, or empty.
        raw: feature branches of the files, where there are steps.
        distributed: features of which the distribution is to be known.
        identifiers: branches of integers that together may tell events apart.
    """

    features: Sequence[BranchInfo]
    targets: Sequence[BranchInfo]
    groups: Sequence[Candidate] = ()
    steps: Steps | None = None
    labels: str = ""
    weights: str = ""
    raw: Sequence[BranchInfo] = ()
    distributed: frozenset[str] = frozenset()
    identifiers: Sequence[BranchInfo] = ()

    @property
    def nothing(self) -> Scanned:
        apart = [Agreement((0,) * len(c.members), (0,) * len(c.members)) for c in self.groups]
        return Scanned([NOTHING] * len(self.features), [NO_TARGET] * len(self.targets), apart, Counter(), {})

    @property
    def read(self) -> tuple[BranchInfo, ...]:
        """Branches that are read from the files, those for the expressions first."""
        if self.steps is None:
            listed = (*self.features, *self.targets, *self.identifiers)
        else:
            stored = (i for i in self.targets if i.name not in self.steps.analysis.defined)
            first = (*self.steps.inputs, *stored, *self.identifiers)
            listed = (*first, *(i for i in self.raw if i.name not in self.steps.counters))
        return tuple({info.name: info for info in listed}.values())

    @property
    def names(self) -> list[str]:
        """Branches that are needed, counters too."""
        return [info.name for info in self.read] + [info.counter for info in self.read if info.counter]


Task = tuple[RootFile, int, Sequence[int]]  # the file, its number, and the edges, from the first entry to the last


def scan_range(wanted: Wanted, task: Task) -> Scanned:
    """Runs in a reader process: what is wanted of one entry range."""
    keep_freed_memory()
    return _scan_range(wanted, task) if wanted.steps is None else _scan_applied(wanted, wanted.steps, task)


def _scan_range(wanted: Wanted, task: Task) -> Scanned:
    """Of all events; the first block of a file gives the example."""
    from mlaas4hep_tf.io.reader import stream  # here, so that the training process never imports uproot

    file, _, edges = task
    infos = wanted.features
    names = [info.name for info in wanted.read]
    counters = {info.counter: None for info in infos if info.counter}
    columns = stream(file, edges[0], edges[-1], names, counters=counters, hold=False)
    exemplary = infos if edges[0] == 0 else ()
    found, values = _taken(wanted, columns, {i.name for i in (*wanted.targets, *wanted.identifiers, *exemplary)})
    apart = differing(infos, columns.counts)
    if apart:
        infos = [replace(info, counter=None) if info.name in apart else info for info in infos]
    per_group = {group: np.bincount(counts).astype(np.int64) for group, counts in columns.counts.items()}
    return Scanned(
        [replace(found[info.name], multiplicities=_multiplicities(info, per_group)) for info in infos],
        [target_statistics(values[info.name]) for info in wanted.targets],
        [agreement(candidate, columns.counts) for candidate in wanted.groups],
        apart,
        example_event(infos, values, columns.counts) if exemplary else {},
        identified=identified([np.concatenate(values[info.name]) for info in wanted.identifiers]),
    )


def _taken(
    wanted: Wanted, columns: ColumnStream, needed: Collection[str]
) -> tuple[dict[str, BranchStats], dict[str, Sequence[Array]]]:
    """Statistics of each feature, without multiplicities, and the values of the branches that are needed longer."""
    features = {info.name for info in wanted.features}
    found, values = dict[str, BranchStats](), dict[str, Sequence[Array]]()
    for name, pieces in columns.values:
        if name in features:
            found[name] = statistics(pieces, distributed=name in wanted.distributed)
        if name in needed:
            values[name] = pieces
    return found, values


def _multiplicities(info: BranchInfo, per_group: Mapping[str, Array]) -> Array:
    return np.zeros(0, np.int64) if info.kind == "flat" else per_group[info.group]


def _scan_applied(wanted: Wanted, steps: Steps, task: Task) -> Scanned:
    """Of the events that pass; branches that no expression reads are read where there are any."""
    from mlaas4hep_tf.analysis import reading
    from mlaas4hep_tf.analysis.applied import Applied
    from mlaas4hep_tf.expressions.by_numpy import NumPy

    file, number, edges = task
    counters = {info.counter: None for info in wanted.read if info.counter}
    first = {info.name for info in (*steps.inputs, *wanted.targets, *wanted.identifiers)}
    early = [i.name for i in wanted.read if i.name in first or not steps.analysis.selects]
    columns = reading.read_columns(file, edges[0], edges[-1], early, steps, counters=counters)
    raw, counts = reading.arrays(columns), reading.group_counts(columns, steps)
    applied = Applied(steps, NumPy(), raw, counts, columns.num_entries)
    held = applied.truths((*steps.select, *steps.train_select))
    alive = np.logical_and.reduce([np.ones(columns.num_entries, bool), *held])
    told = _told(wanted, steps, raw, applied, held, alive, edges, number)
    if not alive.any():
        return replace(wanted.nothing, **told)
    late = [info.name for info in wanted.read if info.name not in raw]
    if late:
        columns = reading.read_columns(file, edges[0], edges[-1], late, steps, counters=counters)
        raw, counts = raw | reading.arrays(columns), reading.group_counts(columns, steps) | counts
        applied.also(raw, counts)
    example = _example(wanted, steps, raw, counts, alive)
    if steps.analysis.selects:
        applied.choose_events(alive)
    return replace(_statistics(wanted, steps, applied), example=example, **told)


def _told(
    wanted: Wanted, steps: Steps, raw: Mapping[str, Array], applied: Applied, held: Sequence[Array], alive: Array,
    edges: Sequence[int], number: int,
) -> dict[str, Any]:  # fmt: skip
    """What is known of all events, whether they pass or not."""
    from mlaas4hep_tf.analysis.reading import counts_between

    large = frozenset(info.name for info in steps.inputs if beyond_float32(raw[info.name]))
    told = {"large": large, "identified": identified([raw[info.name] for info in wanted.identifiers])}
    if not steps.analysis.selects:
        return told
    given = (wanted.labels, wanted.weights)
    labels, weights = (raw.get(name, applied.get(name)) if name else None for name in given)
    flow = counted(held, labels, weights, FOUND)
    return told | {"passing": counts_between(edges, alive), "flow": {number: flow}}


def _example(
    wanted: Wanted, steps: Steps, raw: Mapping[str, Array], counts: Mapping[str, Array], alive: Array
) -> Example:
    """An event that passes, as it is in the file."""
    inputs = {info.name: info for info in (*steps.served, *wanted.raw) if info.name in raw}
    own = {steps.groups[name]: count for name, count in counts.items() if name not in steps.inner}
    inner = {name: count for name, count in counts.items() if name in steps.inner}
    return example_event(list(inputs.values()), {name: (raw[name],) for name in inputs}, own, alive, inner)


def _statistics(wanted: Wanted, steps: Steps, applied: Applied) -> Scanned:
    counts = {steps.groups[name]: own for name, own in applied.counts.items()}
    per_group = {group: np.bincount(own).astype(np.int64) for group, own in counts.items()}
    return replace(
        wanted.nothing,
        features=[
            statistics((applied[i.name],), _multiplicities(i, per_group), distributed=i.name in wanted.distributed)
            for i in wanted.features
        ],
        targets=[target_statistics((applied[info.name],)) for info in wanted.targets],
    )
