"""Works expressions out for some events after the others, so that what is in between stays in the processor's cache."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from mlaas4hep_tf.expressions.evaluation import Operations, evaluate
from mlaas4hep_tf.expressions.tree import Axis, Group, Inner, Node, branch_axes

Array = npt.NDArray[Any]

EVENTS = 4096  # at a time: a few hundred kilobytes for each value of an object


def evaluate_in_parts(
    nodes: Sequence[Node], do: Operations, values: Mapping[str, Array], counts: Mapping[str, Array], entries: int
) -> list[Array]:
    """`evaluate` of NumPy's arrays: the same values."""
    if entries <= EVENTS:
        return evaluate(nodes, do, values, counts, entries)
    axes = branch_axes(*nodes)
    bounds = np.minimum(np.arange(0, entries + EVENTS, EVENTS), entries)
    inner = {axis.name: axis.of for axis in axes.values() if isinstance(axis, Inner)}
    cuts = {axis: _slices(axis, bounds, counts) for axis in {None, *axes.values(), *inner.values()}}
    parts = [
        evaluate(
            nodes,
            do,
            {name: values[name][cuts[axis][number]] for name, axis in axes.items()},
            {name: own[cuts[inner.get(name)][number]] for name, own in counts.items()},
            int(stop - start),
        )
        for number, (start, stop) in enumerate(pairwise(bounds))
    ]
    return [np.concatenate(pieces) for pieces in zip(*parts, strict=True)]


def _slices(axis: Axis | None, bounds: Array, counts: Mapping[str, Array]) -> list[slice]:
    """Where the values of an axis lie that belong to the events between each two bounds."""
    return [slice(start, stop) for start, stop in pairwise(_edges(axis, bounds, counts).tolist())]


def _edges(axis: Axis | None, bounds: Array, counts: Mapping[str, Array]) -> Array:
    if axis is None:
        return bounds
    assert isinstance(axis, Group | Inner)
    lists = bounds if isinstance(axis, Group) else _edges(axis.of, bounds, counts)
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(counts[axis.name])])[lists]
