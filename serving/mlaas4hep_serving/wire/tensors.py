"""TensorProto to numpy and back, by the rules of TensorFlow's C++ (`Tensor::FromProto`, `Tensor::AsProtoField`)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray
from tensorflow.core.framework import types_pb2
from tensorflow.core.framework.tensor_pb2 import TensorProto

from mlaas4hep_serving.errors import invalid_argument
from mlaas4hep_serving.wire import sizes

Array = NDArray[Any]
DEFAULT_SIGNATURE = "serving_default"  # of a request that names none
# dtype -> (repeated field, numpy type of the field's elements)
_FIELDS: dict[int, str] = {
    types_pb2.DT_FLOAT: "float_val",
    types_pb2.DT_DOUBLE: "double_val",
    types_pb2.DT_INT32: "int_val",
    types_pb2.DT_INT16: "int_val",
    types_pb2.DT_INT8: "int_val",
    types_pb2.DT_UINT8: "int_val",
    types_pb2.DT_UINT16: "int_val",
    types_pb2.DT_STRING: "string_val",
    types_pb2.DT_INT64: "int64_val",
    types_pb2.DT_BOOL: "bool_val",
    types_pb2.DT_UINT32: "uint32_val",
    types_pb2.DT_UINT64: "uint64_val",
}
_NUMPY: dict[int, Any] = {
    types_pb2.DT_FLOAT: np.float32,
    types_pb2.DT_DOUBLE: np.float64,
    types_pb2.DT_HALF: np.float16,
    types_pb2.DT_BFLOAT16: ml_dtypes.bfloat16,
    types_pb2.DT_INT32: np.int32,
    types_pb2.DT_INT16: np.int16,
    types_pb2.DT_INT8: np.int8,
    types_pb2.DT_UINT8: np.uint8,
    types_pb2.DT_UINT16: np.uint16,
    types_pb2.DT_STRING: object,
    types_pb2.DT_INT64: np.int64,
    types_pb2.DT_BOOL: np.bool_,
    types_pb2.DT_UINT32: np.uint32,
    types_pb2.DT_UINT64: np.uint64,
    types_pb2.DT_COMPLEX64: np.complex64,
    types_pb2.DT_COMPLEX128: np.complex128,
}
_FEW = 16  # values for which the detour over bytes does not pay
_PART = 1 << 16  # values that are Python objects at a time
_SIZES = {enum: sizes.element(enum) for enum in _FIELDS}
_ENUM: dict[Any, int] = {np.dtype(kind): enum for enum, kind in _NUMPY.items()}


def _tensorflow() -> Any:
    """For what is rare; the readers of large bodies (`apart`) do without it."""
    import tensorflow as tf

    return tf


def dtype_name(enum: int) -> str:
    """``float`` for DT_FLOAT, as in TensorFlow's messages."""
    return str(types_pb2.DataType.Name(enum)).removeprefix("DT_").lower()


def numpy_dtype(enum: int) -> Any:
    """The numpy type of a DataType; strings are ``object``."""
    return _NUMPY.get(enum) or _tensorflow().dtypes.as_dtype(enum).as_numpy_dtype


def enum_of(array: Array) -> int:
    """The DataType of an array."""
    if array.dtype.kind in "OSU":
        return int(types_pb2.DT_STRING)
    return _ENUM.get(array.dtype) or int(_tensorflow().dtypes.as_dtype(array.dtype).as_datatype_enum)


def from_proto(proto: TensorProto, alias: str, taken: int = 0, most: int = sizes.NO_LIMIT) -> Array:
    """The array of a TensorProto; fewer values than elements repeat the last one.

    Args:
        taken: bytes of other tensors of the request.
        most: bytes that it may take with them.

    Raises:
        ServingError: INVALID_ARGUMENT ``tensor parsing error``, for sizes that do not agree or unknown types; more than
            ``most`` bytes, before they are taken.
    """
    field = _FIELDS.get(proto.dtype)
    shape = tuple([dim.size for dim in proto.tensor_shape.dim])
    if field in (None, "string_val") or taken + math.prod(shape) * _SIZES[proto.dtype] > most:
        sizes.check(taken + sizes.of_proto(proto), most)
    try:
        if proto.tensor_shape.unknown_rank or any(size < 0 for size in shape):
            raise ValueError("shape is not fully known")
        if field is None or (proto.tensor_content and proto.dtype == types_pb2.DT_STRING):
            return np.asarray(_tensorflow().make_ndarray(proto))
        kind = _NUMPY[proto.dtype]
        if proto.tensor_content:
            return np.frombuffer(proto.tensor_content, kind).reshape(shape)
        return _filled(getattr(proto, field), kind, shape)
    except (ValueError, TypeError, OverflowError, KeyError):  # KeyError: a type without a numpy counterpart
        raise invalid_argument(f"tensor parsing error: {alias}") from None


def _filled(values: Any, kind: Any, shape: tuple[int, ...]) -> Array:
    size = math.prod(shape)
    if len(values) > size:
        raise ValueError("more values than elements")
    if len(values) == size:
        flat = np.empty(size, object) if kind is object else np.array(values, kind)
        if kind is object:
            flat[:] = values
        return flat.reshape(shape)
    last = values[-1] if values else (b"" if kind is object else 0)
    array = np.full(size, last, kind)
    array[: len(values)] = values
    return array.reshape(shape)


def to_proto(array: Array, out: TensorProto, *, content: bool = False) -> None:
    """Write an array into typed ``*_val`` fields, as TF-Serving answers, or into ``tensor_content`` if so told."""
    enum = enum_of(array)
    out.dtype = enum
    for size in array.shape:
        out.tensor_shape.dim.add().size = size
    field = _FIELDS.get(enum)
    if content and enum != types_pb2.DT_STRING:
        out.tensor_content = array.tobytes()
    elif field is None:
        out.CopyFrom(_tensorflow().make_tensor_proto(array))
    elif enum == types_pb2.DT_STRING:
        out.string_val.extend(v if isinstance(v, bytes) else str(v).encode() for v in array.ravel())
    elif array.dtype.kind in "fb" and array.size > _FEW:
        out.MergeFromString(_packed(TensorProto.DESCRIPTOR.fields_by_name[field].number, array))
    else:
        values, flat = getattr(out, field), array.ravel()
        for start in range(0, flat.size, _PART):
            values.extend(flat[start : start + _PART].tolist())


def _packed(field: int, array: Array) -> bytes:
    """A packed field of floats or booleans as it travels, their memory as it is: no Python object for each value."""
    values = array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
    return bytes([field << 3 | 2]) + _varint(len(values)) + values


def _varint(number: int) -> bytes:
    parts = []
    while number > 127:
        parts.append(number & 127 | 128)
        number >>= 7
    return bytes([*parts, number])


def check_dtypes(wanted: Sequence[int], values: Sequence[Array]) -> None:
    """Whether arrays have the DataTypes that a signature wants.

    Raises:
        ServingError: INVALID_ARGUMENT, one that has not.
    """
    for i, (enum, value) in enumerate(zip(wanted, values, strict=True)):
        given = enum_of(value)
        if given != enum:
            raise invalid_argument(f"Expects arg[{i}] to be {dtype_name(enum)} but {dtype_name(given)} is provided")
