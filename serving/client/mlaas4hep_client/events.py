"""Events as a user has them -> columns as a request takes them: rectangular, with what ends a list in the gaps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice, repeat
from numbers import Integral
from typing import Any

from mlaas4hep_client.arrays import is_array, nested
from mlaas4hep_client.errors import invalid_argument

NO_INTEGER = -(2**63)  # what ends a list of integers in a request, as NaN ends one of other numbers
_SIMPLE = {float, int, bool, str, bytes, type(None), list}  # what needs no conversion to lists


@dataclass(frozen=True)
class Column:
    """One input of a request.

    Attributes:
        shape: its dimensions, the events first.
        values: in C order, a flat list of numbers or strings; or a numpy array of this shape.
        bools: whether booleans are among them.
        gaps: whether they are integers and NaN, which fills the gaps between lists of different lengths.
    """

    shape: tuple[int, ...]
    values: Any
    bools: bool = False
    gaps: bool = False

    def as_numbers(self) -> Column:
        """1 and 0 instead of booleans."""
        values = (
            self.values.astype("uint8")
            if is_array(self.values)
            else [v + 0 if v is True or v is False else v for v in self.values]
        )
        return Column(self.shape, values, gaps=self.gaps)

    def as_integers(self) -> Column:
        """`NO_INTEGER` in the gaps."""
        return Column(self.shape, [NO_INTEGER if v != v else v for v in self.values], self.bools)

    def nested(self) -> Any:
        """Lists nested as the shape says."""
        return self.values.tolist() if is_array(self.values) else nested(self.values, self.shape)

    def flat(self) -> list[Any]:
        """A flat list."""
        return self.values.ravel().tolist() if is_array(self.values) else self.values  # type: ignore[no-any-return]


def columns(events: Any) -> dict[str, Column] | Column:
    """Events as rectangular columns by name, or as one column.

    Args:
        events: a list of dicts, a dict of columns, or one array or list, whose first dimension is the events.

    Raises:
        ServingError: INVALID_ARGUMENT, events whose keys differ, lists of different depths.
    """
    plain = _plain(events)
    if isinstance(plain, Mapping):
        return {str(name): column(values, str(name)) for name, values in plain.items()}
    if isinstance(plain, list) and plain and isinstance(plain[0], Mapping):
        for number, event in enumerate(plain):
            if not isinstance(event, Mapping) or event.keys() != plain[0].keys():
                told = f"{_keys(event)}, not {_keys(plain[0])}"
                raise invalid_argument(f"event {number} has other keys than event 0: {told}")
        return {str(name): column([event[name] for event in plain], str(name)) for name in plain[0]}
    return column(plain, "events")


def _keys(event: Any) -> list[str]:
    return sorted(map(str, event)) if isinstance(event, Mapping) else [type(event).__name__]


def column(given: Any, name: str) -> Column:
    """Lists of any depth as one rectangle; lists of different lengths are filled up with NaN.

    Raises:
        ServingError: INVALID_ARGUMENT, lists of different depths, or ragged lists of something that is no number.
    """
    plain = _plain(given)
    if is_array(plain):
        return Column(plain.shape, plain, plain.dtype.kind == "b")
    levels: list[list[list[Any]]] = []  # all lists of one depth, from the outermost inwards
    items = _simple([plain])
    while list in (types := set(map(type, items))):
        if len(types) > 1:
            raise invalid_argument(f"{name}: lists of different depths, or something that is no number")
        levels.append(items)
        items = _simple(list(chain.from_iterable(items)))
    shape = tuple(max(map(len, lists)) for lists in levels)
    gaps = False
    if math.prod(shape) != len(items):
        if types & {str, bytes}:
            raise invalid_argument(f"{name}: lists of different lengths hold numbers only: the gaps become NaN")
        gaps = all(issubclass(kind, Integral) for kind in types)
        items = _filled(levels, shape, items)
    return Column(shape, items, bool in types, gaps)


def _filled(levels: Sequence[Sequence[Sequence[Any]]], shape: Sequence[int], leaves: Sequence[Any]) -> list[Any]:
    """The leaves of ragged lists, NaN in the gaps; from the innermost lists outwards, each becomes one flat block."""
    *outer, innermost = levels
    ahead = iter(leaves)
    blocks = [[*islice(ahead, len(row)), *repeat(math.nan, shape[-1] - len(row))] for row in innermost]
    size = shape[-1]
    for lists, longest in zip(reversed(outer), reversed(shape[:-1]), strict=True):
        rows = iter(blocks)
        blocks = [
            [*chain.from_iterable(islice(rows, len(row))), *repeat(math.nan, size * (longest - len(row)))]
            for row in lists
        ]
        size *= longest
    return blocks[0]


def _simple(items: list[Any]) -> list[Any]:
    """Items as lists and Python's numbers, where they are something else (rows of numpy, numpy's numbers)."""
    if set(map(type, items)) <= _SIMPLE:
        return items
    plain = map(_plain, items)
    return [item.tolist() if is_array(item) else item for item in plain]


def _plain(value: Any) -> Any:
    """Lists instead of what can give them (awkward arrays, their records, pandas' columns); numpy's numbers stay."""
    if isinstance(value, Mapping | str | bytes) or (is_array(value) and value.dtype.kind not in "OSU"):
        return value
    for name in ("to_list", "tolist"):
        if hasattr(value, name):
            return getattr(value, name)()
    if hasattr(value, "__array__"):
        return _plain(value.__array__())
    return list(value) if isinstance(value, Sequence) else value
