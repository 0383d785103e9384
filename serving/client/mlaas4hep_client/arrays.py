"""numpy where it is installed: the client works without it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]
else:
    Array = Any


def is_array(value: Any) -> bool:
    """True for a numpy array; who has one has imported numpy, while other threads may be about to."""
    kind = getattr(sys.modules.get("numpy"), "ndarray", None)
    return kind is not None and isinstance(value, kind)


def from_nested(values: Any) -> Any:
    """Nested lists as an array, float32 for fractions; as they are where numpy is not installed."""
    try:
        import numpy
    except ImportError:
        return values
    array = numpy.array(values)
    return array.astype(numpy.float32) if array.dtype == numpy.float64 else array


def from_flat(values: Sequence[Any], shape: Sequence[int], dtype: str) -> Any:
    """Values in C order as an array of this shape and dtype; as nested lists where numpy is not installed."""
    try:
        import numpy
    except ImportError:
        return nested(values, shape)
    return numpy.fromiter(values, dtype, len(values)).reshape(shape)


def nested(values: Sequence[Any], shape: Sequence[int]) -> Any:
    """Values in C order as lists nested as the shape says; the value itself for a shape without dimensions."""
    if not shape:
        return values[0]
    if len(shape) == 1:
        return list(values)
    step = len(values) // shape[0] if shape[0] else 0
    return [nested(values[i * step : (i + 1) * step], shape[1:]) for i in range(shape[0])]
