"""Where the pages of an RNTuple lie, and how the elements of its columns become branches."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from mlaas4hep_tf.io.basket_index import Array


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
        checked: whether a checksum of 8 bytes follows the page, bool [pages].
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
    """

    name: str
    dtype: str
    steps: tuple[Step, ...]
    column: int | None
    item: int | None = None

    @property
    def columns(self) -> tuple[int, ...]:
        levels = tuple(step.number for step in self.steps if step.op != "times")
        return levels if self.column is None else (*levels, self.column)

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

    @property
    def nbytes(self) -> int:
        """Bytes of all pages."""
        return sum(int(column.sizes.sum()) for column in self.columns.values())

    def part(self, names: Iterable[str], start: int, stop: int) -> PageIndex:
        """The pages of these branches in the clusters with entries in [start, stop)."""
        wanted = set(names)
        fields = tuple(field for field in self.fields if field.name in wanted)
        first = max(int(np.searchsorted(self.bounds, start, "right")) - 1, 0)
        last = max(int(np.searchsorted(self.bounds, stop, "left")), first)
        columns = {number: self.columns[number].part(first, last) for field in fields for number in field.columns}
        return PageIndex(fields, columns, self.bounds[first : last + 1])
