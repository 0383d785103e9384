"""A client of mlaas4hep-serve and of TF-Serving: events in, arrays out, over HTTP or gRPC.

client = Client("http://127.0.0.1:8501", "tth")  # or "grpc://127.0.0.1:8500", "https://...", "grpcs://..."
scores = client.predict([{"Jet_pt": [45.1, 32.0], "met": 17.0}, {"Jet_pt": [61.0], "met": 30.0}])
"""

from __future__ import annotations

import os
from collections.abc import Collection
from typing import TYPE_CHECKING, Any, Literal, Protocol
from urllib.parse import SplitResult, urlsplit

from mlaas4hep_client.arrays import Array
from mlaas4hep_client.errors import Code, ServingError, invalid_argument
from mlaas4hep_client.events import Column, columns

if TYPE_CHECKING:
    from types import TracebackType

Answer = Array | dict[str, Array]
SCORE = "score"  # the output of a model of one output that another may stand beside
_SCHEMES = ("http", "https", "grpc", "grpcs")


class _Transport(Protocol):
    """A way to a server."""

    def predict(
        self, inputs: dict[str, Column] | Column, model: str, version: int | None, label: str | None, signature: str
    ) -> dict[str, Array]: ...

    def inputs(self, model: str, version: int | None, label: str | None, signature: str) -> list[str]: ...

    def close(self) -> None: ...


class Client:
    """Asks one server.  Thread-safe; close it, or use it in a ``with`` block.

    Args:
        url: ``http://host:port``, ``https://``, ``grpc://host:port`` or ``grpcs://``.
        model: name of the model that `predict` asks where it is given no other.
        token: sent as ``Authorization: Bearer``.
        timeout: seconds for one request.
        ca: PEM file of the authority that signed the server's certificate; by default those of the system.

    Raises:
        ServingError: INVALID_ARGUMENT, another kind of URL, a token that cannot be sent, no such `ca`.
    """

    def __init__(
        self,
        url: str,
        model: str = "default",
        *,
        token: str | None = None,
        timeout: float = 30.0,
        ca: str | None = None,
    ) -> None:
        self._url, self._model = url, model
        self._transport = _transport(url, token, timeout, ca)

    def __repr__(self) -> str:
        return f"<Client of {self._url}, model {self._model!r}>"

    def predict(
        self,
        events: Any,
        model: str | None = None,
        *,
        version: int | None = None,
        label: str | None = None,
        signature: str = "",
        outputs: Literal["score", "all"] = "score",
    ) -> Answer:
        """The model's answer for events, [n, ...].

        Args:
            events: a list of dicts, one for each event; or a dict of columns, or one array, whose first dimension is
                the events.  Values are numbers, numpy arrays or (nested) lists, also such as awkward arrays give; lists
                of different lengths are padded with NaN, of integers where the model takes int64 with -2^63.
            model: name of the model; by default that of the client.
            version: of the model; by default the newest.
            label: of a version, such as ``stable``.
            signature: by default ``serving_default``.
            outputs: ``score``: the score alone where there are others beside it, such as ``selected``; ``all``: each
                by its name.

        Returns:
            The output, or a dict of outputs if the signature has several and none is the score: numpy arrays, or nested
            lists where numpy is not installed.

        Raises:
            ServingError: what the server answers; UNAVAILABLE, no server; INVALID_ARGUMENT, events of different forms,
                values that the model's dtype cannot hold, inputs that the model lacks: all of them.
        """
        given, which = columns(events), (model or self._model, version, label, signature)
        try:
            found = self._transport.predict(given, *which)
        except ServingError as error:
            known = self._known_inputs(*which) if error.code is Code.INVALID_ARGUMENT else []
            if known and isinstance(given, dict) and (names := _other_names(given, known, which[0])):
                raise names from None  # which says all that the server said of one
            raise
        if outputs == "all":
            return found
        return next(iter(found.values())) if len(found) == 1 else found.get(SCORE, found)

    def inputs(
        self, model: str | None = None, *, version: int | None = None, label: str | None = None, signature: str = ""
    ) -> list[str]:
        """Names of what a model takes, sorted; arguments and errors as of `predict`."""
        return self._transport.inputs(model or self._model, version, label, signature)

    def _known_inputs(self, model: str, version: int | None, label: str | None, signature: str) -> list[str]:
        try:
            return self._transport.inputs(model, version, label, signature)
        except ServingError:  # then what the server said first is all there is to say
            return []

    def close(self) -> None:
        """Close the connections."""
        self._transport.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _other_names(given: Collection[str], wanted: Collection[str], model: str) -> ServingError | None:
    """The error that names every input that is missing, and all that the model does not know, if there are any."""
    missing, unknown = sorted(set(wanted) - set(given)), sorted(set(given) - set(wanted))
    told = [f"lack {', '.join(missing)}"] if missing else []
    told += [f"have {', '.join(unknown)}, which it does not take"] if unknown else []
    if not told:
        return None
    return invalid_argument(f"model {model!r} takes {len(wanted)} inputs, and the events {' and '.join(told)}")


def _split(url: str) -> SplitResult:
    try:
        return urlsplit(url)
    except ValueError as error:
        raise invalid_argument(f"{url!r} is no URL: {error}") from None


def _transport(url: str, token: str | None, timeout: float, ca: str | None) -> _Transport:
    """HTTP or gRPC; only the library of the one in use is imported."""
    parts = _split(url)
    if parts.scheme not in _SCHEMES or not parts.netloc:
        raise invalid_argument(f"a server is http://, https://, grpc:// or grpcs://HOST:PORT; got {url!r}")
    if token is not None and not (token.isascii() and token.isprintable()):
        raise invalid_argument("a token is printable ASCII; got one with other characters, such as the end of a line")
    if ca is not None and not os.access(ca, os.R_OK):
        raise invalid_argument(f"the authority's file cannot be read: {ca}")
    if parts.scheme.startswith("http"):
        from mlaas4hep_client.over_http import Http

        return Http(url, token, timeout, ca)
    from mlaas4hep_client.over_grpc import Grpc

    return Grpc(url, token, timeout, ca)
