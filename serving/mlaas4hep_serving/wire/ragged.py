"""Ragged rows: lists of different lengths are padded with NaN where a signature leaves a dimension open."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

from tensorflow.core.framework import types_pb2
from tensorflow.core.protobuf.meta_graph_pb2 import SignatureDef

from mlaas4hep_serving.wire import sizes

RowShape = tuple[int | None, ...]  # sizes behind the batch dimension, None where the signature leaves it open
_FLOATS = {types_pb2.DT_FLOAT, types_pb2.DT_DOUBLE, types_pb2.DT_HALF, types_pb2.DT_BFLOAT16}


def open_inputs(signature: SignatureDef) -> dict[str, RowShape]:
    """Alias -> row shape of the float inputs whose rows may differ in length: ``[-1, -1]`` or ``[-1, -1, 4]``."""
    shapes = {}
    for alias, info in signature.inputs.items():
        shape = tuple(None if dim.size < 0 else dim.size for dim in info.tensor_shape.dim)[1:]
        if None in shape and info.dtype in _FLOATS:
            shapes[alias] = shape
    return shapes


def pad_document(document: dict[str, Any], shapes: Mapping[str, RowShape], most: int = sizes.NO_LIMIT) -> None:
    """Pad the ``instances`` or ``inputs`` of a parsed request in place.

    What is no list of lists stays as it is, for the codec to complain about.

    Raises:
        ServingError: INVALID_ARGUMENT, an input that would take more than ``most`` bytes.
    """
    instances, inputs = document.get("instances"), document.get("inputs")
    if isinstance(instances, list) and instances and isinstance(instances[0], dict):
        _pad_rows(instances, shapes, most)
    elif isinstance(instances, list) and len(shapes) == 1:
        document["instances"] = pad(instances, next(iter(shapes.values())), most)
    elif isinstance(inputs, dict):
        inputs.update({alias: pad(inputs[alias], shape, most) for alias, shape in shapes.items() if alias in inputs})
    elif isinstance(inputs, list) and len(shapes) == 1:
        document["inputs"] = pad(inputs, next(iter(shapes.values())), most)


def _pad_rows(rows: list[Any], shapes: Mapping[str, RowShape], most: int) -> None:
    if len(rows) == 1 and all(len(shape) == 1 for shape in shapes.values()):
        return  # a single list is as long as itself
    if not all(isinstance(row, dict) for row in rows):
        return
    for alias, shape in shapes.items():
        column = [row.get(alias) for row in rows]
        padded = pad(column, shape, most)
        if padded is not column:
            for row, value in zip(rows, padded, strict=True):
                row[alias] = value


def pad(rows: Any, shape: RowShape, most: int = sizes.NO_LIMIT) -> Any:
    """``rows``, a list of nested lists, with every open dimension filled with NaN to its longest list.

    Returns:
        ``rows`` itself where there is nothing to pad or its nesting is not that of ``shape``.

    Raises:
        ServingError: INVALID_ARGUMENT, more than ``most`` bytes of float32.
    """
    filled = _sizes(rows, shape)
    if filled is None:
        return rows
    sizes.check(sizes.of(types_pb2.DT_FLOAT, [len(rows), *filled]), most)
    return [_filled(row, filled) for row in rows]


def _sizes(rows: Any, shape: RowShape) -> list[int] | None:
    """Sizes to fill to, or None where nothing is to be filled."""
    level, filled, ragged = rows, [], False
    if not isinstance(rows, list):
        return None
    for size in shape:
        if not all(type(item) is list for item in level):
            return None
        lengths = set(map(len, level))
        if size is not None and lengths - {size}:
            return None
        ragged = ragged or len(lengths) > 1
        filled.append(max(lengths, default=0) if size is None else size)
        level = list(chain.from_iterable(level)) if len(filled) < len(shape) else level
    return filled if ragged else None


def _filled(row: list[Any], wanted: Sequence[int]) -> list[Any]:
    missing = wanted[0] - len(row)
    if len(wanted) == 1:
        return row + [math.nan] * missing
    rest = wanted[1:]
    return [_filled(item, rest) for item in row] + [_filled([], rest) for _ in range(missing)]
