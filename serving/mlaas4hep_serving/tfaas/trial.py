"""A stranger's model looked through, loaded and run once: what happens in the process that `sandbox` starts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from tensorflow.core.protobuf.meta_graph_pb2 import MetaGraphDef

from mlaas4hep_serving.errors import ServingError, failed_precondition, invalid_argument
from mlaas4hep_serving.models.savedmodel import SavedModel, SessionOptions, missing_parts
from mlaas4hep_serving.tfaas import graphscan
from mlaas4hep_serving.wire.tensors import DEFAULT_SIGNATURE, numpy_dtype


def told(folder: Path) -> bytes:
    """Look, load and run once; what `sandbox` is told: ``S`` and the signatures, or ``E`` and why there are none."""
    try:
        said: bytes = _tried(folder).SerializeToString()
        return b"S" + said
    except ServingError as error:
        return b"E" + json.dumps({"code": int(error.code), "message": " ".join(error.message.split())}).encode()


def _tried(folder: Path) -> MetaGraphDef:
    if lacking := missing_parts(folder):
        raise invalid_argument(f"the upload is no SavedModel folder: {lacking}")
    graphscan.check(folder)
    try:
        model = SavedModel(folder, SessionOptions(intra_op=1, inter_op=1))
        if DEFAULT_SIGNATURE not in model.signatures:
            raise failed_precondition(f"it has no signature {DEFAULT_SIGNATURE}")
        signature = model.signatures[DEFAULT_SIGNATURE]
        inputs, outputs = list(signature.inputs.values()), list(signature.outputs.values())
        values = [_zeros(info, numpy_dtype(info.dtype)) for info in inputs]
        model.run([info.name for info in inputs], values, [info.name for info in outputs])
    except ServingError as error:
        raise failed_precondition(f"the model cannot be loaded and run: {error.message}") from None
    return signatures_of(model.meta_graph)


def signatures_of(meta_graph: MetaGraphDef) -> MetaGraphDef:
    """A graph's signatures without the graph."""
    found = MetaGraphDef()
    for name, signature in meta_graph.signature_def.items():
        found.signature_def[name].CopyFrom(signature)
    return found


def _zeros(info: Any, kind: Any) -> Any:
    shape = [1 if dim.size < 0 else dim.size for dim in info.tensor_shape.dim]
    return np.full(shape, b"", object) if kind is object else np.zeros(shape, kind)
