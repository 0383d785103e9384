"""Requests from JSON: the rules of TF-Serving's ``json_tensor.cc``, without its proto detour.

Inputs become numpy arrays; strings are ``object`` arrays of bytes.  Answers are written by `json_responses`.
"""

from __future__ import annotations

import base64
import binascii
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from tensorflow.core.example.example_pb2 import Example
from tensorflow.core.framework import types_pb2
from tensorflow_serving.apis.input_pb2 import Input

from mlaas4hep_serving.errors import ServingError, invalid_argument, shown, unimplemented
from mlaas4hep_serving.wire import jsonreader, ragged, sizes
from mlaas4hep_serving.wire.ragged import RowShape
from mlaas4hep_serving.wire.tensors import Array, dtype_name, numpy_dtype

Format = Literal["row", "columnar"]
Dtypes = Mapping[str, int]  # alias -> DataType
_FLOATS = {types_pb2.DT_FLOAT, types_pb2.DT_DOUBLE}
INTS = {
    types_pb2.DT_INT32: (-(1 << 31), (1 << 31) - 1),
    types_pb2.DT_INT16: (-(1 << 31), (1 << 31) - 1),
    types_pb2.DT_INT8: (-(1 << 31), (1 << 31) - 1),
    types_pb2.DT_UINT8: (-(1 << 31), (1 << 31) - 1),
    types_pb2.DT_INT64: (-(1 << 63), (1 << 63) - 1),
    types_pb2.DT_UINT32: (0, (1 << 32) - 1),
    types_pb2.DT_UINT64: (0, (1 << 64) - 1),
}
_BASE64 = re.compile(r"[A-Za-z0-9+/]*={0,2}")


@dataclass(frozen=True)
class PredictJson:
    """A predict request: arrays by input alias."""

    signature_name: str
    format: Format
    inputs: dict[str, Array]


# requests to predict


def predict_request(
    body: bytes,
    inputs_of: Callable[[str], Dtypes],
    open_inputs_of: Callable[[str], Mapping[str, RowShape]] = lambda _: {},
    deepest: int | None = None,
    most: int = sizes.NO_LIMIT,
) -> PredictJson:
    """Read ``{"signature_name": ..., "instances": [...]}`` or ``{"inputs": ...}``.

    Args:
        inputs_of: dtypes of the inputs of a signature (``""`` is the default); may raise NOT_FOUND.  It is asked
            after the JSON is parsed and before its keys are looked at, as TF-Serving does.
        open_inputs_of: inputs of a signature whose rows may be ragged, with their row shapes (`ragged.open_inputs`).
        deepest: nesting that is refused beyond.
        most: bytes of the arrays that are refused beyond.

    Raises:
        ServingError: in TF-Serving's words.
    """
    document = jsonreader.parse(body, deepest)
    signature = signature_name(document)
    dtypes = inputs_of(signature)
    if not dtypes:
        raise invalid_argument(f"Failed to get input map for signature: {shown(signature) or 'DEFAULT'}")
    if open_inputs := open_inputs_of(signature):
        ragged.pad_document(document, open_inputs, most)
    if "instances" in document and "inputs" in document:
        raise _format_error(
            document, "Not formatted correctly expecting only one of 'inputs' or 'instances' keys to exist "
        )
    sizes.check(_declared(document, dtypes), most)
    plain = b"true" not in body and b"false" not in body  # numpy takes True for 1
    if "instances" in document:
        return PredictJson(signature, "row", _rows(document, dtypes, plain))
    if "inputs" in document:
        return PredictJson(signature, "columnar", _columns(document["inputs"], dtypes, plain))
    raise invalid_argument("Missing 'inputs' or 'instances' key")


def _declared(document: Mapping[str, Any], dtypes: Dtypes) -> int:
    """Bytes of the arrays of a request, by the first element of each level."""
    if "instances" in document:
        rows = document["instances"]
        if not isinstance(rows, list) or not rows:
            return 0
        first, outer = rows[0], [len(rows)]
    else:
        first, outer = document.get("inputs"), []
    named = first if _is_object(first) else dict.fromkeys(dtypes, first)
    return sum(sizes.of(enum, (*outer, *_shape(named.get(name)))) for name, enum in dtypes.items())


def signature_name(document: Mapping[str, Any]) -> str:
    """``signature_name``, or ``""``."""
    name = document.get("signature_name", "")
    if not isinstance(name, str):
        raise _format_error(document, "not formatted correctly. 'signature_name' key must be a string value.")
    return utf8(name, "signature_name")


def utf8(name: str, what: str) -> str:
    """A name that protobuf takes; bytes that are not UTF-8 came as surrogates.

    Raises:
        ServingError: INVALID_ARGUMENT.
    """
    try:
        name.encode()
    except UnicodeEncodeError:
        raise invalid_argument(f"{what} is not UTF-8") from None
    return name


def _format_error(value: Any, rule: str) -> ServingError:
    return invalid_argument(f"JSON Value: {jsonreader.text(value)} {rule}")


def _rows(document: Mapping[str, Any], dtypes: Dtypes, plain: bool) -> dict[str, Array]:
    instances = document["instances"]
    if not isinstance(instances, list):
        raise _format_error(document, "Expecting 'instances' to be an list/array")
    if not instances:
        raise _format_error(document, "No values in 'instances' array")
    if not _is_object(instances[0]) and len(dtypes) > 1:
        raise invalid_argument(
            "instances is a plain list, but expecting list of objects as multiple input tensors required as per "
            "tensorinfo_map"
        )
    if _is_object(instances[0]):
        columns = _gather(instances, dtypes) if plain else None
        fast = None if columns is None else {name: _fast(column, dtypes[name]) for name, column in columns.items()}
        if fast is not None and all(array is not None for array in fast.values()):
            return {name: array for name, array in fast.items() if array is not None}
        return _named_rows(instances, dtypes)
    (name,) = dtypes
    array = _fast(instances, dtypes[name]) if plain else None
    return {name: _plain_rows(instances, dtypes[name]) if array is None else array}


def _gather(instances: list[Any], dtypes: Dtypes) -> dict[str, list[Any]] | None:
    """Columns of a list of objects, if every object has exactly the named inputs."""
    wanted = len(dtypes)
    try:
        if any(len(row) != wanted for row in instances):
            return None
        return {name: [row[name] for row in instances] for name in dtypes}
    except (KeyError, TypeError):
        return None


def _fast(value: Any, enum: int) -> Array | None:
    """Numpy's reading of nested lists where it is the same as the exact one, else None."""
    if not isinstance(value, list) or (enum not in _FLOATS and enum not in INTS):
        return None
    try:
        array = np.array(value)
    except (ValueError, OverflowError):
        return None
    if array.dtype.kind == "f" and enum in _FLOATS:
        return array.astype(numpy_dtype(enum))
    if array.dtype.kind != "i" or not array.size:
        return None
    if enum in _FLOATS:  # large integers are rounded, by way of float64 as rapidjson does
        return array.astype(np.float64).astype(numpy_dtype(enum))
    low, high = INTS[enum]
    if enum in (types_pb2.DT_INT16, types_pb2.DT_INT8, types_pb2.DT_UINT8):
        limits = np.iinfo(numpy_dtype(enum))
        low, high = int(limits.min), int(limits.max)
    return array.astype(numpy_dtype(enum)) if low <= array.min() and array.max() <= high else None


def _named_rows(instances: list[Any], dtypes: Dtypes) -> dict[str, Array]:
    values: dict[str, list[Any]] = {name: [] for name in dtypes}
    shapes: dict[str, tuple[int, ...]] = {}
    for item, row in enumerate(instances):
        if not _is_object(row):
            raise invalid_argument(f"Expecting object but got list at item {item} of input list")
        for name, value in row.items():
            try:
                if name not in dtypes:
                    raise invalid_argument(f"JSON object: does not have named input: {shown(name)}")
                _add_row(value, dtypes[name], name, shapes, values[name])
            except ServingError as error:
                raise invalid_argument(
                    f"Failed to process element: {item} key: {shown(name)} of 'instances' list. Error: {error}"
                ) from None
        if set(row) != set(dtypes):
            raise invalid_argument(
                f"Failed to process element: {item} of 'instances' list. JSON object: {jsonreader.text(row)} keys must "
                f"be equal to: {','.join(sorted(dtypes))}"
            )
    return {name: _array(values[name], dtypes[name], (len(instances), *shapes[name])) for name in dtypes}


def _plain_rows(instances: list[Any], enum: int) -> Array:
    values: list[Any] = []
    shapes: dict[str, tuple[int, ...]] = {}
    for item, row in enumerate(instances):
        if _is_object(row):
            raise invalid_argument(f"Expecting value/list but got object at item {item} of input list")
        try:
            _add_row(row, enum, "", shapes, values)
        except ServingError as error:
            raise invalid_argument(f"Failed to process element: {item} of 'instances' list. Error: {error}") from None
    return _array(values, enum, (len(instances), *shapes[""]))


def _add_row(value: Any, enum: int, name: str, shapes: dict[str, tuple[int, ...]], values: list[Any]) -> None:
    shape = _shape(value)
    before = len(values)
    _fill(value, shape, enum, values)
    expected = shapes.setdefault(name, shape)
    size = len(values) - before
    if math.prod(expected) != size:
        raise invalid_argument(f"Expecting tensor size: {math.prod(expected)} but got: {size}")
    if expected != shape:
        raise invalid_argument(f"Expecting shape {_shape_text(expected)} but got: {_shape_text(shape)}")


def _shape_text(shape: Sequence[int]) -> str:
    return "[" + ",".join(map(str, shape)) + "]"


def _columns(value: Any, dtypes: Dtypes, plain: bool) -> dict[str, Array]:
    if not isinstance(value, dict) or _is_base64(value):
        if len(dtypes) > 1:
            raise invalid_argument(
                "inputs is a plain value/list, but expecting an object as multiple input tensors required as per "
                "tensorinfo_map"
            )
        (name,) = dtypes
        return {name: _column(value, dtypes[name], plain)}
    arrays = {}
    for name, enum in dtypes.items():
        if name not in value:
            raise invalid_argument(f"Missing named input: {name} in 'inputs' object.")
        arrays[name] = _column(value[name], enum, plain)
    return arrays


def _column(value: Any, enum: int, plain: bool) -> Array:
    array = _fast(value, enum) if plain else None
    if array is not None:
        return array
    shape = _shape(value)
    values: list[Any] = []
    _fill(value, shape, enum, values)
    return _array(values, enum, shape)


def _shape(value: Any) -> tuple[int, ...]:
    """Shape by the first element of each level."""
    shape = []
    while isinstance(value, list):
        shape.append(len(value))
        if not value:
            break
        value = value[0]
    return tuple(shape)


def _fill(value: Any, shape: tuple[int, ...], enum: int, out: list[Any]) -> None:
    """Append the values of nested lists in order (a stack, as lists may be deep), each checked."""
    stack = [(value, 0)]
    while stack:
        item, level = stack.pop()
        if isinstance(item, list):
            if level >= len(shape):
                raise invalid_argument(f"Encountered list at unexpected level: {level} expected < {len(shape)}")
            if len(item) != shape[level]:
                raise invalid_argument(
                    f"Encountered list at unexpected size: {len(item)} at level: {level} expected size: {shape[level]}"
                )
            stack.extend((inner, level + 1) for inner in reversed(item))
        elif level != len(shape):
            raise invalid_argument(
                f"JSON Value: {jsonreader.text(item)} found at incorrect level: {level + 1} in the JSON DOM. "
                f"Expected at level: {len(shape)}"
            )
        else:
            out.append(_value(item, enum))


def _value(value: Any, enum: int) -> Any:
    if isinstance(value, dict):
        if enum != types_pb2.DT_STRING:
            raise _type_error(value, enum)
        return _base64(value)
    if enum in _FLOATS:
        return _float(value, enum)
    if enum in INTS:
        low, high = INTS[enum]
        if not _is_int(value) or not low <= value <= high:
            raise _type_error(value, enum)
        return value
    if enum == types_pb2.DT_STRING:
        if not isinstance(value, str):
            raise _type_error(value, enum)
        return _bytes(value)
    if enum == types_pb2.DT_BOOL:
        if not isinstance(value, bool):
            raise _type_error(value, enum)
        return value
    raise unimplemented(f"Conversion of JSON Value: {jsonreader.text(value)} to type: {dtype_name(enum)}")


def _float(value: Any, enum: int) -> float:
    """A number as float64; integers that it cannot hold are rounded."""
    if not isinstance(value, float) and not _is_int(value):
        raise _type_error(value, enum)
    return float(value)


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _bytes(value: str) -> bytes:
    return value.encode("utf-8", "surrogateescape")


def _array(values: list[Any], enum: int, shape: tuple[int, ...]) -> Array:
    kind = numpy_dtype(enum)
    if kind is object:
        flat = np.empty(len(values), object)
        flat[:] = values
        return flat.reshape(shape)
    wide = np.array(values, np.int64) if enum in _NARROW else values  # as TensorFlow: no range check below 32 bits
    with np.errstate(over="ignore"):
        return np.array(wide, np.float64 if enum in _FLOATS else None).astype(kind).reshape(shape)


_NARROW = {types_pb2.DT_INT16, types_pb2.DT_INT8, types_pb2.DT_UINT8}


def _type_error(value: Any, enum: int) -> ServingError:
    return invalid_argument(
        f"JSON Value: {jsonreader.text(value)} Type: {_type(value)} is not of expected type: {dtype_name(enum)}"
    )


def _type(value: Any) -> str:
    match value:
        case None:
            return "Null"
        case bool():
            return str(value)
        case dict():
            return "Object"
        case list():
            return "Array"
        case str():
            return "String"
        case _:
            return "Number"


def _is_base64(value: Any) -> bool:
    return isinstance(value, dict) and len(value) == 1 and isinstance(value.get("b64"), str)


def _is_object(value: Any) -> bool:
    return isinstance(value, dict) and not _is_base64(value)


def _base64(value: Any) -> bytes:
    if not _is_base64(value):
        raise _format_error(value, "not formatted correctly for base64 data")
    given = value["b64"].replace(" ", "").replace("\n", "").replace("\r", "").replace("\t", "")
    bare = given.rstrip("=")
    padded = len(given) == len(bare) or len(given) % 4 == 0
    if not _BASE64.fullmatch(given) or not padded or len(bare) % 4 == 1:
        raise invalid_argument("Unable to base64 decode")
    try:
        return base64.b64decode(bare + "=" * (-len(bare) % 4), validate=True)
    except binascii.Error:
        raise invalid_argument("Unable to base64 decode") from None


# requests to classify and regress


def examples_request(body: bytes, deepest: int | None = None) -> tuple[str, Input]:
    """Read ``{"signature_name": ..., "context": {...}, "examples": [{...}]}`` as (signature name, Input).

    Raises:
        ServingError: INVALID_ARGUMENT in TF-Serving's words.
    """
    document = jsonreader.parse(body, deepest)
    name = signature_name(document)
    result = Input()
    listed: Any = result.example_list
    if "context" in document:
        listed = result.example_list_with_context
        _example(document["context"], listed.context)
    if "examples" not in document:
        raise _format_error(document, "When method is classify, key 'examples' is expected and was not found")
    if not isinstance(document["examples"], list):
        raise _format_error(document, "Expecting 'examples' value to be an list/array")
    if not document["examples"]:
        raise _format_error(document, "'examples' value is an empty array")
    for example in document["examples"]:
        _example(example, listed.examples.add())
    return name, result


def _example(value: Any, out: Example) -> None:
    if not isinstance(value, dict):
        raise invalid_argument(f"Example must be JSON object but got JSON {_type(value)}")
    out.SetInParent()
    for name, content in value.items():
        feature = out.features.feature[utf8(name, "Feature name")]
        for item in content if isinstance(content, list) else [content]:
            _add_feature(item, name, feature)


def _add_feature(value: Any, name: str, feature: Any) -> None:
    if value is None or isinstance(value, list) or _is_object(value):
        raise invalid_argument(f"Feature: {shown(name)} has element with unexpected JSON type: {_type(value)}")
    if isinstance(value, dict):
        kind, item = "bytes_list", _base64(value)
    elif isinstance(value, str):
        kind, item = "bytes_list", _bytes(value)
    elif isinstance(value, float) or (isinstance(value, int) and not -(1 << 63) <= value < 1 << 64):
        with np.errstate(over="ignore"):
            kind, item = "float_list", np.float32(value).item()  # type: ignore[assignment]
    else:
        kind, item = "int64_list", int(value)  # type: ignore[assignment]
    present = feature.WhichOneof("kind")
    if present not in (None, kind):
        expected = present.removesuffix("_list")
        raise invalid_argument(f"Unexpected element type in feature: {shown(name)} expecting type: {expected}")
    if kind == "int64_list" and int(item) >= 1 << 63:
        raise invalid_argument(f"Feature: {shown(name)} has uint64 element. Only int64_t is supported.")
    getattr(feature, kind).value.append(item)
