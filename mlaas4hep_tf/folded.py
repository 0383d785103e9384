"""Models of folds, applied together: an event is told by the one that has not seen it, or by the mean of all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from mlaas4hep_tf.analysis.draws import Draw
from mlaas4hep_tf.evaluation import FloatArray
from mlaas4hep_tf.io.branches import BranchInfo
from mlaas4hep_tf.train import predict_batch


@dataclass(frozen=True)
class Folded:
    """A model for each fold, none of whose events it has seen.

    Attributes:
        models: by fold.
        draw: how the fold of an event is told.
        infos: the branches that this rests on.
    """

    models: tuple[keras.Model, ...]
    draw: Draw
    infos: tuple[BranchInfo, ...] = ()

    @property
    def first(self) -> keras.Model:
        """One of them, which all are like."""
        return self.models[0]

    def predict_batch(self, x: Any, outputs: Sequence[str] = ()) -> FloatArray:
        """What all models give for one batch (`train.predict_batch`), float64 [B, folds, numbers]."""
        return np.stack([predict_batch(model, x, outputs) for model in self.models], axis=1)

    def mean(self, x: Any, outputs: Sequence[str] = ()) -> FloatArray:
        """The mean of all models, float64 [B, numbers]."""
        found: FloatArray = self.predict_batch(x, outputs).mean(axis=1)
        return found


def chosen(scores: FloatArray, folds: Any) -> FloatArray:
    """Of scores [n, folds, outputs] those of each event's own fold, [n, outputs]."""
    found: FloatArray = scores[np.arange(len(scores)), folds]
    return found
