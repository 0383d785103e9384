"""Pass 1: one parallel read of the data, as statistics that merge, finished into `Specs` (paper, section 3.3)."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import partial
from itertools import pairwise

import numpy as np

from mlaas4hep_tf.errors import DataWarning, InputFileError, ReaderError, shorten
from mlaas4hep_tf.grouping import Agreement, Candidate, Groups, agreement, candidates, joined
from mlaas4hep_tf.io.branches import IDENTIFIERS, BranchInfo, Selected, Selection, check_schema, parse_patterns, select
from mlaas4hep_tf.io.buffers import keep_freed_memory
from mlaas4hep_tf.io.files import FileArgument, RootFile, expand
from mlaas4hep_tf.io.read_options import DEFAULT_READ, ReadOptions
from mlaas4hep_tf.io.workers import WorkerPool
from mlaas4hep_tf.progress import progress_bar
from mlaas4hep_tf.specs import BranchSpec, FileSpec, Specs, TargetSpec, at_quantile
from mlaas4hep_tf.statistics import NO_TARGET, NOTHING, BranchStats, TargetStats, statistics, target_statistics
from mlaas4hep_tf.streaming.open_files import inspect_files
from mlaas4hep_tf.streaming.plan import EntryRange, blocks
from mlaas4hep_tf.streaming.skipped import Skipped, SkippedRange, account
from mlaas4hep_tf.streaming.targets import PerFile, flat_branch

SCAN_VALUES = 1 << 22  # of one value per event and branch at most, where pages are longer
SCAN_ENTRIES = 32_768  # read at a time by one process: larger reads do not pay (only memory grows)
TRUTH = ("MC*", "nMC*", "mc_*", "Gen*", "nGen*", "gen*", "*[tT]ruth*", "isSignal", "*[wW]eight*")
_DROP = "; specs.without_constant() (--drop-constant) leaves them out"
_TRUTH = "; take them out by exclude= (--exclude) or as labels= and weights=, unless they are meant"
WIDE_COLUMNS, WIDE_FACTOR = 1000, 10  # of a group that few events make so wide, against what the others need
FLOAT32_INTEGERS = 2**24  # beyond it float32 does not hold every integer


def scan_range(
    infos: Sequence[BranchInfo],
    targets: Sequence[BranchInfo],
    groups: Sequence[Candidate],
    task: tuple[RootFile, EntryRange],
) -> tuple[list[BranchStats], list[TargetStats], list[Agreement]]:
    """Runs in a reader process: statistics of branches and targets, and which groups agree, over one entry range."""
    from mlaas4hep_tf.io.reader import read  # here, so that the training process never imports uproot

    keep_freed_memory()
    file, entries = task
    names = dict.fromkeys(info.name for info in (*infos, *targets))
    counters = {info.counter: None for info in infos if info.counter}
    columns = read(file, entries.start, entries.stop, list(names), counters=counters)
    per_group = {group: np.bincount(counts).astype(np.int64) for group, counts in columns.counts.items()}
    nothing = np.zeros(0, np.int64)
    features = [
        statistics(columns.values[info.name], nothing if info.kind == "flat" else per_group[info.group])
        for info in infos
    ]  # fmt: skip
    of_targets = [target_statistics(columns.values[info.name]) for info in targets]
    return features, of_targets, [agreement(candidate, columns.counts) for candidate in groups]


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
    alike = candidates(chosen.features, groups)
    totals, targets, agreements = _read_all(
        opened, chosen.features, target_infos, worker_pool, progress, skipped, alike
    )
    joins, near = joined(
        chosen.features, list(zip(alike, agreements, strict=True)), sum(file.num_entries for file in opened)
    )
    specs = Specs(
        tree=opened[0].tree,
        branches=tuple(
            replace(stats.finish(info), group=joins.get(info.name, info.group))
            for stats, info in zip(totals, chosen.features, strict=True)
        ),
        files=tuple(FileSpec(f.url, f.uuid, f.num_entries) for f in opened),
        selection=selection,
        identifiers=chosen.identifiers,
        left_out=dict(chosen.left_out),
        targets=targets,
        stored_groups={info.name: info.group for info in chosen.features if info.name in joins},
    )
    lost = skipped.report() if skipped is not None else []
    for message in near + remarks(specs) + (["\n".join(lost)] if lost else []):
        warnings.warn(message, DataWarning, stacklevel=2)
    return specs


def choose(files: Sequence[RootFile], selection: Selection) -> Selected:
    """The feature branches, the same in every file."""
    chosen = select(files[0].branches, selection, files[0].where)
    for file in files[1:]:
        own = select(file.branches, selection, file.where)
        check_schema(chosen.features, file.branches, file.where, files[0].where)
        check_schema(own.features, files[0].branches, files[0].where, file.where)
    return chosen


def _read_all(
    files: Sequence[RootFile],
    infos: Sequence[BranchInfo],
    targets: Sequence[BranchInfo],
    worker_pool: WorkerPool,
    progress: bool,
    skipped: Skipped | None,
    groups: Sequence[Candidate] = (),
) -> tuple[list[BranchStats], tuple[TargetSpec, ...], list[Agreement]]:
    tasks = [
        (files[b.file], b)
        for number, f in enumerate(files)
        for b in blocks(number, f.num_entries, f.entry_offsets, _scan_entries(f, len(infos)))
    ]
    totals, target_totals = [NOTHING] * len(infos), [NO_TARGET] * len(targets)
    agreements = [Agreement((0,) * len(c.members), (0,) * len(c.members)) for c in groups]
    names = [info.name for info in (*infos, *targets)] + [info.counter for info in infos if info.counter]
    entries = sum(len(b) for _, b in tasks)
    with progress_bar("scan", entries, "events", progress) as advance:
        parts = ((file.part(names, b.start, b.stop), b) for file, b in tasks)
        for (file, done), outcome in zip(
            tasks, worker_pool.outcomes(partial(scan_range, infos, targets, groups), parts), strict=True
        ):
            try:
                of_features, of_targets, agreeing = outcome.result()
                agreements = [a.merge(b) for a, b in zip(agreements, agreeing, strict=True)]
                totals = [a.merge(b) for a, b in zip(totals, of_features, strict=True)]
                target_totals = [a.merge(b) for a, b in zip(target_totals, of_targets, strict=True)]
            except (InputFileError, ReaderError) as error:
                if skipped is None:
                    raise
                skipped.add(SkippedRange(file.url, done.file, done.start, done.stop, str(error)), entries)
            advance(len(done))
    return totals, tuple(s.finish(info) for s, info in zip(target_totals, targets, strict=True)), agreements


def _scan_entries(file: RootFile, branches: int) -> int:
    """How many entries to read at a time: whole pages, which are long in large clusters, while memory allows."""
    longest = max((b - a for a, b in pairwise(file.entry_offsets)), default=0)
    return max(SCAN_ENTRIES, min(longest, SCAN_VALUES // max(branches, 1)))


def scan_targets(
    files: Sequence[RootFile], names: Sequence[str], worker_pool: WorkerPool, skipped: Skipped | None
) -> tuple[TargetSpec, ...]:
    """What `Specs.targets` says of some flat branches of opened files, read for this alone."""
    infos = [flat_branch("labels or weights", name, files) for name in names]
    return _read_all(files, (), infos, worker_pool, progress=False, skipped=skipped)[1]


def remarks(specs: Specs) -> list[str]:
    """What a user should know of the data before training."""
    found = [f"branch {name!r} is left out: {why}" for name, why in specs.left_out.items()]
    if len(found) > 8:
        found = [f"{len(found)} branches are left out as they are no numbers: {shorten(specs.left_out)}"]
    truth = [b.name for b in specs.branches if is_truth(b.name) and b.name not in specs.selection.branches]
    for what, names, remedy in (
        ("without a finite value (all columns masked)", [b.name for b in specs.branches if b.empty], _DROP),
        ("with one constant value (tells nothing)", [b.name for b in specs.branches if b.constant], _DROP),
        ("with integers beyond 2^24 (float32 rounds them)", [b.name for b in specs.branches if _rounds(b)], ""),
        ("with NaN or infinite values (masked)", [b.name for b in specs.branches if b.nan + b.posinf + b.neginf], ""),
        ("named like truth or weights, and yet to learn from", truth, _TRUTH),
    ):
        if names:
            found.append(f"branch{'es' * (len(names) > 1)} {what}: {shorten(names)}{remedy}")
    return found + [*_too_wide(specs), *_unknown_identifiers(specs)]


def is_truth(name: str) -> bool:
    """Whether a branch is called as the experiments call what only simulation knows, or an event's weight."""
    return any(fnmatchcase(name.rsplit("/", 1)[-1], pattern) for pattern in TRUTH)


def _too_wide(specs: Specs) -> Iterator[str]:
    """Groups that a few events make far wider than the others need, with the quantile that would do."""
    for group, members in specs.groups.items():
        for quantile in (0.999, 0.99):
            enough = at_quantile(members[0], quantile)
            if members[0].length * len(members) >= WIDE_COLUMNS and members[0].length >= WIDE_FACTOR * max(enough, 1):
                yield (
                    f"the largest event has {members[0].length} objects of {group!r}, which makes the vector as wide; "
                    f"{enough} hold {quantile:.1%} of the events: cut it by specs.with_lengths(quantile={quantile}) "
                    f"(--quantile {quantile})"
                )
                break


def _unknown_identifiers(specs: Specs) -> Iterator[str]:
    unknown = [name for name in specs.selection.identifiers if name not in specs.identifiers]
    if unknown and specs.selection.identifiers != IDENTIFIERS:
        yield f"no branch is called {shorten(map(repr, unknown))}, which should identify events"


def _rounds(branch: BranchSpec) -> bool:
    big = max(abs(branch.min or 0), abs(branch.max or 0)) > FLOAT32_INTEGERS
    return big and branch.dtype.lstrip("u").startswith("int")
