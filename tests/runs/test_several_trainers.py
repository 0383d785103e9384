"""Which process of several this is, by options or by the environment; and that all end when one does."""

import json
import os
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
import glob, hashlib, sys
import numpy as np
from mlaas4hep_tf import Specs
from mlaas4hep_tf.runs import RunConfig, train_run
from mlaas4hep_tf.runs.processes import Processes

folder, index, address = sys.argv[1], int(sys.argv[2]), sys.argv[3]
config = RunConfig(tuple(sorted(glob.glob(folder + "/*.root"))), labels=(0.0, 1.0), epochs=2, batch_size=20)
run = train_run(config, Specs.load(folder + "/specs.json"), folder + "/run", processes=Processes(2, index, address))
weights = b"".join(np.asarray(weight).tobytes() for weight in run.model.get_weights())
print(hashlib.sha256(weights).hexdigest())
"""


@pytest.mark.slow
def test_two_processes_train_one_model(tmp_path):
    if find_spec("jax") is None:
        pytest.skip("jax is not installed (pip install 'mlaas4hep_tf[jax]')")
    quiet_scan(write_files(tmp_path, [400, 401], basket=100)).save(tmp_path / "specs.json")
    address = f"127.0.0.1:{free_port()}"
    both = [
        subprocess.Popen(
            [sys.executable, "-c", TRAIN, tmp_path, str(index), address], env=os.environ | {"KERAS_BACKEND": "jax"},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for index in range(2)
    ]  # fmt: skip
    said = [process.communicate(timeout=280) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    digests = {out.split()[-1] for out, _ in said}
    assert len(digests) == 1
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["epochs"] == 2 and metrics["model"]["backend"] == "jax"
    assert not (tmp_path / "run" / "training.ckpt").exists()
