"""Run folders: what version 1 wrote is read, what is asked for reaches every reading, other trees stay out of it."""

import csv
import dataclasses
import json
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import uproot

from mlaas4hep_tf import Cache, ReadOptions, ReadPolicy, RootDataset, Specs, export, scan
from mlaas4hep_tf.cli.output import print_run
from mlaas4hep_tf.cross_sections import CrossSections
from mlaas4hep_tf.errors import BranchError, ConfigError, DataWarning, InputFileError
from mlaas4hep_tf.models import build
from mlaas4hep_tf.predict import predict_files
from mlaas4hep_tf.recipe import Recipe
from mlaas4hep_tf.runs import Run, RunConfig, evaluate_run, train_run
from mlaas4hep_tf.runs.parts import predict_parts
from mlaas4hep_tf.testing import make_events, write_files, write_tree
from mlaas4hep_tf.train import predict_batch

V1 = Path(__file__).parent.parent / "data" / "v1"


def two_trees(path):
    """A file whose tree ``wanted`` has labels, and whose tree ``other`` has a branch of that name with other values."""
    x = np.random.default_rng(0).normal(size=200).astype("f4")
    with uproot.recreate(path) as file:
        for name, label in (("wanted", (x > 0).astype("i4")), ("other", np.full(200, 7, "i4"))):
            file.mktree(name, {"x": "f4", "y": "i4"})
            file[name].extend({"x": x, "y": label})
    return str(path)


def test_a_config_of_version_1(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = RunConfig.from_json(json.loads((V1 / "config.json").read_text()))
    assert config.read == ReadOptions(
        workers=1, policy=ReadPolicy(request_timeout_s=20, replicas={"root://a.example//": ["root://b.example//"]}),
        cache=Cache(str(tmp_path / "kept")), on_bad_file="skip", max_lost_fraction=0.25,
    )  # fmt: skip
    assert (config.files, config.labels) == (("/data/f000.root", "/data/f001.root"), {"*f000*": 1.0, "*": 0.0})
    assert (config.epochs, config.batch_size, config.split) == (1, 50, (0.64, 0.16, 0.2))
    assert (config.normalize, config.mixing, config.balanced) == ("standard", "equal", False)


def test_a_run_folder_of_version_1(tmp_path):
    run = tmp_path / "run"
    shutil.copytree(V1, run)
    specs = Specs.load(V1 / "specs.json")
    assert specs.entries == 100
    assert [b.name for b in specs.branches] == ["nJet", "x", "Jet_0", "Jet_1"]
    build("mlp", specs).save(run / "model.keras")
    loaded = Run.load(run)
    assert loaded.specs == specs
    assert loaded.preprocessor.normalize == "standard"
    assert loaded.metrics["parts"]["test"]["events"] == 20


def test_a_config_and_back():
    config = RunConfig(
        ("/a.root",), [1.0], normalize=None, read=ReadOptions(workers=2, cache="/kept", on_bad_file="skip")
    )
    assert RunConfig.from_json(json.loads(json.dumps(config.to_json()))) == config


def test_a_config_with_unknown_keys_is_no_run(tmp_path):
    shutil.copytree(V1, tmp_path / "run")
    content = json.loads((V1 / "config.json").read_text())
    (tmp_path / "run" / "config.json").write_text(json.dumps(content | {"speed": 3}))
    with pytest.raises(ConfigError, match="holds no complete run: .*speed"):
        Run.load(tmp_path / "run")


def test_labels_come_from_the_tree_of_the_specs(tmp_path):
    path = two_trees(tmp_path / "two.root")
    specs = scan(path, "wanted", labels="y", progress=False)
    run = train_run(RunConfig((path,), "y", epochs=1, batch_size=20), specs, tmp_path / "run")
    assert run.metrics["parts"]["train"]["events"] == 128
    assert Run.load(tmp_path / "run").specs.tree == "wanted"


@pytest.mark.slow
def test_checking_a_label_branch_skips_what_reading_skips(tmp_path):
    files = [two_trees(tmp_path / f"{n}.root") for n in range(3)]
    specs = scan(files, "wanted", labels="y", progress=False)
    Path(files[2]).write_bytes(Path(files[2]).read_bytes()[:500])
    config = RunConfig(tuple(files), "y", epochs=1, batch_size=20)
    with pytest.raises(InputFileError, match=r"2\.root"):
        train_run(config, specs, tmp_path / "run")
    read = ReadOptions(workers=1, on_bad_file="skip", max_lost_fraction=0.5)
    tolerant = RunConfig(tuple(files), "y", epochs=1, batch_size=20, read=read)
    run = train_run(tolerant, specs, tmp_path / "run")
    assert sum(part["events"] for part in run.metrics["parts"].values()) == 400


@pytest.fixture(scope="module")
def standard(tmp_path_factory):
    """A run on data normalised by mean and standard deviation, far from those of minimum and maximum."""
    folder = tmp_path_factory.mktemp("standard")
    files = write_files(folder, [300, 300], groups={})
    specs = scan(files, exclude="id", progress=False)
    config = RunConfig(tuple(files), [1, 0], epochs=1, batch_size=50, normalize="standard")
    train_run(config, specs, folder / "run")
    return Run.load(folder / "run"), files


def scores_of(run, files, normalize):
    ds = RootDataset(files, run.specs, normalize=normalize, shuffle=False, batch_size=100)
    return np.concatenate([predict_batch(run.model, x) for x in ds])[:, 0]


def test_a_run_is_exported_as_it_was_trained(standard, tmp_path):
    import tensorflow as tf

    run, files = standard
    folder = export(run.model, run, tmp_path / "m" / "1")
    events = uproot.concatenate([f"{name}:events" for name in files], ["x"], library="np")
    served = tf.saved_model.load(str(folder)).signatures["serving_default"](x=tf.constant(events["x"], tf.float32))
    got = served["score"].numpy()[:, 0]
    assert np.abs(got - scores_of(run, files, "standard")).max() < 1e-6
    assert np.abs(got - scores_of(run, files, "minmax")).max() > 0.01  # so that the one above can fail


def test_a_run_is_applied_as_it_was_trained(standard, tmp_path):
    run, files = standard
    predict_files(run.model, files, run, tmp_path / "scores.root", read=ReadOptions(workers=1))
    got = uproot.open(tmp_path / "scores.root")["events"]["score"].array(library="np")
    assert np.abs(got - scores_of(run, files, "standard")).max() < 1e-6


def read_rows(path):
    if path.suffix == ".csv":
        with path.open(newline="") as file:
            return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
    if path.suffix == ".parquet":
        return pytest.importorskip("pyarrow.parquet").read_table(path).to_pylist()
    return uproot.open(path)["events"].arrays(library="ak").to_list()


@pytest.mark.parametrize("ending", [".csv", ".parquet"])
def test_the_ending_of_a_name_says_how_scores_are_written(standard, tmp_path, ending):
    if ending == ".parquet":
        pytest.importorskip("pyarrow", reason="pyarrow is not installed (pip install 'mlaas4hep_tf[parquet]')")
    run, files = standard
    for name in ("scores.root", f"scores{ending}"):
        predict_files(run.model, files, run, tmp_path / name, read=ReadOptions(workers=1))
    rows = read_rows(tmp_path / f"scores{ending}")
    assert len(rows) == 600
    assert [*rows[0]] == ["file", "entry", "score"]
    for row, wanted in zip(rows, read_rows(tmp_path / "scores.root"), strict=True):
        assert np.float32(row.pop("score")) == np.float32(wanted.pop("score"))
        assert row == wanted


def test_an_ending_that_says_no_format(standard, tmp_path):
    run, files = standard
    with pytest.raises(ConfigError, match=r"\.root, \.csv or \.parquet: .*scores\.txt has '\.txt'"):
        predict_files(run.model, files, run, tmp_path / "scores.txt")


OWN_MODEL = """
import keras
import own_layers
from own_layers import Half

class Scale(keras.layers.Layer):
    def __init__(self, factor=2.0, **kwargs):
        super().__init__(**kwargs)
        self.factor = factor

    def call(self, x):
        return x * self.factor

    def get_config(self):
        return {**super().get_config(), "factor": self.factor}

def squash(x):
    return x / (1 + keras.ops.abs(x))

def model(idim):
    return keras.Sequential([
        keras.Input((idim,)), Scale(3.0), Half(), own_layers.Registered(), keras.layers.Lambda(lambda x: x + 1),
        keras.layers.Dense(4, activation=squash), keras.layers.Dense(1, activation="sigmoid"),
    ])
"""
OWN_LAYERS = """
import keras

class Half(keras.layers.Layer):
    def call(self, x):
        return x / 2

@keras.saving.register_keras_serializable()
class Registered(keras.layers.Layer):
    def call(self, x):
        return x - 1
"""
LOAD = """
import sys
import numpy as np
from mlaas4hep_tf.runs import Run
run = Run.load(sys.argv[1])
print(float(np.asarray(run.model(np.full((1, 1), 0.25, "f4")))[0, 0]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["model.py", "model:model"])
def test_a_model_of_ones_own_layers_is_loaded_by_later_commands(tmp_path, monkeypatch, name):
    (tmp_path / "model.py").write_text(OWN_MODEL)
    (tmp_path / "own_layers.py").write_text(OWN_LAYERS)
    monkeypatch.chdir(tmp_path)
    files = write_files(tmp_path, [60, 60], groups={})
    specs = scan(files, exclude="id", progress=False)
    run = train_run(RunConfig(tuple(files), [1, 0], model=name, epochs=1, batch_size=20), specs, tmp_path / "run")
    score = float(np.asarray(run.model(np.full((1, 1), 0.25, "f4")))[0, 0])
    where = tmp_path if ":" in name else "/"  # a file is found again from anywhere, a module where it can be imported
    if ":" not in name:
        (tmp_path / "model.py").write_text("raise RuntimeError('the copy in the run folder is meant')")
    done = subprocess.run(
        [sys.executable, "-c", LOAD, tmp_path / "run"], cwd=where, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) == pytest.approx(score, rel=1e-6)
    assert run.metrics["model"]["name"] == name


def test_a_model_that_cannot_be_loaded_is_told_in_one_line(tmp_path, monkeypatch):
    (tmp_path / "model.py").write_text(OWN_MODEL)
    (tmp_path / "own_layers.py").write_text(OWN_LAYERS)
    monkeypatch.chdir(tmp_path)
    files = write_files(tmp_path, [60, 60], groups={})
    specs = scan(files, exclude="id", progress=False)
    train_run(RunConfig(tuple(files), [1, 0], model="model.py", epochs=1, batch_size=20), specs, "run")
    Path("run/model.py").write_text("import keras\n\ndef model(idim):\n    pass\n")
    with pytest.raises(
        ConfigError, match="^the model of run cannot be loaded: Could not locate class 'Scale'"
    ) as error:
        Run.load("run")
    assert len(str(error.value)) < 500
    assert "\n" not in str(error.value)


def test_prediction_takes_no_specs_and_skips_nothing(standard, tmp_path):
    from mlaas4hep_tf.errors import ModelError

    run, files = standard
    with pytest.raises(ModelError, match="Specs does not say how values were normalised"):
        predict_files(run.model, files, run.specs, tmp_path / "scores.root")
    with pytest.raises(ConfigError, match="prediction gives every event a row"):
        predict_files(run.model, files, run, tmp_path / "scores.root", read=ReadOptions(on_bad_file="skip"))
    assert list(tmp_path.iterdir()) == []


def test_a_run_is_evaluated_with_other_options_of_reading(standard):
    run, _ = standard
    known = {name: result.summary()["auc"] for name, result in evaluate_run(run).items()}
    again = evaluate_run(run, read=ReadOptions(workers=1))
    assert {name: result.summary()["auc"] for name, result in again.items()} == pytest.approx(known)


def test_a_number_is_trained_evaluated_predicted_and_exported(tmp_path):
    import tensorflow as tf

    events = make_events(400, groups={"Jet": 1}, seed=3)
    events["y"] = (500 + 40 * events["x"]).astype("f4")
    path = str(write_tree(tmp_path / "a.root", events))
    specs = scan(path, exclude="id", labels="y", progress=False)
    (target,) = specs.targets
    assert target.mean == pytest.approx(events["y"].mean(dtype="f8"))
    assert target.variance == pytest.approx(events["y"].var(dtype="f8"))
    config = RunConfig((path,), "y", regression=True, loss="quantile", epochs=3, batch_size=20, recipe=Recipe(lr=0.01))
    run = train_run(config, specs, tmp_path / "run")
    assert run.metrics["parts"]["test"]["rmse"] < 0.6 * events["y"].std()
    again = Run.load(tmp_path / "run")
    assert again.task.columns == ("predicted_y_q16", "predicted_y_q50", "predicted_y_q84")
    predict_files(again.model, path, again, tmp_path / "out.csv", read=ReadOptions(workers=1))
    rows = read_rows(tmp_path / "out.csv")
    export(again.model, again, tmp_path / "m" / "1")
    served = tf.saved_model.load(str(tmp_path / "m" / "1")).signatures["vector"]
    batch = next(iter(config.dataset(specs, mask=False).in_order()))
    value = served(vector=batch[0])["value"].numpy()
    assert value[0] == pytest.approx([float(rows[0][column]) for column in again.task.columns], rel=1e-4)
    report = (tmp_path / "run" / "report.html").read_text()
    assert "How well it tells y" in report


@pytest.mark.parametrize("given", [{"labels": "Y"}, {"labels": "y", "weights": "w"}])
def test_labels_and_weights_that_are_no_branch_are_told_before_a_run_begins(tmp_path, given):
    path = two_trees(tmp_path / "t.root")
    specs = scan(path, tree="wanted", labels="y", progress=False)
    RunConfig((path,), "y").check("wanted", specs)
    with pytest.raises(BranchError, match=f"no branch {[*given.values()][-1]!r} .*for the {[*given][-1]} in file"):
        RunConfig((path,), **given).check("wanted", specs)


def test_what_weighs_events_is_told_and_what_was_scanned_for_it_and_is_not_used(tmp_path):
    x = np.random.default_rng(0).normal(size=300).astype("f4")
    weights = np.where(np.arange(300) % 2 == 0, 1, 3).astype("f4")
    path = str(write_tree(tmp_path / "t.root", {"x": x, "y": (x > 0).astype("i4"), "w": weights}))
    specs = scan(path, labels="y", weights="w", progress=False)
    config = RunConfig((path,), "y", epochs=1, weights="w")
    run = train_run(config, specs, tmp_path / "weighted")
    parts = run.metrics["parts"].values()
    assert (run.metrics["labels"], run.metrics["weights"]) == ("branch y", "branch w")
    assert sum(part["sum_of_weights"] for part in parts) == weights.sum()
    whole = sum(part["effective_events"] / part["events"] * 300 for part in parts) / len(run.metrics["parts"])
    assert whole == pytest.approx(weights.sum() ** 2 / np.square(weights).sum(), rel=0.05)
    with pytest.warns(DataWarning, match=r"the specs know w, which this training does not use: .* \(--weights w\)"):
        run = train_run(dataclasses.replace(config, weights=None), specs, tmp_path / "plain")
    assert run.metrics["weights"] is None
    scaled = dataclasses.replace(config, expected=CrossSections({"*": 2.0}, 1.0, {"*": 600.0}))
    assert train_run(scaled, specs, tmp_path / "scaled").metrics["weights"] == (
        "branch w, scaled by cross sections x luminosity"
    )
    assert all(part["sum_of_weights"] == part["events"] for part in run.metrics["parts"].values())


def test_figures_of_a_run_that_told_no_weights_yet_are_shown(standard, capsys):
    metrics = json.loads(json.dumps(standard[0].metrics))
    of_before = {key: own for key, own in metrics.items() if key not in ("labels", "weights")}
    for part in of_before["parts"].values():
        del part["sum_of_weights"], part["effective_events"]
    print_run(of_before)
    before = capsys.readouterr().out
    print_run(json.loads(json.dumps(standard[0].metrics)))
    now = capsys.readouterr().out.splitlines()
    assert [line for line in now if not line.startswith("labels: ")] == before.splitlines()
    assert len(now) == len(before.splitlines()) + 1


class OnTwo(ThreadPoolExecutor):
    """A cluster of two workers."""

    num_workers = 2


@pytest.mark.slow
def test_a_cluster_predicts_in_parts_and_a_manifest_says_what_is_where(standard, tmp_path):
    run, files = standard
    predict_files(run.model, files, run, tmp_path / "whole.root")
    with OnTwo(2) as executor:
        events = predict_parts(run, files, tmp_path / "scores", read=ReadOptions(executor=executor))
    manifest = json.loads((tmp_path / "scores" / "manifest.json").read_text())
    assert [part["name"] for part in manifest["parts"]] == ["part-0000.root", "part-0001.root"]
    assert [file["url"] for file in manifest["files"]] == files
    whole = uproot.open(tmp_path / "whole.root")["events"].arrays(library="np")
    parts = [
        uproot.open(tmp_path / "scores" / part["name"])["events"].arrays(library="np") for part in manifest["parts"]
    ]
    assert [len(part["file"]) for part in parts] == [part["events"] for part in manifest["parts"]]
    assert events == manifest["events"] == len(whole["file"])
    for name in ("file", "entry", "score"):
        assert np.concatenate([part[name] for part in parts]) == pytest.approx(whole[name], abs=1e-6)

    (tmp_path / "scores" / ".part-0001.root.killed.part").touch()
    assert predict_parts(run, files, tmp_path / "scores") == events  # one part, and no other is left
    assert {path.name for path in (tmp_path / "scores").iterdir()} == {"manifest.json", "part-0000.root"}
