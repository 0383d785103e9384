"""The gRPC front end: PredictionService, ModelService and health on two pools of threads: runs, and looks at models."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field
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

from mlaas4hep_serving.errors import Code, ServingError, as_serving_error, invalid_argument, resource_exhausted
from mlaas4hep_serving.frontends import grpc_later
from mlaas4hep_serving.frontends.budget import FREE, Budget, Share
from mlaas4hep_serving.frontends.pools import Pools
from mlaas4hep_serving.prediction import Handlers, Started

MESSAGE = (1 << 31) - 1  # bytes of a message, as in TF-Serving
_HEALTH = ("", "ModelService", "PredictionService")
# service -> method -> its operation and its request
_PREDICTION = "tensorflow.serving.PredictionService"
_SERVICES: dict[str, dict[str, tuple[str, Any]]] = {
    _PREDICTION: {
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
_LOOKS = {"GetModelMetadata", "GetModelStatus"}  # and the health service: what runs no model does not queue behind it
_RUNS = ("Predict", "Classify", "Regress", "MultiInference")
LOOKS = 4  # threads for these
_FOR_EVER = 1e9  # seconds; TensorFlow takes no time limit that is much longer


@dataclass(frozen=True)
class GrpcOptions:
    """``--port`` and its companions."""

    address: str  # host:port, port 0 for any; "" for none
    threads: int = 128
    reuse_port: bool = False
    health: bool = False
    channel_arguments: tuple[tuple[str, int | str], ...] = ()
    credentials: Any = None
    interceptors: Sequence[Any] = ()
    max_message: int = MESSAGE  # bytes of a request
    budget: Budget = field(default_factory=Budget)  # of all requests in flight
    socket: str = ""  # path of a Unix socket to listen on as well, without credentials


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
        looks = ThreadPoolExecutor(LOOKS, thread_name_prefix="grpc-looks")
        pool = ThreadPoolExecutor(options.threads, thread_name_prefix="grpc")
        self._server = grpc.server(looks, options=settings, interceptors=tuple(options.interceptors))
        if grpc_later.works():
            # before the service, whose methods wait: the first of a name is taken
            pools = Pools(options.threads, handlers.repository.knows)
            self._server.add_generic_rpc_handlers((_later_handlers(handlers, pools, options.budget),))
        for service, methods in _SERVICES.items():
            self._server.add_generic_rpc_handlers((_service(handlers, service, methods, pool, options.budget),))
        self._health = health.HealthServicer() if options.health else None
        if self._health is not None:
            health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
            for service in _HEALTH:
                self._health.set(service, health_pb2.HealthCheckResponse.SERVING)
        self.port = self._bind(options)
        self._server.start()

    def _bind(self, options: GrpcOptions) -> int:
        try:
            if options.socket:
                self._server.add_insecure_port(f"unix:{options.socket}")
            if not options.address:
                return 0
            if options.credentials is not None:
                return int(self._server.add_secure_port(options.address, options.credentials))
            return int(self._server.add_insecure_port(options.address))
        except RuntimeError as error:
            raise invalid_argument(f"gRPC cannot listen on {options.address or options.socket}: {error}") from None

    def drain(self, grace: float) -> Any:
        """Take no new requests, answer those under way for at most ``grace`` seconds; returns an event to wait for."""
        if self._health is not None:
            self._health.enter_graceful_shutdown()
        return self._server.stop(grace)


def _service(
    handlers: Handlers,
    service: str,
    methods: Mapping[str, tuple[str, Any]],
    pool: ThreadPoolExecutor,
    budget: Budget,
) -> Any:
    """The handlers of a service's methods, as the generated code makes them but for what `_reader` tells.

    Those that take their time run in ``pool``.
    """
    made = {}
    for rpc, (name, message) in methods.items():
        method = _method(handlers, rpc, name)
        if rpc not in _LOOKS:
            method.experimental_thread_pool = pool  # type: ignore[attr-defined]  # grpcio looks for it
        made[rpc] = grpc.unary_unary_rpc_method_handler(
            method, _reader(message, budget), lambda answer: answer.SerializeToString()
        )
    return grpc.method_handlers_generic_handler(service, made)


@dataclass(frozen=True)
class _Large:
    """A request that counts as in flight until its call ends."""

    message: Any
    share: Share


def _reader(message: Any, budget: Budget) -> Callable[[bytes], Any]:
    """Bytes -> message, large ones as `_Large`.

    For bytes that are no message, or for which there is no place, the error to answer with: grpcio itself would answer
    INTERNAL.
    """

    def read(data: bytes) -> Any:
        try:
            if len(data) <= FREE:
                return message.FromString(data)
            share = Share(budget)
            share.hold(len(data))
            return _Large(message.FromString(data), share)
        except DecodeError:
            return invalid_argument(f"The request is no {message.DESCRIPTOR.full_name}")
        except ServingError as error:  # of the share
            return resource_exhausted(error.message)

    return read


def _admitted(request: Any, context: grpc.ServicerContext) -> Any:
    """The message of what `_reader` gave; raises the error that it gave."""
    if isinstance(request, ServingError):
        raise request
    if isinstance(request, _Large):
        context.add_callback(request.share.give_back)
        return request.message
    return request


def _method(handlers: Handlers, rpc: str, name: str) -> Callable[[Any, grpc.ServicerContext], Any]:
    operation = getattr(handlers, name)
    counted = rpc in _RUNS

    def call(request: Any, context: grpc.ServicerContext) -> Any:
        deadline = _deadline(context)
        try:
            request = _admitted(request, context)
            if not counted:
                return operation(request, deadline)
            with handlers.measured(_model_name(request), rpc, "GRPC"):
                return operation(request, deadline)
        except ServingError as error:
            context.abort(grpc_later.STATUS[error.code], grpc_later.details(error.message))

    return call


def _later_handlers(handlers: Handlers, pools: Pools, budget: Budget) -> Any:
    """The methods of `PredictionService` that run a model, without a thread that waits for the answer."""

    def handler(rpc: str) -> Any:
        def serve(request: Any, call: grpc_later.Call) -> None:
            _serve(handlers, pools, rpc, request, call)

        return grpc_later.method_handler(serve, _reader(_SERVICES[_PREDICTION][rpc][1], budget))

    return grpc.method_handlers_generic_handler(_PREDICTION, {rpc: handler(rpc) for rpc in _RUNS})


def _serve(handlers: Handlers, pools: Pools, rpc: str, request: Any, call: grpc_later.Call) -> None:
    """Start the run, and answer when it has ended."""
    try:
        request = _admitted(request, call.context)
    except ServingError as error:
        call.fail(error)
        return
    count = handlers.measure(_model_name(request), rpc, "GRPC")

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
        started = _started(handlers, pools.of(_model_name(request)), rpc, request, _deadline(call.context))
    except Exception as error:  # noqa: BLE001  # as above
        fail(error)
    else:
        started.then(finish)


def _started(handlers: Handlers, pool: Executor, rpc: str, request: Any, deadline: float | None) -> Started[Any]:
    """The run of a request: Predict by the batcher, if the model batches; all else in the model's threads."""
    if rpc == "Predict":
        return handlers.start_predict(request, deadline, pool)
    operation = getattr(handlers, _SERVICES[_PREDICTION][rpc][0])
    return Started(pool.submit(operation, request, deadline), lambda answer: answer)


def _deadline(context: grpc.ServicerContext) -> float | None:
    remaining = context.time_remaining()  # some 10^18 seconds for a client that has not said
    return None if remaining is None or remaining > _FOR_EVER else time.monotonic() + remaining


def _model_name(request: Any) -> str:
    spec = (
        request.model_spec if hasattr(request, "model_spec") else request.tasks[0].model_spec if request.tasks else None
    )
    return spec.name if spec is not None else ""
