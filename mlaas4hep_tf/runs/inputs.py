"""How the inputs of a run are distributed, by class, in the unit of their branches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from mlaas4hep_tf.reweight import classes_in
from mlaas4hep_tf.runs.config import RunConfig
from mlaas4hep_tf.specs import Specs
from mlaas4hep_tf.transforms.decode import denormalize

EVENTS = 2000  # of the test part that are looked at
SHOWN = 12  # branches
BINS = 30
CENTRAL = (0.005, 0.995)  # quantiles between which values are drawn

Floats = npt.NDArray[np.float64]


def distributions(
    config: RunConfig, specs: Specs, classes: Sequence[str], branches: Sequence[str]
) -> list[dict[str, Any]]:
    """Histograms of the first of these branches, of a sample of the test events.

    Args:
        config: of the run; what its model takes makes no difference.
        specs: of its files.
        classes: their names; none where a number is told, and then all events are one class.
        branches: the most interesting one first.

    Returns:
        For each branch ``branch``, ``edges`` and ``content``: sums of weights in bins, by class.
    """
    ds = replace(config, layout="vector", image=None).dataset(specs, mask=True)
    test = config.parts(ds)["test"]
    parts = [
        (x["vector"].numpy(), x["mask"].numpy(), classes_in(y).numpy() if classes else np.zeros(len(x["mask"])),
         w[0].numpy() if w else np.ones(len(x["mask"])))
        for x, y, *w in test.sample(min(EVENTS, test.entries)).in_order()
    ]  # fmt: skip
    vector, mask, labels, weights = (np.concatenate(one) for one in zip(*parts, strict=True))
    values = denormalize(vector, mask, test.preprocessor)
    columns = test.preprocessor.columns
    for branch in specs.branches:
        if np.dtype(branch.dtype or "float32").kind in "biu":  # whole again, whatever normalisation has rounded
            values[:, columns[branch.name]] = np.rint(values[:, columns[branch.name]])
    shown = [name for name in branches if name in columns][:SHOWN]
    return [
        {"branch": name, **histograms(values[:, columns[name]], labels, weights, max(len(classes), 1))}
        for name in shown
        if np.isfinite(values[:, columns[name]]).any()
    ]


def histograms(values: Floats, labels: Floats, weights: Floats, classes: int) -> dict[str, Any]:
    """Edges, and sums of weights by class; of a list every object counts with the weight of its event.

    Args:
        values: [n, L], NaN where there is none; some are finite.
        labels, weights: [n].
        classes: how many there are.
    """
    real = np.isfinite(values)
    edges = _edges(values[real])
    each = np.broadcast_to(weights[:, None], values.shape)
    own = [real & (labels == label)[:, None] for label in range(classes)]
    content = [np.histogram(values[one], edges, weights=each[one])[0].tolist() for one in own]
    return {"edges": edges.tolist(), "content": content}


def _edges(values: Floats) -> Floats:
    """A bin for each whole number, if there are few of them, else equal ones that leave out the ends of the tails."""
    low, high = np.quantile(values, CENTRAL)
    if (values == np.rint(values)).all() and high - low < BINS:
        return np.arange(low.round() - 0.5, high.round() + 1)
    return np.linspace(low, high if high > low else low + 1, BINS + 1)
