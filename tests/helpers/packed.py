"""Packed events whose numbers tell which they are."""

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Event = tuple[float, list[list[float]], float]  # its number, the values of its objects by group, and its target


def packed(start: int, stop: int) -> tuple[Array, ...]:
    """Events [start, stop) of two groups and a target, whose rows are counted from 7 on."""
    numbers = np.arange(start, stop)
    counts = np.stack([numbers % 3, numbers % 3 + 1], axis=1)
    bounds = np.stack([7 + np.cumsum(counts, axis=0) - counts, counts], axis=2).reshape(-1, 4)
    values = (sign * np.repeat(numbers, own)[:, np.newaxis] for sign, own in zip((1, -1), counts.T, strict=True))
    return (numbers[:, np.newaxis].astype("f4"), bounds.astype("i4"), *(v.astype("f4") for v in values), 2 * numbers)


def expected(start: int, stop: int) -> list[Event]:
    """What `unpacked` gives for the events of `packed`."""
    return [(n, [[n] * (n % 3), [-n] * (n % 3 + 1)], 2 * n) for n in range(start, stop)]


def unpacked(flat: Array, bounds: Array, *rest: Array, at: int = 0) -> list[Event]:
    """The events of packed ones.

    Args:
        at: where the first event's objects lie in each array of values.
    """
    starts, counts = bounds[:, ::2] - bounds[0, ::2] + at, bounds[:, 1::2]
    return [
        (number, [v[a : a + n, 0].tolist() for v, a, n in zip(rest, own, many, strict=False)], target)
        for number, own, many, target in zip(flat[:, 0], starts, counts, rest[-1], strict=True)
    ]
