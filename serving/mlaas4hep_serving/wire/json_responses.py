"""Answers to JSON, from numpy arrays: the rules of TF-Serving's ``json_tensor.cc``."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from tensorflow.core.framework import types_pb2
from tensorflow_serving.apis.classification_pb2 import ClassificationResult
from tensorflow_serving.apis.regression_pb2 import RegressionResult

from mlaas4hep_serving.errors import invalid_argument
from mlaas4hep_serving.wire import json_numbers
from mlaas4hep_serving.wire.json_requests import INTS, Format
from mlaas4hep_serving.wire.tensors import Array, dtype_name, enum_of


def predict_response(outputs: Mapping[str, Array], form: Format) -> bytes | bytearray:
    """``{"predictions": [...]}`` (row) or ``{"outputs": ...}`` (columnar); a single output is written without its name.

    Raises:
        ServingError: INVALID_ARGUMENT: no outputs, a type that JSON has not; in row format outputs without, or with
            different, batch sizes.
    """
    if not outputs:
        raise invalid_argument("Cannot convert empty tensor map to JSON")
    if form == "row":
        return _row_response(outputs)
    written = {name: _tensor(name, array) for name, array in outputs.items()}
    if len(written) == 1:
        return f'{{\n    "outputs": {next(iter(written.values()))}\n}}'.encode("utf-8", "surrogateescape")
    members = ",\n".join(f"        {json.dumps(name)}: {value}" for name, value in written.items())
    return f'{{\n    "outputs": {{\n{members}\n    }}\n}}'.encode("utf-8", "surrogateescape")


def _row_response(outputs: Mapping[str, Array]) -> bytes | bytearray:
    rows, values = None, 0
    for name, array in outputs.items():
        if array.ndim == 0:
            raise invalid_argument(f"Tensor name: {name} has no shape information ")
        if rows is not None and rows != len(array):
            raise invalid_argument(f"Tensor name: {name} has inconsistent batch size: {len(array)} expecting: {rows}")
        rows, values = len(array), values + array.size
    if values < json_numbers.MANY:
        return f'{{\n    "predictions": [{", ".join(_rows(outputs))}\n    ]\n}}'.encode("utf-8", "surrogateescape")
    body = bytearray(b'{\n    "predictions": [')  # grows without a copy of all, which would hold everyone
    for start, end in _parts(*outputs.values()):
        rows_text = ", ".join(_rows({name: array[start:end] for name, array in outputs.items()}))
        body += (", " * bool(start) + rows_text).encode("utf-8", "surrogateescape")
    body += b"\n    ]\n}"
    return body


def _rows(outputs: Mapping[str, Array]) -> Iterable[str]:
    columns = [(json.dumps(name), _items(name, array)) for name, array in outputs.items()]
    if len(columns) == 1:
        return columns[0][1]
    return (
        "{"
        + ", ".join(f"\n            {name}: {item}" for (name, _), item in zip(columns, row, strict=True))
        + "\n        }"
        for row in zip(*(items for _, items in columns), strict=True)
    )


def _parts(*arrays: Array) -> Iterator[tuple[int, int]]:
    """Ranges of rows that are written at a time: Python objects are made of some thousands of values, never of all."""
    rows = len(arrays[0])
    step = max(1, min(json_numbers.MOST * rows // max(array.size, 1) for array in arrays))
    return ((start, min(start + step, rows)) for start in range(0, rows, step))


def _items(name: str, array: Array) -> list[str]:
    """Every element of the first dimension, written."""
    if array.size >= json_numbers.MANY:
        if array.size > json_numbers.MOST and array.ndim > 1:
            return [_list(name, row) for row in array]
        if json_numbers.writes(array):
            _writer(name, array)  # raises for a type that JSON has not
            return json_numbers.items(array)
    if array.dtype == np.float32 and array.size and np.isfinite(array).all():
        return _float_items(array)
    write = _writer(name, array)
    if array.ndim == 1:
        return list(map(write, array.tolist()))
    return [_nested(item, write) for item in array.tolist()]


def _float_items(array: Array) -> list[str]:
    """`_items` of finite float32, as `write_float` writes them but all at once."""
    values = array.ravel().tolist()
    short = [f"{value:.6g}" for value in values]
    enough = np.array(list(map(float, short)), np.float64).astype(np.float32) == array.ravel()
    texts = [_whole(s if good else f"{v:.9g}") for s, good, v in zip(short, enough.tolist(), values, strict=True)]
    for size in reversed(array.shape[1:]):
        texts = ["[" + ", ".join(texts[i : i + size]) + "]" for i in range(0, len(texts), size)]
    return texts


def _tensor(name: str, array: Array) -> str:
    return _list(name, array) if array.ndim else _writer(name, array)(array.item())


def _list(name: str, array: Array) -> str:
    return "[" + ", ".join(", ".join(_items(name, array[start:end])) for start, end in _parts(array)) + "]"


def _nested(value: Any, write: Callable[[Any], str]) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(_nested(item, write) for item in value) + "]"
    return write(value)


def _writer(name: str, array: Array) -> Callable[[Any], str]:
    enum = enum_of(array)
    if enum == types_pb2.DT_STRING:
        return _write_base64 if name.endswith("_bytes") else _write_string
    if enum == types_pb2.DT_FLOAT:
        return write_float
    if enum == types_pb2.DT_DOUBLE:
        return write_double
    if enum == types_pb2.DT_BOOL:
        return lambda value: "true" if value else "false"
    if enum in INTS:
        return str
    raise invalid_argument(f"Failed to write JSON value for tensor type: {dtype_name(enum)}")


def _write_base64(value: bytes | str) -> str:
    raw = value if isinstance(value, bytes) else value.encode()
    return '{"b64": "' + base64.b64encode(raw).decode() + '"}'


def _write_string(value: bytes | str) -> str:
    written = value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else value
    return json.dumps(written, ensure_ascii=False)


def write_float(value: float) -> str:
    """A float32 as TF-Serving writes it: six digits where they suffice, else nine; whole numbers with ``.0``."""
    short = f"{value:.6g}"
    if value != value or value in (math.inf, -math.inf):
        return _special(value)
    return _whole(short if np.float32(short) == np.float32(value) else f"{value:.9g}")


def write_double(value: float) -> str:
    """A float64, with six or else seventeen digits."""
    if value != value or value in (math.inf, -math.inf):
        return _special(value)
    short = f"{value:.6g}"
    return _whole(short if float(short) == value else f"{value:.17g}")


def _special(value: float) -> str:
    return "NaN" if value != value else "Infinity" if value > 0 else "-Infinity"


def _whole(written: str) -> str:
    return written if "." in written or "e" in written else written + ".0"


def classify_response(result: ClassificationResult) -> bytes:
    """``{"results": [[["label", score], ...], ...]}``."""
    if not result.classifications:
        raise invalid_argument("Cannot convert empty ClassificationResults to JSON")
    rows = [
        [f"[{_write_string(c.label)}, {write_float(c.score)}]" for c in row.classes] for row in result.classifications
    ]
    return _results("[" + ", ".join(row) + "]" for row in rows)


def regress_response(result: RegressionResult) -> bytes:
    """``{"results": [value, ...]}``."""
    if not result.regressions:
        raise invalid_argument("Cannot convert empty RegressionResults to JSON")
    return _results(write_float(r.value) for r in result.regressions)


def _results(items: Iterable[str]) -> bytes:
    return ('{\n    "results": [' + ", ".join(items) + "\n    ]\n}").encode("utf-8", "surrogateescape")


def error_response(message: str) -> bytes:
    """``{"error": ...}``."""
    return ('{\n    "error": ' + _write_string(message) + "\n}").encode("utf-8", "surrogateescape")
