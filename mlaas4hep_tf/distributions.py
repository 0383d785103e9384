"""How the values of a branch are distributed: counts in narrow bins, which merge; quantiles and moments of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
_BITS = 17  # of a float32 in which values of one bin may differ: 64 bins to a factor of 2
_BELOW_1 = 24 << (23 - _BITS)  # bins between 0.5 and 1, which are narrow towards 1 as they are towards 0, for the logit
_BINS = (1 << (32 - _BITS)) + _BELOW_1


@dataclass(frozen=True)
class Distribution:
    """The finite values of a branch in bins that are 1.6 % wide or less, relative to the value x; or to 1 - x below 1.

    Attributes:
        values: mean of the values in each bin that has any, rising.
        counts: how many they are.
    """

    values: tuple[float, ...]
    counts: tuple[int, ...]

    @cached_property
    def _shares(self) -> Array:
        """Share of the values up to and in each bin."""
        return np.cumsum(self.counts) / sum(self.counts)

    def quantile(self, share: float) -> float:
        """The smallest value that at least this share of the values does not exceed, to the width of a bin."""
        place = int(np.searchsorted(self._shares, share - 1e-12))
        return self.values[min(place, len(self.values) - 1)]

    def moments(self, function: Callable[[Array], Array]) -> tuple[float, float, float, float] | None:
        """Smallest, largest, mean and variance of what a function makes finite of the values; None if nothing."""
        with np.errstate(divide="ignore", invalid="ignore"):
            made = function(np.array(self.values))
        known = np.isfinite(made)
        if not known.any():
            return None
        made, counts = made[known], np.array(self.counts)[known]
        mean = float(np.average(made, weights=counts))
        return float(made.min()), float(made.max()), mean, float(np.average((made - mean) ** 2, weights=counts))


def binned(values: Array) -> tuple[Array, Array]:
    """Finite values -> how many lie in each bin, and their sum: int64 and float64 [bins], the bins rising."""
    x = values.astype(np.float32) + np.float32(0)  # -0 is 0
    places = _octaves(x)
    half = _octaves(np.array([0.5], np.float32))
    places = np.where(x >= 1, places + _BELOW_1 - (1 << (23 - _BITS)), places)
    places = np.where((x > 0.5) & (x < 1), 2 * half - _octaves(1 - x), places)
    return np.bincount(places, minlength=_BINS), np.bincount(places, values, _BINS)


def _octaves(x: Array) -> Array:
    """Numbers of equally many bins to each factor of 2, rising: float32 [n] -> int64 [n]."""
    bits = x.view(np.int32)
    return (np.where(bits >= 0, bits, bits ^ np.int32(0x7FFFFFFF)) >> _BITS).astype(np.int64) + (1 << (31 - _BITS))


def distribution(counts: Array, sums: Array) -> Distribution | None:
    """What `binned` found, added up over blocks; None without any value."""
    (used,) = np.nonzero(counts)
    means = (sums[used] / counts[used]).astype(np.float32)
    return Distribution(tuple(means.tolist()), tuple(counts[used].tolist())) if len(used) else None
