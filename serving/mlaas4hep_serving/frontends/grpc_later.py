"""Unary gRPC methods without a thread that waits, for the request or for the answer.

grpcio's synchronous server (faster here than its asyncio one, see docs/serving.md) gives each request a thread that
waits for its message and must return the answer.  Handing work between threads costs more than the work.  It has
non-blocking handlers for streams of answers (its health service is one); one message and a status is on the wire what
a unary method answers.  This module uses them, and private functions to take the message and to send the answer
in one step.  Where a release of grpcio lacks those, `supported` is False and the methods are served as usual.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import grpc
from grpc import _server
from grpc._cython import cygrpc

from mlaas4hep_serving.errors import ServingError, as_serving_error, unimplemented

DETAILS = 1024  # characters of a status message
STATUS = {code.value[0]: code for code in grpc.StatusCode}


def supported() -> bool:
    """Whether this grpcio is built as this module assumes."""
    parts = ("_status", "_receive_message", "_stream_response_in_pool", "_Context", "_CLOSED", "_RECEIVE_MESSAGE_TOKEN")
    if not all(hasattr(_server, part) for part in parts):
        return False
    pool, status = _server._stream_response_in_pool, _server._status
    return (
        [*inspect.signature(status).parameters] == ["rpc_event", "state", "serialized_response"]
        and [*inspect.signature(pool).parameters] == _IN_POOL
        and "experimental_non_blocking" in pool.__code__.co_names
        and hasattr(cygrpc, "ReceiveMessageOperation")
    )


_IN_POOL = ["rpc_event", "state", "behavior", "argument_thunk", "request_deserializer", "response_serializer"]


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
