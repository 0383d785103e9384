"""A loaded version as the handlers use it: run by tensor name, batched or not, with the client's deadline."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from google.protobuf.message import Message
from tensorflow.core.framework import types_pb2
from tensorflow.core.protobuf.meta_graph_pb2 import SignatureDef
from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog

from mlaas4hep_serving import config_files
from mlaas4hep_serving.errors import ServingError, deadline_exceeded, resource_exhausted, unavailable, unimplemented
from mlaas4hep_serving.metrics import Registry
from mlaas4hep_serving.models import cards, warmup
from mlaas4hep_serving.models.batcher import QUEUED, Batcher, BatchingOptions
from mlaas4hep_serving.models.drift import Counter, Drift
from mlaas4hep_serving.models.savedmodel import SavedModel, SessionOptions
from mlaas4hep_serving.wire import ragged, sizes
from mlaas4hep_serving.wire.tensors import Array

BATCHING_FILE = "batching_params.pbtxt"
LATE = "Run() timeout exceeded while waiting for the batch"
MOST_WAITING = 512  # requests for a model that runs elsewhere, those under way included


def late(running: Future[Any]) -> ServingError:
    """What a request is told whose deadline has passed: its batch is under way, or is still in the queue."""
    begun = running.running() or running.done()
    return deadline_exceeded(LATE) if begun else resource_exhausted(QUEUED)


@dataclass(frozen=True)
class ModelOptions:
    """How versions are loaded and run.

    ``batching`` None is off; with ``per_model_batching`` a version batches if its folder has ``batching_params.pbtxt``.
    """

    session: SessionOptions = field(default_factory=SessionOptions)
    batching: BatchingOptions | None = None
    per_model_batching: bool = False
    warmup: bool = True
    max_tensor_bytes: int = sizes.NO_LIMIT  # of an answer, as far as the signatures tell, and of what a batch feeds
    warmup_iterations: int = 1  # of each request
    flush_caches: bool = True  # of the files, when they are loaded


class Runs(Protocol):
    """A graph that runs by tensor name, here (`SavedModel`) or elsewhere.

    Attributes:
        at_once: runs that it does at a time, each in a thread that waits; 0 where it runs in the thread that asks.
    """

    at_once: int
    signatures: Mapping[str, SignatureDef]

    def run(
        self, feeds: Sequence[str], values: Sequence[Array], fetches: Sequence[str], timeout: float | None = None
    ) -> Sequence[Array]:
        """As `SavedModel.run`."""

    def close(self) -> None:
        """Nothing runs any more."""


class Model:
    """One loaded version.

    Args:
        runs: what runs it; None loads the folder here.
    """

    def __init__(
        self, name: str, number: int, folder: Path, options: ModelOptions, metrics: Registry, runs: Runs | None = None
    ) -> None:
        self.name, self.number, self.folder = name, number, folder
        self._saved: Runs = runs or SavedModel(folder, options.session)
        self._metrics = metrics
        self.card = cards.read(folder)
        self.input_dtypes = {
            name: {alias: signature.inputs[alias].dtype for alias in sorted(signature.inputs)}
            for name, signature in self.signatures.items()
        }
        self.open_inputs = {alias: ragged.open_inputs(signature) for alias, signature in self.signatures.items()}
        batching = _batching(folder, options)
        nan_padded = self._open_feeds() if cards.pads_with_nan(self.card) else frozenset()
        self._most = options.max_tensor_bytes
        self._row_bytes = _row_bytes(self.signatures.values())
        self._largest_row = sum(self._row_bytes.values())
        self._splits = _splits(self.signatures.values())
        self._batcher = (
            Batcher(self._saved.run, batching, metrics, name, nan_padded, self._most, self._row_bytes)
            if batching
            else None
        )

        self._counter: Counter | None = None

        # what runs elsewhere has threads of its own to wait in, so that it takes none that others need
        waits = self._saved.at_once if self._batcher is None else 0
        self._own = ThreadPoolExecutor(waits, thread_name_prefix=f"model-{name}") if waits else None
        self._waiting = threading.BoundedSemaphore(MOST_WAITING)

    def _open_feeds(self) -> frozenset[str]:
        inputs = {name: signature.inputs for name, signature in self.signatures.items()}
        return frozenset(inputs[name][alias].name for name, shapes in self.open_inputs.items() for alias in shapes)

    def count_inputs(self, drift: Drift) -> None:
        """Have what the version is asked from now on counted, if its card has a reference."""
        self._counter = drift.counter(self.name, self.number, self.card)
        if self._counter is not None:
            self._counter.knows(self.signatures.values(), self.card.get("inputs", {}))

    @property
    def signatures(self) -> Mapping[str, SignatureDef]:
        return self._saved.signatures

    @property
    def batches(self) -> bool:
        """Whether `submit` returns before the run without a pool."""
        return self._batcher is not None or self._own is not None

    def submit(
        self,
        feeds: Sequence[str],
        values: Sequence[Array],
        fetches: Sequence[str],
        deadline: float | None = None,
        api: str = "Predict",
        pool: Executor | None = None,
    ) -> Future[Sequence[Array]]:
        """Start a run for the values of the tensors ``fetches``, in their order.

        Args:
            deadline: by `time.monotonic`.
            pool: where a model that does not batch runs; None runs it here and now.

        Raises:
            ServingError: UNAVAILABLE for a full queue; INVALID_ARGUMENT, an answer that is too large; the model's own
                errors and DEADLINE_EXCEEDED, here or later.
        """
        start = time.perf_counter()
        self._check_sizes(feeds, values, fetches)
        if self._own is not None:
            done = self._later(self._own, feeds, values, fetches, deadline)
        elif self._batcher is None or not feeds:
            done = Future()
            if pool is None:
                done.set_result(self._alone(feeds, values, fetches, deadline))
            else:
                done = pool.submit(self._alone, feeds, values, fetches, deadline)
        else:
            done = self._batcher.submit(feeds, values, fetches, deadline)
        done.add_done_callback(lambda _: self._observe(api, start, done))
        if self._counter is not None:
            done.add_done_callback(partial(_count, self._counter, feeds, values, fetches))
        return done

    def _check_sizes(self, feeds: Sequence[str], values: Sequence[Array], fetches: Sequence[str]) -> None:
        rows = len(values[0]) if values and values[0].ndim else 1
        if rows * self._largest_row > self._most:
            sizes.check(rows * sum(self._row_bytes.get(fetch, 0) for fetch in fetches), self._most)
        if self._splits:
            claimed = [sizes.of_splits(v) for f, v in zip(feeds, values, strict=True) if f in self._splits]
            sizes.check(sum(claimed), self._most)

    def _later(
        self,
        own: Executor,
        feeds: Sequence[str],
        values: Sequence[Array],
        fetches: Sequence[str],
        deadline: float | None,
    ) -> Future[Sequence[Array]]:
        if not self._waiting.acquire(blocking=False):
            raise unavailable(f"{MOST_WAITING} requests are waiting for this model")
        done = own.submit(self._alone, feeds, values, fetches, deadline)
        done.add_done_callback(lambda _: self._waiting.release())
        return done

    def _alone(
        self, feeds: Sequence[str], values: Sequence[Array], fetches: Sequence[str], deadline: float | None
    ) -> Sequence[Array]:
        return self._saved.run(feeds, values, fetches, _left(deadline))  # what is left now, not when it was submitted

    def run(
        self,
        feeds: Sequence[str],
        values: Sequence[Array],
        fetches: Sequence[str],
        deadline: float | None = None,
        api: str = "Predict",
    ) -> Sequence[Array]:
        """`submit` and wait."""
        left = _left(deadline)
        done = self.submit(feeds, values, fetches, deadline, api)
        try:
            return done.result(None if left is None else max(0.0, left))
        except FutureTimeout:
            raise late(done) from None

    def _observe(self, api: str, start: float, done: Future[Sequence[Array]]) -> None:
        if done.exception() is not None:
            return
        labels = {"model_name": self.name, "API": api, "runtime": "TF1"}
        self._metrics.observe("/tensorflow/serving/runtime_latency", labels, (time.perf_counter() - start) * 1e6)

    def close(self) -> None:
        """Answer what is enqueued, then free the memory."""
        if self._batcher is not None:
            self._batcher.close()
        self._saved.close()
        if self._counter is not None:
            self._counter.close()
        if self._own is not None:
            self._own.shutdown()


def _count(
    counter: Counter,
    feeds: Sequence[str],
    values: Sequence[Array],
    fetches: Sequence[str],
    done: Future[Sequence[Array]],
) -> None:
    if done.exception() is None:
        counter.take(feeds, values, fetches, done.result())


def _left(deadline: float | None) -> float | None:
    return None if deadline is None else deadline - time.monotonic()


def _row_bytes(signatures: Iterable[SignatureDef]) -> dict[str, int]:
    """Tensor name -> least bytes of a row of the outputs that have a row for each row of the inputs."""
    found = {}
    for signature in signatures:
        for info in signature.outputs.values():
            first, *inner = [dim.size for dim in info.tensor_shape.dim] or [1]
            if first < 0:
                found[info.name] = sizes.of(info.dtype, [max(size, 1) for size in inner])
    return found


def _splits(signatures: Iterable[SignatureDef]) -> frozenset[str]:
    """Tensor names of the inputs that are row splits."""
    inputs = [(alias, info) for signature in signatures for alias, info in signature.inputs.items()]
    integers = (types_pb2.DT_INT32, types_pb2.DT_INT64)
    return frozenset(info.name for alias, info in inputs if alias.endswith(sizes.SPLITS) and info.dtype in integers)


def _batching(folder: Path, options: ModelOptions) -> BatchingOptions | None:
    if options.batching is None or not options.per_model_batching:
        return options.batching
    path = folder / BATCHING_FILE
    return (
        BatchingOptions.from_proto(config_files.read(str(path), config_files.BatchingParameters))
        if path.exists()
        else None
    )


def warmup_requests(folder: Path, name: str, number: int) -> Sequence[tuple[str, Message]]:
    """The recorded requests of a version as (operation, request), addressed to this version."""
    found = []
    for log in warmup.requests(folder):
        operation, request = _operation(log)
        specs = [task.model_spec for task in request.tasks] if operation == "multi_inference" else [request.model_spec]
        for spec in specs:
            spec.name = name
            spec.version.value = number
        found.append((operation, request))
    return found


def _operation(log: PredictionLog) -> tuple[str, Message]:
    kind = log.WhichOneof("log_type")
    if kind is None or kind == "session_run_log":
        raise unimplemented(f"Unsupported log_type for warmup: {kind}")
    return kind.removesuffix("_log"), getattr(log, kind).request
