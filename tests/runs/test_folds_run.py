"""A run of folds from files to the served model: each event is scored by the model that has not seen it."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf
import uproot
from helpers.streams import quiet_scan
from sklearn.metrics import roc_auc_score

from mlaas4hep_tf import RootDataset, export
from mlaas4hep_tf.drawing import Folds, HoldOut
from mlaas4hep_tf.errors import ConfigError, ModelError
from mlaas4hep_tf.predict import predict_files
from mlaas4hep_tf.reweighting import Reweight
from mlaas4hep_tf.runs import RunConfig, folds, run, train_run
from mlaas4hep_tf.runs.folds import PREDICTIONS, FoldedRun, train_folds
from mlaas4hep_tf.runs.io_test import look
from mlaas4hep_tf.testing import make_events, write_tree
from mlaas4hep_tf.train import predict_batch
from mlaas4hep_tf.transforms.image_axes import Axis

NAMES, SIZE = ("one", "two", "three"), 300


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder, made = tmp_path_factory.mktemp("files"), []
    for n, name in enumerate(NAMES):
        events = make_events(SIZE, seed=n)
        del events["id"]
        events["x"] = events["x"] + np.float32(n)
        events["event"] = np.arange(SIZE * n, SIZE * (n + 1), dtype=np.int64)
        made.append(str(write_tree(folder / f"{name}.root", events)))
    return made


@pytest.fixture(scope="module")
def specs(files):
    return quiet_scan(files)


def config(files, **options):
    labels = {f"*{name}.root": name for name in NAMES}
    return RunConfig(tuple(files), labels, epochs=1, batch_size=64, **options)


@pytest.fixture(scope="module")
def folded(files, specs, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "can_report", lambda: False)  # of the folds; the report of all is drawn
        return train_folds(config(files, folds=Folds(3, "event % 3")), specs, tmp_path_factory.mktemp("run") / "folds")


@pytest.fixture(scope="module")
def predictions(folded):
    return uproot.open(folded.folder / PREDICTIONS)["events"].arrays(library="np")


def all_scores(folded, files):
    """What each model says of every event in the order of the files, [events, folds, classes]."""
    made = folded.preprocessor
    ds = RootDataset(files, made.specs, normalize=made.normalize, shuffle=False, batch_size=SIZE)
    return np.concatenate([np.stack([predict_batch(one.model, x) for one in folded.runs], 1) for x in ds])


def test_predictions_are_those_of_the_model_that_has_not_seen_the_event(folded, files, predictions):
    every = np.arange(3 * SIZE)
    assert predictions["event"].tolist() == every.tolist()
    assert predictions["fold"].tolist() == (every % 3).tolist()
    own = all_scores(folded, files)[every, every % 3]
    for n, name in enumerate(NAMES):
        np.testing.assert_allclose(predictions[f"score_{name}"], own[:, n], atol=1e-6)


def test_the_figures_of_all_folds_are_those_of_the_predictions(folded, predictions):
    test = folded.metrics["parts"]["test"]
    assert test["events"] == 3 * SIZE
    assert test["composition"] == {"0": SIZE, "1": SIZE, "2": SIZE}
    truth = np.repeat(np.arange(3), SIZE)
    for n, name in enumerate(NAMES):
        want = roc_auc_score(truth == n, predictions[f"score_{name}"])
        assert test["classes"][name]["auc"] == pytest.approx(want, abs=1e-6)
    assert [fold["test"]["events"] for fold in folded.metrics["folds"]] == [SIZE] * 3
    report = (folded.folder / "report.html").read_text()
    assert "3 models together, folds by event % 3: test events are told by the model that has not seen them" in report


def test_the_folder_is_read_again_and_applied_to_other_files(folded, files, tmp_path):
    again = FoldedRun.load(folded.folder)
    assert again.metrics == json.loads(json.dumps(folded.metrics))
    events = predict_files(again.model, files[1:2], again, tmp_path / "scores.root")
    assert events == SIZE
    some = uproot.open(tmp_path / "scores.root")["events"].arrays(library="np")
    assert (some["fold"] == np.arange(SIZE, 2 * SIZE) % 3).all()
    with pytest.raises(ConfigError, match="no complete run of folds"):
        FoldedRun.load(folded.folder / "fold_0")


def test_the_exported_model_chooses_the_fold_or_takes_the_mean(folded, files, predictions, tmp_path):
    export(folded.model, folded, tmp_path / "own" / "1")
    export(folded.model, folded, tmp_path / "mean" / "1", folds="mean")
    arrays = uproot.open(files[1])["events"].arrays()
    longest = max(map(len, arrays["Jet_0"].to_list()))
    request = {
        name: np.array([one + [np.nan] * (longest - len(one)) for one in arrays[name].to_list()], np.float32)
        for name in ("Jet_0", "Jet_1")
    } | {name: arrays[name].to_numpy().astype(np.float32) for name in ("x", "nJet")}
    request = {name: tf.constant(values) for name, values in request.items()}
    own = tf.saved_model.load(str(tmp_path / "own" / "1")).signatures["serving_default"]
    served = own(**request, event=tf.constant(arrays["event"].to_numpy()))["score"].numpy()
    want = np.stack([predictions[f"score_{name}"][SIZE : 2 * SIZE] for name in NAMES], axis=1)
    np.testing.assert_allclose(served, want, atol=1e-6)
    mean = tf.saved_model.load(str(tmp_path / "mean" / "1")).signatures["serving_default"]
    np.testing.assert_allclose(
        mean(**request)["score"].numpy(), all_scores(folded, files)[SIZE : 2 * SIZE].mean(axis=1), atol=1e-6
    )
    card = json.loads((tmp_path / "own" / "1" / "assets.extra" / "model_card.json").read_text())
    assert card["inputs"]["event"] == "event"
    assert card["folds"] == {"models": 3, "told": "own", "how": "folds by event % 3"}


def test_a_run_of_folds_that_was_killed_goes_on(folded, specs, tmp_path, monkeypatch):
    for module in (run, folds):
        monkeypatch.setattr(module, "can_report", lambda: False)
    place = tmp_path / "folds"
    shutil.copytree(folded.folder, place)
    (place / "metrics.json").unlink()
    (place / "fold_2" / "metrics.json").unlink()
    done = [(place / f"fold_{n}" / "model.keras").stat().st_mtime_ns for n in range(3)]
    again = train_folds(folded.config, specs, place, resume=True)
    assert again.metrics["parts"]["test"]["auc"] == folded.metrics["parts"]["test"]["auc"]
    now = [(place / f"fold_{n}" / "model.keras").stat().st_mtime_ns for n in range(3)]
    assert [a == b for a, b in zip(done, now, strict=True)] == [True, True, False]


def test_what_no_fold_has_is_told_by_the_mean_of_all_models(folded, files):
    held = replace(folded.config, hold_out=HoldOut(by="event % 5 == 0"))
    found, composition = folds.held_out_results(folded, held)
    assert composition == {"0": SIZE / 5, "1": SIZE / 5, "2": SIZE / 5}
    mean = all_scores(folded, files).mean(axis=1)[np.arange(3 * SIZE) % 5 == 0]
    truth = np.repeat(np.arange(3), SIZE // 5)
    want = np.mean([roc_auc_score(truth == n, mean[:, n]) for n in range(3)])
    assert found["held out"].summary()["auc"] == pytest.approx(want, abs=1e-6)


def test_folds_that_an_event_does_not_tell_are_not_exported(folded, tmp_path):
    by_entry = Folds(3, "entries").draw(folded.preprocessor.specs)
    with pytest.raises(ModelError, match="--folds mean"):
        export(type(folded.model)(folded.model.models, by_entry), folded, tmp_path / "own" / "1")


def test_what_is_held_out_is_the_test_and_training_may_be_reweighted(files, specs, tmp_path, monkeypatch):
    monkeypatch.setattr(run, "can_report", lambda: False)
    reweight = Reweight((Axis("x", 4, -2, 4),), to="one")
    given = config(files, hold_out=HoldOut(by="event % 5 == 0"), reweight=reweight)
    done = train_run(given, specs, tmp_path / "run")
    parts = done.metrics["parts"]
    assert parts["test"]["composition"] == {"0": SIZE / 5, "1": SIZE / 5, "2": SIZE / 5}
    assert parts["train"]["events"] + parts["validation"]["events"] == 3 * SIZE * 4 / 5
    assert RunConfig.from_json(json.loads((tmp_path / "run" / "config.json").read_text())).reweight == reweight
    found = done.metrics["reweighted"]["branches"]["x"]
    after = np.array(found["after"])
    both = (np.array(found["before"])[0] > 0) & (after[1] > 0)
    shares = after[:2, both] / after[:2, both].sum(axis=1, keepdims=True)
    np.testing.assert_allclose(shares[0], shares[1], rtol=1e-6)


def test_two_batches_are_looked_at(files, specs):
    looked = look(config(files), specs)
    assert looked.classes == NAMES
    assert sum(looked.events) == 128
    x = next(one for one in looked.inputs if one.name == "x")
    assert (x.shape, x.real) == ((64, 1), 1.0)
    assert (np.diff(np.array([-1e-9, x.min, x.mean, x.max, 1 + 1e-9], float)) > 0).all()
    assert [sum(histogram) for histogram in x.histograms] == pytest.approx([1, 1, 1])


def test_a_run_says_what_its_parts_are_once(files):
    for options, why in (
        ({"folds": Folds(3), "split": (0.5, 0.5)}, "no split beside"),
        ({"hold_out": HoldOut(0.2), "split": (0.6, 0.2, 0.2)}, "in two"),
        ({"split": (0.8, 0.2)}, "in three"),
        ({"folds": Folds(3), "fold": 3}, "fold must be"),
    ):
        with pytest.raises(ConfigError, match=why):
            config(files, **options)
