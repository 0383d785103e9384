"""Events to try a served graph with: plausible values, and all that may be odd about them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mlaas4hep_tf.specs import BranchSpec, Specs

Array = npt.NDArray[np.float32]
TOO_MANY = 3  # objects beyond the length that the model keeps
ODD = {np.nan: 0.02, np.inf: 0.01, -np.inf: 0.01}  # share of the values
SPLITS = "_row_splits"


@dataclass(frozen=True)
class TrialEvents:
    """Events in memory.

    Attributes:
        values: branch -> its values, one after the other: flat float32 [n], jagged [m].
        counts: group -> objects per event, int64 [n].
        groups: jagged branch -> its group.
    """

    values: Mapping[str, Array]
    counts: Mapping[str, npt.NDArray[np.int64]]
    groups: Mapping[str, str]

    def padded(self) -> dict[str, Array]:
        """Branch -> flat [n], jagged [n, most objects] filled up with NaN."""
        return {name: self._rectangle(name) if name in self.groups else own for name, own in self.values.items()}

    def ragged(self) -> dict[str, npt.NDArray[np.generic]]:
        """Branch -> values, and ``<group>_row_splits`` -> int64 [n + 1]."""
        return {**self.values, **{g + SPLITS: np.append(0, np.cumsum(own)) for g, own in self.counts.items()}}

    def _rectangle(self, name: str) -> Array:
        counts = self.counts[self.groups[name]]
        found = np.full((len(counts), int(counts.max())), np.nan, np.float32)
        found[np.arange(found.shape[1]) < counts[:, np.newaxis]] = self.values[name]
        return found


def trial_events(specs: Specs, events: int = 200, seed: int = 0) -> TrialEvents:
    """Events within the ranges of the specs, some values NaN or infinite, some lists empty, some too long.

    The first event has no object at all, the second more than the model keeps of every kind.
    """
    rng = np.random.default_rng(seed)
    counts = {group: _counts(rng, events, members[0].length) for group, members in specs.groups.items()}
    sizes = {b.name: events if b.kind == "flat" else int(counts[b.group].sum()) for b in specs.branches}
    values = {b.name: _values(rng, b, sizes[b.name]) for b in specs.branches}
    return TrialEvents(values, counts, {b.name: b.group for b in specs.jagged})


def _counts(rng: np.random.Generator, events: int, length: int) -> npt.NDArray[np.int64]:
    found = rng.integers(0, length + TOO_MANY + 1, events)
    found[:2] = 0, length + TOO_MANY
    return found


def _values(rng: np.random.Generator, branch: BranchSpec, size: int) -> Array:
    low, high = branch.min or 0.0, 1.0 if branch.max is None else branch.max
    found = rng.uniform(low, high, size)
    odd = rng.choice([0.0, *ODD], size, p=[1 - sum(ODD.values()), *ODD.values()])
    return np.where(odd == 0, found, odd).astype(np.float32)
