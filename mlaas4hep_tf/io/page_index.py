"""Where the pages of an RNTuple lie, and how the elements of its columns become branches."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from mlaas4hep_tf.io.basket_index import Array

_PER_PAGE = ("seeks", "sizes", "elements", "checked")
_NOTHING = np.zeros(0, np.int64)
Span = tuple[int, int]  # position and length in bytes


@dataclass(frozen=True)
class Encoding:
    """How the elements of a page are stored (RNTuple's specification, section on column types).

    Attributes:
        kind: number of the column type.
        bits: bits of an element in a page.
        low, high: range of a quantized column.
    """

    kind: int
    bits: int
    low: float = 0.0
    high: float = 0.0


@dataclass(frozen=True, eq=False)
class PageColumn:
    """The pages of one column, cluster after cluster.

    Attributes:
        encodings: what its pages may be stored as; a merge can join files that differ in this.
        chosen: which of them each cluster has, int64 [clusters].
        first: number of each cluster's first page, and of all pages, int64 [clusters + 1].
        seeks, sizes: position and length in bytes, with the checksum, int64 [pages].
        elements: how many each page holds, int64 [pages].
        checked: 1 if a checksum of 8 bytes follows the page, else 0, int64 [pages].
        late: whether the column was added while the file was written: what is missing before its first page is 0.
    """

    encodings: tuple[Encoding, ...]
    chosen: Array
    first: Array
    seeks: Array
    sizes: Array
    elements: Array
    checked: Array
    late: bool = False

    def span(self, page: int) -> Span:
        """Where a page lies."""
        return int(self.seeks[page]), int(self.sizes[page])

    def part(self, first: int, last: int) -> PageColumn:
        """The clusters [first, last)."""
        own = slice(int(self.first[first]), int(self.first[last]))
        return replace(
            self, chosen=self.chosen[first:last], first=self.first[first : last + 1] - self.first[first],
            seeks=self.seeks[own], sizes=self.sizes[own], elements=self.elements[own], checked=self.checked[own],
        )  # fmt: skip


@dataclass(frozen=True)
class Step:
    """From elements of one level to those of the next.

    ``list``: column `number` holds where the list of each element ends; ``maybe``: the same for lists of one element
    at most; ``times``: each element is an array of `number`.
    """

    op: Literal["list", "maybe", "times"]
    number: int


@dataclass(frozen=True)
class Field:
    """How a branch is read: from events, step by step, to the elements of its column.

    Attributes:
        name: name of the branch.
        dtype: dtype of its values.
        steps: the way from entries to elements.
        column: the column of the values; None if the value is the length of the list.
        item: which element of the arrays in a list the branch is; None: all.
        inner: of lists of lists the name of the inner ones.
    """

    name: str
    dtype: str
    steps: tuple[Step, ...]
    column: int | None
    item: int | None = None
    inner: str = ""

    @property
    def columns(self) -> tuple[int, ...]:
        levels = tuple(step.number for step in self.steps if step.op != "times")
        return levels if self.column is None else (*levels, self.column)

    @property
    def arrays(self) -> bool:
        """Whether an event has several elements of the first column."""
        return bool(self.steps) and self.steps[0].op == "times"

    @property
    def jagged(self) -> bool:
        return self.column is not None and any(step.op == "list" for step in self.steps)


@dataclass(frozen=True, eq=False)
class PageIndex:
    """The pages of some branches of one RNTuple.

    Attributes:
        fields: the branches.
        columns: number of a column -> its pages.
        bounds: first entry of each cluster, and behind the last one, int64 [clusters + 1].
    """

    fields: tuple[Field, ...]
    columns: Mapping[int, PageColumn]
    bounds: Array

    @property
    def names(self) -> frozenset[str]:
        return frozenset(field.name for field in self.fields)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled with the arrays of all columns joined: a wide RNTuple has thousands of short ones."""
        columns = list(self.columns.values())
        short = [column.first for column in columns], [column.chosen for column in columns]
        long = ([getattr(column, name) for column in columns] for name in _PER_PAGE)
        joined = [np.concatenate([_NOTHING, *arrays]) for arrays in (*short, *long)]
        how = [(column.encodings, column.late) for column in columns]
        return _from_parts, (self.fields, list(self.columns), self.bounds, how, joined)

    @property
    def nbytes(self) -> int:
        """Bytes of all pages."""
        return sum(int(column.sizes.sum()) for column in self.columns.values())

    def page_starts(self, number: int) -> tuple[int, ...]:
        """The entries at which a column that has one element per event starts a page."""
        column = self.columns[number]
        ends = np.concatenate([[0], np.cumsum(column.elements)])
        owner = np.repeat(np.arange(len(column.first) - 1), np.diff(column.first))
        first = self.bounds[:-1] + np.diff(self.bounds) - np.diff(ends[column.first])  # late columns begin later
        return tuple((first[owner] + ends[:-1] - ends[column.first[:-1]][owner]).tolist())

    def part(self, names: Iterable[str], start: int, stop: int) -> PageIndex:
        """The pages of these branches in the clusters with entries in [start, stop)."""
        wanted = set(names)
        fields = tuple(field for field in self.fields if field.name in wanted)
        first = max(int(np.searchsorted(self.bounds, start, "right")) - 1, 0)
        last = max(int(np.searchsorted(self.bounds, stop, "left")), first)
        columns = {number: self.columns[number].part(first, last) for field in fields for number in field.columns}
        return PageIndex(fields, columns, self.bounds[first : last + 1])


def _from_parts(
    fields: tuple[Field, ...], numbers: list[int], bounds: Array, how: list[tuple[Any, bool]], joined: list[Array]
) -> PageIndex:
    """What `PageIndex.__reduce__` took apart."""
    clusters = len(bounds) - 1
    columns, at = {}, 0
    for place, (number, (encodings, late)) in enumerate(zip(numbers, how, strict=True)):
        first = joined[0][place * (clusters + 1) : (place + 1) * (clusters + 1)]
        chosen = joined[1][place * clusters : (place + 1) * clusters]
        pages = slice(at, at + int(first[-1]))
        seeks, sizes, elements, checked = (array[pages] for array in joined[2:])
        columns[number] = PageColumn(encodings, chosen, first, seeks, sizes, elements, checked, late)
        at = pages.stop
    return PageIndex(fields, columns, bounds)
