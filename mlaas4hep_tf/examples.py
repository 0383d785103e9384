"""One event of the data, for people to look at and to try a served model with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mlaas4hep_tf.io.branches import BranchInfo

Array = npt.NDArray[Any]
Example = dict[str, Any]


def example_event(
    infos: Sequence[BranchInfo], values: Mapping[str, Sequence[Array]], counts: Mapping[str, Array]
) -> Example:
    """Branch -> its number or list in one event: the smallest of those with the most groups that are not empty.

    Args:
        infos: the branches.
        values: branch -> its values in all events, in pieces.
        counts: group -> values per event, int64 [n].

    Returns:
        Python's numbers, floats with the digits of float32; None for NaN and infinity.
    """
    number = _choose(list(counts.values()))
    places = {group: (int(own[:number].sum()), int(own[number])) for group, own in counts.items()}
    event: Example = {}
    for info in infos:
        flat = info.kind == "flat"
        found = [_plain(value) for value in _cut(values[info.name], *((number, 1) if flat else places[info.group]))]
        event[info.name] = found[0] if flat else found
    return event


def _choose(counts: Sequence[Array]) -> int:
    if not counts:
        return 0
    filled = np.count_nonzero(counts, axis=0)  # groups, of each event
    fullest = np.flatnonzero(filled == filled.max())
    return int(fullest[np.sum(counts, axis=0)[fullest].argmin()])


def _cut(pieces: Sequence[Array], start: int, size: int) -> Iterator[Any]:
    """Values from `start` on; no piece is copied, as this is one event of thousands."""
    for piece in pieces:
        yield from piece[max(start, 0) : max(start + size, 0)]
        start -= len(piece)


def _plain(value: Any) -> float | int | None:
    if not np.isfinite(value):
        return None
    return float(str(np.float32(value))) if value.dtype.kind == "f" else int(value)
