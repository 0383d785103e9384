"""Reweight: which distribution classes are to have in training; no TensorFlow."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from mlaas4hep_tf.errors import ConfigError
from mlaas4hep_tf.transforms.image_axes import Axis


@dataclass(frozen=True)
class Reweight:
    """Weigh the events of each class so that classes have one distribution of some branches, in bins.

    Attributes:
        axes: flat features with their bins, for example pt and mass; events outside are counted in the nearest bin.
        to: ``flat``, or the name of the class whose distribution all get.
        cap: largest factor of a weight, relative to the mean of its class.
    """

    axes: tuple[Axis, ...]
    to: str = "flat"
    cap: float = 10.0

    def __post_init__(self) -> None:
        if not self.axes:
            raise ConfigError("reweighting needs a branch with bins at least, such as met=10:0:300")
        if not (math.isfinite(self.cap) and self.cap > 1):
            raise ConfigError(f"the cap of weights must be larger than 1, not {self.cap:g}")

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(content: dict[str, Any]) -> Reweight:
        """What `to_json` wrote."""
        return Reweight(**content | {"axes": tuple(Axis(**axis) for axis in content["axes"])})
