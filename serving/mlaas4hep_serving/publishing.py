"""Models that an operator publishes: ``<base>/<name>/<version>/``, and ``traffic.json``, which says who gets which.

What lies there is served whoever wrote it: a training service on this machine, or a client of
``PUT /v1/publish/NAME/VERSION`` (a tar of the version folder) and ``POST /v1/publish/NAME`` (`Traffic` as JSON).
Unlike an upload such a model is the operator's: it keeps its versions and its warm-up, and runs in the server itself.
"""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import shutil
import tempfile
import threading
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from mlaas4hep_serving.errors import Code, ServingError, failed_precondition, invalid_argument, not_found, shown
from mlaas4hep_serving.frontends.http import Answer, Reply, Request
from mlaas4hep_serving.models.repository import Repository
from mlaas4hep_serving.models.versions import CANARY, STABLE, ModelConfig, Policy, versions_in
from mlaas4hep_serving.tfaas.archives import Caps, unpack
from mlaas4hep_serving.tfaas.uploads import checked_name

log = logging.getLogger(__name__)
TRAFFIC = "traffic.json"
_CAPS = Caps(members=10_000, size=16 << 30, ratio=1000)  # of an operator
_SCRATCH = ".publish-"


@dataclass(frozen=True)
class Traffic:
    """Which versions of a model are served, and to whom.

    Attributes:
        stable: what requests get that name neither version nor label.
        canary: what a share of them gets instead.
        share: of the canary, 0 to 1.
        keep: other versions that stay loaded, such as the one to go back to.
    """

    stable: int
    canary: int | None = None
    share: float = 0.0
    keep: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        numbers = (self.stable, *self.keep, *([] if self.canary is None else [self.canary]))
        if not all(isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in numbers):
            raise invalid_argument(f"versions are numbers, not {shown(str(numbers))}")
        if isinstance(self.share, bool) or not isinstance(self.share, int | float) or not 0 <= self.share <= 1:
            raise invalid_argument(f"the share of the canary is a number from 0 to 1, not {self.share!r}")
        if self.share and self.canary is None:
            raise invalid_argument("a share without a canary")

    @classmethod
    def from_json(cls, text: bytes) -> Traffic:
        """As ``traffic.json`` has it.

        Raises:
            ServingError: INVALID_ARGUMENT.
        """
        try:
            content = json.loads(text)
            return cls(**{**content, "keep": tuple(content.get("keep", ()))})
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise invalid_argument(
                f'expected {{"stable": 3, "canary": 4, "share": 0.1, "keep": [2]}}: {shown(str(error))}'
            ) from None

    def config(self, name: str, base: Path) -> ModelConfig:
        """What the repository is told."""
        labels = {STABLE: self.stable} | ({} if self.canary is None else {CANARY: self.canary})
        policy = Policy(latest=None, specific=frozenset({*labels.values(), *self.keep}))
        return ModelConfig(name, base, policy, labels, self.share)


class Published:
    """The published models of a folder, in the repository, and as a route of `Rest`.

    Raises:
        ServingError: INVALID_ARGUMENT, a base path that cannot be made.
    """

    def __init__(self, base: Path, repository: Repository) -> None:
        self._base, self._repository = base.resolve(), repository
        self._lock = threading.Lock()
        self._known: dict[str, bytes] = {}  # traffic.json as it was taken, by model
        self._refused: dict[str, dict[str, Any]] = {}  # what was not, and why
        try:
            self._base.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise invalid_argument(f"--publish_base_path {base} cannot be made: {error.strerror}") from None
        for left in self._base.glob(f"*/{_SCRATCH}*"):  # of a server that was killed
            shutil.rmtree(left, ignore_errors=True)
        self.poll()

    def poll(self) -> None:
        """Take what has changed on disk; what cannot be taken is told, and tried again."""
        with self._lock:
            for path in sorted(self._base.glob(f"*/{TRAFFIC}")):
                name, text = path.parent.name, path.read_bytes()
                if text == self._known.get(name) and name not in self._refused:
                    continue
                try:
                    self._serve(Traffic.from_json(text).config(name, path.parent))
                except ServingError as error:
                    self._refuse(name, text, error.message)
                else:
                    self._known[name] = text
                    self._refused.pop(name, None)

    def _refuse(self, name: str, text: bytes, why: str) -> None:
        refused = {"wanted": text.decode("utf-8", "replace"), "error": why}
        if self._refused.get(name) != refused:
            log.error("published model %s: %s", name, why)
        self._refused[name] = refused

    def _serve(self, config: ModelConfig) -> None:
        """Let the labels move while the versions that they leave are still loaded, so that no request fails."""
        wanted = config.policy.specific or frozenset()
        left = frozenset(self._repository.labels(config.name).values()) & frozenset(versions_in(config.base_path))
        try:
            self._repository.put(replace(config, policy=Policy(latest=None, specific=wanted | left)))
        except ServingError as error:
            failed = [told for number, _, told in self._repository.status(config.name) if told and number in wanted]
            raise failed_precondition(failed[0].message if failed else error.message) from None
        if left - wanted:
            self._repository.put(config)

    def __call__(self, request: Request) -> Answer | None:
        """What answers a request to publish, else None."""
        match request.method, request.path.partition("?")[0].split("/")[1:]:
            case "PUT", ["v1", "publish", name, version]:
                return lambda: self._put(request, unquote(name), version)
            case "POST", ["v1", "publish", name]:
                return lambda: self._route(unquote(name), Traffic.from_json(request.body))
            case "GET", ["v1", "publish", name]:
                return lambda: self._status(unquote(name))
        return None

    def _status(self, name: str) -> Reply:
        known = self._known.get(name)
        if known is None and name not in self._refused:
            raise not_found(f"no model {shown(name)!r} is published here")
        told = {"available": self._repository.available(name), "refused": self._refused.get(name)}
        return _reply({"traffic": asdict(Traffic.from_json(known)) if known else None, **told})

    def _put(self, request: Request, name: str, version: str) -> Reply:
        checked_name(name)
        if not version.isdecimal() or len(version) > 18:
            raise invalid_argument(f"a version is a number, not {shown(version)!r}")
        digest = base64.b64encode(hashlib.sha256(request.body).digest()).decode()
        if request.headers.get("content-digest", "") != f"sha-256=:{digest}:":
            raise invalid_argument("the body is not what its header says: Content-Digest: sha-256=:BASE64:")
        with self._lock:
            self._move_in(self._base / name, int(version), request.body, digest)
        return _reply({"name": name, "version": int(version)})

    def _move_in(self, folder: Path, version: int, body: bytes, digest: str) -> None:
        target, mark = folder / str(version), folder / f".{version}.sha256"
        if target.exists():
            if mark.is_file() and mark.read_text() == digest:  # the same once more
                return
            raise ServingError(Code.ALREADY_EXISTS, f"version {version} is there already, and a version never changes")
        folder.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=_SCRATCH, dir=folder) as scratch:
            unpacked = Path(scratch) / "version"
            unpacked.mkdir()
            unpack(body, unpacked, _CAPS)
            if not (unpacked / "saved_model.pb").is_file():
                raise invalid_argument("the archive is no SavedModel folder: no saved_model.pb at its top")
            mark.write_text(digest)
            unpacked.replace(target)

    def _route(self, name: str, traffic: Traffic) -> Reply:
        folder = self._base / checked_name(name)
        config = traffic.config(name, folder)
        there = versions_in(folder) if folder.is_dir() else {}
        missing = sorted(number for number in config.policy.specific or () if number not in there)
        if missing:
            raise failed_precondition(f"version {missing[0]} of {shown(name)} is not here: PUT it first")
        text = json.dumps(asdict(traffic)).encode()
        with self._lock:
            self._take(name, config, text)
        return _reply(asdict(traffic) | {"available": self._repository.available(name)})

    def _take(self, name: str, config: ModelConfig, text: bytes) -> None:
        """Serve a model as it is told now; where that fails, as before."""
        before = self._known.get(name)
        try:
            self._serve(config)
        except ServingError:
            if before is not None:
                self._serve(Traffic.from_json(before).config(name, config.base_path))
            elif name in self._repository.models():
                self._repository.remove(name)
            raise
        scratch = config.base_path / f"{_SCRATCH}traffic"
        scratch.write_bytes(text)
        scratch.replace(config.base_path / TRAFFIC)
        self._known[name] = text
        self._refused.pop(name, None)


def _reply(value: Any) -> Reply:
    return Reply(200, json.dumps(value).encode() + b"\n")
