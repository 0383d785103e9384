"""What a run is asked to do, and what its folder tells: without TensorFlow, so that mistakes are told at once."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlaas4hep_tf.errors import ConfigError, PlanError
from mlaas4hep_tf.io.files import Source, expand, names_of
from mlaas4hep_tf.io.read_options import DEFAULT_READ, ReadOptions
from mlaas4hep_tf.model_names import check_model
from mlaas4hep_tf.specs import Specs
from mlaas4hep_tf.streaming.defaults import BATCH_SIZE, CHUNK_SIZE
from mlaas4hep_tf.streaming.targets import Labels, PerFile, check_law, per_file
from mlaas4hep_tf.tasks import Task, class_names, classes_of, numbered
from mlaas4hep_tf.transforms.normalize import Normalize, by_branch, check_normalize

if TYPE_CHECKING:
    from mlaas4hep_tf.dataset import Mixing, RootDataset

PARTS = ("train", "validation", "test")
MODEL, MODEL_SOURCE = "model.keras", "model.py"  # in a run folder


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
        classes, signal, one_against_rest, loss: as for `tasks.classes_of`; `classes` are names for labels 0, 1 ...
            that are numbers.
    """

    files: tuple[str, ...]
    labels: Labels
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
    classes: tuple[str, ...] = ()
    signal: str | None = None
    one_against_rest: bool = False
    loss: str | None = None
    read: ReadOptions = DEFAULT_READ

    def __post_init__(self) -> None:
        if len(self.split) != len(PARTS):
            raise ConfigError(f"a run is split in three, {', '.join(PARTS)}: {self.split} has {len(self.split)} parts")
        if abs(sum(self.split) - 1) > 1e-6:
            raise ConfigError(f"the fractions of a run must sum to 1, so that no event is left out, not {self.split}")
        if self.seed < 0:
            raise ConfigError(f"a seed must not be negative: {self.seed}")
        for name in ("epochs", "batch_size", "chunk_size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.patience is not None and self.patience < 1:
            raise ConfigError(f"patience must be at least 1 epoch, not {self.patience}")
        check_normalize(self.normalize)
        check_law(self.mixing)

    def check(self, tree: str | None, specs: Specs | None = None) -> None:
        """Hold the run to what can be known before anything is opened.

        Args:
            tree: of files that name none themselves, if it is known already.
            specs: if they are there already; then the normalisation must fit their branches.

        Raises:
            MlaasError: no such model or file, or labels, weights or mixing shares that do not fit the files.
        """
        check_model(self.model)
        if specs is not None:
            by_branch(specs, self.normalize)
        class_names(self.labels, self.signal)
        sources = expand(self.files, tree or None)
        if self.read.on_bad_file == "raise" and not any(s.listing or s.tree is None for s in sources):
            _check_targets(self, sources)  # else which files there are is known when they are opened

    def dataset(self, specs: Specs, *, mask: bool) -> RootDataset:
        from mlaas4hep_tf.dataset import RootDataset  # here: it imports TensorFlow

        ds = RootDataset(
            self.files, specs, labels=self.numbers(self.labels), weights=self.weights, batch_size=self.batch_size,
            chunk_size=self.chunk_size, seed=self.seed, normalize=self.normalize, mask=mask, read=self.read,
        )  # fmt: skip
        return ds.sample(self.max_events) if self.max_events and self.max_events < ds.entries else ds

    def numbers(self, labels: Labels) -> PerFile:
        """Labels as the numbers that they have in this run.

        Raises:
            LabelError: a name of no class.
        """
        return numbered(labels, class_names(self.labels, self.signal) or self.classes)

    def task(self, found: Sequence[float]) -> Task:
        """What the model is to tell.

        Args:
            found: the distinct labels, as numbers.

        Raises:
            LabelError: labels that are not those of classes.
        """
        loss = self.loss or "crossentropy"
        return Task(
            classes_of(
                self.labels, found, names=self.classes, signal=self.signal, one_against_rest=self.one_against_rest,
                loss=loss,
            )
        )  # fmt: skip

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
        own |= {name: tuple(own[name]) for name in ("files", "split", "classes") if name in own}
        return RunConfig(**own, read=ReadOptions.from_json({name: content[name] for name in reading}))


def _check_targets(config: RunConfig, sources: tuple[Source, ...]) -> None:
    """Raise LabelError for numbers per file that do not fit the files, or labels that are no classes."""
    files = [names_of(source.url, source.tree) for source in sources]
    labels = config.numbers(config.labels)
    if not isinstance(labels, str):
        config.task(per_file("labels", labels, files))
    if config.weights is not None and not isinstance(config.weights, str):
        per_file("weights", config.weights, files)
    if not isinstance(config.mixing, str):
        per_file("mixing shares", config.mixing, files)


@dataclass(frozen=True)
class Described:
    """All of a run folder but the model."""

    folder: Path
    config: RunConfig
    metrics: Mapping[str, Any]
    specs: Specs


def check_new(folder: str | os.PathLike[str], *, overwrite: bool) -> None:
    """Raise ConfigError where a run is already, unless it may be replaced."""
    if (Path(folder) / "metrics.json").exists() and not overwrite:
        raise ConfigError(f"{folder} holds a run already; choose another folder, or overwrite it (--overwrite)")


def describe(folder: str | os.PathLike[str]) -> Described:
    """Read a run folder up to its model.

    Raises:
        ConfigError: a folder that holds no complete run.
        SpecsError: one whose specs cannot be read.
    """
    path = Path(folder)
    try:
        config = RunConfig.from_json(json.loads((path / "config.json").read_text()))
        metrics = json.loads((path / "metrics.json").read_text())
        (path / MODEL).stat()
    except FileNotFoundError as error:
        what = f"{os.path.basename(error.filename)} is missing" if path.is_dir() else "there is no such folder"
        raise ConfigError(f"{path} holds no complete run, {what}; make one with `mlaas4hep-tf train`") from error
    except (OSError, ValueError, TypeError, PlanError) as error:
        raise ConfigError(f"{path} holds no complete run: {error}; make one with `mlaas4hep-tf train`") from error
    return Described(path, config, metrics, Specs.load(path / "specs.json"))
