"""Requests to the REST interface."""

from __future__ import annotations

import base64
import json
from typing import Any
from urllib.parse import quote

import urllib3

from mlaas4hep_client.arrays import Array, from_nested
from mlaas4hep_client.errors import Code, ServingError, invalid_argument
from mlaas4hep_client.events import Column

# the code that an HTTP status most likely stands for
_CODES = {code.http: code for code in reversed(Code)} | {400: Code.INVALID_ARGUMENT, 413: Code.RESOURCE_EXHAUSTED}


class Http:
    """One server, over HTTP."""

    def __init__(self, url: str, token: str | None, timeout: float, ca: str | None) -> None:
        self._url = url.rstrip("/")
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._pool = urllib3.PoolManager(maxsize=16, timeout=timeout, retries=False, ca_certs=ca)
        self._dtypes: dict[tuple[str, str], dict[str, str]] = {}  # path and signature -> input -> DataType

    def predict(
        self, inputs: dict[str, Column] | Column, model: str, version: int | None, label: str | None, signature: str
    ) -> dict[str, Array]:
        """Outputs by name."""
        path = _path(model, version, label)
        if isinstance(inputs, dict) and any(column.bools or column.gaps for column in inputs.values()):
            inputs = self._typed(inputs, path, signature)
        body: dict[str, Any] = {"signature_name": signature} if signature else {}
        body["inputs"] = (
            {name: c.nested() for name, c in inputs.items()} if isinstance(inputs, dict) else inputs.nested()
        )
        outputs = self._ask("POST", f"{path}:predict", _written(body))["outputs"]
        named = outputs if isinstance(outputs, dict) else {"output": outputs}
        return {name: from_nested(values) for name, values in named.items()}

    def inputs(self, model: str, version: int | None, label: str | None, signature: str) -> list[str]:
        """Names of what a signature takes."""
        return sorted(self._known(_path(model, version, label), signature))

    def drift(self) -> list[dict[str, Any]]:
        """What the server is asked beside the references of its models, an entry an input (``--count_inputs``)."""
        found: list[dict[str, Any]] = self._ask("GET", "/drift.json")["inputs"]
        return found

    def _typed(self, inputs: dict[str, Column], path: str, signature: str) -> dict[str, Column]:
        """The inputs as numbers where the model takes these and not booleans, and with gaps as it takes them."""
        known = self._known(path, signature)
        return {name: _as_taken(column, known.get(name)) for name, column in inputs.items()}

    def _known(self, path: str, signature: str) -> dict[str, str]:
        """DataType of each input of a signature, asked once."""
        if (path, signature) not in self._dtypes:
            found = self._ask("GET", f"{path}/metadata")["metadata"]["signature_def"]["signature_def"]
            name = signature or "serving_default"
            if name not in found:
                raise ServingError(Code.NOT_FOUND, f"{path} has no signature {name!r}")
            self._dtypes[path, signature] = {key: info["dtype"] for key, info in found[name]["inputs"].items()}
        return self._dtypes[path, signature]

    def _ask(self, method: str, path: str, body: bytes | None = None) -> Any:
        try:
            reply = self._pool.request(method, self._url + path, body=body, headers=self._headers)
        except urllib3.exceptions.HTTPError as error:
            raise ServingError(Code.UNAVAILABLE, f"{self._url} does not answer: {error}") from None
        try:
            answer = json.loads(reply.data)
        except ValueError:
            raise ServingError(Code.UNKNOWN, f"{self._url}{path} answered {reply.status} without JSON") from None
        if reply.status != 200:
            code = _CODES.get(reply.status, Code.UNKNOWN)
            raise ServingError(code, str(answer.get("error", answer)) if isinstance(answer, dict) else str(answer))
        return answer

    def close(self) -> None:
        """Close the connections."""
        self._pool.clear()


def _as_taken(column: Column, dtype: str | None) -> Column:
    if column.bools and dtype != "DT_BOOL":
        column = column.as_numbers()
    return column.as_integers() if column.gaps and dtype == "DT_INT64" else column


def _path(model: str, version: int | None, label: str | None) -> str:
    which = f"/versions/{version}" if version is not None else f"/labels/{quote(label, '')}" if label else ""
    return f"/v1/models/{quote(model, '')}{which}"


def _written(body: Any) -> bytes:
    try:
        return json.dumps(body, default=_base64).encode()
    except TypeError as error:
        raise invalid_argument(f"events are numbers, booleans and strings: {error}") from None


def _base64(value: Any) -> dict[str, str]:
    if not isinstance(value, bytes):
        raise TypeError(f"got a {type(value).__name__}")
    return {"b64": base64.b64encode(value).decode()}
