"""A model as ONNX: onnxruntime gives TensorFlow's scores from the same raw branches."""

import json
import subprocess
import sys

import awkward as ak
import keras
import numpy as np
import pytest
import tensorflow as tf

from mlaas4hep_tf import export, onnx_files, scan
from mlaas4hep_tf.errors import DataWarning, ModelError
from mlaas4hep_tf.models import autoencoder, build, wants_mask
from mlaas4hep_tf.testing import write_tree
from mlaas4hep_tf.transforms.image import EtaPhiImage
from mlaas4hep_tf.transforms.vector import Preprocessor
from mlaas4hep_tf.trial_events import trial_events

IMAGE = EtaPhiImage("Jet_eta", "Jet_phi", ("Jet_pt",), bins=(4, 4))
MODELS = ["mlp", "set", "autoencoder", "cnn"]


@pytest.fixture(scope="module")
def specs(tmp_path_factory):
    """Two numbers and jets, of which some events have more than the model keeps."""
    rng = np.random.default_rng(3)
    counts = rng.integers(0, 6, 300)
    ranges = {"pt": (20, 500), "eta": (-2.5, 2.5), "phi": (-np.pi, np.pi), "mass": (1, 60), "btag": (0, 1)}
    jets = {name: rng.uniform(*span, counts.sum()).astype("f4") for name, span in ranges.items()}
    events = {
        "MET": rng.exponential(60, 300).astype("f4"), "ht": rng.exponential(300, 300).astype("f4"),
        "Jet": ak.zip({name: ak.unflatten(values, counts) for name, values in jets.items()}),
    }  # fmt: skip
    path = write_tree(tmp_path_factory.mktemp("onnx") / "t.root", events)
    return scan(path, progress=False).with_lengths(quantile=0.8)


def made(name, specs, normalize="minmax"):
    """A model of this name and its preprocessing."""
    keras.utils.set_random_seed(2)
    image = IMAGE if name == "cnn" else None
    model = autoencoder(specs) if name == "autoencoder" else build(name, specs, image=image)
    return model, Preprocessor(specs, normalize, image)


def exported(name, specs, path, **options):
    model, preprocessor = made(name, specs)
    return export(model, preprocessor, path, **options)


def answers(path, request):
    """Of onnxruntime alone; an input that the graph does not use is not one of the file's."""
    session = onnx_files.session(str(path))
    return session.run(["score"], {one.name: request[one.name] for one in session.get_inputs()})[0]


@pytest.mark.parametrize("name", MODELS)
def test_raw_branches_give_the_scores_of_training(name, specs, tmp_path):
    model, preprocessor = made(name, specs)
    folder = export(model, preprocessor, tmp_path / "onnx", format="onnx", card={"metrics": {"auc": 0.5}})
    assert sorted(path.name for path in folder.iterdir()) == [
        "model.onnx", "model_card.json", "model_ragged.onnx", "network.onnx",
    ]  # fmt: skip
    events = trial_events(specs, 500, seed=5)
    assert {np.isnan(v).any() and np.isposinf(v).any() and np.isneginf(v).any() for v in events.values.values()} == {
        True
    }
    assert all(own.min() == 0 and own.max() > specs.groups[group][0].length for group, own in events.counts.items())
    raw = preprocessor.from_branches({key: tf.constant(v) for key, v in events.padded().items()})
    ready = preprocessor.model_input(raw, mask=wants_mask(model))
    trained = model(ready, training=False).numpy()
    assert np.isfinite(trained).all()
    named = ready if isinstance(ready, dict) else {"image" if name == "cnn" else "vector": ready}
    requests = {
        "model": events.padded(), "model_ragged": events.ragged(),
        "network": {key: part.numpy() for key, part in named.items()},
    }  # fmt: skip
    for file, request in requests.items():
        assert np.abs(answers(folder / f"{file}.onnx", request) - trained).max() < 1e-5, file


def test_the_savedmodel_does_not_change_by_a_bit(specs, tmp_path):
    model, preprocessor = made("set", specs)
    before = export(model, preprocessor, tmp_path / "m" / "1")
    export(model, preprocessor, tmp_path / "onnx", format="onnx")
    after = export(model, preprocessor, tmp_path / "m" / "2")
    request = {name: tf.constant(values) for name, values in trial_events(specs, 500, seed=5).padded().items()}
    first, second = (
        tf.saved_model.load(str(one)).signatures["serving_default"](**request)["score"].numpy()
        for one in (before, after)
    )
    assert first.tobytes() == second.tobytes()


def test_the_card_is_in_each_file(specs, tmp_path):
    folder = exported("mlp", specs, tmp_path / "onnx", format="onnx", card={"metrics": {"auc": 0.5}})
    card = json.loads((folder / "model_card.json").read_text())
    assert card["metrics"] == {"auc": 0.5}
    assert card["version"] is None
    for path in folder.glob("*.onnx"):
        metadata = onnx_files.session(str(path)).get_modelmeta()
        assert json.loads(metadata.custom_metadata_map["model_card"]) == card
        assert metadata.producer_name == "mlaas4hep_tf"


def test_what_differs_is_not_written(specs, tmp_path, monkeypatch):
    def half_as_much(model, **_):
        from onnx import helper, numpy_helper

        found = original(model, **_)
        (output,) = found.graph.output
        found.graph.initializer.append(numpy_helper.from_array(np.array([1.0001], "f4"), "factor"))
        last = next(node for node in found.graph.node if output.name in node.output)
        last.output[list(last.output).index(output.name)] = "before"
        found.graph.node.append(helper.make_node("Mul", ["before", "factor"], [output.name]))
        return found

    original = onnx_files.converted
    monkeypatch.setattr(onnx_files, "converted", half_as_much)
    with pytest.raises(ModelError, match=r"model.onnx is not written: onnxruntime's score differs .* more than 1e-05"):
        exported("mlp", specs, tmp_path / "onnx", format="onnx")
    assert list(tmp_path.iterdir()) == []


def test_an_op_that_onnx_lacks(specs, tmp_path, monkeypatch):
    model, preprocessor = made("mlp", specs)
    original = Preprocessor.finish
    monkeypatch.setattr(Preprocessor, "finish", lambda self, vector: original(self, tf.math.igamma(vector, vector)))
    with pytest.warns(DataWarning, match=r"is not written, network.onnx is: ONNX has no counterpart of Igamma") as told:
        folder = export(model, preprocessor, tmp_path / "onnx", format="onnx")
    assert len(told) == 2
    assert sorted(path.name for path in folder.iterdir()) == ["model_card.json", "network.onnx"]


def test_a_network_that_onnx_lacks(specs, tmp_path):
    @keras.saving.register_keras_serializable()
    class Odd(keras.layers.Layer):
        def call(self, x):
            return tf.math.igamma(tf.abs(x), tf.abs(x))

    width = len(specs.vector_names)
    model = keras.Sequential([keras.Input((width,)), Odd(), keras.layers.Dense(1)])
    with (
        pytest.warns(DataWarning, match="no counterpart of Igamma"),
        pytest.raises(ModelError, match="the network cannot be written as ONNX: ONNX has no counterpart of Igamma"),
    ):
        export(model, Preprocessor(specs, None), tmp_path / "onnx", format="onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_network_that_onnxruntime_does_not_take(specs, tmp_path):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = build("set", specs)
    finally:
        keras.config.set_dtype_policy(before)
    with (
        pytest.warns(DataWarning, match="is not written, network.onnx is: onnxruntime does not take it"),
        pytest.raises(
            ModelError, match=r"the network cannot be written as ONNX: onnxruntime does not take it: .*bfloat16"
        ),
    ):
        export(model, Preprocessor(specs, "minmax"), tmp_path / "onnx", format="onnx")
    assert list(tmp_path.iterdir()) == []


def test_formats_that_there_are(specs, tmp_path):
    with pytest.raises(ModelError, match="a model is exported as 'savedmodel' or 'onnx', not 'tflite'"):
        exported("mlp", specs, tmp_path / "1", format="tflite")
    (tmp_path / "there").mkdir()
    with pytest.raises(ModelError, match="there exists already"):
        exported("mlp", specs, tmp_path / "there", format="onnx")


def test_the_difference_is_relative_beyond_one_and_nan_is_none():
    assert onnx_files.largest_difference(np.array([2000.01]), np.array([2000.0])) == pytest.approx(5e-6)
    assert onnx_files.largest_difference(np.array([0.25, np.nan]), np.array([0.5, np.nan])) == 0.25
    assert onnx_files.largest_difference(np.array([np.nan]), np.array([0.5])) == np.inf
    assert onnx_files.largest_difference(np.zeros(2), np.zeros(3)) == np.inf


def test_without_the_extra(specs, tmp_path):
    code = "import sys; sys.modules['tf2onnx'] = None; from mlaas4hep_tf.onnx_files import check_extra; check_extra()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100, check=False)
    assert done.stderr.endswith("need tf2onnx, not installed here; pip install 'mlaas4hep_tf[onnx]'\n")
