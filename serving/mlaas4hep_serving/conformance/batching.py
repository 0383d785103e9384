"""What the sentences of batching cases do: requests that meet in one batch, and how they came out."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import prediction_service_pb2_grpc
from tensorflow_serving.apis.predict_pb2 import PredictRequest

from mlaas4hep_serving.conformance import fixtures, servers
from mlaas4hep_serving.conformance.compare import Failed, check, equal
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

    def steps(self) -> list[tuple[str, Callable[..., None]]]:
        """Rules of the steps."""
        return [
            (
                r"concurrent requests of batch ([\d+]+)",
                lambda sizes: self._matrices([int(n) for n in sizes.split("+")]),
            ),
            (r"^one request of batch (\d+)", lambda size: self._matrices([int(size)])),
            (r"^requests giving total ([\d or,]+)", self._totals),
            (r"^(\[[\d,]+\](?: and \[[\d,]+\])*)$", self._shapes),
            (r"^start$", self._refused),
            (r"^two inputs with different 0th dim", self._unequal),
            (r"^rank-0 input", lambda: self._send(fixtures.scalar_out, [{"x": np.float32(2.0)}])),
            (r"^model returning a scalar", self._scalar),
        ]

    def expectations(self) -> list[tuple[str, Callable[..., None]]]:
        """Rules of the expectations."""
        return [
            (r'^(?:both )?([A-Z_]{4,}) "(.+)"', self._failed),
            (r"^one wrapped run", lambda: equal(1, self._processed("count"), "runs")),
            (r"^each caller gets its own rows in order", self._own_rows),
            (r"^padded with first element", self._padded),
            (r"^both succeed", self._all_fine),
            (r"^run at (\d+) with dummy rows, dummy rows dropped", self._ran_at),
        ]

    # steps

    def _matrices(self, sizes: Sequence[int]) -> None:
        values = np.arange(sum(sizes) * 4, dtype=np.float32).reshape(-1, 2, 2)
        parts = np.split(values, np.cumsum(sizes)[:-1])
        self._send(fixtures.matrix_half_plus_two, [{"x": part} for part in parts])

    def _totals(self, totals: str) -> None:
        for total in re.findall(r"\d+", totals):
            self._matrices([1] * int(total))

    def _shapes(self, shapes: str) -> None:
        made = [[int(n) for n in shape.split(",")] for shape in re.findall(r"\[([\d,]+)\]", shapes)]
        requests = [{"x": np.arange(1, 1 + np.prod(shape), dtype=np.float32).reshape(shape)} for shape in made]
        self._send(fixtures.matrix_half_plus_two, requests)

    def _unequal(self) -> None:
        self._send(fixtures.two_inputs, [{"a": np.ones(1, np.float32), "b": np.ones(2, np.float32)}])

    def _scalar(self) -> None:
        self._send(fixtures.scalar_out, [{"x": np.ones(2, np.float32)}], "scalar_out")

    def _refused(self) -> None:
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

    def _send(self, export: Callable[[Path], Path], requests: list[dict[str, Array]], signature: str = "") -> None:
        if not self._server:
            export(self._home / "model" / "1")
            (self._home / "batching").write_text(self._text())
            self._server, endpoint = servers.start(
                model_base_path=str(self._home / "model"),
                enable_batching=True,
                batching_parameters_file=str(self._home / "batching"),
            )
            self._channel = grpc.insecure_channel(endpoint.grpc)
            self._stub = prediction_service_pb2_grpc.PredictionServiceStub(self._channel)
        with ThreadPoolExecutor(len(requests)) as pool:
            came = list(pool.map(lambda inputs: self._predict(inputs, signature), requests))
        self._sent.extend(requests)
        self._came.extend(came)

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

    # expectations

    def _processed(self, part: str) -> int:
        found = re.search(rf"processed_batch_size_{part}\{{.*\}} (\d+)", self._server.metrics.text())
        if not found:
            raise Failed("no batch was processed")
        return int(found[1])

    def _failed(self, code: str, text: str) -> None:
        for got, told, _ in self._came:
            check((got, told) == (code, text), f"expected {code} {text!r}, got {got} {told!r}")

    def _all_fine(self) -> None:
        check(all(code == "OK" for code, _, _ in self._came), f"failed: {self._came}")

    def _own_rows(self) -> None:
        self._all_fine()
        for inputs, (_, _, output) in zip(self._sent, self._came, strict=True):
            equal((0.5 * inputs["x"] + 2).tolist(), np.asarray(output).tolist(), "rows")

    def _padded(self) -> None:
        self._all_fine()
        largest = np.max([inputs["x"].shape[1:] for inputs in self._sent], axis=0)
        for inputs, (_, _, output) in zip(self._sent, self._came, strict=True):
            x = inputs["x"]
            wanted = np.full((len(x), *largest), 0.5 * x.flat[0] + 2, np.float32)
            wanted[tuple(slice(0, n) for n in x.shape)] = 0.5 * x + 2
            equal(wanted.tolist(), np.asarray(output).tolist(), "padded rows")

    def _ran_at(self, size: str) -> None:
        self._own_rows()
        equal(int(size) * self._processed("count"), self._processed("sum"), "rows run")
