"""service.toml: where things lie, who may ask, and the projects that are trained."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from mlaas4hep_tf.errors import ConfigError, near_misses

T = TypeVar("T")
Start = Literal["scratch", "champion"]
Ranges = Literal["report", "hold"]
STARTER = """# What the service trains; see docs/how-to/service.md.  Times in seconds, paths relative to this file.
served = "served"    # mlaas4hep-serve --publish_base_path=served
# server = "http://127.0.0.1:8501"    # who serves that folder: a version is the champion when it answers there
# tokens = "tokens.toml"              # [[key]] and [jwt] as for mlaas4hep-serve; without it only this machine may ask

# [project.tth]
# watch = ["data/*.root"]
# train = ["--tree", "events", "--exclude", "isSignal", "--label", "*signal*=1", "--label", "*=0", "--epochs", "5"]
"""


@dataclass(frozen=True)
class Gate:
    """When a new model replaces the one that is served.

    Attributes:
        margin: of AUC, that it may be worse by.
        deviations: standard errors that the difference is lowered by before it is compared.
        new_ranges: what values beyond those of the served model mean: ``report`` them, or ``hold`` the new model back.
    """

    margin: float = 0.005
    deviations: float = 1.645
    new_ranges: Ranges = "report"

    def __post_init__(self) -> None:
        if self.margin < 0 or self.deviations < 0:
            raise ConfigError(f"a gate has a margin and deviations of 0 or more, not {self.margin}, {self.deviations}")
        _one_of("new_ranges", self.new_ranges, get_args(Ranges))


@dataclass(frozen=True)
class Project:
    """A model that is trained again as data come.

    Attributes:
        name: of the model in the registry and where it is served.
        train: options of ``mlaas4hep-tf train``, without files and output.
        scan: those of them that choose what is scanned (``--tree``, ``--exclude``, ``--select`` ...), which a model
            that goes on from the champion has from there.
        watch: patterns of files, folders and ``root://`` directories that are looked at.
        command: a command that prints the URL of a file a line, such as of Rucio or DAS.
        every: seconds between two looks.
        settle: seconds without a new file before a training begins.
        hold_out: share of the events that no model is trained on, by which all are judged, drawn by file and entry; or
            words of ``--hold-out``: ``0.2:identifiers``, ``event % 5 == 0``.
        start: from ``scratch``, or from the weights of the ``champion``.
        gate: when a new model is promoted.
        canary: share of requests that a new model gets instead of all; None: all.
        drift: population stability index of an input of the served model above which a training is queued, once for
            the same files; None: never.
        launch: words of a command in front of the training, such as of a batch system; ``{command}`` stands for it.
        memory_gb, hours: limits of a training; None: none.
        retries: how often a training that dies is gone on with.
    """

    name: str
    train: tuple[str, ...] = ()
    scan: tuple[str, ...] = ()
    watch: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    every: float = 5.0
    settle: float = 2.0
    hold_out: float | str = 0.2
    start: Start = "scratch"
    gate: Gate = field(default_factory=Gate)
    canary: float | None = None
    drift: float | None = None
    launch: tuple[str, ...] = ()
    memory_gb: float | None = None
    hours: float | None = None
    retries: int = 2

    @property
    def held_out(self) -> str:
        """What ``--hold-out`` is told: by what events are drawn, so that it is the same whatever files come."""
        return self.hold_out if isinstance(self.hold_out, str) else f"{self.hold_out:g}:entries"

    def __post_init__(self) -> None:
        _one_of("start", self.start, get_args(Start))
        if not isinstance(self.hold_out, str) and not 0 < self.hold_out < 1:
            raise ConfigError(
                f"project {self.name}: hold_out is a share of the events, such as 0.2; not {self.hold_out}"
            )
        if self.drift is not None and not self.drift > 0:
            raise ConfigError(f"project {self.name}: drift is a PSI above 0, such as 0.25; not {self.drift}")
        if not self.train:
            raise ConfigError(f"project {self.name}: train has the options of mlaas4hep-tf train, at least --label")


@dataclass(frozen=True)
class ServiceConfig:
    """The service.

    Attributes:
        folder: of ``service.toml``, which relative paths begin at.
        projects: by name.
        registry, served, state: folders; `served` may be the URL of a server that takes what is published.
        server: URL of the server that looks at the folder `served`.
        tokens: file of the tokens; None: only this machine may ask.
        host, port: where it listens.
        jobs: trainings at a time.
    """

    folder: Path
    projects: Mapping[str, Project] = field(default_factory=dict)
    registry: str = "registry"
    served: str = "served"
    state: str = "service"
    server: str | None = None
    tokens: str | None = None
    host: str = "127.0.0.1"
    port: int = 8502
    jobs: int = 1

    def __post_init__(self) -> None:
        if self.tokens is None and self.host not in ("127.0.0.1", "localhost", "::1"):
            raise ConfigError(f"who asks from elsewhere needs a token: with host {self.host!r} give tokens = FILE")
        for project in self.projects.values():
            if project.drift is not None and self.server is None:
                raise ConfigError(f"project {project.name}: drift is asked of server = URL, and there is none")
        if self.jobs < 1:
            raise ConfigError(f"jobs is at least 1, not {self.jobs}")

    def place(self, name: str) -> str:
        """A path as this process finds it; URLs are what they are."""
        return name if "://" in name else str(self.folder / name)


def load(path: Path) -> ServiceConfig:
    """Read ``service.toml``; where there is none, one to begin with is written.

    Raises:
        ConfigError: what is wrong in it.
    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(STARTER)
    try:
        content = tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    given = content.pop("project", {})
    projects = {name: _project(name, one, str(path)) for name, one in given.items()}
    return _made(ServiceConfig, {"folder": path.resolve().parent, "projects": projects}, content, str(path))


def _project(name: str, content: dict[str, Any], path: str) -> Project:
    where = f"{path}: project {name}"
    gate = _made(Gate, {}, content.pop("gate", {}), f"{where}: gate")
    return _made(Project, {"name": name, "gate": gate}, content, where)


def _made(kind: type[T], own: dict[str, Any], content: Mapping[str, Any], where: str) -> T:
    names = {one.name for one in fields(kind)} - set(own)  # type: ignore[arg-type]  # T is a dataclass
    for name in content:
        if name not in names:
            raise ConfigError(f"{where} has an unknown key {name!r}{near_misses(name, names)}")
    given = {name: tuple(value) if isinstance(value, list) else value for name, value in content.items()}
    try:
        return kind(**own, **given)
    except TypeError as error:
        raise ConfigError(f"{where}: {error}") from error


def _one_of(what: str, given: str, known: tuple[str, ...]) -> None:
    if given not in known:
        raise ConfigError(f"{what} is {' or '.join(known)}, not {given!r}")
