"""The paired test of two AUCs, against scikit-learn and a bootstrap."""

import numpy as np
import pytest

from mlaas4hep_tf.errors import LabelError
from mlaas4hep_tf.evaluation import ClassEvaluation, Evaluation, RegressionEvaluation
from mlaas4hep_tf.runs.judging import paired
from mlaas4hep_tf.tasks import Classes, Regression


def test_the_difference_and_its_error():
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(3)
    labels = (rng.random(1500) < 0.4).astype(float)
    truth = labels + rng.normal(size=1500)
    scores = [truth + rng.normal(scale=s, size=1500) for s in (0.5, 0.9)]
    found = paired(*(Evaluation(labels, one, np.ones(1500)) for one in scores))
    aucs = [metrics.roc_auc_score(labels, one) for one in scores]
    assert (found.value, found.champion) == pytest.approx(aucs)
    assert found.difference == pytest.approx(aucs[0] - aucs[1])
    draws = []
    for _ in range(400):
        drawn = rng.integers(0, 1500, 1500)
        draws.append(np.subtract(*(metrics.roc_auc_score(labels[drawn], one[drawn]) for one in scores)))
    assert found.error == pytest.approx(np.std(draws), rel=0.15)


def bootstrapped(figure, labels, scores, draws=300):
    """The figure of both models, and the standard error of their difference, as scikit-learn tells them."""
    rng = np.random.default_rng(5)
    found = []
    for _ in range(draws):
        drawn = rng.integers(0, len(labels), len(labels))
        found.append(np.subtract(*(figure(labels[drawn], one[drawn]) for one in scores)))
    return [figure(labels, one) for one in scores], np.std(found)


def test_models_of_three_classes_are_held_to_their_mean_auc():
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(4)
    labels = rng.integers(0, 3, 1200)
    scores = [np.exp(s * np.eye(3)[labels] + rng.normal(size=(1200, 3))) for s in (1.6, 1.4)]
    scores = [np.asarray(one / one.sum(axis=1, keepdims=True), np.float64) for one in scores]
    found = paired(
        *(ClassEvaluation(labels.astype(np.float64), one, np.ones(1200), Classes(("a", "b", "c"))) for one in scores)
    )
    auc = lambda *given: metrics.roc_auc_score(*given, multi_class="ovr", average="macro")  # noqa: E731
    values, error = bootstrapped(auc, labels, scores, 200)
    assert (found.figure, found.value, found.champion) == ("AUC", *map(pytest.approx, values))
    assert found.error == pytest.approx(error, rel=0.2)


def test_models_that_tell_a_number_are_held_to_what_they_explain():
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(6)
    truth = rng.normal(50, 9, 1500)
    common = rng.normal(size=1500)
    scores = [truth + 3 * common + rng.normal(scale=s, size=1500) for s in (1.0, 2.0)]
    found = paired(
        *(RegressionEvaluation(truth, one[:, None], np.ones(1500), Regression("pt", 50.0, 9.0)) for one in scores)
    )
    values, error = bootstrapped(metrics.r2_score, truth, scores)
    assert (found.figure, found.value, found.champion) == ("R2", *map(pytest.approx, values))
    assert found.error == pytest.approx(error, rel=0.15)


def test_other_events_are_not_compared():
    one, other = (Evaluation(np.array(labels), np.array([0.1, 0.9]), np.ones(2)) for labels in ([0.0, 1.0], [1.0, 0.0]))
    with pytest.raises(LabelError, match="on the same events"):
        paired(one, other)
    told = RegressionEvaluation(np.zeros(2), np.zeros((2, 1)), np.ones(2), Regression("pt", 0.0, 1.0))
    with pytest.raises(LabelError, match="have one true value"):
        paired(told, told)
    alone = Evaluation(np.ones(2), np.array([0.1, 0.9]), np.ones(2))
    with pytest.raises(LabelError, match="are of one class"):
        paired(alone, alone)
