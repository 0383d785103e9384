"""Models that take objects, columns or lists by name: trained, evaluated, predicted, exported and converted by command."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
import typer
import uproot
from helpers.streams import quiet_scan

from mlaas4hep_tf.cli.app import app
from mlaas4hep_tf.errors import ConfigError, ModelError
from mlaas4hep_tf.model_names import check_form
from mlaas4hep_tf.models import check_names
from mlaas4hep_tf.runs import RunConfig, run
from mlaas4hep_tf.testing import make_events, write_tree
from mlaas4hep_tf.transforms.vector import Preprocessor

SIZE = 300
COLUMNS = """
import keras

def model(shapes):
    inputs = {name: keras.Input(shape, name=name) for name, shape in shapes.items()}
    flat = keras.layers.Reshape((1,))
    parts = [one if len(one.shape) > 1 else flat(one) for one in inputs.values()]
    return keras.Model(inputs, keras.layers.Dense(1, "sigmoid")(keras.layers.Concatenate()(parts)))
"""
RAGGED = """
import keras
import tensorflow as tf

class Sum(keras.layers.Layer):
    def call(self, inputs):
        return tf.reduce_sum(inputs, axis=1, keepdims=True)

    def compute_output_spec(self, inputs):
        return keras.KerasTensor((None, 1), "float32")

def model(shapes):
    inputs = {name: keras.Input(shape, name=name, ragged=len(shape) > 0) for name, shape in shapes.items()}
    flat = keras.layers.Reshape((1,))
    parts = [Sum()(one) if len(one.shape) > 1 else flat(one) for one in inputs.values()]
    return keras.Model(inputs, keras.layers.Dense(1, "sigmoid")(keras.layers.Concatenate()(parts)))
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder with two files of events, specs and models of a user."""
    folder = tmp_path_factory.mktemp("layouts")
    for n, name in enumerate(("background", "signal")):
        events = make_events(SIZE, groups={"Jet": 2, "Muon": 1}, mean=2.0, seed=n)
        del events["id"]
        events["x"] = events["x"] + np.float32(n)
        events["x"][7] = np.nan
        write_tree(folder / f"{name}.root", events)
    files = [str(folder / "signal.root"), str(folder / "background.root")]
    quiet_scan(files, exclude=["nJet", "nMuon"]).save(folder / "specs.json")
    (folder / "columns.py").write_text(COLUMNS)
    (folder / "ragged.py").write_text(RAGGED)
    return folder


def by_command(*args):
    typer.main.get_command(app)(list(map(str, args)), standalone_mode=False)


def requests(file):
    """All events of a file as the two raw signatures take them, by hand."""
    events = uproot.open(file)["events"].arrays(library="ak")
    padded, ragged = {"x": np.asarray(events["x"])}, {"x": np.asarray(events["x"])}
    for group, names in (("Jet", ("Jet_0", "Jet_1")), ("Muon", ("Muon_0",))):
        counts = np.array([len(one) for one in events[names[0]]])
        ragged[f"n{group}_row_splits"] = np.concatenate([[0], np.cumsum(counts)])
        for name in names:
            lists = [list(one) for one in events[name]]
            padded[name] = np.array([one + [np.nan] * (counts.max() - len(one)) for one in lists], "f4")
            ragged[name] = np.array([value for one in lists for value in one], "f4")
    return padded, ragged


@pytest.mark.parametrize("layout", ["objects", "columns", "ragged"])
def test_what_is_trained_by_name_is_served(data, layout, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(run, "can_report", lambda: False)
    model = "set" if layout == "objects" else data / f"{layout}.py"
    files = [data / "background.root", data / "signal.root"]
    by_command(
        "train", *files, "--specs", data / "specs.json", "--label", "*signal*=1", "--label", "*=0", "--model", model,
        "--layout", layout, "--epochs", 2, "--batch-size", 50, "--lr", 0.01, "--out", tmp_path / "run",
    )  # fmt: skip
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["importance"][0]["branch"] == "x"
    by_command("predict", data / "signal.root", "--run", tmp_path / "run", "-o", tmp_path / "scores.root")
    scores = uproot.open(tmp_path / "scores.root")["events"]["score"].array(library="np")
    by_command("export", "--run", tmp_path / "run", "--to", tmp_path / "m")
    served = tf.saved_model.load(str(tmp_path / "m" / "1")).signatures
    assert layout in served
    for signature, request in zip(("serving_default", "ragged"), requests(data / "signal.root"), strict=True):
        answer = served[signature](**{name: tf.constant(values) for name, values in request.items()})
        assert answer["score"].numpy()[:, 0] == pytest.approx(scores, rel=1e-4), signature
    assert json.loads((tmp_path / "m" / "1.model_card.json").read_text())["layout"] == layout
    capsys.readouterr()
    by_command("evaluate", "--run", tmp_path / "run", "--json")
    again = json.loads(capsys.readouterr().out)
    assert again["test"]["auc"] == pytest.approx(metrics["parts"]["test"]["auc"])
    as_onnx = ("export", "--run", tmp_path / "run", "--to", tmp_path / "onnx", "--format", "onnx")
    if layout == "ragged":
        with pytest.raises(ModelError, match="ONNX has no ragged tensors"):
            by_command(*as_onnx)
    if layout == "objects":
        by_command(*as_onnx)
        names = {one.name for one in (tmp_path / "onnx").glob("*.onnx")}
        assert names == {"model.onnx", "model_ragged.onnx", "network.onnx"}


def test_models_that_do_not_take_a_layout(data):
    specs = quiet_scan(str(data / "signal.root"))
    with pytest.raises(ModelError, match="'mlp' takes vector, not objects"):
        check_form("mlp", image=False, form="objects")
    with pytest.raises(ConfigError, match="layout must be one of vector, columns, objects, ragged, not 'rows'"):
        RunConfig(("a.root",), [0], layout="rows")
    with pytest.raises(ModelError, match=r"the model takes .*, but layout='objects' gives .*'Jet_mask': \(None, \d+\)"):
        check_names(
            keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)]), Preprocessor(specs, None, form="objects")
        )
