"""Statistics of a branch that merge, whatever the blocks in which it was read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from mlaas4hep_tf.distributions import binned, distribution
from mlaas4hep_tf.io.branches import BranchInfo
from mlaas4hep_tf.specs import FOUND, BranchSpec, TargetSpec

Array = npt.NDArray[Any]
FLOAT32_INTEGERS = 2**24  # up to it float32 holds every integer


_NONE: Array = np.zeros(0, np.int64)


@dataclass(frozen=True)
class BranchStats:
    """Statistics of one branch over some entries; `merge` of two is that of both.

    Attributes:
        values, nan, posinf, neginf: numbers of values.
        min, max: of the finite values; +inf and -inf where there are none.
        mean: of the finite values, 0 where there are none.
        m2: sum of squared deviations from the mean (Chan, Golub, LeVeque 1983).
        multiplicities: events with 0, 1, 2 ... values, int64; empty for flat branches.
        counts, sums: of the finite values in each bin (`distributions.binned`); empty where nobody asked.
    """

    values: int
    nan: int
    posinf: int
    neginf: int
    min: float
    max: float
    mean: float
    m2: float
    multiplicities: Array
    counts: Array = field(default_factory=lambda: _NONE)
    sums: Array = field(default_factory=lambda: _NONE)

    @property
    def finite(self) -> int:
        return self.values - self.nan - self.posinf - self.neginf

    def merge(self, other: BranchStats) -> BranchStats:
        """Associative: exactly for counts, min and max, to rounding of float64 for mean and m2."""
        n, m = self.finite, other.finite
        share = m / (n + m) if n + m else 0.0
        delta = other.mean - self.mean
        return BranchStats(
            self.values + other.values, self.nan + other.nan, self.posinf + other.posinf, self.neginf + other.neginf,
            min(self.min, other.min), max(self.max, other.max),
            self.mean + delta * share, self.m2 + other.m2 + delta * delta * n * share,
            _add(self.multiplicities, other.multiplicities),
            _add(self.counts, other.counts), _add(self.sums, other.sums),
        )  # fmt: skip

    def finish(self, info: BranchInfo) -> BranchSpec:
        known = self.finite > 0
        largest = max(len(self.multiplicities) - 1, 0)
        return BranchSpec(
            info.name, info.kind, info.dtype, info.group, 1 if info.kind == "flat" else largest,
            tuple(self.multiplicities.tolist()), self.values, self.nan, self.posinf, self.neginf,
            self.min if known else None, self.max if known else None,
            self.mean if known else None, self.m2 / self.finite if known else None,
            distribution(self.counts, self.sums),
        )  # fmt: skip


NOTHING = BranchStats(0, 0, 0, 0, np.inf, -np.inf, 0.0, 0.0, np.zeros(0, np.int64))


def _add(a: Array, b: Array) -> Array:
    short, long = sorted((a, b), key=len)
    if not len(short):
        return long
    total = long.copy()
    total[: len(short)] += short
    return total


def statistics(values: Sequence[Array], multiplicities: Array = _NONE, *, distributed: bool = False) -> BranchStats:
    """Statistics of one branch from its values (1-D arrays of one numeric dtype, any byte order).

    Values count as training sees them: what float32 cannot hold is infinite.  With `distributed` they are binned too.
    """
    parts = list(values) or [np.empty(0)]
    data = np.concatenate(parts, dtype=np.float64, casting="unsafe")
    count = len(data)
    if parts[0].dtype.itemsize == 8 and parts[0].dtype.kind == "f":
        beyond = np.abs(data) > float(np.finfo(np.float32).max)
        np.copyto(data, np.copysign(np.inf, data), where=beyond)
    with np.errstate(invalid="ignore"):  # inf - inf
        total = float(data.sum())
    nan = posinf = neginf = 0
    if not np.isfinite(total):
        nan, posinf, neginf = (int(np.count_nonzero(test(data))) for test in (np.isnan, np.isposinf, np.isneginf))
        data = data[np.isfinite(data)]
        total = float(data.sum())
    if not len(data):
        return BranchStats(count, nan, posinf, neginf, np.inf, -np.inf, 0.0, 0.0, multiplicities)
    bins = binned(data) if distributed else (_NONE, _NONE)
    mean = total / len(data)
    smallest, largest = float(data.min()), float(data.max())
    data -= mean
    m2 = float(np.einsum("i,i->", data, data))  # np.dot would start BLAS threads, which fight with the other readers
    return BranchStats(count, nan, posinf, neginf, smallest, largest, mean, m2, multiplicities, *bins)


def beyond_float32(values: Array) -> bool:
    """Whether there are integers among them that float32 does not hold."""
    if values.dtype.kind not in "iu" or not len(values):
        return False
    return bool(values.max() > FLOAT32_INTEGERS or values.min() < -FLOAT32_INTEGERS)


@dataclass(frozen=True)
class TargetStats:
    """What `TargetSpec` says, over some entries; `merge` of two is that of both.

    Attributes:
        found: how often each finite value comes; None where there are too many to keep.
        mean, m2: of the finite values, and the sum of squared deviations from it, as in `BranchStats`.
    """

    values: int
    not_finite: int
    min: float
    max: float
    found: Counter[float] | None
    mean: float = 0.0
    m2: float = 0.0

    def merge(self, other: TargetStats) -> TargetStats:
        n, m = self.values - self.not_finite, other.values - other.not_finite
        share = m / (n + m) if n + m else 0.0
        delta = other.mean - self.mean
        found = None if self.found is None or other.found is None else _few(self.found + other.found)
        return TargetStats(
            self.values + other.values, self.not_finite + other.not_finite,
            min(self.min, other.min), max(self.max, other.max), found,
            self.mean + delta * share, self.m2 + other.m2 + delta * delta * n * share,
        )  # fmt: skip

    def finish(self, info: BranchInfo) -> TargetSpec:
        known = self.not_finite < self.values
        return TargetSpec(
            info.name, info.dtype, self.values, self.not_finite,
            self.min if known else None, self.max if known else None, tuple(sorted((self.found or {}).items())),
            self.mean if known else None, self.m2 / (self.values - self.not_finite) if known else None,
        )  # fmt: skip


NO_TARGET = TargetStats(0, 0, np.inf, -np.inf, Counter())


def _few(found: Counter[float]) -> Counter[float] | None:
    return found if len(found) <= FOUND else None


def target_statistics(pieces: Sequence[Array]) -> TargetStats:
    """Statistics of a label or weight branch; integers stay integers, however large."""
    total = NO_TARGET
    for piece in pieces:
        finite = piece[np.isfinite(piece)]
        values, counts = np.unique(finite, return_counts=True)
        found = Counter(dict(zip(values.tolist(), counts.tolist(), strict=True))) if len(values) <= FOUND else None
        low, high = (values[0].item(), values[-1].item()) if len(values) else (np.inf, -np.inf)
        mean = float(finite.mean(dtype=np.float64)) if len(finite) else 0.0
        m2 = float(np.sum(np.square(finite - mean, dtype=np.float64)))
        total = total.merge(TargetStats(len(piece), len(piece) - len(finite), low, high, found, mean, m2))
    return total
