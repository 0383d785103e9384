"""What a run is asked to do, and what its folder tells: without TensorFlow, so that mistakes are told at once."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from mlaas4hep_tf.cross_sections import CrossSections
from mlaas4hep_tf.drawing import Folds, HoldOut
from mlaas4hep_tf.errors import ConfigError, LabelError, PlanError, ResumeError, near_misses
from mlaas4hep_tf.io.branches import Selection
from mlaas4hep_tf.io.files import Source, expand, names_of
from mlaas4hep_tf.io.read_options import DEFAULT_READ, ReadOptions
from mlaas4hep_tf.io.workers import WorkerPool
from mlaas4hep_tf.model_names import check_form, check_model
from mlaas4hep_tf.recipe import DEFAULT_RECIPE, Recipe
from mlaas4hep_tf.reweighting import Reweight
from mlaas4hep_tf.specs import Specs, TargetSpec
from mlaas4hep_tf.streaming.defaults import BATCH_SIZE, CHUNK_SIZE
from mlaas4hep_tf.streaming.open_files import befriended, inspect_source
from mlaas4hep_tf.streaming.position import differences
from mlaas4hep_tf.streaming.targets import Labels, PerFile, check_law, flat_branch, per_file
from mlaas4hep_tf.tasks import QUANTILES, Classes, Losses, Regression, class_names, classes_of, loss_of, numbered
from mlaas4hep_tf.transforms.augmentation import Augmentation
from mlaas4hep_tf.transforms.image_axes import Image
from mlaas4hep_tf.transforms.normalize import Normalize, by_branch, check_normalize

if TYPE_CHECKING:
    from mlaas4hep_tf.dataset import Mixing, RootDataset
    from mlaas4hep_tf.streaming.pipeline import DataLayout

LAYOUTS = ("vector", "columns", "objects", "ragged")  # images are an option of their own
PARTS = ("train", "validation", "test")
SPLIT, SPLIT_OF_REST = (0.64, 0.16, 0.20), (0.8, 0.2)  # the paper's, and what is left of it without the test
MODEL, MODEL_SOURCE = "model.keras", "model.py"  # in a run folder
_CONFIGURED = (  # parts that are configurations themselves
    "recipe", "image", "augmentation", "hold_out", "folds", "reweight", "expected",
)  # fmt: skip
METRICS = "metrics.json"  # in a run folder that is complete
CHECKPOINT = "training.ckpt"  # in a run folder, as long as it is trained


@dataclass(frozen=True)
class RunConfig:
    """What defines a run, besides files and specs; defaults are the paper's (section 4.2) where it has one.

    Attributes:
        files: input files as the user named them.
        labels, weights, friends: as for `RootDataset`.
        model: as for `models.build`.
        epochs: as in the paper, 5.
        split: fractions for training, validation and test, by default the paper's 64/16/20 %; of two the test is what
            is held out, by default 80/20 %; none with folds, which are the parts.
        seed: of weights, split and order.
        batch_size, normalize, chunk_size, read: as for `RootDataset`; the executor is not kept in the run folder.
        patience: epochs without a better validation loss after which training stops; None: never.
        max_events: use so many events of the data; None: all.
        mixing: law by which the training part is mixed (`RootDataset.mixed`).
        balanced: weigh classes in training so that each has the same total weight.
        layout: what the model takes: ``vector``, ``columns``, ``objects`` or ``ragged``, as for `RootDataset`.
        image: it takes this image instead.
        classes, signal, one_against_rest: as for `tasks.classes_of`; `classes` are names for labels 0, 1 ... that are
            numbers.
        loss: of what is told; of several things by target, ``classes`` and ``*`` for the other targets.
        regression: the branch of labels has a number to be told, and not classes.
        targets: branches of numbers that are told beside the labels, each by an output of its own.
        quantiles: of numbers, for ``loss="quantile"``; by default 0.16, 0.5 and 0.84.
        recipe: how the weights are found.
        class_weights: name of a class -> factor of the weight of its events in training.
        augmentation: random changes of the events that are trained on.
        continue_from: run folder whose model is trained on; None: a new one.
        reweight: weigh the training events so that classes have one distribution of some branches.
        expected: cross sections and luminosity by which weights are scaled (`RootDataset.scaled`).
        hold_out: events that are no part of training; without folds they are the test part, and with folds a part of
            their own, told by the mean of all models.
        folds: the parts are folds of what is not held out, and there is a model for each of them.
        fold: whose model this run trains: fold `fold` is its test, the next one its validation.
    """

    files: tuple[str, ...]
    labels: Labels
    model: str = "mlp"
    epochs: int = 5
    batch_size: int = BATCH_SIZE
    split: tuple[float, ...] = ()
    seed: int = 0
    normalize: Normalize | None = "minmax"
    chunk_size: int = CHUNK_SIZE
    weights: PerFile | None = None
    friends: Mapping[str, Sequence[str]] | None = None
    patience: int | None = None
    max_events: int | None = None
    mixing: Mixing = "proportional"
    balanced: bool = False
    layout: str = "vector"
    image: Image | None = None
    classes: tuple[str, ...] = ()
    signal: str | None = None
    one_against_rest: bool = False
    loss: Losses | None = None
    regression: bool = False
    targets: tuple[str, ...] = ()
    quantiles: tuple[float, ...] = ()
    recipe: Recipe = DEFAULT_RECIPE
    class_weights: Mapping[str, float] | None = None
    continue_from: str | None = None
    reweight: Reweight | None = None
    expected: CrossSections | None = None
    hold_out: HoldOut | None = None
    folds: Folds | None = None
    fold: int = 0
    augmentation: Augmentation | None = None
    read: ReadOptions = DEFAULT_READ

    def __post_init__(self) -> None:
        self._check_parts()
        if self.seed < 0:
            raise ConfigError(f"a seed must not be negative: {self.seed}")
        for name in ("epochs", "batch_size", "chunk_size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.patience is not None and self.patience < 1:
            raise ConfigError(f"patience must be at least 1 epoch, not {self.patience}")
        if self.balanced and self.class_weights is not None:
            raise ConfigError(
                "classes are balanced or have weights of their own: take one of balanced and class_weights"
            )
        if self.layout not in LAYOUTS:
            raise ConfigError(f"layout must be one of {', '.join(LAYOUTS)}, not {self.layout!r}")
        if self.layout != "vector" and self.image is not None:
            raise ConfigError(f"a model takes an image or {self.layout}: give layout or image, not both")
        if self.regression and not isinstance(self.labels, str):
            raise ConfigError(f"a number that is to be told is a branch of the events, not {self.labels}")
        if isinstance(self.loss, Mapping):
            self._check_losses(self.loss)
        check_normalize(self.normalize)
        check_law(self.mixing)

    @property
    def numbers_told(self) -> tuple[str, ...]:
        """Branches of the numbers that the model tells."""
        return (*((self.labels,) if self.regression and isinstance(self.labels, str) else ()), *self.targets)

    def _check_losses(self, losses: Mapping[str, str]) -> None:
        known = (*self.numbers_told, "*", *(() if self.regression else ("classes",)))
        unknown = next((name for name in losses if name not in known), None)
        if unknown is not None:
            raise ConfigError(f"a loss of {unknown!r}, which is not told{near_misses(unknown, known)}: {known} are")

    def _check_parts(self) -> None:
        if self.folds is not None and self.split:
            raise ConfigError(f"folds are the parts of a run, so there is no split beside them, such as {self.split}")
        if self.folds is not None and not 0 <= self.fold < self.folds.count:
            raise ConfigError(f"fold must be 0 to {self.folds.count - 1}, not {self.fold}")
        if len(self.fractions) != (3 if self.hold_out is None else 2):
            what = "in three, " + ", ".join(PARTS) if self.hold_out is None else "in two, as the test is held out"
            raise ConfigError(f"a run is split {what}: {self.split} has {len(self.split)} parts")
        if abs(sum(self.fractions) - 1) > 1e-6:
            raise ConfigError(f"the fractions of a run must sum to 1, so that no event is left out, not {self.split}")

    @property
    def fractions(self) -> tuple[float, ...]:
        """Those of the split, as they were given or by default."""
        return self.split or (SPLIT if self.hold_out is None else SPLIT_OF_REST)

    def check(self, tree: str | None, specs: Specs | None = None) -> None:
        """Hold the run to what can be known before anything is opened.

        Args:
            tree: of files that name none themselves, if it is known already.
            specs: if they are there already; then the normalisation must fit their branches.

        Raises:
            MlaasError: no such model or file, or labels, weights or mixing shares that do not fit the files.
        """
        check_model(self.model)
        check_form(self.model, image=self.image is not None, form=self.layout)
        if specs is not None:
            by_branch(specs, self.normalize)
            if self.image is not None:
                self.image.check(specs)
            if self.augmentation is not None:
                self.augmentation.branches(specs)
        class_names(self.labels, self.signal)
        sources = expand(self.files, tree or None)
        if self.read.on_bad_file == "raise" and not any(s.listing or s.tree is None for s in sources):
            _check_targets(self, sources)  # else which files there are is known when they are opened
            if specs is not None:
                _check_branches(self, specs, sources)

    def dataset(self, specs: Specs, *, mask: bool) -> RootDataset:
        from mlaas4hep_tf.dataset import RootDataset  # here: it imports TensorFlow

        several = self.regression and bool(self.targets)
        ds = RootDataset(
            self.files, specs, friends=self.friends, weights=self.weights,
            labels=None if several else self.numbers(self.labels),
            targets=self.numbers_told if several else self.targets,
            batch_size=self.batch_size, chunk_size=self.chunk_size, seed=self.seed, normalize=self.normalize, mask=mask,
            layout="image" if self.image else cast("DataLayout", self.layout), image=self.image, read=self.read,
        )  # fmt: skip
        if self.expected is not None:
            ds = ds.scaled(self.expected.pb, self.expected.luminosity, self.expected.sumw)
        drawn = self.hold_out is not None or self.folds is not None
        return ds if drawn else self._sample(ds)

    def _sample(self, ds: RootDataset) -> RootDataset:
        return ds.sample(self.max_events) if self.max_events and self.max_events < ds.entries else ds

    def parts(self, ds: RootDataset) -> dict[str, RootDataset]:
        """Training, validation and test of the whole data."""
        held = None
        if self.hold_out is not None:
            ds, held = ds.hold_out(self.hold_out.share, by=self.hold_out.by)
        if self.folds is not None:
            fold = ds.fold(self.fold, self.folds.count, by=self.folds.by)
            return {"train": self._sample(fold.train), "validation": fold.validation, "test": fold.test}
        parts = (self._sample(ds) if held is not None else ds).split(*self.fractions)
        return dict(zip(PARTS, (*parts, held) if held is not None else parts, strict=True))

    def held_out(self, ds: RootDataset) -> RootDataset | None:
        """What is held out of the whole data, which no fold has; None where nothing is."""
        if self.hold_out is None:
            return None
        return ds.hold_out(self.hold_out.share, by=self.hold_out.by)[1]

    def numbers(self, labels: Labels) -> PerFile:
        """Labels as the numbers that they have in this run.

        Raises:
            LabelError: a name of no class.
        """
        return numbered(labels, class_names(self.labels, self.signal) or self.classes)

    def head(self, found: Sequence[float]) -> Classes:
        """The classes that the model is to tell apart.

        Args:
            found: the distinct labels, as numbers.

        Raises:
            LabelError: labels that are not those of classes.
        """
        loss = loss_of(self.loss, mixed=bool(self.targets)) or "crossentropy"
        return classes_of(
            self.labels, found, names=self.classes, signal=self.signal, one_against_rest=self.one_against_rest,
            loss=loss,
        )  # fmt: skip

    def number(self, target: TargetSpec) -> Regression:
        """A number that the model is to tell.

        Raises:
            LabelError: a target with events without a finite number, or with one value.
        """
        if target.not_finite:
            raise LabelError(
                f"target {target.name!r} is NaN or infinite in {target.not_finite} of {target.values} events: select "
                "those that have it, for example by scan(select=...)"
            )
        if target.mean is None or target.variance is None:
            raise LabelError(f"these specs do not know mean and variance of target {target.name!r}; scan again")
        loss = loss_of(self.loss, target.name, mixed=not self.regression) or "mse"
        several = len(self.numbers_told) > 1
        quantiles = self.quantiles or QUANTILES
        if loss != "quantile" and (several or not self.quantiles):
            quantiles = ()
        return Regression(target.name, target.mean, math.sqrt(target.variance), loss, tuple(quantiles))

    def to_json(self) -> dict[str, Any]:
        """The content of ``config.json``, where the options of reading stand beside the others."""
        own = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "read"}
        parts = {name: asdict(one) if (one := getattr(self, name)) is not None else None for name in _CONFIGURED}
        return own | parts | self.read.to_json()

    @staticmethod
    def from_json(content: Mapping[str, Any]) -> RunConfig:
        """What `to_json` wrote.

        Raises:
            TypeError: keys that are missing or unknown.
        """
        content = {**content, "recipe": Recipe(**content["recipe"])} if "recipe" in content else content
        if content.get("augmentation") is not None:
            content = {**content, "augmentation": Augmentation.from_json(content["augmentation"])}
        reading = {f.name for f in fields(ReadOptions)} & set(content)
        own: dict[str, Any] = {name: value for name, value in content.items() if name not in reading}
        own |= {
            name: make(**own[name])
            for name, make in (("hold_out", HoldOut), ("folds", Folds), ("expected", CrossSections))
            if own.get(name)
        }
        if own.get("reweight"):
            own["reweight"] = Reweight.from_json(own["reweight"])
        own |= {name: tuple(own[name]) for name in ("files", "split", "classes", "quantiles", "targets") if name in own}
        if own.get("image") is not None:
            own["image"] = Image.from_json(own["image"])
        return RunConfig(**own, read=ReadOptions.from_json({name: content[name] for name in reading}))


def _check_targets(config: RunConfig, sources: tuple[Source, ...]) -> None:
    """Raise LabelError for numbers per file that do not fit the files, or labels that are no classes."""
    files = [names_of(source.url, source.tree, source.dataset) for source in sources]
    labels = config.numbers(config.labels)
    if not isinstance(labels, str):
        config.head(per_file("labels", labels, files))
    if config.weights is not None and not isinstance(config.weights, str):
        per_file("weights", config.weights, files)
    if not isinstance(config.mixing, str):
        per_file("mixing shares", config.mixing, files)


def _check_branches(config: RunConfig, specs: Specs, sources: tuple[Source, ...]) -> None:
    """Raise BranchError for labels or weights that are no branch of the first file; what was scanned is known."""
    known = {target.name for target in specs.targets}
    pool = WorkerPool(config.read)
    first = specs.with_friends(befriended(sources, config.friends, specs.identifiers, pool))[0]
    told = (("labels", config.labels), *(("targets", name) for name in config.targets), ("weights", config.weights))
    for what, given in told:
        if isinstance(given, str) and given not in known:
            flat_branch(what, given, [pool.run(inspect_source, Selection((given,)), (given,), first)])


def folds_of(folder: str | os.PathLike[str]) -> int:
    """How many folds a folder has runs of; 0 if it is no run of folds."""
    known = Path(folder) / "folds.json"
    return int(json.loads(known.read_text())["count"]) if known.exists() else 0


def first_run(folder: str | os.PathLike[str]) -> Path:
    """The folder of a run itself, or that of its first fold."""
    return Path(folder) / "fold_0" if folds_of(folder) else Path(folder)


@dataclass(frozen=True)
class Described:
    """All of a run folder but the model."""

    folder: Path
    config: RunConfig
    metrics: Mapping[str, Any]
    specs: Specs


def check_new(folder: str | os.PathLike[str], *, overwrite: bool, resume: bool = False) -> None:
    """Raise ConfigError where a run is already, or one that was begun, unless it may be replaced or gone on with."""
    if overwrite and resume:
        raise ConfigError("a run is either gone on with or begun anew: resume or overwrite, not both")
    if (Path(folder) / METRICS).exists() and not overwrite and not resume:
        raise ConfigError(f"{folder} holds a run already; choose another folder, or overwrite it (--overwrite)")
    if (Path(folder) / CHECKPOINT).exists() and not overwrite and not resume:
        raise ConfigError(
            f"{folder} holds a training that was begun; go on with it (--resume), or begin anew (--overwrite)"
        )


def check_same(folder: Path, config: RunConfig) -> None:
    """Raise ResumeError unless a training that was begun there is the same, but for how files are read."""
    known = folder / "config.json"
    if not known.exists():
        return
    then, now = json.loads(known.read_text()), json.loads(json.dumps(config.to_json()))
    reading = DEFAULT_READ.to_json()
    differs = differences(*({k: v for k, v in c.items() if k not in reading} for c in (then, now)))
    if differs:
        raise ResumeError(f"{folder}: a training can only go on as it was begun; other {differs}")


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
