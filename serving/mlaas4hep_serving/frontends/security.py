"""Who may do what: bearer tokens with scopes (static keys and JWTs), rates per client, TLS; for HTTP and for gRPC.

`Guard` decides; `Guard.http` and `GrpcGuard` carry it to the two front ends.  Without ``--auth_config_file`` everybody
may predict and read, and nobody may upload.
"""

from __future__ import annotations

import base64
import binascii
import functools
import hashlib
import os
import re
import ssl
import tempfile
import threading
import time
import tomllib
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import grpc
import jwt

from mlaas4hep_serving.errors import Code, ServingError, invalid_argument
from mlaas4hep_serving.frontends import pages
from mlaas4hep_serving.frontends.rest import JSON, Reply, Request
from mlaas4hep_serving.wire import json_responses

ASYMMETRIC = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
LONGEST_TOKEN = 8192  # characters
_BUCKETS = 10_000  # clients whose rate is remembered
_LEEWAY = 30  # seconds between the clocks of this machine and the issuer


class Scope(Enum):
    """What a request does: run a model, look at models, change them."""

    PREDICT = "predict"
    READ = "read"
    WRITE = "write"


Scopes = frozenset[Scope]
_OPEN = {pages.HEALTH, pages.READY}
_PREDICT = re.compile(r"/v1/models/.*:(classify|regress|predict)|(/predict)?/(json|proto|image)", re.IGNORECASE)
_UPLOADS = re.compile(r"/(upload|params|delete)(/.*)?")
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


@dataclass(frozen=True)
class Client:
    """Who asks: the name of a key or the subject of a JWT, ``""`` without a token."""

    name: str
    scopes: Scopes


@dataclass(frozen=True)
class JwtOptions:
    """Tokens of an issuer: who, for whom, and the file with its public keys (a JWKS)."""

    issuer: str
    audience: str
    jwks_file: Path

    def __post_init__(self) -> None:
        for name in ("issuer", "audience"):
            if not getattr(self, name):
                raise invalid_argument(f"auth config: [jwt] needs {name}")


class Tokens:
    """The tokens that are accepted.

    Args:
        keys: SHA-256 of a token (hex) -> client.
        options: JWTs are accepted, too.
    """

    def __init__(self, keys: Mapping[str, Client], options: JwtOptions | None = None) -> None:
        self._keys, self._options = keys, options
        self._jwks: jwt.PyJWKSet | None = None
        self._jwks_stamp: tuple[int, int] | None = None
        self._lock = threading.Lock()
        if options:
            self._key_set()  # a file that cannot be read ends the start, not the first request

    @classmethod
    def read(cls, path: Path) -> Tokens:
        """From ``--auth_config_file``, a TOML file.

        ``[[key]]`` with name, sha256 (of the token) and scopes; ``[jwt]`` with issuer, audience and jwks_file
        (relative to the file).

        Raises:
            ServingError: INVALID_ARGUMENT, what is wrong with it.
        """
        try:
            config = tomllib.loads(path.read_text())
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise invalid_argument(f"--auth_config_file {path} cannot be read: {error}") from None
        unknown = sorted(set(config) - {"key", "jwt"})
        if unknown or not config:
            raise invalid_argument(
                f"--auth_config_file {path}: expected [[key]] and [jwt], found {unknown or 'nothing'}"
            )
        try:
            keys = dict(_key(entry) for entry in config.get("key", []))
            given = config.get("jwt")
            options = None
            if given is not None:
                options = JwtOptions(given["issuer"], given["audience"], path.parent / given["jwks_file"])
        except (KeyError, TypeError, AttributeError) as error:
            raise invalid_argument(f"--auth_config_file {path}: missing or malformed entry: {error}") from None
        return cls(keys, options)

    def client(self, token: str) -> Client:
        """The client of a token.

        Raises:
            ServingError: UNAUTHENTICATED.
        """
        if len(token) > LONGEST_TOKEN:
            raise _unauthenticated(f"token is longer than {LONGEST_TOKEN} characters")
        found = self._keys.get(hashlib.sha256(token.encode("utf-8", "replace")).hexdigest())
        if found:
            return found
        if self._options is None or token.count(".") != 2:
            raise _unauthenticated("token is not known")
        return self._jwt_client(token, self._options)

    def _jwt_client(self, token: str, options: JwtOptions) -> Client:
        try:
            key = self._key_set()[jwt.get_unverified_header(token).get("kid", "")]
            algorithms = [key.algorithm_name] if key.algorithm_name in ASYMMETRIC else []
            claims = jwt.decode(
                token, key, algorithms, audience=options.audience, issuer=options.issuer, leeway=_LEEWAY,
                options={"require": ["exp", "iss", "aud"]},
            )  # fmt: skip
        except KeyError:
            raise _unauthenticated("JWT names a key (kid) that is not in the JWKS file") from None
        except (jwt.PyJWTError, ValueError, TypeError) as error:
            raise _unauthenticated(f"JWT is not accepted: {error}") from None
        scope = claims.get("scope", "")
        words = scope.split() if isinstance(scope, str) else scope if isinstance(scope, list) else []
        known = {item.value: item for item in Scope}
        return Client(str(claims.get("sub", "jwt")), frozenset(known[word] for word in words if word in known))

    def _key_set(self) -> jwt.PyJWKSet:
        """The keys of the JWKS file, read again when the file has changed."""
        assert self._options is not None
        path = self._options.jwks_file
        try:
            stat = path.stat()
            stamp = (stat.st_mtime_ns, stat.st_ino)
            with self._lock:
                if self._jwks is None or stamp != self._jwks_stamp:
                    self._jwks, self._jwks_stamp = jwt.PyJWKSet.from_json(path.read_text()), stamp
                return self._jwks
        except (OSError, ValueError, jwt.PyJWTError) as error:
            raise invalid_argument(f"JWKS file {path} cannot be read: {error}") from None


def _key(entry: Mapping[str, Any]) -> tuple[str, Client]:
    digest, scopes = entry["sha256"].lower(), entry["scopes"]
    if not re.fullmatch(r"[0-9a-f]{64}", digest):
        raise invalid_argument(
            f"auth config: sha256 of key {entry['name']!r} is not 64 hex digits; printf %s TOKEN | sha256sum gives them"
        )
    wrong = sorted(set(scopes) - {item.value for item in Scope})
    if wrong:
        raise invalid_argument(f"auth config: scopes of key {entry['name']!r} are predict, read, write; got {wrong}")
    return digest, Client(entry["name"], frozenset(map(Scope, scopes)))


def _unauthenticated(message: str) -> ServingError:
    return ServingError(Code.UNAUTHENTICATED, message)


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
                raise _unauthenticated("a token is needed: Authorization: Bearer TOKEN")
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


# TLS


@dataclass(frozen=True)
class Tls:
    """``--ssl_config_file``: PEM texts; with ``client_verify`` clients need a certificate of ``ca``."""

    key: bytes
    certificate: bytes
    ca: bytes = b""
    client_verify: bool = False

    @classmethod
    def of(cls, config: Any) -> Tls:
        """From a `textproto.SSLConfig`.

        Raises:
            ServingError: INVALID_ARGUMENT, parts that are missing.
        """
        if not config.server_key or not config.server_cert:
            raise invalid_argument("--ssl_config_file needs server_key and server_cert, as PEM texts")
        if config.client_verify and not config.custom_ca:
            raise invalid_argument("--ssl_config_file: client_verify needs custom_ca, as a PEM text")
        key, certificate, ca = (text.encode() for text in (config.server_key, config.server_cert, config.custom_ca))
        return cls(key, certificate, ca, config.client_verify)

    def grpc_credentials(self) -> Any:
        """For the gRPC port."""
        return grpc.ssl_server_credentials([(self.key, self.certificate)], self.ca or None, self.client_verify)

    def context(self) -> ssl.SSLContext:
        """For the HTTP port; TLS 1.2 or newer.

        Raises:
            ServingError: INVALID_ARGUMENT, no such key or certificate.
        """
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.set_alpn_protocols(["http/1.1"])
        try:
            with tempfile.TemporaryDirectory(prefix="mlaas4hep-serving-") as folder:  # mode 0700, gone afterwards
                pem = Path(folder) / "server.pem"
                pem.touch(mode=0o600)
                pem.write_bytes(self.key + b"\n" + self.certificate)
                context.load_cert_chain(os.fspath(pem))
            if self.client_verify:
                context.load_verify_locations(cadata=self.ca.decode())
                context.verify_mode = ssl.CERT_REQUIRED
        except (OSError, ValueError) as error:
            raise invalid_argument(f"--ssl_config_file: {error}") from None
        return context
