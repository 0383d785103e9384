"""ONNX files of a served graph: converted by tf2onnx, and held to TensorFlow's own answers by onnxruntime."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from mlaas4hep_tf.errors import DataWarning, ModelError, need, shorten

OPSET = 18  # the newest that tf2onnx is tested with; onnxruntime 1.14 and newer read it
TOLERANCE = 1e-5  # of a score: absolute up to 1, relative beyond
CARD = "model_card"  # key of the file's metadata
NETWORK = "network.onnx"  # the one file that must be there

Arrays = Mapping[str, np.ndarray]


class NotConvertible(Exception):
    """Why a graph has no counterpart in ONNX."""


def write_onnx(folder: Path, graphs: Mapping[str, tuple[Any, Arrays]], card: Mapping[str, Any]) -> None:
    """Write each graph as an ONNX file, if that gives TensorFlow's answers to a request.

    Args:
        folder: where the files go; it is there.
        graphs: name of the file -> concrete function with named inputs and outputs, and the request.
        card: goes into each file's metadata under `CARD`, as JSON.

    Raises:
        MissingExtra: without the extra ``onnx``.
        ModelError: answers that differ by more than `TOLERANCE`, or `NETWORK` cannot be converted.

    Warns:
        DataWarning: another file than `NETWORK` cannot be converted, so it is left out; and why.
    """
    check_extra()
    for name, (graph, request) in graphs.items():
        try:
            model = converted(graph)
            check_agreement(name, model, graph, request)
        except NotConvertible as error:
            if name == NETWORK:
                raise ModelError(f"the network cannot be written as ONNX: {error}") from error
            warnings.warn(f"{name} is not written, {NETWORK} is: {error}", DataWarning, stacklevel=3)
            continue
        _describe(model, card)
        (folder / name).write_bytes(model.SerializeToString())


def check_extra() -> None:
    """Raise MissingExtra without the extra ``onnx``."""
    need("onnx", "tf2onnx", "onnx", "onnxruntime", purpose="ONNX files")


def converted(graph: Any) -> Any:
    """The ONNX model of a concrete function.

    A selection stays one: by default tf2onnx makes a sum of products of it, in which a NaN that is not selected makes
    NaN.

    Raises:
        NotConvertible: an op of the graph that ONNX does not have, or that tf2onnx fails at.
    """
    import onnx
    import tf2onnx

    inputs: dict[str, tf.TensorSpec] = graph.structured_input_signature[1]
    numbered = [tf.TensorSpec(spec.shape, spec.dtype, f"input_{n}") for n, spec in enumerate(inputs.values())]

    @tf.function(input_signature=numbered, autograph=False)  # type: ignore[untyped-decorator]  # tensorflow has no types
    def positional(*values: tf.Tensor) -> dict[str, tf.Tensor]:
        found: dict[str, tf.Tensor] = graph(**dict(zip(inputs, values, strict=True)))
        return found

    selections: dict[str, tuple[Any, list[Any]]] = {op: (_keep_selection, []) for op in ("Select", "SelectV2")}
    try:
        with _silent("tf2onnx"):
            model, _ = tf2onnx.convert.from_function(positional, numbered, opset=OPSET, custom_op_handlers=selections)
    except Exception as error:
        said = next(iter(str(error).splitlines()), "")
        raise NotConvertible(f"tf2onnx fails with {type(error).__name__}: {said}") from error
    lacking = sorted({node.op_type for node in model.graph.node if not onnx.defs.has(node.op_type, node.domain)})
    if lacking:
        raise NotConvertible(f"ONNX has no counterpart of {shorten(lacking)}")
    _rename_inputs(model.graph, {spec.name: name for spec, name in zip(numbered, inputs, strict=True)})
    return model


def _rename_inputs(graph: Any, names: Mapping[str, str]) -> None:
    """Give the inputs their names, of which `tf.function` would leave the small letters alone."""
    taken = sorted(set(names.values()) & {output for node in graph.node for output in node.output})
    if taken:
        raise NotConvertible(f"inputs and outputs share names in ONNX, and {shorten(taken)} would be both; rename it")
    for one in graph.input:
        one.name = names[one.name]
    for node in graph.node:
        for place, name in enumerate(node.input):
            node.input[place] = names.get(name, name)


def _keep_selection(_graph: Any, node: Any, _name: str, _arguments: Any) -> None:
    node.type, node.domain = "Where", ""


@contextmanager
def _silent(name: str) -> Iterator[None]:
    """Nothing of this logger below errors: what matters is raised."""
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)


def session(model: Any) -> Any:
    """Onnxruntime's session of a model (its bytes, its path, or as `onnx` has it), on one thread."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors
    content = model if isinstance(model, bytes | str) else model.SerializeToString()
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def check_agreement(name: str, model: Any, graph: Any, request: Arrays) -> None:
    """Hold onnxruntime's answers to TensorFlow's.

    Raises:
        ModelError: they differ by more than `TOLERANCE`.
        NotConvertible: onnxruntime does not take it, such as one in bfloat16.
    """
    try:
        runtime = session(model)
    except Exception as error:  # its own, which are of no common class
        raise NotConvertible(f"onnxruntime does not take it: {next(iter(str(error).splitlines()), '')}") from error
    outputs = [output.name for output in runtime.get_outputs()]
    wanted = {one.name for one in runtime.get_inputs()}  # an input that the graph does not use is dropped
    expected = graph(**{key: tf.constant(value) for key, value in request.items()})
    got = runtime.run(outputs, {key: value for key, value in request.items() if key in wanted})
    for output, values in zip(outputs, got, strict=True):
        difference = largest_difference(values, expected[output].numpy())
        if not difference <= TOLERANCE:
            raise ModelError(
                f"{name} is not written: onnxruntime's {output} differs from TensorFlow's by {difference:.2g}, more "
                f"than {TOLERANCE:g}"
            )


def largest_difference(got: np.ndarray, expected: np.ndarray) -> float:
    """Largest difference, absolute for values up to 1 and relative beyond; infinite where one alone is NaN."""
    if got.shape != expected.shape:
        return float("inf")
    a, b = got.astype(np.float64), expected.astype(np.float64)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    with np.errstate(invalid="ignore"):
        difference = np.where(same, 0.0, np.abs(a - b) / np.maximum(1.0, np.abs(b)))
    return float(np.max(np.nan_to_num(difference, nan=np.inf), initial=0.0))


def _describe(model: Any, card: Mapping[str, Any]) -> None:
    model.producer_name, model.producer_version = "mlaas4hep_tf", card["versions"]["mlaas4hep_tf"]
    model.doc_string = f"{card['name']}: {card['model']['name']}"
    entry = model.metadata_props.add()
    entry.key, entry.value = CARD, json.dumps(card)
