"""What could not be read, where the user chose to go on without it: how much is allowed, and the exact report."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from mlaas4hep_tf.errors import LostDataError
from mlaas4hep_tf.io.read_options import ReadOptions


@dataclass(frozen=True)
class SkippedRange:
    """Entries [start, stop) of a file that could not be read.

    Attributes:
        file: as the user named it.
        number: of the file in the list of files.
        start, stop: entries; of a file that cannot even be opened all that are expected in it.
        reason: the error, one line.
        label: of the file, where labels are given per file.
        times: in how many epochs.
        opened: False if the file could not be opened, so that `stop` is an estimate.
        tree: that was named with the file.
        passing: where there is a selection, how many of the entries pass.
        estimated: whether that is an estimate, as they could not be read when events were counted.
    """

    file: str
    number: int
    start: int
    stop: int
    reason: str
    label: float | None = None
    times: int = 1
    opened: bool = True
    tree: str | None = None
    passing: int | None = None
    estimated: bool = False

    @property
    def events(self) -> int:
        return self.stop - self.start if self.passing is None else self.passing

    def __str__(self) -> str:
        label = "" if self.label is None else f" (label {self.label:g})"
        what = f"entries {self.start} to {self.stop}" if self.opened else f"all of some {self.events} entries"
        some = "some " if self.estimated else ""
        passing = f", of which {some}{self.passing} pass" if self.passing is not None else ""
        epochs = f", {self.times} times" if self.times > 1 else ""
        return f"{self.file}{label}: {what}{passing}{epochs}: {self.reason}"


@dataclass
class Skipped:
    """What was skipped in each epoch; an error where it is too much.

    Attributes:
        max_fraction: of the events of an epoch that may be skipped.
        at_opening: files that could not be opened.
        now: what was skipped in the present epoch.
        ever: what was skipped in any epoch, by file and first entry; shared by the parts of a split.
    """

    max_fraction: float
    at_opening: list[SkippedRange] = field(default_factory=list)
    now: list[SkippedRange] = field(default_factory=list)
    ever: dict[tuple[int, int], SkippedRange] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def fresh(self) -> Skipped:
        """The account of another dataset of the same files."""
        return replace(self, now=[])

    def begin(self, known: Iterable[tuple[int, int]] = ()) -> None:
        """A new epoch, or one of which blocks are known to be lost, by file and first entry."""
        self.now[:] = [self.ever[key] for key in known]

    def recall(self, lost: Iterable[SkippedRange]) -> None:
        """Take over what was skipped before, in the process that this one goes on for."""
        with self._lock:
            self.ever.update({(one.number, one.start): one for one in lost})

    def open_failed(self, failed: Iterable[SkippedRange], entries: int) -> None:
        """Account for files that could not be opened; the others have `entries` events.

        Raises:
            LostDataError: it is more than `max_fraction`.
        """
        self.at_opening[:] = failed
        for lost in self.at_opening:
            self._keep(lost)
        self._check(self.at_opening, entries + sum(lost.events for lost in self.at_opening))

    def label(self, label_of: Callable[[SkippedRange], float | None]) -> None:
        """Add the labels of the files that could not be opened."""
        self.ever.update({key: replace(lost, label=label_of(lost)) for key, lost in self.ever.items()})

    def add(self, lost: SkippedRange, entries: int) -> None:
        """Account for a block of an epoch of `entries` events.

        Raises:
            LostDataError: blocks of more than `max_fraction` of the epoch were skipped; files that could not be
                opened do not count again.
        """
        self.now.append(lost)
        self._keep(lost)
        self._check(self.now, entries)

    def not_counted(self, lost: Sequence[SkippedRange], entries: int) -> None:
        """Account for entries that could not be read when events were counted, and are not tried again.

        Raises:
            LostDataError: it is more than `max_fraction`.
        """
        for one in lost:
            self._keep(one)
        self._check(lost, entries + sum(one.events for one in lost))

    def _keep(self, lost: SkippedRange) -> None:
        with self._lock:
            key = (lost.number, lost.start)
            self.ever[key] = replace(lost, times=self.ever[key].times + 1) if key in self.ever else lost

    def _check(self, lost: Iterable[SkippedRange], entries: int) -> None:
        lost = list(lost)
        events = sum(item.events for item in lost)
        if lost and (self.max_fraction == 0 or events > self.max_fraction * entries):
            first = max(lost, key=lambda item: item.events)
            more = f"; and {len(lost) - 1} more" if len(lost) > 1 else ""
            raise LostDataError(
                f"more is lost than max_lost_fraction={self.max_fraction:g} allows: {_share(events, entries)}"
                f"{_per_label(lost)}: {first}{more}"
            )

    @property
    def events(self) -> int:
        """Events that were ever skipped, each counted once."""
        return sum(lost.events for lost in self.ever.values())

    def report(self) -> list[str]:
        """A line on the whole, then one for each skipped range; no line if nothing was skipped."""
        lost = sorted(self.ever.values(), key=lambda item: (item.number, item.start))
        if not lost:
            return []
        files = len({item.number for item in lost})
        return [f"lost {self.events:,} events of {files} file{'s' * (files > 1)}{_per_label(lost)}", *map(str, lost)]

    def to_json(self) -> list[dict[str, Any]]:
        return [asdict(lost) | {"events": lost.events} for _, lost in sorted(self.ever.items())]


def _share(events: int, entries: int) -> str:
    return f"{events:,} of {entries:,} events" + (f" ({events / entries:.3%})" if entries else "")


def _per_label(lost: Iterable[SkippedRange]) -> str:
    events = Counter[float]()
    for item in lost:
        if item.label is not None:
            events[item.label] += item.events
    return "" if not events else ", " + ", ".join(f"{n:,} with label {label:g}" for label, n in sorted(events.items()))


def account(read: ReadOptions) -> Skipped | None:
    """The account to keep, or None where the first file or block that cannot be read is an error."""
    return Skipped(read.max_lost_fraction) if read.on_bad_file == "skip" else None


def expected_entries(url: str, known: Mapping[str, int], opened: Iterable[int]) -> int:
    """Entries that a file is assumed to have if it cannot be opened: as the specs say, or the mean of the others."""
    counts = list(opened)
    return known.get(url, round(sum(counts) / len(counts)) if counts else 0)
