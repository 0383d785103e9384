"""A training that is killed goes on, and its model has the bits of one that never was."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uproot
from helpers.killed import LAWS
from helpers.streams import quiet_scan

from mlaas4hep_tf.checkpoints import Every, read, write
from mlaas4hep_tf.errors import ConfigError, ResumeError
from mlaas4hep_tf.testing import write_files

SOAK = bool(os.environ.get("MLAAS4HEP_SOAK"))
KILLS = int(os.environ.get("MLAAS4HEP_KILLS", "50")) if SOAK else 1


def data(folder, law):
    folder.mkdir(exist_ok=True)
    files = write_files(folder, [1500, 1000, 500], basket=250)
    options = {"select": "nJet > 2"} if law == "select" else {}
    quiet_scan(files, **options).save(folder / "specs.json")
    if law == "skip":  # a damaged basket
        with uproot.open(files[1]) as file:
            branch = file["events"]["Jet_1"]
            at = branch.member("fBasketSeek")[1] + branch.member("fBasketBytes")[1] // 2
        whole = Path(files[1]).read_bytes()
        Path(files[1]).write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
    return folder


@pytest.fixture
def run():
    """Trains in a process of its own: how it ended, and what came out where it came to the end."""
    program = Path(__file__).parent / "helpers" / "killed.py"
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "TF_CPP_MIN_LOG_LEVEL": "3"}
    with subprocess.Popen(
        [sys.executable, program], env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        asked, answers = parent.stdin, parent.stdout
        assert asked is not None and answers is not None

        def run(folder, law, kill_at=-1, every=7):
            print(json.dumps([str(folder), law, kill_at, every]), file=asked, flush=True)
            outcome, _, status = answers.readline().rstrip().rpartition(" ")
            return int(status), json.loads(outcome or "{}")

        yield run
        asked.close()


@pytest.mark.slow
@pytest.mark.soak
@pytest.mark.timeout(7200 if SOAK else 300)
@pytest.mark.parametrize("law", LAWS if SOAK else ("skip",))
def test_a_killed_training_gives_the_bits_of_one_that_never_was(tmp_path, law, run):
    folder = data(tmp_path / "data", law)
    _, whole = run(folder, law)
    assert len(whole["history"]["val_loss"]) == 3
    choice, kills = random.Random(law), 0
    while kills < KILLS:
        for left in ("run", "training.ckpt"):
            path = folder / left
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        steps = []
        while True:  # each process dies after some steps, until one comes to the end
            steps.append((choice.randrange(1, 60 if KILLS == 1 else 20), choice.choice((1, 3, 7))))
            status, outcome = run(folder, law, *(steps[-1] if kills < KILLS else ()))
            if status != -signal.SIGKILL:
                break
            kills += 1
        assert (status, outcome) == (0, whole), steps
        print(f"{law}: {kills} kills, {len(steps)} processes in the last chain, equal", flush=True)


def test_a_checkpoint_is_read_as_it_was_written(tmp_path):
    path = tmp_path / "c"
    content: Any = {
        "a": [np.arange(6, dtype=np.int64).reshape(2, 3), {"b": np.float32(0.1)}],
        "c": [float("inf"), 1 / 3, None],
    }
    write(path, content)
    got: Any = read(path)
    assert np.array_equal(got["a"][0], content["a"][0]) and got["a"][0].dtype == np.int64
    assert np.float32(got["a"][1]["b"]) == np.float32(0.1) and got["c"] == content["c"]
    assert [p.name for p in tmp_path.iterdir()] == ["c"]


def test_there_may_be_no_checkpoint_yet_and_a_broken_one_is_refused(tmp_path):
    assert read(tmp_path / "none") is None
    write(tmp_path / "c", {"a": np.zeros(1000)})
    whole = (tmp_path / "c").read_bytes()
    for content in (b"", b"text", whole[: len(whole) // 2]):
        (tmp_path / "c").write_bytes(content)
        with pytest.raises(ResumeError, match="no checkpoint"):
            read(tmp_path / "c")


def test_how_often_is_steps_or_seconds():
    assert Every.parse("500") == Every.parse(500) == Every(steps=500)
    assert Every.parse("60s") == Every(seconds=60)
    assert Every.parse(2).due(2, 0) and not Every.parse(2).due(1, 99)
    assert Every.parse("2s").due(1, 2.0) and not Every.parse("2s").due(99, 1.9)
    for wrong in ("", "s", "0", "-1", "0s", "often", "1.5"):
        with pytest.raises(ConfigError, match="every so many steps"):
            Every.parse(wrong)
