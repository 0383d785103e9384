"""A `Recipe` as Keras needs it: the optimizer with its schedule, and the callbacks that go with it."""

from __future__ import annotations

import math
from typing import Any

import keras

from mlaas4hep_tf.recipe import Recipe

ONE_CYCLE_RISES = 0.3  # of all steps
ONE_CYCLE_START, ONE_CYCLE_END = 1 / 25, 1 / 250_000  # of the largest rate
PLATEAU_FACTOR, PLATEAU_PATIENCE = 0.5, 2


def optimizer(recipe: Recipe, *, epochs: int, steps: int) -> keras.optimizers.Optimizer:
    """The optimizer of a recipe.

    Args:
        epochs: of the whole training.
        steps: batches of an epoch.
    """
    kinds = {
        "adam": keras.optimizers.Adam, "adamw": keras.optimizers.AdamW, "sgd": keras.optimizers.SGD,
        "rmsprop": keras.optimizers.RMSprop, "nadam": keras.optimizers.Nadam, "lion": keras.optimizers.Lion,
    }  # fmt: skip
    more = {"momentum": 0.9} if recipe.optimizer == "sgd" else {}
    rate: Any = recipe.lr
    if recipe.schedule in ("cosine", "one-cycle") or (recipe.warmup and recipe.schedule == "constant"):
        rate = Rate(recipe.schedule, recipe.lr, epochs * steps, round(recipe.warmup * steps))
    made = kinds[recipe.optimizer](learning_rate=rate, global_clipnorm=recipe.clip, **more)
    return keras.optimizers.LossScaleOptimizer(made) if recipe.precision == "float16" else made


def callbacks(recipe: Recipe, monitor: str, *, steps: int) -> list[keras.callbacks.Callback]:
    """What changes the learning rate from outside the optimizer: `plateau`, and the warm-up before it."""
    if recipe.schedule != "plateau":
        return []
    slower = keras.callbacks.ReduceLROnPlateau(
        monitor, mode=recipe.mode, factor=PLATEAU_FACTOR, patience=PLATEAU_PATIENCE
    )
    return [slower, WarmUp(recipe.lr, round(recipe.warmup * steps))] if recipe.warmup else [slower]


@keras.saving.register_keras_serializable(package="mlaas4hep_tf")
class Rate(keras.optimizers.schedules.LearningRateSchedule):  # type: ignore[misc]  # keras has no type information
    """Learning rate of each step: a rising part of `rising` steps, and what the schedule makes of the others.

    With s the steps since the rise and n how many there are: constant is `peak`, cosine peak (1 + cos(pi s / n)) / 2,
    and one-cycle goes by the same curve between its start, peak and end.
    """

    def __init__(self, schedule: str, peak: float, total: int, rising: int = 0) -> None:
        super().__init__()
        self.schedule, self.peak, self.total, self.rising = schedule, peak, total, rising

    def __call__(self, step: Any) -> Any:
        step = keras.ops.cast(step, "float32")
        cycle = self.schedule == "one-cycle"
        rising = self.rising or (round(ONE_CYCLE_RISES * self.total) if cycle else 0)
        part = keras.ops.clip((step - rising) / max(self.total - rising, 1), 0.0, 1.0)
        if cycle:
            first = _between(ONE_CYCLE_START * self.peak, self.peak, step / max(rising, 1))
            return keras.ops.where(step < rising, first, _between(self.peak, ONE_CYCLE_END * self.peak, part))
        later = self.peak * keras.ops.ones_like(part) if self.schedule == "constant" else _between(self.peak, 0.0, part)
        return keras.ops.where(step < rising, self.peak * (step + 1) / max(rising, 1), later)

    def get_config(self) -> dict[str, Any]:
        return {"schedule": self.schedule, "peak": self.peak, "total": self.total, "rising": self.rising}


def _between(start: float, end: float, part: Any) -> Any:
    """From start to end by half a cosine, part going from 0 to 1."""
    return end + (start - end) * (1 + keras.ops.cos(math.pi * part)) / 2


class WarmUp(keras.callbacks.Callback):  # type: ignore[misc]  # keras has no type information
    """Lets the learning rate grow linearly over the first steps, and then leaves it to others."""

    def __init__(self, peak: float, steps: int) -> None:
        super().__init__()
        self.peak, self.steps = peak, steps

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:  # noqa: ARG002 (as Keras calls it)
        step = int(self.model.optimizer.iterations)
        if step < self.steps:
            self.model.optimizer.learning_rate = self.peak * (step + 1) / self.steps
