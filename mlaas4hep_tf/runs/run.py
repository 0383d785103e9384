"""A training run as a folder: model, specs, configuration, metrics, plots and report."""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from time import strftime
from typing import Any

import keras

from mlaas4hep_tf.dataset import RootDataset
from mlaas4hep_tf.errors import (
    ConfigError,
    DataWarning,
    LabelError,
    MissingExtra,
    MissingExtraWarning,
    near_misses,
    need,
    shorten,
)
from mlaas4hep_tf.evaluation import Evaluated, over_training
from mlaas4hep_tf.heads import check as check_outputs
from mlaas4hep_tf.io.read_options import ReadOptions
from mlaas4hep_tf.models import build, definitions, wants_mask
from mlaas4hep_tf.resume import Together
from mlaas4hep_tf.reweight import fitted
from mlaas4hep_tf.runs.config import (
    CHECKPOINT,
    METRICS,
    MODEL,
    MODEL_SOURCE,
    Described,
    RunConfig,
    check_new,
    check_same,
    describe,
)
from mlaas4hep_tf.runs.importance import permutation_importance
from mlaas4hep_tf.runs.inputs import distributions
from mlaas4hep_tf.runs.interrupt import Interrupt
from mlaas4hep_tf.runs.lock import held
from mlaas4hep_tf.runs.processes import ALONE, Processes
from mlaas4hep_tf.runs.together import Watchdog, met
from mlaas4hep_tf.specs import Specs, TargetSpec
from mlaas4hep_tf.streaming.targets import Labels, described
from mlaas4hep_tf.tasks import SIGNAL_OR_NOT, Classes, Task, numbered
from mlaas4hep_tf.train import ClassWeights, Fit, evaluate, fit
from mlaas4hep_tf.transforms.normalize import scaling
from mlaas4hep_tf.transforms.vector import Preprocessor


@dataclass(frozen=True)
class Run:
    """A trained model with all that it needs to be applied again; where it was just trained, its results by part."""

    folder: Path
    model: keras.Model
    specs: Specs
    config: RunConfig
    metrics: Mapping[str, Any] = field(default_factory=dict)
    results: Mapping[str, Evaluated] = field(default_factory=dict)

    @property
    def preprocessor(self) -> Preprocessor:
        """What the model's input was made with."""
        return Preprocessor(self.specs, self.config.normalize, self.config.image, self.config.layout)

    @cached_property
    def task(self) -> Task:
        """What the model tells."""
        known = self.metrics.get("task")
        return Task.from_json(known) if known else SIGNAL_OR_NOT  # runs of older versions told no other

    @staticmethod
    def load(folder: str | os.PathLike[str]) -> Run:
        """Read a run folder.  The user's ``model.py``, of which a copy lies there, is run for the layers it defines.

        Raises:
            ConfigError: a folder that holds no complete run, or a model that cannot be loaded.
        """
        found = describe(folder)
        return Run(found.folder, _load_model(found), found.specs, found.config, found.metrics)


def _load_model(run: Described) -> keras.Model:
    own = _definitions(run)
    try:
        # who runs the user's own file for its layers may as well load its lambdas
        return keras.models.load_model(run.folder / MODEL, custom_objects=own, safe_mode=not own)
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(f"the model of {run.folder} cannot be loaded: {_cause(error)}") from error


def _cause(error: Exception) -> str:
    """The one line that matters of what Keras says, which has the whole configuration of the model around it."""
    said = str(error).rpartition("Exception encountered: ")[2].partition(" Full object config")[0]
    return next(iter(said.strip().splitlines()), type(error).__name__)


def _definitions(run: Described) -> dict[str, Any]:
    """What the user's model may consist of; what their file imports is looked for beside the original."""
    copy = run.folder / MODEL_SOURCE
    if copy.is_file():
        return definitions(str(copy), beside=os.path.dirname(run.config.model))
    return definitions(run.config.model)


def train_run(
    config: RunConfig, specs: Specs, out: str | os.PathLike[str], *, overwrite: bool = False, verbose: int = 0,
    command: str = "", checkpoint_every: int | str = "60s", resume: bool = False, interrupt: Interrupt | None = None,
    processes: Processes = ALONE,
) -> Run:  # fmt: skip
    """Train as `config` says and leave a run folder; the report tells the `command` that asked for it.

    Without the extra ``report`` there are no plots, no ``report.html`` and no check of over-training; a
    `MissingExtraWarning` says so before anything is read.

    As long as it trains, a checkpoint lies in the folder, with which `resume` goes on to the same model
    (`resume.Resume`), and behind its end has nothing to do; it is written every so many steps or seconds, and when an
    `interrupt` asks for it.

    Of several `processes` that train one model each calls this.  The size of a batch is that of each.  The first one
    alone writes, and judges the model when the others have ended; the run of the others has no metrics.

    Raises:
        ResumeError: what was begun there is another training; says what differs.
        ConfigError: another training holds the folder.
        MlaasError: whatever is wrong with the data, before training where that can be known.
    """
    folder = Path(out)
    check_new(folder, overwrite=overwrite, resume=resume)
    config.check(specs.tree, specs)
    reports = can_report()
    if processes.count > 1 and config.read.on_bad_file == "skip":
        raise ConfigError(
            "processes that train one model wait for each other at every step, so none of them may skip data: take "
            "on_bad_file='raise'"
        )
    with held(folder) if processes.writes else nullcontext():
        return _train(config, specs, folder, reports, verbose, command, checkpoint_every, resume, interrupt, processes)


def _train(
    config: RunConfig, specs: Specs, folder: Path, reports: bool, verbose: int, command: str,
    checkpoint_every: int | str, resume: bool, interrupt: Interrupt | None, processes: Processes,
) -> Run:  # fmt: skip
    friends = {name: [_absolute(file) for file in files] for name, files in (config.friends or {}).items()} or None
    files = tuple(_absolute(name) for name in config.files)
    config = replace(config, files=files, friends=friends, model=_own_file(config.model))
    if resume:
        check_same(folder, config)
        if (folder / METRICS).exists():
            return Run.load(folder)
    keras.utils.set_random_seed(config.seed)
    ds = config.dataset(specs, mask=False)
    _tell_idle(config, ds.specs)
    task = task_of(config, ds.specs, ds.composition())
    with met(processes) if processes.count > 1 else nullcontext(), _written_to(folder, processes) as out:
        model = _model(config, ds.preprocessor, task)
        ds = ds.masked(wants_mask(model, config.layout))
        parts = config.parts(ds)
        reweight, classes = config.reweight, task.class_names
        reweighted = fitted(reweight, parts["train"], classes) if reweight is not None else None
        if processes.writes:
            _begin(folder, config, ds.specs)
        with interrupt.listening() if interrupt else nullcontext() as stop:
            done = fit(
                model, *_shards(config, parts, processes), epochs=config.epochs,
                out=out, patience=config.patience,
                class_weights=_class_weights(config, task), recipe=config.recipe, verbose=verbose,
                reweighted=reweighted,
                checkpoint=folder / CHECKPOINT, checkpoint_every=checkpoint_every, resume=resume, stop=stop,
                **_with_others(config, parts, processes),
            )  # fmt: skip
        model.save(out / MODEL)
        weights = model.get_weights()
    if not processes.writes:
        return Run(folder, model, ds.specs, config)
    if processes.count > 1:  # the same model, of this process alone
        model = _model(config, ds.preprocessor, task)
        model.set_weights(weights)
        done = replace(done, events_per_s=done.events_per_s * processes.count)
    told = {"command": command, "reweighted": reweighted.to_json() if reweighted is not None else None}
    return _judged(folder, config, task, ds, parts, done, model, told, reports)


def _tell_idle(config: RunConfig, specs: Specs) -> None:
    """Warn of branches that were scanned as labels or weights, of which a training without weights makes no use."""
    used = {config.labels if isinstance(config.labels, str) else "", *config.targets}
    idle = [target.name for target in specs.targets if target.name not in used]
    if config.weights is None and idle:
        warnings.warn(
            f"the specs know {shorten(idle)}, which this training does not use: if that is their weight, take "
            f"weights={idle[0]!r} (--weights {idle[0]})",
            DataWarning, stacklevel=4,
        )  # fmt: skip


def _judged(
    folder: Path, config: RunConfig, task: Task, ds: RootDataset, parts: Mapping[str, RootDataset], done: Fit,
    model: keras.Model, told: dict[str, Any], reports: bool,
) -> Run:  # fmt: skip
    """The finished run, with what its model is worth on each part of the events."""
    results = {name: evaluate(model, part, task) for name, part in parts.items()}
    metrics = _metrics(config, task, ds, parts, done, results, model) | told
    if reports:
        over = over_training(results["train"], results["test"])
        metrics["over_training"] = {name: asdict(one) for name, one in over.items()}
        important = [one["branch"] for one in metrics["importance"]]
        metrics["inputs"] = distributions(config, ds.specs, task.class_names, important)
    (folder / "metrics.json").write_text(json.dumps(metrics, indent=1) + "\n")
    (folder / CHECKPOINT).unlink(missing_ok=True)
    if reports:
        from mlaas4hep_tf.runs.report import write_report  # an extra

        write_report(folder, metrics, ds.specs, done.history, results)
    return Run(folder, model, ds.specs, config, metrics, results)


@contextmanager
def _written_to(folder: Path, processes: Processes) -> Iterator[Path]:
    """The run folder; for others than the first a scratch one, as Keras makes variables to save, which all must."""
    if processes.writes:
        yield folder
        return
    with TemporaryDirectory() as scratch:
        yield Path(scratch)


def _shards(
    config: RunConfig, parts: Mapping[str, RootDataset], processes: Processes
) -> tuple[RootDataset, RootDataset]:
    """What this process trains on and validates with: all, or as much as each of the others."""
    own = [parts["train"], parts["validation"]]
    if processes.count > 1:
        own = [part.shard(processes.count, processes.index, even=True) for part in own]
    return _for_training(config, own[0]), own[1]


def _for_training(config: RunConfig, part: RootDataset) -> RootDataset:
    mixed = part.mixed(config.mixing)
    return mixed if config.augmentation is None else mixed.augmented(config.augmentation)


def _with_others(config: RunConfig, parts: Mapping[str, RootDataset], processes: Processes) -> dict[str, Any]:
    """What `fit` is told of the other processes."""
    if processes.count == 1:
        return {}
    train = _for_training(config, parts["train"])
    whole = Together(train, parts["validation"], processes.count, processes.writes)
    return {"together": whole, "callbacks": [Watchdog(processes.step_timeout_s)]}


def _model(config: RunConfig, preprocessor: Preprocessor, task: Task) -> keras.Model:
    """A new model, or the one that is trained on."""
    specs = preprocessor.specs
    if config.continue_from is not None:
        return _known_model(config, specs, task)
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(
        "float32" if config.recipe.precision == "float32" else f"mixed_{config.recipe.precision}"
    )
    try:
        model = build(config.model, specs, image=config.image, task=task, preprocessor=preprocessor)
    finally:
        keras.config.set_dtype_policy(before)
    check_outputs(model, task)
    return model


def _known_model(config: RunConfig, specs: Specs, task: Task) -> keras.Model:
    """The model of an earlier run, whose input and outputs must mean the same.

    Raises:
        ConfigError: other columns, another normalisation or another task.
    """
    base = Run.load(config.continue_from or "")
    known, now = (scaling(one, how) for one, how in ((base.specs, base.config.normalize), (specs, config.normalize)))
    same = base.specs.vector_names == specs.vector_names and base.config.image == config.image
    same &= base.config.layout == config.layout
    if not same or not known.same_as(now):
        raise ConfigError(
            f"the model of {base.folder} takes other columns, another image or normalisation than these specs give: "
            f"train it on with its own (--specs {base.folder / 'specs.json'}, which may be unbound)"
        )
    if base.task != task:
        raise ConfigError(f"the model of {base.folder} tells {base.task.describe()}, and not {task.describe()}")
    return base.model


def _class_weights(config: RunConfig, task: Task) -> ClassWeights | None:
    if config.class_weights is None:
        return "balanced" if config.balanced else None
    names = task.class_names
    unknown = sorted(set(config.class_weights) - set(names))
    if unknown:
        raise LabelError(f"class weights: no class {unknown[0]!r}{near_misses(unknown[0], names)}; there are {names}")
    return {float(label): float(config.class_weights.get(name, 1.0)) for label, name in enumerate(names)}


def _begin(folder: Path, config: RunConfig, specs: Specs) -> None:
    """Write what is known before training; without metrics a run is not complete."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.json").unlink(missing_ok=True)
    _keep_source(config.model, folder / MODEL_SOURCE)
    specs.save(folder / "specs.json")
    (folder / "config.json").write_text(json.dumps(config.to_json(), indent=1) + "\n")


def _keep_source(model: str, kept: Path) -> None:
    """Copy the user's model.py, whose layers the saved model consists of."""
    if not model.endswith(".py"):
        kept.unlink(missing_ok=True)
    elif not (kept.exists() and kept.samefile(model)):
        shutil.copy(model, kept)


def can_report() -> bool:
    """Whether plots and report can be made; warns of it if not."""
    try:
        need("report", "matplotlib", "jinja2", "scipy", purpose="plots, report.html and the check of over-training")
    except MissingExtra as error:
        warnings.warn(str(error), MissingExtraWarning, stacklevel=3)
        return False
    return True


def evaluate_run(
    run: Run,
    files: tuple[str, ...] = (),
    labels: Labels | None = None,
    *,
    friends: Mapping[str, Sequence[str]] | None = None,
    read: ReadOptions | None = None,
) -> dict[str, Evaluated]:
    """Evaluate a run again: on the three parts of its own data, or on all events of other files.

    Args:
        labels, friends: of the other files; labels are by default those of the run.
        read: how to read; by default as the run did.

    Raises:
        ConfigError: files of its own that are not those it was trained on.
    """
    mask = wants_mask(run.model, run.config.layout)
    config = replace(run.config, read=read or run.config.read)
    if files:
        own = numbered(labels if labels is not None else config.labels, run.task.class_names)
        config = replace(config, files=files, friends=friends, labels=own, signal=None, max_events=None)
        ds = config.dataset(run.specs.unbound(), mask=mask)
        return {"files": evaluate(run.model, ds, run.task)}
    ds = config.dataset(run.specs, mask=mask)
    if _identity(ds) != run.metrics["files"]:
        raise ConfigError(
            f"the files of {run.folder} are not those it was trained on, so its test part cannot be found again: "
            f"there are {len(ds.files)} now, {len(run.metrics['files'])} then; name files to evaluate them as a whole"
        )
    return {name: evaluate(run.model, part, run.task) for name, part in config.parts(ds).items()}


def _absolute(name: str) -> str:
    """A run is found again from any working directory; URLs are what they are."""
    return name if "://" in name or name.startswith(":") else os.path.abspath(os.path.expanduser(name))


def _own_file(model: str) -> str:
    return os.path.abspath(model) if model.endswith(".py") else model


def _identity(ds: RootDataset) -> list[list[Any]]:
    return [[file.uuid, file.num_entries] for file in ds.files]


def task_of(config: RunConfig, specs: Specs, composition: Mapping[float, int]) -> Task:
    """What the model of a run is to tell, where the labels are known.

    Raises:
        LabelError: labels that are not those of classes, before training and not after it.
    """
    known = {target.name: target for target in specs.targets}
    numbers = [config.number(known[name]) for name in config.numbers_told]
    if config.regression:
        return Task(numbers[0], tuple(numbers[1:]))
    return Task(_classes(config, known, composition), tuple(numbers))


def _classes(config: RunConfig, known: Mapping[str, TargetSpec], composition: Mapping[float, int]) -> Classes:
    if not isinstance(config.labels, str):
        return config.head([*composition])
    branch = known[config.labels]
    if branch.not_finite or not branch.found:
        values = " to ".join(f"{v:.6g}" if isinstance(v, float) else str(v) for v in (branch.min, branch.max))
        held = f"{branch.not_finite} events without a number" if branch.not_finite else values
        raise LabelError(f"label branch {branch.name!r} must hold the numbers of classes, 0, 1 ...; it holds {held}")
    return config.head([value for value, _ in branch.found])


def _metrics(
    config: RunConfig, task: Task, ds: RootDataset, parts: Mapping[str, RootDataset], done: Fit,
    results: Mapping[str, Evaluated], model: keras.Model,
) -> dict[str, Any]:  # fmt: skip
    return {
        "task": task.to_json(),
        "labels": described(config.labels),
        "weights": _weights(config),
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
        "importance": [
            asdict(one) for one in permutation_importance(model, parts["test"], task=task, seed=config.seed)
        ],
        "truncated": {
            group: dict(zip(("events", "objects"), members[0].truncated, strict=True))
            for group, members in ds.specs.groups.items() if members[0].truncated[0]
        },
        "model": {
            "name": os.path.basename(config.model), "parameters": model.count_params(),
            "backend": keras.backend.backend(),
        },
        "seed": config.seed,
        "sums_of_weights": list(ds.sums_of_weights),
        "drawn": _drawn(config, parts["test"]),
        "fingerprint": ds.specs.fingerprint,
        "date": strftime("%Y-%m-%d %H:%M"),
        "lost": ds.skipped.to_json() if ds.skipped is not None else [],
        "loss_report": ds.skipped.report() if ds.skipped is not None else [],
        "versions": {p: version(p) for p in _packages(keras.backend.backend())},
    }  # fmt: skip


def _weights(config: RunConfig) -> str | None:
    """What events are weighed by, in words; None where each counts as one."""
    given = [described(config.weights)] if config.weights is not None else []
    scaled = ["cross sections x luminosity"] if config.expected is not None else []
    return ", scaled by ".join(given + scaled) or None


def _drawn(config: RunConfig, part: RootDataset) -> list[dict[str, Any]]:
    """How the parts are told that are drawn, and the branches that this rests on."""
    dtypes = {info.name: info.dtype for info in part.files[0].branches}
    draws = [one.draw(part.specs) for one in (config.hold_out, config.folds) if one is not None]
    return [
        {"how": draw.describe(), "branches": {name: dtypes[name] for name in draw.names if name in dtypes}}
        for draw in draws
    ]


def _packages(backend: str) -> list[str]:
    """What a run's numbers rest on; the names of Keras's backends are those of their packages."""
    return list(dict.fromkeys(("mlaas4hep_tf", "keras", backend, "tensorflow", "uproot", "awkward", "numpy")))
