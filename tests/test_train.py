"""Training and evaluation: weights, the best model, AUC against an independent count."""

import gc
import weakref
from time import sleep

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import assume, example, given
from hypothesis import strategies as st

from mlaas4hep_tf import RootDataset, scan
from mlaas4hep_tf.errors import LabelError, ModelError
from mlaas4hep_tf.models import build
from mlaas4hep_tf.testing import make_events, write_files, write_tree
from mlaas4hep_tf.train import (
    Evaluation,
    InputWait,
    balanced_weights,
    evaluate,
    fit,
    predict_batch,
    weigh_classes,
)


@pytest.fixture
def data(tmp_path):
    files = write_files(tmp_path, [150, 100], basket=50)
    return files, scan(files, progress=False)


def test_weights_reach_the_loss(data):
    files, specs = data
    model = build("mlp", specs)
    weights = {"*f000*": 0.25, "*": 3}
    weighted = RootDataset(files, specs, labels=[1, 0], weights=weights, batch_size=250, shuffle=False)
    x, y, w = next(iter(weighted))
    score = np.asarray(model(x))[:, 0].astype(np.float64)
    entropy = -np.where(y == 1, np.log(score), np.log1p(-score))
    loss = model.evaluate(weighted, verbose=0, return_dict=True)["loss"]
    assert w.numpy().tolist() == [0.25] * 150 + [3.0] * 100
    assert loss == pytest.approx((entropy * w.numpy()).mean(), rel=1e-4)
    plain = RootDataset(files, specs, labels=[1, 0], batch_size=250, shuffle=False)
    assert model.evaluate(plain, verbose=0, return_dict=True)["loss"] == pytest.approx(entropy.mean(), rel=1e-4)


def test_class_weights_reach_the_loss(data):
    files, specs = data
    ds = RootDataset(files, specs, labels=[1, 0], batch_size=250, shuffle=False)
    events = {"*f000*": 0.5, "*": 2}  # event weights
    weighted = RootDataset(files, specs, labels=[1, 0], weights=events, batch_size=250, shuffle=False)
    (_, y, w), *_ = weigh_classes(ds, {1: 3, 0: 0.25})
    assert w.numpy().tolist() == [3.0] * 150 + [0.25] * 100
    assert y.numpy().tolist() == [1.0] * 150 + [0.0] * 100
    (_, _, both), *_ = weigh_classes(weighted, {1: 3, 0: 0.25})
    assert both.numpy().tolist() == [1.5] * 150 + [0.5] * 100
    model = build("mlp", specs)
    entropy = (model.evaluate(part, verbose=0)[0] for part in (weighted, weigh_classes(ds, {1: 0.5, 0: 2})))
    assert next(entropy) == pytest.approx(next(entropy), rel=1e-6)


def test_derived_datasets_are_trained_on_and_evaluated(data):
    files, specs = data
    ds = RootDataset(files, specs, labels=[1, 0], batch_size=50)
    model = build("mlp", specs)
    derived = ds.map(lambda x, y: (x * 2, y))
    done = fit(model, derived, derived.take(2), epochs=2)
    assert len(done.history["val_loss"]) == 2
    assert done.composition == ()
    assert done.events_per_s > 0
    some = evaluate(model, ds.take(3))
    assert len(some.labels) == 150
    whole = evaluate(model, ds)
    assert np.isin(some.scores.round(4), whole.scores.round(4)).mean() > 0.9  # up to rounding: other neighbours
    with pytest.raises(LabelError, match="class weights need a RootDataset"):
        fit(model, derived, class_weights="balanced")


@given(st.dictionaries(st.integers(0, 5).map(float), st.integers(1, 10**6), min_size=1))
def test_balanced_classes_have_the_same_total_weight(composition):
    weights = balanced_weights(composition)
    totals = [weights[label] * events for label, events in composition.items()]
    assert totals == pytest.approx([sum(composition.values()) / len(composition)] * len(composition))


def test_balanced_weights_follow_the_mixing_law(data):
    files, specs = data
    ds = RootDataset(files, specs, labels=[1, 0], batch_size=50)
    assert balanced_weights(ds.composition()) == {0.0: 250 / 200, 1.0: 250 / 300}
    assert balanced_weights(ds.mixed("equal").composition()) == {0.0: 1.0, 1.0: 1.0}
    total = sum(float(w.numpy()[y.numpy() == 1].sum()) for _, y, w in weigh_classes(ds, "balanced"))
    assert total == pytest.approx(125, rel=1e-5)


@pytest.mark.parametrize(
    ("options", "weights", "says"),
    [
        ({}, "balanced", "need labels"),
        ({"labels": [1, 0]}, "fair", "not 'fair'"),
        ({"labels": "x"}, "balanced", "'balanced' where labels are given per file"),
        ({"labels": [1, 0]}, {1: 2}, r"must be a finite number per label; \{1: 2\} is not for labels \[0.0, 1.0\]"),
        ({"labels": [1, 0]}, {1: 2, 0: float("nan")}, "must be a finite number"),
    ],
)
def test_class_weights_that_make_no_sense(tmp_path, options, weights, says):
    files = write_files(tmp_path, [30, 20])
    specs = scan(files, labels="x", progress=False)
    with pytest.raises(LabelError, match=says):
        weigh_classes(RootDataset(files, specs, **options), weights)


def test_a_label_of_an_event_without_a_class_weight_ends_the_training(tmp_path):
    path = write_tree(tmp_path / "t.root", make_events(40) | {"kind": np.arange(40, dtype="i4") % 3})
    ds = RootDataset(path, scan(path, labels="kind", progress=False), labels="kind")
    with pytest.raises(tf.errors.InvalidArgumentError, match="a label has no class weight"):
        list(weigh_classes(ds, {0: 1, 1: 2}))


def test_the_composition_of_every_epoch_is_told(data):
    files, specs = data
    train, valid = RootDataset(files, specs, labels=[1, 0], batch_size=50).split(0.8, 0.2)
    first, second = (f.url for f in train.files)
    assert fit(build("mlp", specs), train, valid, epochs=2).composition == ({first: 120, second: 80},) * 2
    equal = fit(build("mlp", specs), train.mixed("equal"), valid, epochs=2, class_weights="balanced")
    assert equal.composition == ({first: 100, second: 100},) * 2


def test_the_best_epoch_is_kept_and_training_stops(tmp_path):
    coin = np.random.default_rng(0).integers(0, 2, 400).astype("f4")  # labels that nothing can predict
    path = write_tree(tmp_path / "t.root", make_events(400) | {"coin": coin})
    specs = scan(path, labels="coin", progress=False)
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((len(specs.vector_names),)), keras.layers.Dense(1, activation="sigmoid")])
    model.compile(loss="binary_crossentropy", optimizer=keras.optimizers.SGD(50.0))  # a rate that must diverge
    train, valid = RootDataset(path, specs, labels="coin", batch_size=50).split(0.7, 0.3)
    done = fit(model, train, valid, epochs=20, out=tmp_path / "run", patience=2)
    losses = done.history["val_loss"]
    assert len(losses) < 20
    assert len(losses) - 1 - int(np.argmin(losses)) == 2
    assert model.evaluate(valid, verbose=0) == pytest.approx(min(losses), rel=1e-5)
    saved = keras.models.load_model(tmp_path / "run" / "model.keras")
    assert saved.evaluate(valid, verbose=0) == pytest.approx(min(losses), rel=1e-5)
    assert (tmp_path / "run" / "history.csv").is_file()
    assert any((tmp_path / "run" / "tensorboard").rglob("events*"))


def test_a_training_goes_on_without_a_callback_that_keeps_nothing(data, tmp_path):
    files, specs = data
    ds = RootDataset(files, specs, labels=[1, 0], batch_size=50)
    nan = keras.callbacks.TerminateOnNaN()
    kept = {"checkpoint": tmp_path / "training.ckpt", "resume": True}
    fit(build("mlp", specs), ds, epochs=1, callbacks=[nan], **kept)
    assert len(fit(build("mlp", specs), ds, epochs=2, **kept).history["loss"]) == 2


def test_waiting_for_input_is_told_from_computing():
    def waits(reading, computing, **compile_options):
        def batches():
            for _ in range(6):
                sleep(reading)
                yield np.zeros((4, 2), "f4"), np.zeros(4, "f4")

        spec = (tf.TensorSpec((4, 2), tf.float32), tf.TensorSpec((4,), tf.float32))
        model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        model.compile(loss="mse", **compile_options)
        slow = keras.callbacks.LambdaCallback(on_train_batch_begin=lambda *_, **__: sleep(computing))
        wait = InputWait()
        options = tf.data.Options()
        options.autotune.enabled = False  # or the end of an epoch waits, as `pipeline` says
        ds = wait.watch(tf.data.Dataset.from_generator(batches, output_signature=spec).with_options(options))
        history = model.fit(ds, epochs=3, verbose=0, shuffle=False, callbacks=[slow, wait]).history["input_wait"]
        assert all(0 <= share <= 1 for share in history)
        return min(history)  # building the graph and garbage collection count as waiting, in some of the epochs

    starved, fed = waits(0.05, 0), waits(0, 0.05)
    assert fed < 0.5 < starved
    assert 0 < waits(0.05, 0, steps_per_execution=2) <= 1


def test_the_same_seed_trains_the_same_model(data):
    files, specs = data

    def weights():
        keras.utils.set_random_seed(7)
        model = build("mlp", specs)
        fit(model, RootDataset(files, specs, labels=[1, 0], batch_size=50, seed=7), epochs=2)
        return model.get_weights()

    for a, b in zip(weights(), weights(), strict=True):
        assert np.array_equal(a, b)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 9), st.sampled_from([1, 2, 5, -0.5])), min_size=1, max_size=40))
@example([(False, 1, 1), (True, 0, 1), (True, 2, -0.5)])  # an AUC of 2
def test_auc_is_the_chance_that_signal_scores_higher(events):
    labels, scores, weights = (np.array(column, float) for column in zip(*events, strict=True))
    for value in {*labels}:
        assume(abs(weights[labels == value].sum()) > 1e-9)  # or there would be an efficiency of nothing
    result = Evaluation(labels, scores, weights)
    pairs = [
        (w1 * w0, (s1 > s0) + 0.5 * (s1 == s0))
        for l1, s1, w1 in zip(labels, scores, weights, strict=True)
        for l0, s0, w0 in zip(labels, scores, weights, strict=True)
        if l1 and not l0
    ]
    if not pairs:
        assert result.auc is None
        assert result.auc_error is None
    else:
        weight, wins = np.array(pairs).T
        assert result.auc == pytest.approx((wins * weight).sum() / weight.sum())
        assert result.auc_error is not None and result.auc_error >= 0


def test_evaluation_needs_two_classes_of_labels(data):
    files, specs = data
    model = build("mlp", specs)
    with pytest.raises(LabelError, match="needs labels"):
        evaluate(model, RootDataset(files, specs))
    with pytest.raises(
        LabelError, match=r"labels are expected to be 0 for background, 1 for signal; there are \[0.0, 3.0\]"
    ):
        evaluate(model, RootDataset(files, specs, labels=[3, 0]))


def test_models_that_cannot_be_evaluated(data):
    files, specs = data
    ds = RootDataset(files, specs, labels=[1, 0])
    two = keras.Sequential([keras.Input((len(specs.vector_names),)), keras.layers.Dense(2)])
    with pytest.raises(ModelError, match="this one has 2"):
        evaluate(two, ds)
    lost = keras.Sequential([keras.Input((len(specs.vector_names),)), keras.layers.Dense(1)])
    lost.set_weights([np.full(w.shape, np.nan) for w in lost.get_weights()])
    with pytest.raises(ModelError, match="not finite"):
        evaluate(lost, ds)


def test_a_model_that_predicts_follows_its_weights_and_goes_with_its_last_user():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, use_bias=False)])
    x = np.array([[1.0, 2.0, 4.0]], np.float32)
    for weights in ([1.0, 1.0, 1.0], [0.5, 0.0, 2.0]):
        model.set_weights([np.array(weights, np.float32)[:, None]])
        assert predict_batch(model, x).tolist() == [[np.dot(weights, x[0])]]
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None
