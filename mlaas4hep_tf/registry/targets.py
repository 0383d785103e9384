"""Where models are served: a folder that a server looks at, or a server that takes what is published.

The folder is ``<base>/<name>/<version>/`` with ``traffic.json``, as `mlaas4hep-serve --publish_base_path` reads it;
``models.config`` beside the models says the same to TensorFlow Serving, as pinned versions and labels.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import shutil
import tarfile
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import urllib3

from mlaas4hep_tf.errors import RegistryError

TOKEN = "MLAAS4HEP_TOKEN"  # environment: the bearer token for servers
TRAFFIC, CONFIG = "traffic.json", "models.config"
_PAUSE_S = 0.2  # between two looks at a server
_TIMEOUT = urllib3.Timeout(connect=10, read=300)  # seconds; a model is loaded meanwhile


@dataclass(frozen=True)
class Traffic:
    """Which versions of a model are served: `stable` to all but a `share` for the `canary`; `keep` stay loaded."""

    stable: int
    canary: int | None = None
    share: float = 0.0
    keep: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise RegistryError(f"the share of a canary is between 0 and 1, not {self.share}")

    @property
    def versions(self) -> list[int]:
        """All that are loaded."""
        return sorted({self.stable, *self.keep, *([] if self.canary is None else [self.canary])})


class Target(ABC):
    """Where the versions of models are served."""

    @abstractmethod
    def traffic(self, name: str) -> Traffic | None:
        """What is served now; None where the model is not there."""

    @abstractmethod
    def put(self, name: str, version: int, folder: Path) -> None:
        """Bring a version; one that is there stays as it is."""

    @abstractmethod
    def route(self, name: str, traffic: Traffic, wait_s: float) -> None:
        """Serve these versions; comes back when they answer, or leaves all as it was.

        Raises:
            RegistryError: one that does not answer in time, and why.
        """


class Folder(Target):
    """A folder on this machine.

    Args:
        base: the folder.
        server: URL of a server that looks at it; None takes a version for served as soon as it is there.
    """

    def __init__(self, base: str | os.PathLike[str], server: str | None = None) -> None:
        self._base, self._server = Path(base).resolve(), server

    def traffic(self, name: str) -> Traffic | None:
        path = self._base / name / TRAFFIC
        return _traffic(json.loads(path.read_text())) if path.exists() else None

    def put(self, name: str, version: int, folder: Path) -> None:
        target = self._base / name / str(version)
        if target.exists():
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".publish-", dir=target.parent) as scratch:
            shutil.copytree(folder, Path(scratch) / "version").replace(target)

    def route(self, name: str, traffic: Traffic, wait_s: float) -> None:
        before = self.traffic(name)
        self._write(name, traffic)
        if self._server is None:
            return
        try:
            _wait_for(self._server, name, traffic, wait_s)
        except RegistryError:
            if before is not None:
                self._write(name, before)
            else:
                (self._base / name / TRAFFIC).unlink()
            raise

    def _write(self, name: str, traffic: Traffic) -> None:
        _replace(self._base / name / TRAFFIC, json.dumps(asdict(traffic)))
        models = {path.parent.name: path for path in sorted(self._base.glob(f"*/{TRAFFIC}"))}
        told = [_pinned(path.parent, _traffic(json.loads(path.read_text()))) for path in models.values()]
        _replace(self._base / CONFIG, "model_config_list {\n" + "".join(told) + "}\n")


class Server(Target):
    """A server of ours that takes what is published; the token comes from the environment, `TOKEN`."""

    def __init__(self, url: str, token: str | None = None) -> None:
        self._url, self._token = url.rstrip("/"), token or os.environ.get(TOKEN)
        self._http = urllib3.PoolManager(timeout=_TIMEOUT, retries=False)

    def traffic(self, name: str) -> Traffic | None:
        found = self._ask("GET", name, missing=True)
        return _traffic(found["traffic"]) if found.get("traffic") else None

    def put(self, name: str, version: int, folder: Path) -> None:
        found = self.traffic(name)
        if found is not None and version in found.versions:
            return
        body = _packed(folder)
        digest = base64.b64encode(hashlib.sha256(body).digest()).decode()
        self._ask("PUT", f"{name}/{version}", body, {"Content-Digest": f"sha-256=:{digest}:"})

    def route(self, name: str, traffic: Traffic, wait_s: float) -> None:
        del wait_s  # the server answers when they do
        self._ask("POST", name, json.dumps(asdict(traffic)).encode())

    def _ask(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None,
        *, missing: bool = False,
    ) -> dict[str, Any]:  # fmt: skip
        head = {**(headers or {}), **({"Authorization": f"Bearer {self._token}"} if self._token else {})}
        return _answer(self._http, method, f"{self._url}/v1/publish/{path}", body, head, missing=missing)


def target_of(where: str, server: str | None = None) -> Target:
    """The URL of a server, or a folder."""
    return Server(where) if where.startswith(("http://", "https://")) else Folder(where, server)


def _answer(
    http: urllib3.PoolManager, method: str, url: str, body: bytes | None, headers: Mapping[str, str],
    *, missing: bool = False,
) -> dict[str, Any]:  # fmt: skip
    try:
        response = http.request(method, url, body=body, headers=headers)
        content = json.loads(response.data)
    except (urllib3.exceptions.HTTPError, ValueError) as error:
        raise RegistryError(f"{url} does not answer as a server of models: {error}") from error
    if missing and response.status == 404:
        return {}
    if response.status != 200:
        raise RegistryError(f"{url} refuses with {response.status}: {content.get('error', content)}")
    return dict(content)


def _wait_for(server: str, name: str, traffic: Traffic, wait_s: float) -> None:
    """Until all versions answer, and the labels have moved.

    Raises:
        RegistryError: one that does not, and what the server says of it.
    """
    http, end = urllib3.PoolManager(timeout=_TIMEOUT, retries=False), time.monotonic() + wait_s
    token = os.environ.get(TOKEN)
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    while True:
        found = _answer(http, "GET", f"{server.rstrip('/')}/v1/publish/{name}", None, headers, missing=True)
        if found.get("traffic") and _traffic(found["traffic"]) == traffic:
            return
        refused = found.get("refused") or {}
        error = refused.get("error") if refused.get("wanted") == json.dumps(asdict(traffic)) else None
        if error or time.monotonic() > end:
            why = error or "nothing was loaded yet"
            raise RegistryError(f"versions {traffic.versions} of {name!r} do not answer at {server}: {why}")
        time.sleep(_PAUSE_S)


def _traffic(content: Mapping[str, Any]) -> Traffic:
    return Traffic(content["stable"], content.get("canary"), content.get("share", 0.0), tuple(content.get("keep", ())))


def _packed(folder: Path) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz", compresslevel=1) as tar:
        for path in sorted(folder.rglob("*")):
            tar.add(path, str(path.relative_to(folder)), recursive=False)
    return packed.getvalue()


def _replace(path: Path, text: str) -> None:
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    scratch.write_text(text)
    scratch.replace(path)


def _pinned(base: Path, traffic: Traffic) -> str:
    """A model of TensorFlow Serving's configuration."""
    labels = {"stable": traffic.stable} | ({} if traffic.canary is None else {"canary": traffic.canary})
    versions = " ".join(f"versions: {version}" for version in traffic.versions)
    told = "".join(f'    version_labels {{ key: "{label}" value: {number} }}\n' for label, number in labels.items())
    return (
        f'  config {{\n    name: "{base.name}"\n    base_path: {json.dumps(str(base))}\n'
        f'    model_platform: "tensorflow"\n    model_version_policy {{ specific {{ {versions} }} }}\n{told}  }}\n'
    )
