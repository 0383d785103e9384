"""A training that goes on where it was killed, to the bit: one callback writes checkpoints and restores the last."""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from mlaas4hep_tf import checkpoints
from mlaas4hep_tf.checkpoints import Every
from mlaas4hep_tf.dataset import RootDataset
from mlaas4hep_tf.errors import DataWarning, ResumeError

# of Keras's callbacks, what changes in training; those that are not here and have no get_state keep nothing
_KEPT = {
    "EarlyStopping": ("wait", "best", "best_weights", "best_epoch", "stopped_epoch"),
    "ReduceLROnPlateau": ("wait", "best", "cooldown_counter"),
    "ModelCheckpoint": ("best",),
}


@dataclass(frozen=True)
class Together:
    """What processes that train one model have in common; each is given even shards of it (`RootDataset.shard`).

    Attributes:
        train, valid: the datasets of which each has a shard.
        count: how many processes there are.
        writes: whether this one writes the checkpoint.
    """

    train: RootDataset
    valid: RootDataset | None
    count: int
    writes: bool


class Resume(keras.callbacks.Callback):  # type: ignore[misc]  # keras has no type information
    """Writes a checkpoint of everything that training rests on, and begins with it where there is one.

    It must be the last of the callbacks.  A training that goes on inside of an epoch is two calls of ``fit``: the rest
    of that epoch, and the epochs behind it::

        backup = Resume("training.ckpt", train, valid, callbacks=others)
        while backup.goes_on(epochs):
            model.fit(
                backup.train, validation_data=backup.valid, initial_epoch=backup.epoch, epochs=backup.until(epochs),
                steps_per_epoch=backup.steps, callbacks=[*others, backup],
            )

    Weights, optimizer, seeds of layers, metrics, history, Keras's own callbacks and those with ``get_state()`` and
    ``set_state(state)`` are as they were.  With op determinism (`tf.config.experimental.enable_op_determinism`) the
    outcome has the same bits as that of a training which was never interrupted.

    Attributes:
        epoch, batch: from where training goes on.
        train, valid: the datasets from there on.
        stopped: whether a callback ended training before its last epoch.
        history: per epoch, name of a loss or metric -> values.
    """

    def __init__(
        self, path: str | os.PathLike[str], train: RootDataset, valid: RootDataset | None = None, *,
        every: int | str = "60s", callbacks: Sequence[keras.callbacks.Callback] = (), resume: bool = True,
        stop: threading.Event | None = None, together: Together | None = None,
    ) -> None:  # fmt: skip
        """Read the checkpoint, if there is one.

        Args:
            path: of the checkpoint, one file.
            train, valid: as they were when it was written.
            every: so many steps (``500``) or seconds (``"60s"``).
            callbacks: the others of the training, whose state is kept.
            resume: go on with the checkpoint; False begins anew and writes over it.
            stop: where it is set, training ends behind the present step with a checkpoint and KeyboardInterrupt.
            together: of processes that train one model, for which there is one checkpoint.

        Raises:
            ResumeError: a checkpoint of other events, or in another order; says what differs; or of another number of
                processes inside of an epoch.
            ConfigError: an `every` that means nothing.
        """
        super().__init__()
        self._path, self._every, self._others, self._stop = path, Every.parse(every), tuple(callbacks), stop
        self._keeping = [one for one in self._others if hasattr(one, "get_state") or type(one).__name__ in _KEPT]
        self._given, self._together = (train, valid), together
        self._warned = self._begun = False
        self._take(checkpoints.read(path) if resume else None)

    def _take(self, saved: dict[str, Any] | None) -> None:
        """Stand where a checkpoint was written, or at the beginning."""
        self._saved = self._last = saved
        train, valid = self._given
        state = self._own(train, saved["train"]) if saved else train.state(0)
        self.epoch: int = state["epoch"]
        self.batch: int = state["batch"]
        self.stopped: bool = saved["stopped"] if saved else False
        self.history: dict[str, list[float]] = saved["history"] if saved else {}
        self.train = train.starting_at(state)
        self.valid = None
        if valid is not None:
            self.valid = valid.starting_at(self._own(valid, saved["valid"]) if saved else valid.state(0))
        self._offset, self._now = self.batch, self.epoch
        self._steps, self._written = 0, monotonic()

    def _own(self, ds: RootDataset, state: dict[str, Any]) -> dict[str, Any]:
        """The state of this process's dataset where a checkpoint, of all processes, was written."""
        then, now = state.get("processes", 1), self._together.count if self._together else 1
        if state["batch"] and then != now:
            raise ResumeError(
                "inside of an epoch a training goes on with as many processes as before, at an epoch's end with any: "
                f"{then} then, {now} now"
            )
        if self._together is None:
            return state
        whole = self._together.train if ds is self._given[0] else self._together.valid
        assert whole is not None
        whole.starting_at(state)  # raises where it is of other events
        return ds.state(state["epoch"], state["batch"])

    def _shared(self, ds: RootDataset, whole: RootDataset | None, epoch: int, batch: int) -> dict[str, Any]:
        """The state that a checkpoint holds."""
        if self._together is None or whole is None:
            return ds.state(epoch, batch)
        return whole.state(epoch) | {"batch": batch, "processes": self._together.count}

    def goes_on(self, epochs: int) -> bool:
        """Whether there is an epoch left; at first always, for the model of a training that was at its end."""
        return not self._begun or (not self.stopped and self.epoch < epochs)

    def until(self, epochs: int) -> int:
        """The `epochs` of the next ``fit``: of the rest of an epoch it is the end of that one."""
        if self.stopped:
            return self.epoch
        return min(self.epoch + 1, epochs) if self.batch else epochs

    @property
    def steps(self) -> int | None:
        """The `steps_per_epoch` of the next ``fit``: of the rest of an epoch as many as are left."""
        known = self.train.skipped is None and self.batch
        return (self.train.plan.batches - self.batch) or None if known else None

    def on_train_begin(self, logs: Any = None) -> None:  # noqa: ARG002 (as Keras calls it)
        self._warn_of_strangers()
        self._begun = True
        if self._saved is not None:
            self._build()
            self._restore(metrics=False)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:  # noqa: ARG002
        self._now, self._offset = epoch, self.batch if epoch == self.epoch else 0
        self._restore_history()
        if self._offset:
            self._restore(metrics=True)  # Keras has reset them
        else:
            self.train.set_epoch(epoch)
        if self.valid is not None:
            self.valid.set_epoch(epoch)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:  # noqa: ARG002
        self._steps += 1
        batches = self._offset + batch + 1
        asked = self._stop is not None and self._stop.is_set()
        due = asked or self._every.due(self._steps, monotonic() - self._written)
        if due and self._more_than(batches):
            self._write(self._now, batches)
        if asked:
            raise KeyboardInterrupt

    def _more_than(self, batches: int) -> bool:
        """Whether this epoch surely has another batch: Keras has no logs of an epoch that goes on at its end."""
        return sum(self.train.delivered.values()) > batches * self.train.plan.batch_size

    def on_test_batch_end(self, batch: int, logs: Any = None) -> None:  # noqa: ARG002
        if self._stop is not None and self._stop.is_set():
            raise KeyboardInterrupt

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any]) -> None:
        for name, value in logs.items():
            self.history.setdefault(name, []).append(float(value))
        self._write(epoch + 1, 0)

    def on_train_end(self, logs: Any = None) -> None:  # noqa: ARG002
        """Stand behind what was done, for the next ``fit``."""
        self._restore_history()
        self._take(self._last)

    def _restore_history(self) -> None:
        history = self.model.history
        history.history = {name: list(values) for name, values in self.history.items()}
        history.epoch = list(range(max(map(len, self.history.values()), default=0)))

    def _variables(self) -> list[Any]:
        return [*self.model.variables, *self.model.optimizer.variables]

    def _build(self) -> None:
        """Have all variables of model, metrics and optimizer made, as the first step would."""
        one = tf.nest.map_structure(_one, self.train.element_spec)
        self.model.test_on_batch(*(one if isinstance(one, tuple) else (one,)))
        if not self.model.optimizer.built:
            self.model.optimizer.build(self.model.trainable_variables)

    def _restore(self, *, metrics: bool) -> None:
        assert self._saved is not None
        if metrics:
            _assign("metrics", self.model.metrics_variables, self._saved["metrics"])
            return
        _assign("model and optimizer", self._variables(), self._saved["variables"])
        for callback, (kind, state) in zip(self._keeping, self._saved["callbacks"], strict=False):
            if kind != type(callback).__name__:
                raise ResumeError(f"a training goes on with the same callbacks: {kind} then, {callback!r} now")
            _set_state(callback, state)

    def _write(self, epoch: int, batch: int) -> None:
        if hasattr(self.model, "jax_state_sync"):
            self.model.jax_state_sync()
        valid, whole = self._given[1], self._together
        self._last = {
            "train": self._shared(self.train, whole.train if whole else None, epoch, batch),
            "valid": None if valid is None else self._shared(valid, whole.valid if whole else None, epoch, 0),
            "variables": [_numpy(v) for v in self._variables()],
            "metrics": [_numpy(v) for v in self.model.metrics_variables],
            "history": self.history, "stopped": bool(self.model.stop_training and batch == 0),
            "callbacks": [(type(one).__name__, _get_state(one)) for one in self._keeping],
        }  # fmt: skip
        if whole is None or whole.writes:
            checkpoints.write(self._path, self._last)
        self._steps, self._written = 0, monotonic()

    def _warn_of_strangers(self) -> None:
        own = [
            c
            for c in self._others
            if not (type(c).__module__.startswith(("keras.", "mlaas4hep_tf.")) or hasattr(c, "get_state"))
        ]
        if own and not self._warned:
            warnings.warn(
                f"{type(own[0]).__name__} has no get_state() and set_state(state): what it remembers begins anew "
                "where training goes on with a checkpoint",
                DataWarning, stacklevel=2,
            )  # fmt: skip
        self._warned = True


def _numpy(variable: Any) -> Any:
    return np.asarray(keras.ops.convert_to_numpy(variable.value))


def _one(spec: Any) -> Any:
    """A batch of one event, of zeros, as any backend takes them."""
    zeros = np.zeros([1, *(1 if size is None else size for size in spec.shape[1:])], spec.dtype.as_numpy_dtype)
    return tf.RaggedTensor.from_tensor(zeros) if isinstance(spec, tf.RaggedTensorSpec) else zeros


def _assign(what: str, variables: Sequence[Any], saved: Sequence[Any]) -> None:
    """Raises ResumeError where they are not of one shape."""
    now, then = [tuple(v.shape) for v in variables], [a.shape for a in saved]
    if now != then:
        differs = next((f"{a} then, {b} now" for a, b in zip(then, now, strict=False) if a != b), "")
        raise ResumeError(
            f"a training can only go on with the same {what}: {len(then)} variables then, {len(now)} now; {differs}"
        )
    for variable, array in zip(variables, saved, strict=True):
        variable.assign(array)


def _get_state(callback: Any) -> Any:
    if hasattr(callback, "get_state"):
        return callback.get_state()
    return {name: getattr(callback, name) for name in _KEPT.get(type(callback).__name__, ())}


def _set_state(callback: Any, state: Any) -> None:
    if hasattr(callback, "set_state"):
        callback.set_state(state)
        return
    for name, value in state.items():
        setattr(callback, name, value)
