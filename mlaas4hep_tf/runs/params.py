"""Reads ``params.json`` of the paper's programs, unchanged."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlaas4hep_tf.errors import ConfigError
from mlaas4hep_tf.io.branches import IDENTIFIERS, parse_patterns
from mlaas4hep_tf.streaming.defaults import BATCH_SIZE, CHUNK_SIZE

DEAD = {
    "split": "the paper's programs read it and never use it: the split is 64/16/20; use --split",
    "hist": "it has no effect in the paper's programs either",
    "nan": "padding is always 0 after normalisation, and masked",
    "verbose": "progress is shown on a terminal; --debug shows more of an error",
}
_KNOWN = ("nevts", "shuffle", "chunk_size", "epochs", "batch_size", "identifier", "branch", "selected_branches",
          "exclude_branches", "redirector")  # fmt: skip


@dataclass(frozen=True)
class PaperParams:
    """The keys of the paper's ``params.json`` that have a meaning here.

    Attributes:
        events: number of events to use (``nevts``); None for all (-1).
        tree: name of the tree (``branch``).
        identifiers: ``identifier``.
        branches, exclude: ``selected_branches``, ``exclude_branches``.
        redirector: put in front of ``/store/...`` file names.
        chunk_size, epochs, batch_size: the same.
        dead: keys of the file that have no effect -> why.

    Defaults are ours, for where there is no such file; those of a key that a file lacks are the paper's.
    """

    events: int | None = None
    tree: str | None = None
    identifiers: tuple[str, ...] = IDENTIFIERS
    branches: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    redirector: str = ""
    chunk_size: int = CHUNK_SIZE
    epochs: int = 5
    batch_size: int = BATCH_SIZE
    dead: Mapping[str, str] = field(default_factory=dict)

    @staticmethod
    def load(path: str | os.PathLike[str]) -> PaperParams:
        """Read the file.

        Raises:
            ConfigError: no such file, or values of the wrong type.
        """
        where = os.fspath(path)
        try:
            content = json.loads(Path(path).read_text())
        except (OSError, ValueError) as error:
            raise ConfigError(f"cannot read parameters {where}: {error}") from error
        if not isinstance(content, dict):
            raise ConfigError(f"{where} must hold a JSON object, not a {type(content).__name__}")
        events = _integer(content, "nevts", -1, where)
        return PaperParams(
            events=events if events > 0 else None,
            tree=str(content.get("branch", "Events")),
            identifiers=parse_patterns(content.get("identifier") or ("run", "event", "luminosityBlock")),
            branches=_patterns(content.get("selected_branches"), Path(path).parent),
            exclude=_patterns(content.get("exclude_branches"), Path(path).parent),
            redirector=str(content.get("redirector") or ""),
            chunk_size=_integer(content, "chunk_size", 1000, where),
            epochs=_integer(content, "epochs", 5, where),
            batch_size=_integer(content, "batch_size", 256, where),
            dead={k: DEAD.get(k, "it is unknown here") for k in content if k not in _KNOWN} | _unshuffled(content),
        )


def _unshuffled(content: Mapping[str, Any]) -> dict[str, str]:
    asked = content.get("shuffle", True) not in (False, 0, "False", "false")
    return {} if asked else {"shuffle": "training always mixes the files and shuffles the events"}


def _integer(content: Mapping[str, Any], key: str, default: int, where: str) -> int:
    value = content.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int):
        raise ConfigError(f"{key!r} in {where} must be an integer, not {value!r}")
    return value


def _patterns(value: Any, folder: Path) -> tuple[str, ...]:
    """A list, a comma string, or the name of a file of names."""
    if isinstance(value, str) and value:
        for path in (os.path.join(folder, value), value):
            if os.path.isfile(path):
                lines = (line.partition("#")[0].strip() for line in Path(path).read_text().splitlines())
                return tuple(line for line in lines if line)
    return parse_patterns(value or None)
