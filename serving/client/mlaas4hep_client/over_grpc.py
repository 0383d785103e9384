"""Requests to the gRPC interface."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import grpc

from mlaas4hep_client import messages, tensors
from mlaas4hep_client.arrays import Array
from mlaas4hep_client.errors import Code, ServingError, invalid_argument
from mlaas4hep_client.events import Column

_SERVICE = "/tensorflow.serving.PredictionService"
_OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


class Grpc:
    """One server, over gRPC."""

    def __init__(self, url: str, token: str | None, timeout: float, ca: str | None) -> None:
        self._timeout = timeout
        self._metadata = [("authorization", f"Bearer {token}")] if token else []
        self._channel = _channel(url, ca)
        self._predict = self._method("Predict", messages.PredictRequest, messages.PredictResponse)
        self._get_metadata = self._method(
            "GetModelMetadata", messages.GetModelMetadataRequest, messages.GetModelMetadataResponse
        )
        self._dtypes: dict[str, dict[str, int]] = {}

    def _method(self, name: str, request: Any, response: Any) -> Any:
        return self._channel.unary_unary(
            f"{_SERVICE}/{name}",
            request_serializer=request.SerializeToString,
            response_deserializer=response.FromString,
        )

    def predict(
        self, inputs: dict[str, Column] | Column, model: str, version: int | None, label: str | None, signature: str
    ) -> dict[str, Array]:
        """Outputs by name."""
        request = messages.PredictRequest()
        _name(request.model_spec, model, version, label, signature)
        known = self._known(request.model_spec)
        named = inputs if isinstance(inputs, dict) else {next(iter(known), "input"): inputs}
        for name, column in named.items():
            tensors.fill(request.inputs[name], column, name, known.get(name))
        response = self._call(self._predict, request)
        return {name: tensors.read(tensor, name) for name, tensor in response.outputs.items()}

    def inputs(self, model: str, version: int | None, label: str | None, signature: str) -> list[str]:
        """Names of what a signature takes."""
        spec = messages.PredictRequest().model_spec
        _name(spec, model, version, label, signature)
        known = self._known(spec)
        if not known:
            raise ServingError(Code.NOT_FOUND, f"model {model!r} has no signature {signature or 'serving_default'!r}")
        return sorted(known)

    def _known(self, spec: Any) -> dict[str, int]:
        """DataType of each input, asked once for each model: numbers are sent as what the model takes."""
        key = str(spec)
        if key not in self._dtypes:
            request = messages.GetModelMetadataRequest(model_spec=spec, metadata_field=["signature_def"])
            response = self._call(self._get_metadata, request)
            definitions = messages.SignatureDefMap.FromString(response.metadata["signature_def"].value)
            found = definitions.signature_def[spec.signature_name or "serving_default"].inputs
            self._dtypes[key] = {name: found[name].dtype for name in sorted(found)}
        return self._dtypes[key]

    def _call(self, method: Any, request: Any) -> Any:
        try:
            return method(request, timeout=self._timeout, metadata=self._metadata)
        except grpc.RpcError as error:
            raise ServingError(Code(error.code().value[0]), error.details() or "") from None

    def close(self) -> None:
        """Close the channel."""
        self._channel.close()


def _name(spec: Any, model: str, version: int | None, label: str | None, signature: str) -> None:
    spec.name, spec.signature_name = model, signature
    if version is not None:
        spec.version.value = version
    elif label:
        spec.version_label = label


def _channel(url: str, ca: str | None) -> Any:
    parts = urlsplit(url)
    if parts.scheme == "grpc":
        return grpc.insecure_channel(parts.netloc, _OPTIONS)
    try:
        authority = Path(ca).read_bytes() if ca else None
    except OSError as error:
        raise invalid_argument(f"the authority's file cannot be read: {error}") from None
    return grpc.secure_channel(parts.netloc, grpc.ssl_channel_credentials(authority), _OPTIONS)
