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
        named: input -> flat [B], or [B, any] padded with NaN, integers with `NO_INTEGER`; lists in lists
            [B, any, any].

    Returns:
        input -> its values [B] or [m]; group, as expressions name it -> objects of each event, int64 [B], and
        lists in objects -> values of each object.
    """
    values = {one.name: named[one.name] for one in inputs if one.kind == "flat"}
    counts: dict[str, tf.Tensor] = {}
    for group in dict.fromkeys(steps.name_of[one.group] for one in inputs if one.kind != "flat"):
        own = [one.name for one in inputs if one.kind != "flat" and steps.name_of[one.group] == group]
        counts[group], packed_values = _packed_lists({name: named[name] for name in own})
        values |= packed_values
    for inner in dict.fromkeys(one.inner for one in inputs if one.kind == "nested"):
        own = [one.name for one in inputs if one.inner == inner]
        counts[inner], packed_values = _packed_lists({name: values[name] for name in own})
        values |= packed_values
    return values, counts


def _packed_lists(lists: Mapping[str, tf.Tensor]) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
    """How long lists are that have one length, [n, any, ...] each, and their values behind each other."""
    width = tf.reduce_max([tf.shape(own)[1] for own in lists.values()])
    padded = {name: _widened(own, width) for name, own in lists.items()}
    real = tf.reduce_any([_real(own) for own in padded.values()], axis=0)
    ends = tf.where(real, tf.range(1, width + 1, dtype=tf.int32), 0)
    lengths = tf.reduce_max(tf.pad(ends, [[0, 0], [1, 0]]), axis=1)  # 0 where there is no column at all
    inside = tf.sequence_mask(lengths, width)
    return tf.cast(lengths, tf.int64), {name: tf.boolean_mask(own, inside) for name, own in padded.items()}


def _widened(values: tf.Tensor, width: tf.Tensor) -> tf.Tensor:
    missing = tf.constant(NO_INTEGER, tf.int64) if values.dtype == tf.int64 else tf.constant(np.nan, values.dtype)
    beside = [[0, 0]] * (values.shape.rank - 2)
    return tf.pad(values, [[0, 0], [0, width - tf.shape(values)[1]], *beside], constant_values=missing)


def _real(values: tf.Tensor) -> tf.Tensor:
    """Which objects [n, any] have a value that is not missing."""
    real = values != NO_INTEGER if values.dtype == tf.int64 else ~tf.math.is_nan(values)
    return real if values.shape.rank == 2 else tf.reduce_any(real, axis=2)


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
