"""Searches of hyperparameters, with a stand-in for the training that says how good its options are."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest

pytest.importorskip("optuna")

from mlaas4hep_tf.errors import ConfigError
from mlaas4hep_tf.runs.search_space import Choices, Range, searched
from mlaas4hep_tf.runs.study import Study, run_study

TRAIN = """
import json, sys, time
from pathlib import Path
options = dict(zip(sys.argv[2::2], sys.argv[3::2]))
folder = Path(options["--out"])
folder.mkdir(parents=True, exist_ok=True)
(folder / "begun").open("a").write("x")
if options["--model"] == "bad":
    sys.exit("error: no model 'bad'")
if options.get("--wait") and not (folder / "waited").exists():
    (folder / "waited").touch()
    time.sleep(60)
value = 1 - abs(float(options["--lr"]) - 0.3)
(folder / "metrics.json").write_text(json.dumps({"parts": {"validation": {"auc": value, "rmse": 2 - value, "rejection": {}}}}))
"""


class Stub(Study):
    def command(self, number, values):
        real = super().command(number, values)
        assert real[1:4] == ["-m", "mlaas4hep_tf.cli", "train"]
        assert real[-2:] == ["--resume", "--json"]
        return [sys.executable, str(self.folder.parent / "train.py"), *real[4:-2]]


@pytest.fixture
def study(tmp_path):
    (tmp_path / "train.py").write_text(TRAIN)
    return Stub(tmp_path / "study", (searched("lr=0.1:0.9"), searched("model=mlp,set")), ("data.root",), trials=6)


def test_every_trial_is_a_run_and_the_best_one_is_first(study):
    told = []
    rows = run_study(replace(study, processes=3), told.append)
    assert len(rows) == len(told) == 6
    assert [row["value"] for row in rows] == sorted((row["value"] for row in rows), reverse=True)
    for row in rows:
        assert row["value"] == pytest.approx(1 - abs(row["lr"] - 0.3))
        assert row["model"] in ("mlp", "set")
        metrics = json.loads((study.run(row["trial"]) / "metrics.json").read_text())
        assert metrics["parts"]["validation"]["auc"] == row["value"]
    page = (study.folder / "study.html").read_text()
    assert page.index(f"trial_{rows[0]['trial']:03d}") < page.index(f"trial_{rows[-1]['trial']:03d}")


def test_a_study_goes_on_with_more_trials_and_never_with_other_ones(study):
    first = {row["trial"]: row["value"] for row in run_study(replace(study, trials=2))}
    found = run_study(replace(study, trials=4))
    rows = {row["trial"]: row["value"] for row in found}
    assert len(rows) == len({row["lr"] for row in found}) == 4  # and nothing is tried twice
    assert first.items() <= rows.items()
    assert all((study.run(n) / "begun").read_text() == "x" for n in rows)  # none was trained twice
    with pytest.raises(ConfigError, match="another study, with other metric: auc then"):
        run_study(replace(study, metric="rmse"))


def test_what_should_be_small_comes_first_where_it_is(study):
    rows = run_study(replace(study, metric="rmse"))
    assert rows[0]["value"] == min(row["value"] for row in rows)


def test_a_trial_that_fails_is_told_and_one_that_is_no_metric(study, tmp_path):
    mixed = replace(study, searched=(searched("lr=0.1:0.9"), searched("model=mlp,bad")), trials=8)
    rows = run_study(mixed)
    assert {row["model"] for row in rows if row["value"] is None} == {"bad"}
    assert rows[-1]["why"] == "error: no model 'bad'"
    with pytest.raises(ConfigError, match="a run has no 'speed'; it has auc, rmse"):
        run_study(replace(study, folder=tmp_path / "other", metric="speed"))
    never = replace(
        study, folder=tmp_path / "never", searched=(searched("model=bad,bad "),), train=("x", "--lr", "1"), trials=1
    )
    with pytest.raises(ConfigError, match="every trial of .* failed; the first: error: no model 'bad'"):
        run_study(never)


def test_a_study_that_was_killed_goes_on_with_the_trials_that_were_begun(study, tmp_path):
    waits = replace(study, train=("data.root", "--wait", "1"), trials=1)
    script = f"""
import sys
sys.path[:0] = {sys.path!r}
from pathlib import Path
from runs.test_study import Stub, run_study, searched
run_study(Stub(Path({str(waits.folder)!r}), {waits.searched!r}, {waits.train!r}, trials=1))
""".replace("Choices(", "searched.__globals__['Choices'](").replace("Range(", "searched.__globals__['Range'](")
    killed = subprocess.Popen([sys.executable, "-c", script], start_new_session=True)
    while not (waits.run(0) / "waited").exists():
        assert killed.poll() is None
        time.sleep(0.05)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    (row,) = run_study(waits)
    assert row["trial"] == 0
    assert row["value"] == pytest.approx(1 - abs(row["lr"] - 0.3))
    assert (waits.run(0) / "begun").read_text() == "xx"


def test_what_a_search_is_told(tmp_path):
    assert searched("lr=1e-4:1e-2:log") == Range("lr", 1e-4, 1e-2, log=True)
    assert searched("--epochs=2:9") == Range("epochs", 2, 9)
    assert searched("model=mlp,set") == Choices("model", ("mlp", "set"))
    for text in ("lr", "lr=", "lr=1", "lr=1:0", "lr=0:1:log", "lr=a:b", "lr=1:2:3", "=1:2"):
        with pytest.raises(ConfigError, match="--search needs an option of train"):
            searched(text)
    for train, search, says in (
        (("--lr", "1"), ("lr=1:2",), "--lr is searched, and given once more"),
        (("--out", "x"), ("lr=1:2",), "--out is not for the trials"),
        ((), (), "there is nothing to search"),
        ((), ("lr=1:2", "lr=2:3"), "--lr is searched"),
    ):
        with pytest.raises(ConfigError, match=says):
            Study(tmp_path, tuple(map(searched, search)), train)
