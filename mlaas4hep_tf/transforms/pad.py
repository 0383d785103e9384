"""Pad jagged values to a rectangle (paper, figure 3): by gathering rows, never event by event."""

from __future__ import annotations

import tensorflow as tf


def sentinel(values: tf.Tensor) -> tf.Tensor:
    """Append the row of NaN that padding points to: [m, F] -> [m + 1, F]."""
    return tf.pad(values, [[0, 1], [0, 0]], constant_values=float("nan"))


def pad(values: tf.Tensor, starts: tf.Tensor, counts: tf.Tensor, length: int) -> tf.Tensor:
    """Lists of objects -> a rectangle; short lists are filled with NaN, long ones cut.

    Args:
        values: float32 [m + 1, F], objects of all events; the last row is the `sentinel`.
        starts: int32 [n], number of the first object of each event.
        counts: int32 [n], objects of each event.
        length: objects kept per event, L.

    Returns:
        float32 [n, F, L].
    """
    position = tf.range(length, dtype=tf.int32)  # [L]
    rows = tf.where(
        position < counts[:, tf.newaxis], starts[:, tf.newaxis] + position, tf.shape(values)[0] - 1
    )  # [n, L]
    return tf.transpose(tf.gather(values, rows), [0, 2, 1])  # [n, L, F] -> [n, F, L]


def resize(padded: tf.Tensor, length: int) -> tf.Tensor:
    """A rectangle of any width -> [n, length]: cut, or filled up with NaN."""
    cut = padded[:, :length]
    fill = tf.maximum(length - tf.shape(cut)[1], 0)
    wide = tf.pad(cut, [[0, 0], [0, fill]], constant_values=float("nan"))
    return tf.ensure_shape(wide, [None, length])
