"""ONNX by command: three classes go out, and the network comes in again behind the run's preprocessing."""

import numpy as np
import pytest
import tensorflow as tf
import typer
import uproot
from helpers.streams import quiet_scan

from mlaas4hep_tf import onnx_files
from mlaas4hep_tf.cli.app import app
from mlaas4hep_tf.runs import run
from mlaas4hep_tf.testing import make_events, write_tree

NAMES = ("one", "two", "three")


def by_command(*args):
    typer.main.get_command(app)(list(map(str, args)), standalone_mode=False)


def test_three_classes_out_and_in(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "can_report", lambda: False)
    files = []
    for n, name in enumerate(NAMES):
        events = make_events(100, seed=n)
        del events["id"]
        events["x"] = events["x"] + np.float32(n)
        files.append(write_tree(tmp_path / f"{name}.root", events))
    quiet_scan([str(file) for file in files], exclude=["nJet"]).save(tmp_path / "specs.json")
    labels = [part for name in NAMES for part in ("--label", f"*{name}.root={name}")]
    where, trained = tmp_path / "run", ("--run", tmp_path / "run")
    by_command(
        "train", *files, "--specs", tmp_path / "specs.json", *labels, "--model", "set", "--epochs", 1,
        "--batch-size", 20, "--out", where,
    )  # fmt: skip
    by_command("predict", files[1], *trained, "-o", tmp_path / "scores.root")
    by_command("export", *trained, "--to", tmp_path / "onnx", "--format", "onnx")
    by_command("export", *trained, "--onnx", tmp_path / "onnx" / "network.onnx", "--to", tmp_path / "again")
    rows = uproot.open(tmp_path / "scores.root")["events"].arrays(library="np")
    scores = np.stack([rows[f"score_{name}"] for name in NAMES], axis=1)
    events = uproot.open(files[1])["events"].arrays(library="ak")
    lists = {name: [list(one) for one in events[name]] for name in ("Jet_0", "Jet_1")}
    most = max(map(len, lists["Jet_0"]))
    request = {name: np.array([one + [np.nan] * (most - len(one)) for one in own], "f4") for name, own in lists.items()}
    request["x"] = np.asarray(events["x"])
    (answer,) = onnx_files.session(str(tmp_path / "onnx" / "model.onnx")).run(["score"], request)
    assert answer == pytest.approx(scores, abs=1e-5)
    again = tf.saved_model.load(str(tmp_path / "again" / "1")).signatures["serving_default"]
    answer = again(**{name: tf.constant(values) for name, values in request.items()})["score"].numpy()
    assert answer == pytest.approx(scores, abs=1e-5)
