"""`Image`: which branches are the axes of an image and which fill it (paper, section 3.2); no TensorFlow."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from mlaas4hep_tf.errors import PlanError, shorten
from mlaas4hep_tf.specs import Specs

CellRule = Literal["sum", "max", "last"]
MOST_AXES = 3  # Keras has convolutions in one to three dimensions
MOST_CELLS = 1 << 24


@dataclass(frozen=True)
class Axis:
    """One axis of an image.

    Bins are closed below and open above, but for the last one, as in `numpy.histogramdd`.

    Attributes:
        branch: list branch that says where an object lies, in its own unit; it may be a derived one.
        bins: how many.
        low, high: edges of the image.
    """

    branch: str
    bins: int
    low: float
    high: float

    def __post_init__(self) -> None:
        if isinstance(self.bins, bool) or not isinstance(self.bins, int) or self.bins < 1:
            raise PlanError(f"an axis of an image has a whole number of bins, at least 1: {self.branch!r} {self.bins}")
        if not -math.inf < self.low < self.high < math.inf:
            raise PlanError(
                f"edges of an image must be finite and rise: those of {self.branch!r} are {self.low:g}, {self.high:g}"
            )


@dataclass(frozen=True)
class Image:
    """How the objects of one group become an image float32 [bins of each axis ..., 1 + channels].

    Objects outside the edges are left out.  The first channel is the number of objects in the cell.  It serves as
    the mask: an object of small normalised values looks like no object otherwise.

    Attributes:
        axes: one to three.
        channels: branches of the same group that fill the other channels, normalised; a missing value counts 0.
        rule: what several objects in a cell give: the ``sum``, the ``max`` of each channel, or the values of
            the ``last`` one in the order of the file.
    """

    axes: tuple[Axis, ...]
    channels: tuple[str, ...]
    rule: CellRule = "sum"

    def __post_init__(self) -> None:
        if self.rule not in get_args(CellRule):
            raise PlanError(f"the rule of an image must be 'sum', 'max' or 'last', not {self.rule!r}")
        if not self.channels:
            raise PlanError("an image needs at least one branch as a channel, such as the pt of the jets")
        if not 1 <= len(self.axes) <= MOST_AXES:
            raise PlanError(f"an image has one to {MOST_AXES} axes, not {len(self.axes)}")
        if self.cells > MOST_CELLS:
            raise PlanError(f"an image has at most {MOST_CELLS:,} cells, not {self.cells:,}: take fewer bins")

    @property
    def bins(self) -> tuple[int, ...]:
        return tuple(axis.bins for axis in self.axes)

    @property
    def cells(self) -> int:
        return math.prod(self.bins)

    @property
    def shape(self) -> tuple[int, ...]:
        """Bins of each axis, and channels."""
        return (*self.bins, 1 + len(self.channels))

    @property
    def parts(self) -> dict[str, slice]:
        """What each channel shows -> where it stands."""
        return {name: slice(n, n + 1) for n, name in enumerate(("(objects in a cell)", *self.channels))}

    def check(self, specs: Specs) -> None:
        """Hold the branches to the specs.

        Raises:
            PlanError: branches that are not there, or not of one group.
        """
        groups = {b.name: b.group for b in specs.jagged if b.length}
        names = (*(axis.branch for axis in self.axes), *self.channels)
        missing = [name for name in names if name not in groups]
        if missing:
            raise PlanError(f"an image needs jagged branches; the specs have none called {shorten(missing)}")
        if len({groups[name] for name in names}) > 1:
            raise PlanError(
                f"the branches of an image must belong to one group: {shorten(f'{n} ({groups[n]})' for n in names)}"
            )

    @staticmethod
    def from_json(content: Mapping[str, Any]) -> Image:
        """What `dataclasses.asdict` gave."""
        axes = tuple(Axis(**axis) for axis in content["axes"])
        return Image(**{**content, "axes": axes, "channels": tuple(content["channels"])})


def EtaPhiImage(  # noqa: N802  # it was a class, and is used as one
    eta: str,
    phi: str,
    channels: tuple[str, ...],
    bins: tuple[int, int] = (16, 16),
    eta_range: tuple[float, float] = (-2.5, 2.5),
    phi_range: tuple[float, float] = (-math.pi, math.pi),
    rule: CellRule = "sum",
) -> Image:
    """An image with bins of eta as rows and of phi as columns."""
    return Image((Axis(eta, bins[0], *eta_range), Axis(phi, bins[1], *phi_range)), channels, rule)
