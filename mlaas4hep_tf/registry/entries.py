"""What the registry holds, as it is told: runs, versions and models; and how they come out of MLflow's."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mlaas4hep_tf.registry.records import SeenFile

if TYPE_CHECKING:
    from mlflow.entities import Run as MlflowRun


@dataclass(frozen=True)
class RunEntry:
    """A run as it is kept.

    Attributes:
        run: MLflow's number of the run.
        params, metrics, tags: as in `records.Record`, and what was tagged later.
        files: that it was trained on.
        created: milliseconds since 1970.
    """

    run: str
    params: Mapping[str, str]
    metrics: Mapping[str, float]
    tags: Mapping[str, str]
    files: tuple[SeenFile, ...]
    created: int


@dataclass(frozen=True)
class VersionEntry:
    """A version of a model.

    Attributes:
        name, version: of the model.
        aliases: ``champion`` ...
        tags: of the version.
        of: its run.
        created: milliseconds since 1970.
    """

    name: str
    version: int
    aliases: tuple[str, ...]
    tags: Mapping[str, str]
    of: RunEntry
    created: int

    @property
    def auc(self) -> float | None:
        """On the test part."""
        return self.of.metrics.get("test.auc")


@dataclass(frozen=True)
class ModelEntry:
    """A registered model: its tags, the newest version, and alias -> version."""

    name: str
    tags: Mapping[str, str]
    newest: int | None
    aliases: Mapping[str, int] = field(default_factory=dict)


def profile(one: SeenFile) -> str:
    """What MLflow keeps of a file besides its uuid and URL."""
    return json.dumps({"events": one.events, "label": one.label})


def _seen(given: Any) -> SeenFile:
    told = json.loads(given.dataset.profile or "{}")
    return SeenFile(given.dataset.digest, given.dataset.source, told.get("events", 0), told.get("label"))


def run_entry(run: MlflowRun) -> RunEntry:
    """A run of MLflow's."""
    tags = {name: value for name, value in run.data.tags.items() if not name.startswith("mlflow.")}
    files = tuple(sorted((_seen(one) for one in run.inputs.dataset_inputs), key=lambda one: (one.name, one.uuid)))
    return RunEntry(run.info.run_id, dict(run.data.params), dict(run.data.metrics), tags, files, run.info.start_time)


def model_entry(model: Any) -> ModelEntry:
    """A registered model of MLflow's."""
    newest = max((int(one.version) for one in model.latest_versions), default=None)
    return ModelEntry(model.name, dict(model.tags), newest, {k: int(v) for k, v in model.aliases.items()})


def aliases_of(aliases: Mapping[str, int], version: int) -> tuple[str, ...]:
    """Of one version."""
    return tuple(sorted(alias for alias, number in aliases.items() if number == version))
