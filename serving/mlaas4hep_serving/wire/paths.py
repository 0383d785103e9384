"""URLs of TF-Serving's REST API, matched in full, query string included (``http_rest_api_util.cc``)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import unquote

from tensorflow_serving.apis.model_pb2 import ModelSpec

from mlaas4hep_serving.errors import invalid_argument

API = re.compile(r"/v1/.*", re.IGNORECASE | re.DOTALL)
_WHICH = r"(?:/versions/(\d+)|/labels/([^/:]+))?"
_PREDICTION = re.compile(rf"/v1/models/([^/:]+){_WHICH}:(classify|regress|predict)", re.IGNORECASE | re.ASCII)
_STATUS = re.compile(rf"/v1/models(?:/([^/:]+))?{_WHICH}(?:/(metadata))?", re.IGNORECASE | re.ASCII)


@dataclass(frozen=True)
class Target:
    """What a URL means; names are decoded after the URL is split, so ``%2F`` is part of a name."""

    name: str
    version: int | None = None
    label: str | None = None
    method: str = ""
    subresource: str = ""

    def spec(self) -> ModelSpec:
        """As a ModelSpec."""
        spec = ModelSpec(name=self.name)
        if self.version is not None:
            spec.version.value = self.version
        if self.label is not None:
            spec.version_label = self.label
        return spec


def parse(method: str, path: str) -> Target | None:
    """The target of ``path`` (as sent, with its query string), or None where TF-Serving knows none.

    Raises:
        ServingError: INVALID_ARGUMENT, a version that is no int64.
    """
    if method == "POST":
        match = _PREDICTION.fullmatch(path)
        verb = match[4] if match else ""
        return _target(match, method=verb) if match and verb == verb.lower() else None
    if method == "GET":
        match = _STATUS.fullmatch(path)
        sub = match[4] or "" if match else ""
        return _target(match, subresource=sub) if match and sub == sub.lower() else None
    return None


def _target(match: re.Match[str], method: str = "", subresource: str = "") -> Target:
    name, version, label = match[1] or "", match[2], match[3]
    if version is not None and int(version) >= 1 << 63:
        raise invalid_argument(f"Failed to convert version: {version} to numeric.")
    return Target(
        _decoded(name),
        None if version is None else int(version),
        None if label is None else _decoded(label),
        method,
        subresource,
    )


def _decoded(name: str) -> str:
    """A name without its escapes; what is not UTF-8 is no model's name, and protobuf could not carry it."""
    return unquote(name, errors="replace")
