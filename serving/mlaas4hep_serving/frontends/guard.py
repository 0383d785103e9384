"""Who may do what: scopes of requests, rates per client; one guard for HTTP and for gRPC.

`Guard` decides; `Guard.http` and `GrpcGuard` carry it to the two front ends.  Without ``--auth_config_file`` everybody
may predict and read, and nobody may upload.
"""

from __future__ import annotations

import base64
import binascii
import functools
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import grpc

from mlaas4hep_serving.errors import Code, ServingError
from mlaas4hep_serving.frontends import pages
from mlaas4hep_serving.frontends.http import JSON, Reply, Request
from mlaas4hep_serving.frontends.tokens import Client, Scope, Tokens, unauthenticated
from mlaas4hep_serving.wire import json_responses

_BUCKETS = 10_000  # clients whose rate is remembered
_OPEN = {pages.HEALTH, pages.READY}
_PREDICT = re.compile(r"/v1/models/.*:(classify|regress|predict)|(/predict)?/(json|proto|image)", re.IGNORECASE)
_UPLOADS = re.compile(r"/(upload|bundle|params|delete)(/.*)?")
_RPC_SCOPES = {
    "Predict": Scope.PREDICT, "Classify": Scope.PREDICT, "Regress": Scope.PREDICT, "MultiInference": Scope.PREDICT,
    "GetModelMetadata": Scope.READ, "GetModelStatus": Scope.READ,
}  # fmt: skip


def scope_of(method: str, path: str) -> Scope | None:
    """The scope that an HTTP request needs; None for the health pages."""
    bare = path.partition("?")[0]
    if method in ("GET", "HEAD", "OPTIONS"):
        return None if bare in _OPEN else Scope.READ
    return Scope.PREDICT if method == "POST" and _PREDICT.fullmatch(bare) else Scope.WRITE


def scope_of_rpc(name: str) -> Scope | None:
    """The scope that a gRPC method needs, ``/package.Service/Method``; None for the health service."""
    service, _, method = name.strip("/").rpartition("/")
    return None if service == "grpc.health.v1.Health" else _RPC_SCOPES.get(method, Scope.WRITE)


class Rates:
    """A token bucket per client: ``rate`` requests a second, twice as many at once."""

    def __init__(self, rate: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._clock = rate, clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # client -> (level, when)
        self._lock = threading.Lock()

    def take(self, client: str) -> float:
        """Take one; 0.0, or the seconds to wait until there is one."""
        now, most = self._clock(), max(1.0, 2 * self._rate)
        with self._lock:
            level, when = self._buckets.pop(client, (most, now))
            level = min(most, level + (now - when) * self._rate)
            wait = 0.0 if level >= 1 else (1 - level) / self._rate
            self._buckets[client] = (level if wait else level - 1, now)
            if len(self._buckets) > _BUCKETS:
                self._buckets.popitem(last=False)
            return wait


class Guard:
    """Lets a request pass, or raises.

    Args:
        tokens: None lets everybody predict and read.
        rate: requests a second of one client; 0 is no limit.
    """

    def __init__(self, tokens: Tokens | None, rate: float) -> None:
        self.tokens = tokens
        self._rates = Rates(rate) if rate > 0 else None

    @property
    def active(self) -> bool:
        """False where everything passes that is no upload."""
        return self.tokens is not None or self._rates is not None

    def check(self, scope: Scope | None, token: str | None, address: str, *, uploads: bool = False) -> None:
        """Pass a request that needs ``scope``.

        Args:
            address: of the client, whom the rate counts for where there is no token.
            uploads: the request changes models over HTTP, which needs a token even where nothing else does.

        Raises:
            ServingError: RESOURCE_EXHAUSTED, UNAUTHENTICATED, PERMISSION_DENIED.
        """
        if scope is None:
            return
        client = Client("", frozenset(Scope))
        if self.tokens is not None:
            self._limit(address)  # before the token is looked at: guessing has a rate, too
            if token is None:
                raise unauthenticated("a token is needed: Authorization: Bearer TOKEN")
            client = self.tokens.client(token)
        elif uploads:
            raise ServingError(Code.PERMISSION_DENIED, "models are changed with a token only; see --auth_config_file")
        else:
            self._limit(address)
        if scope not in client.scopes:
            raise ServingError(Code.PERMISSION_DENIED, f"token of {client.name!r} has no scope {scope.value}")

    def _limit(self, address: str) -> None:
        wait = self._rates.take(address) if self._rates else 0.0
        if wait:
            raise ServingError(Code.RESOURCE_EXHAUSTED, f"too many requests; the next is taken in {wait:.1f} s")

    def http(self, request: Request) -> Reply | None:
        """The reply to a request that may not pass, else None."""
        scope = scope_of(request.method, request.path)
        changes = scope is Scope.WRITE and bool(_UPLOADS.fullmatch(request.path.partition("?")[0]))
        try:
            self.check(scope, _http_token(request), request.client, uploads=changes)
        except ServingError as error:
            return Reply(
                error.code.http, json_responses.error_response(error.message), (JSON, *_HINTS.get(error.code, ()))
            )
        return None


_HINTS = {
    # browsers ask for a password, which is the token; only GET takes it that way
    Code.UNAUTHENTICATED: (("WWW-Authenticate", 'Bearer realm="models"'), ("WWW-Authenticate", 'Basic realm="models"')),
    Code.RESOURCE_EXHAUSTED: (("Retry-After", "1"),),
}


def _http_token(request: Request) -> str | None:
    kind, _, value = request.headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer":
        return value.strip()
    if kind.lower() == "basic" and request.method == "GET":
        try:
            return base64.b64decode(value, validate=True).decode().partition(":")[2]
        except (binascii.Error, UnicodeDecodeError):
            return ""
    return None


class GrpcGuard(grpc.ServerInterceptor):  # type: ignore[misc]  # grpc has no type information
    """The guard of the gRPC port; the token is the metadata ``authorization: Bearer TOKEN``."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard

    def intercept_service(self, continuation: Callable[[Any], Any], details: Any) -> Any:
        """Wrap the method's handler with the check."""
        handler = continuation(details)
        scope = scope_of_rpc(details.method)
        if handler is None or scope is None:
            return handler
        kind, _, value = dict(details.invocation_metadata or ()).get("authorization", "").partition(" ")
        token = value.strip() if kind.lower() == "bearer" else None

        later = handler.unary_unary is None  # see grpc_later
        behaviour = handler.unary_stream if later else handler.unary_unary

        @functools.wraps(behaviour)
        def guarded(request: Any, context: grpc.ServicerContext, *send: Any) -> Any:
            try:
                self._guard.check(scope, token, _address(context.peer()))
            except ServingError as error:
                context.abort(_STATUS[error.code], error.message)
            return behaviour(request, context, *send)

        make = grpc.unary_stream_rpc_method_handler if later else grpc.unary_unary_rpc_method_handler
        return make(guarded, handler.request_deserializer, handler.response_serializer)


_STATUS = {code.value[0]: code for code in grpc.StatusCode}


def _address(peer: str) -> str:
    """``10.0.0.1`` of ``ipv4:10.0.0.1:5000``: connections of one client share their rate."""
    return peer.partition(":")[2].rpartition(":")[0].replace("%5B", "").replace("%5D", "")
