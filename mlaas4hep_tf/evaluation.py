"""How well a model does its task on one dataset: events in, figures with uncertainties out; no Keras.

All figures are weighted, and weights may be negative, as those of NLO generators are.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt

from mlaas4hep_tf.errors import need
from mlaas4hep_tf.tasks import BINARY, SCORE, VALUE, Classes, Regression

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

EFFICIENCIES = (0.3, 0.5, 0.7)  # of signal, at which the rejection of background is told
REPLICAS = 100  # of the bootstrap


@dataclass(frozen=True)
class Rejection:
    """How many events of background there are for one that passes a cut.

    Attributes:
        efficiency: of signal, at that cut.
        value: 1 / (efficiency of background); None where no background passes.
        error: standard deviation in a bootstrap of the events; None without a value, or where some replicas have none.
    """

    efficiency: float
    value: float | None
    error: float | None


class _Judged(ABC):
    """Events of which each is told rightly or not."""

    labels: FloatArray
    weights: FloatArray

    @property
    @abstractmethod
    def auc(self) -> float | None: ...

    @property
    @abstractmethod
    def auc_error(self) -> float | None: ...

    def __repr__(self) -> str:
        area = "" if self.auc is None else f"AUC {self.auc:.4f} ± {self.auc_error:.4f}, "
        right = f"accuracy {self.accuracy:.4f} ± {self.accuracy_error:.4f}"
        return f"<{type(self).__name__} of {len(self.labels):,} events: {area}{right}>"

    @property
    @abstractmethod
    def _right(self) -> BoolArray: ...

    @property
    def accuracy(self) -> float:
        """Weighted fraction of events that are told rightly."""
        return float(np.average(self._right, weights=self.weights))

    @property
    def accuracy_error(self) -> float:
        """Standard error of the accuracy, sqrt(sum of w^2 (right - accuracy)^2) / sum of w."""
        return _error_of_mean(self._right, self.weights)


@dataclass(frozen=True, repr=False)
class Evaluation(_Judged):
    """How well a model tells two classes apart on one dataset.

    Attributes:
        labels, scores, weights: per event, float64 [n]; label 1 is signal.
        classes: their names.
    """

    labels: FloatArray
    scores: FloatArray
    weights: FloatArray
    classes: Classes = BINARY

    @cached_property
    def auc(self) -> float | None:
        """Area under the ROC curve; None where a class is missing."""
        if len(np.unique(self.labels)) < 2:
            return None
        false, true = self.roc()
        return float(np.trapezoid(true, false))

    @cached_property
    def auc_error(self) -> float | None:
        """Standard error of the AUC (E. DeLong, D. DeLong and D. Clarke-Pearson, Biometrics 44, 1988), with weights."""
        return None if self.auc is None else float(np.sqrt(np.sum(self.influence() ** 2)))

    def influence(self) -> FloatArray:
        """What each event adds to the deviation of the AUC from its expectation, float64 [n].

        For signal it is w / sum(w) (share of background below it - AUC), for background the same the other way round;
        the factor sqrt(n / (n - 1)) with n = sum(w)^2 / sum(w^2) makes the sum of squares DeLong's where weights are 1.
        """
        signal, found = self.labels > 0.5, np.zeros(len(self.labels))
        for own, sign in ((signal, 1), (~signal, -1)):
            other = ~own
            below = _share_below(self.scores[other], self.weights[other], self.scores[own])
            placed = below if sign > 0 else 1 - below
            weights = self.weights[own]
            total, squares = weights.sum(), np.square(weights).sum()
            effective = total**2 / squares
            correction = np.sqrt(effective / (effective - 1)) if effective > 1 else 0.0
            found[own] = weights / total * (placed - (self.auc or 0.0)) * correction
        return found

    @property
    def _right(self) -> BoolArray:
        """Events on the right side of 0.5."""
        right: BoolArray = (self.scores > 0.5) == (self.labels > 0.5)
        return right

    def roc(self) -> tuple[FloatArray, FloatArray]:
        """Background and signal efficiency along the ROC curve, from (0, 0) to (1, 1).

        Weights may be negative, as those of NLO generators are (scikit-learn refuses them).
        """
        return self._roc(self.weights)

    def _roc(self, weights: FloatArray) -> tuple[FloatArray, FloatArray]:
        order, last = self._sorted
        signal = np.where(self.labels[order] > 0.5, weights[order], 0.0)
        passed = np.cumsum(np.stack([weights[order] - signal, signal]), axis=1)[:, last]
        with np.errstate(invalid="ignore", divide="ignore"):  # a class without events, or in a replica
            false, true = np.concatenate([np.zeros((2, 1)), passed / passed[:, -1:]], axis=1)
        return false, true

    @cached_property
    def _sorted(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Events by falling score, and the last of each distinct one."""
        order = np.argsort(-self.scores, kind="stable")
        return order, np.append(np.flatnonzero(np.diff(self.scores[order])), len(order) - 1)

    def rejections(
        self, efficiencies: Sequence[float] = EFFICIENCIES, *, replicas: int = REPLICAS
    ) -> tuple[Rejection, ...]:
        """Rejection of background at these efficiencies of signal, with errors from a bootstrap of the events.

        In a replica every event comes n times, n drawn from a Poisson distribution of mean 1 (always the same draws).
        Between two points of the ROC curve efficiencies are interpolated.
        """
        if self.auc is None:
            return ()
        rng = np.random.default_rng(0)
        whole = _rejected(*self.roc(), efficiencies)
        drawn = np.array(
            [
                _rejected(*self._roc(self.weights * rng.poisson(1.0, len(self.weights))), efficiencies)
                for _ in range(replicas)
            ]
        )
        with np.errstate(invalid="ignore"):  # of replicas in which no background passes
            spread = np.std(drawn, axis=0, ddof=1)
        return tuple(
            Rejection(
                efficiency, *((float(v), float(s) if np.isfinite(s) else None) if np.isfinite(v) else (None, None))
            )
            for efficiency, v, s in zip(efficiencies, whole, spread, strict=True)
        )

    def of_class(self, label: float) -> FloatArray:
        """Scores of the events with this label."""
        chosen: FloatArray = self.scores[self.labels == label]
        return chosen

    def weights_of_class(self, label: float) -> FloatArray:
        """Weights of the events with this label, in the same order."""
        chosen: FloatArray = self.weights[self.labels == label]
        return chosen

    def summary(self) -> dict[str, Any]:
        return _numbers(self.weights) | {
            "auc": self.auc, "auc_error": self.auc_error, "accuracy": self.accuracy,
            "accuracy_error": self.accuracy_error, "rejection": _as_dict(self.rejections()),
        }  # fmt: skip


@dataclass(frozen=True, repr=False)
class ClassEvaluation(_Judged):
    """How well a model tells K > 2 classes apart on one dataset.

    Attributes:
        labels: per event, float64 [n], 0 to K - 1.
        scores: a probability for each class, float64 [n, K].
        weights: float64 [n].
        classes: their names.
    """

    labels: FloatArray
    scores: FloatArray
    weights: FloatArray
    classes: Classes

    def against_rest(self, label: int) -> Evaluation:
        """One class against all others, by its probability."""
        return Evaluation((self.labels == label).astype(np.float64), self.scores[:, label], self.weights)

    def pair(self, signal: int, background: int) -> Evaluation:
        """One class against one other, by the discriminant p_a / (p_a + p_b) on the events of the two."""
        chosen = (self.labels == signal) | (self.labels == background)
        return Evaluation(
            (self.labels[chosen] == signal).astype(np.float64),
            discriminant(self.scores[chosen, signal], self.scores[chosen, background]), self.weights[chosen],
        )  # fmt: skip

    @cached_property
    def confusion(self) -> FloatArray:
        """Weighted events of each class (row) that are told to be of each class (column), float64 [K, K]."""
        found = np.zeros(self.scores.shape[1:] * 2)
        np.add.at(found, (self.labels.astype(int), np.argmax(self.scores, axis=1)), self.weights)
        return found

    @property
    def _right(self) -> BoolArray:
        """Events whose most probable class is theirs."""
        right: BoolArray = np.argmax(self.scores, axis=1) == self.labels.astype(int)
        return right

    @cached_property
    def present(self) -> tuple[int, ...]:
        """Labels that there are events of."""
        return tuple(int(label) for label in np.unique(self.labels))

    @cached_property
    def auc(self) -> float | None:
        """Mean of the areas of one class against the rest, over the classes that there are; None for one alone."""
        areas = [self.against_rest(label).auc for label in self.present]
        return None if len(areas) < 2 else float(np.mean(np.array(areas, np.float64)))

    @cached_property
    def auc_error(self) -> float | None:
        """Standard error of that mean, by DeLong: the curves are of the same events."""
        return None if self.auc is None else float(np.sqrt(np.sum(self.influence() ** 2)))

    def influence(self) -> FloatArray:
        """What each event adds to the deviation of that mean from its expectation, float64 [n]."""
        mean: FloatArray = np.mean([self.against_rest(label).influence() for label in self.present], axis=0)
        return mean

    def of_class(self, label: float) -> FloatArray:
        """Probabilities of their own class for the events with this label."""
        chosen: FloatArray = self.scores[self.labels == label, int(label)]
        return chosen

    def summary(self) -> dict[str, Any]:
        names = self.classes.names
        pairs = combinations([label for label in self.classes.signal_first if label in self.present], 2)
        return _numbers(self.weights) | {
            "auc": self.auc, "auc_error": self.auc_error, "accuracy": self.accuracy,
            "accuracy_error": self.accuracy_error,
            "classes": {names[label]: _separation(self.against_rest(label)) for label in self.present},
            "pairs": {f"{names[a]}/{names[b]}": _separation(self.pair(a, b)) for a, b in pairs},
            "confusion": self.confusion.tolist(),
        }  # fmt: skip


@dataclass(frozen=True, repr=False)
class RegressionEvaluation:
    """How well a model tells a number on one dataset.

    Attributes:
        labels: the truth, float64 [n].
        scores: what the model tells, float64 [n, outputs].
        weights: float64 [n].
        regression: target and quantiles.
    """

    labels: FloatArray
    scores: FloatArray
    weights: FloatArray
    regression: Regression

    def __repr__(self) -> str:
        figures = f"bias {self.bias:.4g}, rmse {self.rmse:.4g}, resolution {self.resolution:.4g}"
        return f"<RegressionEvaluation of {len(self.labels):,} events: {figures}>"

    @cached_property
    def residuals(self) -> FloatArray:
        """Told - true, float64 [n]; of quantiles the one next to the median."""
        missed: FloatArray = self.scores[:, self.regression.central] - self.labels
        return missed

    @property
    def bias(self) -> float:
        """Weighted mean of the residuals."""
        return float(np.average(self.residuals, weights=self.weights))

    @property
    def rmse(self) -> float:
        """Square root of the weighted mean of the squared residuals."""
        return float(np.sqrt(np.average(np.square(self.residuals), weights=self.weights)))

    @property
    def resolution(self) -> float:
        """Half the width of the central 68.3 % of the residuals."""
        return half_width(self.residuals, self.weights)

    def profile(self, bins: int = 10) -> list[Profile]:
        """Bias and resolution in bins of the truth that have as many events each."""
        edges = np.unique(np.quantile(self.labels, np.linspace(0, 1, bins + 1)))
        at = np.clip(np.searchsorted(edges, self.labels, side="right") - 1, 0, max(len(edges) - 2, 0))
        found = []
        for number in np.unique(at):
            own = at == number
            missed, weights = self.residuals[own], self.weights[own]
            middle = float(np.average(self.labels[own], weights=weights))
            bias = float(np.average(missed, weights=weights))
            found.append(Profile(middle, bias, _error_of_mean(missed, weights), half_width(missed, weights)))
        return found

    def summary(self) -> dict[str, Any]:
        told = _numbers(self.weights) | {
            "bias": self.bias, "bias_error": _error_of_mean(self.residuals, self.weights),
            "rmse": self.rmse, "resolution": self.resolution,
            "mae": float(np.average(np.abs(self.residuals), weights=self.weights)),
        }  # fmt: skip
        below = self.labels[:, np.newaxis] <= self.scores
        held = {f"{q:g}": float(np.average(below[:, n], weights=self.weights))
                for n, q in enumerate(self.regression.quantiles)}  # fmt: skip
        return told | ({"below": held} if held else {})


@dataclass(frozen=True)
class Profile:
    """Residuals in one bin of the truth.

    Attributes:
        truth: its weighted mean.
        bias, bias_error: weighted mean of the residuals, and its standard error.
        resolution: half the width of their central 68.3 %.
    """

    truth: float
    bias: float
    bias_error: float
    resolution: float


Judged = Evaluation | ClassEvaluation | RegressionEvaluation


@dataclass(frozen=True, repr=False)
class HeadsEvaluation:
    """How well a model with several outputs does on one dataset.

    Attributes:
        by_output: name of the output -> how well it does, in the order of the task.
    """

    by_output: Mapping[str, Judged]

    def __repr__(self) -> str:
        return f"<HeadsEvaluation {', '.join(f'{name}: {one!r}' for name, one in self.by_output.items())}>"

    def summary(self) -> dict[str, Any]:
        """Figures of the first output, as if it were the only one, and of each under ``outputs``."""
        found = {name: one.summary() for name, one in self.by_output.items()}
        return {**next(iter(found.values())), "outputs": found}


Evaluated = Judged | HeadsEvaluation


def by_output(result: Evaluated) -> Mapping[str, Judged]:
    """What each output does, by its name."""
    if isinstance(result, HeadsEvaluation):
        return result.by_output
    return {VALUE if isinstance(result, RegressionEvaluation) else SCORE: result}


def first(result: Evaluated) -> Judged:
    """What the first output does, by which models are compared."""
    return next(iter(by_output(result).values()))


def half_width(values: FloatArray, weights: FloatArray) -> float:
    """Half the width of the central 68.3 % of weighted values, one standard deviation where they are normal."""
    order = np.argsort(values)
    share = (np.cumsum(weights[order]) - weights[order] / 2) / weights.sum()
    low, high = np.interp([0.15865, 0.84135], share, values[order])
    return float(high - low) / 2


def discriminant(signal: FloatArray, background: FloatArray) -> FloatArray:
    """p_a / (p_a + p_b), and a half where both are 0."""
    total = signal + background
    share: FloatArray = np.divide(signal, total, out=np.full(len(total), 0.5), where=total > 0)
    return share


def _separation(one: Evaluation) -> dict[str, Any]:
    signal = int(np.count_nonzero(one.labels > 0.5))
    return {"events": signal, "auc": one.auc, "auc_error": one.auc_error, "rejection": _as_dict(one.rejections())}


def _as_dict(rejections: Sequence[Rejection]) -> dict[str, dict[str, float | None]]:
    return {f"{one.efficiency:g}": {"value": one.value, "error": one.error} for one in rejections}


def _share_below(values: FloatArray, weights: FloatArray, of: FloatArray) -> FloatArray:
    """Weighted share of `values` below each number of `of`; of equal ones a half."""
    order = np.argsort(values)
    summed = np.concatenate([[0.0], np.cumsum(weights[order])])
    at = (summed[np.searchsorted(values[order], of, side)] for side in ("left", "right"))
    share: FloatArray = sum(at, np.zeros(len(of))) / 2 / summed[-1]
    return share


def _rejected(false: FloatArray, true: FloatArray, efficiencies: Sequence[float]) -> FloatArray:
    """1 / (background efficiency) where the ROC curve first reaches each signal efficiency; infinite if that is 0."""
    found = np.full(len(efficiencies), np.inf)
    for number, efficiency in enumerate(efficiencies):
        at = int(np.argmax(true >= efficiency))
        if not true[at] >= efficiency:
            continue
        share = (efficiency - true[at - 1]) / (true[at] - true[at - 1]) if at else 0.0
        passing = false[at - 1] + share * (false[at] - false[at - 1]) if at else false[0]
        found[number] = 1 / passing if passing > 0 else np.inf
    return found


def _numbers(weights: FloatArray) -> dict[str, Any]:
    """How many events there are, their weight, and how many without weights would tell a mean as well."""
    total = float(weights.sum())
    return {
        "events": len(weights), "sum_of_weights": total,
        "effective_events": total**2 / float(np.square(weights).sum()),
    }  # fmt: skip


def _error_of_mean(values: npt.NDArray[Any], weights: FloatArray) -> float:
    mean = np.average(values, weights=weights)
    return float(np.sqrt(np.sum(np.square(weights * (values - mean)))) / abs(weights.sum()))


@dataclass(frozen=True)
class OverTraining:
    """Two-sample Kolmogorov-Smirnov test of the scores of one class in training and test, unweighted.

    Attributes:
        distance: largest difference of the two cumulative distributions.
        p_value: chance of at least this distance if the model had learnt nothing of single training events.
    """

    distance: float
    p_value: float


def over_training(train: Evaluated, test: Evaluated) -> dict[str, OverTraining]:
    """Compare training with test for each class, by name, signal first; a class without events is left out.

    Raises:
        MissingExtra: scipy, of the extra ``report``, is not installed.
    """
    need("report", "scipy", purpose="checks of over-training")
    from scipy.stats import ks_2samp  # an extra

    a, b = first(train), first(test)
    if isinstance(a, RegressionEvaluation) or isinstance(b, RegressionEvaluation):
        return {}
    found = {}
    for label in a.classes.signal_first:
        own = a.of_class(label), b.of_class(label)
        if all(map(len, own)):
            result = ks_2samp(*own, method="asymp")
            found[a.classes.names[label]] = OverTraining(float(result.statistic), float(result.pvalue))
    return found
