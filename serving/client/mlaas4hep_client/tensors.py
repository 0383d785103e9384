"""Columns -> TensorProto -> arrays, by TensorFlow's rules, without TensorFlow."""

from __future__ import annotations

import math
import struct
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mlaas4hep_client.arrays import from_flat, is_array
from mlaas4hep_client.errors import Code, ServingError, invalid_argument
from mlaas4hep_client.events import Column
from mlaas4hep_client.messages import DTYPES


@dataclass(frozen=True)
class Kind:
    """How TensorFlow writes one dtype.

    Attributes:
        name: numpy's.
        field: of TensorProto.
        code: of the modules array and struct; "" for strings, "bf" for bfloat16, the upper half of a float32.
    """

    name: str
    field: str
    code: str

    @property
    def whole(self) -> bool:
        """True for integers and booleans."""
        return self.code in tuple("bBhHiIqQ?")


_KINDS: Mapping[int, Kind] = {
    DTYPES["DT_FLOAT"]: Kind("float32", "float_val", "f"),
    DTYPES["DT_DOUBLE"]: Kind("float64", "double_val", "d"),
    DTYPES["DT_HALF"]: Kind("float16", "half_val", "e"),
    DTYPES["DT_BFLOAT16"]: Kind("float32", "half_val", "bf"),  # numpy has none; float32 holds each of its values
    DTYPES["DT_INT8"]: Kind("int8", "int_val", "b"),
    DTYPES["DT_UINT8"]: Kind("uint8", "int_val", "B"),
    DTYPES["DT_INT16"]: Kind("int16", "int_val", "h"),
    DTYPES["DT_UINT16"]: Kind("uint16", "int_val", "H"),
    DTYPES["DT_INT32"]: Kind("int32", "int_val", "i"),
    DTYPES["DT_UINT32"]: Kind("uint32", "uint32_val", "I"),
    DTYPES["DT_INT64"]: Kind("int64", "int64_val", "q"),
    DTYPES["DT_UINT64"]: Kind("uint64", "uint64_val", "Q"),
    DTYPES["DT_BOOL"]: Kind("bool", "bool_val", "?"),
    DTYPES["DT_COMPLEX64"]: Kind("complex64", "scomplex_val", "f"),
    DTYPES["DT_COMPLEX128"]: Kind("complex128", "dcomplex_val", "d"),
    DTYPES["DT_STRING"]: Kind("object", "string_val", ""),
}
_BY_NAME = {kind.name: number for number, kind in _KINDS.items() if kind.code != "bf"}


def _kind(dtype: int, name: str) -> Kind:
    if dtype not in _KINDS:
        told = next((known for known, number in DTYPES.items() if number == dtype), f"number {dtype}")
        raise ServingError(Code.UNIMPLEMENTED, f"{name}: this client does not handle TensorFlow's dtype {told}")
    return _KINDS[dtype]


def fill(proto: Any, column: Column, name: str, dtype: int | None) -> None:
    """Write a column into a TensorProto.

    Args:
        proto: an empty one.
        column: the values.
        name: of the input, for errors.
        dtype: TensorFlow's DataType that the model takes; None, that of the values.

    Raises:
        ServingError: INVALID_ARGUMENT, values that the dtype cannot hold; UNIMPLEMENTED, another dtype.
    """
    proto.dtype = _own(column) if dtype is None else dtype
    kind = _kind(proto.dtype, name)
    if column.gaps and proto.dtype == DTYPES["DT_INT64"]:
        column = column.as_integers()
    for size in column.shape:
        proto.tensor_shape.dim.add().size = size
    try:
        if kind.name == "object":
            proto.string_val.extend(_bytes(value) for value in column.flat())
        elif is_array(column.values) and kind.code != "bf":
            proto.tensor_content = _converted(column.values, kind)
        else:
            proto.tensor_content = _packed(column.flat(), kind)
    except (TypeError, ValueError, OverflowError, struct.error) as error:
        raise invalid_argument(f"{name}: the model takes {_told(kind)}: {error}") from None


def _told(kind: Kind) -> str:
    return "strings" if kind.name == "object" else kind.name


def _own(column: Column) -> int:
    """The dtype of values that nobody asked for by dtype: int64 for integers, float32 for fractions."""
    if is_array(column.values):
        return _BY_NAME.get(str(column.values.dtype), DTYPES["DT_FLOAT"])
    types = set(map(type, column.values))
    if types & {str, bytes}:
        return DTYPES["DT_STRING"]
    names = {frozenset({bool}): "DT_BOOL", frozenset({int}): "DT_INT64", frozenset({bool, int}): "DT_INT64"}
    return DTYPES[names.get(frozenset(types), "DT_COMPLEX64" if complex in types else "DT_FLOAT")]


def _bytes(value: Any) -> bytes:
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, bytes):
        return value
    raise TypeError(f"{value!r} is no string")


def _converted(values: Any, kind: Kind) -> bytes:
    """A numpy array as bytes; integers must stay what they are."""
    converted = values.astype(kind.name)
    if kind.whole and (converted != values).any():
        raise ValueError(f"{values[converted != values].flat[0]} cannot be written as one")
    return converted.tobytes()  # type: ignore[no-any-return]


def _packed(values: Sequence[Any], kind: Kind) -> bytes:
    """A list as bytes."""
    if kind.name.startswith("complex"):
        values = [part for value in map(complex, values) for part in (value.real, value.imag)]
    if kind.code == "e":
        return struct.pack(f"{len(values)}e", *values)
    if kind.code == "bf":
        return array("H", map(_upper_half, array("I", array("f", values).tobytes()))).tobytes()
    if kind.code == "?":
        return bytes(_whole(value, 0, 1) for value in values)
    try:
        return array(kind.code, values).tobytes()
    except TypeError:
        if not kind.whole:
            raise
        return array(kind.code, [_whole(value) for value in values]).tobytes()


def _upper_half(bits: int) -> int:
    """The bfloat16 next to a float32, ties to even; NaN stays NaN."""
    if bits & 0x7FFFFFFF > 0x7F800000:
        return bits >> 16 | 0x40
    return (bits + 0x7FFF + (bits >> 16 & 1)) >> 16


def _whole(value: Any, *allowed: int) -> int:
    """2 for 2.0; a fraction is not cut off in silence."""
    if isinstance(value, str | bytes) or not math.isfinite(value) or value != int(value):
        raise ValueError(f"{value!r} is no whole number")
    if allowed and value not in allowed:
        raise ValueError(f"{value!r} is not one of {allowed}")
    return int(value)


def read(proto: Any, name: str) -> Any:
    """A TensorProto's values: an array, or nested lists where numpy is not installed.

    Raises:
        ServingError: UNIMPLEMENTED, another dtype.
    """
    kind = _kind(proto.dtype, name)
    shape = [dim.size for dim in proto.tensor_shape.dim]
    values = _values(proto, kind)
    missing = math.prod(shape) - len(values)
    if missing > 0:  # TensorFlow's rule: the last value stands for all that follow
        values = [*values, *[values[-1] if values else _zero(kind)] * missing]
    return from_flat(values, shape, kind.name)


def _zero(kind: Kind) -> Any:
    return b"" if kind.name == "object" else 0


def _values(proto: Any, kind: Kind) -> Sequence[Any]:
    """The values that are there, from either of the forms in which TensorFlow writes them."""
    content, given = proto.tensor_content, getattr(proto, kind.field)
    if kind.field == "half_val" and not content:  # its numbers are the bits
        content = array("H", given).tobytes()
    found: Sequence[Any]
    if not content:
        found = given
    elif kind.code == "bf":
        found = array("f", array("I", [bits << 16 for bits in array("H", content)]).tobytes()).tolist()
    else:
        found = [value for (value,) in struct.iter_unpack(kind.code, content)]
    if kind.name.startswith("complex"):
        return [complex(real, imaginary) for real, imaginary in zip(found[::2], found[1::2], strict=True)]
    return found
