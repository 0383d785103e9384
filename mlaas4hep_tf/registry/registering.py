"""A run folder becomes a version of a model: kept, exported as what is served, and numbered."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path

from mlaas4hep_tf.exporter import export
from mlaas4hep_tf.reference import card_entry
from mlaas4hep_tf.registry.registry import Registry
from mlaas4hep_tf.runs.run import Run

REGISTERED = "registered.json"  # in a run folder: model, version and number of the run


def register_run(registry: Registry, run: Run, name: str, tags: Mapping[str, str] | None = None) -> int:
    """Keep a run and make it a version of a model, with the SavedModel that is served; returns the version.

    `REGISTERED` in the run folder tells of it.

    What was done already is not done twice, so after a crash it is simply called again.

    Raises:
        ModelError: a model that cannot be exported.
        RegistryError: a name that cannot be one.
    """
    number = registry.keep(run.folder)
    version = registry.version_of(name, number) or _register(registry, run, name, number, tags)
    scratch = run.folder / f".{REGISTERED}"
    scratch.write_text(json.dumps({"model": name, "version": version, "run": number}) + "\n")
    scratch.replace(run.folder / REGISTERED)
    return version


def _register(registry: Registry, run: Run, name: str, number: str, tags: Mapping[str, str] | None) -> int:
    told = {"metrics": run.metrics["parts"], "seed": run.config.seed, "trained": run.metrics["date"]}
    card = told | {"run": number, "version": None} | card_entry(run.config.files, run.specs)
    with tempfile.TemporaryDirectory() as scratch:
        folder = export(run.model, run, Path(scratch) / name / "1", card=card)
        return registry.register(name, number, folder, tags)
