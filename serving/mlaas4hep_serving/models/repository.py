"""Which versions of which models are loaded: polling, version policies, labels, retries, config changes.

The `Repository` carries out what `versions` decides.  A new version is loaded before an old one is unloaded; an old
one is unloaded when its last request is answered; a version that cannot be loaded leaves the others as they are.
"""

from __future__ import annotations

import logging
import math
import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from tensorflow_serving.apis.model_pb2 import ModelSpec
from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

from mlaas4hep_serving.errors import (
    Code,
    ServingError,
    failed_precondition,
    internal,
    invalid_argument,
    not_found,
    shown,
    unavailable,
    unknown,
)
from mlaas4hep_serving.models.versions import (
    CANARY,
    STABLE,
    ModelConfig,
    State,
    Version,
    aspired,
    check_platforms,
    fingerprint,
    model_configs,
    next_attempt,
    platforms,
    versions_in,
)

log = logging.getLogger(__name__)
HISTORY = 100  # versions that ended, kept for the status


class Servable(Protocol):
    """What a loader gives and the repository holds."""

    def close(self) -> None:
        """Free the memory; nothing runs any more."""


Loader = Callable[[str, int, Path], Servable]
Check = Callable[[Path], "str | None"]


@dataclass(frozen=True)
class RepositoryOptions:
    """Flags of TF-Serving: times in seconds."""

    poll: float = 1.0
    retries: int = 5
    retry_interval: float = 60.0
    labels_for_unavailable: bool = False
    patience: float = 60.0  # with a version folder that is not complete, until that is told aloud
    load_threads: int = 1  # models that are looked after at the same time


class Repository:
    """The loaded models.

    Args:
        load: makes a servable of a version folder, warm-up included; raises `ServingError`.
        lacks: what a version folder still lacks, or None: an incomplete folder is waited for, not loaded.
    """

    def __init__(self, load: Loader, options: RepositoryOptions, lacks: Check = lambda _: None) -> None:
        self._load, self._lacks, self._options = load, lacks, options
        self._lock = threading.RLock()  # the tables below
        self._poll_lock = threading.Lock()  # one reconciliation at a time
        self._configs: dict[str, ModelConfig] = {}
        self._platforms: dict[str, str] = {}
        self._added: dict[str, ModelConfig] = {}  # by `put`, beside those of the config
        self._labels: dict[str, dict[str, int]] = {}
        self._versions: dict[str, dict[int, Version]] = {}
        self._waiting: dict[tuple[str, int], tuple[tuple[Any, ...], float]] = {}  # what a folder looks like, since when
        self._warned: dict[str, str] = {}  # of a model's folder
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    @classmethod
    def of(cls, version: Version) -> Repository:
        """A repository of one loaded version, for its warm-up."""
        alone = cls(lambda *_: version.servable, RepositoryOptions())
        version.state = State.AVAILABLE
        alone._configs = {version.model: ModelConfig(version.model, version.folder)}
        alone._versions = {version.model: {version.number: version}}
        return alone

    # requests

    @contextmanager
    def use(self, spec: ModelSpec) -> Iterator[Version]:
        """The version that a request means, kept loaded for the time of the block.

        Raises:
            ServingError: INVALID_ARGUMENT without a name or for an unknown label; NOT_FOUND.
        """
        version = self.acquire(spec)
        try:
            yield version
        finally:
            self.release(version)

    def acquire(self, spec: ModelSpec) -> Version:
        """`use` for a request that ends elsewhere: `release` the version there."""
        if not spec.name:
            raise invalid_argument("ModelSpec has no name specified.")
        with self._lock:
            number = self._number(spec)
            versions = self._versions.get(spec.name, {})
            available = [v for v in versions.values() if v.state is State.AVAILABLE and v.servable is not None]
            if number is not None:
                available = [v for v in available if v.number == number]
            if not available:
                wanted = f"Latest({spec.name})" if number is None else f"Specific({spec.name}, {number})"
                raise not_found(f"Servable not found for request: {shown(wanted)}")
            version = max(available, key=lambda v: v.number)
            version.users += 1
            return version

    def hold(self, version: Version) -> None:
        """Keep a version that the caller holds for one more `release`."""
        with self._lock:
            version.users += 1

    def _number(self, spec: ModelSpec) -> int | None:
        if spec.HasField("version"):
            return int(spec.version.value)
        if not spec.version_label:
            return self._of_the_traffic(spec.name)
        number = self._labels.get(spec.name, {}).get(spec.version_label)
        if number is None:
            raise invalid_argument(f"Unrecognized servable version label: {shown(spec.version_label)}")
        return number

    def _of_the_traffic(self, name: str) -> int | None:
        """What a request gets that names neither version nor label; None for the highest one."""
        config = self._configs.get(name)
        if config is None or config.canary_share is None:
            return None
        labels, answering = self._labels.get(name, {}), self.available(name)
        canary = config.canary_share > 0 and random.random() < config.canary_share
        wanted = labels.get(CANARY if canary else STABLE)
        return wanted if wanted in answering else labels.get(STABLE) if labels.get(STABLE) in answering else None

    def release(self, version: Version) -> None:
        """End of what `acquire` began."""
        with self._lock:
            version.users -= 1
            last = version.users == 0 and version.state is State.UNLOADING
        if last:
            self._close(version)

    # status

    def knows(self, name: str) -> bool:
        """Whether a model of this name is configured."""
        return name in self._configs

    def models(self) -> list[str]:
        """Names of the configured models."""
        with self._lock:
            return sorted(self._configs)

    def status(self, name: str, number: int | None = None) -> list[tuple[int, State, ServingError | None]]:
        """(version, state, error) of all versions ever seen, the newest first.

        Raises:
            ServingError: NOT_FOUND.
        """
        with self._lock:
            versions = self._versions.get(name, {})
            if not versions:
                raise not_found(f"Could not find any versions of model {shown(name)}")
            if number is not None:
                if number not in versions:
                    raise not_found(f"Could not find version {number} of model {name}")
                versions = {number: versions[number]}
            return [(v.number, v.state, v.error) for v in sorted(versions.values(), key=lambda v: -v.number)]

    def available(self, name: str) -> list[int]:
        """Versions that answer, ascending."""
        with self._lock:
            return sorted(v.number for v in self._versions.get(name, {}).values() if v.state is State.AVAILABLE)

    def labels(self, name: str) -> dict[str, int]:
        """Labels of a model."""
        with self._lock:
            return dict(self._labels.get(name, {}))

    # configuration

    def configure(self, config: ModelServerConfig) -> None:
        """Take a new config: load and unload until it holds, then move the labels.

        Raises:
            ServingError: INVALID_ARGUMENT (nothing changed); UNKNOWN, a model that did not become available (the
                first config is taken nevertheless, its models may come later);
                FAILED_PRECONDITION, a label for a version that is not available.
        """
        if config.WhichOneof("config") == "custom_model_config":
            raise failed_precondition("ModelServer does not yet support custom model config.")
        if config.WhichOneof("config") is None:
            log.info("Taking no action for empty config.")
            return
        new_platforms = platforms(config)
        models = model_configs(config)
        check_platforms(self._platforms, new_platforms)
        for name in sorted(set(models) & set(self._added)):
            raise invalid_argument(f"Model {name} has been uploaded already; delete it, or choose another name")
        with self._poll_lock:
            with self._lock:
                first = not self._configs
                self._configs, self._platforms = {**models, **self._added}, new_platforms
            self._reconcile()
            lost = [name for name in models if not self.available(name)]
            told = f"{len(lost)} servable(s) did not become available: {{{self._reasons(lost)}}}"
            if lost and not first:
                raise unknown(told)
            if lost:
                log.error("%s; the server starts and waits for them", told)
            self._apply_labels()

    def put(self, config: ModelConfig) -> None:
        """Serve one more model, or its new versions, whatever `configure` is told.

        Raises:
            ServingError: INVALID_ARGUMENT, a name of the config; FAILED_PRECONDITION, a label for a version that is
                not available: then labels stay as they are.
        """
        with self._poll_lock:
            with self._lock:
                if config.name in self._configs and config.name not in self._added:
                    raise invalid_argument(f"Model {config.name} is one of the server's configuration")
                self._added[config.name] = self._configs[config.name] = config
            self._reconcile_model(config)
            with self._lock:
                for label, number in config.labels.items():
                    self._check_label(config.name, label, number)
                self._labels[config.name] = dict(config.labels)

    def remove(self, name: str) -> None:
        """Stop serving a model that was `put`: no request that comes later is answered."""
        with self._poll_lock:
            with self._lock:
                del self._added[name], self._configs[name]
            self._unload_others(name, keep=set())

    def _reasons(self, names: Iterable[str]) -> str:
        with self._lock:
            failed = [v for name in names for v in self._versions.get(name, {}).values() if v.error]
            told = {v.model for v in failed}
            parts = [f"{{name: {v.model} version: {v.number}}} due to error: {v.error}" for v in failed]
            parts += [f"{{name: {name}}} has no versions" for name in names if name not in told]
        return ", ".join(parts)

    def _apply_labels(self) -> None:
        with self._lock:
            for name, model in self._configs.items():
                for label, number in model.labels.items():
                    self._check_label(name, label, number)
            self._labels = {name: dict(model.labels) for name, model in self._configs.items()}

    def _check_label(self, name: str, label: str, number: int) -> None:
        if number in self.available(name):
            return
        if self._options.labels_for_unavailable and label not in self._labels.get(name, {}):
            return
        raise failed_precondition(
            f"Request to assign label to version {number} of model {name}, which is not currently available for "
            "inference"
        )

    # polling

    def start(self) -> None:
        """Poll from now on, in a thread."""
        if self._options.poll <= 0:
            return
        self._thread = threading.Thread(target=self._poll_forever, name="repository", daemon=True)
        self._thread.start()

    def poll(self) -> None:
        """Look at the disk once and do what it asks for."""
        with self._poll_lock:
            self._reconcile()

    def close(self) -> None:
        """Unload everything; requests under way are answered first."""
        self._stop.set()
        if self._thread:
            self._thread.join()
        with self._lock:
            versions = [v for table in self._versions.values() for v in table.values() if v.state is State.AVAILABLE]
        for version in versions:
            self._unload(version)

    def _poll_forever(self) -> None:
        while not self._stop.wait(self._options.poll):
            try:
                self.poll()
            except Exception:  # a poll that fails must not end all later ones
                log.exception("polling the model folders failed")

    def _reconcile(self) -> None:
        with self._lock:
            configs = dict(self._configs)
            gone = [name for name in self._versions if name not in configs]
        with ThreadPoolExecutor(self._options.load_threads, thread_name_prefix="load") as pool:
            list(pool.map(self._reconcile_model, configs.values()))
        for name in gone:
            self._unload_others(name, keep=set())

    def _reconcile_model(self, config: ModelConfig) -> None:
        try:
            wanted = aspired(versions_in(config.base_path), config.policy)
        except ServingError as error:
            self._warn_once(config.name, f"model {config.name}: {error.message}; versions stay as they are")
            return
        self._warn_once(config.name, "" if wanted else _nothing_in(config))
        for number, folder in sorted(wanted.items(), reverse=True):
            self._try_load(config.name, number, folder)
        if not wanted or any(number in wanted for number in self.available(config.name)):
            self._unload_others(config.name, keep=set(wanted))

    def _warn_once(self, name: str, text: str) -> None:
        """Say what is wrong with a model's folder when it becomes so, not at every look at the disk."""
        if text and self._warned.get(name) != text:
            log.warning("%s", text)
        self._warned[name] = text

    def _try_load(self, name: str, number: int, folder: Path) -> None:
        with self._lock:
            old = self._versions.setdefault(name, {}).get(number)
        if old is not None and (
            old.state is State.UNLOADING or (old.state is State.AVAILABLE and old.folder == folder)
        ):
            return
        now = fingerprint(folder)
        version = next_attempt(old, Version(name, number, folder), now)
        if version is None:
            return
        lacking = self._lacks(folder)
        if lacking:
            self._wait_for(version, lacking, now)
            return
        self._waiting.pop((name, number), None)
        moved = old if old is not None and old.state is State.AVAILABLE else None  # the base path has changed
        if moved is None:
            with self._lock:
                self._versions[name][number] = version
        self._attempt(version, now)
        if moved is not None and version.state is State.AVAILABLE:
            with self._lock:
                self._versions[name][number] = version
            self._unload(moved)

    def _wait_for(self, version: Version, lacking: str, now: tuple[Any, ...]) -> None:
        """Wait for the rest of a version; one that does not change any more is told aloud, once."""
        key = (version.model, version.number)
        seen, since = self._waiting.get(key, ((), 0.0))
        if seen != now:
            self._waiting[key] = (now, time.monotonic())
            log.info("model %s version %d is not complete yet: %s", *key, lacking)
        elif time.monotonic() - since >= self._options.patience:
            self._waiting[key] = (now, math.inf)
            version.error = unavailable(
                f"The version is not complete: {lacking}; nothing has changed for {self._options.patience:g} s, see "
                "--load_patience_seconds"
            )
            log.error("model %s version %d: %s", *key, version.error.message)
            with self._lock:
                if version.state is State.START:
                    self._versions[version.model].setdefault(version.number, version)

    def _attempt(self, version: Version, before: tuple[Any, ...]) -> None:
        version.seen = before
        version.state = State.LOADING
        version.attempts += 1
        log.info("loading model %s version %d (attempt %d)", version.model, version.number, version.attempts)
        try:
            servable = self._load(version.model, version.number, version.folder)
        except ServingError as error:
            self._load_failed(version, error)
            return
        except Exception as error:  # a folder that TensorFlow cannot read may raise anything
            log.exception("model %s version %d", version.model, version.number)
            self._load_failed(version, internal(f"{type(error).__name__}: {error}"))
            return
        with self._lock:
            version.servable, version.error, version.state = servable, None, State.AVAILABLE
        log.info("model %s version %d is available", version.model, version.number)

    def _load_failed(self, version: Version, error: ServingError) -> None:
        log.error("model %s version %d cannot be loaded: %s", version.model, version.number, error)
        version.error = error
        version.retry_at = time.monotonic() + self._options.retry_interval
        if version.attempts > self._options.retries or error.code is Code.DATA_LOSS:  # which no retry mends
            version.state = State.END

    def _unload_others(self, name: str, keep: set[int]) -> None:
        with self._lock:
            table = self._versions.get(name, {})
            others = [v for v in table.values() if v.number not in keep]
        for version in others:
            if version.state is State.AVAILABLE:
                self._unload(version)
            elif version.state in (State.START, State.LOADING):
                version.state = State.END
        with self._lock:
            ended = sorted((v for v in table.values() if v.state is State.END), key=lambda v: v.number)
            for version in ended[:-HISTORY]:
                del table[version.number]

    def _unload(self, version: Version) -> None:
        log.info("unloading model %s version %d", version.model, version.number)
        with self._lock:
            version.state = State.UNLOADING
            idle = version.users == 0
        if idle:
            self._close(version)

    def _close(self, version: Version) -> None:
        with self._lock:
            servable, version.servable = version.servable, None
        if servable is not None:
            servable.close()
        version.state = State.END


def _nothing_in(config: ModelConfig) -> str:
    """That a folder has no version; also where it is one itself."""
    own = "; it is a version itself: give the folder that it lies in"
    said = f"No versions of servable {config.name} found under base path {config.base_path}"
    return said + own * (Path(config.base_path) / "saved_model.pb").is_file()


def not_ready(repository: Repository) -> ServingError | None:
    """Why not all configured models answer, or None."""
    lost = [name for name in repository.models() if not repository.available(name)]
    return unavailable(f"no version of {', '.join(lost)} is available") if lost else None
