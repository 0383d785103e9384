"""Who asks: bearer tokens with scopes, static keys and JWTs, from ``--auth_config_file``."""

from __future__ import annotations

import base64
import hashlib
import math
import re
import tomllib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import jwt

from mlaas4hep_serving.errors import Code, ServingError, invalid_argument, shown
from mlaas4hep_serving.frontends.jwks import FileKeys, UrlKeys

ASYMMETRIC = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
LONGEST_TOKEN = 8192  # characters
_LEEWAY = 30  # seconds between the clocks of this machine and the issuer


class Scope(Enum):
    """What a request does: run a model, look at models, upload some, publish those of the operator."""

    PREDICT = "predict"
    READ = "read"
    WRITE = "write"
    PUBLISH = "publish"


Scopes = frozenset[Scope]
_SCOPE = re.compile(r"(?:model\.)?(predict|read|write|publish)(?::(\S+))?")
_SCOPES = "predict, read, write, publish or, for one model, model.predict:NAME, model.publish:NAME ..."


@dataclass(frozen=True)
class Limits:
    """Requests and bytes a second of one token; 0 is no limit."""

    requests_per_second: float = 0
    bytes_per_second: float = 0

    def __post_init__(self) -> None:
        for value in (self.requests_per_second, self.bytes_per_second):
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
                raise invalid_argument(f"auth config: requests_per_second, bytes_per_second are numbers; got {value!r}")


@dataclass(frozen=True)
class Client:
    """Who asks: the name of a key or the subject of a JWT, ``""`` without a token.

    Attributes:
        scopes: for all models and for what belongs to none.
        models: scopes for one model each.
    """

    name: str
    scopes: Scopes
    models: frozenset[tuple[Scope, str]] = frozenset()
    limits: Limits = Limits()

    def may(self, scope: Scope, models: Collection[str] | None) -> bool:
        """Whether this client has a scope for all of these models.

        Args:
            models: empty for what belongs to no model; None where they are not known yet: then for any model.
        """
        if scope in self.scopes:
            return True
        if models is None:
            return any(of is scope for of, _ in self.models)
        return bool(models) and all((scope, model) in self.models for model in models)


@dataclass(frozen=True)
class JwtOptions:
    """Tokens of an issuer: who, for whom, and the file or the URL of its public keys (a JWKS)."""

    issuer: str
    audience: str
    jwks: Path | str
    limits: Limits = Limits()

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
        self._issuer: FileKeys | UrlKeys | None = None
        if options:
            self._issuer = FileKeys(options.jwks) if isinstance(options.jwks, Path) else UrlKeys(options.jwks)

    @classmethod
    def read(cls, path: Path) -> Tokens:
        """From ``--auth_config_file``, a TOML file.

        ``[[key]]`` with name, sha256 (of the token) and scopes; ``[jwt]`` with issuer, audience and jwks_file
        (relative to the file) or jwks_url; both may have requests_per_second and bytes_per_second, of each token.

        Raises:
            ServingError: INVALID_ARGUMENT, what is wrong with it.
        """
        try:
            config = tomllib.loads(path.read_text())
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise invalid_argument(f"--auth_config_file {path} cannot be read: {error}") from None
        return cls(*_entries(config, path))

    def client(self, token: str) -> Client:
        """The client of a token.

        Raises:
            ServingError: UNAUTHENTICATED.
        """
        if len(token) > LONGEST_TOKEN:
            raise unauthenticated(f"token is longer than {LONGEST_TOKEN} characters")
        found = self._keys.get(hashlib.sha256(token.encode("utf-8", "replace")).hexdigest())
        if found:
            return found
        if self._options is None or self._issuer is None or token.count(".") != 2:
            raise unauthenticated("token is not known")
        return self._jwt_client(token, self._options, self._issuer)

    @staticmethod
    def _jwt_client(token: str, options: JwtOptions, issuer: FileKeys | UrlKeys) -> Client:
        keys = issuer.now()
        try:
            key = keys[jwt.get_unverified_header(token).get("kid", "")]
            algorithms = [key.algorithm_name] if key.algorithm_name in ASYMMETRIC else []
            claims = jwt.decode(
                token, key, algorithms, audience=options.audience, issuer=options.issuer, leeway=_LEEWAY,
                options={"require": ["exp", "iss", "aud"]},
            )  # fmt: skip
        except KeyError:
            issuer.missed()
            raise unauthenticated("JWT names a key (kid) that is not in the JWKS of the issuer") from None
        except Exception as error:  # noqa: BLE001  # a claim may be of any type, and nested as deep as anybody likes
            raise unauthenticated(f"JWT is not accepted: {shown(str(error))}") from None
        scope = claims.get("scope", "")
        words = scope.split() if isinstance(scope, str) else scope if isinstance(scope, list) else []
        scopes, models, _ = _granted(words)
        return Client(str(claims.get("sub", "jwt")), scopes, models, options.limits)


def _entries(config: Mapping[str, Any], path: Path) -> tuple[dict[str, Client], JwtOptions | None]:
    unknown = sorted(set(config) - {"key", "jwt"})
    if unknown or not config:
        raise invalid_argument(f"--auth_config_file {path}: expected [[key]] and [jwt], found {unknown or 'nothing'}")
    try:
        keys, given = dict(map(_key, config.get("key", []))), config.get("jwt")
        if given is None:
            return keys, None
        if ("jwks_url" in given) == ("jwks_file" in given):
            raise invalid_argument(f"--auth_config_file {path}: [jwt] has one of jwks_file and jwks_url")
        jwks = str(given["jwks_url"]) if "jwks_url" in given else path.parent / given["jwks_file"]
        return keys, JwtOptions(given["issuer"], given["audience"], jwks, _limits(given))
    except (KeyError, TypeError, AttributeError) as error:
        raise invalid_argument(f"--auth_config_file {path}: missing or malformed entry: {error}") from None


def _key(entry: Mapping[str, Any]) -> tuple[str, Client]:
    digest, scopes = entry["sha256"].lower(), entry["scopes"]
    if not re.fullmatch(r"[0-9a-f]{64}", digest):
        raise invalid_argument(
            f"auth config: sha256 of key {entry['name']!r} is not 64 hex digits; printf %s TOKEN | sha256sum gives them"
        )
    general, models, wrong = _granted(scopes)
    if wrong:
        raise invalid_argument(f"auth config: scopes of key {entry['name']!r} are {_SCOPES}; got {wrong}")
    return digest, Client(entry["name"], general, models, _limits(entry))


def _limits(entry: Mapping[str, Any]) -> Limits:
    return Limits(entry.get("requests_per_second", 0), entry.get("bytes_per_second", 0))


def _granted(words: Iterable[Any]) -> tuple[Scopes, frozenset[tuple[Scope, str]], list[Any]]:
    """Scopes, scopes for one model each, and words that are neither."""
    general, models, wrong = set[Scope](), set[tuple[Scope, str]](), list[Any]()
    for word in words:
        match = _SCOPE.fullmatch(word) if isinstance(word, str) else None
        if match is None or word.startswith("model.") != bool(match[2]):
            wrong.append(word)
        elif match[2]:
            models.add((Scope(match[1]), match[2]))
        else:
            general.add(Scope(match[1]))
    return frozenset(general), frozenset(models), wrong


def unauthenticated(message: str) -> ServingError:
    """A request whose token is missing or not accepted."""
    return ServingError(Code.UNAUTHENTICATED, message)


def token_of(method: str, authorization: str) -> str | None:
    """The token of a request's ``Authorization``: bearer, or where a page is asked for the password of a browser."""
    kind, _, value = authorization.partition(" ")
    if kind.lower() == "bearer":
        return value.strip()
    if kind.lower() == "basic" and method == "GET":
        try:
            return base64.b64decode(value, validate=True).decode().partition(":")[2]
        except ValueError:  # no base64, no UTF-8
            return ""
    return None
