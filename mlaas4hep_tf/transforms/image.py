"""The matrix representation (paper, section 3.2 and figure 5): objects of a jagged group as an image in eta and phi."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import tensorflow as tf

from mlaas4hep_tf.errors import PlanError, shorten
from mlaas4hep_tf.specs import Specs
from mlaas4hep_tf.transforms.mask import mask_missing

CellRule = Literal["sum", "max", "last"]


@dataclass(frozen=True)
class EtaPhiImage:
    """How the objects of one group become an image float32 [rows, columns, 1 + channels].

    Rows are bins in eta, columns bins in phi.  Bins are closed below and open above, but for the last one, as in
    `numpy.histogram2d`.  Objects outside the ranges are left out.  The first channel is the number of objects in
    the cell.  It serves as the mask: an object of small normalised values looks like no object otherwise.

    Attributes:
        eta, phi: jagged branches that say where an object lies, in their own unit.
        channels: branches of the same group that fill the other channels, normalised; a missing value counts 0.
        bins: rows and columns.
        eta_range, phi_range: lower and upper edge of the image.
        rule: what several objects in a cell give: the ``sum``, the ``max`` of each channel, or the values of
            the ``last`` one in the order of the file.
    """

    eta: str
    phi: str
    channels: tuple[str, ...]
    bins: tuple[int, int] = (16, 16)
    eta_range: tuple[float, float] = (-2.5, 2.5)
    phi_range: tuple[float, float] = (-math.pi, math.pi)
    rule: CellRule = "sum"

    def __post_init__(self) -> None:
        if self.rule not in get_args(CellRule):
            raise PlanError(f"the rule of an image must be 'sum', 'max' or 'last', not {self.rule!r}")
        if not self.channels:
            raise PlanError("an image needs at least one branch as a channel, such as the pt of the jets")
        if len(self.bins) != 2 or min(self.bins) < 1:
            raise PlanError(f"bins of an image are two numbers of at least 1, in eta and phi, not {self.bins}")
        for name, (low, high) in (("eta_range", self.eta_range), ("phi_range", self.phi_range)):
            if not -math.inf < low < high < math.inf:
                raise PlanError(f"{name} of an image must be finite and rise, not {low:g} to {high:g}")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Rows, columns, channels."""
        return (*self.bins, 1 + len(self.channels))

    def check(self, specs: Specs) -> None:
        """Hold the branches to the specs.

        Raises:
            PlanError: branches that are not there, or not of one group.
        """
        groups = {b.name: b.group for b in specs.jagged if b.length}
        names = (self.eta, self.phi, *self.channels)
        missing = [name for name in names if name not in groups]
        if missing:
            raise PlanError(f"an image needs jagged branches; the specs have none called {shorten(missing)}")
        if len({groups[name] for name in names}) > 1:
            raise PlanError(
                f"the branches of an image must belong to one group: {shorten(f'{n} ({groups[n]})' for n in names)}"
            )


def sparse_cells(
    image: EtaPhiImage, eta: tf.Tensor, phi: tf.Tensor, channels: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """The cells that hold an object, and only those.

    Args:
        image: bins, ranges and the rule.
        eta, phi: float32 [n, L], NaN where there is no object.
        channels: float32 [n, L, C], normalised.

    Returns:
        Numbers of the cells, int64 [k], each once, counted over all n * rows * columns cells, and their values,
        float32 [k, 1 + C].
    """
    row, in_eta = _bin(eta, image.eta_range, image.bins[0])
    column, in_phi = _bin(phi, image.phi_range, image.bins[1])
    objects = tf.where(in_eta & in_phi)  # [m, 2], event and position, in this order
    event = objects[:, 0] * image.bins[0] * image.bins[1]
    number = event + tf.gather_nd(row, objects) * image.bins[1] + tf.gather_nd(column, objects)
    cells, cell = tf.unique(number)
    count = tf.size(cells)
    values, _ = mask_missing(tf.gather_nd(channels, objects))  # [m, C]
    if image.rule == "sum":
        joined = tf.math.unsorted_segment_sum(values, cell, count)
    elif image.rule == "max":
        joined = tf.math.unsorted_segment_max(values, cell, count)
    else:
        joined = tf.gather(values, tf.math.unsorted_segment_max(tf.range(tf.size(cell)), cell, count))
    occupancy = tf.math.unsorted_segment_sum(tf.ones_like(number, tf.float32), cell, count)
    return cells, tf.concat([occupancy[:, tf.newaxis], joined], axis=1)


def _bin(values: tf.Tensor, edges: tuple[float, float], bins: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Number of each value's bin, int64, and whether it has one."""
    low, high = (tf.constant(edge, tf.float32) for edge in edges)
    inside = (values >= low) & (values <= high)  # NaN is not
    position = tf.where(inside, (values - low) / (high - low) * bins, 0)
    return tf.minimum(tf.cast(position, tf.int64), bins - 1), inside


def to_image(image: EtaPhiImage, eta: tf.Tensor, phi: tf.Tensor, channels: tf.Tensor) -> tf.Tensor:
    """Objects -> float32 [n, rows, columns, 1 + C], 0 where there is none; arguments as for `sparse_cells`."""
    cells, values = sparse_cells(image, eta, phi, channels)
    rows = tf.shape(eta, tf.int64)[0]
    size = image.bins[0] * image.bins[1]
    flat = tf.scatter_nd(cells[:, tf.newaxis], values, tf.stack([rows * size, image.shape[2]]))
    return tf.reshape(flat, (-1, *image.shape))
