"""Which process of several this is, by options or by the environment; and that all end when one does."""

import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec

import pytest
from helpers.streams import quiet_scan

from mlaas4hep_tf.errors import ConfigError
from mlaas4hep_tf.runs.launch import free_port
from mlaas4hep_tf.runs.processes import ALONE, Processes, first_node, this_process
from mlaas4hep_tf.testing import write_files

SLURM = {"SLURM_PROCID": "3", "SLURM_NTASKS": "8", "SLURM_JOB_NODELIST": "gpu[07-08],gpu11", "SLURM_JOB_ID": "123456"}
TF = {"cluster": {"worker": ["a.example:2222", "b.example:2222"]}, "task": {"type": "worker", "index": 1}}


@pytest.mark.parametrize(
    ("environment", "found"),
    [
        (SLURM, Processes(8, 3, "gpu07:23456")),
        ({"TF_CONFIG": json.dumps(TF)}, Processes(2, 1, "a.example:2222")),
    ],
)
def test_the_environment_knows_where_processes_meet(environment, found):
    assert this_process(None, None, "env", 600.0, environment) == found


@pytest.mark.parametrize("names", [("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"), ("PMI_RANK", "PMI_SIZE")])
def test_mpi_knows_which_one_it_is(names):
    environment = dict(zip(names, ("1", "4"), strict=True))
    assert this_process(None, None, "a:1234", 600.0, environment) == Processes(4, 1, "a:1234")


def test_options_count_before_the_environment():
    assert this_process(2, 0, "a:1", 5.0, SLURM) == Processes(2, 0, "a:1", 5.0)


@pytest.mark.parametrize(
    ("count", "index", "coordinator", "environment", "why"),
    [
        (None, None, "a:1", {}, "give --processes N"),
        (2, None, "a:1", {}, "give --processes N"),
        (2, 0, "env", {}, "give --processes N"),
        (2, 2, "a:1", {}, "0 to 1, not 2"),
        (2, 0, "a", {}, "HOST:PORT"),
        (None, None, "env", {"TF_CONFIG": "{}"}, "TF_CONFIG names the workers"),
    ],
)
def test_what_is_not_known_is_asked_for(count, index, coordinator, environment, why):
    with pytest.raises(ConfigError, match=why):
        this_process(count, index, coordinator, 600.0, environment)


def test_one_process_needs_nobody():
    assert ALONE.writes and ALONE.count == 1


@pytest.mark.parametrize(
    ("nodes", "first"),
    [("a", "a"), ("a,b", "a"), ("n[3-5,9]", "n3"), ("n[003-005],m1", "n003"), ("n[1,2]-ib", "n1-ib")],
)
def test_the_first_host_of_a_list_of_slurm(nodes, first):
    assert first_node(nodes) == first


def test_when_one_process_fails_all_end():
    code = "from mlaas4hep_tf.runs.launch import launch; print(launch(['no-such-command'], 2))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.split()[-1] == "1"
    assert "of 2 ended with status 2, and so do the others" in done.stderr


TRAIN = """
import glob, hashlib, os, signal, sys
import numpy as np
import mlaas4hep_tf.train as training
from mlaas4hep_tf import Specs
from mlaas4hep_tf.runs import RunConfig, train_run
from mlaas4hep_tf.runs.processes import ALONE, Processes

folder, count, index, address, kill_at = sys.argv[1], *map(int, sys.argv[2:4]), sys.argv[4], int(sys.argv[5])

class Killed(training.Resume):
    steps = 0

    def on_train_batch_end(self, batch, logs=None):
        super().on_train_batch_end(batch, logs)
        Killed.steps += 1
        if Killed.steps == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

training.Resume = Killed
config = RunConfig(tuple(sorted(glob.glob(folder + "/*.root"))), labels=(0.0, 1.0), epochs=2, batch_size=20)
run = train_run(
    config, Specs.load(folder + "/specs.json"), folder + "/run", checkpoint_every=3, resume=True,
    processes=Processes(count, index, address) if count > 1 else ALONE,
)
weights = b"".join(np.asarray(weight).tobytes() for weight in run.model.get_weights())
print(hashlib.sha256(weights).hexdigest())
"""


def train_together(folder, count=2, kill_at=0):
    """The status of each process and what it printed; they are ended when one is killed, as the shell's are."""
    address = f"127.0.0.1:{free_port()}"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", TRAIN, folder, str(count), str(index), address, str(kill_at if index else 0)],
            env=os.environ | {"KERAS_BACKEND": "jax"}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for index in range(count)
    ]  # fmt: skip
    if kill_at:
        processes[1].communicate(timeout=280)
        processes[0].kill()
    said = [process.communicate(timeout=280)[0] for process in processes]
    return [process.returncode for process in processes], said


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """A folder with data and a run of two processes, and the digest of the model's weights."""
    if find_spec("jax") is None:
        pytest.skip("jax is not installed (pip install 'mlaas4hep_tf[jax]')")
    folder = tmp_path_factory.mktemp("together")
    quiet_scan(write_files(folder, [400, 401], basket=100)).save(folder / "specs.json")
    statuses, said = train_together(folder)
    assert statuses == [0, 0], said
    (digest,) = {text.split()[-1] for text in said}
    return folder, digest


@pytest.mark.slow
def test_two_processes_train_one_model(uninterrupted):
    run = uninterrupted[0] / "run"
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["epochs"] == 2 and metrics["model"]["backend"] == "jax"
    assert not (run / "training.ckpt").exists()


@pytest.mark.slow
def test_two_processes_that_were_killed_go_on_to_the_same_weights(uninterrupted, tmp_path):
    folder, digest = uninterrupted
    own, kept = tmp_path / "own", tmp_path / "kept"
    shutil.copytree(folder, own, ignore=shutil.ignore_patterns("run"))
    statuses, said = train_together(own, kill_at=5)  # of 13 steps an epoch
    assert statuses == [-9, -9], said
    (status,), (told,) = train_together(own, count=1)
    assert status == 1 and "inside of an epoch a training goes on with as many processes as before" in told
    statuses, said = train_together(own, kill_at=11)  # behind the third step: the first of the second epoch
    assert statuses == [-9, -9], said
    shutil.copytree(own / "run", kept)
    statuses, said = train_together(own)
    assert statuses == [0, 0], said
    assert {text.split()[-1] for text in said} == {digest}
    shutil.rmtree(own / "run")
    kept.rename(own / "run")
    statuses, said = train_together(own, count=1)  # from an epoch's end
    assert statuses == [0], said
    assert json.loads((own / "run" / "metrics.json").read_text())["epochs"] == 2
