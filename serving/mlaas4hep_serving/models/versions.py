"""Which versions there are and which are wanted: pure decisions on folders, policies and configs."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import Any

from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

from mlaas4hep_serving.config_files import PLATFORM
from mlaas4hep_serving.errors import ServingError, invalid_argument, not_found

_INT64 = 1 << 63
STABLE, CANARY = "stable", "canary"  # labels that mean something to published models


class State(IntEnum):
    """``ModelVersionStatus.State`` of TF-Serving, with its numbers."""

    UNKNOWN = 0
    START = 10
    LOADING = 20
    AVAILABLE = 30
    UNLOADING = 40
    END = 50


@dataclass(frozen=True)
class Policy:
    """Which of the versions on disk are served: the ``latest`` n, the ``specific`` ones, or (both None) all."""

    latest: int | None = 1
    specific: frozenset[int] | None = None


@dataclass(frozen=True)
class ModelConfig:
    """One ``config`` of a ``model_config_list``."""

    name: str
    base_path: Path
    policy: Policy = Policy()
    labels: Mapping[str, int] = field(default_factory=dict)
    canary_share: float | None = None  # of requests without version and label, the others get STABLE; None: the highest


def versions_in(base: Path) -> dict[int, Path]:
    """Version folders of a model: names that are an int64, leading zeros allowed; others are ignored.

    Raises:
        ServingError: NOT_FOUND, a base path that is no folder.
    """
    try:
        children = [child for child in base.iterdir() if re.fullmatch(r"\d+", child.name, re.ASCII)]
    except OSError as error:
        raise not_found(f"Could not find base path {base} ({error.strerror})") from None
    found = sorted((int(child.name), child) for child in children if int(child.name) < _INT64 and child.is_dir())
    return dict(found)


def aspired(found: Mapping[int, Path], policy: Policy) -> dict[int, Path]:
    """The versions that a policy wants served, of those found."""
    if policy.specific is not None:
        return {version: path for version, path in found.items() if version in policy.specific}
    newest = sorted(found, reverse=True)[: policy.latest]
    return {version: found[version] for version in newest}


def fingerprint(folder: Path) -> tuple[Any, ...]:
    """Names, sizes and times of all files: changes while a copy is under way."""
    try:
        files = [path for path in folder.rglob("*") if path.is_file()]
        stats = [(str(path), path.stat()) for path in files]
    except OSError:
        return ("changing",)
    return tuple(sorted((name, stat.st_size, stat.st_mtime_ns, stat.st_ino) for name, stat in stats))


def model_configs(config: ModelServerConfig) -> dict[str, ModelConfig]:
    """The models of a config.

    Raises:
        ServingError: INVALID_ARGUMENT, what TF-Serving refuses: a name twice, a relative path, another platform.
    """
    models: dict[str, ModelConfig] = {}
    for model in config.model_config_list.config:
        if model.name in models:
            raise invalid_argument(f"Illegal to list model {model.name} multiple times in config list")
        if not model.base_path.startswith("/"):
            raise invalid_argument(
                f"Expected model {model.name} to have an absolute path or URI; got base_path()={model.base_path}"
            )
        models[model.name] = ModelConfig(model.name, Path(model.base_path), _policy(model), dict(model.version_labels))
    return models


def platforms(config: ModelServerConfig) -> dict[str, str]:
    """Platform of each model; ``model_type`` is the deprecated way to say it.

    Raises:
        ServingError: INVALID_ARGUMENT, both or none given.
    """
    found = {}
    for model in config.model_config_list.config:
        old, new = model.model_type, model.model_platform
        if old and new:
            raise invalid_argument("Illegal setting both model_type(deprecated) and model_platform.")
        if not old and not new:
            raise invalid_argument("Illegal setting neither model_type(deprecated) nor model_platform.")
        found[model.name] = new or (PLATFORM if old == 1 else "other")
    return found


def check_platforms(old: Mapping[str, str], new: Mapping[str, str]) -> None:
    """Refuse a model whose platform changes, or one that is not TensorFlow's.

    Raises:
        ServingError: INVALID_ARGUMENT.
    """
    for name, platform in new.items():
        if name in old and old[name] != platform:
            raise invalid_argument(
                f"Illegal to change a model's platform. For model {name} platform was {old[name]} and new platform "
                f"requested is {platform}"
            )
        if platform != PLATFORM:
            raise invalid_argument(f"Model {name}: platform {platform} is not known to this server, only {PLATFORM}")


def _policy(model: Any) -> Policy:
    given = model.model_version_policy
    match given.WhichOneof("policy_choice"):
        case "all":
            return Policy(latest=None)
        case "specific":
            if not given.specific.versions:
                raise invalid_argument(f"Model {model.name}: policy specific names no versions")
            return Policy(latest=None, specific=frozenset(given.specific.versions))
        case _:
            return Policy(latest=given.latest.num_versions or 1)


@dataclass
class Version:
    """One version of a model and its state."""

    model: str
    number: int
    folder: Path
    state: State = State.START
    error: ServingError | None = None
    servable: Any = None
    users: int = 0
    attempts: int = 0
    retry_at: float = 0.0
    seen: tuple[Any, ...] = ()  # fingerprint of the folder at the last attempt

    @property
    def failed(self) -> bool:
        return self.state is State.END and self.error is not None


def next_attempt(old: Version | None, fresh: Version, now: tuple[Any, ...]) -> Version | None:
    """The version to load now: a fresh one if the folder is new or has changed, the old one if a retry is due."""
    if old is None or old.folder != fresh.folder or old.seen != now or (old.state is State.END and not old.failed):
        return fresh
    return None if old.failed or time.monotonic() < old.retry_at else old
