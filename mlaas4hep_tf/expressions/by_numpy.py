"""The operations of expressions in NumPy, for the reader processes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mlaas4hep_tf.expressions.parts import evaluate_in_parts
from mlaas4hep_tf.expressions.tree import Node, Type

Array = npt.NDArray[Any]

_TINY = np.finfo(np.float32).tiny
_DTYPES = {"bool": np.bool_, "int": np.int64, "float": np.float64}
_EMPTY = {"sum": 0, "min": np.nan, "max": np.nan, "any": False, "all": True}
_REDUCE = {"sum": np.add, "min": np.fmin, "max": np.fmax, "any": np.logical_or, "all": np.logical_and}


def _floor_divide(a: Array, b: Array) -> Array:
    """Integers: nothing of a division by zero, and no trap; floats: the floor of the quotient."""
    if a.dtype.kind == "f":
        return np.asarray(np.floor(a / b))
    return np.where(b == 0, 0, np.floor_divide(a, np.where(b == 0, 1, b)))


def _remainder(a: Array, b: Array) -> Array:
    """Integers: nothing of a division by zero; floats: Python's sign, and a zero is never negative."""
    if a.dtype.kind == "f":
        return np.asarray(np.mod(a, b) + 0.0)
    return np.where(b == 0, 0, np.mod(a, np.where(b == 0, 1, b)))


_OPERATIONS: dict[str, Callable[..., Any]] = {
    "and": np.logical_and, "or": np.logical_or, "xor": np.logical_xor, "not": np.logical_not,
    "bit_and": np.bitwise_and, "bit_or": np.bitwise_or, "bit_xor": np.bitwise_xor, "bit_not": np.invert,
    "shift_left": lambda a, b: np.left_shift(a, np.clip(b, 0, 63)),
    "shift_right": lambda a, b: np.right_shift(a, np.clip(b, 0, 63)),
    "floor_divide": _floor_divide, "remainder": _remainder, "hypot": lambda a, b: np.sqrt(a * a + b * b),
    "where": np.where,
}  # fmt: skip


class NumPy:
    """See `evaluation.Operations`."""

    def array(self, values: Array, kind: Type) -> Array:
        return self.rounded(values) if kind == "float" else values.astype(_DTYPES[kind])

    def constant(self, value: Any, kind: Type) -> Array:
        return np.asarray(value, _DTYPES[kind])

    def convert(self, x: Array, kind: Type) -> Array:
        if kind == "bool" and x.dtype.kind != "b":
            return np.asarray((x != 0) & (x == x))  # NaN is not itself
        return x.astype(_DTYPES[kind], copy=False)

    def rounded(self, x: Array) -> Array:
        with np.errstate(over="ignore"):
            narrow = x.astype(np.float32)
        narrow[np.abs(narrow) < _TINY] = 0.0
        return narrow.astype(np.float64)

    def result(self, x: Array, kind: Type, entries: int) -> Array:
        x = np.full(entries, x) if x.ndim == 0 else x
        return self.rounded(x).astype(np.float32) if kind == "float" else x

    def apply(self, op: str, args: Sequence[Array]) -> Array:
        with np.errstate(all="ignore"):
            return np.asarray((_OPERATIONS.get(op) or getattr(np, op))(*args))

    def reduce(self, op: str, x: Array, counts: Array) -> Array:
        some = counts > 0
        out = np.full(len(counts), _EMPTY[op], x.dtype)
        if some.any():
            with np.errstate(all="ignore"):
                out[some] = _REDUCE[op].reduceat(x, self.before(counts)[some])
        return out

    def size(self, x: Array) -> int:
        return len(x)

    def range(self, size: int) -> Array:
        return np.arange(size)

    def before(self, counts: Array) -> Array:
        return np.asarray(np.cumsum(counts) - counts)

    def repeat(self, x: Array, counts: Array) -> Array:
        return np.full(counts.sum(), x) if x.ndim == 0 else np.repeat(x, counts)

    def gather(self, x: Array, places: Array) -> Array:
        return np.asarray(x[places])

    def keep(self, x: Array, mask: Array) -> Array:
        return np.asarray(x[mask])

    def at(self, x: Array, counts: Array, place: int) -> Array:
        out = np.full(len(counts), np.nan)
        there = counts > place
        out[there] = x[self.before(counts)[there] + place]
        return out

    def work_out(
        self, nodes: Sequence[Node], values: Mapping[str, Array], counts: Mapping[str, Array], entries: int
    ) -> list[Array]:
        return evaluate_in_parts(nodes, self, values, counts, entries)

    def sorted(self, keys: Array, counts: Array) -> Array:
        return np.lexsort((keys, np.repeat(np.arange(len(counts)), counts)))
