"""TF-Serving's REST API: the v1 URLs and the metrics page, behind the registered routes.

`Rest.respond` is the whole server as one function from request to reply, which blocks; `Rest.respond_async` runs it in
a thread, except for small predictions of models that batch: those are parsed in the event loop, which goes on while
the batch runs.  The threads for GET are not those in which models run, and each model has its own (`pools`).
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from google.protobuf import json_format
from tensorflow_serving.apis.classification_pb2 import ClassificationRequest
from tensorflow_serving.apis.get_model_metadata_pb2 import GetModelMetadataRequest, SignatureDefMap
from tensorflow_serving.apis.get_model_status_pb2 import GetModelStatusRequest
from tensorflow_serving.apis.regression_pb2 import RegressionRequest

from mlaas4hep_serving.errors import ServingError, deadline_exceeded, failed_precondition, invalid_argument, shown
from mlaas4hep_serving.frontends.budget import Budget
from mlaas4hep_serving.frontends.http import JSON, Admit, Answer, Application, Reply, Request, Route, failure
from mlaas4hep_serving.frontends.pools import Pools
from mlaas4hep_serving.models.model import LATE, late
from mlaas4hep_serving.prediction import Claim, Handlers, Started
from mlaas4hep_serving.wire import apart, json_requests, json_responses, paths
from mlaas4hep_serving.wire.apart import Body, Readers
from mlaas4hep_serving.wire.tensors import Array

LOOKS = 4  # threads for requests that run no model: states, metadata, metrics, pages
SMALL = 1 << 18  # bytes of a body that is parsed in the event loop
SMALL_ANSWER = 1 << 16  # bytes of arrays that are written there
LARGE = 1 << 20  # bytes of a body, inflated, that is parsed in a process of its own: it would hold Python's lock
READERS = 2  # such processes
LARGE_THREADS = 8  # for requests with such bodies
_LEAST_MEMORY = 512 << 20  # bytes, of such a process
DEEPEST = 1024  # levels of nested JSON
INFLATED = 100 << 20  # bytes of a gzipped body, as TF-Serving limits it
VERSION_HEADER = "X-Model-Version"  # version that answered
_CORS = (
    ("Access-Control-Allow-Origin", "*"),
    ("Access-Control-Allow-Methods", "POST, GET"),
    ("Access-Control-Allow-Headers", "Content-Type"),
)
_ORIGIN = re.compile("https?://")
_NOT_FOUND = Reply(404, b"<html><head><title>404 Not Found</title></head></html>\n", (("Content-Type", "text/html"),))
T = TypeVar("T")


@dataclass(frozen=True)
class RestOptions:
    """``--rest_api_*`` and the path of the metrics, None for none."""

    timeout: float = 30.0  # seconds
    cors: bool = False
    metrics_path: str | None = None
    threads: int = 64
    more_metrics: Callable[[], str] = lambda: ""  # in Prometheus text
    routes: Sequence[Route] = field(default_factory=tuple)  # asked in turn about every path, before the v1 URLs
    admit: Admit = lambda _: None  # asked before the body is read: the refusal, or None
    max_body: int = 256 << 20  # bytes, also of a body that is inflated
    budget: Budget = field(default_factory=Budget)  # of all bodies in flight; one of the readers may use as much


class Rest:
    """The API on the operations of ``handlers``."""

    def __init__(self, handlers: Handlers, options: RestOptions) -> None:
        self._handlers, self._options = handlers, options
        self._pools = Pools(options.threads, handlers.repository.knows)
        # what runs no model does not queue behind what does
        self._looks = ThreadPoolExecutor(LOOKS, thread_name_prefix="rest-looks")
        self._large = ThreadPoolExecutor(LARGE_THREADS, thread_name_prefix="rest-large")  # nor small behind large
        self._readers = Readers(READERS, max(options.budget.size, _LEAST_MEMORY))

    def application(self) -> Application:
        """The API as an ASGI application."""
        options = self._options
        return Application(self.respond_async, options.admit, options.timeout, options.max_body, options.budget)

    def close(self) -> None:
        """End the processes that read large bodies."""
        self._readers.close()

    def respond(self, request: Request) -> Reply:
        """The reply to a request.  Never raises."""
        try:
            routed = self._routed(request)
            reply = routed if isinstance(routed, Reply) else (routed or partial(self._api, request))()
        except Exception as error:  # noqa: BLE001  # the last resort: the client gets an answer, the server lives on
            reply = failure(error)
        return self._with_cors(reply)

    async def respond_async(self, request: Request) -> Reply:
        """`respond` that leaves the event loop to others."""
        try:
            routed = self._routed(request)
            request.grow(_size(request) - len(request.body))  # before it waits for a thread
            if isinstance(routed, Reply):
                reply = routed
            elif routed is None and (target := _small_prediction(request)):
                reply = await self._predict_small(target, request)
            else:
                reply = await self._in_thread(
                    routed or partial(self._api, request), request, None if routed else request.deadline
                )
        except Exception as error:  # noqa: BLE001  # as in `respond`
            reply = failure(error)
        return self._with_cors(reply)

    async def _in_thread(
        self, answer: Answer, request: Request, deadline: float | None, dropped: Callable[[], object] = lambda: None
    ) -> Reply:
        """The answer from a thread, if it comes before the deadline; ``dropped`` is called if it was not begun."""
        running = self._threads(request).submit(answer)
        try:
            async with _until(deadline):
                return await asyncio.wrap_future(running)
        except TimeoutError:
            raise deadline_exceeded(LATE) from None
        finally:
            if running.cancel():
                dropped()

    def _threads(self, request: Request) -> Executor:
        """Where the answer to a request is made."""
        if request.method == "GET":
            return self._looks
        return self._large if _size(request) > LARGE else self._pools.of(_model(request))

    async def _predict_small(self, target: paths.Target, request: Request) -> Reply:
        """A prediction without a thread, if the version that the request means batches: then nothing blocks."""
        claim = self._handlers.claim(target.spec())
        if not claim.batches:
            answer = partial(self._predict, target, request, claim)
            return await self._in_thread(answer, request, request.deadline, claim.release)
        with claim, self._handlers.measured(target.name, target.method, "REST"):
            parsed = self._parsed(request, claim)
            started = self._handlers.start_predict_arrays(
                claim.version, parsed.signature_name, parsed.inputs, request.deadline
            )
            outputs, number = await _arrived(started, request.deadline)
            if sum([array.nbytes for array in outputs.values()]) > SMALL_ANSWER:
                return await self._in_thread(partial(_predicted, parsed, outputs, number), request, request.deadline)
            return _predicted(parsed, outputs, number)

    def _with_cors(self, reply: Reply) -> Reply:
        return Reply(reply.status, reply.body, (*reply.headers, *_CORS)) if self._options.cors else reply

    def _routed(self, request: Request) -> Reply | Answer | None:
        for route in self._options.routes:
            answer = route(request)
            if answer is not None:
                return answer
        return None

    def _api(self, request: Request) -> Reply:
        if request.method == "GET" and request.path == self._options.metrics_path:
            text = self._handlers.metrics.text() + self._options.more_metrics()
            return Reply(200, text.encode(), (("Content-Type", "text/plain"),))
        if not paths.API.fullmatch(request.path):
            return _NOT_FOUND
        if request.method == "OPTIONS":
            if not _ORIGIN.search(request.headers.get("origin", "")):
                raise failed_precondition("Origin header is missing in CORS preflight")
            return Reply(200, b"")
        target = paths.parse(request.method, request.path)
        if target is None:
            raise invalid_argument(f"Malformed request: {shown(request.method)} {shown(request.path)}")
        return self._post(target, request) if request.method == "POST" else self._get(target)

    def _get(self, target: paths.Target) -> Reply:
        if not target.name:
            raise invalid_argument("Missing model name in request.")
        return self._metadata(target) if target.subresource else self._status(target)

    def _post(self, target: paths.Target, request: Request) -> Reply:
        if target.method == "predict":
            return self._predict(target, request, self._handlers.claim(target.spec()))
        answer = self._classify if target.method == "classify" else self._regress
        with self._handlers.measured(target.name, target.method, "REST"):
            return answer(target, request)

    def _predict(self, target: paths.Target, request: Request, claim: Claim) -> Reply:
        with claim, self._handlers.measured(target.name, target.method, "REST"):
            parsed = self._parsed(request, claim)
            started = self._handlers.start_predict_arrays(
                claim.version, parsed.signature_name, parsed.inputs, request.deadline
            )
            return _predicted(parsed, *started.result(request.deadline))

    def _parsed(self, request: Request, claim: Claim) -> json_requests.PredictJson:
        """The arrays of a request; a model that is not there is told after what is wrong with the JSON."""
        most = self._handlers.max_tensor_bytes
        if _size(request) > LARGE:
            return self._readers.predict(self._body(request), claim.signatures(most), request.deadline)
        body = self._body(request).inflated()
        return json_requests.predict_request(body, claim.input_dtypes, claim.open_inputs, DEEPEST, most)

    def _classify(self, target: paths.Target, request: Request) -> Reply:
        filled = self._filled(ClassificationRequest(model_spec=target.spec()), request)
        response = self._handlers.classify(filled, request.deadline)
        return _answer(json_responses.classify_response(response.result), response.model_spec.version.value)

    def _regress(self, target: paths.Target, request: Request) -> Reply:
        filled = self._filled(RegressionRequest(model_spec=target.spec()), request)
        response = self._handlers.regress(filled, request.deadline)
        return _answer(json_responses.regress_response(response.result), response.model_spec.version.value)

    def _filled(self, message: Any, request: Request) -> Any:
        body = self._body(request)
        name, examples = (
            self._readers.examples(body, request.deadline)
            if _size(request) > LARGE
            else json_requests.examples_request(body.inflated(), DEEPEST)
        )
        message.model_spec.signature_name = name
        message.input.CopyFrom(examples)
        return message

    def _body(self, request: Request) -> Body:
        """The body; one that is gzipped may not become more than it says."""
        if not _gzipped(request):
            return Body(request.body, gzipped=False, limit=len(request.body), deepest=DEEPEST)
        declared, limit = apart.declared_size(request.body), min(INFLATED, self._options.max_body)
        if declared > limit:
            raise invalid_argument(
                f"The gzipped body inflates to {declared} bytes; it may not be larger than {limit} bytes"
            )
        return Body(request.body, gzipped=True, limit=declared, deepest=DEEPEST)

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


def _gzipped(request: Request) -> bool:
    return request.headers.get("content-encoding", "").lower() == "gzip"


def _size(request: Request) -> int:
    """Bytes of a body, inflated; as it says itself, which is held against it when it is inflated."""
    declared = int.from_bytes(request.body[-4:], "little") if _gzipped(request) else 0
    return max(len(request.body), min(declared, INFLATED))


def _small_prediction(request: Request) -> paths.Target | None:
    """The target of a prediction that is small enough to be parsed in the event loop."""
    if request.method != "POST" or len(request.body) > SMALL or "content-encoding" in request.headers:
        return None
    try:
        target = paths.parse("POST", request.path)
    except ServingError:  # told by `_api`
        return None
    return target if target is not None and target.method == "predict" else None


def _model(request: Request) -> str:
    """The model that a URL names, or ""."""
    try:
        target = paths.parse(request.method, request.path)
    except ServingError:  # told by `_api`
        return ""
    return target.name if target is not None else ""


async def _arrived(started: Started[T], deadline: float | None) -> T:
    """The answer of a run that a thread of the batcher ends."""
    loop = asyncio.get_running_loop()
    arrived = loop.create_future()
    started.then(lambda: loop.call_soon_threadsafe(_settle, arrived))
    try:
        async with _until(deadline):
            await arrived  # not the batch's own future, which must not be cancelled
    except TimeoutError:
        raise late(started.running) from None
    return started.result()


def _until(deadline: float | None) -> asyncio.Timeout:
    return asyncio.timeout(None if deadline is None else deadline - time.monotonic())


def _settle(arrived: asyncio.Future[None]) -> None:
    if not arrived.done():
        arrived.set_result(None)


def _predicted(parsed: json_requests.PredictJson, outputs: dict[str, Array], version: int) -> Reply:
    return _answer(json_responses.predict_response(outputs, parsed.format), version)


def _answer(body: bytes | bytearray, version: int) -> Reply:
    return Reply(200, body, (JSON, (VERSION_HEADER, str(version))))


def _as_dict(message: Any) -> dict[str, Any]:
    return json_format.MessageToDict(  # type: ignore[no-any-return]
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )


def _json(value: Any) -> Reply:
    return Reply(200, json.dumps(value, indent=1).encode())
