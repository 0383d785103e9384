"""A training run as a folder: model, specs, configuration, metrics, plots and report."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from importlib.metadata import version
from pathlib import Path
from time import strftime
from typing import Any

import keras

from mlaas4hep_tf.dataset import Mixing, RootDataset
from mlaas4hep_tf.errors import ConfigError, LabelError, MissingExtra, MissingExtraWarning, need
from mlaas4hep_tf.io.read_options import DEFAULT_READ, ReadOptions
from mlaas4hep_tf.models import build, wants_mask
from mlaas4hep_tf.runs.importance import permutation_importance
from mlaas4hep_tf.specs import Specs, TargetSpec
from mlaas4hep_tf.streaming.defaults import BATCH_SIZE, CHUNK_SIZE
from mlaas4hep_tf.streaming.targets import PerFile
from mlaas4hep_tf.train import Evaluation, Fit, check_binary, evaluate, fit, over_training
from mlaas4hep_tf.transforms.normalize import Normalize
from mlaas4hep_tf.transforms.vector import Preprocessor

PARTS = ("train", "validation", "test")


@dataclass(frozen=True)
class RunConfig:
    """What defines a run, besides files and specs; defaults are the paper's (section 4.2) where it has one.

    Attributes:
        files: input files as the user named them.
        labels, weights: as for `RootDataset`.
        model: as for `models.build`.
        epochs, split: as in the paper: 5, and 64/16/20 %.
        seed: of weights, split and order.
        batch_size, normalize, chunk_size, read: as for `RootDataset`; the executor is not kept in the run folder.
        patience: epochs without a better validation loss after which training stops; None: never.
        max_events: use so many events of the data; None: all.
        mixing: law by which the training part is mixed (`RootDataset.mixed`).
        balanced: weigh classes in training so that each has the same total weight.
    """

    files: tuple[str, ...]
    labels: PerFile
    model: str = "mlp"
    epochs: int = 5
    batch_size: int = BATCH_SIZE
    split: tuple[float, ...] = (0.64, 0.16, 0.20)
    seed: int = 0
    normalize: Normalize | None = "minmax"
    chunk_size: int = CHUNK_SIZE
    weights: PerFile | None = None
    patience: int | None = None
    max_events: int | None = None
    mixing: Mixing = "proportional"
    balanced: bool = False
    read: ReadOptions = DEFAULT_READ

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
            chunk_size=self.chunk_size, seed=self.seed, normalize=self.normalize, mask=mask, read=self.read,
        )  # fmt: skip
        return ds.sample(self.max_events) if self.max_events and self.max_events < ds.entries else ds

    def to_json(self) -> dict[str, Any]:
        """The content of ``config.json``, where the options of reading stand beside the others."""
        own = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "read"}
        return own | self.read.to_json()

    @staticmethod
    def from_json(content: Mapping[str, Any]) -> RunConfig:
        """What `to_json` wrote.

        Raises:
            TypeError: keys that are missing or unknown.
        """
        reading = {f.name for f in fields(ReadOptions)} & set(content)
        own: dict[str, Any] = {name: value for name, value in content.items() if name not in reading}
        own |= {name: tuple(own[name]) for name in ("files", "split") if name in own}
        return RunConfig(**own, read=ReadOptions.from_json({name: content[name] for name in reading}))


@dataclass(frozen=True)
class Run:
    """A trained model with all that it needs to be applied again."""

    folder: Path
    model: keras.Model
    specs: Specs
    config: RunConfig
    metrics: Mapping[str, Any] = field(default_factory=dict)

    @property
    def preprocessor(self) -> Preprocessor:
        """What the model's input was made with."""
        return Preprocessor(self.specs, self.config.normalize)

    @staticmethod
    def load(folder: str | os.PathLike[str]) -> Run:
        """Read a run folder.

        Raises:
            ConfigError: a folder that holds no complete run.
        """
        path = Path(folder)
        try:
            config = RunConfig.from_json(json.loads((path / "config.json").read_text()))
            metrics = json.loads((path / "metrics.json").read_text())
            model = keras.models.load_model(path / "model.keras")
        except (OSError, ValueError, TypeError) as error:
            raise ConfigError(f"{path} holds no complete run: {error}; make one with `mlaas4hep-tf train`") from error
        return Run(path, model, Specs.load(path / "specs.json"), config, metrics)


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
    _check_labels(config, ds)
    parts = dict(zip(PARTS, ds.split(*config.split), strict=True))
    mixed = parts["train"].mixed(config.mixing)
    _begin(folder, config, ds.specs)
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


def _begin(folder: Path, config: RunConfig, specs: Specs) -> None:
    """Write what is known before training; without metrics a run is not complete."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.json").unlink(missing_ok=True)
    specs.save(folder / "specs.json")
    (folder / "config.json").write_text(json.dumps(config.to_json(), indent=1) + "\n")


def _can_report() -> bool:
    """Whether plots and report can be made; warns of it if not."""
    try:
        need("report", "matplotlib", "jinja2", "scipy", purpose="plots, report.html and the check of over-training")
    except MissingExtra as error:
        warnings.warn(str(error), MissingExtraWarning, stacklevel=3)
        return False
    return True


def evaluate_run(
    run: Run, files: tuple[str, ...] = (), labels: PerFile | None = None, *, read: ReadOptions | None = None
) -> dict[str, Evaluation]:
    """Evaluate a run again: on the three parts of its own data, or on all events of other files.

    Args:
        labels: of the other files; by default those of the run.
        read: how to read; by default as the run did.

    Raises:
        ConfigError: files of its own that are not those it was trained on.
    """
    mask = wants_mask(run.model)
    config = replace(run.config, read=read or run.config.read)
    if files:
        config = replace(config, files=files, labels=labels or config.labels, max_events=None)
        ds = config.dataset(run.specs.unbound(), mask=mask)
        return {"files": evaluate(run.model, ds)}
    ds = config.dataset(run.specs, mask=mask)
    if _identity(ds) != run.metrics["files"]:
        raise ConfigError(
            f"the files of {run.folder} are not those it was trained on, so its test part cannot be found again: "
            f"there are {len(ds.files)} now, {len(run.metrics['files'])} then; name files to evaluate them as a whole"
        )
    parts = ds.split(*config.split)
    return {name: evaluate(run.model, part) for name, part in zip(PARTS, parts, strict=True)}


def _absolute(name: str) -> str:
    """A run is found again from any working directory; URLs are what they are."""
    return name if "://" in name else os.path.abspath(os.path.expanduser(name))


def _identity(ds: RootDataset) -> list[list[Any]]:
    return [[file.uuid, file.num_entries] for file in ds.files]


def _check_labels(config: RunConfig, ds: RootDataset) -> None:
    """Raise LabelError before training, not after it, unless there are two classes, 0 and 1."""
    composition = ds.composition()
    check_binary(list(composition))
    if isinstance(config.labels, str):
        _check_label_branch(next(target for target in ds.specs.targets if target.name == config.labels))
    if len(composition) == 1:
        raise LabelError(
            f"training needs events of two classes; all {ds.entries} events have label {next(iter(composition)):g}"
        )


def _check_label_branch(label: TargetSpec) -> None:
    if [value for value, _ in label.found] != [0, 1] or label.not_finite:
        held = ", ".join(f"{value:g}" for value, _ in label.found) or f"{label.min} to {label.max}"
        raise LabelError(f"label branch {label.name!r} must hold 0 for background and 1 for signal; it holds {held}")


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
