"""Lists of integers, one for each of many files, as two arrays."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import overload

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]


class IntLists(Sequence[tuple[int, ...]]):
    """A tuple of integers for each file, made when it is asked for.

    Attributes:
        values: of all lists, one behind the other, int64.
        ends: where each list ends in them, int64 [lists].
    """

    def __init__(self, values: IntArray, ends: IntArray) -> None:
        self.values, self.ends = values, ends

    @classmethod
    def of(cls, lists: Iterable[Sequence[int]]) -> IntLists:
        lists = list(lists)
        values = np.fromiter(chain.from_iterable(lists), np.int64, sum(map(len, lists)))
        return cls(values, np.cumsum([len(own) for own in lists], dtype=np.int64))

    def __len__(self) -> int:
        return len(self.ends)

    @overload
    def __getitem__(self, number: int) -> tuple[int, ...]: ...
    @overload
    def __getitem__(self, number: slice) -> list[tuple[int, ...]]: ...
    def __getitem__(self, number: int | slice) -> tuple[int, ...] | list[tuple[int, ...]]:
        if isinstance(number, slice):
            return [self[n] for n in range(*number.indices(len(self)))]
        number = range(len(self))[number]
        return tuple(self.values[self.ends[number - 1] if number else 0 : self.ends[number]].tolist())

    def take(self, numbers: IntArray) -> IntLists:
        """Those of some files."""
        return IntLists.of(self[int(n)] for n in numbers)
