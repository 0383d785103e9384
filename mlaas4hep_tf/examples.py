"""One event of the data, for people to look at and to try a served model with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    event: Example = {}
    for info in infos:
        flat = info.kind == "flat"
        start = number if flat else int(counts[info.group][:number].sum())
        size = 1 if flat else int(counts[info.group][number])
        found = [_plain(value) for value in np.concatenate(values[info.name])[start : start + size]]
        event[info.name] = found[0] if flat else found
    return event


def _choose(counts: Sequence[Array]) -> int:
    if not counts:
        return 0
    table = np.stack(counts)  # [groups, n]
    return int(np.lexsort((table.sum(axis=0), -np.count_nonzero(table, axis=0)))[0])


def _plain(value: Any) -> float | int | None:
    if not np.isfinite(value):
        return None
    return float(str(np.float32(value))) if value.dtype.kind == "f" else int(value)
