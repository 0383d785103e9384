"""Weights of training with which classes have the same distribution of some branches: flat, or that of one class."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from mlaas4hep_tf.dataset import RootDataset
from mlaas4hep_tf.errors import BranchError, LabelError, PlanError, near_misses
from mlaas4hep_tf.reweighting import Reweight
from mlaas4hep_tf.tasks import SCORE
from mlaas4hep_tf.transforms.vector import Preprocessor

FloatArray = npt.NDArray[np.float64]


def balanced_factors(histograms: FloatArray, reference: int | None, cap: float) -> FloatArray:
    """By what the weights of the events in each bin are multiplied, so that classes have one distribution.

    Each class keeps its sum of weights.  A bin whose sum is not positive has no factor: its events keep their weight.

    Args:
        histograms: sum of weights of each class and bin, [K, ...].
        reference: label of the class whose distribution all get; None: a flat one.
        cap: largest factor, before the sum of weights is restored.

    Returns:
        The factors, in the same form.
    """
    found = np.ones_like(histograms)
    for label, own in enumerate(histograms):
        there = own > 0
        if reference is not None:
            there &= histograms[reference] > 0
        if not there.any():
            continue
        wanted = np.ones_like(own) if reference is None else histograms[reference]
        total = own[there].sum()
        factor = np.minimum(wanted[there] / wanted[there].sum() * total / own[there], cap)
        found[label][there] = factor * total / (own[there] * factor).sum()
    return found


@dataclass(frozen=True)
class Reweighted:
    """The factors for the events of a training part, and the histograms that they were found from.

    Attributes:
        reweight: what was asked for.
        histograms: sum of weights of each class and bin before, float64 [K, bins of each branch ...].
        factors: by which they are multiplied.
        preprocessor: of the dataset.
    """

    reweight: Reweight
    histograms: FloatArray
    factors: FloatArray
    preprocessor: Preprocessor

    @property
    def achieved(self) -> FloatArray:
        """The histograms with the factors."""
        return self.histograms * self.factors

    def weigh(self, x: Any, y: Any, weight: tf.Tensor | None = None) -> Any:
        """A batch with the weights of its events multiplied; for ``ds.map``."""
        table = tf.constant(self.factors.reshape(-1), tf.float32)
        factor = tf.gather(table, _bin(self.reweight, self.preprocessor, x, y))
        return x, y, factor if weight is None else weight * factor

    def to_json(self) -> dict[str, Any]:
        """Edges, and per class the sums of weights in the bins of each branch, before and after."""
        return {
            "to": self.reweight.to,
            "cap": self.reweight.cap,
            "largest": float(self.factors.max()),
            "branches": {
                axis.branch: {
                    "edges": np.linspace(axis.low, axis.high, axis.bins + 1).tolist(),
                    "before": _projected(self.histograms, n).tolist(),
                    "after": _projected(self.achieved, n).tolist(),
                }
                for n, axis in enumerate(self.reweight.axes)
            },
        }


def _projected(histograms: FloatArray, axis: int) -> FloatArray:
    others = tuple(n for n in range(1, histograms.ndim) if n != axis + 1)
    summed: FloatArray = histograms.sum(axis=others)
    return summed


def fitted(reweight: Reweight, train: RootDataset, classes: Sequence[str]) -> Reweighted:
    """Find the factors in one pass over the training part, of which the histograms are kept.

    Raises:
        BranchError: a branch that is no flat feature.
        LabelError: a class to follow that there is not.
        PlanError: a dataset whose elements have no vector.
    """
    if reweight.to != "flat" and reweight.to not in classes:
        raise LabelError(f"reweighting to {reweight.to!r}{near_misses(reweight.to, classes)}: classes are {classes}")
    if not classes:
        raise LabelError("reweighting gives classes one distribution, and this run tells a number")
    preprocessor = train.preprocessor
    if preprocessor.image is not None:
        raise PlanError("reweighting reads branches of the vector: it is not for images")
    flat = [b.name for b in preprocessor.specs.flat]
    for axis in reweight.axes:
        if axis.branch not in flat:
            raise BranchError(
                f"reweighting needs a flat feature with a number per event, and {axis.branch!r} is none"
                f"{near_misses(axis.branch, flat)}; define one, for example leading=Jet_pt[0]"
            )
    shape = (len(classes), *(axis.bins for axis in reweight.axes))
    sums = np.zeros(math.prod(shape))
    for x, y, *w in train.in_order():
        weights = w[0].numpy().astype(np.float64) if w else None
        sums += np.bincount(_bin(reweight, preprocessor, x, y).numpy(), weights, minlength=len(sums))
    histograms = sums.reshape(shape)
    reference = None if reweight.to == "flat" else [*classes].index(reweight.to)
    return Reweighted(reweight, histograms, balanced_factors(histograms, reference, reweight.cap), preprocessor)


def classes_in(y: Any) -> Any:
    """The labels of classes among all that is told of a batch."""
    return y[SCORE] if isinstance(y, dict) else y


def _bin(reweight: Reweight, preprocessor: Preprocessor, x: Any, y: Any) -> tf.Tensor:
    """The number of each event's class and bin, int32 [B]; what lies outside is in the first or the last bin."""
    number = tf.cast(classes_in(y), tf.int32)
    for axis in reweight.axes:
        how = preprocessor.scaling.of_column(preprocessor.columns[axis.branch].start)
        value = preprocessor.flat_values(x, axis.branch) * how.scale + how.offset
        value = tf.exp(value) if how.log else tf.sigmoid(value) if how.logit else value
        place = tf.floor((value - axis.low) / (axis.high - axis.low) * axis.bins)
        number = number * axis.bins + tf.cast(tf.clip_by_value(place, 0, axis.bins - 1), tf.int32)
    return number
