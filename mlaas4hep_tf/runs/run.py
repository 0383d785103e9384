"""A training run as a folder: model, specs, configuration, metrics, plots and report."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from time import strftime
from typing import Any

import keras

from mlaas4hep_tf.dataset import Mixing, RootDataset
from mlaas4hep_tf.errors import ConfigError, DataWarning, LabelError, MissingExtra, MissingExtraWarning, need
from mlaas4hep_tf.runs.importance import permutation_importance
from mlaas4hep_tf.streaming.skipped import OnBadFile
from mlaas4hep_tf.models import build, wants_mask
from mlaas4hep_tf.io.policy import DEFAULT_POLICY, ReadPolicy
from mlaas4hep_tf.scanner import scan
from mlaas4hep_tf.specs import Specs
from mlaas4hep_tf.streaming.chunks import PerFile
from mlaas4hep_tf.train import Evaluation, Fit, check_binary, evaluate, fit, over_training
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
        normalize, chunk_size, workers: as for `RootDataset`.
        patience: epochs without a better validation loss after which training stops; None: never.
        max_events: use so many events of the data; None: all.
        policy, cache, on_bad_file, max_lost_fraction: as for `RootDataset`.
        mixing: law by which the training part is mixed (`RootDataset.mixed`).
        balanced: weigh classes in training so that each has the same total weight.
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
    weights: PerFile | None = None
    workers: int | None = None
    patience: int | None = None
    max_events: int | None = None
    policy: ReadPolicy = DEFAULT_POLICY
    cache: str | None = None
    on_bad_file: OnBadFile = "raise"
    max_lost_fraction: float = 0.0
    mixing: Mixing = "proportional"
    balanced: bool = False

    def __post_init__(self) -> None:
        if len(self.split) != len(PARTS):
            raise ConfigError(f"a run is split in three, {', '.join(PARTS)}: {self.split} has {len(self.split)} parts")
        if abs(sum(self.split) - 1) > 1e-6:
            raise ConfigError(f"the fractions of a run must sum to 1, so that no event is left out, not {self.split}")
        if self.seed < 0:
            raise ConfigError(f"a seed must not be negative: {self.seed}")
        if self.patience is not None and self.patience < 1:
            raise ConfigError(f"patience must be at least 1 epoch, not {self.patience}")
        if self.epochs < 1:
            raise ConfigError(f"epochs must be at least 1, not {self.epochs}")

    def dataset(self, specs: Specs, *, mask: bool) -> RootDataset:
        ds = RootDataset(
            self.files, specs, labels=self.labels, weights=self.weights, batch_size=self.batch_size,
            chunk_size=self.chunk_size, seed=self.seed, normalize=self.normalize, mask=mask,
            workers=self.workers, policy=self.policy, cache=self.cache, on_bad_file=self.on_bad_file,
            max_lost_fraction=self.max_lost_fraction,
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
        except (OSError, ValueError, TypeError) as error:
            raise ConfigError(f"{path} holds no complete run: {error}; make one with `mlaas4hep-tf train`") from error
        fields: dict[str, Any] = {k: tuple(v) if k in ("files", "split") else v for k, v in content.items()}
        fields["policy"] = ReadPolicy(**content.get("policy", {}))
        return Run(path, model, Specs.load(path / "specs.json"), RunConfig(**fields), metrics)


def train_run(
    config: RunConfig, specs: Specs, out: str | os.PathLike[str], *, overwrite: bool = False, verbose: int = 0
) -> Run:
    """Train as `config` says and leave a run folder.

    Without the extra ``report`` there are no plots, no ``report.html`` and no check of over-training; a
    `MissingExtraWarning` says so before anything is read.

    Raises:
        MlaasError: whatever is wrong with the data, before training where that can be known.
    """
    folder = Path(out)
    if (folder / "metrics.json").exists() and not overwrite:
        raise ConfigError(f"{folder} holds a run already; choose another folder, or overwrite it (--overwrite)")
    reports = _can_report()
    config = replace(config, files=tuple(_absolute(name) for name in config.files))
    keras.utils.set_random_seed(config.seed)
    model = build(config.model, specs)
    ds = config.dataset(specs, mask=wants_mask(model))
    composition = ds.composition()
    check_binary(list(composition))
    if isinstance(config.labels, str):
        _check_label_branch(config)
    if len(composition) == 1:
        raise LabelError(
            f"training needs events of two classes; all {ds.entries} events have label {next(iter(composition)):g}"
        )
    parts = dict(zip(PARTS, ds.split(*config.split), strict=True))
    mixed = parts["train"].mixed(config.mixing)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.json").unlink(missing_ok=True)  # a run without them is not complete
    ds.specs.save(folder / "specs.json")
    (folder / "config.json").write_text(json.dumps(asdict(config), indent=1) + "\n")
    done = fit(
        model, mixed, parts["validation"], epochs=config.epochs, out=folder,
        patience=config.patience, class_weights="balanced" if config.balanced else None, verbose=verbose,
    )  # fmt: skip
    model.save(folder / "model.keras")
    results = {name: evaluate(model, part) for name, part in parts.items()}
    metrics = _metrics(config, ds, parts, done, results, model)
    if reports:
        over = over_training(results["train"], results["test"])
        metrics["over_training"] = {name: asdict(one) for name, one in over.items()}
    (folder / "metrics.json").write_text(json.dumps(metrics, indent=1) + "\n")
    if reports:
        from mlaas4hep_tf.runs.report import write_report  # an extra

        write_report(folder, metrics, ds.specs, done.history, results)
    return Run(folder, model, ds.specs, config, metrics)


def _can_report() -> bool:
    """Whether plots and report can be made; warns of it if not."""
    try:
        need("report", "matplotlib", "jinja2", "scipy", purpose="plots, report.html and the check of over-training")
    except MissingExtra as error:
        warnings.warn(str(error), MissingExtraWarning, stacklevel=3)
        return False
    return True


def evaluate_run(run: Run, files: tuple[str, ...] = (), labels: PerFile | None = None) -> dict[str, Evaluation]:
    """Evaluate a run again: on the three parts of its own data, or on all events of other files."""
    mask = wants_mask(run.model)
    if files:
        config = replace(run.config, files=files, labels=labels or run.config.labels, max_events=None)
        ds = config.dataset(run.specs.unbound(), mask=mask)
        return {"files": evaluate(run.model, ds)}
    ds = run.config.dataset(run.specs, mask=mask)
    if _identity(ds) != run.metrics["files"]:
        raise ConfigError(
            f"the files of {run.folder} are not those it was trained on, so its test part cannot be found again: "
            f"there are {len(ds.files)} now, {len(run.metrics['files'])} then; name files to evaluate them as a whole"
        )
    parts = ds.split(*run.config.split)
    return {name: evaluate(run.model, part) for name, part in zip(PARTS, parts, strict=True)}


def _absolute(name: str) -> str:
    """A run is found again from any working directory; URLs are what they are."""
    return name if "://" in name else os.path.abspath(os.path.expanduser(name))


def _identity(ds: RootDataset) -> list[list[Any]]:
    return [[file.uuid, file.num_entries] for file in ds.files]


def _check_label_branch(config: RunConfig) -> None:
    """Hold the values of a label branch to 0 and 1 before training, not after it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        (label,) = scan(config.files, branches=[str(config.labels)], identifiers=(), progress=False).branches
    if (label.min, label.max) != (0, 1) or label.nan:
        raise LabelError(
            f"label branch {label.name!r} must hold 0 for background and 1 for signal; it holds "
            f"{label.min} to {label.max}"
        )


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
        "input_wait": done.input_wait,
        "mixing": config.mixing,
        "composition": list(done.composition),
        "files": _identity(ds),
        "data": [
            {"file": file.url.split("/")[-1], "events": events, "label": label}
            for file, events, label in ds.files_and_labels()
        ],
        "importance": [asdict(one) for one in permutation_importance(model, parts["test"], seed=config.seed)],
        "truncated": {
            group: dict(zip(("events", "objects"), members[0].truncated, strict=True))
            for group, members in ds.specs.groups.items() if members[0].truncated[0]
        },
        "model": {"name": config.model, "parameters": model.count_params(), "backend": keras.backend.backend()},
        "seed": config.seed,
        "fingerprint": ds.specs.fingerprint,
        "date": strftime("%Y-%m-%d %H:%M"),
        "lost": ds.skipped.to_json() if ds.skipped is not None else [],
        "loss_report": ds.skipped.report() if ds.skipped is not None else [],
        "versions": {p: version(p) for p in _packages(keras.backend.backend())},
    }  # fmt: skip


def _packages(backend: str) -> list[str]:
    """What a run's numbers rest on; the names of Keras's backends are those of their packages."""
    return list(dict.fromkeys(("mlaas4hep_tf", "keras", backend, "tensorflow", "uproot", "awkward", "numpy")))
