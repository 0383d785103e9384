"""What a run would give its model: two batches of the training part, looked at and not trained on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from mlaas4hep_tf.evaluation import FloatArray
from mlaas4hep_tf.reweight import classes_in
from mlaas4hep_tf.runs.config import RunConfig
from mlaas4hep_tf.runs.run import task_of
from mlaas4hep_tf.specs import Specs

BATCHES = 2
BINS = 12  # of a histogram, from the smallest value to the largest


@dataclass(frozen=True)
class Input:
    """One branch as the model gets it, over the events looked at.

    Attributes:
        name: of the branch.
        shape: of a batch.
        real: share of its values that are real, and neither padding nor missing.
        min, max, mean: of the real values, normalised; None without any.
        histograms: of the real values, by class in the order of the labels, each `BINS` shares of the class.
    """

    name: str
    shape: tuple[int, ...]
    real: float
    min: float | None
    max: float | None
    mean: float | None
    histograms: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Looked:
    """Two batches.

    Attributes:
        elements: name, shape and type of the tensors of a batch.
        classes: their names; of a regression there is one, all events.
        events: of each class that were looked at.
        inputs: branches, in the order of the specs.
    """

    elements: tuple[tuple[str, str, str], ...]
    classes: tuple[str, ...]
    events: tuple[int, ...]
    inputs: tuple[Input, ...]


def look(config: RunConfig, specs: Specs) -> Looked:
    """Read two batches of the training part.

    Raises:
        MlaasError: whatever is wrong with the data, as training would tell it.
    """
    given = config.dataset(specs, mask=False).elements() if config.layout != "vector" else None
    ds = replace(config, layout="vector").dataset(specs, mask=config.image is None)
    classes = task_of(config, ds.specs, ds.composition()).class_names or ("all events",)
    vectors, masks, labels = [], [], []
    train = config.parts(ds)["train"]
    for x, y, *_ in train.take(BATCHES):
        found = x if isinstance(x, dict) else {"vector": x, "mask": x == x}
        vectors.append(found["vector"].numpy())
        masks.append(found["mask"].numpy())
        labels.append(classes_in(y).numpy() if len(classes) > 1 else np.zeros(len(vectors[-1])))
    vector, mask, label = (np.concatenate(parts) for parts in (vectors, masks, labels))
    rows = min(len(label), config.batch_size)
    inputs = tuple(
        _input(name, rows, vector[..., place], mask[..., place], label, len(classes))
        for name, place in train.preprocessor.parts.items()
    )
    counts = tuple(int((label == n).sum()) for n in range(len(classes)))
    return Looked(tuple(given or train.elements()), classes, counts, inputs)


def _input(name: str, rows: int, values: FloatArray, mask: FloatArray, labels: FloatArray, classes: int) -> Input:
    shape = (rows, *values.shape[1:])
    real = values[mask]
    if not len(real):
        return Input(name, shape, 0.0, None, None, None, ())
    low, high = float(real.min()), float(real.max())
    edges = np.linspace(low, high if high > low else low + 1, BINS + 1)
    own = [values[labels == n][mask[labels == n]] for n in range(classes)]
    histograms = tuple(_shares(np.histogram(one, edges)[0]) for one in own)
    return Input(name, shape, float(mask.mean()), low, high, float(real.mean()), histograms)


def _shares(counts: npt.NDArray[Any]) -> tuple[float, ...]:
    return tuple((counts / max(counts.sum(), 1)).tolist())
