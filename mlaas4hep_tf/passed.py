"""From what a scan with an analysis found to what the specs say of it: inputs, passing events, cut flow."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from mlaas4hep_tf.analysis.cutflow import Counted, CutFlow, CutFlowRow
from mlaas4hep_tf.analysis.passing import estimated
from mlaas4hep_tf.analysis.rules import Analysis
from mlaas4hep_tf.analysis.steps import Steps, steps_of
from mlaas4hep_tf.blockscan import Scanned, Wanted
from mlaas4hep_tf.errors import shorten
from mlaas4hep_tf.expressions.syntax import words_of
from mlaas4hep_tf.files_table import FileSpec, FilesTable
from mlaas4hep_tf.io.branches import Selection, meant
from mlaas4hep_tf.io.files import RootFile
from mlaas4hep_tf.specs import InputSpec, Specs
from mlaas4hep_tf.streaming.ranges import EntryRange, cut
from mlaas4hep_tf.streaming.skipped import SkippedRange
from mlaas4hep_tf.streaming.targets import Labels, PerFile, per_file
from mlaas4hep_tf.tasks import class_names, numbered

EDGE_ENTRIES = 2048  # between which passing events are counted, unless clusters are larger


@dataclass(frozen=True)
class Passed:
    """Events of a file that pass between each two edges; `events` is empty where they could not be read."""

    file: int
    edges: tuple[int, ...]
    events: tuple[int, ...]


def edges(block: EntryRange, entry_offsets: Sequence[int]) -> list[int]:
    """Entries of a block between which events are counted: where clusters begin, small ones joined."""
    parts = cut(block, entry_offsets, EDGE_ENTRIES, largest=max(len(block), 1))
    return [block.start, *(part.stop for part in parts)]


def without_defined(selection: Selection, rules: Analysis) -> Selection:
    """The selection for the branches of the files, which have no derived ones; where only such are named, none."""
    branches, exclude = (
        tuple(pattern for pattern in given if pattern not in rules.defined)
        for given in (selection.branches, selection.exclude)
    )
    only_derived = bool(selection.branches) and not branches
    return replace(selection, branches=branches, exclude=("*",) if only_derived else exclude)


def with_steps(
    wanted: Wanted, steps: Steps, selection: Selection, told: Sequence[str], labels: str, weights: str
) -> Wanted:
    """What is wanted of the events behind the steps.  What is derived is a feature unless it is excluded, or others
    are named, or it is `told`.
    """
    grouped = {info.name: info for info in steps.infos}
    raw = [grouped[info.name] for info in wanted.features]
    excluded = frozenset[str]().union(*(meant(pattern, steps.analysis.defined) for pattern in selection.exclude))
    asked = {name for name in selection.branches if name in steps.analysis.defined} or {*steps.analysis.defined}
    features = [*steps.after(raw), *(info for info in steps.defined if info.name in asked - excluded)]
    ordered = sorted(features, key=lambda info: (info.kind != "flat", info.name))
    derived = [info for info in steps.defined if info.name in told]
    return replace(
        wanted, features=ordered, targets=[*wanted.targets, *derived], groups=(), steps=steps, labels=labels,
        weights=weights, raw=raw,
    )  # fmt: skip


def with_analysis(
    specs: Specs, wanted: Wanted, total: Scanned, passing: Sequence[Passed], files: Sequence[RootFile],
    labels: Labels | None, weights: PerFile | None,
) -> Specs:  # fmt: skip
    """The specs with the analysis, if there is one: what it reads, how many events pass in each file, the cut flow."""
    steps = wanted.steps
    if steps is None:
        return specs
    stored = {info.name: info.group for info in files[0].branches}
    raw = {info.name for info in wanted.raw}
    features = [info.name for info in wanted.features]
    served = {info.name for info in steps_of(steps.analysis.serving(words_of, features), steps.infos).served}
    used = {info.name for info in steps.inputs}
    inputs = tuple(
        InputSpec(
            i.name, i.kind, i.dtype, i.group, i.length, i.name in raw,
            i.name in (raw | served).difference(steps.counters),
            i.name in used and (i.name in total.large or i.name in steps.integers), i.inner, i.friend,
        )
        for i in steps.infos
        if i.name in used | raw | {*steps.counters}
    )  # fmt: skip
    return replace(
        specs, analysis=steps.analysis, inputs=inputs,
        stored_groups={i.name: stored[i.name] for i in inputs if stored[i.name] != i.group},
        files=FilesTable.of(counted_files(specs.files, passing), specs.files.branches, specs.files.indexed)
        if steps.analysis.selects else specs.files,
        cutflow=cut_flow(steps, total, files, labels, weights),
    )  # fmt: skip


def counted_files(files: Sequence[FileSpec], passing: Sequence[Passed]) -> tuple[FileSpec, ...]:
    """Files with what was counted in their blocks."""
    own: list[list[Passed]] = [[] for _ in files]
    for part in passing:
        own[part.file].append(part)
    return tuple(_with_passing(file, parts) for file, parts in zip(files, own, strict=True))


def _with_passing(file: FileSpec, parts: Sequence[Passed]) -> FileSpec:
    found = [part.events or (-1,) * (len(part.edges) - 1) for part in parts]
    bounds = (0, *(edge for part in parts for edge in part.edges[1:]))
    return replace(file, edges=bounds, passing=tuple(n for events in found for n in events))


def cut_flow(
    steps: Steps, total: Scanned, files: Sequence[RootFile], labels: Labels | None, weights: PerFile | None
) -> CutFlow | None:
    """What the selection left, by file and label; None where there is no selection."""
    if not steps.analysis.selects:
        return None
    names = [file.names for file in files]
    own = _labels(labels, names)
    factors = per_file("weights", weights, names) if weights is not None and not isinstance(weights, str) else None
    rows = [
        row
        for number, flow in sorted(total.flow.items())
        for row in _rows(files[number].url, flow, own[number] if own else None, factors[number] if factors else None)
    ]
    return CutFlow((*steps.analysis.select, *steps.analysis.train_select), tuple(rows))


def _labels(labels: Labels | None, files: Sequence[tuple[str, ...]]) -> Sequence[float | str] | None:
    """The label of each file, or the name of its class; None where labels are not given by file."""
    if labels is None or isinstance(labels, str):
        return None
    names = class_names(labels)
    given = numbered(labels, names)
    assert not isinstance(given, str)
    numbers = per_file("labels", given, files)
    return [names[int(number)] for number in numbers] if names else numbers


def _rows(url: str, flow: Counted, label: float | str | None, factor: float | None) -> Iterator[CutFlowRow]:
    for found, (events, heavy) in sorted(flow.items(), key=lambda item: (item[0] is not None, item[0])):
        weighted = events * factor if factor is not None else heavy
        yield CutFlowRow(url, found if label is None else label, tuple(events.tolist()), tuple(weighted.tolist()))


def not_counted(file: RootFile, number: int, spec: FileSpec) -> list[SkippedRange]:
    """Entries of a file that could not be read when events were counted."""
    reason = "it could not be read when the events that pass were counted"
    return [
        SkippedRange(file.url, number, start, stop, reason, passing=events, estimated=True)
        for start, stop, events in estimated(spec.passing, spec.edges)
    ]


def nothing_passes(rules: Analysis) -> str:
    """What to say where no event is left."""
    cuts = (*rules.select, *rules.train_select)
    return f"no event passes the selection {shorten(cuts)}, so there is nothing to describe; widen it"
