"""The mask (paper, figure 4): True where there is a real value, False for padding, NaN and +-inf."""

from __future__ import annotations

import tensorflow as tf

PADDING = 0.0  # what stands for a missing value after normalisation, as in the paper's code


def mask_missing(values: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Tell real values from missing ones and fill the gaps.

    Args:
        values: float32 of any shape, after normalisation; missing ones are not finite.

    Returns:
        The values with `PADDING` in the gaps, and the mask: bool of the same shape, True = real.
    """
    real = tf.math.is_finite(values)
    return tf.where(real, values, tf.constant(PADDING, values.dtype)), real
