"""What versions are asked, counted against the reference histograms of their model cards.

A thread of its own counts, and no more than a share of the time: of what comes faster it counts a sample.  So a request
costs what it takes to put its arrays in a queue, and without ``--count_inputs`` nothing at all.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from tensorflow.core.protobuf.meta_graph_pb2 import SignatureDef

from mlaas4hep_serving.metrics import Labels, Registry, gauge
from mlaas4hep_serving.wire.tensors import Array

log = logging.getLogger(__name__)
NAME = "/mlaas4hep/serving/inputs"
SELECTED = "selected"  # the output of models that have a selection
ALL, PASSING = "all", "passing"
_WAITING = 32  # requests in the queue
_LARGEST = 1 << 20  # bytes of a request that are counted; of a larger one the first rows
_SHARE = 0.1  # of the time that is spent on counting
_GROUPS = 10  # of bins, with about equal shares of the reference, whose populations are compared
Counts = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Histogram:
    """The reference of one input: what lies below the range, in its bins, above it, and is missing."""

    low: float
    high: float
    counts: Mapping[str, Counts]  # of all events, and of those that pass

    @staticmethod
    def of(entry: Mapping[str, Any]) -> Histogram:
        """Of an entry of the model card."""
        low, high = map(float, entry["range"])
        counts = {kind: np.asarray(entry[kind], np.float64) for kind in (ALL, PASSING) if kind in entry}
        if not low <= high or any(own.ndim != 1 or len(own) < 4 for own in counts.values()) or ALL not in counts:
            raise ValueError(f"a range {low} to {high} with {[own.shape for own in counts.values()]} counts")
        return Histogram(low, high, counts)

    def count(self, values: Array) -> Counts:
        """The same cells of other values; padding of lists is NaN, and no value that is missing."""
        kind = self.counts[ALL]
        bins = len(kind) - 3
        finite = values[np.isfinite(values)].astype(np.float64)
        place = np.clip(np.floor((finite - self.low) / ((self.high - self.low) / bins or 1.0)), -1, bins)
        place[finite == self.high] = bins - 1
        found = np.bincount((place + 1).astype(np.int64), minlength=len(kind)).astype(np.float64)
        found[-1] = values.size - finite.size if values.ndim == 1 else 0
        return found


def psi(reference: Counts, served: Counts) -> float:
    """Population stability index, the sum of (q - p) ln(q / p) over some ten groups of bins; what is missing is none.

    Below 0.1 the populations are usually taken for the same, above 0.25 for different (Siddiqi, Credit Risk Scorecards,
    2006).  Half an event is added to each group, so that an empty one gives no infinity.
    """
    share = np.cumsum(reference[:-1]) / max(reference[:-1].sum(), 1)
    group = np.minimum((share - reference[:-1] / max(reference[:-1].sum(), 1) / 2) * _GROUPS, _GROUPS - 1).astype(int)
    p, q = (np.bincount(group, own[:-1])[np.unique(group)] + 0.5 for own in (reference, served))
    p, q = p / p.sum(), q / q.sum()
    return float(np.sum((q - p) * np.log(q / p)))


@dataclass(frozen=True)
class Row:
    """One input of a version, reference and what was served, of all events or of those that pass."""

    model: str
    version: int
    input: str
    events: str
    low: float
    high: float
    reference: Counts
    served: Counts

    @property
    def psi(self) -> float:
        return psi(self.reference, self.served)

    @property
    def masked(self) -> float:
        """Share of the values that are missing."""
        return float(self.served[-1] / max(self.served.sum(), 1))

    @property
    def outside(self) -> float:
        """Share of the values that lie beyond the range of the training."""
        return float((self.served[0] + self.served[-2]) / max(self.served[:-1].sum(), 1))

    def to_json(self) -> dict[str, Any]:
        """For the list of drift."""
        return {
            "model": self.model, "version": self.version, "input": self.input, "events": self.events,
            "range": [self.low, self.high], "reference": self.reference.tolist(), "served": self.served.tolist(),
            "psi": self.psi, "masked": self.masked, "out_of_range": self.outside,
        }  # fmt: skip


class Counter:
    """Counts what one version is asked."""

    def __init__(self, drift: Drift, name: str, number: int, histograms: Mapping[str, Histogram]) -> None:
        self._drift, self.name, self.number, self.histograms = drift, name, number, histograms
        self._inputs: dict[str, str] = {}
        self._selected: frozenset[str] = frozenset()

    def knows(self, signatures: Iterable[SignatureDef], inputs: Mapping[str, str]) -> None:
        """Learn the names of the tensors; ``inputs``: branch -> its name in the signatures."""
        branches = {inputs.get(branch, branch): branch for branch in self.histograms}
        for signature in signatures:
            found = {info.name: branches[alias] for alias, info in signature.inputs.items() if alias in branches}
            self._inputs |= found
            self._selected |= {info.name for alias, info in signature.outputs.items() if alias == SELECTED}

    def take(
        self, feeds: Sequence[str], values: Sequence[Array], fetches: Sequence[str], found: Sequence[Array]
    ) -> None:
        """Have a request counted, if there is time for it."""
        if self._drift.waiting.full():
            return
        known = {self._inputs[feed]: value for feed, value in zip(feeds, values, strict=True) if feed in self._inputs}
        rows = _rows(list(known.values()))
        own = {name: value[:rows] for name, value in known.items() if value.ndim}  # a client may send a scalar
        selected = next((one for name, one in zip(fetches, found, strict=True) if name in self._selected), None)
        if selected is not None and rows is not None:
            selected = selected[:rows]
        if rows is not None:
            own = {name: value.copy() for name, value in own.items()}
        if own:
            self._drift.put(self, own, selected)

    def count(self, values: Mapping[str, Array], selected: Array | None) -> None:
        """Count a request."""
        for name, value in values.items():
            histogram = self.histograms[name]
            self._add(name, ALL, histogram.count(value))
            if PASSING in histogram.counts and selected is not None and selected.shape == value.shape[:1]:
                self._add(name, PASSING, histogram.count(value[selected]))

    def _add(self, name: str, events: str, counts: Counts) -> None:
        labels = {"model_name": self.name, "version": str(self.number), "input": name, "events": events}
        self._drift.metrics.count(NAME, labels, counts)

    def close(self) -> None:
        """The version is gone, and what was counted of it."""
        self._drift.forget(self)


def _rows(values: Sequence[Array]) -> int | None:
    """How many rows of a request are counted; None for all."""
    size = sum(value.nbytes for value in values)
    return (
        None if size <= _LARGEST else max(1, max(value.shape[0] for value in values if value.ndim) * _LARGEST // size)
    )


class Drift:
    """The counters of all versions, and the thread that counts."""

    def __init__(self, metrics: Registry) -> None:
        self.metrics = metrics
        self.waiting: queue.Queue[tuple[Counter, Mapping[str, Array], Array | None]] = queue.Queue(_WAITING)
        self._counters: dict[tuple[str, int], Counter] = {}
        threading.Thread(target=self._work, name="drift", daemon=True).start()

    def counter(self, name: str, number: int, card: Mapping[str, Any]) -> Counter | None:
        """The counter of a version that is loaded; None where its card has no reference."""
        try:
            entries = card.get("reference", {})["inputs"]
            histograms = {branch: Histogram.of(entry) for branch, entry in entries.items()}
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            log.info(
                "what model %s version %d is asked is not counted: its card has no reference: %s", name, number, error
            )
            return None
        found = self._counters[name, number] = Counter(self, name, number, histograms)
        return found

    def put(self, counter: Counter, values: Mapping[str, Array], selected: Array | None) -> None:
        """Have a request counted, or not, where too many wait."""
        try:
            self.waiting.put_nowait((counter, values, selected))
        except queue.Full:
            return

    def forget(self, counter: Counter) -> None:
        """Drop a counter and its counts."""
        if self._counters.get((counter.name, counter.number)) is counter:
            del self._counters[counter.name, counter.number]
        self.metrics.release(NAME, {"model_name": counter.name, "version": str(counter.number)})

    def _work(self) -> None:
        while True:
            counter, values, selected = self.waiting.get()
            start = time.perf_counter()
            try:
                counter.count(values, selected)
            except Exception:  # a model's inputs may be anything; the next one counts
                log.exception("a request to model %s is not counted", counter.name)
            self.waiting.task_done()
            time.sleep((time.perf_counter() - start) * (1 / _SHARE - 1))

    def rows(self) -> list[Row]:
        """Each input of each version that has been asked, those that drift most first."""
        found = [
            row for labels, counts in self.metrics.counted(NAME).items() if (row := self._row(dict(labels), counts))
        ]
        return sorted(found, key=lambda row: -row.psi)

    def _row(self, labels: Mapping[str, str], counts: Sequence[float]) -> Row | None:
        key, name, events = (labels["model_name"], int(labels["version"])), labels["input"], labels["events"]
        counter = self._counters.get(key)
        if counter is None or not sum(counts):
            return None
        one = counter.histograms[name]
        return Row(*key, name, events, one.low, one.high, one.counts[events], np.asarray(counts))

    def text(self) -> str:
        """In the text format of Prometheus."""
        return "".join(
            gauge(f"/mlaas4hep/serving/input_{kind}", {_labels(row): getattr(row, kind) for row in rows})
            for rows in [self.rows()]
            for kind in ("psi", "masked", "outside")
        )


def _labels(row: Row) -> Labels:
    known = {"model_name": row.model, "version": str(row.version), "input": row.input, "events": row.events}
    return tuple(known.items())
