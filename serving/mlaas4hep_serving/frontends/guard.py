"""Who may do what: scopes of requests, rates per client and per token; one guard for HTTP and for gRPC.

`Guard` decides; `Guard.http` and `GrpcGuard` carry it to the two front ends.  Without ``--auth_config_file`` everybody
may predict and read, and nobody may upload.  The model that a request is about stands in its URL or its message; where
it stands in the body, the endpoint asks `Guard.permit` when it knows.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import grpc

from mlaas4hep_serving.errors import Code, ServingError, as_serving_error, shown
from mlaas4hep_serving.frontends import pages
from mlaas4hep_serving.frontends.http import JSON, Reply, Request
from mlaas4hep_serving.frontends.rates import Rates
from mlaas4hep_serving.frontends.tokens import Client, Scope, Tokens, token_of, unauthenticated
from mlaas4hep_serving.wire import json_responses

_OPEN = {pages.HEALTH, pages.READY}
_PREDICT = re.compile(r"/v1/models/.*:(classify|regress|predict)|(/predict)?/(json|proto|image)", re.IGNORECASE)
_MODEL = re.compile(r"/v1/models/([^/:]+).*|/(?:params|delete)/([^/?]+).*", re.IGNORECASE | re.DOTALL)
_IN_BODY = re.compile(r"(/predict)?/(json|proto|image)|/(upload|bundle|params|delete)")
_UPLOADS = re.compile(r"/(upload|bundle|params|delete)(/.*)?")
_PUBLISH = re.compile(r"/v1/publish/([^/]+)(/[^/]*)?")
_RPC_SCOPES = {
    "Predict": Scope.PREDICT, "Classify": Scope.PREDICT, "Regress": Scope.PREDICT, "MultiInference": Scope.PREDICT,
    "GetModelMetadata": Scope.READ, "GetModelStatus": Scope.READ,
}  # fmt: skip


def scope_of(method: str, path: str) -> Scope | None:
    """The scope that an HTTP request needs; None for the health pages."""
    bare = path.partition("?")[0]
    if method in ("GET", "HEAD", "OPTIONS"):
        return None if bare in _OPEN else Scope.READ
    if _PUBLISH.fullmatch(bare):
        return Scope.PUBLISH
    return Scope.PREDICT if method == "POST" and _PREDICT.fullmatch(bare) else Scope.WRITE


def models_of(path: str) -> Sequence[str] | None:
    """The model that a URL is about; none of them, or None where the body says."""
    published = _PUBLISH.fullmatch(path.partition("?")[0])
    if published:
        return [unquote(published[1], errors="replace")]
    match = _MODEL.fullmatch(path)
    if match:
        return [unquote(match[1], errors="replace") if match[1] else match[2]]
    return None if _IN_BODY.fullmatch(path.partition("?")[0]) else []


def models_of_message(message: Any) -> Sequence[str] | None:
    """The models that a gRPC request is about; None for bytes that are no message, which nobody answers."""
    if isinstance(message, ServingError):
        return None
    if hasattr(message, "tasks"):
        return [task.model_spec.name for task in message.tasks]
    return [message.model_spec.name] if hasattr(message, "model_spec") else []


def scope_of_rpc(name: str) -> Scope | None:
    """The scope that a gRPC method needs, ``/package.Service/Method``; None for the health service."""
    service, _, method = name.strip("/").rpartition("/")
    return None if service == "grpc.health.v1.Health" else _RPC_SCOPES.get(method, Scope.WRITE)


class Guard:
    """Lets a request pass, or raises.

    Args:
        tokens: None lets everybody predict and read.
        rate: requests a second of one client; 0 is no limit.
        folder: shared by all processes of one server, whose rates are counted together; None where there is one.
    """

    def __init__(self, tokens: Tokens | None, rate: float, folder: Path | None = None) -> None:
        self.tokens, self._folder = tokens, folder
        self._rates = self._made("clients", rate) if rate > 0 else None
        self._of_tokens: dict[tuple[str, float], Rates] = {}  # what is counted, how much of it -> the tokens' rates

    @property
    def active(self) -> bool:
        """False where everything passes that is no upload."""
        return self.tokens is not None or self._rates is not None

    def check(
        self,
        scope: Scope | None,
        token: str | None,
        address: str,
        *,
        uploads: bool = False,
        models: Collection[str] | None = (),
        size: Callable[[], int] = lambda: 0,
    ) -> None:
        """Pass a request that needs ``scope``.

        Args:
            address: of the client, whom the rate counts for where there is no token.
            uploads: the request changes models over HTTP, which needs a token even where nothing else does.
            models: that it is about, as in `Client.may`.
            size: bytes of its body, asked where the token has a limit of them.

        Raises:
            ServingError: RESOURCE_EXHAUSTED, UNAUTHENTICATED, PERMISSION_DENIED.
        """
        if scope is None:
            return
        client = Client("", frozenset(Scope))
        if self.tokens is not None:
            self._limit(address)  # before the token is looked at: guessing has a rate, too
            client = self._client(token)
            self._limit_token(client, size)
        elif uploads:
            raise ServingError(Code.PERMISSION_DENIED, "models are changed with a token only; see --auth_config_file")
        else:
            self._limit(address)
        _need(client, scope, models)

    def permit(self, request: Request, scope: Scope, model: str) -> None:
        """Pass a request that has turned out to be about a model.

        Raises:
            ServingError: UNAUTHENTICATED, PERMISSION_DENIED.
        """
        if self.tokens is not None:
            _need(self._client(_token(request)), scope, [model])

    def count(self, request: Request) -> None:
        """A route that answers nothing, and counts the bytes of a body whose length was not told beforehand."""
        if self.tokens is not None and "content-length" not in request.headers and request.body:
            client = self._client(_token(request))
            if client.limits.bytes_per_second:
                self._rates_of("bytes", client.limits.bytes_per_second).take(client.name, len(request.body))

    def _client(self, token: str | None) -> Client:
        assert self.tokens is not None
        if token is None:
            raise unauthenticated("a token is needed: Authorization: Bearer TOKEN")
        return self.tokens.client(token)

    def _limit_token(self, client: Client, size: Callable[[], int]) -> None:
        requests, most = client.limits.requests_per_second, client.limits.bytes_per_second
        wait = self._rates_of("requests", requests).take(client.name) if requests else 0.0
        if not wait and most:
            wait = self._rates_of("bytes", most).take(client.name, size())
        if wait:
            name = shown(client.name)
            raise ServingError(
                Code.RESOURCE_EXHAUSTED, f"the token of {name!r} has reached its limit; it has more in {wait:.1f} s"
            )

    def _rates_of(self, counted: str, rate: float) -> Rates:
        found = self._of_tokens.get((counted, rate))
        return found or self._of_tokens.setdefault((counted, rate), self._made(counted, rate))

    def _made(self, counted: str, rate: float) -> Rates:
        return Rates(rate, self._folder / f"{counted}-{rate}.rates" if self._folder else None)

    def _limit(self, address: str) -> None:
        wait = self._rates.take(address) if self._rates else 0.0
        if wait:
            raise ServingError(Code.RESOURCE_EXHAUSTED, f"too many requests; the next is taken in {wait:.1f} s")

    def http(self, request: Request) -> Reply | None:
        """The reply to a request that may not pass, else None."""
        scope = scope_of(request.method, request.path)
        uploads = scope is Scope.WRITE and bool(_UPLOADS.fullmatch(request.path.partition("?")[0]))
        changes = uploads or scope is Scope.PUBLISH
        try:
            self.check(
                scope, _token(request), request.client, uploads=changes, models=models_of(request.path),
                size=lambda: _length(request),
            )  # fmt: skip
        except Exception as error:  # noqa: BLE001  # the client gets an answer, whatever it is
            known = as_serving_error(error)
            body = json_responses.error_response(known.message)
            return Reply(known.code.http, body, (JSON, *_HINTS.get(known.code, ())))
        return None


_HINTS = {
    # browsers ask for a password, which is the token; only GET takes it that way
    Code.UNAUTHENTICATED: (("WWW-Authenticate", 'Bearer realm="models"'), ("WWW-Authenticate", 'Basic realm="models"')),
    Code.RESOURCE_EXHAUSTED: (("Retry-After", "1"),),
}


def _need(client: Client, scope: Scope, models: Collection[str] | None) -> None:
    if not client.may(scope, models):
        of = f" of model {shown(', '.join(models))}" if models else ""
        raise ServingError(Code.PERMISSION_DENIED, f"token of {shown(client.name)!r} has no scope {scope.value}{of}")


def _length(request: Request) -> int:
    """Bytes that a request says its body has; `Guard.count` counts the others."""
    told = request.headers.get("content-length", "")
    return int(told) if told.isdecimal() and len(told) < 20 else 0


def _token(request: Request) -> str | None:
    return token_of(request.method, request.headers.get("authorization", ""))


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
                self._guard.check(
                    scope, token, _address(context.peer()), models=models_of_message(request),
                    size=lambda: request.ByteSize() if hasattr(request, "ByteSize") else 0,
                )  # fmt: skip
            except Exception as error:  # noqa: BLE001  # as over HTTP
                known = as_serving_error(error)
                context.abort(_STATUS[known.code], known.message)
            return behaviour(request, context, *send)

        make = grpc.unary_stream_rpc_method_handler if later else grpc.unary_unary_rpc_method_handler
        return make(guarded, handler.request_deserializer, handler.response_serializer)


_STATUS = {code.value[0]: code for code in grpc.StatusCode}


def _address(peer: str) -> str:
    """``10.0.0.1`` of ``ipv4:10.0.0.1:5000``: connections of one client share their rate."""
    return peer.partition(":")[2].rpartition(":")[0].replace("%5B", "").replace("%5D", "")
