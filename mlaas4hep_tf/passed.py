"""From what a scan with an analysis found to what the specs say of it: inputs, passing events, cut flow."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from mlaas4hep_tf.analysis.cutflow import Counted, CutFlow, CutFlowRow
from mlaas4hep_tf.analysis.passing import estimated
from mlaas4hep_tf.analysis.rules import Analysis
from mlaas4hep_tf.analysis.steps import Steps
from mlaas4hep_tf.blockscan import Scanned, Wanted
from mlaas4hep_tf.errors import shorten
from mlaas4hep_tf.io.branches import Selection, meant
from mlaas4hep_tf.io.files import RootFile
from mlaas4hep_tf.specs import FileSpec, InputSpec, Specs
from mlaas4hep_tf.streaming.plan import EntryRange, cut
from mlaas4hep_tf.streaming.skipped import SkippedRange
from mlaas4hep_tf.streaming.targets import PerFile, per_file

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
    """The selection for the branches of the files, which have none of the derived ones."""
    kept = tuple(pattern for pattern in selection.exclude if pattern not in rules.defined)
    return replace(selection, exclude=kept)


def with_steps(wanted: Wanted, steps: Steps, selection: Selection, labels: str, weights: str) -> Wanted:
    """What is wanted of the events behind the steps.  What is derived is a feature unless it is excluded."""
    grouped = {info.name: info for info in steps.infos}
    raw = [grouped[info.name] for info in wanted.features]
    excluded = frozenset[str]().union(*(meant(pattern, steps.analysis.defined) for pattern in selection.exclude))
    features = [*steps.after(raw), *(info for info in steps.defined if info.name not in excluded)]
    ordered = sorted(features, key=lambda info: (info.kind != "flat", info.name))
    return replace(wanted, features=ordered, groups=(), steps=steps, labels=labels, weights=weights, raw=raw)


def with_analysis(
    specs: Specs, steps: Steps, wanted: Wanted, total: Scanned, passing: Sequence[Passed], files: Sequence[RootFile]
) -> Specs:
    """The specs with the analysis, the branches that it reads, and how many events pass in each file."""
    stored = {info.name: info.group for info in files[0].branches}
    raw = {info.name for info in wanted.raw}
    served = {info.name for info in steps.served}
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
        files=counted_files(specs.files, passing) if steps.analysis.selects else specs.files,
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
    steps: Steps, total: Scanned, files: Sequence[RootFile], labels: PerFile | None, weights: PerFile | None
) -> CutFlow | None:
    """What the selection left, by file and label; None where there is no selection."""
    if not steps.analysis.selects:
        return None
    names = [file.names for file in files]
    own = per_file("labels", labels, names) if labels is not None and not isinstance(labels, str) else None
    factors = per_file("weights", weights, names) if weights is not None and not isinstance(weights, str) else None
    rows = [
        row
        for number, flow in sorted(total.flow.items())
        for row in _rows(files[number].url, flow, own[number] if own else None, factors[number] if factors else None)
    ]
    return CutFlow((*steps.analysis.select, *steps.analysis.train_select), tuple(rows))


def _rows(url: str, flow: Counted, label: float | None, factor: float | None) -> Iterator[CutFlowRow]:
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
