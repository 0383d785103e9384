"""A client of this server and of TF-Serving: events in, arrays out, over HTTP or gRPC.

    client = Client("http://127.0.0.1:8501")  # or "grpc://127.0.0.1:8500", "https://...", "grpcs://..."
    scores = client.predict([{"Jet_pt": [45.1, 32.0], "met": 17.0}, {"Jet_pt": [61.0], "met": 30.0}], model="tth")

TensorFlow is imported for gRPC only.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

import numpy as np
import urllib3
from numpy.typing import NDArray

from mlaas4hep_serving.errors import Code, ServingError, invalid_argument

if TYPE_CHECKING:
    from types import TracebackType

Array = NDArray[Any]
Answer = Array | dict[str, Array]
_HTTP = ("http", "https")
_GRPC = ("grpc", "grpcs")
_MESSAGE = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
# the code that an HTTP status most likely stands for
_CODES = {code.http: code for code in reversed(Code)} | {400: Code.INVALID_ARGUMENT, 413: Code.RESOURCE_EXHAUSTED}


class Client:
    """Asks one server.  Thread-safe; close it, or use it in a ``with`` block.

    Args:
        url: ``http://host:port``, ``https://``, ``grpc://host:port`` or ``grpcs://``.
        token: sent as ``Authorization: Bearer``.
        timeout: seconds for one request.
        ca: PEM file of the authority that signed the server's certificate; by default those of the system.

    Raises:
        ServingError: INVALID_ARGUMENT, another kind of URL.
    """

    def __init__(self, url: str, *, token: str | None = None, timeout: float = 30.0, ca: str | None = None) -> None:
        parts = urlsplit(url)
        if parts.scheme not in _HTTP + _GRPC or not parts.netloc:
            raise invalid_argument(f"a server is http://, https://, grpc:// or grpcs://HOST:PORT; got {url!r}")
        door = _Http if parts.scheme in _HTTP else _Grpc
        self._door: _Http | _Grpc = door(url, token, timeout, ca)

    def predict(
        self,
        events: Any,
        model: str = "default",
        *,
        version: int | None = None,
        label: str | None = None,
        signature: str = "",
    ) -> Answer:
        """The model's outputs for events, [n, ...] each.

        Args:
            events: a list of dicts, one for each event; or a dict of columns, or one array, whose first dimension is
                the events.  Values are numbers, numpy arrays or (nested) lists, also such as awkward arrays give; lists
                of different lengths are padded with NaN.
            model: name of the model.
            version: of the model; by default the newest.
            label: of a version, such as ``stable``.
            signature: by default ``serving_default``.

        Returns:
            The output, or a dict of outputs if the signature has several.

        Raises:
            ServingError: what the server answers; UNAVAILABLE, no server; INVALID_ARGUMENT, events of different forms.
        """
        outputs = self._door.predict(columns(events), model, version, label, signature)
        return next(iter(outputs.values())) if len(outputs) == 1 else outputs

    def close(self) -> None:
        """Close the connections."""
        self._door.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def columns(events: Any) -> dict[str, Array] | Array:
    """Events as rectangular columns by name, or as one array; ragged lists are padded with NaN.

    Raises:
        ServingError: INVALID_ARGUMENT, events whose keys differ, no events.
    """
    plain = _plain(events)
    if isinstance(plain, Mapping):
        return {str(name): rectangular(column, str(name)) for name, column in plain.items()}
    if isinstance(plain, Sequence) and len(plain) and isinstance(plain[0], Mapping):
        names = list(plain[0])
        for number, event in enumerate(plain):
            if not isinstance(event, Mapping) or set(event) != set(names):
                told = f"{_keys(event)}, not {_keys(plain[0])}"
                raise invalid_argument(f"event {number} has other keys than event 0: {told}")
        return {str(name): rectangular([event[name] for event in plain], str(name)) for name in names}
    return rectangular(plain, "events")


def _keys(event: Any) -> list[str]:
    return sorted(map(str, event)) if isinstance(event, Mapping) else [type(event).__name__]


def _plain(value: Any) -> Any:
    """Lists instead of what can give them (awkward arrays, their records, pandas columns); numpy stays."""
    if isinstance(value, np.ndarray | Mapping | str | bytes):
        return value
    for name in ("to_list", "tolist"):
        if hasattr(value, name):
            return getattr(value, name)()
    return list(value) if isinstance(value, Sequence) else value


def rectangular(column: Any, name: str) -> Array:
    """A column as an array, float32 for fractions; lists of different lengths are filled with NaN.

    Raises:
        ServingError: INVALID_ARGUMENT, lists of different depths.
    """
    plain = _plain(column)
    if isinstance(plain, np.ndarray) and plain.dtype != object:
        return plain
    if isinstance(plain, np.ndarray):
        plain = plain.tolist()
    nested = [_plain(item) for item in plain] if isinstance(plain, Sequence) and not isinstance(plain, str) else plain
    try:
        array = np.array(nested)
    except ValueError:
        array = _padded(nested, name)
    return array.astype(np.float32) if array.dtype == np.float64 else array


def _padded(rows: Sequence[Any], name: str) -> Array:
    shape: list[int] = [len(rows)]
    level: list[Any] = list(rows)
    while all(isinstance(item, Sequence | np.ndarray) and not isinstance(item, str | bytes) for item in level):
        shape.append(max(map(len, level), default=0))
        level = [_plain(inner) for item in level for inner in item]
        if not level:
            break
    array = np.full(shape, math.nan, np.float32)
    try:
        _fill(array, rows)
    except (TypeError, ValueError, IndexError):
        raise invalid_argument(f"{name}: lists of different depths, or something that is no number") from None
    return array


def _fill(array: Array, rows: Sequence[Any]) -> None:
    for place, row in enumerate(rows):
        if array.ndim == 2:
            array[place, : len(row)] = row
        else:
            _fill(array[place], row)


class _Http:
    def __init__(self, url: str, token: str | None, timeout: float, ca: str | None) -> None:
        self._url = url.rstrip("/")
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._pool = urllib3.PoolManager(maxsize=16, timeout=timeout, retries=False, ca_certs=ca)

    def predict(
        self, inputs: dict[str, Array] | Array, model: str, version: int | None, label: str | None, signature: str
    ) -> dict[str, Array]:
        which = f"/versions/{version}" if version is not None else f"/labels/{quote(label, '')}" if label else ""
        body: dict[str, Any] = {"signature_name": signature} if signature else {}
        body["inputs"] = _listed(inputs)
        outputs = self._post(f"/v1/models/{quote(model, '')}{which}:predict", body)["outputs"]
        named = outputs if isinstance(outputs, dict) else {"output": outputs}
        return {name: rectangular(values, name) for name, values in named.items()}

    def _post(self, path: str, body: Any) -> Any:
        try:
            reply = self._pool.request("POST", self._url + path, body=json.dumps(body).encode(), headers=self._headers)
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
        self._pool.clear()


def _listed(inputs: dict[str, Array] | Array) -> Any:
    if isinstance(inputs, dict):
        return {name: _listed(array) for name, array in inputs.items()}
    return inputs.astype(str).tolist() if inputs.dtype.kind == "S" else inputs.tolist()


class _Grpc:
    def __init__(self, url: str, token: str | None, timeout: float, ca: str | None) -> None:
        import grpc  # here: TensorFlow's protos take seconds to import, HTTP does without
        from tensorflow_serving.apis import prediction_service_pb2_grpc

        parts = urlsplit(url)
        self._timeout = timeout
        self._metadata = [("authorization", f"Bearer {token}")] if token else []
        if parts.scheme == "grpcs":
            trusted = open(ca, "rb").read() if ca else None  # noqa: SIM115
            self._channel = grpc.secure_channel(parts.netloc, grpc.ssl_channel_credentials(trusted), _MESSAGE)
        else:
            self._channel = grpc.insecure_channel(parts.netloc, _MESSAGE)
        self._stub = prediction_service_pb2_grpc.PredictionServiceStub(self._channel)
        self._dtypes: dict[tuple[str, str], dict[str, int]] = {}

    def predict(
        self, inputs: dict[str, Array] | Array, model: str, version: int | None, label: str | None, signature: str
    ) -> dict[str, Array]:
        from tensorflow_serving.apis.predict_pb2 import PredictRequest

        request = PredictRequest()
        request.model_spec.name, request.model_spec.signature_name = model, signature
        if version is not None:
            request.model_spec.version.value = version
        elif label:
            request.model_spec.version_label = label
        known = self._known(request.model_spec)
        named = inputs if isinstance(inputs, dict) else {next(iter(known), "input"): inputs}
        import tensorflow as tf

        for name, array in named.items():
            kind = tf.dtypes.as_dtype(known[name]) if name in known else None
            request.inputs[name].CopyFrom(tf.make_tensor_proto(array, kind))
        response = self._call(self._stub.Predict, request)
        return {name: np.asarray(tf.make_ndarray(tensor)) for name, tensor in response.outputs.items()}

    def _known(self, spec: Any) -> dict[str, int]:
        """DataType of each input, asked once for each model: numbers are sent as what the model takes."""
        from tensorflow_serving.apis.get_model_metadata_pb2 import GetModelMetadataRequest, SignatureDefMap

        key = (str(spec), spec.signature_name)
        if key not in self._dtypes:
            request = GetModelMetadataRequest(model_spec=spec, metadata_field=["signature_def"])
            response = self._call(self._stub.GetModelMetadata, request)
            definitions = SignatureDefMap()
            response.metadata["signature_def"].Unpack(definitions)
            found = definitions.signature_def[spec.signature_name or "serving_default"].inputs
            self._dtypes[key] = {name: found[name].dtype for name in sorted(found)}
        return self._dtypes[key]

    def _call(self, method: Any, request: Any) -> Any:
        import grpc

        try:
            return method(request, timeout=self._timeout, metadata=self._metadata)
        except grpc.RpcError as error:
            raise ServingError(Code(error.code().value[0]), error.details() or "") from None

    def close(self) -> None:
        self._channel.close()
