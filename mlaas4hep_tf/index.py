"""Where the baskets of a file lie: all that reading needs to know of it, learnt in one opening."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class BranchIndex:
    """How the bytes of a branch's baskets become values.

    Attributes:
        name: name of the branch.
        dtype: dtype of a value as stored, for example ``>f4``.
        jagged: whether entries differ in length.
        header: bytes in front of each entry's values (10 for a std::vector, else 0).
        length: values per entry of a branch that is not jagged.
    """

    name: str
    dtype: str
    jagged: bool
    header: int = 0
    length: int = 1


@dataclass(frozen=True, eq=False)
class FileIndex:
    """The baskets of some branches of one file, branch after branch.

    Attributes:
        branches: the branches that our decoder reads.
        first: number of each branch's first basket, and of all baskets, int64 [branches + 1].
        seeks, sizes: position and length in bytes, int64 [baskets].
        starts, stops: entries of each basket, int64 [baskets].
    """

    branches: tuple[BranchIndex, ...]
    first: Array
    seeks: Array
    sizes: Array
    starts: Array
    stops: Array

    @property
    def names(self) -> frozenset[str]:
        return frozenset(branch.name for branch in self.branches)

    def part(self, names: Iterable[str], start: int, stop: int) -> FileIndex:
        """The baskets of these branches (those that are indexed) with entries in [start, stop)."""
        wanted = set(names)
        chosen = np.array([branch.name in wanted for branch in self.branches], np.bool_)
        owner = np.repeat(np.arange(len(self.branches)), np.diff(self.first))
        keep = chosen[owner] & (self.stops > start) & (self.starts < stop)
        counts = np.bincount(owner[keep], minlength=len(self.branches))[chosen]
        return FileIndex(
            tuple(branch for branch in self.branches if branch.name in wanted),
            np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
            self.seeks[keep], self.sizes[keep], self.starts[keep], self.stops[keep],
        )  # fmt: skip


NO_INDEX = FileIndex((), np.zeros(1, np.int64), *(np.zeros(0, np.int64) for _ in range(4)))


def build_index(parts: Sequence[tuple[BranchIndex, Array, Array, Array]]) -> FileIndex:
    """Join (branch, seeks, sizes, entry edges) of single branches."""
    if not parts:
        return NO_INDEX
    branches, seeks, sizes, edges = zip(*parts, strict=True)
    counts = [len(s) for s in seeks]
    return FileIndex(
        tuple(branches), np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        np.concatenate(seeks).astype(np.int64), np.concatenate(sizes).astype(np.int64),
        np.concatenate([e[:-1] for e in edges]).astype(np.int64),
        np.concatenate([e[1:] for e in edges]).astype(np.int64),
    )  # fmt: skip
