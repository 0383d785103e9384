"""Pad jagged values to a rectangle (paper, figure 3): by gathering rows, never event by event."""

from __future__ import annotations

import numpy as np
import tensorflow as tf


def sentinel(values: tf.Tensor) -> tf.Tensor:
    """Put a row of NaN in front, to which padding points: [m, F] -> [1 + m, F]."""
    return tf.pad(values, [[1, 0], [0, 0]], constant_values=float("nan"))


def pad(values: tf.Tensor, starts: tf.Tensor, counts: tf.Tensor, length: int) -> tf.Tensor:
    """Lists of objects -> a rectangle; short lists are filled with NaN, long ones cut.

    Args:
        values: float32 [1 + m, F], the `sentinel` and the objects of all events.
        starts: int32 [n], row of the first object of each event.
        counts: int32 [n], objects of each event.
        length: objects kept per event, L.

    Returns:
        float32 [n, F, L].
    """
    position = tf.range(length, dtype=tf.int32)  # [L]
    starts, counts = tf.expand_dims(starts, 1), tf.expand_dims(counts, 1)
    rows = tf.where(position < counts, starts + position, 0)  # [n, L]
    return tf.transpose(tf.gather(values, rows), [0, 2, 1])  # [n, L, F] -> [n, F, L]


def pad_by_value(values: tf.Tensor, starts: tf.Tensor, counts: tf.Tensor, length: int) -> tf.Tensor:
    """`pad` for a compiler: one index for each value of the rectangle, and no rows that are transposed.

    Compiled it takes a third less time than `pad`, and without a compiler twice as long.
    """
    members = values.shape[1]
    member, place = np.divmod(np.arange(members * length), length)
    first, counts = tf.cast(starts, tf.int64)[:, tf.newaxis] * members, tf.expand_dims(counts, 1)
    index = tf.where(place.astype(np.int32) < counts, first + (place * members + member), member)  # [n, F * L]
    return tf.reshape(tf.gather(tf.reshape(values, [-1]), index), [tf.shape(starts)[0], members, length])


def resize(padded: tf.Tensor, length: int) -> tf.Tensor:
    """A rectangle of any width -> [n, length]: cut, or filled up with NaN."""
    cut = padded[:, :length]
    fill = tf.maximum(length - tf.shape(cut)[1], 0)
    wide = tf.pad(cut, [[0, 0], [0, fill]], constant_values=float("nan"))
    return tf.ensure_shape(wide, [None, length])
