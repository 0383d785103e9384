"""`Columns`: entries of some branches as they come out of a file, all at once or branch by branch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from mlaas4hep_tf.io.branches import BranchInfo

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class ColumnStream:
    """Entries of some branches, of which each is decoded when it is asked for.

    Attributes:
        num_entries, inner: as those of `Columns`.
        counts: too; a branch that differs from its group adds its own when it comes.
        values: each branch once, in any order, and its values as in `Columns`.
    """

    num_entries: int
    values: Iterator[tuple[str, tuple[Array, ...]]]
    counts: dict[str, Array]
    inner: dict[str, Array] = field(default_factory=dict)

    def collected(self, names: Iterable[str]) -> Columns:
        """All branches, in the order of `names`."""
        values = dict(self.values)
        return Columns(self.num_entries, {name: values[name] for name in names}, self.counts, self.inner)


@dataclass(frozen=True)
class Columns:
    """Entries of some branches as they come out of the file.

    Attributes:
        num_entries: number of events.
        values: branch -> 1-D arrays of any byte order which together are its values, event after event.
        counts: group -> values per event, int64 [entries]; of lists of lists how many lists.
        inner: inner lists (`BranchInfo.inner`) -> values of each, event after event, int64.
    """

    num_entries: int
    values: dict[str, tuple[Array, ...]]
    counts: dict[str, Array]
    inner: dict[str, Array] = field(default_factory=dict)

    def stream(self) -> ColumnStream:
        return ColumnStream(self.num_entries, iter(self.values.items()), self.counts, self.inner)

    def renamed(self, prefix: str, groups: Mapping[str, str]) -> Columns:
        """The same with a prefix before all names, but of groups that are called otherwise."""
        return Columns(
            self.num_entries,
            {prefix + name: pieces for name, pieces in self.values.items()},
            {groups.get(group, prefix + group): counts for group, counts in self.counts.items()},
            {prefix + name: counts for name, counts in self.inner.items()},
        )

    def beside(self, other: Columns) -> Columns:
        """These branches and others of the same events.

        Raises:
            ValueError: a group of both has other multiplicities in one than in the other.
        """
        for group in self.counts.keys() & other.counts.keys():
            differing = int(np.count_nonzero(self.counts[group] != other.counts[group]))
            if differing:
                raise ValueError(
                    f"group {group!r} has other multiplicities in a tree than in its friend in {differing} events"
                )
        return Columns(
            self.num_entries, self.values | other.values, self.counts | other.counts, self.inner | other.inner
        )

    def at(self, rows: Array, infos: Sequence[BranchInfo], groups: Mapping[str, str]) -> Columns:
        """Some of the events, int64 [n], in this order.

        Args:
            groups: list branch -> its group in `counts`.
        """
        values: dict[str, tuple[Array, ...]] = {}
        counts, inner = {g: own[rows] for g, own in self.counts.items()}, dict(self.inner)
        for info in infos:
            own, places = _one_array(self.values[info.name]), rows
            if info.kind != "flat":
                places = _places(self.counts[groups[info.name]], rows)
            if info.kind == "nested":
                inner[info.inner] = self.inner[info.inner][places]
                places = _places(self.inner[info.inner], places)
            values[info.name] = (own[places],)
        return Columns(len(rows), values, counts, inner)


def behind_each_other(parts: Sequence[Columns]) -> Columns:
    """The events of several, which have the same branches."""
    if len(parts) == 1:
        return parts[0]
    values = {name: tuple(piece for part in parts for piece in part.values[name]) for name in parts[0].values}
    counts = {group: np.concatenate([part.counts[group] for part in parts]) for group in parts[0].counts}
    inner = {name: np.concatenate([part.inner[name] for part in parts]) for name in parts[0].inner}
    return Columns(sum(part.num_entries for part in parts), values, counts, inner)


def _one_array(pieces: Sequence[Array]) -> Array:
    return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)


def _places(counts: Array, rows: Array) -> Array:
    """Where the values of some lists lie, one list after the other."""
    starts, sizes = (np.cumsum(counts) - counts)[rows], counts[rows]
    return np.repeat(starts - (np.cumsum(sizes) - sizes), sizes) + np.arange(int(sizes.sum()))
