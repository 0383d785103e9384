"""The operations of expressions as TensorFlow's, for the exported graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from mlaas4hep_tf.expressions.evaluation import evaluate
from mlaas4hep_tf.expressions.tree import Node, Type

_TINY = float(np.finfo(np.float32).tiny)
_DTYPES = {"bool": tf.bool, "int": tf.int64, "float": tf.float64}


def _divisor(b: tf.Tensor) -> tf.Tensor:
    """One where the division would trap: by 0, and of the smallest integer by -1."""
    return tf.where((b == 0) | (b == -1), tf.ones_like(b), b)


def _floor_divide(a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    if a.dtype.is_floating:
        return tf.floor(a / b)
    nothing = tf.zeros_like(a)
    return tf.where(b == 0, nothing, tf.where(b == -1, nothing - a, tf.math.floordiv(a, _divisor(b))))


def _remainder(a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    if a.dtype.is_floating:
        rest = tf.math.floormod(a, b)
        return tf.where(rest == 0, tf.zeros_like(rest), rest)
    return tf.where((b == 0) | (b == -1), tf.zeros_like(a), tf.math.floormod(a, _divisor(b)))


def _with_nan(choose: Callable[..., tf.Tensor]) -> Callable[..., tf.Tensor]:
    """As NumPy's, where TensorFlow's may lose a NaN."""

    def chosen(a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
        if not a.dtype.is_floating:
            return choose(a, b)
        return tf.where(tf.math.is_nan(a) | tf.math.is_nan(b), tf.constant(np.nan, a.dtype), choose(a, b))

    return chosen


def _shift(shift: Callable[..., tf.Tensor]) -> Callable[..., tf.Tensor]:
    return lambda a, b: shift(*_same_shape(a, tf.clip_by_value(b, 0, 63)))


def _same_shape(a: tf.Tensor, b: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    shape = tf.broadcast_dynamic_shape(tf.shape(a), tf.shape(b))
    return tf.broadcast_to(a, shape), tf.broadcast_to(b, shape)


_OPERATIONS: dict[str, Callable[..., Any]] = {
    "and": tf.logical_and, "or": tf.logical_or, "xor": tf.math.logical_xor, "not": tf.logical_not,
    "bit_and": tf.bitwise.bitwise_and, "bit_or": tf.bitwise.bitwise_or, "bit_xor": tf.bitwise.bitwise_xor,
    "bit_not": tf.bitwise.invert, "shift_left": _shift(tf.bitwise.left_shift),
    "shift_right": _shift(tf.bitwise.right_shift), "floor_divide": _floor_divide, "remainder": _remainder,
    "divide": tf.math.divide, "power": tf.pow, "hypot": lambda a, b: tf.sqrt(a * a + b * b), "where": tf.where,
    "minimum": _with_nan(tf.minimum), "maximum": _with_nan(tf.maximum), "floor": tf.floor,
    "log10": lambda x: tf.math.log(x) / np.log(10.0), "arctan2": tf.math.atan2, "arcsin": tf.asin, "arccos": tf.acos,
    "arctan": tf.atan, "arcsinh": tf.asinh, "arccosh": tf.acosh, "arctanh": tf.atanh,
}  # fmt: skip


class TensorFlow:
    """See `evaluation.Operations`."""

    def array(self, values: Any, kind: Type) -> tf.Tensor:
        return self.rounded(tf.convert_to_tensor(values)) if kind == "float" else tf.cast(values, _DTYPES[kind])

    def constant(self, value: Any, kind: Type) -> tf.Tensor:
        return tf.constant(value, _DTYPES[kind])

    def convert(self, x: tf.Tensor, kind: Type) -> tf.Tensor:
        if kind == "bool" and x.dtype != tf.bool:
            return (x != 0) & (x == x) if x.dtype.is_floating else x != 0  # NaN is not itself
        return tf.cast(x, _DTYPES[kind])

    def rounded(self, x: tf.Tensor) -> tf.Tensor:
        wide = tf.cast(x, tf.float64)
        wide = tf.where(tf.abs(wide) < _TINY, tf.zeros_like(wide), wide)  # before and behind: a cast may flush or not
        wide = tf.cast(tf.cast(wide, tf.float32), tf.float64)
        return tf.where(tf.abs(wide) < _TINY, tf.zeros_like(wide), wide)

    def result(self, x: tf.Tensor, kind: Type, entries: Any) -> tf.Tensor:
        x = tf.fill([entries], x) if x.shape.rank == 0 else x
        return tf.cast(self.rounded(x), tf.float32) if kind == "float" else x

    def apply(self, op: str, args: Sequence[tf.Tensor]) -> tf.Tensor:
        return (_OPERATIONS.get(op) or getattr(tf.math, op))(*args)

    def reduce(self, op: str, x: tf.Tensor, counts: tf.Tensor) -> tf.Tensor:
        lists = tf.size(counts, tf.int64)
        of = tf.repeat(tf.range(lists), counts)
        if op == "sum":
            return tf.math.unsorted_segment_sum(x, of, lists)
        if op == "any":
            return tf.math.unsorted_segment_max(tf.cast(x, tf.int32), of, lists) > 0
        if op == "all":
            return tf.math.unsorted_segment_min(tf.cast(x, tf.int32), of, lists) > 0
        real = ~tf.math.is_nan(x)
        segment = tf.math.unsorted_segment_min if op == "min" else tf.math.unsorted_segment_max
        away = tf.constant(np.inf if op == "min" else -np.inf, x.dtype)
        some = tf.math.unsorted_segment_max(tf.cast(real, tf.int32), of, lists) > 0
        found = segment(tf.where(real, x, away), of, lists)
        found = tf.where(tf.abs(found) == x.dtype.max, away, found)  # which is where its segments start
        return tf.where(some, found, tf.constant(np.nan, x.dtype))

    def size(self, x: tf.Tensor) -> tf.Tensor:
        return tf.size(x, tf.int64)

    def range(self, size: tf.Tensor) -> tf.Tensor:
        return tf.range(size)

    def before(self, counts: tf.Tensor) -> tf.Tensor:
        return tf.cumsum(counts, exclusive=True)

    def repeat(self, x: tf.Tensor, counts: tf.Tensor) -> tf.Tensor:
        return tf.fill([tf.reduce_sum(counts)], x) if x.shape.rank == 0 else tf.repeat(x, counts)

    def gather(self, x: tf.Tensor, places: tf.Tensor) -> tf.Tensor:
        return tf.gather(x, places)

    def keep(self, x: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
        return tf.boolean_mask(x, mask)

    def at(self, x: tf.Tensor, counts: tf.Tensor, place: int) -> tf.Tensor:
        padded = tf.concat([x, tf.constant([np.nan], x.dtype)], 0)
        nowhere = tf.size(x, tf.int64)
        return tf.gather(padded, tf.where(counts > place, self.before(counts) + place, nowhere))

    def work_out(
        self, nodes: Sequence[Node], values: Mapping[str, tf.Tensor], counts: Mapping[str, tf.Tensor], entries: Any
    ) -> list[tf.Tensor]:
        return evaluate(nodes, self, values, counts, entries)

    def sorted(self, keys: tf.Tensor, counts: tf.Tensor) -> tf.Tensor:
        missing = tf.math.is_nan(keys)
        places = tf.argsort(tf.where(missing, tf.zeros_like(keys), keys), stable=True)
        for later in (tf.cast(missing, tf.int32), tf.repeat(tf.range(tf.size(counts, tf.int32)), counts)):
            places = tf.gather(places, tf.argsort(tf.gather(later, places), stable=True))
        return places
