"""Dynamic batching: requests to one signature become one run, with TF-Serving's parameters and errors.

Sources of the rules: TF-Serving's ``batching_session.cc`` and TensorFlow's ``shared_batch_scheduler.h``.
"""

from __future__ import annotations

import itertools
import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mlaas4hep_serving.errors import (
    ServingError,
    failed_precondition,
    internal,
    invalid_argument,
    resource_exhausted,
    unavailable,
)
from mlaas4hep_serving.metrics import Registry
from mlaas4hep_serving.wire import sizes
from mlaas4hep_serving.wire.tensors import Array

Key = tuple[tuple[str, ...], tuple[str, ...]]
RunBatch = Callable[[Sequence[str], Sequence[Array], Sequence[str], float | None], Sequence[Array]]
QUEUED = "Run() timeout exceeded while waiting in batching queue"
_LATER = threading.TIMEOUT_MAX


@dataclass(frozen=True)
class BatchingOptions:
    """``BatchingParameters`` with TF-Serving's defaults.

    Raises:
        ServingError: INVALID_ARGUMENT, sizes that contradict each other.
    """

    max_batch_size: int = 1000
    batch_timeout_micros: int = 0
    max_enqueued_batches: int = 10
    num_batch_threads: int = os.cpu_count() or 1
    allowed_batch_sizes: tuple[int, ...] = ()
    pad_variable_length_inputs: bool = False
    enable_large_batch_splitting: bool = False
    max_execution_batch_size: int = 0

    def __post_init__(self) -> None:
        for name in ("max_batch_size", "max_enqueued_batches", "num_batch_threads"):
            if getattr(self, name) < 1:
                raise invalid_argument(f"{name} must be positive; was {getattr(self, name)}")
        if self.batch_timeout_micros < 0:
            raise invalid_argument(f"batch_timeout_micros must be non-negative; was {self.batch_timeout_micros}")
        self._check_allowed()

    def _check_allowed(self) -> None:
        sizes = self.allowed_batch_sizes
        if any(later <= earlier for earlier, later in itertools.pairwise(sizes)):
            raise invalid_argument("allowed_batch_sizes entries must be monotonically increasing")
        if sizes and sizes[-1] != self.execution_size:
            name = "max_execution_batch_size" if self.enable_large_batch_splitting else "max_batch_size"
            raise invalid_argument(
                f"Last entry in allowed_batch_sizes must match {name}; last entry was {sizes[-1]}; "
                f"expected {self.execution_size}"
            )

    @property
    def execution_size(self) -> int:
        """Rows of the largest run."""
        if self.enable_large_batch_splitting and self.max_execution_batch_size:
            return self.max_execution_batch_size
        return self.max_batch_size

    def padded(self, rows: int) -> int:
        """Rows that a batch of ``rows`` runs with."""
        return next((size for size in self.allowed_batch_sizes if size >= rows), rows)

    @classmethod
    def from_proto(cls, proto: Any) -> BatchingOptions:
        """From a `messages.BatchingParameters`; what is not set has its default."""
        given: dict[str, Any] = {
            name: getattr(proto, name).value
            for name in (
                "max_batch_size",
                "batch_timeout_micros",
                "max_enqueued_batches",
                "num_batch_threads",
                "enable_large_batch_splitting",
                "max_execution_batch_size",
            )
            if proto.HasField(name)
        }
        given["allowed_batch_sizes"] = tuple(proto.allowed_batch_sizes)
        given["pad_variable_length_inputs"] = proto.pad_variable_length_inputs
        return cls(**given)


@dataclass
class _Task:
    values: Sequence[Array]
    rows: int
    deadline: float | None
    born: float
    done: Future[Sequence[Array]]


@dataclass
class _Batch:
    born: float
    tasks: list[_Task] = field(default_factory=list)
    rows: int = 0


class Batcher:
    """Collects requests of one loaded version; threads of its own run the batches.

    A batch runs when it is full, or `batch_timeout_micros` after its first request, as soon as a thread is free.

    Args:
        nan_padded: feeds whose rows may differ in width between requests, as NaN means "no value" to the model.
        most: bytes of the feeds, or of the answer, of requests that run together; beyond, each runs alone.
        row_bytes: fetch -> bytes of a row of it, as far as the model tells.
    """

    def __init__(
        self,
        run: RunBatch,
        options: BatchingOptions,
        metrics: Registry,
        model: str,
        nan_padded: frozenset[str] = frozenset(),
        most: int = sizes.NO_LIMIT,
        row_bytes: Mapping[str, int] | None = None,
    ) -> None:
        self.options = options
        self._run = run
        self._nan_padded = nan_padded
        self._most, self._row_bytes = most, row_bytes or {}
        self._metrics = metrics
        self._labels = {"thread_pool_name": "model_server_batch_threads", "model_name": model}
        self._queues: dict[Key, deque[_Batch]] = {}
        self._wake = threading.Condition()
        self._closed = False
        self._threads = [
            threading.Thread(target=self._work, name=f"batch-{model}-{i}", daemon=True)
            for i in range(options.num_batch_threads)
        ]
        for thread in self._threads:
            thread.start()

    def submit(
        self, feeds: Sequence[str], values: Sequence[Array], fetches: Sequence[str], deadline: float | None = None
    ) -> Future[Sequence[Array]]:
        """Enqueue one request; its outputs come in the order of ``fetches``.

        Args:
            deadline: `time.monotonic` after which the answer is of no use.

        Raises:
            ServingError: INVALID_ARGUMENT, rows that do not agree or are too many; UNAVAILABLE, a full queue.
        """
        rows = _rows(values)
        key = (tuple(feeds), tuple(fetches))
        self._metrics.observe("/tensorflow/serving/batching_session/input_batch_size", self._labels, rows)
        limit = self.options.max_batch_size
        if rows <= limit and rows <= self.options.execution_size:
            return self._enqueue(key, [_task(values, rows, deadline)])[0]
        if not self.options.enable_large_batch_splitting or rows > limit:
            raise invalid_argument(f"Task size {rows} is larger than maximum input batch size {limit}")
        step = self.options.execution_size
        parts = [[v[i : i + step] for v in values] for i in range(0, rows, step)]
        return _joined(self._enqueue(key, [_task(part, len(part[0]), deadline) for part in parts]))

    def close(self) -> None:
        """Run what is enqueued, then end the threads."""
        with self._wake:
            self._closed = True
            self._wake.notify_all()
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join()

    def _enqueue(self, key: Key, tasks: Sequence[_Task]) -> list[Future[Sequence[Array]]]:
        with self._wake:
            if self._closed:
                raise unavailable("The model is being unloaded")
            queue = self._queues.setdefault(key, deque())
            needed = sum(1 for i, task in enumerate(tasks) if i or not self._fits(queue, task))
            if len(queue) + needed > self.options.max_enqueued_batches:
                raise unavailable(
                    "The batch scheduling queue to which this task was submitted is full; "
                    f"currently {len(queue)} batches of at most {self.options.max_enqueued_batches} are enqueued"
                )
            for task in tasks:
                if not self._fits(queue, task):
                    queue.append(_Batch(task.born))
                queue[-1].tasks.append(task)
                queue[-1].rows += task.rows
            self._wake.notify()
        return [task.done for task in tasks]

    def _fits(self, queue: deque[_Batch], task: _Task) -> bool:
        return bool(queue) and queue[-1].rows + task.rows <= self.options.execution_size

    def _work(self) -> None:
        while (taken := self._next()) is not None:
            key, batch = taken
            try:
                self._process(key, batch)
            except ServingError as error:
                _fail(batch.tasks, error)
            except Exception as error:  # noqa: BLE001  # a thread that died would leave every later request waiting
                _fail(batch.tasks, internal(f"{type(error).__name__}: {error}"))

    def _next(self) -> tuple[Key, _Batch] | None:
        with self._wake:
            while True:
                now = time.monotonic()
                ready, wait = self._ready(now)
                if ready is not None:
                    return ready, self._queues[ready].popleft()
                if self._closed:
                    return None
                self._wake.wait(wait)

    def _ready(self, now: float) -> tuple[Key | None, float | None]:
        """The queue whose first batch has waited longest and may run, else how long to wait."""
        oldest: tuple[float, Key] | None = None
        wait: float | None = None
        for key, queue in self._queues.items():
            if not queue:
                continue
            batch = queue[0]
            due = batch.born + self.options.batch_timeout_micros / 1e6
            if len(queue) > 1 or batch.rows >= self.options.execution_size or due <= now or self._closed:
                oldest = min(oldest or (batch.born, key), (batch.born, key))
            else:
                wait = min(wait or _LATER, due - now)
        return (oldest[1] if oldest else None), wait

    def _process(self, key: Key, batch: _Batch) -> None:
        now = time.monotonic()
        tasks = [task for task in batch.tasks if task.deadline is None or task.deadline > now]
        late = [task for task in batch.tasks if task.deadline is not None and task.deadline <= now]
        _fail(late, resource_exhausted(QUEUED))
        if not tasks:
            return
        needed = self._bytes(key, tasks)
        if needed <= self._most:
            self._together(key, tasks, now)
        elif len(tasks) == 1:
            sizes.check(needed, self._most)
        else:
            for task in tasks:
                self._alone(key, task)

    def _alone(self, key: Key, task: _Task) -> None:
        try:
            self._process(key, _Batch(task.born, [task], task.rows))
        except ServingError as error:
            _fail([task], error)

    def _bytes(self, key: Key, tasks: Sequence[_Task]) -> int:
        """Bytes of what a batch of these would feed, or of what it would fetch."""
        feeds, fetches = key
        size = self.options.padded(sum(task.rows for task in tasks))
        fed = sum(_padded_bytes([task.values[i] for task in tasks], size) for i in range(len(feeds)))
        return max(fed, size * sum(self._row_bytes.get(fetch, 0) for fetch in fetches))

    def _together(self, key: Key, tasks: Sequence[_Task], now: float) -> None:
        feeds, fetches = key
        for task in tasks:
            task.done.set_running_or_notify_cancel()
        rows = sum(task.rows for task in tasks)
        size = self.options.padded(rows)
        self._record(tasks, now, size, size - rows)
        merged = [self._merged(name, [task.values[i] for task in tasks], size - rows) for i, name in enumerate(feeds)]
        deadlines = [task.deadline for task in tasks]
        timeout = None if None in deadlines else max(d for d in deadlines if d is not None) - now
        _split(self._run(feeds, merged, fetches, timeout), tasks, size)

    def _merged(self, name: str, arrays: list[Array], padding: int) -> Array:
        if len(arrays) == 1 and not padding:
            return arrays[0]
        if len({array.shape[1:] for array in arrays}) > 1:
            if name in self._nan_padded:
                return np.concatenate(_padded_rows(pad_to_largest(arrays, np.nan), padding))
            if not self.options.pad_variable_length_inputs:
                raise failed_precondition(
                    f"Tensors with name '{name.split(':')[0]}' from different tasks have different shapes and padding "
                    "is turned off. Set pad_variable_length_inputs to true, or ensure that all tensors with the same "
                    "name have equal dimensions starting with the first dim."
                )
            arrays = pad_to_largest(arrays)
        return np.concatenate(_padded_rows(arrays, padding))

    def _record(self, tasks: Sequence[_Task], now: float, size: int, padding: int) -> None:
        prefix = "/tensorflow/serving/batching_session/"
        self._metrics.observe(prefix + "processed_batch_size", self._labels, size)
        self._metrics.observe(prefix + "padding_size", self._labels, padding)
        self._metrics.observe(prefix + "queuing_latency", self._labels, (now - tasks[0].born) * 1e6)


def _padded_bytes(arrays: Sequence[Array], rows: int) -> int:
    """Bytes of arrays that are joined to ``rows`` rows, each dimension as large as the largest."""
    inner: list[int] = [max(dims) for dims in zip(*(array.shape[1:] for array in arrays), strict=False)]
    itemsize: int = arrays[0].itemsize
    return rows * math.prod(inner) * itemsize


def _padded_rows(arrays: list[Array], padding: int) -> list[Array]:
    return [*arrays, np.repeat(arrays[-1][:1], padding, axis=0)] if padding else arrays


def pad_to_largest(arrays: list[Array], fill: float | None = None) -> list[Array]:
    """Every dimension but the first grows to the largest, filled with ``fill`` or else the array's first element.

    Raises:
        ServingError: FAILED_PRECONDITION, arrays of different rank.
    """
    if len({array.ndim for array in arrays}) > 1:
        raise failed_precondition("Tensors with the same name from different tasks must have the same rank")
    inner = np.max([array.shape[1:] for array in arrays], axis=0)
    padded = []
    for array in arrays:
        first = array.flat[0] if array.size else 0
        larger = np.full((len(array), *inner), first if fill is None else fill, array.dtype)
        larger[tuple(slice(0, size) for size in array.shape)] = array
        padded.append(larger)
    return padded


def _task(values: Sequence[Array], rows: int, deadline: float | None) -> _Task:
    return _Task(values, rows, deadline, time.monotonic(), Future())


def _rows(values: Sequence[Array]) -> int:
    if not values:
        raise invalid_argument("Batching Run() must have at least one input tensor")
    if any(value.ndim == 0 for value in values):
        raise invalid_argument("Batching Run() input tensors must have at least one dimension")
    rows = len(values[0])
    if any(len(value) != rows for value in values):
        raise invalid_argument("Batching Run() input tensors must have equal 0th-dimension size")
    return rows


def _split(outputs: Sequence[Array], tasks: Sequence[_Task], size: int) -> None:
    for output in outputs:
        if output.ndim == 0:
            raise failed_precondition("Batched output tensor has 0 dimensions")
        if len(output) != size:
            raise failed_precondition(
                "Batched output tensor's 0th dimension does not equal the sum of the 0th dimension sizes of the input "
                "tensors"
            )
    start = 0
    for task in tasks:
        end = start + task.rows
        task.done.set_result([output[start:end] for output in outputs])
        start = end


def _fail(tasks: Sequence[_Task], error: ServingError) -> None:
    for task in tasks:
        if not task.done.done():
            task.done.set_exception(error)


def _joined(parts: list[Future[Sequence[Array]]]) -> Future[Sequence[Array]]:
    whole: Future[Sequence[Array]] = Future()
    whole.set_running_or_notify_cancel()
    left = [len(parts)]
    lock = threading.Lock()

    def arrived(_: Future[Sequence[Array]]) -> None:
        with lock:
            left[0] -= 1
            if left[0]:
                return
        errors = [part.exception() for part in parts if part.exception() is not None]
        if errors:
            whole.set_exception(errors[0])
        else:
            results = [part.result() for part in parts]
            whole.set_result([np.concatenate(pieces) for pieces in zip(*results, strict=True)])

    for part in parts:
        part.add_done_callback(arrived)
    return whole
