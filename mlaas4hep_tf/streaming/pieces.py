"""Packed events: a part of them without a copy, and many behind each other.

The arrays in order: flat float32 [n, flat]; bounds int32 [n, 2 groups]; of each group values float32 [m, branches]; of
each target its values [n].  Bounds are of each group the row of an event's first object and how many it has.  The rows
are counted from any number on: the values begin with the row that is the first event's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Events = tuple[Array, ...]


def divided(events: Events, at: int, groups: int) -> tuple[Events, Events]:
    """The first events, fewer than all, and those behind them."""
    bounds = events[1]
    objects = (bounds[at, ::2] - bounds[0, ::2]).tolist()
    places = [at, at, *objects, *[at] * (len(events) - 2 - groups)]
    first = tuple(array[:place] for array, place in zip(events, places, strict=True))
    return first, tuple(array[place:] for array, place in zip(events, places, strict=True))


def cut(events: Events, start: int, stop: int, groups: int) -> Events:
    """Events [start, stop), at least one."""
    if stop < len(events[0]):
        events, _ = divided(events, stop, groups)
    return divided(events, start, groups)[1] if start else events


def objects_of(pieces: Sequence[Events], groups: int) -> Array:
    """How many objects of each group each piece has, int64 [pieces, groups]."""
    counts = [[*map(len, piece[2 : 2 + groups])] for piece in pieces]
    return np.array(counts, np.int64).reshape(len(pieces), groups)


def join(chunk: Sequence[Array], pieces: Sequence[Events], objects: Array) -> None:
    """Copy pieces behind each other into the first rows of a chunk's arrays.

    The values of each group stand behind a row of NaN, from which the rows are counted.
    """
    groups = objects.shape[1]
    for number, (array, parts) in enumerate(zip(chunk, zip(*pieces, strict=True), strict=True)):
        row = int(2 <= number < 2 + groups)
        if row:
            array[0] = np.nan
        np.concatenate(parts, out=array[row : row + sum(map(len, parts))])
    moved = np.zeros((len(pieces), 2 * groups), np.int32)
    moved[:, ::2] = 1 + np.cumsum(objects, axis=0) - objects - [piece[1][0, ::2] for piece in pieces]
    events = [*map(len, (piece[0] for piece in pieces))]
    chunk[1][: sum(events)] += np.repeat(moved, events, axis=0)
