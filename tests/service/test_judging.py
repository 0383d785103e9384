"""The paired test of two AUCs, against scikit-learn and a bootstrap."""

import numpy as np
import pytest

from mlaas4hep_tf.errors import LabelError
from mlaas4hep_tf.evaluation import Evaluation
from mlaas4hep_tf.runs.judging import paired


def test_the_difference_and_its_error():
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(3)
    labels = (rng.random(1500) < 0.4).astype(float)
    truth = labels + rng.normal(size=1500)
    scores = [truth + rng.normal(scale=s, size=1500) for s in (0.5, 0.9)]
    found = paired(*(Evaluation(labels, one, np.ones(1500)) for one in scores))
    aucs = [metrics.roc_auc_score(labels, one) for one in scores]
    assert (found.auc, found.champion_auc) == pytest.approx(aucs)
    assert found.difference == pytest.approx(aucs[0] - aucs[1])
    draws = []
    for _ in range(400):
        drawn = rng.integers(0, 1500, 1500)
        draws.append(np.subtract(*(metrics.roc_auc_score(labels[drawn], one[drawn]) for one in scores)))
    assert found.error == pytest.approx(np.std(draws), rel=0.15)


def test_other_events_are_not_compared():
    one, other = (Evaluation(np.array(labels), np.array([0.1, 0.9]), np.ones(2)) for labels in ([0.0, 1.0], [1.0, 0.0]))
    with pytest.raises(LabelError, match="on the same events"):
        paired(one, other)
    alone = Evaluation(np.ones(2), np.array([0.1, 0.9]), np.ones(2))
    with pytest.raises(LabelError, match="are of one class"):
        paired(alone, alone)
