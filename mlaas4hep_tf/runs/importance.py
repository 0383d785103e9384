"""What a trained model looks at: permutation importance (L. Breiman, Random Forests, 2001)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from mlaas4hep_tf.dataset import RootDataset
from mlaas4hep_tf.errors import LabelError
from mlaas4hep_tf.evaluation import RegressionEvaluation, first
from mlaas4hep_tf.tasks import SIGNAL_OR_NOT, Task
from mlaas4hep_tf.train import judged, label_columns, predict_batch
from mlaas4hep_tf.transforms.vector import MASK_SUFFIX, Preprocessor

EVENTS = 2000  # of the sample whose values are shuffled
ROUNDS = 3


@dataclass(frozen=True)
class Importance:
    """How much AUC goes when the values of one branch are dealt out anew among the events.

    Attributes:
        branch: its name; all columns of a jagged branch, and their mask, move together.
        loss: mean loss of AUC over the rounds.
        spread: standard deviation between the rounds.
    """

    branch: str
    loss: float
    spread: float


def permutation_importance(
    model: keras.Model, ds: RootDataset, *, task: Task = SIGNAL_OR_NOT, events: int = EVENTS, rounds: int = ROUNDS,
    seed: int = 0,
) -> list[Importance]:  # fmt: skip
    """Importance of every branch, the greatest first.

    Branches that say the same stand in for each other: each of them alone then looks unimportant.

    Args:
        model: trained on such a dataset.
        ds: labelled events that the model has not seen; of an image each channel is a branch.
        task: what the model tells; of more than two classes it is the mean AUC of one against the rest that is lost,
            and of a number the root mean square of the residuals that is added; of several outputs the first counts.
        events: sample to use; its composition is that of the dataset.
        rounds: permutations per branch.
        seed: of the permutations.

    Raises:
        LabelError: a sample without both classes.
    """
    sample = ds.sample(min(events, ds.entries)).in_order()
    parts = list(sample)
    x = tf.nest.map_structure(lambda *tensors: tf.concat(tensors, axis=0), *(part[0] for part in parts))
    labels = np.concatenate([label_columns(part[1], (*task.outputs,)) for part in parts])
    weights = [part[2] if len(part) > 2 else np.ones(len(label_columns(part[1], (*task.outputs,)))) for part in parts]
    weight = np.concatenate(weights).astype(np.float64)
    whole = _quality(model, x, labels, weight, task)
    rng = np.random.default_rng(seed)
    found = []
    for branch, columns in ds.preprocessor.parts.items():
        if columns.stop == columns.start:
            continue
        moved = [_dealt(x, ds.preprocessor, branch, rng.permutation(len(labels))) for _ in range(rounds)]
        lost = [whole - _quality(model, one, labels, weight, task) for one in moved]
        found.append(Importance(branch, float(np.mean(lost)), float(np.std(lost))))
    return sorted(found, key=lambda one: -one.loss)


def _dealt(x: Any, preprocessor: Preprocessor, branch: str, order: Any) -> Any:
    """The same input with one branch dealt out anew among the rows."""
    if preprocessor.form in ("columns", "ragged"):
        return {**x, **{name: tf.gather(x[name], order) for name in (branch, branch + MASK_SUFFIX) if name in x}}
    if preprocessor.form == "objects":
        group, place = preprocessor.place_in_objects(branch)
        return {**x, group: _moved(x[group].numpy(), slice(place, place + 1), order)}
    return tf.nest.map_structure(lambda one: _moved(one.numpy(), preprocessor.parts[branch], order), x)


def _moved(matrix: Any, columns: slice, order: Any) -> Any:
    moved = matrix.copy()
    moved[..., columns] = matrix[..., columns][order]
    return tf.constant(moved)


def _quality(model: keras.Model, x: Any, labels: Any, weights: Any, task: Task) -> float:
    result = first(judged(labels, predict_batch(model, x, (*task.outputs,)), weights, task))
    if isinstance(result, RegressionEvaluation):
        return -result.rmse
    auc = result.auc
    if auc is None:
        raise LabelError(f"importance needs events of several classes; the sample of {len(labels)} has one")
    return auc
