"""A model that tells classes and numbers: from the dataset to the served answer, by command too."""

import json
import urllib.request
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
import typer
import uproot
from helpers.streams import quiet_scan
from mlaas4hep_client import Client
from mlaas4hep_serving.options import Options
from mlaas4hep_serving.server import Server
from sklearn.metrics import mean_squared_error, roc_auc_score

from mlaas4hep_tf import RootDataset, heads
from mlaas4hep_tf.cli.app import app
from mlaas4hep_tf.errors import ConfigError, LabelError, ModelError
from mlaas4hep_tf.predict import predict_files
from mlaas4hep_tf.runs import RunConfig, run
from mlaas4hep_tf.runs.run import Run, evaluate_run, train_run
from mlaas4hep_tf.tasks import BINARY, Classes, Regression, Task, loss_of
from mlaas4hep_tf.testing import make_events, write_tree

NAMES, SIZE = ("one", "two", "three"), 200
TARGETS = ("y", "z")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder, made = tmp_path_factory.mktemp("files"), []
    for n, name in enumerate(NAMES):
        events = make_events(SIZE, seed=n)
        del events["id"]
        events["x"] = events["x"] + np.float32(n)
        events["y"] = (500 + 40 * events["x"]).astype("f4")
        events["z"] = (events["x"] ** 2).astype("f4")
        made.append(str(write_tree(folder / f"{name}.root", events)))
    return made


@pytest.fixture(scope="module")
def specs(files):
    return quiet_scan(files, targets=TARGETS)


def truth(files, branch):
    return np.concatenate([uproot.open(file)["events"][branch].array(library="np") for file in files])


def by_command(*args):
    typer.main.get_command(app)(list(map(str, args)), standalone_mode=False)


@pytest.fixture(scope="module")
def told(files, specs, tmp_path_factory):
    """A run by command, and the same one read again."""
    folder = tmp_path_factory.mktemp("run")
    specs.save(folder / "specs.json")
    labels = [part for name in NAMES for part in ("--label", f"*{name}.root={name}")]
    by_command(
        "train", *files, "--specs", folder / "specs.json", *labels, "--target", "y", "--target", "z", "--epochs", 2,
        "--batch-size", 20, "--loss", "z=quantile", "--loss", "y=huber", "--lr", 0.01, "--out", folder / "run",
    )  # fmt: skip
    return Run.load(folder / "run")


def test_a_batch_has_what_is_told_by_output(files, specs):
    ds = RootDataset(files, specs, labels={f"*{name}.root": name for name in NAMES}, targets=TARGETS, weights=[1, 2, 3])
    assert {name: part.dtype for name, part in ds.element_spec[1].items()} == {
        "score": tf.int32, "value_y": tf.float32, "value_z": tf.float32
    }  # fmt: skip
    found = [(y, w) for _, y, w in ds.in_order()]
    for name in TARGETS:
        got = np.concatenate([y[f"value_{name}"] for y, _ in found])
        assert np.array_equal(got, truth(files, name))
    assert np.array_equal(np.concatenate([y["score"] for y, _ in found]), np.repeat([0, 1, 2], SIZE))
    assert np.array_equal(np.concatenate([w for _, w in found]), np.repeat([1, 2, 3], SIZE))
    numbers = RootDataset(files, specs, targets=TARGETS)
    assert [*numbers.element_spec[1]] == ["value_y", "value_z"]
    assert RootDataset(files, specs, targets=("y",)).element_spec[1].shape.rank == 1
    with pytest.raises(LabelError, match="'y' is told twice"):
        RootDataset(files, specs, labels="y", targets=("y",))


def test_figures_are_those_of_each_output(files, told, tmp_path):
    figures = told.metrics["parts"]["test"]
    assert [*figures["outputs"]] == ["score", "value_y", "value_z"]
    assert figures["auc"] == figures["outputs"]["score"]["auc"]
    assert [*figures["outputs"]["value_z"]["below"]] == ["0.16", "0.5", "0.84"]
    (found,) = evaluate_run(told, tuple(files)).values()
    predict_files(told.model, files, told, tmp_path / "out.root")
    rows = uproot.open(tmp_path / "out.root")["events"].arrays(library="np")
    labels = np.repeat([0, 1, 2], SIZE)
    scores = np.stack([rows[f"score_{name}"] for name in NAMES], axis=1)
    area = np.mean([roc_auc_score(labels == n, scores[:, n]) for n in range(3)])
    summary = found.summary()
    assert summary["auc"] == pytest.approx(area, abs=1e-6)
    for column, output in (("predicted_y", "value_y"), ("predicted_z_q50", "value_z")):
        error = np.sqrt(mean_squared_error(truth(files, output[-1]), rows[column]))
        assert summary["outputs"][output]["rmse"] == pytest.approx(error, rel=1e-5)
    assert summary["outputs"]["value_y"]["rmse"] < 0.7 * truth(files, "y").std()
    report = (told.folder / "report.html").read_text()
    assert all(f'alt="{name}"' in report for name in ("roc", "residuals_value_y", "told_value_z"))
    assert all(f"How well it {what}" in report for what in ("separates", "tells y", "tells z"))


def test_all_outputs_are_served(files, told, tmp_path):
    by_command("export", "--run", told.folder, "--to", tmp_path / "m")
    by_command("export", "--run", told.folder, "--to", tmp_path / "onnx", "--format", "onnx")
    by_command("predict", *files, "--run", told.folder, "-o", tmp_path / "out.root")
    rows = uproot.open(tmp_path / "out.root")["events"].arrays(library="np")
    served = tf.saved_model.load(str(tmp_path / "m" / "1")).signatures["vector"]
    vector = next(iter(told.config.dataset(told.specs, mask=False).in_order()))[0]
    answer = served(vector=vector)
    assert sorted(answer) == ["score", "value_y", "value_z"]
    assert answer["value_y"].numpy()[:, 0] == pytest.approx(rows["predicted_y"][: len(vector)], rel=1e-5)
    assert answer["value_z"].shape == (len(vector), 3)
    assert answer["score"].numpy()[:, 1] == pytest.approx(rows["score_two"][: len(vector)], rel=1e-4)
    card = json.loads((tmp_path / "m" / "1.model_card.json").read_text())
    assert [*card["outputs"]] == ["score", "value_y", "value_z"]
    assert card["outputs"]["value_z"]["columns"][0] == "predicted_z_q16"
    assert (tmp_path / "onnx" / "model_ragged.onnx").exists()  # held to TensorFlow's answers as it was written


def test_every_head_is_answered_over_the_network(files, told, tmp_path):
    by_command("export", "--run", told.folder, "--to", tmp_path / "heads")
    by_command("predict", files[1], "--run", told.folder, "-o", tmp_path / "out.root")
    rows = uproot.open(tmp_path / "out.root")["events"].arrays(library="np")
    columns = {
        "score": [f"score_{name}" for name in NAMES], "value_y": ["predicted_y"],
        "value_z": [f"predicted_z_q{n}" for n in (16, 50, 84)],
    }  # fmt: skip
    wanted = {name: np.stack([rows[one][:50] for one in own], axis=1) for name, own in columns.items()}
    tree = uproot.open(files[1])["events"]
    events = tree.arrays([branch.name for branch in told.specs.branches], entry_stop=50).to_list()
    server = Server(Options(port=-1, rest_api_port=-1, model_name="heads", model_base_path=str(tmp_path / "heads")))
    try:
        url = f"http://127.0.0.1:{server.rest_port}"
        with urllib.request.urlopen(f"{url}/v1/models/heads:predict", json.dumps({"instances": events}).encode()) as r:
            plain = json.load(r)["predictions"]
        answers: list[Any] = [{name: [event[name] for event in plain] for name in columns}]
        for address in (url, f"grpc://127.0.0.1:{server.grpc_port}"):
            with Client(address, "heads") as client:
                answers.append(client.predict(events, outputs="all"))
    finally:
        server.stop()
    for answer in answers:
        assert {*answer} == {*columns}
        for name, values in wanted.items():
            assert np.asarray(answer[name]) == pytest.approx(values, rel=1e-5, abs=1e-6), name


def test_several_numbers_alone(files, specs, tmp_path, monkeypatch):
    monkeypatch.setattr(run, "can_report", lambda: False)
    config = RunConfig(tuple(files), "y", regression=True, targets=("z",), epochs=1, batch_size=100, loss="mae")
    made = train_run(config, specs, tmp_path / "run")
    assert Run.load(tmp_path / "run").config == made.config
    assert made.task.columns == ("predicted_y", "predicted_z")
    assert [*made.metrics["parts"]["test"]["outputs"]] == ["value_y", "value_z"]
    assert made.metrics["parts"]["test"]["rmse"] == made.metrics["parts"]["test"]["outputs"]["value_y"]["rmse"]


def test_the_task_of_several_heads():
    task = Task(BINARY, (Regression("Gen/ht", 1, 2), Regression("m", 1, 2, "quantile", (0.5,))))
    assert [*task.outputs] == ["score", "value_Gen_ht", "value_m"]
    assert task.columns == ("score", "predicted_Gen_ht", "predicted_m_q50")
    assert Task.from_json(json.loads(json.dumps(task.to_json()))) == task
    with pytest.raises(LabelError, match="must differ in letters"):
        Task(Regression("a b", 0, 1), (Regression("a_b", 0, 1),))
    by_target = {"m": "mae", "*": "huber", "classes": "focal"}
    assert [loss_of(by_target, name) for name in ("m", "ht", "")] == ["mae", "huber", "focal"]
    assert [loss_of("mae", name, mixed=True) for name in ("ht", "")] == ["mae", None]
    with pytest.raises(ConfigError, match="a loss of 'n', which is not told"):
        RunConfig(("a.root",), [0], targets=("m",), loss={"n": "mae"})


def test_a_users_model_with_several_outputs_need_not_know_the_units():
    task = Task(Classes(("a", "b", "c"), signal=0), (Regression("ht", 500.0, 40.0),))
    x = keras.Input((4,))
    outputs = {"value_ht": keras.layers.Dense(1)(x), "score": keras.layers.Dense(3, "softmax")(x)}
    model = heads.in_unit_of_target(keras.Model(x, outputs), task)
    heads.check(model, task)
    data = np.ones((2, 4), "f4")
    plain = keras.Model(x, outputs)(data)
    assert np.asarray(model(data)["value_ht"]) == pytest.approx(np.asarray(plain["value_ht"]) * 40 + 500, rel=1e-6)
    with pytest.raises(ModelError, match="but the task needs"):
        heads.check(keras.Model(x, {"score": outputs["score"], "ht": outputs["value_ht"]}), task)
