"""The ops of ONNX that networks on a vector consist of, each by what TensorFlow has for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from typing import Any

import numpy as np
import tensorflow as tf

Values = Sequence[Any]
Attributes = Mapping[str, Any]
Op = Callable[[Values, Attributes], Any]


def _plain(function: Callable[..., Any]) -> Op:
    return lambda x, _: function(*x)


def _gemm(x: Values, a: Attributes) -> Any:
    product = tf.matmul(x[0], x[1], transpose_a=bool(a.get("transA")), transpose_b=bool(a.get("transB")))
    product = product * a.get("alpha", 1.0)
    return product + a.get("beta", 1.0) * x[2] if len(x) > 2 else product


def _batch_normalization(x: Values, a: Attributes) -> Any:
    scale, bias, mean, variance = (tf.reshape(one, [1, -1] + [1] * (x[0].shape.rank - 2)) for one in x[1:5])
    return (x[0] - mean) * (scale * tf.math.rsqrt(variance + a.get("epsilon", 1e-5))) + bias


def _layer_normalization(x: Values, a: Attributes) -> Any:
    rank = x[0].shape.rank
    axes = list(range(a.get("axis", -1) % rank, rank))
    mean, variance = tf.nn.moments(x[0], axes, keepdims=True)
    normal = (x[0] - mean) * tf.math.rsqrt(variance + a.get("epsilon", 1e-5)) * x[1]
    return normal + x[2] if len(x) > 2 else normal


def _reduced(function: Callable[..., Any]) -> Op:
    def op(x: Values, a: Attributes) -> Any:
        axes = _constant(x[1]).tolist() if len(x) > 1 and x[1] is not None else a.get("axes")
        if axes is None and a.get("noop_with_empty_axes"):
            return x[0]
        return function(x[0], axes, keepdims=bool(a.get("keepdims", 1)))

    return op


def _reshape(x: Values, a: Attributes) -> Any:
    known = tf.get_static_value(x[1])
    if known is None:  # made of the sizes of the input
        return tf.reshape(x[0], x[1])
    wanted, shape = known.tolist(), tf.shape(x[0])
    return tf.reshape(
        x[0], [shape[n] if size == 0 and not a.get("allowzero") else size for n, size in enumerate(wanted)]
    )


def _flatten(x: Values, a: Attributes) -> Any:
    axis = a.get("axis", 1)
    rest = x[0].shape[axis:].num_elements()
    return tf.reshape(x[0], [-1, rest] if rest is not None else [tf.reduce_prod(tf.shape(x[0])[:axis]), -1])


def _unsqueeze(x: Values, _: Attributes) -> Any:
    axes = _constant(x[1]).ravel().tolist()
    rank = x[0].shape.rank + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        x = [tf.expand_dims(x[0], axis)]
    return x[0]


def _slice(x: Values, _: Attributes) -> Any:
    starts, stops = (_constant(one).tolist() for one in x[1:3])
    axes = _constant(x[3]).tolist() if len(x) > 3 and x[3] is not None else range(len(starts))
    steps = _constant(x[4]).tolist() if len(x) > 4 else [1] * len(starts)
    cut = [slice(None)] * x[0].shape.rank
    for start, stop, axis, step in zip(starts, stops, axes, steps, strict=True):
        if step < 1:
            raise ValueError("a slice with a step below 1")
        cut[axis] = slice(start, stop if stop < 1 << 31 else None, step)
    return x[0][tuple(cut)]


def _split(x: Values, a: Attributes) -> Any:
    axis = a.get("axis", 0)
    if len(x) > 1 and x[1] is not None:
        return tf.split(x[0], _constant(x[1]).tolist(), axis)
    return tf.split(x[0], a["num_outputs"], axis)


def _clip(x: Values, _: Attributes) -> Any:
    low, high = (*x[1:], None, None)[:2]
    found = x[0] if low is None else tf.maximum(x[0], low)
    return found if high is None else tf.minimum(found, high)


def _gather(x: Values, a: Attributes) -> Any:
    axis = a.get("axis", 0)
    places = tf.cast(x[1], tf.int64)
    size = tf.shape(x[0], tf.int64)[axis]
    return tf.gather(x[0], tf.where(places < 0, places + size, places), axis=axis)


def _top_k(x: Values, a: Attributes) -> Any:
    if a.get("axis", -1) not in (-1, x[0].shape.rank - 1):
        raise ValueError("the largest along another axis than the last")
    sign = 1 if a.get("largest", 1) else -1
    values, places = tf.math.top_k(sign * x[0], tf.cast(tf.reshape(x[1], []), tf.int32))
    return [sign * values, tf.cast(places, tf.int64)]


def _constant_of_shape(x: Values, a: Attributes) -> Any:
    from onnx.numpy_helper import to_array

    return tf.fill(x[0], to_array(a["value"])[0] if "value" in a else np.float32(0))


def _constant(value: Any) -> np.ndarray:
    """A value that is known when the graph is built: shapes, axes.

    Raises:
        ValueError: it depends on the input.
    """
    known = tf.get_static_value(value)
    if known is None:
        raise ValueError("a shape or axes that depend on the input")
    return np.asarray(known)


def _cast(x: Values, a: Attributes) -> Any:
    from onnx.helper import tensor_dtype_to_np_dtype

    return tf.cast(x[0], tensor_dtype_to_np_dtype(a["to"]))


OPS: Mapping[str, Op] = {
    "Gemm": _gemm, "MatMul": _plain(tf.matmul), "Einsum": lambda x, a: tf.einsum(a["equation"].decode(), *x),
    "Add": _plain(tf.add), "Sub": _plain(tf.subtract), "Mul": _plain(tf.multiply), "Div": _plain(tf.divide),
    "Pow": lambda x, _: tf.pow(x[0], tf.cast(x[1], x[0].dtype)), "Neg": _plain(tf.negative), "Abs": _plain(tf.abs),
    "Sqrt": _plain(tf.sqrt), "Exp": _plain(tf.exp), "Log": _plain(tf.math.log), "Erf": _plain(tf.math.erf),
    "Reciprocal": _plain(tf.math.reciprocal), "Sin": _plain(tf.sin), "Cos": _plain(tf.cos),
    "Sinh": _plain(tf.sinh), "Asinh": _plain(tf.asinh), "Floor": _plain(tf.floor),
    "Relu": _plain(tf.nn.relu), "Sigmoid": _plain(tf.sigmoid), "Tanh": _plain(tf.tanh),
    "Softplus": _plain(tf.math.softplus), "Selu": _plain(tf.nn.selu),
    "Elu": lambda x, a: tf.where(x[0] > 0, x[0], a.get("alpha", 1.0) * tf.math.expm1(x[0])),
    "LeakyRelu": lambda x, a: tf.nn.leaky_relu(x[0], a.get("alpha", 0.01)),
    "PRelu": lambda x, _: tf.where(x[0] > 0, x[0], x[0] * x[1]),
    "Gelu": lambda x, a: tf.nn.gelu(x[0], approximate=a.get("approximate", b"none") == b"tanh"),
    "Softmax": lambda x, a: tf.nn.softmax(x[0], axis=a.get("axis", -1)),
    "LogSoftmax": lambda x, a: tf.nn.log_softmax(x[0], axis=a.get("axis", -1)),
    "BatchNormalization": _batch_normalization, "LayerNormalization": _layer_normalization,
    "Identity": lambda x, _: x[0], "Dropout": lambda x, _: x[0], "Cast": _cast, "Clip": _clip,
    "Min": lambda x, _: reduce(tf.minimum, x), "Max": lambda x, _: reduce(tf.maximum, x),
    "Flatten": _flatten, "Reshape": _reshape, "Unsqueeze": _unsqueeze,
    "Squeeze": lambda x, _: tf.squeeze(x[0], _constant(x[1]).tolist() if len(x) > 1 else None),
    "Transpose": lambda x, a: tf.transpose(x[0], a.get("perm")),
    "Concat": lambda x, a: tf.concat(list(x), a["axis"]), "Split": _split, "Slice": _slice, "Gather": _gather,
    "Shape": lambda x, _: tf.shape(x[0], tf.int64), "ConstantOfShape": _constant_of_shape, "TopK": _top_k,
    "Expand": lambda x, _: x[0] * tf.ones(x[1], x[0].dtype),
    "Where": _plain(tf.where), "Equal": _plain(tf.equal), "Greater": _plain(tf.greater), "Less": _plain(tf.less),
    "GreaterOrEqual": _plain(tf.greater_equal), "LessOrEqual": _plain(tf.less_equal),
    "Not": _plain(tf.logical_not), "And": _plain(tf.logical_and), "Or": _plain(tf.logical_or),
    "IsNaN": _plain(tf.math.is_nan),
    "ReduceSum": _reduced(tf.reduce_sum), "ReduceMean": _reduced(tf.reduce_mean),
    "ReduceMax": _reduced(tf.reduce_max), "ReduceMin": _reduced(tf.reduce_min),
}  # fmt: skip
