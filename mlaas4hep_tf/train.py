"""Plain Keras training with what a physicist expects around it: seeds, best model, logs, AUC and ROC."""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter, time
from typing import Any, Literal, overload
from weakref import WeakKeyDictionary, ref

import keras
import numpy as np
import tensorflow as tf

from mlaas4hep_tf.dataset import RootDataset
from mlaas4hep_tf.errors import LabelError, ModelError, PlanError, ResumeError
from mlaas4hep_tf.evaluation import (
    ClassEvaluation,
    Evaluated,
    Evaluation,
    FloatArray,
    HeadsEvaluation,
    Judged,
    OverTraining,
    RegressionEvaluation,
    over_training,
)
from mlaas4hep_tf.optimizers import callbacks as recipe_callbacks
from mlaas4hep_tf.optimizers import optimizer
from mlaas4hep_tf.recipe import DEFAULT_RECIPE, Recipe
from mlaas4hep_tf.resume import Resume, Together
from mlaas4hep_tf.reweight import Reweighted, classes_in
from mlaas4hep_tf.streaming.iterators import original_errors
from mlaas4hep_tf.tasks import SIGNAL_OR_NOT, Classes, Head, Regression, Task

__all__ = [
    "INPUT_WAIT", "ClassEvaluation", "Evaluation", "Fit", "HeadsEvaluation", "InputWait", "OverTraining",
    "RegressionEvaluation", "balanced_weights", "evaluate", "fit", "over_training", "predict_batch", "weigh_classes",
]  # fmt: skip

INPUT_WAIT = "input_wait"

ClassWeights = Mapping[float, float] | Literal["balanced"]


@dataclass(frozen=True)
class Fit:
    """Outcome of `fit`.

    Attributes:
        history: per epoch, name of a loss or metric -> values; `INPUT_WAIT` is the share of the time that the
            trainer waited for its next batch.
        seconds: wall time of the training.
        events_per_s: events trained on per second of training, reading included and validation not.
        composition: per epoch, URL of a file -> events of it that were trained on; empty for a dataset that was derived
            from a `RootDataset` (``ds.map(...)``), which does not know its files.
    """

    history: dict[str, list[float]]
    seconds: float
    events_per_s: float
    composition: tuple[dict[str, int], ...] = ()

    @property
    def input_wait(self) -> float:
        """Mean share of the time of an epoch that the trainer waited for input."""
        return float(np.mean(self.history[INPUT_WAIT]))


class InputWait(keras.callbacks.Callback):  # type: ignore[misc]  # keras has no type information
    """Adds to the logs of each epoch which share of its time went by in waiting for batches.

    A batch is stamped with the time when it is ready; what lies between the end of the step before and that time
    was waiting.  It holds for every backend of Keras.  Validation does not count.

    Attributes:
        events, seconds: trained on so far, and the time of that.
    """

    def __init__(self) -> None:
        super().__init__()
        self.events, self.seconds = 0, 0.0
        self._ready = tf.queue.FIFOQueue(-1, [tf.float64, tf.int64], shapes=[(), ()])  # no limit; time and events
        self._free: list[tuple[int, float]] = []  # which batch the trainer could have taken, and when

    def watch(self, ds: tf.data.Dataset) -> tf.data.Dataset:
        """The same batches, stamped and counted on their way."""
        now = _clock()

        def stamp(*batch: Any) -> Any:
            last = tf.nest.flatten(batch)[-1]  # the labels or weights, where there are any
            rows = last.nrows(tf.int64) if isinstance(last, tf.RaggedTensor) else tf.shape(last, tf.int64)[0]
            with tf.control_dependencies([self._ready.enqueue((now(), rows))]):
                return tf.nest.map_structure(tf.identity, batch if len(batch) > 1 else batch[0])

        return ds.map(stamp).prefetch(2)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:  # noqa: ARG002 (as Keras calls it)
        self._stamps()  # of batches that an epoch before left over
        self._free = [(0, time())]

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:  # noqa: ARG002
        self._free.append((batch + 1, time()))

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:  # noqa: ARG002
        numbers, free = zip(*self._free, strict=True)
        ready, rows = (column[list(numbers[:-1])] for column in self._stamps())
        seconds = free[-1] - free[0]
        logs[INPUT_WAIT] = float(np.maximum(ready - free[:-1], 0).sum() / seconds)
        self.events, self.seconds = self.events + int(rows.sum()), self.seconds + seconds

    def get_state(self) -> Any:
        return [self.events, self.seconds]

    def set_state(self, state: Any) -> None:
        self.events, self.seconds = state

    def _stamps(self) -> list[Any]:
        return [column.numpy() for column in self._ready.dequeue_many(self._ready.size())]


def _clock() -> Callable[[], tf.Tensor]:
    """Seconds as a tensor; TensorFlow's own way is forbidden where determinism of all ops is asked for."""
    try:
        tf.timestamp()
    except tf.errors.FailedPreconditionError:
        return partial(tf.numpy_function, time, (), tf.float64)
    return tf.timestamp  # type: ignore[no-any-return]  # tensorflow has no type information


class _Composition(keras.callbacks.Callback):  # type: ignore[misc]  # keras has no type information
    """Notes at the end of each epoch how many events every file gave."""

    def __init__(self) -> None:
        super().__init__()
        self.ds: RootDataset | None = None
        self.epochs: list[dict[str, int]] = []

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:  # noqa: ARG002 (as Keras calls it)
        if self.ds is not None:
            self.epochs.append(self.ds.delivered)

    def get_state(self) -> Any:
        return self.epochs

    def set_state(self, state: Any) -> None:
        self.epochs = list(state)


def balanced_weights(composition: Mapping[float, int]) -> dict[float, float]:
    """Class weights with which every class has the same total weight, and the mean weight of an event is 1.

    Args:
        composition: label -> events, as of `RootDataset.composition`.
    """
    total, classes = sum(composition.values()), len(composition)
    return {label: total / (classes * events) for label, events in composition.items() if events}


def weigh_classes(ds: tf.data.Dataset, weights: ClassWeights) -> tf.data.Dataset:
    """The same batches, in which the weight of each event is multiplied by that of its class.

    Args:
        ds: a dataset with labels, with or without weights of its own.
        weights: label -> weight, or ``"balanced"``: `balanced_weights` of the events per epoch (not of their
            own weights).

    Raises:
        LabelError: another dataset than a `RootDataset`, one without labels, weights that are not finite, or a class
            without a weight.
    """
    if not isinstance(ds, RootDataset):
        raise LabelError(
            "class weights need a RootDataset, which knows its classes: weigh_classes(ds, ...) before .map"
        )
    composition = ds.composition()
    if not isinstance(ds.element_spec, tuple):
        raise LabelError("class weights need labels: give the dataset labels=")
    if isinstance(weights, str) and (weights != "balanced" or not composition):
        raise LabelError(
            f"class weights must be a number per label, or 'balanced' where labels are given per file, not {weights!r}"
        )
    known = balanced_weights(composition) if isinstance(weights, str) else dict(weights)
    missing = sorted(set(composition) - set(known))
    if missing or not np.isfinite(list(known.values())).all():
        raise LabelError(f"class weights must be a finite number per label; {known} is not for labels {[*composition]}")
    dtype = classes_in(ds.element_spec[1]).dtype
    labels = tf.constant(np.array(list(known), dtype.as_numpy_dtype))
    factors = tf.constant(list(known.values()), tf.float32)

    def weigh(x: Any, y: Any, weight: tf.Tensor | None = None) -> Any:
        own = classes_in(y)
        same = tf.cast(own[:, tf.newaxis] == labels, tf.float32)  # [B, classes]
        found = tf.debugging.Assert(tf.reduce_all(tf.reduce_any(same > 0, 1)), ["a label has no class weight:", own])
        with tf.control_dependencies([found]):
            factor = tf.linalg.matvec(same, factors)
        return x, y, factor if weight is None else weight * factor

    return ds.map(weigh)


def fit(
    model: keras.Model,
    train: tf.data.Dataset,
    valid: tf.data.Dataset | None = None,
    *,
    epochs: int = 5,
    out: str | os.PathLike[str] | None = None,
    patience: int | None = None,
    class_weights: ClassWeights | None = None,
    recipe: Recipe | None = None,
    reweighted: Reweighted | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: int | str = "60s",
    resume: bool = False,
    stop: threading.Event | None = None,
    together: Together | None = None,
    verbose: int = 0,
) -> Fit:
    """Train over the whole data in every epoch and keep the best model.

    Datasets are `RootDataset`, or what was made of one: ``train.map(...)``.

    `recipe` says how: optimizer, learning rate and its schedule, clipping of gradients and which figure chooses the
    best epoch; without one the model's own optimizer is used and the loss chooses.

    With validation data the weights of the epoch with the best validation loss are restored at the end, and
    training stops early after `patience` epochs without a better one (None: never).  With `out` it leaves
    ``model.keras`` (the best so far, at any time), ``history.csv`` and, where TensorBoard is installed,
    ``tensorboard/`` there.

    `class_weights` (see `weigh_classes`) hold for training alone, like a mixing law (`RootDataset.mixed`) of the
    training part: validation data stay as they are.  So does `reweighted` (`reweight.fitted`).

    With `checkpoint`, a file, everything that training rests on is kept there, every so many steps (``500``) or seconds
    (``"60s"``), and where `stop` is set, which ends training with KeyboardInterrupt.  With `resume` a training goes on
    with it as if it had never been interrupted (`resume.Resume`), or begins at the beginning where there is none yet.
    Datasets are then `RootDataset`.  `together` is for processes that train one model, each with a shard of the data.

    Call `keras.utils.set_random_seed` before building the model for reproducible results.

    Raises:
        MlaasError: reading errors, as they are.
        ResumeError: a checkpoint of other events, of another order or of another model; says what differs.
        LabelError: class weights for another dataset than a `RootDataset`: they go before its ``map``.
    """
    chosen = recipe or DEFAULT_RECIPE
    monitor = f"val_{chosen.monitor}" if valid is not None else chosen.monitor
    steps = batches_of(train) if recipe is not None else 0
    if recipe is not None:
        model.optimizer = optimizer(recipe, epochs=epochs, steps=steps)
    wait, composition = InputWait(), _Composition()
    extra = [*callbacks, wait, composition, *recipe_callbacks(chosen, monitor, steps=steps)]
    if valid is not None:
        extra.append(_stopping(chosen, monitor, patience or epochs))
    if out is not None:
        extra += _records(Path(out), chosen, monitor, append=resume, alone=together is None)
    start = perf_counter()

    def fit_once(train: tf.data.Dataset, valid: tf.data.Dataset | None, *more: Any, **options: Any) -> Any:
        batches = train if class_weights is None else weigh_classes(train, class_weights)
        batches = batches if reweighted is None else batches.map(reweighted.weigh)
        composition.ds = next(iter(_root(train)), None)
        with original_errors(*_root(train, valid)), _quiet_about_short_epochs(checkpoint):
            return model.fit(
                wait.watch(batches), validation_data=valid, callbacks=[*extra, *more], verbose=verbose, shuffle=False,
                **options,
            )  # fmt: skip

    if checkpoint is None:
        history = fit_once(train, valid, epochs=epochs)
    else:
        backup = Resume(
            checkpoint, _ordered(train), None if valid is None else _ordered(valid), every=checkpoint_every,
            callbacks=extra, resume=resume, stop=stop, together=together,
        )  # fmt: skip
        if out is not None and resume:
            _forget_epochs(Path(out) / "history.csv", backup.epoch)
        while backup.goes_on(epochs):
            history = fit_once(
                backup.train, backup.valid, backup, initial_epoch=backup.epoch, epochs=backup.until(epochs),
                steps_per_epoch=backup.steps,
            )  # fmt: skip
    seconds = perf_counter() - start
    done = {name: [float(v) for v in values] for name, values in history.history.items()}
    return Fit(done, seconds, wait.events / wait.seconds if wait.seconds else 0.0, tuple(composition.epochs))


def _stopping(recipe: Recipe, monitor: str, patience: int) -> keras.callbacks.Callback:
    return keras.callbacks.EarlyStopping(monitor, mode=recipe.mode, patience=patience, restore_best_weights=True)


def _records(
    folder: Path, recipe: Recipe, monitor: str, *, append: bool, alone: bool
) -> list[keras.callbacks.Callback]:
    """What leaves the best model and the history in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    found: list[keras.callbacks.Callback] = [
        keras.callbacks.ModelCheckpoint(folder / "model.keras", monitor, mode=recipe.mode, save_best_only=True),
        keras.callbacks.CSVLogger(folder / "history.csv", append=append),
    ]
    # an extra; and variables must be made in all processes alike
    if find_spec("tensorboard") is not None and alone:
        found.append(keras.callbacks.TensorBoard(folder / "tensorboard"))
    return found


def _ordered(ds: tf.data.Dataset) -> RootDataset:
    """The dataset, if it knows its order; raise ResumeError if it was made by `map`."""
    if not isinstance(ds, RootDataset):
        raise ResumeError("checkpoint= needs a RootDataset, which knows its order: what .map does belongs in the model")
    return ds


@contextmanager
def _quiet_about_short_epochs(checkpoint: str | os.PathLike[str] | None) -> Iterator[None]:
    """Keras takes the rest of an epoch for data that ran out, which they have not."""
    with warnings.catch_warnings():
        if checkpoint is not None:
            warnings.filterwarnings("ignore", "Your input ran out of data", UserWarning)
        yield


def _forget_epochs(history: Path, epoch: int) -> None:
    """Take out of a history the epochs that are trained again, and what was not written to its end."""
    if history.exists():
        lines = [line for line in history.read_text().splitlines(keepends=True) if line.endswith("\n")]
        kept = lines[:1] + [row for row in lines[1:] if int(row.split(",")[0]) < epoch]
        part = history.with_suffix(".part")
        part.write_text("".join(kept))
        os.replace(part, history)


def batches_of(ds: tf.data.Dataset) -> int:
    """How many batches an epoch has, by which schedules of the learning rate go.

    Raises:
        PlanError: a derived dataset that does not know.
    """
    if isinstance(ds, RootDataset):
        return ds.plan.batches
    known = int(ds.cardinality())
    if known < 1:
        raise PlanError("a recipe needs to know how many batches an epoch has: give ds.apply(assert_cardinality(...))")
    return known


def _root(*datasets: tf.data.Dataset | None) -> list[RootDataset]:
    """Those that know their files."""
    return [ds for ds in datasets if isinstance(ds, RootDataset)]


@overload
def evaluate(model: keras.Model, ds: tf.data.Dataset) -> Judged: ...
@overload
def evaluate(model: keras.Model, ds: tf.data.Dataset, task: Task) -> Evaluated: ...
def evaluate(model: keras.Model, ds: tf.data.Dataset, task: Task | None = None) -> Evaluated:
    """Scores of a labelled dataset, in the order of its files; of one that was derived (``ds.take(3)``) in its own.

    Args:
        task: what the model tells; by default classes, of which two have one output and more have one each, with the
            names that the dataset's labels have.

    Raises:
        LabelError: a dataset without labels, or with others than those of the classes.
        ModelError: a model whose outputs are not those of the task, or scores that are not finite.
    """
    return evaluate_by(partial(predict_batch, model), ds, task)


def evaluate_by(
    predict: Callable[[Any, Sequence[str]], FloatArray], ds: tf.data.Dataset, task: Task | None
) -> Evaluated:
    """As `evaluate`, of what a function gives for a batch (`predict_batch` without its model)."""
    labels, scores, weights = [], [], []
    outputs = (*task.outputs,) if task else ()
    for element in ds.in_order() if isinstance(ds, RootDataset) else ds:
        if not isinstance(element, tuple):
            raise LabelError("evaluation needs labels: give the dataset labels=")
        x, y, *w = element
        if isinstance(y, dict) and task is None:
            raise LabelError(f"labels of several outputs ({', '.join(y)}) need the task that they are of: task=")
        scores.append(predict(x, outputs))
        labels.append(label_columns(y, outputs))
        weights.append(w[0].numpy().astype(np.float64) if w else np.ones(len(labels[-1])))
    found, known = np.concatenate(scores), np.concatenate(labels)
    return judged(known, found, np.concatenate(weights), task or _task(ds, found.shape[1]))


def label_columns(y: Any, outputs: Sequence[str]) -> FloatArray:
    """Labels of a batch, one of several outputs as a column each: float64 [B], or [B, outputs]."""
    if isinstance(y, dict):
        return np.stack([np.asarray(y[name], np.float64) for name in outputs], axis=1)
    return np.asarray(y, np.float64)


def judged(labels: FloatArray, scores: FloatArray, weights: FloatArray, task: Task) -> Evaluated:
    """Labels, numbers of a model and weights [n] as what there is to say of them; see `evaluate`.

    Args:
        labels: float64 [n], of a task with several heads a column for each.
        scores: float64 [n, all numbers], head by head.
    """
    width = sum(head.width for head in task.heads)
    if scores.shape[1] != width:
        raise ModelError(f"the model has {scores.shape[1]} outputs, but the task needs {task.describe()}")
    if not np.isfinite(scores).all():
        raise ModelError("the model gives scores that are not finite: its training diverged; lower the learning rate")
    columns = labels.reshape(len(labels), -1).T
    if len(columns) != len(task.heads):
        raise LabelError(f"there are labels of {len(columns)} outputs, but the task is to tell {task.describe()}")
    numbers = np.split(scores, np.cumsum([head.width for head in task.heads])[:-1], axis=1)
    found = {
        name: _judged(own, told, weights, head)
        for (name, head), own, told in zip(task.outputs.items(), columns, numbers, strict=True)
    }
    return HeadsEvaluation(found) if len(found) > 1 else next(iter(found.values()))


def _judged(labels: FloatArray, scores: FloatArray, weights: FloatArray, head: Head) -> Judged:
    if isinstance(head, Classes):
        head.check(np.unique(labels).tolist())
    if isinstance(head, Regression):
        return RegressionEvaluation(labels, scores, weights, head)
    if head.binary:
        return Evaluation(labels, scores[:, 0], weights, head)
    return ClassEvaluation(labels, scores, weights, head)


def _task(ds: tf.data.Dataset, outputs: int) -> Task:
    """What a model with so many outputs is to tell of these data, where nobody says."""
    names = ds.classes if isinstance(ds, RootDataset) else ()
    if outputs == 2:
        raise ModelError("evaluation of two classes needs a model with one output, the score of signal; this one has 2")
    if outputs == 1:
        return Task(Classes(names)) if len(names) == 2 else SIGNAL_OR_NOT
    return Task(Classes(names if len(names) == outputs else tuple(map(str, range(outputs))), signal=0))


def predict_batch(model: keras.Model, x: Any, outputs: Sequence[str] = ()) -> FloatArray:
    """All numbers that a model gives for one batch, float64 [B, numbers].

    Args:
        outputs: names of its outputs, in the order in which their numbers are wanted, if it has several.
    """
    found = _forward(model)(x)
    if isinstance(found, list | tuple):
        found = dict(zip(model.output_names, found, strict=True))
    parts = [found[name] for name in outputs or found] if isinstance(found, dict) else [found]
    arrays = [np.asarray(keras.ops.convert_to_numpy(part), np.float64) for part in parts]
    return np.concatenate([one.reshape(len(one), -1) for one in arrays], axis=1)


_graphs: WeakKeyDictionary[keras.Model, Callable[[Any], Any]] = WeakKeyDictionary()


def _forward(model: keras.Model) -> Callable[[Any], Any]:
    """A model as a function, with TensorFlow a graph: layer by layer a small batch takes some times as long."""
    if keras.backend.backend() != "tensorflow" or model.run_eagerly:
        return partial(model, training=False)
    if model not in _graphs:
        weak = ref(model)  # or the graph would keep its key

        def forward(x: Any) -> Any:
            alive = weak()
            assert alive is not None  # as who calls has it
            return alive(x, training=False)

        _graphs[model] = tf.function(forward, reduce_retracing=True, autograph=False)
    return _graphs[model]
