"""Lists of integers and texts, one for each of many files, as two arrays each: no object for each file."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from typing import Any, TypeVar, overload

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]
Item = TypeVar("Item", covariant=True)


class Made(Sequence[Item]):
    """A sequence of which each item is made when it is asked for."""

    @abstractmethod
    def _one(self, number: int) -> Item:
        """The item of a number from 0 on."""

    @overload
    def __getitem__(self, number: int) -> Item: ...
    @overload
    def __getitem__(self, number: slice) -> list[Item]: ...
    def __getitem__(self, number: int | slice) -> Item | list[Item]:
        numbers = range(len(self))[number]
        return self._one(numbers) if isinstance(numbers, int) else [*map(self._one, numbers)]


class IntLists(Made[tuple[int, ...]]):
    """A tuple of integers for each file, made when it is asked for.

    Attributes:
        values: of all lists, one behind the other; int32 where they are small, else int64.
        ends: where each list ends in them, int32 or int64 [lists].
        rising: whether each value is kept as the difference to the one before in its list.
    """

    def __init__(self, values: IntArray, ends: IntArray, *, rising: bool = False) -> None:
        self.values, self.ends, self.rising = small(values), ends, rising

    @classmethod
    def of(cls, lists: Iterable[Sequence[int]], *, rising: bool = False) -> IntLists:
        lists = list(lists)
        if rising:
            lists = [np.diff(np.array(own, np.int64), prepend=0).tolist() for own in lists]
        values = np.fromiter(chain.from_iterable(lists), np.int64, sum(map(len, lists)))
        return cls(values, np.cumsum([len(own) for own in lists], dtype=np.int64), rising=rising)

    def __len__(self) -> int:
        return len(self.ends)

    def _one(self, number: int) -> tuple[int, ...]:
        own = self.values[self.ends[number - 1] if number else 0 : self.ends[number]]
        return tuple((np.cumsum(own, dtype=np.int64) if self.rising else own).tolist())

    @property
    def lengths(self) -> IntArray:
        return np.diff(self.ends, prepend=0)

    def sums(self) -> IntArray:
        """The sum of each list."""
        before = np.concatenate([[0], np.cumsum(self.values, dtype=np.int64)])
        found: IntArray = before[self.ends] - before[self.ends - self.lengths]
        return found

    def take(self, numbers: IntArray) -> IntLists:
        """Those of some files."""
        return IntLists(*_taken(self.values, self.ends, numbers), rising=self.rising)


def small(values: IntArray) -> IntArray:
    """As int32 where that holds them."""
    fits = not len(values) or max(int(values.max()), -int(values.min())) < 2**31
    return values.astype(np.int32 if fits else np.int64, copy=False)


class Texts(Made[str]):
    """A text for each file, decoded when it is asked for.

    Attributes:
        values: all of them in UTF-8, but for bytes of names of files that are none, one behind the other, uint8.
        ends: where each ends in them, int32 or int64 [texts].
    """

    def __init__(self, values: npt.NDArray[np.uint8], ends: IntArray) -> None:
        self.values, self.ends = values, ends

    @classmethod
    def of(cls, texts: Iterable[str]) -> Texts:
        coded = [os.fsencode(text) for text in texts]
        ends = np.cumsum([len(own) for own in coded], dtype=np.int64)
        return cls(np.frombuffer(b"".join(coded), np.uint8), ends)

    def __len__(self) -> int:
        return len(self.ends)

    def _one(self, number: int) -> str:
        start = self.ends[number - 1] if number else 0
        return os.fsdecode(self.values[start : self.ends[number]].tobytes())

    def take(self, numbers: IntArray) -> Texts:
        """Those of some files."""
        return Texts(*_taken(self.values, self.ends, numbers))


class DistantTexts(Made[str]):
    """A text for each file, read when it is asked for together with its neighbours.

    Attributes:
        block: number of a block -> the texts of its `rows` neighbours.
        numbers: where each text stands among all of them, int32 [texts].
    """

    def __init__(self, block: Callable[[int], Sequence[str]], rows: int, numbers: IntArray) -> None:
        self.block, self.rows, self.numbers = block, rows, numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def _one(self, number: int) -> str:
        block, row = divmod(int(self.numbers[number]), self.rows)
        return self.block(block)[row]

    def __reduce__(self) -> tuple[Any, ...]:
        return Texts.of, ([*self],)

    def take(self, numbers: IntArray) -> DistantTexts:
        """Those of some files."""
        return DistantTexts(self.block, self.rows, self.numbers[numbers])


def _taken(values: npt.NDArray[Any], ends: IntArray, numbers: IntArray) -> tuple[npt.NDArray[Any], IntArray]:
    """Some of the pieces that end there, one behind the other."""
    lengths = ends[numbers] - np.where(numbers, ends[numbers - 1], 0)
    own = np.cumsum(lengths, dtype=np.int64)
    places = np.arange(own[-1] if len(own) else 0) + np.repeat(ends[numbers] - own, lengths)
    return values[places], own
