"""Which part an event is dealt to, folds or what is held out: by what no cut and no other file changes.

The number of the part is an expression like any other, so the exported graph tells the same as the readers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from itertools import accumulate
from typing import Any

from mlaas4hep_tf.analysis.applied import Applied
from mlaas4hep_tf.analysis.rules import Analysis
from mlaas4hep_tf.analysis.steps import Steps, steps_of
from mlaas4hep_tf.errors import ConfigError
from mlaas4hep_tf.expressions.evaluation import Operations
from mlaas4hep_tf.expressions.syntax import words_of
from mlaas4hep_tf.io.branches import BranchInfo
from mlaas4hep_tf.io.files import RootFile

FOLDS, HOLD_OUT = "folds", "hold-out"  # what it is for, so that one does not tell of the other
FILE, ENTRY = "file_of_event", "entry_of_event"  # of an event that no branch identifies
_PART, _MIXED = "part_of_event", "mixed_of_event"
_ODD = (0x1E3779B97F4A7C15, 0x3F58476D1CE4E5B9)  # multipliers of splitmix64 (S. Vigna), below 2^63
_BITS = 31  # of the hash that are used


@dataclass(frozen=True)
class Draw:
    """How events are dealt to parts 0, 1 ...

    Attributes:
        purpose: `FOLDS` or `HOLD_OUT`.
        shares: of the events that each part is expected to get; of an expression only their number counts.
        by: expression of flat branches of the files, whose value is the number of the part; or empty.
        identifiers: branches of integers that tell events apart, whose hash chooses; without them and without an
            expression it is that of the file's uuid, the tree's name and the entry in the file.
    """

    purpose: str
    shares: tuple[float, ...]
    by: str = ""
    identifiers: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Branches of the files that it reads."""
        return tuple(sorted(words_of(self.by))) if self.by else self.identifiers

    @property
    def servable(self) -> bool:
        """Whether an event tells by itself which part is its own."""
        return bool(self.by or self.identifiers)

    def describe(self) -> str:
        """For what and by what events are dealt, in words."""
        if self.by:
            return f"{self.purpose} by {self.by}"
        hashed = ", ".join(self.identifiers) or "file (uuid), tree and entry"
        return f"{self.purpose} by a hash of {hashed}"

    @cached_property
    def _analysis(self) -> Analysis:
        """The number of the part as derived branches."""
        if self.by:
            return Analysis(define=((_PART, self.by),))
        start = int.from_bytes(sha256(self.purpose.encode()).digest()[:4])
        steps, before = [], str(start)
        for number, name in enumerate(self.identifiers or (FILE, ENTRY)):
            own = f"{_MIXED}_{number}"
            steps += [
                (f"{own}_a", f"({before} ^ `{name}`) * {_ODD[0]}"),
                (f"{own}_b", f"({own}_a ^ ({own}_a >> 29)) * {_ODD[1]}"),
                (own, f"{own}_b ^ ({own}_b >> 32)"),
            ]
            before = own
        bounds = [round(share * 2**_BITS) for share in accumulate(self.shares[:-1])]
        passed = [f"(({before} & {2**_BITS - 1}) >= {bound})" for bound in bounds]
        return Analysis(define=(*steps, (_PART, " + ".join(["0", *passed]))))

    def steps(self, infos: Iterable[BranchInfo]) -> Steps:
        """Understood for the branches of a tree.

        Raises:
            ConfigError: what is no number per event, or no whole number.
            ExpressionError: an expression that is none.
        """
        flat = [info for info in infos if info.kind == "flat" and info.name in self.names]
        own = [] if self.servable else [BranchInfo(name, "", "flat", "int64") for name in (FILE, ENTRY)]
        steps = steps_of(self._analysis, (*sorted(flat, key=lambda info: info.name), *own))
        told = steps.defined[-1]
        if told.dtype == "float32":
            raise ConfigError(
                f"{self.purpose} by {self.by!r}: an event's part is a whole number or a condition, such as event % 5"
            )
        return steps

    def of(self, steps: Steps, do: Operations, values: Mapping[str, Any], entries: Any) -> Any:
        """The number of each event's part, int64 [entries].

        Args:
            steps: from `steps`.
            values: branch -> its values [entries].
        """
        return do.convert(Applied(steps, do, values, {}, entries)[_PART], "int")


@dataclass(frozen=True)
class Drawn:
    """The events that are dealt to some of the parts of a draw."""

    draw: Draw
    parts: tuple[int, ...]


def number_of(file: RootFile) -> int:
    """What stands for a file in a hash, int64: the same wherever it lies and whatever it is called."""
    return int.from_bytes(sha256(f"{file.uuid}\0{file.tree}".encode()).digest()[:8], signed=True)
