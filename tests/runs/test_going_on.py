"""A run folder belongs to one training, which Ctrl-C ends with a checkpoint and `resume` goes on with."""

import csv
import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
from typing import cast

import pytest
from helpers.streams import quiet_scan

from mlaas4hep_tf.errors import ConfigError, LabelError, ResumeError
from mlaas4hep_tf.runs import RunConfig, train_run
from mlaas4hep_tf.runs.interrupt import Interrupt
from mlaas4hep_tf.runs.lock import held
from mlaas4hep_tf.testing import write_files


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """A run that was interrupted in its second epoch: folder, config, specs."""
    folder = tmp_path_factory.mktemp("data")
    files = write_files(folder, [400, 400], basket=100)
    specs = quiet_scan(files)
    config = RunConfig(tuple(files), labels=(0.0, 1.0), epochs=3, batch_size=20)
    stop = Asked(after=40)
    with pytest.raises(KeyboardInterrupt):
        train_run(config, specs, folder / "run", interrupt=cast("Interrupt", stop))
    return folder / "run", config, specs


class Asked(threading.Event):
    """Ctrl-C behind so many steps."""

    def __init__(self, after):
        super().__init__()
        self.left = after

    def listening(self):
        return self

    def __enter__(self):
        return self

    def __exit__(self, *error): ...

    def is_set(self):
        self.left -= 1
        return self.left < 0


def test_what_was_begun_is_neither_written_over_nor_gone_on_with_as_something_else(begun):
    folder, config, specs = begun
    assert (folder / "training.ckpt").exists() and not (folder / "metrics.json").exists()
    with pytest.raises(ConfigError, match=r"was begun; go on with it \(--resume\)"):
        train_run(config, specs, folder)
    with pytest.raises(ConfigError, match="not both"):
        train_run(config, specs, folder, resume=True, overwrite=True)
    for change, said in (({"seed": 7}, "seed: 0 then, 7 now"), ({"batch_size": 40}, "batch_size: 20 then, 40 now")):
        with pytest.raises(ResumeError, match=said):
            train_run(dataclasses.replace(config, **change), specs, folder, resume=True)


def test_a_folder_is_held_by_one_process(tmp_path):
    with held(tmp_path):
        code = f"from pathlib import Path; from mlaas4hep_tf.runs.lock import held\nwith held(Path({str(tmp_path)!r})): pass"
        other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
        assert f"written by another training, process {os.getpid()}" in other.stderr
    with held(tmp_path):
        pass


def test_a_training_that_is_refused_leaves_nothing(tmp_path, begun):
    _, config, specs = begun
    wrong = dataclasses.replace(config, weights=specs.branches[0].name)
    (tmp_path / "mine").mkdir()
    for folder in ("new", "mine"):
        with pytest.raises(LabelError, match="cannot be label or weight and a feature too"):
            train_run(wrong, specs, tmp_path / folder)
    assert [path.name for path in tmp_path.rglob("*")] == ["mine"]


def test_it_goes_on_to_its_end(begun):
    folder, config, specs = begun
    run = train_run(config, specs, folder, resume=True)
    with open(folder / "history.csv") as file:
        assert [row["epoch"] for row in csv.DictReader(file)] == ["0", "1", "2"]
    assert run.metrics["epochs"] == 3 == len(run.metrics["composition"])
    assert {sum(epoch.values()) for epoch in run.metrics["composition"]} == {512}
    assert not (folder / "training.ckpt").exists()
    again = train_run(config, specs, folder, resume=True)  # nothing is left to do
    assert again.metrics == json.loads(json.dumps(run.metrics))
    with pytest.raises(ConfigError, match="holds a run already"):
        train_run(config, specs, folder)


def test_ctrl_c_ends_a_process_that_waits_for_ever():
    code = (
        "import time; from mlaas4hep_tf.runs.interrupt import within_two_seconds\n"
        "with within_two_seconds('to go on: so') as interrupt, interrupt.listening():\n"
        "    print('ready', flush=True); time.sleep(100); time.sleep(100)"
    )
    waiting = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert waiting.stdout is not None and waiting.stdout.readline() == "ready\n"
    waiting.send_signal(signal.SIGINT)
    assert "to go on: so" in waiting.communicate(timeout=30)[1]
    assert waiting.returncode == 130
