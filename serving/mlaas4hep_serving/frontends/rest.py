"""The HTTP front end: TF-Serving's v1 URLs and the metrics page, as a bare ASGI application.

`Rest.respond` is the whole server as one function from request to reply; `Rest.__call__` carries it over ASGI.
Handlers block, so each request is answered in a thread, except small predictions of models that batch: those are
parsed in the event loop, which goes on while the batch runs.
"""

from __future__ import annotations

import asyncio
import json
import time
import zlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from google.protobuf import json_format
from tensorflow_serving.apis.classification_pb2 import ClassificationRequest
from tensorflow_serving.apis.get_model_metadata_pb2 import GetModelMetadataRequest, SignatureDefMap
from tensorflow_serving.apis.get_model_status_pb2 import GetModelStatusRequest
from tensorflow_serving.apis.model_pb2 import ModelSpec
from tensorflow_serving.apis.regression_pb2 import RegressionRequest

from mlaas4hep_serving.errors import ServingError, deadline_exceeded, invalid_argument
from mlaas4hep_serving.models.model import LATE
from mlaas4hep_serving.prediction import Handlers, Started
from mlaas4hep_serving.wire import json_requests, json_responses, paths
from mlaas4hep_serving.wire.tensors import Array

SMALL = 1 << 20  # bytes of a body that is parsed in the event loop
DEEPEST = 1024  # levels of nested JSON
INFLATED = 100 << 20  # bytes of a gzipped body, as TF-Serving limits it
JSON = ("Content-Type", "application/json")
VERSION_HEADER = "X-Model-Version"  # version that answered
_CORS = (
    ("Access-Control-Allow-Origin", "*"),
    ("Access-Control-Allow-Methods", "POST, GET"),
    ("Access-Control-Allow-Headers", "Content-Type"),
)
Headers = tuple[tuple[str, str], ...]
Scope = dict[str, Any]
T = TypeVar("T")


@dataclass(frozen=True)
class Request:
    """One HTTP request; ``path`` as sent, with its query string; header names in lower case."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    deadline: float | None = None
    client: str = ""  # address


@dataclass(frozen=True)
class Reply:
    """One HTTP reply."""

    status: int
    body: bytes
    headers: Headers = (JSON,)


Route = Callable[[Request], "Reply | None"]  # answers what is its own, else None


@dataclass(frozen=True)
class RestOptions:
    """``--rest_api_*`` and the path of the metrics, None for none."""

    timeout: float = 30.0  # seconds
    cors: bool = False
    metrics_path: str | None = None
    threads: int = 64
    routes: Sequence[Route] = field(default_factory=tuple)
    admit: Route = lambda _: None  # asked before the body is read: the refusal, or None
    max_body: int = 256 << 20  # bytes, also of a body that is inflated


class Rest:
    """The ASGI application."""

    def __init__(self, handlers: Handlers, options: RestOptions) -> None:
        self._handlers, self._options = handlers, options
        self._pool = ThreadPoolExecutor(options.threads, thread_name_prefix="rest")

    async def __call__(
        self,
        scope: Scope,
        receive: Callable[[], Awaitable[Scope]],
        send: Callable[[Scope], Awaitable[None]],
    ) -> None:
        if scope["type"] != "http":
            return
        request = _request(scope, self._options.timeout)
        reply = self._options.admit(request)
        if reply is None:
            body = await _body(receive, self._options.max_body)
            if body is None:
                return
            reply = _too_large(self._options.max_body)
            if not isinstance(body, TooLarge):
                request = replace(request, body=body)
                reply = await self._respond(request)
        headers = [(name.lower().encode(), value.encode()) for name, value in reply.headers]
        headers.append((b"content-length", str(len(reply.body)).encode()))
        await send({"type": "http.response.start", "status": reply.status, "headers": headers})
        await send({"type": "http.response.body", "body": reply.body})

    def respond(self, request: Request) -> Reply:
        """The reply to a request.  Never raises."""
        try:
            reply = self._route(request)
        except Exception as error:  # noqa: BLE001  # the last resort: the client gets an answer, the server lives on
            reply = _failure(error)
        return self._with_cors(reply)

    async def _respond(self, request: Request) -> Reply:
        """`respond` in a thread of the pool; a small request to a model that batches needs none: nothing blocks."""
        target = self._batched(request)
        if target is None:
            return await asyncio.get_running_loop().run_in_executor(self._pool, self.respond, request)
        try:
            with self._handlers.measured(target.name, "Predict", "REST"):
                spec, parsed = self._parsed(target, request)
                started = self._handlers.start_predict_arrays(spec, parsed.inputs, request.deadline)
                reply = _predicted(parsed, *await _arrived(started, request.deadline))
        except Exception as error:  # noqa: BLE001  # as in `respond`
            reply = _failure(error)
        return self._with_cors(reply)

    def _batched(self, request: Request) -> paths.Target | None:
        """The target of a request that `_respond` answers without a thread."""
        if request.method != "POST" or len(request.body) > SMALL or "content-encoding" in request.headers:
            return None
        try:
            target = paths.parse("POST", request.path)
        except ServingError:
            return None
        if target is None or target.method != "predict" or not self._handlers.batches(target.spec()):
            return None
        return target

    def _with_cors(self, reply: Reply) -> Reply:
        return Reply(reply.status, reply.body, (*reply.headers, *_CORS)) if self._options.cors else reply

    def _route(self, request: Request) -> Reply:
        for route in self._options.routes:
            reply = route(request)
            if reply is not None:
                return reply
        if request.method == "GET" and request.path == self._options.metrics_path:
            return Reply(200, self._handlers.metrics.text().encode(), (("Content-Type", "text/plain"),))
        if not paths.API.fullmatch(request.path):
            return Reply(
                404, b"<html><head><title>404 Not Found</title></head></html>\n", (("Content-Type", "text/html"),)
            )
        if request.method == "OPTIONS" and self._options.cors:
            return Reply(200, b"")
        return self._v1(request)

    def _v1(self, request: Request) -> Reply:
        target = paths.parse(request.method, request.path)
        if target is None:
            raise invalid_argument(f"Malformed request: {request.method} {request.path}")
        if request.method == "POST":
            api = target.method.capitalize()
            with self._handlers.measured(target.name, api, "REST"):
                return getattr(self, f"_{target.method}")(target, request)  # type: ignore[no-any-return]
        if not target.name:
            raise invalid_argument("Missing model name in request.")
        return self._metadata(target) if target.subresource else self._status(target)

    def _predict(self, target: paths.Target, request: Request) -> Reply:
        spec, parsed = self._parsed(target, request)
        return _predicted(parsed, *self._handlers.predict_arrays(spec, parsed.inputs, request.deadline))

    def _parsed(self, target: paths.Target, request: Request) -> tuple[ModelSpec, json_requests.PredictJson]:
        spec = target.spec()
        parsed = json_requests.predict_request(
            self._inflated(request),
            lambda name: self._handlers.input_dtypes(spec, name),
            lambda name: self._handlers.open_inputs(spec, name),
            DEEPEST,
        )
        spec.signature_name = parsed.signature_name
        return spec, parsed

    def _classify(self, target: paths.Target, request: Request) -> Reply:
        filled = _filled(ClassificationRequest(model_spec=target.spec()), self._inflated(request))
        response = self._handlers.classify(filled, request.deadline)
        return _answer(json_responses.classify_response(response.result), response.model_spec.version.value)

    def _regress(self, target: paths.Target, request: Request) -> Reply:
        filled = _filled(RegressionRequest(model_spec=target.spec()), self._inflated(request))
        response = self._handlers.regress(filled, request.deadline)
        return _answer(json_responses.regress_response(response.result), response.model_spec.version.value)

    def _inflated(self, request: Request) -> bytes:
        return _inflated(request, min(INFLATED, self._options.max_body))

    def _status(self, target: paths.Target) -> Reply:
        response = self._handlers.get_model_status(GetModelStatusRequest(model_spec=target.spec()))
        return _json(_as_dict(response))

    def _metadata(self, target: paths.Target) -> Reply:
        request = GetModelMetadataRequest(model_spec=target.spec(), metadata_field=["signature_def"])
        response = self._handlers.get_model_metadata(request)
        definitions = SignatureDefMap()
        response.metadata["signature_def"].Unpack(definitions)
        metadata = {"signature_def": _as_dict(definitions)}
        return _json({"model_spec": _as_dict(response.model_spec), "metadata": metadata})


async def _arrived(started: Started[T], deadline: float | None) -> T:
    """The answer of a run that a thread of the batcher ends."""
    loop = asyncio.get_running_loop()
    arrived = loop.create_future()
    started.then(lambda: loop.call_soon_threadsafe(_settle, arrived))
    try:
        async with asyncio.timeout(None if deadline is None else deadline - time.monotonic()):
            await arrived  # not the batch's own future, which must not be cancelled
    except TimeoutError:
        raise deadline_exceeded(LATE) from None
    return started.result()


def _settle(arrived: asyncio.Future[None]) -> None:
    if not arrived.done():
        arrived.set_result(None)


def _predicted(parsed: json_requests.PredictJson, outputs: dict[str, Array], version: int) -> Reply:
    return _answer(json_responses.predict_response(outputs, parsed.format), version)


def _failure(error: Exception) -> Reply:
    if isinstance(error, ServingError):
        return Reply(error.code.http, json_responses.error_response(error.message))
    return Reply(500, json_responses.error_response(f"{type(error).__name__}: {error}"))


def _answer(body: bytes, version: int) -> Reply:
    return Reply(200, body, (JSON, (VERSION_HEADER, str(version))))


def _filled(message: Any, body: bytes) -> Any:
    name, examples = json_requests.examples_request(body, DEEPEST)
    message.model_spec.signature_name = name
    message.input.CopyFrom(examples)
    return message


def _as_dict(message: Any) -> dict[str, Any]:
    return json_format.MessageToDict(  # type: ignore[no-any-return]
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )


def _json(value: Any) -> Reply:
    return Reply(200, json.dumps(value, indent=1).encode())


def _inflated(request: Request, limit: int) -> bytes:
    if request.headers.get("content-encoding", "").lower() != "gzip":
        return request.body
    inflater = zlib.decompressobj(wbits=31)
    try:
        body = inflater.decompress(request.body, limit)
    except zlib.error as error:
        raise invalid_argument(f"Failed to uncompress the gzipped body: {error}") from None
    if inflater.unconsumed_tail or not inflater.eof:
        raise invalid_argument(f"The gzipped body is cut off, or larger than {limit} bytes")
    return body


_HEARD_OUT = 4  # a client that sends up to so many times the limit gets to read the refusal


class TooLarge:
    """Instead of a body that exceeds the limit."""


def _too_large(limit: int) -> Reply:
    message = f"The body is larger than {limit} bytes; see --max_request_bytes"
    return Reply(413, json_responses.error_response(message), (JSON, ("Connection", "close")))


async def _body(receive: Callable[[], Awaitable[Scope]], limit: int) -> bytes | TooLarge | None:
    """The whole body, or None when the client has gone."""
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        part = message.get("body", b"")
        size += len(part)
        if size <= limit:
            parts.append(part)
        elif not message.get("more_body") or size > _HEARD_OUT * limit:
            return TooLarge()
        if not message.get("more_body"):
            return parts[0] if len(parts) == 1 else b"".join(parts)


def _request(scope: Scope, timeout: float) -> Request:
    path = scope["raw_path"].decode("latin-1")
    if scope["query_string"]:
        path += "?" + scope["query_string"].decode("latin-1")
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
    deadline = time.monotonic() + timeout if timeout > 0 else None
    return Request(scope["method"], path, headers, b"", deadline, scope["client"][0] if scope["client"] else "")
