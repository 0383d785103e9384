"""Who may ask the service for what: bearer tokens with scopes, as `mlaas4hep-serve` has them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from fastapi import HTTPException, Request
from mlaas4hep_serving.errors import ServingError
from mlaas4hep_serving.frontends.tokens import Scope, Tokens, token_of

_LOCAL = {"127.0.0.1", "localhost", "[::1]", "testserver"}


class Access:
    """Lets a request pass, or answers 401 or 403.

    Args:
        tokens: file of the tokens; None: who can reach this machine's own address may do everything.
    """

    def __init__(self, tokens: Path | None) -> None:
        self._tokens = Tokens.read(tokens) if tokens is not None else None

    @property
    def secured(self) -> bool:
        """Whether a token is needed."""
        return self._tokens is not None

    def needs(self, scope: Scope) -> Callable[[Request], None]:
        """A dependency of FastAPI: the request's token has this scope, for the model that its path names."""

        def check(request: Request) -> None:
            if request.method == "POST" and request.headers.get("content-type", "").partition(";")[0] != _JSON:
                raise HTTPException(415, f"a change is asked for as {_JSON}, which no page of others can send")
            self._check(request, scope, request.path_params.get("name"))

        return check

    def _check(self, request: Request, scope: Scope, model: str | None) -> None:
        if self._tokens is None:
            if request.headers.get("host", "").rpartition(":")[0] not in _LOCAL and not _bare(request):
                raise HTTPException(403, "without tokens only this machine may ask, by its own name")
            return
        token = token_of(request.method, request.headers.get("authorization", ""))
        if token is None:
            raise HTTPException(401, "a token is needed: Authorization: Bearer TOKEN", _ASK)
        try:
            client = self._tokens.client(token)
        except ServingError as error:
            raise HTTPException(error.code.http, error.message, _ASK) from error
        if not client.may(scope, [model] if model else None):
            raise HTTPException(
                403, f"token of {client.name!r} has no scope {scope.value}" + (f" of {model}" * bool(model))
            )


_JSON = "application/json"
_ASK = {"WWW-Authenticate": 'Basic realm="models"'}  # browsers ask for a password, which is the token


def _bare(request: Request) -> bool:
    return request.headers.get("host", "") in _LOCAL
