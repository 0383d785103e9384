"""What is trained is what is served."""

import json
import warnings

import awkward as ak
import keras
import numpy as np
import pytest
import tensorflow as tf
import uproot

from mlaas4hep_tf import RootDataset, export, scan
from mlaas4hep_tf.errors import DataWarning, ModelError
from mlaas4hep_tf.exporter import next_version, sample_request
from mlaas4hep_tf.models import build
from mlaas4hep_tf.testing import write_tree
from mlaas4hep_tf.train import predict_batch
from mlaas4hep_tf.transforms.vector import Preprocessor


@pytest.fixture(scope="module", params=["mlp", "set"])
def exported(request, demo_files, demo_specs, tmp_path_factory):
    """A model, its dataset in file order and its SavedModel."""
    specs = demo_specs.with_lengths(quantile=0.9)  # so that there is something to cut
    keras.utils.set_random_seed(1)
    model = build(request.param, specs)
    ds = RootDataset(
        demo_files[:2], specs, mask=request.param == "set", normalize="standard", shuffle=False, batch_size=700
    )
    path = export(model, ds, tmp_path_factory.mktemp("models") / request.param / "1", card={"metrics": {"auc": 0.5}})
    return model, ds, path, tf.saved_model.load(str(path))


def raw_events(ds):
    return uproot.concatenate([f.url + ":events" for f in ds.files])


def trained_scores(model, ds):
    return np.concatenate([predict_batch(model, x) for x in ds])


def padded(events, specs, extra=0):
    """A request to `serving_default`, made with awkward alone."""
    request = {}
    for b in specs.branches:
        values = events[b.name]
        if b.kind == "flat":
            request[b.name] = ak.to_numpy(values).astype("f4")
        else:
            width = int(ak.max(ak.num(values))) + extra
            request[b.name] = ak.to_numpy(ak.fill_none(ak.pad_none(values, width), np.nan)).astype("f4")
    return request


@pytest.mark.parametrize("extra", [0, 3])
def test_raw_branches_give_the_scores_of_training(exported, extra):
    model, ds, _, loaded = exported
    request = padded(raw_events(ds), ds.specs, extra)
    served = loaded.signatures["serving_default"](**{k: tf.constant(v) for k, v in request.items()})["score"]
    assert np.abs(served.numpy() - trained_scores(model, ds)).max() < 1e-6


def test_a_session_loads_it_as_tensorflow_serving_does(exported):
    model, ds, path, _ = exported
    request = padded(raw_events(ds), ds.specs)
    with tf.compat.v1.Session(graph=tf.Graph()) as session:
        signature = tf.compat.v1.saved_model.load(session, ["serve"], str(path)).signature_def["serving_default"]
        feeds = {signature.inputs[name].name: values for name, values in request.items()}
        served = session.run(signature.outputs["score"].name, feeds)
    assert np.abs(served - trained_scores(model, ds)).max() < 1e-6


def test_ragged_branches_give_the_scores_of_training(exported):
    model, ds, _, loaded = exported
    events = raw_events(ds)
    request = {}
    for b in ds.specs.branches:
        request[b.name] = tf.constant(ak.to_numpy(ak.flatten(events[b.name], axis=None)).astype("f4"))
    for group, members in ds.specs.groups.items():
        splits = np.concatenate([[0], np.cumsum(ak.num(events[members[0].name]))])
        request[group + "_row_splits"] = tf.constant(splits, tf.int64)
    served = loaded.signatures["ragged"](**request)["score"]
    assert np.abs(served.numpy() - trained_scores(model, ds)).max() < 1e-6


def test_the_ready_vector_gives_the_scores_of_training(exported):
    model, ds, _, loaded = exported
    x = next(iter(ds))
    inputs = x if isinstance(x, dict) else {"vector": x}
    served = loaded.signatures["vector"](**inputs)["score"]
    assert np.abs(served.numpy() - predict_batch(model, x)).max() < 1e-6


def test_signatures_in_full(exported):
    _, ds, path, loaded = exported
    signature = loaded.signatures["serving_default"].structured_input_signature[1]
    assert set(signature) == {b.name for b in ds.specs.branches}
    assert signature["ht"].shape.as_list() == [None]
    assert signature["Jet_pt"].shape.as_list() == [None, None]
    assert {s.dtype for s in signature.values()} == {tf.float32}
    assert path.name == "1"


def test_warmup_requests_and_model_card(exported):
    from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog

    model, ds, path, loaded = exported
    records = [
        PredictionLog.FromString(r.numpy())
        for r in tf.data.TFRecordDataset(str(path / "assets.extra" / "tf_serving_warmup_requests"))
    ]
    assert [len(tf.make_ndarray(r.predict_log.request.inputs["ht"])) for r in records] == [1, 8]
    for record in records:
        request = {k: tf.constant(tf.make_ndarray(v)) for k, v in record.predict_log.request.inputs.items()}
        assert np.isfinite(loaded.signatures["serving_default"](**request)["score"]).all()
    card = json.loads((path / "assets.extra" / "model_card.json").read_text())
    assert card["data"]["fingerprint"] == ds.specs.fingerprint == card["specs"]["fingerprint"]
    assert card["normalize"] == "standard"
    assert card["metrics"] == {"auc": 0.5}
    assert card["model"]["parameters"] == model.count_params()
    assert card == json.loads((path.parent / "1.model_card.json").read_text())


def test_versions_count_up_and_are_never_changed(exported, tmp_path):
    model, ds, path, _ = exported
    assert next_version(path.parent) == path.parent / "2"
    assert next_version(tmp_path / "none") == tmp_path / "none" / "1"
    with pytest.raises(ModelError, match="exists already"):
        export(model, ds, path)
    with pytest.raises(ModelError, match="integer version"):
        export(model, ds, tmp_path / "latest")
    narrow = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    with pytest.raises(ModelError, match="the data give a vector of"):
        export(narrow, ds, tmp_path / "1")
    assert list(tmp_path.iterdir()) == []


def test_missing_values_and_odd_names(tmp_path):
    branches = {
        "met.x": np.array([2, np.nan, np.inf, 4], "f4"),
        "Obj": ak.zip({"a": ak.Array([[], [5.0, -np.inf], [7.0], [9.0]])}),
        "fixed-size": np.arange(8, dtype="f4").reshape(4, 2),
        "_link": np.arange(4, dtype="f4"),  # as EDM4hep has them
        "2nd": np.arange(4, dtype="f4"),
    }
    path = write_tree(tmp_path / "t.root", branches)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        specs = scan(path, exclude="nObj", progress=False)
    model = build("mlp", specs)
    folder = export(model, Preprocessor(specs, "minmax"), tmp_path / "odd" / "7")
    request = {
        "met_x": tf.constant([2, np.nan, np.inf, 4.0]),
        "Obj_a": tf.constant([[np.nan, np.nan], [5, -np.inf], [7, np.nan], [9, np.nan]], tf.float32),
        "fixed_size": tf.constant(np.arange(8).reshape(4, 2), tf.float32),
        "x_link": tf.range(4.0),
        "x2nd": tf.range(4.0),
    }
    got = tf.saved_model.load(str(folder)).signatures["serving_default"](**request)["score"].numpy()
    want = np.concatenate([predict_batch(model, x) for x in RootDataset(path, specs, shuffle=False)])
    assert np.abs(got - want).max() < 1e-6
    inputs = json.loads((folder / "assets.extra" / "model_card.json").read_text())["inputs"]
    assert inputs == {"met.x": "met_x", "Obj_a": "Obj_a", "fixed-size": "fixed_size", "_link": "x_link", "2nd": "x2nd"}


def test_input_names_that_collide(tmp_path):
    path = write_tree(tmp_path / "t.root", {"a.b": np.arange(4, dtype="f4"), "a_b": np.arange(4, dtype="f4")})
    specs = scan(path, progress=False)
    with pytest.raises(ModelError, match="several branches would have the same input name a_b: 'a.b', 'a_b'"):
        export(build("mlp", specs), Preprocessor(specs, None), tmp_path / "m" / "1")


def test_a_branch_with_the_name_of_row_splits(tmp_path):
    jets = ak.zip({"pt": ak.values_astype(ak.Array([[1], [2, 3]]), "float32")})
    path = write_tree(tmp_path / "t.root", {"Jet": jets, "nJet_row_splits": np.arange(2, dtype="f4")})
    specs = scan(path, progress=False)
    with pytest.raises(ModelError, match="'nJet_row_splits' has the name of the input for the row splits of 'nJet'"):
        export(build("mlp", specs), Preprocessor(specs, None), tmp_path / "m" / "1")


def test_the_sample_request_has_every_branch(demo_specs):
    request = sample_request(demo_specs, 2)
    assert set(request) == {b.name for b in demo_specs.branches}
    assert request["Jet_pt"].shape == (2, 14)


def test_the_example_has_no_branch_that_was_left_out(tmp_path):
    path = write_tree(tmp_path / "t.root", {"x": np.arange(3, dtype="f4"), "one": np.ones(3, "f4")})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        specs = scan(path, progress=False).without_constant()
    folder = export(build("mlp", specs), Preprocessor(specs, "minmax"), tmp_path / "m" / "1")
    card = json.loads((folder / "assets.extra" / "model_card.json").read_text())
    assert card["example"].keys() == {"x"} == set(card["inputs"].values())


def test_specs_alone_do_not_say_how_values_were_normalised(exported, tmp_path):
    model, ds, _, _ = exported
    with pytest.raises(ModelError, match=r"Specs does not say how values were normalised: give the dataset, the run"):
        export(model, ds.specs, tmp_path / "m" / "1")
    assert list(tmp_path.iterdir()) == []


def test_a_preprocessor_says_it_as_the_dataset_does(exported, tmp_path):
    model, ds, _, _ = exported
    path = export(model, Preprocessor(ds.specs, "standard"), tmp_path / "m" / "1")
    request = {name: tf.constant(values) for name, values in padded(raw_events(ds), ds.specs).items()}
    served = tf.saved_model.load(str(path)).signatures["serving_default"](**request)["score"].numpy()
    assert np.abs(served - trained_scores(model, ds)).max() < 1e-6
