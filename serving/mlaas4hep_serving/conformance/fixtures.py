"""The small models of TF-Serving's tests, exported by ourselves: what the conformance cases are run on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import tensorflow as tf

v1 = tf.compat.v1
PREDICT, CLASSIFY, REGRESS = (f"tensorflow/serving/{kind}" for kind in ("predict", "classify", "regress"))
Signature = tuple[Mapping[str, Any], Mapping[str, Any], str]


def _write(folder: Path, build: Callable[[], Mapping[str, Signature]]) -> Path:
    """A SavedModel from a graph and its signatures (inputs, outputs, method name)."""
    info = v1.saved_model.utils.build_tensor_info
    with v1.Session(graph=tf.Graph()) as session, session.graph.as_default():
        signatures = build()
        session.run(v1.global_variables_initializer())
        builder = v1.saved_model.Builder(str(folder))
        definitions = {
            name: v1.saved_model.signature_def_utils.build_signature_def(
                {alias: info(tensor) for alias, tensor in inputs.items()},
                {alias: info(tensor) for alias, tensor in outputs.items()},
                method,
            )
            for name, (inputs, outputs, method) in signatures.items()
        }
        builder.add_meta_graph_and_variables(session, ["serve"], signature_def_map=definitions)
        builder.save()
    return folder


def _parsed(serialized: Any) -> tuple[Any, Any]:
    features = {
        "x": tf.io.FixedLenFeature([1], tf.float32),
        "x2": tf.io.FixedLenFeature([1], tf.float32, default_value=[0.0]),
    }
    parsed = tf.io.parse_example(serialized, features)
    return parsed["x"], parsed["x2"]


def half_plus_two(folder: Path, *, a: float = 0.5, b: float = 2.0, c: float = 3.0, tf2: bool = False) -> Path:
    """Y = a*x + b, y2 = a*x + c, y3 = a*x2 + c; with ``tf2`` every method name is that of predict."""

    def build() -> Mapping[str, Signature]:
        va, vb, vc = (v1.get_variable(name, initializer=value) for name, value in (("a", a), ("b", b), ("c", c)))
        serialized = v1.placeholder(tf.string, [None], name="tf_example")
        parsed_x, parsed_x2 = _parsed(serialized)
        x = v1.placeholder_with_default(parsed_x, [None, 1], name="x")
        x2 = v1.placeholder_with_default(parsed_x2, [None, 1], name="x2")
        y = tf.add(tf.multiply(va, x), vb, name="y")
        y2 = tf.add(tf.multiply(va, x), vc, name="y2")
        y3 = tf.add(tf.multiply(va, x2), vc, name="y3")
        regress, classify = (PREDICT, PREDICT) if tf2 else (REGRESS, CLASSIFY)
        return {
            "serving_default": ({"x": x}, {"y": y}, PREDICT),
            "regress_x_to_y": ({"inputs": serialized}, {"outputs": y}, regress),
            "regress_x_to_y2": ({"inputs": serialized}, {"outputs": y2}, regress),
            "regress_x2_to_y3": ({"inputs": x2}, {"outputs": y3}, regress),
            "classify_x_to_y": ({"inputs": serialized}, {"scores": y}, classify),
            "classify_x2_to_y3": ({"inputs": x2}, {"scores": y3}, classify),
        }

    return _write(folder, build)


def half_plus_two_tf2(folder: Path) -> Path:
    """`half_plus_two` whose signatures all have predict's method name, as tf.function exports them."""
    return half_plus_two(folder, tf2=True)


def half_plus_three(folder: Path) -> Path:
    """Y = 0.5*x + 3."""
    return half_plus_two(folder, b=3.0)


def _predict(folder: Path, build: Callable[[], tuple[Mapping[str, Any], Mapping[str, Any]]]) -> Path:
    return _write(folder, lambda: {"serving_default": (*build(), PREDICT)})


def matrix_half_plus_two(folder: Path) -> Path:
    """Y = 0.5*x + 2 on float32 [B, n, n]."""

    def build() -> tuple[Mapping[str, Any], Mapping[str, Any]]:
        x = v1.placeholder(tf.float32, [None, None, None], name="x")
        return {"x": x}, {"y": tf.add(0.5 * x, 2.0, name="y")}

    return _predict(folder, build)


def saved_model_counter(folder: Path) -> Path:
    """A counter in a variable: get_counter, incr_counter, incr_counter_by(delta), reset_counter -> output."""

    def build() -> Mapping[str, Signature]:
        counter = v1.get_variable("counter", initializer=0.0, use_resource=True)
        delta = v1.placeholder(tf.float32, [], name="delta")
        return {
            "get_counter": ({}, {"output": counter.read_value()}, PREDICT),
            "incr_counter": ({}, {"output": counter.assign_add(1.0, read_value=True).read_value()}, PREDICT),
            "incr_counter_by": ({"delta": delta}, {"output": counter.assign_add(delta).read_value()}, PREDICT),
            "reset_counter": ({}, {"output": counter.assign(0.0).read_value()}, PREDICT),
        }

    return _write(folder, build)


def two_inputs(folder: Path) -> Path:
    """Sum = a + b, float32."""

    def build() -> tuple[Mapping[str, Any], Mapping[str, Any]]:
        a, b = (v1.placeholder(tf.float32, [None], name=name) for name in "ab")
        return {"a": a, "b": b}, {"sum": tf.add(a, b, name="sum")}

    return _predict(folder, build)


def scalar_out(folder: Path) -> Path:
    """`half_plus_two` on x, and a signature ``scalar_out`` whose output is the sum, of rank 0."""

    def build() -> Mapping[str, Signature]:
        x = v1.placeholder(tf.float32, None, name="x")
        return {
            "serving_default": ({"x": x}, {"y": tf.add(0.5 * x, 2.0, name="y")}, PREDICT),
            "scalar_out": ({"x": x}, {"y": tf.reduce_sum(x, name="total")}, PREDICT),
        }

    return _write(folder, build)


def strings(folder: Path) -> Path:
    """T = s, strings."""

    def build() -> tuple[Mapping[str, Any], Mapping[str, Any]]:
        s = v1.placeholder(tf.string, [None], name="s")
        return {"s": s}, {"t": tf.identity(s, name="t")}

    return _predict(folder, build)


def product(folder: Path, factor: float = 6.0) -> Path:
    """Y = factor * x, the factor from two variables."""

    def build() -> tuple[Mapping[str, Any], Mapping[str, Any]]:
        x = v1.placeholder(tf.float32, None, name="x")
        first, second = v1.get_variable("v1", initializer=factor / 2), v1.get_variable("v2", initializer=2.0)
        return {"x": x}, {"y": tf.multiply(first * second, x, name="y")}

    return _predict(folder, build)


def identity(folder: Path) -> Path:
    """Y = x."""
    return product(folder, 1.0)


def slow(folder: Path, steps: int = 60_000_000) -> Path:
    """Y = x after a loop of TensorFlow's that takes about half a second or longer."""

    def build() -> tuple[Mapping[str, Any], Mapping[str, Any]]:
        x = v1.placeholder(tf.float32, [None], name="x")
        body = lambda i, total: (i + 1, tf.reduce_sum(tf.sin(tf.fill([200_000], total))) * 0.0)  # noqa: E731
        _, total = tf.while_loop(lambda i, _: i < steps // 200_000, body, [0, tf.constant(0.0)], parallel_iterations=1)
        return {"x": x}, {"y": tf.add(x, total, name="y")}

    return _predict(folder, build)
