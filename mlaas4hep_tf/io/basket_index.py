"""Where the baskets of a file lie: learnt when it is opened once, and all that reading needs to know."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mlaas4hep_tf.io.reals import Reals

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
        counter: branch with the multiplicities, where the baskets of a jagged one have no entry offsets.
        stride: bytes from one object to the next, if a branch of objects holds the values; else 0.
        offset: bytes of an object before the value.
        reals: how Double32_t and Float16_t are stored; else None.
    """

    name: str
    dtype: str
    jagged: bool
    header: int = 0
    length: int = 1
    counter: str = ""
    stride: int = 0
    offset: int = 0
    reals: Reals | None = None

    @property
    def size(self) -> int:
        """Bytes of a number."""
        return np.dtype(self.dtype).itemsize if self.reals is None else self.reals.size

    @property
    def step(self) -> int:
        """Bytes from one value to the next, or from one fixed-size array to the next."""
        return self.stride or self.length * self.size


@dataclass(frozen=True, eq=False)
class BranchBaskets:
    """The baskets of one branch.

    Attributes:
        branch: how their bytes become values.
        seeks, sizes: position and length in bytes of those that lie in the file, int64.
        entry_offsets: first entry of each basket, and behind the last one, int64.
        inline: bytes of the last baskets if they lie in the tree's own header (after recovery from a crash, or a
            fast merge of files).
    """

    branch: BranchIndex
    seeks: Array
    sizes: Array
    entry_offsets: Array
    inline: tuple[bytes, ...] = ()


@dataclass(frozen=True, eq=False)
class FileIndex:
    """The baskets of some branches of one file, branch after branch.

    Attributes:
        branches: the branches that our decoder reads.
        first: number of each branch's first basket, and of all baskets, int64 [branches + 1].
        seeks, sizes: position and length in bytes, int64 [baskets]; a seek of -1, -2 ... is one of `inline`.
        starts, stops: entries of each basket, int64 [baskets].
        inline: bytes of the baskets that do not lie in the file by themselves.
    """

    branches: tuple[BranchIndex, ...]
    first: Array
    seeks: Array
    sizes: Array
    starts: Array
    stops: Array
    inline: tuple[bytes, ...] = ()

    @property
    def names(self) -> frozenset[str]:
        return frozenset(branch.name for branch in self.branches)

    @property
    def nbytes(self) -> int:
        """Bytes of all baskets."""
        return int(self.sizes.sum())

    def part(self, names: Iterable[str], start: int, stop: int) -> FileIndex:
        """The baskets of these branches (those that are indexed) with entries in [start, stop).

        Where theirs have no entry offsets, those of their counter with any entry of these baskets come along.
        """
        wanted = set(names)
        chosen = np.array([branch.name in wanted for branch in self.branches], np.bool_)
        owner = np.repeat(np.arange(len(self.branches)), np.diff(self.first))
        keep = chosen[owner] & (self.stops > start) & (self.starts < stop)
        for number, branch in enumerate(self.branches):
            if branch.counter and branch.name in wanted:
                own = keep & (owner == number)
                at = [other.name for other in self.branches].index(branch.counter)
                first, last = self.starts[own].min(initial=stop), self.stops[own].max(initial=start)
                keep |= (owner == at) & (self.stops > first) & (self.starts < last)
                chosen[at] = True
        counts = np.bincount(owner[keep], minlength=len(self.branches))[chosen]
        seeks = self.seeks[keep]
        inline = np.flatnonzero(seeks < 0)
        taken = tuple(self.inline[-1 - seek] for seek in seeks[inline].tolist())
        seeks[inline] = -1 - np.arange(len(inline))
        return FileIndex(
            tuple(branch for branch, kept in zip(self.branches, chosen, strict=True) if kept),
            np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
            seeks, self.sizes[keep], self.starts[keep], self.stops[keep], taken,
        )  # fmt: skip


_NOTHING = np.zeros(0, np.int64)
NO_INDEX = FileIndex((), np.zeros(1, np.int64), _NOTHING, _NOTHING, _NOTHING, _NOTHING)


def build_index(parts: Sequence[BranchBaskets]) -> FileIndex:
    """Join the baskets of single branches."""
    if not parts:
        return NO_INDEX
    inline = [raw for part in parts for raw in part.inline]
    ends = np.cumsum([len(part.inline) for part in parts])
    seeks, sizes = [], []
    for part, end in zip(parts, ends.tolist(), strict=True):
        seeks += [part.seeks, -1 - np.arange(end - len(part.inline), end)]
        sizes += [part.sizes, np.array([len(raw) for raw in part.inline], np.int64)]
    return FileIndex(
        tuple(part.branch for part in parts),
        np.concatenate([[0], np.cumsum([len(part.entry_offsets) - 1 for part in parts])]).astype(np.int64),
        np.concatenate(seeks).astype(np.int64), np.concatenate(sizes).astype(np.int64),
        np.concatenate([part.entry_offsets[:-1] for part in parts]),
        np.concatenate([part.entry_offsets[1:] for part in parts]),
        tuple(inline),
    )  # fmt: skip
