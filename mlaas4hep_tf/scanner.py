"""Pass 1: one parallel read of the data, as statistics that merge, finished into `Specs` (paper, section 3.3)."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from mlaas4hep_tf.errors import DataWarning, InputFileError, ReaderError, shorten
from mlaas4hep_tf.io.branches import IDENTIFIERS, BranchInfo, Selected, Selection, check_schema, parse_patterns, select
from mlaas4hep_tf.io.buffers import keep_freed_memory
from mlaas4hep_tf.io.files import FileArgument, RootFile, expand
from mlaas4hep_tf.io.read_options import DEFAULT_READ, ReadOptions
from mlaas4hep_tf.io.workers import WorkerPool
from mlaas4hep_tf.progress import progress_bar
from mlaas4hep_tf.specs import BranchSpec, FileSpec, Specs
from mlaas4hep_tf.streaming.open_files import inspect_files
from mlaas4hep_tf.streaming.plan import EntryRange, blocks
from mlaas4hep_tf.streaming.skipped import Skipped, SkippedRange, account

Array = npt.NDArray[Any]

SCAN_ENTRIES = 32_768  # read at a time by one process: larger reads do not pay (only memory grows)
FLOAT32_INTEGERS = 2**24  # beyond it float32 does not hold every integer


@dataclass(frozen=True)
class BranchStats:
    """Statistics of one branch over some entries; `merge` of two is that of both.

    Attributes:
        values, nan, posinf, neginf: numbers of values.
        min, max: of the finite values; +inf and -inf where there are none.
        mean: of the finite values, 0 where there are none.
        m2: sum of squared deviations from the mean (Chan, Golub, LeVeque 1983).
        multiplicities: events with 0, 1, 2 ... values, int64; empty for flat branches.
    """

    values: int
    nan: int
    posinf: int
    neginf: int
    min: float
    max: float
    mean: float
    m2: float
    multiplicities: Array

    @property
    def finite(self) -> int:
        return self.values - self.nan - self.posinf - self.neginf

    def merge(self, other: BranchStats) -> BranchStats:
        """Associative: exactly for counts, min and max, to rounding of float64 for mean and m2."""
        n, m = self.finite, other.finite
        share = m / (n + m) if n + m else 0.0
        delta = other.mean - self.mean
        return BranchStats(
            self.values + other.values, self.nan + other.nan, self.posinf + other.posinf, self.neginf + other.neginf,
            min(self.min, other.min), max(self.max, other.max),
            self.mean + delta * share, self.m2 + other.m2 + delta * delta * n * share,
            _add(self.multiplicities, other.multiplicities),
        )  # fmt: skip

    def finish(self, info: BranchInfo) -> BranchSpec:
        known = self.finite > 0
        largest = max(len(self.multiplicities) - 1, 0)
        return BranchSpec(
            info.name, info.kind, info.dtype, info.group, 1 if info.kind == "flat" else largest,
            tuple(self.multiplicities.tolist()), self.values, self.nan, self.posinf, self.neginf,
            self.min if known else None, self.max if known else None,
            self.mean if known else None, self.m2 / self.finite if known else None,
        )  # fmt: skip


NOTHING = BranchStats(0, 0, 0, 0, np.inf, -np.inf, 0.0, 0.0, np.zeros(0, np.int64))


def _add(a: Array, b: Array) -> Array:
    short, long = sorted((a, b), key=len)
    total = long.copy()
    total[: len(short)] += short
    return total


def statistics(values: Sequence[Array], multiplicities: Array) -> BranchStats:
    """Statistics of one branch from its values (1-D arrays of one numeric dtype, any byte order).

    Values count as training sees them: what float32 cannot hold is infinite.
    """
    parts = list(values) or [np.empty(0)]
    data = np.concatenate(parts, dtype=np.float64, casting="unsafe")
    count = len(data)
    if parts[0].dtype.itemsize == 8 and parts[0].dtype.kind == "f":
        beyond = np.abs(data) > float(np.finfo(np.float32).max)
        np.copyto(data, np.copysign(np.inf, data), where=beyond)
    with np.errstate(invalid="ignore"):  # inf - inf
        total = float(data.sum())
    nan = posinf = neginf = 0
    if not np.isfinite(total):
        nan, posinf, neginf = (int(np.count_nonzero(test(data))) for test in (np.isnan, np.isposinf, np.isneginf))
        data = data[np.isfinite(data)]
        total = float(data.sum())
    if not len(data):
        return BranchStats(count, nan, posinf, neginf, np.inf, -np.inf, 0.0, 0.0, multiplicities)
    mean = total / len(data)
    smallest, largest = float(data.min()), float(data.max())
    data -= mean
    m2 = float(np.einsum("i,i->", data, data))  # np.dot would start BLAS threads, which fight with the other readers
    return BranchStats(count, nan, posinf, neginf, smallest, largest, mean, m2, multiplicities)


def scan_range(infos: Sequence[BranchInfo], task: tuple[RootFile, EntryRange]) -> list[BranchStats]:
    """Runs in a reader process: the statistics of every branch over one entry range."""
    from mlaas4hep_tf.io.reader import read  # here, so that the training process never imports uproot

    keep_freed_memory()
    file, entries = task
    columns = read(file, entries.start, entries.stop, [info.name for info in infos])
    per_group = {group: np.bincount(counts).astype(np.int64) for group, counts in columns.counts.items()}
    nothing = np.zeros(0, np.int64)
    return [
        statistics(columns.values[info.name], nothing if info.kind == "flat" else per_group[info.group])
        for info in infos
    ]  # fmt: skip


def scan(
    files: FileArgument,
    tree: str | None = None,
    *,
    branches: str | Iterable[str] | None = None,
    exclude: str | Iterable[str] | None = None,
    identifiers: Iterable[str] = IDENTIFIERS,
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
        read: how to read; where files and blocks that cannot be read are skipped, a warning has the report.
        progress: show a progress bar on a terminal.

    Returns:
        Specs of the dataset, the same whatever the number of workers.

    Raises:
        InputFileError, TreeError, BranchError: see `errors`; also where files differ in their schema.
    """
    sources = expand(files, tree)
    skipped, worker_pool = account(read), WorkerPool(read)
    selection = Selection(parse_patterns(branches), parse_patterns(exclude), tuple(identifiers))
    opened = inspect_files(sources, selection, worker_pool, progress, skipped)
    if not sum(file.num_entries for file in opened):
        raise InputFileError(f"there is no event in {shorten(f.url for f in opened)}: every tree is empty")
    chosen = choose(opened, selection)
    totals = _read_all(opened, chosen.features, worker_pool, progress, skipped)
    specs = Specs(
        tree=opened[0].tree,
        branches=tuple(stats.finish(info) for stats, info in zip(totals, chosen.features, strict=True)),
        files=tuple(FileSpec(f.url, f.uuid, f.num_entries) for f in opened),
        selection=selection,
        identifiers=chosen.identifiers,
        left_out=dict(chosen.left_out),
    )
    lost = skipped.report() if skipped is not None else []
    for message in remarks(specs) + (["\n".join(lost)] if lost else []):
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
    worker_pool: WorkerPool,
    progress: bool,
    skipped: Skipped | None,
) -> list[BranchStats]:
    tasks = [
        (files[b.file], b)
        for number, f in enumerate(files)
        for b in blocks(number, f.num_entries, f.entry_offsets, SCAN_ENTRIES)
    ]
    totals = [NOTHING] * len(infos)
    names = [info.name for info in infos]
    entries = sum(len(b) for _, b in tasks)
    with progress_bar("scan", entries, "events", progress) as advance:
        parts = ((file.part(names, b.start, b.stop), b) for file, b in tasks)
        for (file, done), outcome in zip(tasks, worker_pool.outcomes(partial(scan_range, infos), parts), strict=True):
            try:
                totals = [a.merge(b) for a, b in zip(totals, outcome.result(), strict=True)]
            except (InputFileError, ReaderError) as error:
                if skipped is None:
                    raise
                skipped.add(SkippedRange(file.url, done.file, done.start, done.stop, str(error)), entries)
            advance(len(done))
    return totals


def remarks(specs: Specs) -> list[str]:
    """What a user should know of the data before training."""
    found = [f"branch {name!r} is left out: {why}" for name, why in specs.left_out.items()]
    if len(found) > 8:
        found = [f"{len(found)} branches are left out as they are no numbers: {shorten(specs.left_out)}"]
    for what, names in (
        ("without a finite value (all columns masked)", [b.name for b in specs.branches if b.empty]),
        ("with one constant value (tells nothing)", [b.name for b in specs.branches if b.constant]),
        ("with integers beyond 2^24 (float32 rounds them)", [b.name for b in specs.branches if _rounds(b)]),
        ("with NaN or infinite values (masked)", [b.name for b in specs.branches if b.nan + b.posinf + b.neginf]),
    ):
        if names:
            found.append(f"branch{'es' * (len(names) > 1)} {what}: {shorten(names)}")
    return found


def _rounds(branch: BranchSpec) -> bool:
    big = max(abs(branch.min or 0), abs(branch.max or 0)) > FLOAT32_INTEGERS
    return big and branch.dtype.lstrip("u").startswith("int")
