"""Raw branches of a request, through the steps of an analysis, to packed events."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf

from mlaas4hep_tf.analysis.applied import Applied
from mlaas4hep_tf.analysis.steps import Steps
from mlaas4hep_tf.io.branches import Layout
from mlaas4hep_tf.specs import InputSpec
from mlaas4hep_tf.transforms.pad import sentinel

NO_INTEGER = np.iinfo(np.int64).min  # in the place of NaN behind the end of a list of integers


def unpadded(
    inputs: Sequence[InputSpec], steps: Steps, named: Mapping[str, tf.Tensor]
) -> tuple[dict[str, tf.Tensor], dict[str, tf.Tensor]]:
    """Rectangles as packed lists; a list ends behind its last object with a member that is not NaN.

    Args:
        inputs: what is given.
        named: input -> flat [B], or [B, any] padded with NaN, integers with `NO_INTEGER`.

    Returns:
        input -> its values [B] or [m]; group, as expressions name it -> objects of each event, int64 [B].
    """
    values = {one.name: named[one.name] for one in inputs if one.kind == "flat"}
    counts: dict[str, tf.Tensor] = {}
    members: dict[str, list[str]] = {}
    for one in inputs:
        if one.kind != "flat":
            members.setdefault(steps.name_of[one.group], []).append(one.name)
    for group, names in members.items():
        width = tf.reduce_max([tf.shape(named[name])[1] for name in names])
        padded = {name: _widened(named[name], width) for name in names}
        real = tf.reduce_any([_real(values) for values in padded.values()], axis=0)
        ends = tf.where(real, tf.range(1, width + 1, dtype=tf.int32), 0)
        counts[group] = tf.cast(tf.reduce_max(tf.concat([tf.zeros_like(ends[:, :1]), ends], 1), axis=1), tf.int64)
        inside = tf.sequence_mask(counts[group], width)
        values |= {name: tf.boolean_mask(own, inside) for name, own in padded.items()}
    return values, counts


def _widened(values: tf.Tensor, width: tf.Tensor) -> tf.Tensor:
    missing = tf.constant(NO_INTEGER, tf.int64) if values.dtype == tf.int64 else tf.constant(np.nan, values.dtype)
    return tf.pad(values, [[0, 0], [0, width - tf.shape(values)[1]]], constant_values=missing)


def _real(values: tf.Tensor) -> tf.Tensor:
    return values != NO_INTEGER if values.dtype == tf.int64 else ~tf.math.is_nan(values)


def packed(
    applied: Applied, layout: Layout, steps: Steps, entries: tf.Tensor
) -> tuple[tf.Tensor, list[tuple[tf.Tensor, tf.Tensor, tf.Tensor]]]:
    """The features behind the steps, as `Preprocessor.from_packed` takes them."""
    columns = [tf.cast(applied[name], tf.float32) for name in layout.flat]
    flat = tf.stack(columns, axis=1) if columns else tf.zeros([entries, 0])
    groups = []
    for group, names in layout.groups:
        values = tf.stack([tf.cast(applied[name], tf.float32) for name in names], axis=1)  # [m, F]
        counts = tf.cast(applied.counts[steps.name_of[group]], tf.int32)
        groups.append((sentinel(values), 1 + tf.cumsum(counts, exclusive=True), counts))
    return flat, groups
