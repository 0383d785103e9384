"""Figures of an evaluation, against scikit-learn and by hand."""

import re

import numpy as np
import pytest
from sklearn.metrics import (
    accuracy_score,
    confusion_matrix,
    mean_absolute_error,
    roc_auc_score,
    roc_curve,
    root_mean_squared_error,
)

from mlaas4hep_tf.evaluation import ClassEvaluation, Evaluation, RegressionEvaluation, discriminant, over_training
from mlaas4hep_tf.tasks import Classes, Regression

CLASSES = Classes(("ttH", "tt", "QCD"), signal=0)


@pytest.fixture(scope="module")
def events():
    """Labels, probabilities and weights of 600 events of three classes."""
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 3, 600)
    raw = rng.exponential(size=(600, 3)) + 0.8 * np.eye(3)[labels]
    return labels.astype(float), raw / raw.sum(axis=1, keepdims=True), rng.uniform(0.2, 3, 600)


def test_classes_as_scikit_learn_tells_them(events):
    labels, scores, weights = events
    result = ClassEvaluation(labels, scores, weights, CLASSES)
    told = scores.argmax(axis=1)
    assert result.accuracy == pytest.approx(accuracy_score(labels, told, sample_weight=weights))
    assert result.confusion == pytest.approx(confusion_matrix(labels, told, sample_weight=weights))
    assert result.auc == pytest.approx(roc_auc_score(labels, scores, multi_class="ovr", sample_weight=weights))
    for label in range(3):
        wanted = roc_auc_score(labels == label, scores[:, label], sample_weight=weights)
        assert result.against_rest(label).auc == pytest.approx(wanted)


def test_figures_are_shown_and_no_arrays(events):
    labels, scores, weights = events
    result = ClassEvaluation(labels, scores, weights, CLASSES)
    assert repr(result).startswith("<ClassEvaluation of 600 events: AUC ")
    wanted = (result.auc, result.auc_error, result.accuracy, result.accuracy_error)
    assert [float(number) for number in re.findall(r"\d\.\d{4}", repr(result))] == pytest.approx(wanted, abs=5e-5)
    alone = Evaluation(np.ones(3), np.full(3, 0.6), np.ones(3))
    assert repr(alone) == "<Evaluation of 3 events: accuracy 1.0000 ± 0.0000>"
    number = RegressionEvaluation(
        np.zeros(2), np.array([[1.0], [3.0]]), np.ones(2), Regression("x", offset=0.0, scale=1.0)
    )
    assert repr(number).startswith("<RegressionEvaluation of 2 events: bias 2, rmse 2.236, resolution ")


def test_a_pair_is_judged_by_its_discriminant(events):
    labels, scores, weights = events
    result = ClassEvaluation(labels, scores, weights, CLASSES)
    two = labels != 1
    wanted = roc_auc_score(
        labels[two] == 0, scores[two, 0] / (scores[two, 0] + scores[two, 2]), sample_weight=weights[two]
    )
    assert result.pair(0, 2).auc == pytest.approx(wanted)
    assert discriminant(np.array([0.0, 1.0, 0.2]), np.array([0.0, 0.0, 0.6])).tolist() == pytest.approx([0.5, 1, 0.25])


def test_rejection_is_one_over_the_efficiency_of_background(events):
    labels, scores, weights = events
    one = ClassEvaluation(labels, scores, weights, CLASSES).against_rest(0)
    false, true, _ = roc_curve(labels == 0, scores[:, 0], sample_weight=weights, drop_intermediate=False)
    for told in one.rejections():
        assert told.value == pytest.approx(1 / np.interp(told.efficiency, true, false))
        assert told.value and told.error
        assert 0 < told.error < told.value / 2


def test_no_background_passes_a_cut():
    labels, scores = np.array([1.0] * 10 + [0.0] * 10), np.linspace(1, 0, 20)
    rejections = Evaluation(labels, scores, np.ones(20)).rejections()
    assert [(one.efficiency, one.value, one.error) for one in rejections] == [
        (0.3, None, None), (0.5, None, None), (0.7, None, None)
    ]  # fmt: skip


def test_the_error_of_the_auc_is_that_of_delong():
    # by hand: signal 0.8 0.6 0.3, background 0.7 0.4 0.2 0.1
    # share of background below each signal: 4/4, 3/4, 2/4; of signal above each background: 1/3, 2/3, 3/3, 3/3
    labels = np.array([1.0, 1, 1, 0, 0, 0, 0])
    result = Evaluation(labels, np.array([0.8, 0.6, 0.3, 0.7, 0.4, 0.2, 0.1]), np.ones(7))
    below, above = np.array([1, 0.75, 0.5]), np.array([1, 2, 3, 3]) / 3
    assert result.auc == pytest.approx(0.75)
    assert result.auc_error == pytest.approx(np.sqrt(below.var(ddof=1) / 3 + above.var(ddof=1) / 4))


def test_weights_stand_for_so_many_events_in_all_figures():
    rng = np.random.default_rng(2)
    labels, scores = rng.integers(0, 2, 50).astype(float), rng.normal(size=50).round(1)
    often = rng.integers(1, 4, 50)
    weighted = Evaluation(labels, scores, often.astype(float))
    repeated = Evaluation(labels.repeat(often), scores.repeat(often), np.ones(often.sum()))
    assert weighted.auc == pytest.approx(repeated.auc)
    assert weighted.accuracy == pytest.approx(repeated.accuracy)
    assert [r.value for r in weighted.rejections()] == pytest.approx([r.value for r in repeated.rejections()])


def test_the_errors_are_the_spread_of_repeated_experiments():
    rng = np.random.default_rng(3)

    def experiment():
        labels = rng.integers(0, 2, 400).astype(float)
        return Evaluation(labels, rng.normal(labels), rng.uniform(0.5, 1.5, 400))

    many = [experiment() for _ in range(200)]
    assert np.std([one.auc for one in many]) == pytest.approx(np.mean([one.auc_error for one in many]), rel=0.15)
    accurate = [(one.accuracy, one.accuracy_error) for one in many]
    assert np.std([a for a, _ in accurate]) == pytest.approx(np.mean([e for _, e in accurate]), rel=0.15)
    rejected = [one.rejections([0.5], replicas=50)[0] for one in many[:100]]
    assert np.std([r.value for r in rejected]) == pytest.approx(np.median([r.error for r in rejected]), rel=0.35)


def test_a_class_without_events_is_left_out():
    labels = np.array([0.0, 0, 2, 2])
    result = ClassEvaluation(
        labels, np.array([[0.6, 0.3, 0.1], [0.2, 0.5, 0.3], [0, 0, 1], [0.5, 0.3, 0.2]]), np.ones(4), CLASSES
    )
    told = result.summary()
    assert [*told["classes"]] == ["ttH", "QCD"]
    assert [*told["pairs"]] == ["ttH/QCD"]
    assert told["accuracy"] == 0.5
    assert {*over_training(result, result)} == {"ttH", "QCD"}


def test_residuals_of_a_number():
    rng = np.random.default_rng(4)
    truth, weights = rng.uniform(100, 200, 5000), rng.uniform(0.5, 2, 5000)
    told = truth + 3 + rng.normal(0, 10, 5000)
    result = RegressionEvaluation(truth, told[:, np.newaxis], weights, Regression("ht", 150, 30))
    summary = result.summary()
    assert summary["rmse"] == pytest.approx(root_mean_squared_error(truth, told, sample_weight=weights))
    assert summary["mae"] == pytest.approx(mean_absolute_error(truth, told, sample_weight=weights))
    assert summary["bias"] == pytest.approx(3, abs=4 * summary["bias_error"])
    assert summary["bias_error"] == pytest.approx(10 / np.sqrt(5000), rel=0.15)
    assert summary["resolution"] == pytest.approx(10, rel=0.05)  # a normal distribution's is its standard deviation
    profile = result.profile(5)
    assert [one.truth for one in profile] == pytest.approx([110, 130, 150, 170, 190], abs=2)
    assert all(abs(one.bias - 3) < 5 * one.bias_error for one in profile)


def test_how_many_events_lie_below_a_quantile():
    scores = np.array([[1.0, 2, 3], [1, 2, 3], [1, 2, 3], [1, 2, 3]])
    quantiles = Regression("ht", 0, 1, "quantile", (0.16, 0.5, 0.84))
    result = RegressionEvaluation(np.array([0.5, 1.5, 2.5, 9]), scores, np.array([1.0, 1, 1, 1]), quantiles)
    assert result.summary()["below"] == {"0.16": 0.25, "0.5": 0.5, "0.84": 0.75}
    assert result.residuals.tolist() == [1.5, 0.5, -0.5, -7]
