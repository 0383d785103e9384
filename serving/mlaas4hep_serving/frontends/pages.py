"""Pages beside TF-Serving's API: health for orchestrators, the list of models, an index page for people."""

from __future__ import annotations

import json
import math
import secrets
from collections.abc import Callable, Mapping
from typing import Any

import jinja2
from tensorflow.core.framework import types_pb2
from tensorflow.core.protobuf.meta_graph_pb2 import SignatureDef, TensorInfo
from tensorflow_serving.apis.model_pb2 import ModelSpec

from mlaas4hep_serving.errors import ServingError
from mlaas4hep_serving.frontends.http import JSON, Answer, Reply, Request
from mlaas4hep_serving.models.repository import Repository, not_ready
from mlaas4hep_serving.models.versions import State
from mlaas4hep_serving.wire.examples import REGRESS
from mlaas4hep_serving.wire.tensors import DEFAULT_SIGNATURE, dtype_name

HEALTH, READY, LIST, INDEX = "/healthz", "/readyz", "/v1/models", "/"
_TEXT = ("Content-Type", "text/plain; charset=utf-8")
NO_STORE = ("Cache-Control", "no-store")
_LARGEST_EXAMPLE = 1 << 16  # characters of an event that the form is filled with
_LARGEST_SAMPLE = 4096  # values of one row that the form is filled with
ENVIRONMENT = jinja2.Environment(
    loader=jinja2.PackageLoader("mlaas4hep_serving.frontends"), autoescape=True, undefined=jinja2.StrictUndefined
)


class Pages:
    """The pages as a route of `Rest`.

    Args:
        list_models: answer ``GET /v1/models``, which TF-Serving refuses.
        secured: requests need a token, so the form asks for one.
        counting: there is a page of drift to point to.
        registry: there are pages of a registry to point to.
        draining: True from the moment the server takes no new work.
    """

    def __init__(
        self, repository: Repository, *, list_models: bool, secured: bool, counting: bool, draining: Callable[[], bool],
        registry: bool = False,
    ) -> None:  # fmt: skip
        self._repository, self._list_models, self._secured = repository, list_models, secured
        self._counting, self._registry = counting, registry
        self._draining = draining

    def __call__(self, request: Request) -> Reply | Answer | None:
        """The reply to a request for one of the pages, or what makes it, else None."""
        if request.method != "GET":
            return None
        match request.path.partition("?")[0]:
            case "/healthz":
                return Reply(200, b"ok\n", (_TEXT, NO_STORE))
            case "/readyz":
                return self._ready()
            case "/v1/models" if self._list_models:
                return self._list
            case "/":
                return self._index
        return None

    def _list(self) -> Reply:
        return Reply(200, json.dumps(list_of_models(self._repository), indent=1).encode(), (JSON, NO_STORE))

    def _ready(self) -> Reply:
        if self._draining():
            return Reply(503, b"shutting down\n", (_TEXT, NO_STORE))
        error = not_ready(self._repository)
        if error:
            return Reply(503, f"{error.message}\n".encode(), (_TEXT, NO_STORE))
        return Reply(200, b"ok\n", (_TEXT, NO_STORE))

    def _index(self) -> Reply:
        nonce = secrets.token_urlsafe(16)
        models = [_described(self._repository, name) for name in self._repository.models()]
        page = ENVIRONMENT.get_template("index.html.jinja").render(
            models=models, nonce=nonce, secured=self._secured, counting=self._counting, registry=self._registry
        )
        return Reply(200, page.encode("utf-8", "replace"), page_headers(nonce))


def page_headers(nonce: str) -> tuple[tuple[str, str], ...]:
    """Headers of a page that runs and shows nothing but what carries the nonce."""
    policy = (
        f"default-src 'none'; style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return (
        ("Content-Type", "text/html; charset=utf-8"),
        ("Content-Security-Policy", policy),
        ("X-Content-Type-Options", "nosniff"),
        ("Referrer-Policy", "no-referrer"),
        NO_STORE,
    )


def list_of_models(repository: Repository) -> dict[str, Any]:
    """``{"models": [{"name", "versions": [{"version", "state"}], "labels"}]}``, for ``GET /v1/models``."""
    return {
        "models": [
            {"name": name, "versions": _versions(repository, name), "labels": repository.labels(name)}
            for name in repository.models()
        ]
    }


def _versions(repository: Repository, name: str) -> list[dict[str, str]]:
    try:
        found = repository.status(name)
    except ServingError:  # configured, nothing on disk yet
        return []
    return [
        {"version": str(number), "state": State(state).name} | ({"error": error.message} if error else {})
        for number, state, error in found
    ]


def _described(repository: Repository, name: str) -> dict[str, Any]:
    """What the index page shows of a model: the newest available version with its signatures and card."""
    shown: dict[str, Any] = {"name": name, "versions": _versions(repository, name), "labels": repository.labels(name)}
    try:
        with repository.use(ModelSpec(name=name)) as version:
            model = version.servable
            return shown | {
                "number": version.number,
                "signatures": [
                    signature_row(key, value, model.card.get("example"), model.card.get("ragged_example"))
                    for key, value in _ordered(model.signatures)
                ],
                "card": model.card,
            }
    except ServingError as error:
        return shown | {"number": None, "signatures": [], "card": {}, "error": error.message}


def _ordered(signatures: Mapping[str, SignatureDef]) -> list[tuple[str, SignatureDef]]:
    shown = [(key, value) for key, value in signatures.items() if not key.startswith("__")]
    return sorted(shown, key=lambda item: (item[0] != DEFAULT_SIGNATURE, item[0]))


def signature_row(name: str, signature: SignatureDef, example: Any = None, ragged: Any = None) -> dict[str, Any]:
    """A signature as the page shows it, with a body for its form: the model card's example where that fits.

    Args:
        example: an event by input.
        ragged: the same event with row splits, in columns.
    """
    return {
        "name": name,
        "method": signature.method_name.rsplit("/", 1)[-1],
        "inputs": [_tensor(alias, signature.inputs[alias]) for alias in sorted(signature.inputs)],
        "outputs": [_tensor(alias, signature.outputs[alias]) for alias in sorted(signature.outputs)],
        "url": "classify" if "classify" in signature.method_name else _url(signature),
        "sample": _sample(name, signature, example, ragged),
    }


def _url(signature: SignatureDef) -> str:
    return "regress" if signature.method_name == REGRESS else "predict"


def _tensor(alias: str, info: TensorInfo) -> dict[str, str]:
    sizes = ["any" if dim.size < 0 else str(dim.size) for dim in info.tensor_shape.dim]
    shape = "any shape" if info.tensor_shape.unknown_rank else "[" + ", ".join(sizes) + "]"
    return {"alias": alias, "dtype": dtype_name(info.dtype), "shape": shape}


def _sample(name: str, signature: SignatureDef, example: Any, ragged: Any) -> str:
    """A request body of one row: the example, or every number 0; with ``examples`` for classify and regress."""
    head: dict[str, Any] = {} if name == DEFAULT_SIGNATURE else {"signature_name": name}
    if signature.method_name.endswith(("classify", "regress")):
        return json.dumps(head | {"examples": [{"x": 0.0}]}, indent=1)
    start = "".join(f'"{key}": {json.dumps(value)}, ' for key, value in head.items())
    if columns := _row(signature, ragged):
        return f'{{{start}"inputs": {{\n  {_lines(columns)}\n}}}}'
    row = _row(signature, example) or {alias: _value(signature.inputs[alias]) for alias in sorted(signature.inputs)}
    if not row:
        return json.dumps(head | {"inputs": {}}, indent=1)
    return f'{{{start}"instances": [{{\n  {_lines(row)}\n}}]}}'


def _lines(row: Mapping[str, Any]) -> str:
    return ",\n  ".join(f"{json.dumps(alias)}: {json.dumps(value)}" for alias, value in row.items())


def _row(signature: SignatureDef, example: Any) -> dict[str, Any]:
    """An event that a model card brings, if it has what the signature takes and is not too large; NaN for null."""
    if not isinstance(example, dict) or set(example) != set(signature.inputs):
        return {}
    row = {alias: _filled(example[alias]) for alias in sorted(example)}
    return row if len(json.dumps(row)) <= _LARGEST_EXAMPLE else {}


def _filled(value: Any) -> Any:
    if isinstance(value, list):
        return [_filled(item) for item in value]
    return math.nan if value is None else value


def _value(info: TensorInfo) -> Any:
    value: Any = 0.0
    if info.dtype == types_pb2.DT_STRING:
        value = ""
    elif info.dtype == types_pb2.DT_BOOL:
        value = False
    elif "INT" in types_pb2.DataType.Name(info.dtype):
        value = 0
    size = 1
    for dim in reversed(info.tensor_shape.dim[1:]):
        size *= max(dim.size, 1)
        value = [value] * (dim.size if dim.size >= 0 and size <= _LARGEST_SAMPLE else 2)
    return value
