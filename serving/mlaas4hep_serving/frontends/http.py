"""HTTP carried over ASGI: whole requests in, whole replies out, with a limit for bodies.

`Application` reads a request, asks whether it may pass, and sends what its server answers; nothing here knows a model.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from mlaas4hep_serving.errors import Code, ServingError, shown
from mlaas4hep_serving.frontends.budget import Budget, Share
from mlaas4hep_serving.wire import json_responses

JSON = ("Content-Type", "application/json")
Headers = tuple[tuple[str, str], ...]
Scope = dict[str, Any]
Receive = Callable[[], Awaitable[Scope]]
Send = Callable[[Scope], Awaitable[None]]
_RETRY = ("Retry-After", "1")
_HEARD_OUT = 4  # a client that sends up to so many times the limit gets to read the refusal


@dataclass(frozen=True)
class Request:
    """One HTTP request; ``path`` as sent, with its query string; header names in lower case."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    deadline: float | None = None
    client: str = ""  # address
    grow: Callable[[int], None] = lambda _: None  # asks for so many bytes more to be in flight; raises UNAVAILABLE


@dataclass(frozen=True)
class Reply:
    """One HTTP reply."""

    status: int
    body: bytes | bytearray
    headers: Headers = (JSON,)


Answer = Callable[[], Reply]
Admit = Callable[[Request], "Reply | None"]
# What is asked about every request, in the event loop, so it must not block: None if the request is not its own, else
# the reply, or a function that gives it and is called in a thread.
Route = Callable[[Request], "Reply | Answer | None"]


class Application:
    """An ASGI application.

    Args:
        respond: the reply to a request; never raises.
        admit: asked before the body is read: the refusal, or None.
        timeout: seconds until the deadline of a request; 0 for none.
        max_body: bytes of a body; a larger one is answered with 413.
        budget: of all bodies in flight; one that does not fit is answered with 503.
    """

    def __init__(
        self,
        respond: Callable[[Request], Awaitable[Reply]],
        admit: Admit,
        timeout: float,
        max_body: int,
        budget: Budget | None = None,
    ) -> None:
        self._respond, self._admit, self._timeout, self._max_body = respond, admit, timeout, max_body
        self._budget = budget or Budget()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        request = _request(scope, self._timeout)
        reply = self._admit(request)
        if reply is None:
            with Share(self._budget) as share:
                reply = await self._answer(request, receive, share)
        if reply is None:
            return
        headers = [(name.lower().encode(), value.encode()) for name, value in reply.headers]
        headers.append((b"content-length", str(len(reply.body)).encode()))
        await send({"type": "http.response.start", "status": reply.status, "headers": headers})
        await send({"type": "http.response.body", "body": reply.body})

    async def _answer(self, request: Request, receive: Receive, share: Share) -> Reply | None:
        """The reply to a request that was admitted; None when the client has gone."""
        try:
            body = await _body(receive, self._max_body, share)
            if body is None:
                return None
            if isinstance(body, _TooLarge):
                return _too_large(self._max_body)
            return await self._respond(replace(request, body=body, grow=share.grow))
        except ServingError as error:  # of the share
            return failure(error)
        except asyncio.CancelledError:  # the server ends, and has waited as long as it was told to
            return _CUT_OFF


def failure(error: Exception) -> Reply:
    """The reply that tells an error; 500 for one that nobody foresaw."""
    if isinstance(error, ServingError):
        hint = (_RETRY,) if error.code is Code.UNAVAILABLE else ()
        return Reply(error.code.http, json_responses.error_response(error.message), (JSON, *hint))
    return Reply(500, json_responses.error_response(f"{type(error).__name__}: {shown(str(error))}"))


_CUT_OFF = Reply(503, json_responses.error_response("The server is shutting down"), (JSON, ("Connection", "close")))


class _TooLarge:
    """Instead of a body that exceeds the limit."""


def _too_large(limit: int) -> Reply:
    message = f"The body is larger than {limit} bytes; see --max_request_bytes"
    return Reply(413, json_responses.error_response(message), (JSON, ("Connection", "close")))


async def _body(receive: Receive, limit: int, share: Share) -> bytes | _TooLarge | None:
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
            share.hold(size)
            parts.append(part)
        elif not message.get("more_body") or size > _HEARD_OUT * limit:
            return _TooLarge()
        if not message.get("more_body"):
            return parts[0] if len(parts) == 1 else b"".join(parts)


def _request(scope: Scope, timeout: float) -> Request:
    path = scope["raw_path"].decode("latin-1")
    if scope["query_string"]:
        path += "?" + scope["query_string"].decode("latin-1")
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
    deadline = time.monotonic() + timeout if timeout > 0 else None
    return Request(scope["method"], path, headers, b"", deadline, scope["client"][0] if scope["client"] else "")
