"""Folds and held-out events: by what they are drawn, and how many of them lie where in the files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, get_args

from mlaas4hep_tf.analysis.draws import FOLDS, HOLD_OUT, Draw, Drawn
from mlaas4hep_tf.analysis.passing import Passing
from mlaas4hep_tf.analysis.steps import Steps, steps_of
from mlaas4hep_tf.errors import ConfigError, InputFileError, PlanError, ReaderError, near_misses
from mlaas4hep_tf.expressions.syntax import words_of
from mlaas4hep_tf.io.branches import Selection
from mlaas4hep_tf.io.files import RootFile
from mlaas4hep_tf.io.workers import WorkerPool
from mlaas4hep_tf.passed import edges
from mlaas4hep_tf.scanner import SCAN_ENTRIES
from mlaas4hep_tf.specs import Specs
from mlaas4hep_tf.streaming.open_files import inspect_files, open_scanned
from mlaas4hep_tf.streaming.ranges import blocks
from mlaas4hep_tf.streaming.skipped import Skipped, SkippedRange

By = Literal["identifiers", "entries"]  # or an expression


@dataclass(frozen=True)
class HoldOut:
    """Which events take no part in training and are kept to judge by: the same ones as files are added.

    Attributes:
        share: of the events, chosen by a hash; or None.
        by: by the hash of what (`Folds`), or, without a share, a condition on flat branches of the files: those for
            which it holds are held out, as in ``event % 5 == 0``.
    """

    share: float | None = None
    by: str | None = None

    def __post_init__(self) -> None:
        if (self.share is None) != (self.by is not None and self.by not in get_args(By)):
            raise ConfigError("events are held out as a share of them, or by a condition on their branches: give one")
        if self.share is not None and not 0 < self.share < 1:
            raise ConfigError(f"the share of events that are held out must lie between 0 and 1, not {self.share:g}")

    def draw(self, specs: Specs) -> Draw:
        """How these events are told; part 1 is held out."""
        share = self.share or 0.5
        return _draw(HOLD_OUT, (1 - share, share), self.by, specs)


@dataclass(frozen=True)
class Folds:
    """Parts of which each is the test of a model that has seen none of it.

    Attributes:
        count: how many, 3 at least: test, validation and training.
        by: ``identifiers`` (of the specs), by a hash of which the fold is chosen; ``entries``, by a hash of the file's
            uuid, the tree's name and the entry; or an expression of flat branches of the files whose value is the
            number of the fold, as in ``event % 5``.  By default identifiers, if scan found that they tell all events
            apart, else entries.
    """

    count: int
    by: str | None = None

    def __post_init__(self) -> None:
        if self.count < 3:
            raise ConfigError(f"there are 3 folds at least, for test, validation and training, not {self.count}")

    def draw(self, specs: Specs) -> Draw:
        """How these events are told; the part is the fold."""
        return _draw(FOLDS, (1 / self.count,) * self.count, self.by, specs)


def _draw(purpose: str, shares: tuple[float, ...], by: str | None, specs: Specs) -> Draw:
    if by is not None and by not in get_args(By):
        words_of(by)
        return Draw(purpose, shares, by=by)
    if by == "identifiers" and not specs.identifiers:
        raise ConfigError(f"{purpose} by identifiers: these specs have none; scan with identifiers= (--identifier)")
    if by == "identifiers" or (by is None and specs.identified):
        return Draw(purpose, shares, identifiers=specs.identifiers)
    return Draw(purpose, shares)


def opened_for(
    draw: Draw, files: Sequence[RootFile], worker_pool: WorkerPool, skipped: Skipped | None
) -> tuple[RootFile, ...]:
    """The files, opened again where the draw reads branches that were not looked at.

    Raises:
        ConfigError: branches that there are not.
    """
    files = open_scanned(files, worker_pool)
    known = {info.name: info for info in files[0].branches}
    names = [name for name in draw.names if name in known]
    if not names and draw.servable:
        lacking = draw.names[0] if draw.names else draw.by
        raise ConfigError(
            f"{draw.describe()}: there is no branch {lacking!r}{near_misses(lacking, known)} in {files[0].where}"
        )
    if any(known[name].kind == "other" for name in names):
        looked_at = tuple(info.name for info in files[0].branches if info.kind != "other")
        also = (*looked_at, *names)
        files = inspect_files([file.source for file in files], Selection(also, (), ()), worker_pool, skipped=skipped)
    draw.steps(files[0].branches)
    return tuple(files)


def steps_for(specs: Specs) -> Steps:
    """The steps of the specs, which do nothing where there is no analysis."""
    return specs.steps or steps_of(specs.analysis, specs.read_infos)


def counted_parts(
    draw: Draw, drawn: Sequence[Drawn], files: Sequence[RootFile], passing: Sequence[Passing], steps: Steps,
    worker_pool: WorkerPool, skipped: Skipped | None,
) -> list[tuple[Passing, ...]]:  # fmt: skip
    """Of each part the events in each file; read is only what the draw and the selection rest on.

    Args:
        drawn: what the events are drawn from.
        passing: of each file, what of it passes the selection and is drawn already; or nothing.

    Raises:
        PlanError: a part without an event, or numbers that are none of a part.
    """
    tasks = [task for n, file in enumerate(files) for task in _tasks(n, file, passing)]
    selects = steps if steps.analysis.selects else None
    names = [*draw.names, *(name for one in drawn for name in one.draw.names)]
    names += [info.name for info in steps.inputs] if selects else []
    work = ((files[n].part(names, own[0], own[-1]), own) for n, own in tasks)
    counts = [[[0] * (len(own) - 1) for _ in draw.shares] for _, own in tasks]
    outcomes = worker_pool.outcomes(partial(_count, draw, tuple(drawn), selects), work)
    for place, ((n, own), outcome) in enumerate(zip(tasks, outcomes, strict=True)):
        try:
            counts[place] = outcome.result()
        except (InputFileError, ReaderError) as error:
            if skipped is None:
                raise
            lost = SkippedRange(files[n].url, n, own[0], own[-1], str(error))
            skipped.add(lost, sum(file.num_entries for file in files))
    return [_of_part(part, draw, len(files), tasks, counts) for part in range(len(draw.shares))]


def _count(
    draw: Draw, drawn: Sequence[Drawn], steps: Steps | None, task: tuple[RootFile, Sequence[int]]
) -> list[list[int]]:
    """Runs in a reader process: how many events of each part there are between two edges."""
    from mlaas4hep_tf.analysis.reading import count_parts  # here, so that the training process never imports uproot

    return count_parts(draw, drawn, steps, task)


def _tasks(number: int, file: RootFile, passing: Sequence[Passing]) -> list[tuple[int, list[int]]]:
    """Blocks of a file, each with the edges between which events are counted."""
    if not passing:
        found = blocks(number, file.num_entries, file.entry_offsets, SCAN_ENTRIES)
        return [(number, edges(block, file.entry_offsets)) for block in found]
    known, tasks = passing[number].edges, []
    while len(known) > 1:
        size = next((n for n, edge in enumerate(known) if edge - known[0] >= SCAN_ENTRIES), len(known) - 1)
        tasks.append((number, list(known[: size + 1])))
        known = known[size:]
    return tasks


def _of_part(
    part: int, draw: Draw, files: int, tasks: Sequence[tuple[int, list[int]]], counts: Sequence[list[list[int]]]
) -> tuple[Passing, ...]:
    bounds: list[list[int]] = [[0] for _ in range(files)]
    events: list[list[int]] = [[] for _ in range(files)]
    for (number, own), found in zip(tasks, counts, strict=True):
        bounds[number] += own[1:]
        events[number] += found[part]
    if not any(map(any, events)):
        raise PlanError(f"{draw.describe()}: part {part} has no event; use more data or fewer parts")
    return tuple(Passing(tuple(b), tuple(e)) for b, e in zip(bounds, events, strict=True))


def joined(parts: Sequence[tuple[Passing, ...]]) -> tuple[Passing, ...]:
    """The events of several parts, file by file."""
    return tuple(
        Passing(own[0].edges, tuple(map(sum, zip(*(one.events for one in own), strict=True))))
        for own in zip(*parts, strict=True)
    )
