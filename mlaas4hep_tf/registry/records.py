"""A run folder as what the registry keeps of it: parameters, metrics, curves, tags and the files it was trained on."""

from __future__ import annotations

import csv
import json
import math
import re
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlaas4hep_tf.runs.config import Described

_LONGEST = 5000  # characters of a parameter or a tag; MLflow takes 6000 and 8000
_ODD = re.compile(r"[^\w\-./ :]")  # what the name of a metric may not have
LEFT_OUT = (".lock", "tensorboard", "training.ckpt", "registry.json", "registered.json")  # of a run folder


@dataclass(frozen=True)
class SeenFile:
    """A ROOT file that a model was trained on.

    Attributes:
        uuid: of the file, wherever it lies.
        name: URL as it was read, or what is known of it.
        events: that it gave to the run, in all three parts.
        label: of the file; None where labels are a branch.
    """

    uuid: str
    name: str
    events: int
    label: float | None = None


@dataclass(frozen=True)
class Record:
    """What is kept of a run.

    Attributes:
        params: option -> value as text, nested names with dots.
        metrics: ``test.auc`` ... -> value.
        curves: (name, value, epoch), epochs from 0.
        tags: what else identifies it: fingerprint of the data, commit, versions of the software.
        files: that it was trained on.
    """

    params: Mapping[str, str]
    metrics: Mapping[str, float]
    curves: tuple[tuple[str, float, int], ...]
    tags: Mapping[str, str]
    files: tuple[SeenFile, ...]


def record_of(run: Described) -> Record:
    """What a complete run folder tells."""
    metrics = run.metrics
    figures = {name: metrics.get(name) for name in ("epochs", "seconds", "events_per_s", "input_wait")}
    config = run.config.to_json()
    options = dict(_flat(config.pop("recipe"), "recipe."))  # the others have names and patterns of the user's as keys
    params = {name: _text(value) for name, value in {**config, **options}.items() if value is not None}
    tags = {
        "data.fingerprint": str(metrics["fingerprint"]),
        "data.tree": run.specs.tree,
        "data.entries": str(run.specs.entries),
        "trained": str(metrics["date"]),
        "command": _text(metrics.get("command", "")),
        "git.commit": commit(),
        **{f"software.{name}": version for name, version in metrics.get("versions", {}).items()},
    }
    return Record(
        params, _numbers({**metrics["parts"], **figures}), tuple(_curves(run.folder / "history.csv")),
        {name: value for name, value in tags.items() if value}, _files(run),
    )  # fmt: skip


def commit(folder: str = ".") -> str:
    """The commit of the working tree around a folder, with ``+`` where it was changed; nothing where there is none."""
    try:
        told = subprocess.run(
            ["git", "-C", folder, "describe", "--always", "--abbrev=40", "--dirty=+"],
            capture_output=True, text=True, timeout=10, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):  # no git here, or a file system that does not answer
        return ""
    return told.stdout.strip() if told.returncode == 0 else ""


def _files(run: Described) -> tuple[SeenFile, ...]:
    urls = {file.uuid: file.url for file in run.specs.files}
    pairs = zip(run.metrics["files"], run.metrics["data"], strict=True)
    return tuple(SeenFile(uuid, urls.get(uuid, one["file"]), one["events"], one["label"]) for (uuid, _), one in pairs)


def _numbers(content: Mapping[str, Any]) -> dict[str, float]:
    found = {_ODD.sub("_", name): value for name, value in _flat(content)}
    return {
        name: float(value)
        for name, value in found.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    }


def _flat(content: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in content.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{above}{name}.")
        else:
            yield f"{above}{name}", value


def _text(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ..."


def _curves(history: Path) -> Iterator[tuple[str, float, int]]:
    if not history.exists():
        return
    with history.open(newline="") as file:
        for row in csv.DictReader(file):
            epoch = int(row.pop("epoch"))
            for name, value in row.items():
                if value and math.isfinite(float(value)):
                    yield f"epoch.{_ODD.sub('_', name)}", float(value), epoch
