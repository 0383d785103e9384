"""Losses and metrics of tasks, by hand and against scikit-learn."""

import keras
import numpy as np
import pytest
from sklearn.metrics import log_loss, roc_auc_score

from mlaas4hep_tf import heads
from mlaas4hep_tf.errors import ModelError
from mlaas4hep_tf.tasks import SIGNAL_OR_NOT, Classes, Regression, Task

THREE = Task(Classes(("a", "b", "c"), signal=0))
AGAINST_REST = Task(Classes(("a", "b", "c"), signal=0, one_against_rest=True))


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    raw = rng.uniform(0.1, 1, (200, 3)).astype("f4")
    return rng.integers(0, 3, 200).astype("i4"), raw / raw.sum(axis=1, keepdims=True), rng.uniform(0.5, 2, 200)


def test_cross_entropy_of_classes(batch):
    labels, scores, weights = batch
    loss = heads.losses(THREE)(labels, scores, sample_weight=weights)
    assert float(loss) == pytest.approx(log_loss(labels, scores, sample_weight=weights) * weights.mean(), rel=1e-4)


def test_cross_entropy_of_one_against_rest(batch):
    labels, scores, _ = batch
    each = [log_loss(labels == k, scores[:, k]) for k in range(3)]
    assert float(heads.losses(AGAINST_REST)(labels, scores)) == pytest.approx(np.mean(each), rel=1e-4)


def test_focal_loss_cares_less_for_what_is_right():
    told = np.array([[0.9, 0.05, 0.05]], "f4")  # -(1 - p)^2 log p, with alpha = 1/4
    loss = heads.losses(Task(Classes(("a", "b", "c"), signal=0, loss="focal")))(np.array([0]), told)
    assert float(loss) == pytest.approx(-0.25 * 0.1**2 * np.log(0.9), rel=1e-3)


def test_the_metric_is_the_mean_area_of_one_against_the_rest(batch):
    labels, scores, weights = batch
    auc, _ = heads.metrics(THREE)
    auc.update_state(labels, scores, sample_weight=weights)
    wanted = roc_auc_score(labels, scores, multi_class="ovr", sample_weight=weights)
    assert float(auc.result()) == pytest.approx(wanted, abs=0.01)  # Keras has 200 thresholds
    assert type(auc).from_config(auc.get_config()).classes == 3


@pytest.mark.parametrize(("task", "sums_to_1"), [(THREE, True), (AGAINST_REST, False)])
def test_last_layers(task, sums_to_1):
    x = keras.Input((4,))
    model = keras.Model(x, heads.outputs(x, task))
    scores = np.asarray(model(np.random.default_rng(0).normal(size=(5, 4)).astype("f4")))
    assert scores.shape == (5, 3)
    assert np.allclose(scores.sum(axis=1), 1, atol=1e-5) == sums_to_1
    heads.check(model, task)
    assert heads.output_name(model) == "score"
    with pytest.raises(ModelError, match="the probability of signal against background"):
        heads.check(model, SIGNAL_OR_NOT)


TRUTH, TOLD = np.array([1.0, 2, 3, 10]), np.array([[1.5], [2], [5], [4]], "f4")  # residuals over 2: .25, 0, 1, -3


@pytest.mark.parametrize(
    ("loss", "wanted"),
    [
        ("mse", (0.25**2 + 1 + 9) / 4),
        ("mae", (0.25 + 1 + 3) / 4),
        ("huber", (0.25**2 / 2 + 0.5 + 2.5) / 4),
    ],
)
def test_losses_of_a_number_go_by_its_scale(loss, wanted):
    task = Task(Regression("ht", 100, 2, loss))
    assert float(heads.losses(task)(TRUTH, TOLD)) == pytest.approx(wanted)


def test_the_quantile_loss_is_least_at_the_quantile():
    truth = np.random.default_rng(0).exponential(size=2000)
    loss = heads.losses(Task(Regression("ht", 0, 1, "quantile", (0.2, 0.9))))
    grid = np.linspace(0, 4, 161)
    for number, q in enumerate((0.2, 0.9)):
        others = [0.5, 0.5]
        found = []
        for value in grid:
            others[number] = value
            found.append(float(loss(truth, np.tile(np.array(others, "f4"), (2000, 1)))))
        assert grid[np.argmin(found)] == pytest.approx(np.quantile(truth, q), abs=0.03)


def test_the_last_layer_is_in_the_unit_of_the_target():
    task = Task(Regression("ht", 500.0, 40.0))
    x = keras.Input((3,))
    model = keras.Model(x, heads.outputs(x, task))
    own = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    own = heads.in_unit_of_target(own, task)
    data = np.random.default_rng(0).normal(size=(5, 3)).astype("f4")
    for one in (model, own):
        kernel, bias = one.layers[1].get_weights()
        assert np.asarray(one(data)) == pytest.approx((data @ kernel + bias) * 40 + 500, rel=1e-5)
        assert heads.output_name(one) == "value"
    with pytest.raises(ModelError, match="the task needs .*: ht"):
        heads.check(keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]), task)
