"""Pass 1: one parallel read of the data, as statistics that merge, finished into `Specs` (paper, section 3.3)."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise

from mlaas4hep_tf.analysis.passing import Passing
from mlaas4hep_tf.analysis.rules import Analysis, Cuts
from mlaas4hep_tf.analysis.rules import analysis as make_analysis
from mlaas4hep_tf.analysis.steps import mentioned, steps_of
from mlaas4hep_tf.blockscan import Scanned, Wanted, scan_range
from mlaas4hep_tf.categories import Category, definitions, in_place_of, kinds, sizes, values_of
from mlaas4hep_tf.errors import (
    BranchError,
    ConfigError,
    DataWarning,
    InputFileError,
    PlanError,
    ReaderError,
    SpecsError,
    near_misses,
    shorten,
)  # fmt: skip
from mlaas4hep_tf.expressions.syntax import words_of
from mlaas4hep_tf.files_table import FileSpec
from mlaas4hep_tf.grouping import Groups, candidates, joined
from mlaas4hep_tf.io.branches import (
    IDENTIFIERS,
    BranchInfo,
    Selected,
    Selection,
    are_predictions,
    check_schema,
    meant,
    parse_patterns,
    select,
)  # fmt: skip
from mlaas4hep_tf.io.files import FileArgument, RootFile, Source, expand
from mlaas4hep_tf.io.friends import Friends
from mlaas4hep_tf.io.read_options import DEFAULT_READ, ReadOptions
from mlaas4hep_tf.io.workers import WorkerPool
from mlaas4hep_tf.passed import (
    Passed,
    counted_files,
    edges,
    not_counted,
    nothing_passes,
    with_analysis,
    with_steps,
    without_defined,
)  # fmt: skip
from mlaas4hep_tf.progress import progress_bar
from mlaas4hep_tf.remarks import remarks
from mlaas4hep_tf.scanned_files import table_of
from mlaas4hep_tf.specs import Specs, TargetSpec
from mlaas4hep_tf.streaming.open_files import befriended, inspect_files, open_scanned
from mlaas4hep_tf.streaming.ranges import blocks
from mlaas4hep_tf.streaming.skipped import Skipped, SkippedRange, account
from mlaas4hep_tf.streaming.targets import Labels, PerFile, flat_branch

SCAN_VALUES = 1 << 22  # of one value per event and branch at most, where pages are longer
SCAN_ENTRIES = 32_768  # read at a time by one process: larger reads do not pay (only memory grows)


def scan(
    files: FileArgument,
    tree: str | None = None,
    *,
    friends: Friends | None = None,
    branches: str | Iterable[str] | None = None,
    exclude: str | Iterable[str] | None = None,
    identifiers: Iterable[str] = IDENTIFIERS,
    labels: Labels | None = None,
    targets: Sequence[str] = (),
    weights: PerFile | None = None,
    groups: Groups | None = None,
    objects: Mapping[str, str] | None = None,
    order: Mapping[str, str] | None = None,
    define: Mapping[str, str] | None = None,
    select: Cuts = None,
    train_select: Cuts = None,
    vectors: Mapping[str, Iterable[str]] | None = None,
    analysis: Analysis | None = None,
    distributions: str | Iterable[str] | None = None,
    categories: Mapping[str, Category] | None = None,
    read: ReadOptions = DEFAULT_READ,
    progress: bool = True,
) -> Specs:
    """Read all files once and describe every feature branch (pass 1 of the paper, figure 6).

    Args:
        files: paths, patterns, folders, lists, URLs (`files.expand`).
        tree: name of the tree; may be left out where a file has only one.
        friends: name -> files of trees with more branches of the same events, a file for each of `files`, which
            become ``<name>.<branch>``; ``":tree"`` is a tree in the files themselves.  Their n-th entries belong
            together, unless both have `identifiers` that say otherwise.
        branches: patterns of branches to take; all numeric ones by default.  Where derived ones are named, no others of
            these are features, and where only these are, no branch of the files is one.
        exclude: patterns of branches to leave out, for example the truth.
        identifiers: branches that identify an event; never features.
        labels, targets, weights: as for `RootDataset`; a branch of them, also a derived one, is no feature, and
            `Specs.targets` describes it.
        groups: name -> patterns of list branches that are one group, as they have the same multiplicity in every
            event; those of a common prefix, such as ``jet_pt`` and ``jet_eta``, are found without.
        objects: group (``Jet`` or ``nJet``) -> condition on its objects; the others are left out.
        order: group -> key by which its objects are ordered, rising.
        define: name -> expression of a branch that is derived, and a feature unless it is excluded.
        select: condition on the event, or several; only events that pass are described here, trained on and
            marked ``selected`` by the exported model.
        train_select: like `select`, but not part of the exported model, so that it may use the truth.
        vectors: group -> branches of its pt, eta, phi and mass, where their names do not tell.
        analysis: all of these as one, instead.
        distributions: patterns of features of which `BranchSpec.distribution` is kept, which normalisation by
            ``log``, ``logit`` or ``clip`` needs.
        categories: branch of integers that are kinds -> its kinds, ``auto`` for those that are found in all events,
            or a list.  There is a branch for each kind instead, 1 for the objects of that kind and 0 for others; with
            `categories.Index` one branch, which is 0 for what is no such kind.  Among `branches` it stands for these.
        read: how to read; where files and blocks that cannot be read are skipped, a warning has the report.
        progress: show a progress bar on a terminal.

    Returns:
        Specs of the dataset, the same whatever the number of workers.

    Raises:
        InputFileError, TreeError, BranchError: see `errors`; also where files differ in their schema.
        FriendError: friends with other events.
        ExpressionError, ConfigError: an analysis that is none, or not for these branches.
        PlanError: no event passes the selection.
    """
    rules = make_analysis(objects, order, define, select, train_select, vectors)
    if analysis is not None and rules:
        raise ConfigError("analysis= has all that is said of selections and objects: give it or the parts, not both")
    rules = analysis or rules
    skipped, worker_pool = account(read), WorkerPool(read)
    sources = befriended(expand(files, tree), friends, tuple(identifiers), worker_pool)
    known = _kinds(sources, categories or {}, worker_pool, skipped)
    rules = rules.extended(make_analysis(define=_definitions(known)), "categories=")
    exclude = (*parse_patterns(exclude), *known)
    named = tuple(dict.fromkeys(given for given in (labels, *targets, weights) if isinstance(given, str)))
    patterns = in_place_of(parse_patterns(branches), known)
    selection = Selection(patterns, (*parse_patterns(exclude), *named), tuple(identifiers))
    from_files = without_defined(selection, rules)
    stored = tuple(name for name in named if name not in rules.defined)
    opened = _open_all(sources, from_files, rules, (*stored, *selection.identifiers), worker_pool, skipped, progress)
    _check_events(opened)
    given = (("targets", targets), ("weights", (weights,)), ("labels", (labels,)))
    told = {name: what for what, names in given for name in names if isinstance(name, str)}
    target_infos = [flat_branch(told[name], name, opened) for name in stored]
    chosen = (_none_of if rules.defined and "*" in from_files.exclude else choose)(opened, from_files)
    alike = candidates(chosen.features, groups)
    wanted = Wanted(chosen.features, target_infos, alike, identifiers=_identifiers(chosen.identifiers, opened))
    near: list[str] = []
    if rules:
        infos, near = _in_groups(opened, chosen.features, rules, groups, worker_pool, skipped)
        wanted = with_steps(wanted, steps_of(rules, infos), selection, named, _name(labels), _name(weights))
    wanted = _distributed(wanted, parse_patterns(distributions))
    total, passing = _read_all(opened, wanted, worker_pool, progress, skipped)
    specs, nearly = _finish(opened, selection, chosen, wanted, total)
    specs = replace(with_analysis(specs, wanted, total, passing, opened, labels, weights), kinds=sizes(known))
    lost = skipped.report() if skipped is not None else []
    for message in near + nearly + remarks(specs, _name(labels)) + (["\n".join(lost)] if lost else []):
        warnings.warn(message, DataWarning, stacklevel=2)
    return specs


def _check_events(files: Sequence[RootFile]) -> None:
    """Raise InputFileError for what `predict` wrote among files of events, as in a folder that is read as a whole."""
    scores = [file.url for file in files if are_predictions([info.name for info in file.branches])]
    if scores and len(scores) < len(files):
        raise InputFileError(
            f"{shorten(scores, 3)} holds scores that `predict` wrote, and the other files events: name these alone, "
            "for example by a pattern, or move the scores elsewhere"
        )


def _kinds(
    sources: Sequence[Source], categories: Mapping[str, Category], worker_pool: WorkerPool, skipped: Skipped | None
) -> dict[str, tuple[Category, Sequence[int]]]:
    """The kinds of each branch, read for this alone where nobody names them."""
    asked = {name: values_of(category) for name, category in categories.items()}
    auto = tuple(name for name, values in asked.items() if values == "auto")
    found = dict[str, Sequence[int]]()
    if auto:
        opened = inspect_files(sources, Selection(auto), worker_pool, skipped=skipped)
        infos = [_branch("categories", name, opened[0]) for name in auto]
        total, _ = _read_all(opened, Wanted((), infos), worker_pool, progress=False, skipped=skipped)
        for info, stats in zip(infos, total.targets, strict=True):
            found[info.name] = kinds(info.name, stats.found, whole=info.dtype.startswith(("int", "uint", "bool")))
    return {name: (categories[name], found[name] if v == "auto" else v) for name, v in asked.items()}


def _branch(what: str, name: str, file: RootFile) -> BranchInfo:
    found = next((info for info in file.branches if info.name == name), None)
    if found is None:
        close = near_misses(name, [info.name for info in file.branches])
        raise BranchError(f"{what}: no branch {name!r}{close} in {file.where}")
    return found


def _definitions(known: Mapping[str, tuple[Category, Sequence[int]]]) -> dict[str, str]:
    return {name: text for branch, own in known.items() for name, text in definitions(branch, *own).items()}


def _distributed(wanted: Wanted, patterns: Sequence[str]) -> Wanted:
    """The same, with the distributions of some features.

    Raises:
        BranchError: a pattern of no feature.
    """
    names = tuple(info.name for info in wanted.features)
    chosen = {pattern: meant(pattern, names) for pattern in patterns}
    idle = next((pattern for pattern, found in chosen.items() if not found), None)
    if idle is not None:
        raise BranchError(f"distributions: {idle!r} matches no feature{near_misses(idle, names)}")
    return replace(wanted, distributed=frozenset().union(*chosen.values()))


def _identifiers(names: Sequence[str], files: Sequence[RootFile]) -> list[BranchInfo]:
    """The identifiers, if each is an integer in all files; else none."""
    found = [info for file in files for info in file.branches if info.name in names]
    whole = all(info.kind == "flat" and info.dtype.lstrip("<>=|")[:1] in ("i", "u") for info in found)
    return [info for info in files[0].branches if info.name in names] if whole else []


def _name(target: Labels | PerFile | None) -> str:
    return target if isinstance(target, str) else ""


def _open_all(
    sources: Sequence[Source], selection: Selection, rules: Analysis, named: tuple[str, ...],
    worker_pool: WorkerPool, skipped: Skipped | None, progress: bool,
) -> tuple[RootFile, ...]:  # fmt: skip
    """The files, opened once more where expressions name branches that are not selected."""
    opened = inspect_files(sources, selection, worker_pool, progress, skipped, also=named)
    if not sum(file.num_entries for file in opened):
        raise InputFileError(f"there is no event in {shorten(f.url for f in opened)}: every tree is empty")
    names = [info.name for info in opened[0].branches]
    more = set(mentioned(rules, names)) - selection.among(names) - {*named}
    if not more:
        return opened
    also = (*named, *sorted(more))
    return inspect_files([file.source for file in opened], selection, worker_pool, skipped=skipped, also=also)


def _in_groups(
    files: Sequence[RootFile], features: Sequence[BranchInfo], rules: Analysis, groups: Groups | None,
    worker_pool: WorkerPool, skipped: Skipped | None,
) -> tuple[tuple[BranchInfo, ...], list[str]]:  # fmt: skip
    """Branches that features or expressions may need, with their groups, which are found first if need be."""
    named = {*mentioned(rules, [info.name for info in files[0].branches]), *(info.name for info in features)}
    infos = [info for info in files[0].branches if info.name in named and info.kind != "other"]
    alike = candidates(infos, groups)
    if not alike:
        return tuple(infos), []
    firsts = {info.group: info for info in reversed(infos) if info.kind == "jagged"}
    members = [firsts[member] for candidate in alike for member in candidate.members]
    total, _ = _read_all(files, Wanted(members, (), alike), worker_pool, progress=False, skipped=skipped)
    found = list(zip(alike, total.agreements, strict=True))
    joins, near = joined(infos, found, total.apart, sum(file.num_entries for file in files))
    return tuple(replace(i, counter=joins[i.name]) if i.name in joins else i for i in infos), near


def _finish(
    files: Sequence[RootFile], selection: Selection, chosen: Selected, wanted: Wanted, total: Scanned
) -> tuple[Specs, list[str]]:
    """The specs of what was scanned, and which groups are nearly one."""
    alike = list(zip(wanted.groups, total.agreements, strict=True))
    joins, near = joined(wanted.features, alike, total.apart, sum(file.num_entries for file in files))
    if wanted.steps is not None and not any(stats.values for stats in total.features):
        raise PlanError(nothing_passes(wanted.steps.analysis))
    specs = Specs(
        tree=files[0].tree,
        branches=tuple(
            replace(stats.finish(info), group=joins.get(info.name, info.group))
            for stats, info in zip(total.features, wanted.features, strict=True)
        ),
        files=table_of(files),
        selection=selection,
        identifiers=chosen.identifiers,
        left_out=dict(chosen.left_out),
        targets=tuple(stats.finish(info) for stats, info in zip(total.targets, wanted.targets, strict=True)),
        stored_groups={info.name: info.group for info in wanted.features if info.name in joins},
        example=total.example,
        identified=total.identified.unique,
    )
    return specs, near


def _none_of(files: Sequence[RootFile], selection: Selection) -> Selected:
    """No feature of the files: all are derived."""
    names = {info.name for info in files[0].branches}
    return Selected((), tuple(name for name in selection.identifiers if name in names), {})


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
) -> tuple[Scanned, list[Passed]]:
    """All that is wanted; and for each block how many events pass, where there is a selection."""
    tasks = [task for number, file in enumerate(files) for task in _tasks(number, file, wanted)]
    entries = sum(edges[-1] - edges[0] for _, edges in tasks)
    total, passing = wanted.nothing, []
    with progress_bar("scan", entries, "events", progress) as advance:
        parts = ((files[n].part(wanted.names, edges[0], edges[-1]), n, edges) for n, edges in tasks)
        outcomes = worker_pool.outcomes(partial(scan_range, wanted), parts)
        for (number, edges), outcome in zip(tasks, outcomes, strict=True):
            found = wanted.nothing
            try:
                found = outcome.result()
            except (InputFileError, ReaderError) as error:
                if skipped is None:
                    raise
                skipped.add(SkippedRange(files[number].url, number, edges[0], edges[-1], str(error)), entries)
            total = total.merge(found)
            passing.append(Passed(number, tuple(edges), found.passing))
            advance(edges[-1] - edges[0])
    return total, passing


def _tasks(number: int, file: RootFile, wanted: Wanted) -> list[tuple[int, list[int]]]:
    """The blocks of a file, each with the edges between which events are counted."""
    found = blocks(number, file.num_entries, file.entry_offsets, _scan_entries(file, len(wanted.read)))
    if wanted.steps is None or not wanted.steps.analysis.selects:
        return [(number, [block.start, block.stop]) for block in found]
    return [(number, edges(block, file.entry_offsets)) for block in found]


def _scan_entries(file: RootFile, branches: int) -> int:
    """How many entries to read at a time: whole pages, which are long in large clusters, while memory allows."""
    longest = max((b - a for a, b in pairwise(file.entry_offsets)), default=0)
    return max(SCAN_ENTRIES, min(longest, SCAN_VALUES // max(branches, 1)))


def scan_targets(
    files: Sequence[RootFile], names: Sequence[str], worker_pool: WorkerPool, skipped: Skipped | None
) -> tuple[TargetSpec, ...]:
    """What `Specs.targets` says of some flat branches of opened files, read for this alone."""
    files = open_scanned(files, worker_pool)
    infos = [flat_branch("labels or weights", name, files) for name in names]
    total, _ = _read_all(files, Wanted((), infos), worker_pool, progress=False, skipped=skipped)
    return tuple(stats.finish(info) for stats, info in zip(total.targets, infos, strict=True))


def scan_distributions(
    files: Sequence[RootFile], specs: Specs, names: Sequence[str], worker_pool: WorkerPool, skipped: Skipped | None
) -> Specs:
    """The specs with the distributions of some features, read from opened files for this alone."""
    files = open_scanned(files, worker_pool)
    wanted = [branch for branch in specs.branches if branch.name in names]
    infos, raw = [specs.info_of(branch) for branch in wanted], [one.info for one in specs.inputs if one.feature]
    asked = Wanted(infos, (), steps=specs.steps, raw=raw, distributed=frozenset(names))
    total, _ = _read_all(files, asked, worker_pool, progress=False, skipped=skipped)
    found = {
        info.name: stats.finish(info).distribution for stats, info in zip(total.features, infos, strict=True)
    }  # fmt: skip
    branches = tuple(replace(b, distribution=found[b.name]) if b.name in found else b for b in specs.branches)
    return replace(specs, branches=branches)


def passing_events(
    files: Sequence[RootFile], specs: Specs, worker_pool: WorkerPool, skipped: Skipped | None
) -> tuple[Passing, ...]:
    """Which events of opened files pass: as the specs have it, or counted now; none where there is no selection.

    Raises:
        SpecsError: entries that could not be read when the specs were made, where nothing may be skipped.
        LostDataError: more than may be skipped.
        PlanError: no event passes.
    """
    if not specs.analysis.selects:
        return ()
    known = {(file.uuid, file.entries): file for file in specs.files if file.edges}
    new = [n for n, file in enumerate(files) if (file.uuid, file.num_entries) not in known]
    counted = dict(zip(new, _count([files[n] for n in new], specs.analysis, specs, worker_pool, skipped), strict=True))
    found = [counted.get(n) or known[file.uuid, file.num_entries] for n, file in enumerate(files)]
    lost = [one for n, own in enumerate(found) for one in not_counted(files[n], n, own)]
    if lost and skipped is None:
        raise SpecsError(f"it is not known which events pass where the scan could not read: {lost[0]}; scan again")
    passing = tuple(Passing(own.edges, tuple(max(n, 0) for n in own.passing)) for own in found)
    events = sum(own.entries for own in passing)
    if not events:
        raise PlanError(nothing_passes(specs.analysis))
    if skipped is not None:
        skipped.not_counted(lost, events)
    return passing


def _count(
    files: Sequence[RootFile], rules: Analysis, specs: Specs, worker_pool: WorkerPool, skipped: Skipped | None
) -> Sequence[FileSpec]:
    """Passing events of files, for which only the branches of the selection are read."""
    if not files:
        return []
    steps = steps_of(rules.for_selection(words_of), tuple(one.info for one in specs.inputs))
    _, passing = _read_all(files, Wanted((), (), steps=steps), worker_pool, progress=False, skipped=skipped)
    return counted_files([FileSpec(f.url, f.uuid, f.num_entries) for f in files], passing)
