"""TFaaS's HTTP endpoints for its clients: /json, /proto, /image, /upload, /bundle, /models, /params, /delete, /status.

The formats are those of https://github.com/vkuznet/TFaaS; which input a value belongs to is decided by the signature
``serving_default``: a single input takes the values in their order, several take them by key, a jagged input ``x`` as
``x_0``, ``x_1`` ...
"""

from __future__ import annotations

import base64
import binascii
import io
import json
import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import unquote

import numpy as np
import PIL.Image
import psutil
import python_multipart
from google.protobuf.message import DecodeError
from python_multipart.exceptions import FormParserError
from tensorflow.core.protobuf.meta_graph_pb2 import SignatureDef
from tensorflow_serving.apis.model_pb2 import ModelSpec

from mlaas4hep_serving.errors import invalid_argument, shown
from mlaas4hep_serving.frontends.http import JSON, Answer, Reply, Request
from mlaas4hep_serving.frontends.rest import DEEPEST
from mlaas4hep_serving.frontends.tokens import Scope
from mlaas4hep_serving.messages import Predictions, Row
from mlaas4hep_serving.prediction import Handlers
from mlaas4hep_serving.tfaas import netron
from mlaas4hep_serving.tfaas.uploads import Upload, Uploads, parse_params
from mlaas4hep_serving.wire import json_requests, json_responses, jsonreader, sizes
from mlaas4hep_serving.wire.ragged import open_inputs
from mlaas4hep_serving.wire.tensors import DEFAULT_SIGNATURE, Array, numpy_dtype

SCORE = "score"  # the output that is meant where others, such as ``selected``, stand beside it

TOP = 5  # labels that /image answers
LARGEST_ROW = 4 << 20  # bytes of the body of /json or /proto
MOST_PIXELS = 25_000_000
_MOST_FIELDS = 16
_LONGEST_LIST = 10_000  # values of a jagged input
_OCTETS = "application/octet-stream"
_PROTOBUF = ("Content-Type", "application/protobuf")
_INDEXED = re.compile(r"(.+)_(\d{1,6})", re.DOTALL | re.ASCII)
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


class Tfaas:
    """The endpoints as a route of `Rest`; who may use them is decided before (`guard`).

    Args:
        permit: asked when it is known which model a body is about; raises.
    """

    def __init__(
        self, handlers: Handlers, uploads: Uploads, permit: Callable[[Request, Scope, str], None] = lambda *_: None
    ) -> None:
        self._handlers, self._uploads, self._permit = handlers, uploads, permit
        self._start = time.monotonic()
        self._counts = {"GET": 0, "POST": 0}

    def __call__(self, request: Request) -> Answer | None:
        """What answers one of TFaaS's requests, else None."""
        path = request.path.partition("?")[0].rstrip("/")
        if request.method in self._counts:
            self._counts[request.method] += 1
        match request.method, path.removeprefix("/predict"):
            case "POST", "/json":
                return lambda: self._json(request)
            case "POST", "/proto":
                return lambda: self._proto(request)
            case "POST", "/image":
                return lambda: self._image(request)
        return self._manage(request, path)

    def _manage(self, request: Request, path: str) -> Answer | None:
        match request.method, path.split("/")[1:]:
            case "GET", ["netron"]:
                return lambda: netron.index(self._handlers.repository.models())
            case "GET", ["netron", name]:
                return lambda: self._graph(unquote(name, errors="replace"))
            case "POST", ["upload" | "bundle"]:
                return lambda: self._upload(request)
            case "GET", ["models"]:
                return lambda: _reply([self._uploads.params(name) for name in self._uploads.names()])
            case "GET", ["params", name]:
                return lambda: _reply(self._uploads.params(name))
            case "POST", ["params"]:
                return lambda: self._set_params(request, parse_params(request.body))
            case "DELETE", ["delete"]:
                return lambda: self._delete(request, _text(_form(request), "model"))
            case "DELETE", ["delete", name]:
                return lambda: self._delete(request, name)
            case "GET", ["status"]:
                return lambda: _reply(self._status())
        return None

    def _set_params(self, request: Request, params: dict[str, Any]) -> Reply:
        self._permit(request, Scope.WRITE, str(params.get("name", "")))
        self._uploads.set_params(str(params.get("name", "")), params)
        return _reply(params)

    def _json(self, request: Request) -> Reply:
        _check_row(request)
        document = jsonreader.parse(request.body, DEEPEST)
        keys, values = document.get("keys", []), document.get("values")
        if values is None or not _all(keys, str) or not _all(values, (int, float)):
            raise invalid_argument('a row is {"keys": [names], "values": [numbers], "model": name}')
        name = _name(document.get("model", document.get("name", "")))
        scores, version = self._scores(request, name, keys, values)
        body = "[" + ",".join(map(json_responses.write_float, scores.tolist())) + "]\n"
        return Reply(200, body.encode(), (JSON, ("X-Model-Version", str(version))))

    def _proto(self, request: Request) -> Reply:
        _check_row(request)
        try:
            row = Row.FromString(request.body)
        except DecodeError as error:
            raise invalid_argument(f"the body is no tfaaspb.Row: {error}") from None
        scores, _ = self._scores(request, row.model, list(row.key), list(row.value))
        answer = Predictions()
        labels = self._labels(row.model, len(scores))
        for label, score in zip(labels, scores.tolist(), strict=True):
            answer.prediction.add(label=label, probability=score)
        return Reply(200, answer.SerializeToString(), (_PROTOBUF,))

    def _image(self, request: Request) -> Reply:
        form = _form(request)
        name, image = _text(form, "model"), form.get("image")
        if image is None:
            raise invalid_argument("the form lacks image, a PNG or JPEG file")
        most = self._handlers.max_tensor_bytes
        scores, _ = self._run(request, name, lambda signature: _pixels(signature, image[1], most))
        named = zip(self._labels(name, len(scores)), scores.tolist(), strict=True)
        best = sorted(named, key=lambda pair: -pair[1] if pair[1] == pair[1] else math.inf)[:TOP]
        found = [{"label": label, "probability": score} for label, score in best]
        return _reply({"filename": image[0], "labels": found})

    def _scores(self, request: Request, name: str, keys: list[str], values: list[float]) -> tuple[Array, int]:
        return self._run(request, name, lambda signature: row_inputs(signature, keys, values))

    def _run(self, request: Request, name: str, inputs_of: Any) -> tuple[Array, int]:
        """The values of the one output for one row, [n], and the version that answered."""
        deadline, spec = request.deadline, ModelSpec(name=name or self._only_model())
        self._permit(request, Scope.PREDICT, spec.name)
        with self._handlers.measured(spec.name, "predict", "REST"):
            with self._handlers.repository.use(spec) as version:
                signature = version.servable.signatures.get(DEFAULT_SIGNATURE)
                if signature is None:
                    raise invalid_argument(f"model {spec.name} has no signature {DEFAULT_SIGNATURE}")
                started = self._handlers.start_predict_arrays(version, "", inputs_of(signature), deadline)
            outputs, number = started.result(deadline)
            chosen = self._output(spec.name, outputs)
            if chosen.dtype.kind not in "fiu" or not chosen.ndim or len(chosen) != 1:
                raise invalid_argument(f"model {spec.name} does not answer one row of numbers for one row")
            return chosen[0].astype(np.float32).reshape(-1), number

    def _output(self, name: str, outputs: Mapping[str, Array]) -> Array:
        if len(outputs) == 1:
            return next(iter(outputs.values()))
        wanted = self._uploads.params(name).get("output_name") if name in self._uploads.names() else None
        if wanted is None and SCORE in outputs:
            return outputs[SCORE]
        if not isinstance(wanted, str) or wanted not in outputs:
            raise invalid_argument(f"model {name} has the outputs {sorted(outputs)}: set output_name in its params")
        return outputs[wanted]

    def _only_model(self) -> str:
        names = self._handlers.repository.models()
        if len(names) != 1:
            raise invalid_argument('name a model: "model" in the row')
        return names[0]

    def _labels(self, name: str, count: int) -> list[str]:
        labels = self._uploads.labels(name) if name in self._uploads.names() else []
        return [*labels[:count], *map(str, range(len(labels), count))]

    def _upload(self, request: Request) -> Reply:
        name, version = self._uploads.add(read_upload(request), lambda name: self._permit(request, Scope.WRITE, name))
        return _reply({"name": name, "version": version})

    def _delete(self, request: Request, name: str) -> Reply:
        self._permit(request, Scope.WRITE, name)
        self._uploads.delete(name)
        return _reply({"deleted": name})

    def _graph(self, name: str) -> Reply:
        with self._handlers.repository.use(ModelSpec(name=name)) as version:
            return netron.page(name, version.folder)

    def _status(self) -> dict[str, Any]:
        """What TFaaS tells of itself, under its names."""
        memory, swap, load = psutil.virtual_memory(), psutil.swap_memory(), psutil.getloadavg()
        return {
            "Uptime": time.monotonic() - self._start,
            "getRequests": self._counts["GET"],
            "postRequests": self._counts["POST"],
            "CPU": psutil.cpu_percent(percpu=True),
            "Load": dict(zip(("load1", "load5", "load15"), load, strict=True)),
            "Memory": {
                "Virtual": {k: getattr(memory, k.split("_")[0]) for k in ("total", "free", "used")},
                "Swap": {k: getattr(swap, k) for k in ("total", "free", "used")},
            },
            "models": len(self._handlers.repository.models()),
        }


def _check_row(request: Request) -> None:
    """Refuse a row that takes long to read: Python's lock is held meanwhile."""
    if len(request.body) > LARGEST_ROW:
        raise invalid_argument(f"a row of {len(request.body)} bytes is larger than {LARGEST_ROW} bytes; use :predict")


def _reply(value: Any) -> Reply:
    return Reply(200, json.dumps(value).encode() + b"\n", (JSON,))


def _all(values: Any, kind: Any) -> bool:
    return isinstance(values, list) and all(isinstance(v, kind) and not isinstance(v, bool) for v in values)


def _name(value: Any) -> str:
    if not isinstance(value, str):
        raise invalid_argument('"model" is not a string')
    return json_requests.utf8(value, "model")


def row_inputs(signature: SignatureDef, keys: Sequence[str], values: Sequence[float]) -> dict[str, Array]:
    """The inputs of one row, each [1] or [1, n].

    Raises:
        ServingError: INVALID_ARGUMENT, keys that are no inputs, or inputs without a value.
    """
    if keys and len(keys) != len(values):
        raise invalid_argument(f"{len(keys)} keys and {len(values)} values")
    if len(signature.inputs) == 1:
        ((alias, info),) = signature.inputs.items()
        wanted = info.tensor_shape.dim[1].size if len(info.tensor_shape.dim) == 2 else -1
        if wanted not in (-1, len(values)):
            raise invalid_argument(f"input {alias} takes {wanted} values, the row has {len(values)}")
        return {alias: _array(alias, [values], info.dtype)}
    jagged = {alias for alias, shape in open_inputs(signature).items() if len(shape) == 1}
    given: dict[str, Any] = {alias: {} for alias in jagged}
    for key, value in zip(keys, values, strict=bool(keys)):
        if key in signature.inputs and key not in jagged:
            given[key] = value
            continue
        match = _INDEXED.fullmatch(key)
        if not match or match[1] not in jagged or int(match[2]) >= _LONGEST_LIST:
            raise invalid_argument(f"key {key[:100]!r} is no input; jagged inputs are NAME_0, NAME_1 ...")
        given[match[1]][int(match[2])] = value
    missing = sorted(set(signature.inputs) - set(given))
    if missing:
        raise invalid_argument(f"no value for {', '.join(missing[:10])}")
    rows = {alias: _listed(value) if alias in jagged else value for alias, value in given.items()}
    return {alias: _array(alias, [row], signature.inputs[alias].dtype) for alias, row in rows.items()}


def _listed(values: Mapping[int, float]) -> list[float]:
    return [values.get(i, math.nan) for i in range(max(values, default=-1) + 1)]


def _array(alias: str, rows: Any, enum: int) -> Array:
    kind = np.dtype(numpy_dtype(enum))
    if kind.kind not in "fiu":
        raise invalid_argument(f"input {alias} does not take numbers")
    try:
        with np.errstate(over="ignore", invalid="raise"):
            return np.array(rows, np.float64).astype(kind)
    except (FloatingPointError, OverflowError):
        raise invalid_argument(f"input {alias} takes {kind.name}; a value is none") from None


def _pixels(signature: SignatureDef, data: bytes, most: int) -> dict[str, Array]:
    """An image as float [1, height, width, channels], 0 to 255, in the size that the signature has."""
    if len(signature.inputs) != 1:
        raise invalid_argument("a model of images has one input")
    ((alias, info),) = signature.inputs.items()
    dims = [dim.size for dim in info.tensor_shape.dim]
    if len(dims) != 4 or dims[3] not in _MODES:
        raise invalid_argument(f"input {alias} is not [batch, height, width, 1, 3 or 4 channels]")
    converted = _decoded(data, _MODES[dims[3]])
    height, width = (size if size > 0 else own for size, own in zip(dims[1:3], converted.size[::-1], strict=True))
    if height * width > MOST_PIXELS:
        raise invalid_argument(f"input {alias} is larger than {MOST_PIXELS} pixels")
    sizes.check(sizes.of(info.dtype, [1, height, width, dims[3]]), most)
    resized = converted.resize((width, height), PIL.Image.Resampling.BILINEAR)
    return {alias: np.asarray(resized, numpy_dtype(info.dtype)).reshape(1, height, width, dims[3])}


def _decoded(data: bytes, mode: str) -> PIL.Image.Image:
    try:
        with PIL.Image.open(io.BytesIO(data), formats=["PNG", "JPEG"]) as image:
            if image.width * image.height <= MOST_PIXELS:
                return image.convert(mode)
    except Exception as error:  # noqa: BLE001  # the readers raise whatever a damaged file leads them to
        raise invalid_argument(f"the image is no PNG or JPEG, or is damaged: {shown(str(error))}") from None
    raise invalid_argument(f"the image has more than {MOST_PIXELS} pixels")


# forms

Part = tuple[str, bytes]  # file name, content


def _form(request: Request) -> dict[str, Part]:
    """The fields and files of a form, multipart or urlencoded.

    Raises:
        ServingError: INVALID_ARGUMENT.
    """
    parts: dict[str, Part] = {}

    def keep(name: Any, file: Any, content: bytes) -> None:
        if len(parts) >= _MOST_FIELDS:
            raise invalid_argument(f"the form has more than {_MOST_FIELDS} fields")
        parts[(name or b"").decode("utf-8", "replace")] = ((file or b"").decode("utf-8", "replace"), content)

    encoded = request.headers.get("content-encoding", "").lower() == "base64"  # as TFaaS's client in Python sends it

    def on_file(part: Any) -> None:
        part.file_object.seek(0)
        content = part.file_object.read()
        kind = getattr(part, "content_type", None) or (_OCTETS if part.field_name == b"model" else "")
        keep(part.field_name, part.file_name, _unbased(content) if encoded and kind == _OCTETS else content)

    headers = {name.title(): value.encode("latin-1") for name, value in request.headers.items()}
    if not headers.get("Content-Type", b"").lower().startswith((b"multipart/form-data", b"application/x-www-form-url")):
        raise invalid_argument("expected a form (multipart/form-data), as curl -F sends it")
    try:
        parser = python_multipart.create_form_parser(
            headers,
            lambda part: keep(part.field_name, None, part.value or b""),
            on_file,
            config={"MAX_MEMORY_FILE_SIZE": 1 << 62},
        )
        parser.write(request.body)
        parser.finalize()
    except (FormParserError, ValueError) as error:
        raise invalid_argument(f"the form cannot be read: {error}") from None
    return parts


def _unbased(content: bytes) -> bytes:
    try:
        return base64.b64decode(content)
    except binascii.Error as error:
        raise invalid_argument(f"a part of the form is not base64: {error}") from None


def _text(form: Mapping[str, Part], name: str) -> str:
    if name not in form:
        raise invalid_argument(f"the form lacks {name}")
    return form[name][1].decode("utf-8", "replace")


def read_upload(request: Request) -> Upload:
    """An upload: a form with name, params, model and labels, or a tar or tar.gz as the body.

    Raises:
        ServingError: INVALID_ARGUMENT.
    """
    if not request.headers.get("content-type", "").lower().startswith("multipart/"):
        return Upload("", request.body)
    form = _form(request)
    if "model" not in form:
        raise invalid_argument("the form lacks model, a tar.gz of a SavedModel folder or a saved_model.pb")
    model = form["model"][1]
    params = parse_params(form["params"][1]) if "params" in form else None
    return Upload(_text(form, "name"), model, params, form["labels"][1] if "labels" in form else None)
