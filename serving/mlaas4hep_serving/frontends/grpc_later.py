"""Unary gRPC methods without a thread that waits, for the request or for the answer.

grpcio's synchronous server (faster here than its asyncio one, see docs/serving.md) gives each request a thread that
waits for its message and must return the answer.  Handing work between threads costs more than the work.  grpcio has
non-blocking handlers for streams of answers (its health service is one); one message and a status is on the wire what
a unary method answers.  This module uses them, and private functions to take the message and to send the answer
in one step.

Private functions may change without notice.  So `works` serves a few requests before the module is relied on; where a
release is none of those tested, or does not answer as it should, the methods are served as usual.
"""

# private parts of grpcio and of its contexts, all in this module; `works` tries them out

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Any

import grpc
from google.protobuf.wrappers_pb2 import StringValue
from grpc import _server
from grpc._cython import cygrpc

from mlaas4hep_serving.errors import ServingError, as_serving_error, not_found, unimplemented
from mlaas4hep_serving.scratch import Scratch

log = logging.getLogger(__name__)
DETAILS = 1024  # characters of a status message
STATUS = {code.value[0]: code for code in grpc.StatusCode}
TESTED = ((1, 60), (1, 85))  # the oldest and the newest grpcio that `try_out` has passed on; beyond, nobody has looked
_PATIENCE = 5.0  # seconds that a request of `try_out` may take


@cache
def works() -> bool:
    """Whether this grpcio may be used in this module's way, by its version and by trying."""
    if not tested(grpc.__version__):
        return _usual(f"grpcio {grpc.__version__} is not one of those tested, {TESTED}")
    try:
        try_out()
    except Exception as error:  # noqa: BLE001  # whatever another release does: there is the usual way
        return _usual(f"{type(error).__name__}: {error}")
    return True


def tested(version: str) -> bool:
    """Whether a version of grpcio, ``1.85.3``, lies within `TESTED`."""
    parts = version.split(".")
    return TESTED[0] <= (int(parts[0]), int(parts[1])) <= TESTED[1]


def _usual(reason: str) -> bool:
    log.warning("gRPC's Predict is served with a thread for each request: %s", reason)
    return False


def try_out() -> None:
    """Serve requests that are answered at once, later, with an error, or never.

    Raises:
        Exception: anything, where a client does not get what it should.
    """
    server = grpc.server(ThreadPoolExecutor(1))
    kept: list[Call] = []
    handler = method_handler(lambda request, call: _answer(request.value, call, kept), StringValue.FromString)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("TryOut", {"Ask": handler}),))
    with Scratch() as folder:
        address = f"unix:{folder}/socket"
        server.add_insecure_port(address)
        server.start()
        try:
            with grpc.insecure_channel(address) as channel:
                _ask(channel.unary_unary("/TryOut/Ask", StringValue.SerializeToString, StringValue.FromString))
                kept[0].send(StringValue(value="nobody waits any more"))
        finally:
            server.stop(0).wait(_PATIENCE)  # stop(None) would itself wait for calls that nobody answers


def _answer(request: str, call: Call, kept: list[Call]) -> None:
    match request:
        case "now":
            call.send(StringValue(value="now"))
        case "later":
            threading.Timer(0.01, call.send, [StringValue(value="later")]).start()
        case "error":
            call.fail(not_found("as it should"))
        case _:
            kept.append(call)


def _ask(method: Any) -> None:
    for value in ("now", "later", "now"):
        answer = method(StringValue(value=value), timeout=_PATIENCE).value
        _expect(answer, value)
    _expect(_status(method, "error", _PATIENCE), (grpc.StatusCode.NOT_FOUND, "as it should"))
    _expect(_status(method, "never", 0.05)[0], grpc.StatusCode.DEADLINE_EXCEEDED)


def _status(method: Any, request: str, timeout: float) -> tuple[grpc.StatusCode, str]:
    ended = method.future(StringValue(value=request), timeout=timeout)
    return ended.code(), ended.details()


def _expect(found: Any, wanted: Any) -> None:
    if found != wanted:
        raise ValueError(f"a client got {found} instead of {wanted}")


@dataclass(frozen=True)
class Call:
    """A call to answer, once, from any thread."""

    context: Any

    def send(self, message: Any) -> None:
        """Answer with a message."""
        try:
            body = message.SerializeToString()
        except Exception as error:  # noqa: BLE001  # without an answer the client would wait for ever
            self.fail(as_serving_error(error))
        else:
            _server._status(self.context._rpc_event, self.context._state, body)

    def fail(self, error: ServingError) -> None:
        """Answer with a status."""
        self.context.set_code(STATUS[error.code])
        self.context.set_details(details(error.message))
        _server._status(self.context._rpc_event, self.context._state, None)


def method_handler(serve: Callable[[Any, Call], None], deserialize: Callable[[bytes], Any]) -> Any:
    """A handler for a unary method.

    Args:
        serve: (request, call to answer, now or later).  Runs in the server's own thread: must not block or raise.
    """

    def behaviour(request: Any, context: grpc.ServicerContext, _: Callable[[Any], None]) -> None:
        serve(request, Call(context))

    behaviour.experimental_non_blocking = True  # type: ignore[attr-defined]  # grpcio looks for these
    behaviour.experimental_thread_pool = _OnArrival(1)  # type: ignore[attr-defined]
    return grpc.unary_stream_rpc_method_handler(behaviour, deserialize)


class _OnArrival(ThreadPoolExecutor):
    """Runs a behaviour when its request has arrived, in the thread that took it, not in one that waits for it."""

    def submit(  # type: ignore[override]  # grpcio passes these
        self, run: Callable[..., None], in_pool: Any, call: Any, state: Any, behaviour: Any, _: Any, *codec: Any
    ) -> Future[None]:
        receive = _server._receive_message(state, call.call, codec[0])

        def arrived(event: Any) -> Any:
            outcome = receive(event)
            with state.condition:
                request, state.request = state.request, None
            if request is not None:
                run(in_pool, call, state, behaviour, lambda: request, *codec)
            elif state.client is _server._CLOSED:
                Call(_server._Context(call, state, None)).fail(unimplemented("The request has no message"))
            return outcome

        with state.condition:
            call.call.start_server_batch((cygrpc.ReceiveMessageOperation(0),), arrived)
            state.due.add(_server._RECEIVE_MESSAGE_TOKEN)
        started: Future[None] = Future()
        started.set_result(None)
        return started


def details(message: str) -> str:
    """A message as long as a status may carry it."""
    return message if len(message) <= DETAILS else message[:DETAILS] + "...TRUNCATED"
