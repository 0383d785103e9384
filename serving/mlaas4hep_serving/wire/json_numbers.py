"""Many numbers as JSON, by TensorFlow's string ops: they do not hold Python's lock, so that other requests go on.

The text is the one that `json_responses` writes value by value.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from mlaas4hep_serving.wire.tensors import Array

MANY = 4096  # values from which this is the faster way
MOST = 1 << 16  # values at a time, so that their texts take some megabytes
_DIGITS = {np.dtype(np.float32): 9, np.dtype(np.float64): 17}  # where six do not suffice


def writes(array: Array) -> bool:
    """True for an array that `items` takes and is faster for."""
    return MANY <= array.size <= MOST and array.dtype.kind in "fiub" and not _has_denormals(array)


def items(array: Array) -> list[str]:
    """Every element of the first dimension, written."""
    with tf.device("CPU:0"):
        texts = tf.reshape(_texts(array.ravel()), array.shape)
        for _ in array.shape[1:]:
            texts = tf.strings.join(["[", tf.strings.reduce_join(texts, axis=-1, separator=", "), "]"])
        return [text.decode() for text in texts.numpy()]


def _has_denormals(array: Array) -> bool:
    """TensorFlow takes them for 0."""
    if array.dtype.kind != "f":
        return False
    size = np.abs(array)
    return bool(((size > 0) & (size < np.finfo(array.dtype).tiny)).any())


def _texts(values: Array) -> Any:
    if values.dtype not in _DIGITS:
        return tf.strings.as_string(values)
    texts = tf.strings.as_string(values, precision=6, shortest=True)
    exact = tf.strings.to_number(texts, values.dtype).numpy() == values
    if not exact.all():
        longer = tf.strings.as_string(values[~exact], precision=_DIGITS[values.dtype], shortest=True)
        texts = tf.tensor_scatter_nd_update(texts, np.flatnonzero(~exact)[:, np.newaxis], longer)
    whole = tf.strings.regex_full_match(texts, r"-?\d+")
    texts = tf.where(whole, tf.strings.join([texts, ".0"]), texts)
    if np.isfinite(values).all():
        return texts
    special = np.where(np.isnan(values), "NaN", np.where(values > 0, "Infinity", "-Infinity"))
    return tf.where(np.isfinite(values), texts, special)
