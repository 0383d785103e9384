"""Pass 1: one parallel read of the data, as statistics that merge, finished into `Specs` (paper, section 3.3)."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise

import numpy as np

from mlaas4hep_tf.errors import DataWarning, InputFileError, ReaderError, shorten
from mlaas4hep_tf.examples import Example, example_event
from mlaas4hep_tf.grouping import Agreement, Candidate, Groups, agreement, candidates, differing, joined
from mlaas4hep_tf.io.branches import IDENTIFIERS, BranchInfo, Selected, Selection, check_schema, parse_patterns, select
from mlaas4hep_tf.io.buffers import keep_freed_memory
from mlaas4hep_tf.io.files import FileArgument, RootFile, expand
from mlaas4hep_tf.io.read_options import DEFAULT_READ, ReadOptions
from mlaas4hep_tf.io.workers import WorkerPool
from mlaas4hep_tf.progress import progress_bar
from mlaas4hep_tf.remarks import remarks
from mlaas4hep_tf.specs import FileSpec, Specs, TargetSpec
from mlaas4hep_tf.statistics import NO_TARGET, NOTHING, BranchStats, TargetStats, statistics, target_statistics
from mlaas4hep_tf.streaming.open_files import inspect_files
from mlaas4hep_tf.streaming.plan import EntryRange, blocks
from mlaas4hep_tf.streaming.skipped import Skipped, SkippedRange, account
from mlaas4hep_tf.streaming.targets import PerFile, flat_branch

SCAN_VALUES = 1 << 22  # of one value per event and branch at most, where pages are longer
SCAN_ENTRIES = 32_768  # read at a time by one process: larger reads do not pay (only memory grows)


@dataclass(frozen=True)
class Scanned:
    """What is known of some entries; `merge` of two is that of both.

    Attributes:
        features, targets: statistics of each branch.
        agreements: which members of each group that might be one agree.
        apart: list branches that differ from their group, and in how many events.
        example: an event, of the first block that has one.
    """

    features: list[BranchStats]
    targets: list[TargetStats]
    agreements: list[Agreement]
    apart: Counter[str]
    example: Example

    def merge(self, other: Scanned) -> Scanned:
        return Scanned(
            [a.merge(b) for a, b in zip(self.features, other.features, strict=True)],
            [a.merge(b) for a, b in zip(self.targets, other.targets, strict=True)],
            [a.merge(b) for a, b in zip(self.agreements, other.agreements, strict=True)],
            self.apart + other.apart,
            self.example or other.example,
        )


@dataclass(frozen=True)
class Wanted:
    """What is to be known: feature branches, branches of labels and weights, and groups that might be one."""

    features: Sequence[BranchInfo]
    targets: Sequence[BranchInfo]
    groups: Sequence[Candidate] = ()

    @property
    def nothing(self) -> Scanned:
        apart = [Agreement((0,) * len(c.members), (0,) * len(c.members)) for c in self.groups]
        return Scanned([NOTHING] * len(self.features), [NO_TARGET] * len(self.targets), apart, Counter(), {})


def scan_range(wanted: Wanted, task: tuple[RootFile, EntryRange]) -> Scanned:
    """Runs in a reader process: what is wanted of one entry range; the first of a file gives the example."""
    from mlaas4hep_tf.io.reader import read  # here, so that the training process never imports uproot

    keep_freed_memory()
    file, entries = task
    infos = wanted.features
    names = dict.fromkeys(info.name for info in (*infos, *wanted.targets))
    counters = {info.counter: None for info in infos if info.counter}
    columns = read(file, entries.start, entries.stop, list(names), counters=counters, hold=False)
    apart = differing(infos, columns.counts)
    if apart:
        infos = [replace(info, counter=None) if info.name in apart else info for info in infos]
    per_group = {group: np.bincount(counts).astype(np.int64) for group, counts in columns.counts.items()}
    nothing = np.zeros(0, np.int64)
    return Scanned(
        [statistics(columns.values[i.name], nothing if i.kind == "flat" else per_group[i.group]) for i in infos],
        [target_statistics(columns.values[info.name]) for info in wanted.targets],
        [agreement(candidate, columns.counts) for candidate in wanted.groups],
        apart,
        example_event(infos, columns.values, columns.counts) if infos and entries.start == 0 else {},
    )


def scan(
    files: FileArgument,
    tree: str | None = None,
    *,
    branches: str | Iterable[str] | None = None,
    exclude: str | Iterable[str] | None = None,
    identifiers: Iterable[str] = IDENTIFIERS,
    labels: PerFile | None = None,
    weights: PerFile | None = None,
    groups: Groups | None = None,
    read: ReadOptions = DEFAULT_READ,
    progress: bool = True,
) -> Specs:
    """Read all files once and describe every feature branch (pass 1 of the paper, figure 6).

    Args:
        files: paths, patterns, folders, lists, URLs (`files.expand`).
        tree: name of the tree; may be left out where a file has only one.
        branches: patterns of branches to take; all numeric ones by default.
        exclude: patterns of branches to leave out, for example the truth.
        identifiers: branches that identify an event; never features.
        labels, weights: as for `RootDataset`; a branch of them is no feature, and `Specs.targets` describes it.
        groups: name -> patterns of list branches that are one group, as they have the same multiplicity in every
            event; those of a common prefix, such as ``jet_pt`` and ``jet_eta``, are found without.
        read: how to read; where files and blocks that cannot be read are skipped, a warning has the report.
        progress: show a progress bar on a terminal.

    Returns:
        Specs of the dataset, the same whatever the number of workers.

    Raises:
        InputFileError, TreeError, BranchError: see `errors`; also where files differ in their schema.
    """
    sources = expand(files, tree)
    skipped, worker_pool = account(read), WorkerPool(read)
    named = tuple(dict.fromkeys(given for given in (labels, weights) if isinstance(given, str)))
    selection = Selection(parse_patterns(branches), (*parse_patterns(exclude), *named), tuple(identifiers))
    opened = inspect_files(sources, selection, worker_pool, progress, skipped, also=named)
    if not sum(file.num_entries for file in opened):
        raise InputFileError(f"there is no event in {shorten(f.url for f in opened)}: every tree is empty")
    chosen = choose(opened, selection)
    target_infos = [flat_branch("labels or weights", name, opened) for name in named]
    wanted = Wanted(chosen.features, target_infos, candidates(chosen.features, groups))
    total = _read_all(opened, wanted, worker_pool, progress, skipped)
    specs, near = _finish(opened, selection, chosen, wanted, total)
    lost = skipped.report() if skipped is not None else []
    for message in near + remarks(specs) + (["\n".join(lost)] if lost else []):
        warnings.warn(message, DataWarning, stacklevel=2)
    return specs


def _finish(
    files: Sequence[RootFile], selection: Selection, chosen: Selected, wanted: Wanted, total: Scanned
) -> tuple[Specs, list[str]]:
    """The specs of what was scanned, and which groups are nearly one."""
    alike = list(zip(wanted.groups, total.agreements, strict=True))
    joins, near = joined(wanted.features, alike, total.apart, sum(file.num_entries for file in files))
    specs = Specs(
        tree=files[0].tree,
        branches=tuple(
            replace(stats.finish(info), group=joins.get(info.name, info.group))
            for stats, info in zip(total.features, wanted.features, strict=True)
        ),
        files=tuple(FileSpec(f.url, f.uuid, f.num_entries) for f in files),
        selection=selection,
        identifiers=chosen.identifiers,
        left_out=dict(chosen.left_out),
        targets=tuple(stats.finish(info) for stats, info in zip(total.targets, wanted.targets, strict=True)),
        stored_groups={info.name: info.group for info in wanted.features if info.name in joins},
        example=total.example,
    )
    return specs, near


def choose(files: Sequence[RootFile], selection: Selection) -> Selected:
    """The feature branches, the same in every file."""
    chosen = select(files[0].branches, selection, files[0].where)
    for file in files[1:]:
        own = select(file.branches, selection, file.where)
        check_schema(chosen.features, file.branches, file.where, files[0].where)
        check_schema(own.features, files[0].branches, files[0].where, file.where)
    return chosen


def _read_all(
    files: Sequence[RootFile], wanted: Wanted, worker_pool: WorkerPool, progress: bool, skipped: Skipped | None
) -> Scanned:
    infos = wanted.features
    tasks = [
        (files[b.file], b)
        for number, f in enumerate(files)
        for b in blocks(number, f.num_entries, f.entry_offsets, _scan_entries(f, len(infos)))
    ]
    names = [info.name for info in (*infos, *wanted.targets)] + [info.counter for info in infos if info.counter]
    entries = sum(len(b) for _, b in tasks)
    total = wanted.nothing
    with progress_bar("scan", entries, "events", progress) as advance:
        parts = ((file.part(names, b.start, b.stop), b) for file, b in tasks)
        outcomes = worker_pool.outcomes(partial(scan_range, wanted), parts)
        for (file, done), outcome in zip(tasks, outcomes, strict=True):
            try:
                total = total.merge(outcome.result())
            except (InputFileError, ReaderError) as error:
                if skipped is None:
                    raise
                skipped.add(SkippedRange(file.url, done.file, done.start, done.stop, str(error)), entries)
            advance(len(done))
    return total


def _scan_entries(file: RootFile, branches: int) -> int:
    """How many entries to read at a time: whole pages, which are long in large clusters, while memory allows."""
    longest = max((b - a for a, b in pairwise(file.entry_offsets)), default=0)
    return max(SCAN_ENTRIES, min(longest, SCAN_VALUES // max(branches, 1)))


def scan_targets(
    files: Sequence[RootFile], names: Sequence[str], worker_pool: WorkerPool, skipped: Skipped | None
) -> tuple[TargetSpec, ...]:
    """What `Specs.targets` says of some flat branches of opened files, read for this alone."""
    infos = [flat_branch("labels or weights", name, files) for name in names]
    total = _read_all(files, Wanted((), infos), worker_pool, progress=False, skipped=skipped)
    return tuple(stats.finish(info) for stats, info in zip(total.targets, infos, strict=True))
