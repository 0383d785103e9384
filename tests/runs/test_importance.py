"""Permutation importance finds what the label depends on, and the over-training check what was learnt by heart."""

import keras
import numpy as np
import pytest

from mlaas4hep_tf import RootDataset, models, scan
from mlaas4hep_tf.errors import LabelError
from mlaas4hep_tf.layers import TakeColumns
from mlaas4hep_tf.runs.importance import permutation_importance
from mlaas4hep_tf.testing import make_events, write_tree
from mlaas4hep_tf.train import Evaluation, over_training


@pytest.mark.parametrize("mask", [False, True])
def test_the_branch_that_decides_is_the_most_important(tmp_path, mask):
    events = make_events(400)
    path = write_tree(tmp_path / "a.root", events | {"label": (events["x"] > 0).astype("f4")})
    specs = scan(path, exclude="id", labels="label", progress=False)
    ds = RootDataset(path, specs, labels="label", mask=mask, batch_size=64)
    width, place = len(specs.vector_names), specs.vector_names.index("x")
    vector = keras.Input((width,), name="vector")
    inputs, score = vector, TakeColumns([place])(vector)  # the score is x
    if mask:  # True for x in every event
        inputs = {"vector": vector, "mask": keras.Input((width,), name="mask", dtype="bool")}
        score = score * keras.ops.cast(TakeColumns([place])(inputs["mask"]), "float32")
    model = keras.Model(inputs, score)
    first, *others = permutation_importance(model, ds)
    assert first.branch == "x"
    assert first.loss == pytest.approx(0.5, abs=0.1)  # from an AUC of 1 to that of a coin
    assert first.spread < 0.1
    assert {one.branch: one.loss for one in others} == {b.name: 0 for b in specs.branches if b.name != "x"}


def test_one_class_says_nothing(tmp_path):
    path = write_tree(tmp_path / "a.root", make_events(50))
    specs = scan(path, progress=False)
    with pytest.raises(LabelError, match="several classes; the sample of 50 has one"):
        permutation_importance(models.build("mlp", specs), RootDataset(path, specs, labels=[1]))


def test_the_distance_is_that_of_the_cumulative_distributions():
    train = Evaluation(np.array([1, 1, 1, 1, 0.0]), np.array([0.1, 0.2, 0.3, 0.9, 0.5]), np.ones(5))
    test = Evaluation(np.array([1, 1.0]), np.array([0.4, 0.8]), np.ones(2))
    found = over_training(train, test)
    assert set(found) == {"signal"}  # the test part has no background
    assert found["signal"].distance == 0.75  # at 0.3: three of four against none


def test_over_training_shows_as_a_small_p():
    rng = np.random.default_rng(0)

    def part(shift):
        return Evaluation(np.ones(2000), rng.normal(shift, 1, 2000), np.ones(2000))

    assert over_training(part(0), part(0))["signal"].p_value > 0.01
    assert over_training(part(0), part(0.3))["signal"].p_value < 1e-6
