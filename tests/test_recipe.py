"""Optimizers and schedules as a recipe says, by hand."""

import math

import keras
import numpy as np
import pytest

from mlaas4hep_tf import RootDataset, scan
from mlaas4hep_tf.errors import PlanError
from mlaas4hep_tf.models import build
from mlaas4hep_tf.optimizers import optimizer
from mlaas4hep_tf.recipe import Recipe
from mlaas4hep_tf.testing import write_files
from mlaas4hep_tf.train import fit


def rates(recipe, epochs, steps, at):
    made, found = optimizer(recipe, epochs=epochs, steps=steps), []
    for step in at:
        made.iterations.assign(step)
        found.append(float(made.learning_rate))
    return found


def test_cosine_with_a_warm_up():
    found = rates(Recipe(lr=0.1, schedule="cosine", warmup=0.5), 10, 20, [0, 4, 9, 10, 105, 200])
    assert found == pytest.approx([0.01, 0.05, 0.1, 0.1, 0.05, 0], abs=1e-7)  # half of 190 steps is a half


def test_one_cycle_rises_and_falls():
    found = rates(Recipe(lr=1.0, schedule="one-cycle"), 10, 10, [0, 15, 30, 65, 100])
    assert found == pytest.approx([0.04, 0.52, 1, (1 + 4e-6) / 2, 4e-6], rel=1e-4)
    short = rates(Recipe(lr=1.0, schedule="one-cycle", warmup=1), 10, 10, [0, 10])
    assert short == pytest.approx([0.04, 1])


def test_a_constant_rate_may_warm_up():
    assert rates(Recipe(lr=0.2, warmup=1), 3, 4, [0, 1, 3, 4, 11]) == pytest.approx([0.05, 0.1, 0.2, 0.2, 0.2])


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    files = write_files(tmp_path_factory.mktemp("data"), [150, 100], basket=50)
    specs = scan(files, progress=False)
    return specs, RootDataset(files, specs, labels=[1, 0], batch_size=50).split(0.8, 0.2)


def test_the_recipe_replaces_the_optimizer(data):
    specs, (train, valid) = data
    model = build("mlp", specs)
    done = fit(model, train, valid, epochs=2, recipe=Recipe("sgd", 0.5, "cosine", clip=1e-9))
    assert isinstance(model.optimizer, keras.optimizers.SGD)
    assert int(model.optimizer.iterations) == 8  # 200 events, 2 epochs
    assert float(model.optimizer.learning_rate) == pytest.approx(0, abs=1e-7)  # the cosine has ended
    assert "val_auc" in done.history  # metrics of the model stay
    before = model.get_weights()
    fit(model, train, valid, epochs=1, recipe=Recipe("sgd", 0.5, clip=1e-9))
    moved = math.sqrt(sum(float(np.square(a - b).sum()) for a, b in zip(model.get_weights(), before, strict=True)))
    assert 0 < moved < 4 * 0.5 * 1e-9 * 10 * 100  # four clipped steps with momentum, in float32


def test_a_plateau_halves_the_rate(data):
    specs, (train, valid) = data
    model = build("mlp", specs)
    # with clipped gradients nothing gets better, so after 2 epochs without it the rate is halved; then again
    fit(model, train, valid, epochs=6, recipe=Recipe("sgd", 0.5, "plateau", warmup=0.5, clip=1e-12, monitor="accuracy"))
    assert float(model.optimizer.learning_rate) == pytest.approx(0.125)


def test_the_best_epoch_is_that_of_the_monitor(data):
    specs, (train, valid) = data
    keras.utils.set_random_seed(0)
    model = build("mlp", specs)
    done = fit(model, train, valid, epochs=4, recipe=Recipe("sgd", 3.0, monitor="auc"))
    found = model.evaluate(valid, verbose=0, return_dict=True)["auc"]
    assert found == pytest.approx(max(done.history["val_auc"]), abs=1e-6)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"optimizer": "adm"}, r"one of adam, .* not 'adm' \(did you mean"),
        ({"schedule": "linear"}, "schedule must be one of constant, cosine, one-cycle, plateau, not 'linear'"),
        ({"lr": 0}, "positive number, not 0"),
        ({"clip": -1}, "positive norm, not -1"),
        ({"warmup": -1}, "0 epochs or more, not -1"),
        ({"precision": "int8"}, "float32, float16, bfloat16, not 'int8'"),
    ],
)
def test_recipes_that_make_no_sense(options, says):
    with pytest.raises(PlanError, match=says):
        Recipe(**options)
