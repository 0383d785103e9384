"""The gRPC front end: PredictionService, ModelService and health on pools of threads."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from tensorflow_serving.apis.classification_pb2 import ClassificationRequest
from tensorflow_serving.apis.get_model_metadata_pb2 import GetModelMetadataRequest
from tensorflow_serving.apis.get_model_status_pb2 import GetModelStatusRequest
from tensorflow_serving.apis.inference_pb2 import MultiInferenceRequest
from tensorflow_serving.apis.model_management_pb2 import ReloadConfigRequest
from tensorflow_serving.apis.predict_pb2 import PredictRequest
from tensorflow_serving.apis.regression_pb2 import RegressionRequest

from mlaas4hep_serving.errors import Code, ServingError, as_serving_error, invalid_argument
from mlaas4hep_serving.frontends import grpc_later
from mlaas4hep_serving.prediction import Handlers

MESSAGE = (1 << 31) - 1  # bytes of a message, as in TF-Serving
_HEALTH = ("", "ModelService", "PredictionService")
# service -> method -> its operation and its request
_SERVICES: dict[str, dict[str, tuple[str, Any]]] = {
    "tensorflow.serving.PredictionService": {
        "Predict": ("predict", PredictRequest),
        "Classify": ("classify", ClassificationRequest),
        "Regress": ("regress", RegressionRequest),
        "MultiInference": ("multi_inference", MultiInferenceRequest),
        "GetModelMetadata": ("get_model_metadata", GetModelMetadataRequest),
    },
    "tensorflow.serving.ModelService": {
        "GetModelStatus": ("get_model_status", GetModelStatusRequest),
        "HandleReloadConfigRequest": ("reload_config", ReloadConfigRequest),
    },
}


@dataclass(frozen=True)
class GrpcOptions:
    """``--port`` and its companions."""

    address: str  # host:port, port 0 for any
    threads: int = 128
    reuse_port: bool = False
    health: bool = False
    channel_arguments: tuple[tuple[str, int | str], ...] = ()
    credentials: Any = None
    interceptors: Sequence[Any] = ()
    max_message: int = MESSAGE  # bytes of a request


def channel_arguments(text: str) -> tuple[tuple[str, int | str], ...]:
    """``a=1,b=x`` of ``--grpc_channel_arguments``.

    Raises:
        ServingError: INVALID_ARGUMENT, a part without ``=``.
    """
    found: list[tuple[str, int | str]] = []
    for part in filter(None, text.split(",")):
        key, equals, value = part.partition("=")
        if not equals:
            raise invalid_argument(f"--grpc_channel_arguments takes key=value,key=value; got {part!r}")
        found.append((key, int(value) if value.lstrip("-").isdigit() else value))
    return tuple(found)


class GrpcServer:
    """A running server.

    Raises:
        ServingError: INVALID_ARGUMENT, an address that cannot be bound.
    """

    def __init__(self, handlers: Handlers, options: GrpcOptions) -> None:
        settings = [
            ("grpc.max_receive_message_length", options.max_message),
            ("grpc.max_send_message_length", MESSAGE),
            ("grpc.so_reuseport", int(options.reuse_port)),
            *options.channel_arguments,
        ]
        pool = ThreadPoolExecutor(options.threads, thread_name_prefix="grpc")
        self._server = grpc.server(pool, options=settings, interceptors=tuple(options.interceptors))
        if grpc_later.works():
            # before the service, whose Predict waits: the first of a name is taken
            self._server.add_generic_rpc_handlers((_predict_handler(handlers, pool),))
        for service, methods in _SERVICES.items():
            self._server.add_generic_rpc_handlers((_service(handlers, service, methods),))
        self._health = health.HealthServicer() if options.health else None
        if self._health is not None:
            health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
            for service in _HEALTH:
                self._health.set(service, health_pb2.HealthCheckResponse.SERVING)
        self.port = self._bind(options)
        self._server.start()

    def _bind(self, options: GrpcOptions) -> int:
        try:
            if options.credentials is not None:
                return int(self._server.add_secure_port(options.address, options.credentials))
            return int(self._server.add_insecure_port(options.address))
        except RuntimeError as error:
            raise invalid_argument(f"gRPC cannot listen on {options.address}: {error}") from None

    def drain(self, grace: float) -> Any:
        """Take no new requests, answer those under way for at most ``grace`` seconds; returns an event to wait for."""
        if self._health is not None:
            self._health.enter_graceful_shutdown()
        return self._server.stop(grace)


def _service(handlers: Handlers, service: str, methods: Mapping[str, tuple[str, Any]]) -> Any:
    """The handlers of a service's methods, as the generated code makes them but for bytes that are no message."""
    made = {
        rpc: grpc.unary_unary_rpc_method_handler(
            _method(handlers, rpc, name), _reader(message), lambda answer: answer.SerializeToString()
        )
        for rpc, (name, message) in methods.items()
    }
    return grpc.method_handlers_generic_handler(service, made)


def _reader(message: Any) -> Callable[[bytes], Any]:
    """Bytes -> message; for bytes that are none the error to answer with, where grpcio itself would answer INTERNAL."""

    def read(data: bytes) -> Any:
        try:
            return message.FromString(data)
        except DecodeError:
            return invalid_argument(f"The request is no {message.DESCRIPTOR.full_name}")

    return read


def _method(handlers: Handlers, rpc: str, name: str) -> Callable[[Any, grpc.ServicerContext], Any]:
    operation = getattr(handlers, name)
    counted = rpc in ("Predict", "Classify", "Regress", "MultiInference")

    def call(request: Any, context: grpc.ServicerContext) -> Any:
        deadline = _deadline(context)
        try:
            if isinstance(request, ServingError):
                raise request
            if not counted:
                return operation(request, deadline)
            with handlers.measured(_model_name(request), rpc, "GRPC"):
                return operation(request, deadline)
        except ServingError as error:
            context.abort(grpc_later.STATUS[error.code], grpc_later.details(error.message))

    return call


def _predict_handler(handlers: Handlers, pool: ThreadPoolExecutor) -> Any:
    """Predict of `PredictionService`, answered by the batcher's threads, or by the pool if the model does not batch."""

    def serve(request: PredictRequest | ServingError, call: grpc_later.Call) -> None:
        if isinstance(request, ServingError):
            call.fail(request)
            return
        count = handlers.measure(_model_name(request), "Predict", "GRPC")

        def fail(error: Exception) -> None:
            known = as_serving_error(error)
            count(known.code)
            call.fail(known)

        def finish() -> None:
            try:
                response = started.result()
            except Exception as error:  # noqa: BLE001  # the client gets an answer, whatever it is
                fail(error)
            else:
                count(Code.OK)
                call.send(response)

        try:
            started = handlers.start_predict(request, _deadline(call.context), pool)
        except Exception as error:  # noqa: BLE001  # as above
            fail(error)
        else:
            started.then(finish)

    handler = grpc_later.method_handler(serve, _reader(PredictRequest))
    return grpc.method_handlers_generic_handler("tensorflow.serving.PredictionService", {"Predict": handler})


def _deadline(context: grpc.ServicerContext) -> float | None:
    remaining = context.time_remaining()
    return None if remaining is None else time.monotonic() + remaining


def _model_name(request: Any) -> str:
    spec = (
        request.model_spec if hasattr(request, "model_spec") else request.tasks[0].model_spec if request.tasks else None
    )
    return spec.name if spec is not None else ""
