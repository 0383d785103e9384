"""How a model is trained, beside data and task: `Recipe`, checked before TensorFlow is imported."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from mlaas4hep_tf.errors import PlanError, near_misses

Optimizer = Literal["adam", "adamw", "sgd", "rmsprop", "nadam", "lion"]
Schedule = Literal["constant", "cosine", "one-cycle", "plateau"]
Precision = Literal["float32", "float16", "bfloat16"]

GROWS = ("auc", "accuracy")  # metrics of which more is better


@dataclass(frozen=True)
class Recipe:
    """How the weights are found.

    Attributes:
        optimizer: its name; SGD has momentum 0.9.
        lr: learning rate; the largest where a schedule changes it.
        schedule: ``constant``; ``cosine``, down to 0 over all epochs; ``one-cycle``, up from lr / 25 and down to
            lr / 250 000 (L. Smith and N. Topin, 2018); ``plateau``, halved after 2 epochs without a better `monitor`.
        warmup: epochs, or a part of one, in which the rate grows linearly from 0; of one-cycle the growing part, 30 %
            of all by default.
        clip: largest norm of the gradient of all weights together; None: as it is.
        monitor: loss or metric of validation by which the best epoch is chosen and training stops.
        precision: of the computation; weights and outputs are float32 in any case.
    """

    optimizer: str = "adam"
    lr: float = 1e-3
    schedule: str = "constant"
    warmup: float = 0.0
    clip: float | None = None
    monitor: str = "loss"
    precision: str = "float32"

    def __post_init__(self) -> None:
        for name, kind in (("optimizer", Optimizer), ("schedule", Schedule), ("precision", Precision)):
            value, known = getattr(self, name), get_args(kind)
            if value not in known:
                close = near_misses(value, known)
                raise PlanError(f"{name} must be one of {', '.join(known)}, not {value!r}{close}")
        if not 0 < self.lr < float("inf"):
            raise PlanError(f"a learning rate must be a positive number, not {self.lr}")
        if self.clip is not None and not self.clip > 0:
            raise PlanError(f"gradients are clipped at a positive norm, not {self.clip}")
        if not 0 <= self.warmup < float("inf"):
            raise PlanError(f"a warm-up takes 0 epochs or more, not {self.warmup}")

    @property
    def mode(self) -> Literal["min", "max"]:
        """Whether less or more of `monitor` is better."""
        return "max" if self.monitor.rsplit("_", 1)[-1] in GROWS else "min"


DEFAULT_RECIPE = Recipe()
