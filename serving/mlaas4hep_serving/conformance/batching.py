"""The layer ``batching``: requests that meet in one batch, and how they came out."""

from __future__ import annotations

import itertools
import math
import re
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import prediction_service_pb2_grpc
from tensorflow_serving.apis.predict_pb2 import PredictRequest

from mlaas4hep_serving.conformance import servers
from mlaas4hep_serving.conformance.compare import Case, Failed, check, equal
from mlaas4hep_serving.conformance.steps import Table, follow, validate
from mlaas4hep_serving.errors import ServingError
from mlaas4hep_serving.models.batcher import BatchingOptions
from mlaas4hep_serving.wire.tensors import from_proto

Array = Any
_WAIT = 2_000_000  # microseconds that a batch waits for company, where the case does not say; a busy machine is late
_SCALARS = ("pad_variable_length_inputs", "allowed_batch_sizes")


class Batching:
    """One batching case."""

    def __init__(self, params: Mapping[str, Any]) -> None:
        self._params = {"batch_timeout_micros": _WAIT, **params}
        self._scratch = tempfile.TemporaryDirectory(prefix="batching-")
        self._home = Path(self._scratch.name)
        self._server: Any = None
        self._stub: Any = None
        self._sent: list[Mapping[str, Array]] = []
        self._came: list[tuple[str, str, Array | None]] = []

    def __enter__(self) -> Batching:
        return self

    def __exit__(self, *_: object) -> None:
        if self._server:
            self._channel.close()
            self._server.stop()
        self._scratch.cleanup()

    # steps

    def send(self, model: str, requests: Sequence[Mapping[str, Sequence[int]]], signature: str = "") -> None:
        """Send requests at once, each given by the shapes of its inputs; their values count on from 1.

        The first call starts the server on the model.
        """
        counter = itertools.count(1)
        inputs = [
            {
                alias: np.reshape(np.fromiter(counter, np.float32, math.prod(shape)), shape)
                for alias, shape in request.items()
            }
            for request in requests
        ]
        if not self._server:
            self._start(model)
        with ThreadPoolExecutor(len(inputs)) as pool:
            came = list(pool.map(lambda given: self._predict(given, signature), inputs))
        self._sent.extend(inputs)
        self._came.extend(came)

    def read_parameters(self) -> None:
        """Read the case's parameters as the server does at its start; what comes of it is the answer."""
        from mlaas4hep_serving import config_files

        try:
            BatchingOptions.from_proto(config_files.parse(self._text(), config_files.BatchingParameters, "the case"))
        except ServingError as error:
            self._came.append((error.code.name, error.message, None))
            return
        self._came.append(("OK", "", None))

    def _text(self) -> str:
        lines = []
        for name, value in self._params.items():
            written = str(value).lower() if isinstance(value, bool) else str(value)
            lines.append(f"{name}: {written}" if name in _SCALARS else f"{name} {{ value: {written} }}")
        return "\n".join(lines)

    def _start(self, model: str) -> None:
        servers.exporter(model)(self._home / "model" / "1")
        (self._home / "batching").write_text(self._text())
        self._server, endpoint = servers.start(
            model_base_path=str(self._home / "model"),
            enable_batching=True,
            batching_parameters_file=str(self._home / "batching"),
        )
        self._channel = grpc.insecure_channel(endpoint.grpc)
        self._stub = prediction_service_pb2_grpc.PredictionServiceStub(self._channel)

    def _predict(self, inputs: Mapping[str, Array], signature: str) -> tuple[str, str, Array | None]:
        request = PredictRequest()
        request.model_spec.name, request.model_spec.signature_name = "default", signature
        for alias, value in inputs.items():
            request.inputs[alias].CopyFrom(tf.make_tensor_proto(value))
        try:
            response = self._stub.Predict(request, timeout=20)
        except grpc.RpcError as error:
            return error.code().name, error.details() or "", None
        return "OK", "", from_proto(response.outputs["y"], "y")

    # checks

    def _processed(self, part: str) -> int:
        found = re.search(rf"processed_batch_size_{part}\{{.*\}} (\d+)", self._server.metrics.text())
        if not found:
            raise Failed("no batch was processed")
        return int(found[1])

    def runs(self, count: int) -> None:
        """The model ran so many times."""
        equal(count, self._processed("count"), "runs")

    def fails(self, code: str, message: str) -> None:
        """Every request failed so."""
        check(bool(self._came), "no request was sent")
        for got, told, _ in self._came:
            check((got, told) == (code, message), f"expected {code} {message!r}, got {got} {told!r}")

    def all_succeed(self) -> None:
        """Every request was answered."""
        check(bool(self._came), "no request was sent")
        check(all(code == "OK" for code, _, _ in self._came), f"failed: {self._came}")

    def own_rows(self) -> None:
        """Every request was answered by half its own rows, plus two."""
        self.all_succeed()
        for inputs, (_, _, output) in zip(self._sent, self._came, strict=True):
            equal((0.5 * inputs["x"] + 2).tolist(), np.asarray(output).tolist(), "rows")

    def padded(self) -> None:
        """Every answer has the shape of the largest request, filled up with what comes of its own first element."""
        self.all_succeed()
        largest = np.max([inputs["x"].shape[1:] for inputs in self._sent], axis=0)
        for inputs, (_, _, output) in zip(self._sent, self._came, strict=True):
            x = inputs["x"]
            wanted = np.full((len(x), *largest), 0.5 * x.flat[0] + 2, np.float32)
            wanted[tuple(slice(0, n) for n in x.shape)] = 0.5 * x + 2
            equal(wanted.tolist(), np.asarray(output).tolist(), "padded rows")

    def ran_at(self, rows: int) -> None:
        """Every run was filled up to so many rows, and the callers got their own."""
        self.own_rows()
        equal(rows * self._processed("count"), self._processed("sum"), "rows run")


STEPS: Table = {"send": Batching.send, "read_parameters": Batching.read_parameters}
CHECKS: Table = {
    "all_succeed": Batching.all_succeed,
    "own_rows": Batching.own_rows,
    "padded": Batching.padded,
    "runs": Batching.runs,
    "ran_at": Batching.ran_at,
    "fails": Batching.fails,
}


def run_batching(case: Case) -> None:
    """Layer ``batching``."""
    validate(case["steps"], "action", STEPS)
    validate(case["expect"], "check", CHECKS)
    with Batching(case.get("params", {})) as batching:
        follow(case["steps"], "action", STEPS, batching)
        follow(case["expect"], "check", CHECKS, batching)
