"""How many bytes the tensors of a request declare, asked before memory is taken for them.

A shape is a few bytes of a message and any number of bytes of memory: fields whose last value is repeated, rows that
are padded to the longest, a context that goes before each example.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray
from tensorflow.core.framework import types_pb2
from tensorflow.core.framework.tensor_pb2 import TensorProto

from mlaas4hep_serving.errors import invalid_argument

NO_LIMIT = 1 << 62  # bytes, where nobody has set a limit
MOST_DIMENSIONS = 64  # numpy's; TensorFlow has 254
SPLITS = "_row_splits"  # as the exporter of `mlaas4hep-tf` names them
_STRING = 24  # bytes of a string of TensorFlow's beside its text
_UNKNOWN = 8  # bytes of an element of a type that is not in the table, at most


def of(dtype: int, shape: Sequence[int]) -> int:
    """Bytes of a tensor of a DataType; the text of strings is not counted.

    Raises:
        ServingError: INVALID_ARGUMENT, more dimensions than an array can have.
    """
    if len(shape) > MOST_DIMENSIONS:
        raise invalid_argument(f"A tensor has {len(shape)} dimensions; this server takes at most {MOST_DIMENSIONS}")
    return math.prod(shape) * element(dtype)


def element(dtype: int) -> int:
    """Bytes of one element of a DataType."""
    return _ELEMENTS.get(dtype, _UNKNOWN)


_ELEMENTS: dict[int, int] = {
    types_pb2.DT_BOOL: 1,
    types_pb2.DT_INT8: 1,
    types_pb2.DT_UINT8: 1,
    types_pb2.DT_INT16: 2,
    types_pb2.DT_UINT16: 2,
    types_pb2.DT_HALF: 2,
    types_pb2.DT_BFLOAT16: 2,
    types_pb2.DT_INT32: 4,
    types_pb2.DT_UINT32: 4,
    types_pb2.DT_FLOAT: 4,
    types_pb2.DT_INT64: 8,
    types_pb2.DT_UINT64: 8,
    types_pb2.DT_DOUBLE: 8,
    types_pb2.DT_COMPLEX64: 8,
    types_pb2.DT_COMPLEX128: 16,
    types_pb2.DT_STRING: _STRING,
}


def of_proto(proto: TensorProto) -> int:
    """Bytes of the tensor that a TensorProto describes, its strings included, the repeated last one each time.

    Raises:
        ServingError: INVALID_ARGUMENT, as `of`.
    """
    dtype, shape = proto.dtype, [dim.size for dim in proto.tensor_shape.dim]
    declared = max(of(dtype, shape), 0)  # a size may be negative, to be refused later
    if dtype != types_pb2.DT_STRING or not proto.string_val:
        return declared
    texts: list[int] = list(map(len, proto.string_val))
    return declared + sum(texts) + max(int(math.prod(shape)) - len(texts), 0) * texts[-1]


def of_splits(splits: NDArray[Any]) -> int:
    """Bytes of the float32 values that row splits lay claim to, whether or not they are there."""
    return 4 * max(int(splits.max(initial=0)), 0)


def check(declared: int, most: int) -> None:
    """Refuse tensors that take more than ``most`` bytes.

    Raises:
        ServingError: INVALID_ARGUMENT, with both numbers.
    """
    if declared > most:
        raise invalid_argument(
            f"The tensors of the request or of its answer take {declared} bytes, more than the limit of {most} bytes; "
            "see --max_tensor_bytes"
        )
