"""Models that clients upload: checked, tried, moved in place atomically, served, deleted.

A model is ``<base>/<name>/<version>/``, with what TFaaS keeps beside it in ``assets.extra/``: ``params.json`` and
``labels.txt``.  An upload of a name that is there is its next version; when the reply is out, the old one has gone.
"""

from __future__ import annotations

import json
import logging
import re
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlaas4hep_serving.errors import Code, ServingError, failed_precondition, invalid_argument, not_found, shown
from mlaas4hep_serving.models.model import BATCHING_FILE
from mlaas4hep_serving.models.repository import Repository
from mlaas4hep_serving.models.versions import ModelConfig, versions_in
from mlaas4hep_serving.models.warmup import FILE as WARMUP
from mlaas4hep_serving.tfaas import archives, sandbox
from mlaas4hep_serving.tfaas.apart import SIGNATURES
from mlaas4hep_serving.tfaas.archives import Caps
from mlaas4hep_serving.tfaas.confine import LIMITS, Limits

log = logging.getLogger(__name__)
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}", re.ASCII)
PARAMS, LABELS = Path("assets.extra") / "params.json", Path("assets.extra") / "labels.txt"
MOST_MODELS = 100
_LARGEST_TEXT = 1 << 20  # bytes of params.json, labels.txt
_SCRATCH = ".upload-"
CAPS = Caps()


@dataclass(frozen=True)
class Upload:
    """What a client sent: a tar or tar.gz, or a lone ``saved_model.pb``.

    Without a name the model has that of its params, or else that of the one folder in the archive.
    """

    name: str
    model: bytes
    params: Mapping[str, Any] | None = None
    labels: bytes | None = None


class Uploads:
    """The uploaded models on disk and in the repository.

    Raises:
        ServingError: INVALID_ARGUMENT, a base path that cannot be made.
    """

    def __init__(self, base: Path, repository: Repository, caps: Caps = CAPS, limits: Limits = LIMITS) -> None:
        self._base, self._repository, self._caps, self._limits = base.resolve(), repository, caps, limits
        self._lock = threading.Lock()  # one upload, change or deletion at a time
        try:
            self._base.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise invalid_argument(f"--tfaas_base_path {base} cannot be made: {error.strerror}") from None
        for left in self._base.glob(f"{_SCRATCH}*"):  # of a server that was killed
            shutil.rmtree(left, ignore_errors=True)
        for name in self.names():
            self._repository.put(ModelConfig(name, self._base / name))

    def names(self) -> list[str]:
        """Uploaded models."""
        return sorted(p.name for p in self._base.iterdir() if NAME.fullmatch(p.name) and p.is_dir() and versions_in(p))

    def params(self, name: str) -> dict[str, Any]:
        """``params.json`` of a model; a model without one has its name only.

        Raises:
            ServingError: NOT_FOUND.
        """
        return {"name": name, **_read_params(self._folder(name))}

    def labels(self, name: str) -> list[str]:
        """Class labels of a model, in the order of its outputs."""
        path = self._folder(name) / LABELS
        return path.read_text("utf-8", "replace").splitlines() if path.is_file() else []

    def set_params(self, name: str, params: Mapping[str, Any]) -> None:
        """Replace ``params.json``.

        Raises:
            ServingError: NOT_FOUND; INVALID_ARGUMENT.
        """
        with self._lock:
            folder = self._folder(name)
            (folder / PARAMS).parent.mkdir(exist_ok=True)
            scratch = folder / PARAMS.parent / f"{_SCRATCH}{time.monotonic_ns()}"
            scratch.write_bytes(_params_text(params, name))
            scratch.replace(folder / PARAMS)

    def add(self, upload: Upload, permit: Callable[[str], None] = lambda _: None) -> tuple[str, int]:
        """Take a model in; returns its name and version.

        Args:
            permit: asked when its name is known; raises.

        Raises:
            ServingError: INVALID_ARGUMENT, a name or an archive that is refused; PERMISSION_DENIED, ops that are;
                ALREADY_EXISTS, a name that the server's own configuration uses; RESOURCE_EXHAUSTED;
                FAILED_PRECONDITION, a model that does not run.
        """
        with self._scratch() as folder:
            with _relative(folder / "model"):
                source, name = self._unpacked(upload, folder / "model")
                permit(name)
                signatures = sandbox.run(source, self._limits)
            (source / SIGNATURES).write_bytes(signatures.SerializeToString())
            with self._lock:
                return name, self._move_in(name, source)

    def delete(self, name: str) -> None:
        """Stop serving a model, then delete its folder.

        Raises:
            ServingError: NOT_FOUND.
        """
        with self._lock, self._scratch() as folder:
            self._folder(name)
            self._repository.remove(name)
            (self._base / name).replace(folder / "deleted")

    def _folder(self, name: str) -> Path:
        """The version folder of a model."""
        base = self._base / checked_name(name)
        versions = versions_in(base) if base.is_dir() else {}
        if not versions:
            raise not_found(f"no uploaded model is named {shown(name)!r}")
        return versions[max(versions)]

    @contextmanager
    def _scratch(self) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(prefix=_SCRATCH, dir=self._base) as folder:
            yield Path(folder)

    def _unpacked(self, upload: Upload, folder: Path) -> tuple[Path, str]:
        """The version folder that an upload describes, and the model's name."""
        if upload.name:
            checked_name(upload.name)
        folder.mkdir()
        folder_name = ""
        if _is_archive(upload.model):
            archives.unpack(upload.model, folder, self._caps)
            unpacked, folder = folder, _root(folder)
            folder_name = "".join(folder.relative_to(unpacked).parts[:1])
        else:
            (folder / "saved_model.pb").write_bytes(upload.model)
        if not (folder / "saved_model.pb").is_file():
            raise invalid_argument("the upload is no SavedModel folder: no saved_model.pb")
        try:
            return folder, _settle_extras(folder, upload, folder_name)
        except OSError as error:  # a folder where a file should be
            raise invalid_argument(f"the upload is no SavedModel folder: {error.strerror}") from None

    def _numbers_seen(self, name: str) -> list[int]:
        try:
            return [number for number, *_ in self._repository.status(name)]
        except ServingError:  # never served
            return []

    def _move_in(self, name: str, source: Path) -> int:
        target = self._base / name
        if name in self._repository.models() and not target.is_dir():
            raise ServingError(Code.ALREADY_EXISTS, f"{name!r} is a model of the server's configuration")
        old = versions_in(target) if target.is_dir() else {}
        if not old and len(self.names()) >= MOST_MODELS:
            raise ServingError(Code.RESOURCE_EXHAUSTED, f"there are {MOST_MODELS} uploaded models: delete one first")
        number = max((*old, *self._numbers_seen(name)), default=0) + 1
        target.mkdir(exist_ok=True)
        moved = target / str(number)
        source.replace(moved)
        self._repository.put(ModelConfig(name, target))
        if number not in self._repository.available(name):
            shutil.rmtree(moved)
            if not old:
                self._repository.remove(name)
                target.rmdir()
            raise failed_precondition(f"model {name!r} could not be loaded; nothing has changed")
        for folder in old.values():
            shutil.rmtree(folder)
        log.info("model %s version %d was uploaded", name, number)
        return number


@contextmanager
def _relative(folder: Path) -> Iterator[None]:
    """What goes wrong is told without the places of this machine."""
    try:
        yield
    except ServingError as error:
        inside = error.message.replace(f"{folder}/", "").replace(str(folder), "the upload")
        raise ServingError(error.code, inside.replace(f"{folder.parent.parent}/", "")) from None


def checked_name(name: str) -> str:
    """A name that can be a folder.

    Raises:
        ServingError: INVALID_ARGUMENT.
    """
    if not NAME.fullmatch(name):
        raise invalid_argument(
            "a model's name is 1 to 100 letters, digits, dots, dashes and underscores, not a dot first"
        )
    return name


def _is_archive(model: bytes) -> bool:
    return model.startswith(b"\x1f\x8b") or model[257:262] == b"ustar"


def _root(folder: Path) -> Path:
    """The folder with saved_model.pb: the archive's own root, or its single folder."""
    while not (folder / "saved_model.pb").exists():
        inside = [p for p in folder.iterdir() if p.is_dir()]
        if len(inside) != 1:
            break
        folder = inside[0]
    return folder


def _settle_extras(folder: Path, upload: Upload, folder_name: str) -> str:
    """Put ``params.json`` and the labels where they are kept; those of the form count before those of the archive.

    Returns:
        The model's name.
    """
    for extra in (WARMUP, Path(BATCHING_FILE), SIGNATURES):  # requests of a stranger, which were not tried; threads
        (folder / extra).unlink(missing_ok=True)
    (folder / PARAMS.parent).mkdir(exist_ok=True)
    given = upload.params if upload.params is not None else _archived_params(folder)
    name = checked_name(upload.name or str((given or {}).get("name", "")) or folder_name)
    labels, file = upload.labels, (given or {}).get("labels")
    if labels is None and isinstance(file, str) and "/" not in file and (folder / file).is_file():
        labels = _small(folder / file)
    if given is not None:
        (folder / PARAMS).write_bytes(_params_text(given, name))
    if labels is not None:
        (folder / LABELS).write_bytes(labels[:_LARGEST_TEXT])
    return name


def _archived_params(folder: Path) -> dict[str, Any] | None:
    path = folder / "params.json"
    return parse_params(_small(path)) if path.is_file() else None


def _small(path: Path) -> bytes:
    if path.stat().st_size > _LARGEST_TEXT:
        raise invalid_argument(f"{path.name} is larger than {_LARGEST_TEXT} bytes")
    return path.read_bytes()


def parse_params(text: bytes) -> dict[str, Any]:
    """``params.json``.

    Raises:
        ServingError: INVALID_ARGUMENT, no JSON object.
    """
    try:
        params = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise invalid_argument(f"params.json is no JSON: {error}") from None
    if not isinstance(params, dict):
        raise invalid_argument("params.json is no JSON object")
    return params


def _params_text(params: Mapping[str, Any], name: str) -> bytes:
    if params.get("name", name) != name:
        raise invalid_argument(f"params.json has the name {shown(str(params['name']))!r}, the upload {name!r}")
    text = json.dumps({**params, "name": name}, indent=1).encode()
    if len(text) > _LARGEST_TEXT:
        raise invalid_argument(f"params.json is larger than {_LARGEST_TEXT} bytes")
    return text


def _read_params(folder: Path) -> dict[str, Any]:
    try:
        return parse_params((folder / PARAMS).read_bytes())
    except FileNotFoundError:
        return {}


__all__ = ["Upload", "Uploads", "checked_name", "parse_params"]
