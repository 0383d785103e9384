"""Double32_t and Float16_t: reals that ROOT stores in fewer bytes (its ``TBufferFile::ReadDouble32``)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

_EXPONENT_AND_MANTISSA = 3  # bytes
_MOST_MANTISSA = 15  # bits from which on a mantissa is not cut
_TITLE = re.compile(r"/[df](?:\[([^\],]*),([^\],]*)(?:,\s*(\d+))?\])?$")


@dataclass(frozen=True)
class Reals:
    """How such reals are stored: as steps within a range, with a short mantissa, or as float32.

    Attributes:
        dtype: of the values in memory, ``float64`` for Double32_t and ``float32`` for Float16_t.
        low, high: the range; equal if there is none.
        bits: of a step number, or of the mantissa; 0 for float32.
    """

    dtype: str
    low: float = 0.0
    high: float = 0.0
    bits: int = 0

    @property
    def size(self) -> int:
        """Bytes of a number."""
        return 4 if self.low < self.high or not self.bits else _EXPONENT_AND_MANTISSA

    def decode(self, data: Array) -> Array:
        """The numbers in these bytes."""
        if self.low < self.high:
            factor = (0xFFFFFFFF if self.bits == 32 else 1 << self.bits) / (self.high - self.low)
            return (data.view(">u4") / factor + self.low).astype(self.dtype)
        if not self.bits:
            return data.view(">f4").astype(self.dtype)
        stored = data.reshape(-1, _EXPONENT_AND_MANTISSA).astype(np.uint32)
        mantissa = stored[:, 1] << 8 | stored[:, 2]
        bits = stored[:, 0] << 23 | (mantissa & ((1 << (self.bits + 1)) - 1)) << (23 - self.bits)
        magnitude = bits.view(np.float32).astype(self.dtype)
        return np.where(mantissa & (1 << (self.bits + 1)), -magnitude, magnitude)


def reals(dtype: str, low: float, high: float, bits: int) -> Reals:
    """How reals are stored whose declaration says ``[low, high, bits]``."""
    if low < high:
        return Reals(dtype, low, high, bits if 2 <= bits <= 32 else 32)
    if dtype == "float32" and not bits:
        return Reals(dtype, bits=12)
    return Reals(dtype, bits=bits if bits < _MOST_MANTISSA else 12 * (dtype == "float32"))


def reals_of_leaf(classname: str, title: str) -> Reals | None:
    """How the leaf of a leaf list stores its reals, from its branch's title; None if it says so in another way."""
    dtype = {"TLeafD32": "float64", "TLeafF16": "float32"}.get(classname, "")
    found = _TITLE.search(title)
    if not dtype or not found:
        return None
    try:
        return reals(dtype, float(found[1] or 0), float(found[2] or 0), int(found[3] or 32 * bool(found[1])))
    except ValueError:  # a range in terms of pi
        return None
