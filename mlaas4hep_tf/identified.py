"""Whether identifiers tell all events apart, found in bounded memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

KEPT = 1 << 17  # hashes: with more events than that, a sample of them, in which those that are the same stay together
_MULTIPLIERS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)  # of splitmix64


@dataclass(frozen=True)
class Identified:
    """The smallest hashes of the identifiers of some events; `merge` of two is that of both.

    Events with the same identifiers have the same hash, so a pair of them is kept together or not at all.

    Attributes:
        hashes: uint64, rising, `KEPT` of them at most.
    """

    hashes: Array = field(default_factory=lambda: np.empty(0, np.uint64))

    def merge(self, other: Identified) -> Identified:
        if not len(other.hashes) or not len(self.hashes):
            return self if len(self.hashes) else other
        return _smallest(np.concatenate([self.hashes, other.hashes]))

    @property
    def unique(self) -> bool | None:
        """Whether no two of the events that were kept have the same identifiers; None without any."""
        return bool((np.diff(self.hashes) > 0).all()) if len(self.hashes) else None


NOT_SEEN = Identified()


def identified(branches: Sequence[Array]) -> Identified:
    """What branches of integers [n] say of n events."""
    if not branches:
        return NOT_SEEN
    mixed = np.zeros(len(branches[0]), np.uint64)
    for values in branches:
        mixed = mixed ^ values.astype(np.int64).view(np.uint64)
        for multiplier, shift in zip(_MULTIPLIERS, (30, 27), strict=True):
            mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(multiplier)
    return _smallest(mixed)


def _smallest(hashes: Array) -> Identified:
    if len(hashes) > KEPT:
        hashes = np.partition(hashes, KEPT)[:KEPT]
    return Identified(np.sort(hashes))
