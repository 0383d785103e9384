"""How many events are left after each condition, by file and label, and their weight."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mlaas4hep_tf.htmltable import table

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class CutFlowRow:
    """What is left of one file, or of its events with one label.

    Attributes:
        file: path or URL.
        label: of the events, or the name of their class; None where there are no labels.
        events: before the first condition, and after each.
        weighted: the sums of their weights; empty where there are none.
    """

    file: str
    label: float | str | None
    events: tuple[int, ...]
    weighted: tuple[float, ...] = ()


@dataclass(frozen=True)
class CutFlow:
    """Events before and after each condition of the selection, each condition on those that the ones before it left.

    Attributes:
        cuts: the conditions.
        rows: by file and label.
    """

    cuts: tuple[str, ...]
    rows: tuple[CutFlowRow, ...]

    @property
    def events(self) -> tuple[int, ...]:
        """Of all files: before the first condition, and after each."""
        return tuple(np.sum([row.events for row in self.rows], axis=0).tolist())

    @property
    def weighted(self) -> tuple[float, ...]:
        """The sums of their weights; empty where there are none."""
        weighted = [row.weighted for row in self.rows if row.weighted]
        return tuple(np.sum(weighted, axis=0).tolist()) if weighted else ()

    def by_label(self) -> dict[float | str | None, CutFlow]:
        """The flow of each label, labels in rising order."""
        labels: list[Any] = sorted({row.label for row in self.rows}, key=lambda label: (label is not None, label))
        return {label: CutFlow(self.cuts, tuple(r for r in self.rows if r.label == label)) for label in labels}

    def steps(self) -> list[tuple[str, int, float, float | None]]:
        """For ``all`` and each condition: events left, which fraction of those before, and their weight."""
        events, weighted = self.events, self.weighted or (None,) * (1 + len(self.cuts))
        before = (events[0], *events)
        return [
            (name, left, left / was if was else 0.0, weight)
            for name, left, was, weight in zip(("all", *self.cuts), events, before, weighted, strict=False)
        ]

    @staticmethod
    def told(label: float | str) -> str:
        """A label, or the name of a class, for people to read."""
        return label if isinstance(label, str) else f"label {label:g}"

    def _repr_html_(self) -> str:
        rows = ((name, events, f"{share:.2%}", weight) for name, events, share, weight in self.steps())
        return table("Cut flow:", ("condition", "events", "of those before", "weighted"), rows)

    @staticmethod
    def from_json(content: Mapping[str, Any]) -> CutFlow:
        rows = ({**row, "events": tuple(row["events"]), "weighted": tuple(row["weighted"])} for row in content["rows"])
        return CutFlow(tuple(content["cuts"]), tuple(CutFlowRow(**row) for row in rows))


Counted = dict[float | None, tuple[Array, Array]]  # label -> events and weights, before and after each condition


def counted(held: Sequence[Array], labels: Array | None, weights: Array | None, most: int) -> Counted:
    """The flow of some events by their label; of more than `most` labels they are measurements, and one whole.

    Args:
        held: for each condition the events that it holds for, bool [n].
        labels, weights: of each event [n], or None.
    """
    alive = np.logical_and.accumulate([np.ones(len(held[0]), bool), *held])
    values = np.unique(labels) if labels is not None else np.zeros(0)
    if labels is None or len(values) > most:
        return {None: _flow(alive, weights)}
    return {value.item(): _flow(alive & (labels == value), weights) for value in values}


def _flow(alive: Array, weights: Array | None) -> tuple[Array, Array]:
    heavy = np.zeros(0) if weights is None else np.asarray(alive @ weights.astype(np.float64))
    return np.count_nonzero(alive, axis=1), heavy


def merged(parts: Iterable[Counted]) -> Counted:
    """The flow of several blocks together."""
    total: Counted = {}
    for part in parts:
        for label, (events, heavy) in part.items():
            known = total.get(label)
            total[label] = (events, heavy) if known is None else (known[0] + events, known[1] + heavy)
    return total
