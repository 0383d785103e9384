"""Epochs by number, a place in one of them, and what must be the same for it to mean the same events."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from typing import Any

from mlaas4hep_tf.errors import ResumeError
from mlaas4hep_tf.io.files import RootFile
from mlaas4hep_tf.scanned_files import data_of
from mlaas4hep_tf.streaming.plan import ORDER, Plan
from mlaas4hep_tf.streaming.skipped import Skipped, SkippedRange


@dataclass(frozen=True)
class Position:
    """A place in the order of a dataset.

    Attributes:
        epoch: its number, from 0.
        batch: batches of it that were delivered.
        lost: blocks of this epoch that could not be read, as (file, first entry).  They are not read again in it,
            since the mixture behind them has been dealt out anew.
    """

    epoch: int = 0
    batch: int = 0
    lost: frozenset[tuple[int, int]] = frozenset()

    def __post_init__(self) -> None:
        if self.epoch < 0 or self.batch < 0:
            raise ResumeError(f"epochs and batches are counted from 0, not {self.epoch} and {self.batch}")


BEGINNING = Position()


@dataclass
class Cursor:
    """Where the next iteration over a dataset begins.

    An epoch is used up when its last batch has been taken: an iteration that ends before leaves it to the next one.
    """

    next: Position = BEGINNING
    _begun: Position = BEGINNING
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def begin(self) -> Position:
        with self._lock:
            self._begun = self.next
            return self._begun

    def end(self) -> None:
        with self._lock:
            self.next = Position(self._begun.epoch + 1)

    def move(self, position: Position) -> None:
        with self._lock:
            self.next = position

    @property
    def epoch(self) -> int:
        """The epoch of the latest iteration."""
        return self._begun.epoch


def describe_order(plan: Plan, files: Sequence[RootFile], specs: str) -> dict[str, Any]:
    """What the order of the events rests on, as JSON; two datasets with the same one deliver the same batches."""
    offsets = [plan.entry_offsets, *([plan.raw_offsets] if plan.raw_offsets is not None else [])]
    return {
        "order of the library": ORDER,
        "number of files": len(files),
        "files": data_of(files),
        "specs": specs,
        "seed": plan.seed,
        "shuffle": plan.shuffle,
        "batch_size": plan.batch_size,
        "chunk_size": plan.chunk_size,
        "events": plan.entries,
        "mixing law": _digest(plan.quotas),
        "clusters": _digest([sha256(own.values.tobytes()).hexdigest() for own in offsets]),
        "split, shard or sample": _digest(plan.parts.describe()),
    }


def _digest(content: object) -> str:
    return sha256(repr(content).encode()).hexdigest()[:16]


def make_state(position: Position, order: Mapping[str, Any], skipped: Skipped | None) -> dict[str, Any]:
    """`RootDataset.state`: JSON that says where, in which order, and what was lost on the way."""
    known = sorted(skipped.ever.items()) if skipped is not None else []
    return {
        "epoch": position.epoch, "batch": position.batch, "lost": [list(key) for key in sorted(position.lost)],
        "account": [asdict(lost) for _, lost in known], "order": dict(order),
    }  # fmt: skip


def read_state(state: Mapping[str, Any], order: Mapping[str, Any], batches: int) -> tuple[Position, list[SkippedRange]]:
    """The position that a state means for a dataset with this order, and what was lost before it.

    Raises:
        ResumeError: it is no state, or one of another order; says what differs.
    """
    try:
        then = state["order"]
        position = Position(state["epoch"], state["batch"], frozenset((file, start) for file, start in state["lost"]))
        account = [SkippedRange(**lost) for lost in state["account"]]
    except (KeyError, TypeError, ValueError) as error:
        raise ResumeError(f"this is no state of a dataset, as RootDataset.state gives it: {error!r}") from error
    differs = differences(then, order)
    if differs:
        raise ResumeError(f"a training can only go on with the same events in the same order; other {differs}")
    if position.batch > batches:
        raise ResumeError(f"an epoch has {batches} batches, and the state stands behind batch {position.batch}")
    return position, account


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What differs between two descriptions, such as ``seed: 3 then, 4 now``; nothing if they are the same."""
    names = [name for name in {**then, **now} if then.get(name) != now.get(name)]
    return "; ".join(f"{name}: {then.get(name)} then, {now.get(name)} now" for name in names)
