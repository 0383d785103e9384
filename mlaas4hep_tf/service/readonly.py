"""The pages of a registry beside a server of models, which loads this by name: they are read, and change nothing."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from urllib.parse import parse_qs, unquote

from mlaas4hep_serving.frontends.http import Answer, Reply, Request

from mlaas4hep_tf.errors import RegistryError
from mlaas4hep_tf.registry.registry import Registry
from mlaas4hep_tf.service.views import Frame, Page, Views

ROOT = "/registry"
_PATH = re.compile(rf"{ROOT}(?:/?|/models/([^/]+)(?:/([^/]+)(?:/([^/]+))?)?)")
_PICTURE = (("Content-Type", "image/png"), ("X-Content-Type-Options", "nosniff"))
_PLAIN = (("Content-Type", "text/plain; charset=utf-8"),)


class Pages:
    """The pages as a route of a server.

    Args:
        where: the registry, as for `Registry`.
        secured: requests need a token, so the form asks for one.

    Raises:
        MissingExtra: MLflow is not installed.
    """

    def __init__(self, where: str, *, secured: bool) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="mlaas4hep-registry-")
        self._views, self._secured = Views(Registry(where), Path(self._folder.name)), secured

    def __call__(self, request: Request) -> Answer | None:
        """What makes the reply to a request for one of the pages, else None."""
        path, _, query = request.path.partition("?")
        found = _PATH.fullmatch(path) if request.method == "GET" else None
        if found is None:
            return None
        parts = [unquote(part) for part in found.groups() if part is not None]
        asked = {name: values[0] for name, values in parse_qs(query).items()}
        frame = Frame(
            ROOT, [("/", "Server"), (f"{ROOT}/", "Models")], changes=False, secured=self._secured,
            server=f"http://{request.headers.get('host', 'localhost')}",
            tried="/v1/models/{name}/versions/{version}:predict",
        )  # fmt: skip
        return lambda: self._reply(frame, parts, asked)

    def _reply(self, frame: Frame, parts: list[str], asked: dict[str, str]) -> Reply:
        try:
            match parts:
                case [name, version, picture]:
                    return Reply(200, self._views.picture(name, version, picture).read_bytes(), _PICTURE)
                case [name, version]:
                    return _sent(self._views.version(frame, name, version))
                case [name]:
                    return _sent(self._views.model(frame, name, None))
            return _sent(self._views.models(frame, asked.get("q", ""), asked.get("by", "test.auc")))
        except RegistryError as error:
            return Reply(404, f"{error}\n".encode(), _PLAIN)


def _sent(made: Page) -> Reply:
    text, headers = made
    return Reply(200, text.encode("utf-8", "replace"), (("Content-Type", "text/html; charset=utf-8"), *headers.items()))
