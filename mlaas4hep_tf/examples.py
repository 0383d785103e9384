"""One event of the data, for people to look at and to try a served model with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from mlaas4hep_tf.io.branches import BranchInfo

Array = npt.NDArray[Any]
Example = dict[str, Any]


def example_event(
    infos: Sequence[BranchInfo], values: Mapping[str, Sequence[Array]], counts: Mapping[str, Array],
    among: Array | None = None, inner: Mapping[str, Array] | None = None,
) -> Example:  # fmt: skip
    """Branch -> its number or list in one event: the smallest of those with the most groups that are not empty.

    Args:
        infos: the branches.
        values: branch -> its values in all events, in pieces.
        counts: group -> values per event, int64 [n].
        inner: lists in the objects -> values of each object, int64 [m].
        among: which of the events may be taken, bool [n], at least one; None: all.

    Returns:
        Python's numbers, floats with the digits of float32; None for NaN and infinity.
    """
    number = _choose(list(counts.values()), among)
    places = {group: (int(own[:number].sum()), int(own[number])) for group, own in counts.items()}
    event: Example = {}
    for info in infos:
        if info.kind == "nested":
            event[info.name] = _lists(values[info.name], (inner or {})[info.inner], *places[info.group])
            continue
        flat = info.kind == "flat"
        found = [_plain(value) for value in _cut(values[info.name], *((number, 1) if flat else places[info.group]))]
        event[info.name] = found[0] if flat else found
    return event


def _choose(counts: Sequence[Array], among: Array | None) -> int:
    may = np.flatnonzero(among) if among is not None else None
    if not counts:
        return 0 if may is None else int(may[0])
    own = np.asarray(counts) if may is None else np.asarray(counts)[:, may]
    filled = np.count_nonzero(own, axis=0)  # groups, of each event
    fullest = np.flatnonzero(filled == filled.max())
    chosen = int(fullest[np.sum(own, axis=0)[fullest].argmin()])
    return chosen if may is None else int(may[chosen])


def _cut(pieces: Sequence[Array], start: int, size: int) -> Iterator[Any]:
    """Values from `start` on; no piece is copied, as this is one event of thousands."""
    for piece in pieces:
        yield from piece[max(start, 0) : max(start + size, 0)]
        start -= len(piece)


def _lists(pieces: Sequence[Array], inner: Array, first: int, size: int) -> list[list[float | int | None]]:
    """The lists in some objects."""
    starts = inner[:first].sum() + np.cumsum([0, *inner[first : first + size]])
    return [[_plain(value) for value in _cut(pieces, int(a), int(b - a))] for a, b in pairwise(starts)]


def _plain(value: Any) -> float | int | None:
    if not np.isfinite(value):
        return None
    return float(str(np.float32(value))) if value.dtype.kind == "f" else int(value)
