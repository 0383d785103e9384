"""A registry as a folder that another one takes in: runs with their artifacts, models with versions and aliases."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mlaas4hep_tf.errors import RegistryError
from mlaas4hep_tf.registry.entries import VersionEntry
from mlaas4hep_tf.registry.records import Record, SeenFile
from mlaas4hep_tf.registry.registry import KEY, SAVEDMODEL, Registry

FORMAT = 1
_INDEX = "registry.json"


def export_registry(registry: Registry, to: Path, names: Sequence[str] = ()) -> int:
    """Write models, by default all, with the runs of their versions; returns how many versions there are.

    Raises:
        RegistryError: a folder that is not empty, or no such model.
    """
    if to.exists() and any(to.iterdir()):
        raise RegistryError(f"{to} is not empty: a registry is exported into a folder of its own")
    to.mkdir(parents=True, exist_ok=True)
    models = [registry.model(name) for name in names] or registry.models()
    content = []
    for model in models:
        versions = [_version(registry, one, to / "runs") for one in reversed(registry.versions(model.name))]
        content.append(
            {"name": model.name, "tags": model.tags, "aliases": model.aliases, "versions": versions}
        )  # fmt: skip
    (to / _INDEX).write_text(json.dumps({"format": FORMAT, "models": content}, indent=1) + "\n")
    return sum(len(one["versions"]) for one in content)


def _version(registry: Registry, one: VersionEntry, runs: Path) -> dict[str, Any]:
    key = one.of.tags[KEY]
    if not (runs / key).exists():
        for artifact in registry.artifacts(one.of.run):
            registry.fetch(one.of.run, artifact, runs / key)
        told = asdict(one.of) | {"curves": registry.curves(one.of.run)}
        (runs / key / "entry.json").write_text(json.dumps(told, indent=1) + "\n")
    return {"version": one.version, "tags": one.tags, "run": key}


def import_registry(registry: Registry, source: Path) -> int:
    """Take in what `export_registry` wrote; returns how many versions came.

    Raises:
        RegistryError: no such folder, or a model that is there already.
    """
    try:
        content = json.loads((source / _INDEX).read_text())
    except (OSError, ValueError) as error:
        raise RegistryError(f"{source} holds no exported registry: {error}") from error
    here = {one.name for one in registry.models()}
    twice = sorted(here & {model["name"] for model in content["models"]})
    if twice:
        raise RegistryError(
            f"{registry.where} has a model {twice[0]!r} already: export others, or delete it there first"
        )
    for model in content["models"]:
        for one in model["versions"]:
            _take_in(registry, source / "runs" / one["run"], model["name"], one)
        for alias, version in model["aliases"].items():
            registry.point(model["name"], alias, version)
    return sum(len(model["versions"]) for model in content["models"])


def _take_in(registry: Registry, folder: Path, name: str, one: dict[str, Any]) -> None:
    entry = json.loads((folder / "entry.json").read_text())
    curves = tuple(
        (f"epoch.{curve}", value, epoch)
        for curve, values in entry["curves"].items()
        for epoch, value in enumerate(values)
    )
    record = Record(
        entry["params"], entry["metrics"], curves, entry["tags"], tuple(SeenFile(**f) for f in entry["files"])
    )
    savedmodel = folder / SAVEDMODEL
    number = registry.keep_record(one["run"], record, folder / "run")
    registry.register(name, number, savedmodel if savedmodel.is_dir() else None, one["tags"], version=one["version"])
