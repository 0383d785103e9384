"""The matrix representation (paper, section 3.2 and figure 5): the objects of a group drawn in one to three axes."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from mlaas4hep_tf.transforms.image_axes import Axis as Axis
from mlaas4hep_tf.transforms.image_axes import EtaPhiImage as EtaPhiImage
from mlaas4hep_tf.transforms.image_axes import Image as Image
from mlaas4hep_tf.transforms.mask import mask_missing


def sparse_cells(image: Image, positions: Sequence[tf.Tensor], channels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The cells that hold an object, and only those.

    Args:
        image: axes and the rule.
        positions: for each axis float32 [n, L], NaN where there is no object.
        channels: float32 [n, L, C], normalised.

    Returns:
        Numbers of the cells, int64 [k], each once, counted over the cells of all n images, the last axis fastest, and
        their values, float32 [k, 1 + C].
    """
    placed = [_bin(values, axis) for values, axis in zip(positions, image.axes, strict=True)]
    objects = tf.where(tf.reduce_all([inside for _, inside in placed], axis=0))  # [m, 2]: event, place, in this order
    number = objects[:, 0]
    for (places, _), axis in zip(placed, image.axes, strict=True):
        number = number * axis.bins + tf.gather_nd(places, objects)
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


def _bin(values: tf.Tensor, axis: Axis) -> tuple[tf.Tensor, tf.Tensor]:
    """Number of each value's bin, int64, and whether it has one."""
    low, high = (tf.constant(edge, tf.float32) for edge in (axis.low, axis.high))
    inside = (values >= low) & (values <= high)  # NaN is not
    position = tf.where(inside, (values - low) / (high - low) * axis.bins, 0)
    return tf.minimum(tf.cast(position, tf.int64), axis.bins - 1), inside


def to_image(image: Image, positions: Sequence[tf.Tensor], channels: tf.Tensor) -> tf.Tensor:
    """Objects -> float32 [n, *bins, 1 + C], 0 where there is none; arguments as for `sparse_cells`."""
    cells, values = sparse_cells(image, positions, channels)
    events = tf.shape(channels, tf.int64)[0]
    flat = tf.scatter_nd(cells[:, tf.newaxis], values, tf.stack([events * image.cells, image.shape[-1]]))
    return tf.reshape(flat, (-1, *image.shape))
