"""Networks that come as ONNX, from PyTorch or others, as Keras models on our vector, held to onnxruntime's answers."""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from mlaas4hep_tf.errors import ModelError, need, shorten
from mlaas4hep_tf.onnx_files import TOLERANCE, largest_difference, session
from mlaas4hep_tf.onnx_ops import OPS
from mlaas4hep_tf.transforms.vector import Preprocessor
from mlaas4hep_tf.trial_events import trial_events

VECTOR, MASK = "vector", "mask"
OLDEST = 13  # opset, since which axes are inputs


@keras.saving.register_keras_serializable(package="mlaas4hep_tf")
class OnnxNetwork(keras.layers.Layer):  # type: ignore[misc]  # keras has no type information
    """An ONNX graph as a layer: its inputs by name -> its first output.

    Attributes:
        content: the file, its bytes in base64.
    """

    def __init__(self, content: str, **kwargs: Any) -> None:
        super().__init__(**{"trainable": False, "dtype": "float32", **kwargs})
        self.content = content
        self._graph = _parsed(base64.b64decode(content)).graph

    def call(self, inputs: Mapping[str, Any]) -> Any:
        from onnx.helper import get_attribute_value
        from onnx.numpy_helper import to_array

        known: dict[str, Any] = {one.name: tf.constant(to_array(one)) for one in self._graph.initializer}
        known |= dict(inputs) | {"": None}
        for node in self._graph.node:
            attributes = {one.name: get_attribute_value(one) for one in node.attribute}
            if node.op_type == "Constant":
                known[node.output[0]] = tf.constant(_value(attributes))
                continue
            try:
                found = OPS[node.op_type]([known[name] for name in node.input], attributes)
            except (ValueError, TypeError, KeyError) as error:
                raise ModelError(f"{node.op_type} of the ONNX network has no counterpart here: {error}") from error
            several = found if isinstance(found, list) else [found]
            known |= dict(zip(node.output, several, strict=False))  # masks of dropout are nowhere used
        return known[self._graph.output[0].name]

    def compute_output_spec(self, inputs: Mapping[str, Any]) -> Any:
        signature = {name: tf.TensorSpec(one.shape, one.dtype) for name, one in inputs.items()}
        made = tf.function(self.call, autograph=False).get_concrete_function(signature).structured_outputs
        return keras.KerasTensor(made.shape, made.dtype.name)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "content": self.content}


def _value(attributes: Mapping[str, Any]) -> Any:
    from onnx.numpy_helper import to_array

    ((name, value),) = attributes.items()
    if name == "value":
        return to_array(value)
    return np.asarray(value, np.float32 if name.startswith("value_float") else np.int64)


def from_onnx(path: str | os.PathLike[str], preprocessor: Preprocessor) -> keras.Model:
    """A network on the vector (and mask) as a Keras model, which `export` puts behind the preprocessing.

    The file has one input for the vector, float32 [B, D], and may have one more named ``mask``, bool or float32 [B, D];
    its first output is [B, K] or [B].  There is no converter from ONNX to TensorFlow that is kept and goes with today's
    NumPy and Keras, so `onnx_ops` has the ops that such networks consist of.

    Args:
        path: the ONNX file.
        preprocessor: what made the vector that the network was trained on.

    Raises:
        MissingExtra: without the extra ``onnx``.
        ModelError: no ONNX file, other inputs, an op that is not known, or answers that differ from onnxruntime's by
            more than 1e-5.
    """
    need("onnx", "onnx", "onnxruntime", purpose="networks that come as ONNX")
    where = os.fspath(path)
    try:
        with open(path, "rb") as file:
            content = file.read()
        graph = _parsed(content).graph
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot read the ONNX network {where}: {error}") from error
    lacking = sorted({node.op_type for node in graph.node} - {*OPS, "Constant"})
    if lacking:
        raise ModelError(f"{where} has ops that have no counterpart here: {shorten(lacking)}")
    vector, mask = _inputs(graph, preprocessor.width, where)
    inputs = {VECTOR: keras.Input((preprocessor.width,), name=VECTOR)}
    given = {vector: inputs[VECTOR]}
    if mask:
        inputs[MASK] = keras.Input((preprocessor.width,), name=MASK, dtype="bool")
        (dtype,) = [one.type.tensor_type.elem_type for one in graph.input if one.name == mask]
        given[mask] = inputs[MASK] if dtype == _BOOL else keras.ops.cast(inputs[MASK], "float32")
    score = OnnxNetwork(base64.b64encode(content).decode(), name="onnx")(given)
    if len(score.shape) == 1:
        score = keras.ops.expand_dims(score, -1)
    model = keras.Model(inputs if mask else inputs[VECTOR], score, name="onnx_network")
    _check(model, content, preprocessor, vector, mask, where)
    return model


_FLOAT, _BOOL = 1, 9  # TensorProto.DataType


def _parsed(content: bytes) -> Any:
    """The model of a file.

    Raises:
        ValueError: it is none, or of an opset that is too old.
    """
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load_from_string(content)
        onnx.checker.check_model(model)
    except (DecodeError, onnx.checker.ValidationError) as error:
        raise ValueError(f"it is no ONNX model, {next(iter(str(error).splitlines()), '')}") from error
    versions = {one.version for one in model.opset_import if one.domain in ("", "ai.onnx")}
    if versions and min(versions) < OLDEST:
        raise ValueError(f"its opset is {min(versions)}; export it again with opset {OLDEST} or newer")
    return model


def _inputs(graph: Any, width: int, where: str) -> tuple[str, str | None]:
    """Names of the inputs for vector and mask."""
    weights = {one.name for one in graph.initializer}
    free = [one for one in graph.input if one.name not in weights]
    mask = next((one.name for one in free if one.name == MASK and len(free) > 1), None)
    vectors = [one for one in free if one.name != mask]
    shapes = {one.name: [d.dim_value for d in one.type.tensor_type.shape.dim] for one in free}
    fits = len(vectors) == 1 and vectors[0].type.tensor_type.elem_type == _FLOAT
    if not fits or any(len(shape) != 2 or shape[1] not in (0, width) for shape in shapes.values()):
        raise ModelError(
            f"{where} takes {shapes}, but the data give a vector float32 [B, {width}] (and a mask, for an input named "
            f"{MASK!r}); 0 stands for any size"
        )
    return vectors[0].name, mask


def _check(
    model: keras.Model, content: bytes, preprocessor: Preprocessor, vector: str, mask: str | None, where: str
) -> None:
    """Raise ModelError unless the model answers as onnxruntime does."""
    branches = {name: tf.constant(values) for name, values in trial_events(preprocessor.specs).padded().items()}
    ready = preprocessor.model_input(preprocessor.from_branches(branches), mask=True)
    runtime = session(content)
    request = {vector: ready[VECTOR].numpy()}
    if mask:
        (wanted,) = [one.type for one in runtime.get_inputs() if one.name == mask]
        request[mask] = ready[MASK].numpy().astype(np.bool_ if wanted == "tensor(bool)" else np.float32)
    expected = runtime.run(None, request)[0]
    got = model(ready if mask else ready[VECTOR], training=False).numpy()
    difference = largest_difference(got.reshape(len(got), -1), expected.reshape(len(expected), -1))
    if not difference <= TOLERANCE:
        raise ModelError(
            f"{where}: TensorFlow's answers differ from onnxruntime's by {difference:.2g}, more than {TOLERANCE:g}, so "
            "it is not exported"
        )
