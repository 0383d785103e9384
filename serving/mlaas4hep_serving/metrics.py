"""Counters and histograms under TF-Serving's names, in Prometheus text, one view over all server processes.

Values live in a file of float64 cells per process (mapped into memory), beside a file that names the cells.  A
process writes only its own; whoever is asked for the metrics adds up the files of the folder.
"""

from __future__ import annotations

import json
import mmap
import os
import re
import struct
import threading
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

LATENCIES = tuple(10 * 1.8**k for k in range(33))  # upper bounds of histograms, microseconds
SIZES = tuple(float(2**k) for k in range(20))  # of histograms whose name ends with _size, rows
CELLS = 1 << 17
COUNTS = "counts"  # the kind of `Registry.count`
_PREFIX = "/tensorflow/serving/"
KNOWN = (  # shown from the start
    ("counter", _PREFIX + "request_count"),
    ("histogram", _PREFIX + "request_latency"),
    ("histogram", _PREFIX + "runtime_latency"),
    ("histogram", _PREFIX + "batching_session/queuing_latency"),
    ("histogram", _PREFIX + "batching_session/padding_size"),
    ("histogram", _PREFIX + "batching_session/input_batch_size"),
    ("histogram", _PREFIX + "batching_session/processed_batch_size"),
)
_NAMES = re.compile(r"[^a-zA-Z0-9_]")
Labels = tuple[tuple[str, str], ...]


class Registry:
    """The metrics of this process; with a folder, readable by its sibling processes.

    Args:
        folder: shared by all processes of one server; None keeps the cells in memory only.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._index: dict[tuple[str, str, Labels], tuple[int, int]] = {}  # where the cells begin, and how many
        self._free: dict[int, list[int]] = {}  # how many -> where cells begin that nobody uses
        self._used = 0
        if folder is None:
            memory, self._names = mmap.mmap(-1, 8 * CELLS), None
        else:
            path = folder / f"{os.getpid()}.cells"
            with path.open("w+b") as file:
                file.truncate(8 * CELLS)
                memory = mmap.mmap(file.fileno(), 8 * CELLS)
            self._names = path.with_suffix(".names").open("w", buffering=1)
        self._cells: memoryview[float] = memoryview(memory).cast("d")
        self._array: npt.NDArray[np.float64] = np.frombuffer(memory)  # the same cells, for many at once

    def add(self, name: str, labels: Mapping[str, str], amount: float = 1.0) -> None:
        """Add to a counter.  ``name`` as in TensorFlow, ``/tensorflow/serving/request_count``."""
        with self._lock:
            self._bump(self._cell("counter", name, labels, 1), amount)

    def observe(self, name: str, labels: Mapping[str, str], value: float) -> None:
        """Count a value in a histogram with the bounds of `bounds`."""
        buckets = bounds(name)
        with self._lock:
            start = self._cell("histogram", name, labels, len(buckets) + 2)
            self._bump(start + bisect_left(buckets, value), 1.0)
            self._bump(start + len(buckets) + 1, value)

    def count(self, name: str, labels: Mapping[str, str], counts: npt.NDArray[np.float64]) -> None:
        """Add to as many counters at once, which `text` does not show and `counted` gives."""
        with self._lock:
            start = self._cell(COUNTS, name, labels, len(counts))
            self._array[start : start + len(counts)] += counts

    def counted(self, name: str) -> Mapping[Labels, list[float]]:
        """What all processes have counted under a name."""
        return self._merged().get((COUNTS, name), {})

    def release(self, name: str, labels: Mapping[str, str]) -> None:
        """Forget what was counted under a name and, among others, these labels."""
        with self._lock:
            gone = [key for key in self._index if key[:2] == (COUNTS, name) and labels.items() <= dict(key[2]).items()]
            for key in gone:
                index, width = self._index.pop(key)
                self._array[index : index + width] = 0
                self._free.setdefault(width, []).append(index)
                self._tell("", "", (), index, width)

    def text(self) -> str:
        """All metrics of all processes, in the Prometheus text format."""
        found = {key: series for key, series in self._merged().items() if key[0] != COUNTS}
        return render({key: found.get(key, {}) for key in (*KNOWN, *found)})

    def _merged(self) -> dict[tuple[str, str], dict[Labels, list[float]]]:
        return merged(self._own() if self._folder is None else _read(self._folder))

    def _cell(self, kind: str, name: str, labels: Mapping[str, str], width: int) -> int:
        key = (kind, name, tuple(labels.items()))
        if key not in self._index:
            self._index[key] = self._place(name, width), width
            self._tell(*key, *self._index[key])
        return self._index[key][0]

    def _place(self, name: str, width: int) -> int:
        if self._free.get(width):
            return self._free[width].pop()
        if self._used + width > CELLS:
            raise MemoryError(f"more than {CELLS} metric cells: too many different labels for {name}")
        self._used += width
        return self._used - width

    def _tell(self, kind: str, name: str, labels: Labels, index: int, width: int) -> None:
        if self._names is not None:
            self._names.write(json.dumps([kind, name, labels, index, width]) + "\n")

    def _bump(self, index: int, amount: float) -> None:
        self._cells[index] += amount

    def _own(self) -> Iterable[tuple[str, str, Labels, list[float]]]:
        with self._lock:
            for (kind, name, labels), (index, width) in self._index.items():
                yield kind, name, labels, list(self._cells[index : index + width])


def bounds(name: str) -> tuple[float, ...]:
    """Upper bounds of a histogram's buckets."""
    return SIZES if name.endswith("_size") else LATENCIES


def _read(folder: Path) -> Iterable[tuple[str, str, Labels, list[float]]]:
    for names in sorted(folder.glob("*.names")):
        cells = names.with_suffix(".cells").read_bytes()
        told = map(json.loads, names.read_text().splitlines())
        for kind, name, labels, index, width in {
            line[3]: line for line in told if line
        }.values():  # the last one counts
            if not kind:
                continue
            values = list(struct.unpack_from(f"{width}d", cells, 8 * index))
            yield kind, name, tuple((k, v) for k, v in labels), values


def merged(
    parts: Iterable[tuple[str, str, Labels, list[float]]],
) -> dict[tuple[str, str], dict[Labels, list[float]]]:
    """Sum cells of the same metric and labels."""
    total: dict[tuple[str, str], dict[Labels, list[float]]] = {}
    for kind, name, labels, values in parts:
        series = total.setdefault((kind, name), {})
        old = series.get(labels)
        series[labels] = values if old is None else [a + b for a, b in zip(old, values, strict=True)]
    return total


def render(metrics: Mapping[tuple[str, str], Mapping[Labels, Sequence[float]]]) -> str:
    """Prometheus text as TF-Serving's exporter writes it: ``/a/b`` is ``:a:b``, buckets are cumulative."""
    lines = []
    for (kind, name), series in sorted(metrics.items(), key=lambda item: item[0][1]):
        metric = _metric(name)
        lines.append(f"# TYPE {metric} {kind}")
        for labels, values in series.items():
            if kind == "counter":
                lines.append(f"{metric}{_labels(labels)} {_number(values[0])}")
            else:
                lines.extend(_histogram(metric, labels, values, bounds(name)))
    return "\n".join(lines) + "\n" if lines else ""


def gauge(name: str, values: Mapping[Labels, float]) -> str:
    """A metric that goes up and down, in Prometheus text."""
    lines = [f"# TYPE {_metric(name)} gauge", *(f"{_metric(name)}{_labels(k)} {v!r}" for k, v in values.items())]
    return "\n".join(lines) + "\n" if values else ""


def _metric(name: str) -> str:
    return _not_a_digit_first(re.sub(r"[^a-zA-Z0-9_]", ":", name))


def _not_a_digit_first(name: str) -> str:
    return "_" + name if name[:1].isdigit() else name


def _histogram(metric: str, labels: Labels, values: Sequence[float], edges: Sequence[float]) -> Iterable[str]:
    counts, total = values[:-1], values[-1]
    seen = 0.0
    for bound, count in zip((*edges, None), counts, strict=True):
        seen += count
        edge = "+Inf" if bound is None else f"{bound:g}"
        yield f"{metric}_bucket{_labels((*labels, ('le', edge)))} {_number(seen)}"
    yield f"{metric}_sum{_labels(labels)} {_number(total)}"
    yield f"{metric}_count{_labels(labels)} {_number(seen)}"


def _labels(labels: Labels) -> str:
    if not labels:
        return "{}"
    return "{" + ",".join(f'{_not_a_digit_first(_NAMES.sub("_", k))}="{_escape(v)}"' for k, v in labels) + "}"


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)
