"""What a model is to tell of an event: outputs, loss, evaluation, report and columns follow from it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from mlaas4hep_tf.errors import LabelError, PlanError, near_misses, shorten
from mlaas4hep_tf.streaming.targets import Labels, PerFile

CLASS_LOSSES = ("crossentropy", "focal")
SCORE = "score"  # output of a model that tells classes apart
VALUE = "value"  # and of one that tells a number; of several each has the name of its target behind it
REGRESSION_LOSSES = ("mse", "mae", "huber", "quantile")
QUANTILES = (0.16, 0.5, 0.84)  # the median, and one standard deviation of a normal distribution around it


def _plain(name: str) -> str:
    """A name as part of a branch's."""
    return re.sub(r"\W", "_", name, flags=re.ASCII)


@dataclass(frozen=True)
class Classes:
    """Tell which of K classes an event is of.

    Two classes need one output, the probability of label 1, which is signal.  K > 2 have one output each.

    Attributes:
        names: of the classes; that of label i is ``names[i]``.
        signal: label of the class that is looked for.
        one_against_rest: K > 2 probabilities that stand for themselves (sigmoid) and need not sum to 1 (softmax).
        loss: cross-entropy, or focal (T.-Y. Lin et al., 2017), which cares more for what is told wrong.
    """

    names: tuple[str, ...]
    signal: int = 1
    one_against_rest: bool = False
    loss: str = "crossentropy"

    def __post_init__(self) -> None:
        columns = [_plain(name) for name in self.names]
        if len(self.names) < 2:
            raise LabelError(f"telling classes apart needs two of them at least; there is {self.names}")
        if len(set(columns)) < len(columns) or "" in columns:
            raise LabelError(f"names of classes must differ in letters and digits, not {self.names}")
        if not 0 <= self.signal < len(self.names):
            raise LabelError(f"the label of signal must be one of 0 to {len(self.names) - 1}, not {self.signal}")
        if self.binary and self.signal != 1:
            raise LabelError(f"of two classes signal has label 1, not {self.signal}: name the classes the other way")
        if self.loss not in CLASS_LOSSES:
            raise PlanError(f"a loss of classes must be one of {', '.join(CLASS_LOSSES)}, not {self.loss!r}")

    @property
    def binary(self) -> bool:
        return len(self.names) == 2

    @property
    def signal_first(self) -> tuple[int, ...]:
        """The labels in the order in which they are shown."""
        return (self.signal, *(label for label in range(len(self.names)) if label != self.signal))

    @property
    def width(self) -> int:
        """Outputs of the model."""
        return 1 if self.binary else len(self.names)

    @property
    def columns(self) -> tuple[str, ...]:
        """Branches of the predictions, one per output."""
        return (SCORE,) if self.binary else tuple(f"{SCORE}_{_plain(name)}" for name in self.names)

    def describe(self) -> str:
        """What it tells, in words."""
        if self.binary:
            return f"the probability of {self.names[1]} against {self.names[0]}"
        how = "each against the rest" if self.one_against_rest else "together 1"
        return f"a probability for each of {', '.join(self.names)} ({how})"

    def check(self, labels: Sequence[float]) -> None:
        """Raise LabelError unless all these labels are of a class."""
        if not set(labels) <= set(map(float, range(len(self.names)))):
            named = ", ".join(f"{i} for {name}" for i, name in enumerate(self.names))
            raise LabelError(f"labels are expected to be {named}; there are {sorted(set(labels))}")


@dataclass(frozen=True)
class Regression:
    """Tell a number, or quantiles of what it may be.

    Attributes:
        target: branch that has the truth.
        offset, scale: of the truth, its mean and standard deviation; the network itself tells (value - offset) / scale,
            and its last layer, which is exported with it, undoes that.
        loss: of the normalised number: ``mse``, ``mae``, ``huber`` (squared up to one scale, linear beyond), or
            ``quantile`` (R. Koenker and G. Bassett, 1978), with an output for each of `quantiles`.
        quantiles: rising, between 0 and 1; for that loss alone.
    """

    target: str
    offset: float
    scale: float
    loss: str = "mse"
    quantiles: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.loss not in REGRESSION_LOSSES:
            raise PlanError(f"a loss of numbers must be one of {', '.join(REGRESSION_LOSSES)}, not {self.loss!r}")
        if not self.scale > 0:
            raise LabelError(f"target {self.target!r} has one value in all events: there is nothing to learn")
        if bool(self.quantiles) != (self.loss == "quantile"):
            raise PlanError("quantiles and loss='quantile' belong together: give both or neither")
        inside = all(0 < q < 1 for q in self.quantiles)
        if not inside or sorted(set(self.quantiles)) != [*self.quantiles]:
            raise PlanError(f"quantiles must rise between 0 and 1, not {self.quantiles}")

    @property
    def width(self) -> int:
        """Outputs of the model."""
        return len(self.quantiles) or 1

    @property
    def columns(self) -> tuple[str, ...]:
        """Branches of the predictions, one per output."""
        name = f"predicted_{_plain(self.target)}"
        return tuple(f"{name}_q{100 * q:g}".replace(".", "_") for q in self.quantiles) or (name,)

    @property
    def central(self) -> int:
        """Which output is the number that is told: the quantile next to the median."""
        return min(range(self.width), key=lambda n: abs(self.quantiles[n] - 0.5)) if self.quantiles else 0

    def describe(self) -> str:
        """What it tells, in words."""
        if self.quantiles:
            return f"the quantiles {', '.join(f'{q:g}' for q in self.quantiles)} of {self.target}"
        return self.target


Head = Classes | Regression

SIGNAL_BACKGROUND = ("background", "signal")
BINARY = Classes(SIGNAL_BACKGROUND)


@dataclass(frozen=True)
class Task:
    """All that a model is to tell.

    Attributes:
        head: classes or a number, which chooses the best of several models.
        others: numbers that are told beside it, each by an output with a loss of its own, which are summed.
    """

    head: Head
    others: tuple[Regression, ...] = ()

    def __post_init__(self) -> None:
        if len(self.outputs) < len(self.heads):
            raise LabelError(f"targets must differ in letters and digits, not {self.describe()}")

    @property
    def heads(self) -> tuple[Head, ...]:
        """What the model has an output for, in the order of its outputs."""
        return (self.head, *self.others)

    @property
    def outputs(self) -> dict[str, Head]:
        """Name of each output of the model -> what it tells."""
        names = output_names(isinstance(self.head, Classes), self.targets)
        return dict(zip(names, self.heads, strict=False))

    @property
    def targets(self) -> tuple[str, ...]:
        """Branches that have the numbers."""
        return tuple(head.target for head in self.heads if isinstance(head, Regression))

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes by label; none where a number is told."""
        return self.head.names if isinstance(self.head, Classes) else ()

    @property
    def columns(self) -> tuple[str, ...]:
        """Branches of the predictions, one per number that the model gives."""
        return tuple(column for head in self.heads for column in head.columns)

    def describe(self) -> str:
        """What the heads tell, in words."""
        return "; ".join(head.describe() for head in self.heads)

    def to_json(self) -> dict[str, Any]:
        kind = "classes" if isinstance(self.head, Classes) else "regression"
        others = {"others": [asdict(one) for one in self.others]} if self.others else {}
        return {kind: asdict(self.head), **others}

    @staticmethod
    def from_json(content: Mapping[str, Any]) -> Task:
        """What `to_json` wrote."""
        others = tuple(map(_regression, content.get("others", ())))
        if "classes" in content:
            classes = content["classes"]
            return Task(Classes(**classes | {"names": tuple(classes["names"])}), others)
        return Task(_regression(content["regression"]), others)


def _regression(content: Mapping[str, Any]) -> Regression:
    return Regression(**{**content, "quantiles": tuple(content["quantiles"])})


def output_names(classes: bool, targets: Sequence[str]) -> tuple[str, ...]:
    """Names of a model's outputs: ``score`` of classes, ``value`` of one number, ``value_<target>`` of each of several.

    Labels and targets have the same names in the batches of a dataset, as Keras wants it.
    """
    if not classes and len(targets) == 1:
        return (VALUE,)
    return (*((SCORE,) if classes else ()), *(f"{VALUE}_{_plain(target)}" for target in targets))


SIGNAL_OR_NOT = Task(BINARY)

Losses = str | Mapping[str, str]  # of all heads of its kind, or by target, "classes" and "*" for the other targets


def loss_of(given: Losses | None, target: str = "", *, mixed: bool = False) -> str | None:
    """The loss of a target, or of the classes; None where nobody says it.

    Args:
        given: one loss, or by target; see `Losses`.
        target: branch of a number; empty for classes.
        mixed: the model tells classes and numbers, so that one loss is of those of its kind alone.
    """
    if isinstance(given, Mapping):
        return given.get(target, given.get("*")) if target else given.get("classes")
    return None if mixed and given in (CLASS_LOSSES if target else REGRESSION_LOSSES) else given


def class_names(labels: Labels, signal: str | None = None) -> tuple[str, ...]:
    """Names of the classes by label, where labels are given by name; else none.

    They keep the order in which they are given; of two the first is signal, which is label 1, unless `signal` says.

    Raises:
        LabelError: names and numbers mixed, one class alone, or a signal that is none of them.
    """
    given = [] if isinstance(labels, str) else [*(labels.values() if isinstance(labels, Mapping) else labels)]
    names = [*dict.fromkeys(value for value in given if isinstance(value, str))]
    if names and not all(isinstance(value, str) for value in given):
        raise LabelError(f"labels are all names or all numbers, not {shorten(map(repr, given))}")
    if signal is not None and names and signal not in names:
        raise LabelError(f"signal {signal!r} is no class{near_misses(signal, names)}; there are {shorten(names)}")
    if len(names) == 2:
        first = signal or names[0]
        return (next(name for name in names if name != first), first)
    return tuple(names)


def numbered(labels: Labels, names: Sequence[str]) -> PerFile:
    """The labels as numbers, where they are names.

    Raises:
        LabelError: a name of no class.
    """
    if isinstance(labels, str):
        return labels

    def number(value: float | str) -> float:
        if not isinstance(value, str):
            return value
        if value not in names:
            raise LabelError(f"no class {value!r}{near_misses(value, names)}; there are {shorten(names) or 'numbers'}")
        return float(names.index(value))

    if isinstance(labels, Mapping):
        return {pattern: number(value) for pattern, value in labels.items()}
    return [number(value) for value in labels]


def classes_of(
    labels: Labels, found: Sequence[float], *, names: Sequence[str] = (), signal: str | None = None,
    one_against_rest: bool = False, loss: str = "crossentropy",
) -> Classes:  # fmt: skip
    """The classes that labels tell apart.

    Args:
        labels: as the user gave them.
        found: the distinct labels, as numbers, of the files or of the branch.
        names: of the labels 0, 1 ..., where labels are numbers.
        signal: name of the class that is looked for.

    Raises:
        LabelError: labels that are not 0 to K - 1, names that are not one for each, or a signal that is none of them.
    """
    own = class_names(labels, signal) or tuple(names)
    if own and names and tuple(names) != own:
        raise LabelError("names of classes are for labels that are numbers; these labels have names already")
    if not own:
        count = len(set(found) | {0.0, 1.0})
        own = SIGNAL_BACKGROUND if count == 2 else tuple(str(label) for label in range(count))
    if sorted(set(found)) != [*range(len(own))]:
        what = "0 for background and 1 for signal" if own == SIGNAL_BACKGROUND else f"0 to {len(own) - 1}"
        if isinstance(labels, str):
            raise LabelError(
                f"label branch {labels!r} must hold {what}, each in some event; it holds "
                f"{shorten(f'{label:g}' for label in sorted(set(found)))}"
            )
        raise LabelError(f"labels must be {what}, each with events; there are {sorted(set(found))}")
    if signal is not None and signal not in own:
        raise LabelError(f"signal {signal!r} is no class{near_misses(signal, own)}; there are {shorten(own)}")
    if len(own) == 2 and signal == own[0]:
        raise LabelError(f"of two classes signal has label 1, which is {own[1]!r}; label {signal!r} with 1")
    looked_for = 1 if len(own) == 2 else own.index(signal) if signal is not None else 0
    return Classes(own, looked_for, one_against_rest, loss)
