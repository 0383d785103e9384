"""A training run as a folder: model, specs, configuration, metrics, plots and report."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from time import strftime
from typing import Any

import keras

from mlaas4hep_tf.dataset import RootDataset
from mlaas4hep_tf.errors import ConfigError, LabelError
from mlaas4hep_tf.models import build, wants_mask
from mlaas4hep_tf.report import write_report
from mlaas4hep_tf.specs import Specs
from mlaas4hep_tf.stream import PerFile
from mlaas4hep_tf.train import Evaluation, Fit, check_binary, evaluate, fit
from mlaas4hep_tf.transforms.normalize import Normalize

PARTS = ("train", "validation", "test")


@dataclass(frozen=True)
class RunConfig:
    """What defines a run, besides files and specs; defaults are the paper's (section 4.2) where it has one.

    Attributes:
        files: input files as the user named them.
        labels, weights: as for `RootDataset`.
        model: as for `models.build`.
        epochs, batch_size, split: as in the paper: 5, 100, and 64/16/20 %.
        seed: of weights, split and order.
        normalize, chunk_size, shuffle, workers: as for `RootDataset`.
        patience: epochs without a better validation loss after which training stops; None: never.
        max_events: use so many events of the data; None: all.
    """

    files: tuple[str, ...]
    labels: PerFile
    model: str = "mlp"
    epochs: int = 5
    batch_size: int = 100
    split: tuple[float, ...] = (0.64, 0.16, 0.20)
    seed: int = 0
    normalize: Normalize | None = "minmax"
    chunk_size: int = 100_000
    shuffle: bool = True
    weights: PerFile | None = None
    workers: int | None = None
    patience: int | None = None
    max_events: int | None = None

    def __post_init__(self) -> None:
        if len(self.split) != len(PARTS):
            raise ConfigError(f"a run is split in three, {', '.join(PARTS)}: {self.split} has {len(self.split)} parts")
        if self.epochs < 1:
            raise ConfigError(f"epochs must be at least 1, not {self.epochs}")

    def dataset(self, specs: Specs, *, mask: bool) -> RootDataset:
        ds = RootDataset(
            self.files, specs, labels=self.labels, weights=self.weights, batch_size=self.batch_size,
            chunk_size=self.chunk_size, shuffle=self.shuffle, seed=self.seed, normalize=self.normalize, mask=mask,
            workers=self.workers,
        )  # fmt: skip
        return ds.sample(self.max_events) if self.max_events and self.max_events < ds.entries else ds


@dataclass(frozen=True)
class Run:
    """A trained model with all that it needs to be applied again."""

    folder: Path
    model: keras.Model
    specs: Specs
    config: RunConfig
    metrics: Mapping[str, Any] = field(default_factory=dict)

    @staticmethod
    def load(folder: str | os.PathLike[str]) -> Run:
        """Read a run folder.

        Raises:
            ConfigError: a folder that holds no complete run.
        """
        path = Path(folder)
        try:
            content = json.loads((path / "config.json").read_text())
            metrics = json.loads((path / "metrics.json").read_text())
            model = keras.models.load_model(path / "model.keras")
        except (OSError, ValueError) as error:
            raise ConfigError(f"{path} holds no complete run: {error}; make one with `mlaas4hep-tf train`") from error
        fields: dict[str, Any] = {k: tuple(v) if k in ("files", "split") else v for k, v in content.items()}
        return Run(path, model, Specs.load(path / "specs.json"), RunConfig(**fields), metrics)


def train_run(
    config: RunConfig, specs: Specs, out: str | os.PathLike[str], *, overwrite: bool = False, verbose: int = 0
) -> Run:
    """Train as `config` says and leave a run folder.

    Raises:
        MlaasError: whatever is wrong with the data, before training where that can be known.
    """
    folder = Path(out)
    if (folder / "metrics.json").exists() and not overwrite:
        raise ConfigError(f"{folder} holds a run already; choose another folder, or overwrite it (--overwrite)")
    keras.utils.set_random_seed(config.seed)
    model = build(config.model, specs)
    ds = config.dataset(specs, mask=wants_mask(model))
    composition = ds.composition()
    check_binary(list(composition))
    if len(composition) == 1:
        raise LabelError(
            f"training needs events of two classes; all {ds.entries} events have label {next(iter(composition)):g}"
        )
    parts = dict(zip(PARTS, ds.split(*config.split), strict=True))
    folder.mkdir(parents=True, exist_ok=True)
    ds.specs.save(folder / "specs.json")
    (folder / "config.json").write_text(json.dumps(asdict(config), indent=1) + "\n")
    done = fit(
        model, parts["train"], parts["validation"], epochs=config.epochs, out=folder, patience=config.patience,
        verbose=verbose,
    )  # fmt: skip
    model.save(folder / "model.keras")
    results = {name: evaluate(model, part) for name, part in parts.items()}
    metrics = _metrics(config, ds, parts, done, results, model)
    (folder / "metrics.json").write_text(json.dumps(metrics, indent=1) + "\n")
    write_report(folder, metrics, ds.specs, done.history, results)
    return Run(folder, model, ds.specs, config, metrics)


def evaluate_run(run: Run, files: tuple[str, ...] = (), labels: PerFile | None = None) -> dict[str, Evaluation]:
    """Evaluate a run again: on the three parts of its own data, or on all events of other files."""
    mask = wants_mask(run.model)
    if files:
        ds = replace(run.config, files=files, labels=labels or run.config.labels).dataset(
            run.specs.unbound(), mask=mask
        )
        return {"files": evaluate(run.model, ds)}
    parts = run.config.dataset(run.specs, mask=mask).split(*run.config.split)
    return {name: evaluate(run.model, part) for name, part in zip(PARTS, parts, strict=True)}


def _metrics(
    config: RunConfig, ds: RootDataset, parts: Mapping[str, RootDataset], done: Fit,
    results: Mapping[str, Evaluation], model: keras.Model,
) -> dict[str, Any]:  # fmt: skip
    return {
        "parts": {
            name: result.summary() | {"composition": {f"{k:g}": v for k, v in parts[name].composition().items()}}
            for name, result in results.items()
        },
        "epochs": len(done.history["loss"]),
        "seconds": done.seconds,
        "events_per_s": done.events_per_s,
        "truncated": ds.truncated,
        "model": {"name": config.model, "parameters": model.count_params(), "backend": keras.backend.backend()},
        "seed": config.seed,
        "fingerprint": ds.specs.fingerprint,
        "date": strftime("%Y-%m-%d %H:%M"),
        "versions": {p: version(p) for p in ("mlaas4hep_tf", "tensorflow", "keras", "uproot", "awkward", "numpy")},
    }  # fmt: skip
