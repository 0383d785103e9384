"""What an extra installs is not needed without it, and where it is asked for the line that installs it is said."""

import configparser
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TTH = str(ROOT / "benchmarks/data/tth")
REPORT = ["matplotlib", "jinja2", "scipy", "tensorboard"]
SERVE = ["uvicorn", "uvloop", "httptools", "orjson", "grpc_health", "jwt", "jinja2"]
TFAAS = ["PIL", "python_multipart"]


def without(modules, code, *arguments):
    """Run `code` in a process where `modules` cannot be imported."""
    blocked = f"import sys; sys.modules.update(dict.fromkeys({modules!r})); "
    return subprocess.run(
        [sys.executable, "-c", blocked + code, *arguments], capture_output=True, text=True, timeout=240, check=False
    )


CLI = "from mlaas4hep_tf.cli import main; main()"
SERVER = "from mlaas4hep_serving.cli import main; sys.exit(main())"


@pytest.mark.slow
def test_training_works_without_the_report_and_says_so_before_it_starts(tmp_path):
    run = tmp_path / "run"
    done = without(
        [*REPORT, *SERVE, *TFAAS], CLI, "train", TTH, "--tree", "events", "--exclude", "isSignal",
        "--label", "*signal*=1", "--label", "*=0", "--epochs", "1", "--batch-size", "1000", "--out", str(run),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (line,) = [text for text in done.stderr.splitlines() if "pip install" in text]
    assert "plots, report.html and the check of over-training need matplotlib and jinja2 and scipy" in line
    assert line.endswith("pip install 'mlaas4hep_tf[report]'")
    left = {path.name for path in run.iterdir()}
    tables = {name for name in left if name.startswith("specs.files.")}
    assert left - tables == {".lock", "model.keras", "specs.json", "config.json", "metrics.json", "history.csv"}
    assert len(tables) == 1
    assert "over_training" not in json.loads((run / "metrics.json").read_text())
    assert f"run folder: {run}" in done.stdout.replace("\n", "")


def test_the_check_of_over_training_says_what_it_needs():
    code = (
        "import numpy as np; from mlaas4hep_tf.train import Evaluation, over_training; "
        "one = Evaluation(np.array([0., 1.]), np.array([.1, .9]), np.ones(2)); over_training(one, one)"
    )
    done = without(["scipy"], code)
    assert done.returncode == 1
    assert done.stderr.endswith("need scipy, not installed here; pip install 'mlaas4hep_tf[report]'\n")


@pytest.mark.parametrize("module", SERVE)
def test_the_server_names_each_part_that_is_missing(module, tmp_path):
    done = without([module], SERVER, f"--model_base_path={tmp_path}")
    assert done.returncode == 1
    assert done.stderr == (
        f"Failed to start server. Error: FAILED_PRECONDITION: mlaas4hep-serve needs {module}, not installed here; "
        "pip install 'mlaas4hep_tf[serve]'\n"
    )


def test_help_of_the_server_needs_no_extra():
    done = without([*SERVE, *TFAAS], SERVER, "--help")
    assert done.returncode == 0
    assert "--model_base_path" in done.stdout


def test_tfaas_needs_its_extra(tmp_path):
    done = without(
        TFAAS, SERVER, f"--model_base_path={tmp_path}", "--enable_tfaas", f"--tfaas_base_path={tmp_path / 'up'}"
    )
    assert done.returncode == 1
    assert done.stderr.endswith("needs python_multipart and PIL, not installed here; "
                                "pip install 'mlaas4hep_tf[serve,tfaas]'\n")  # fmt: skip


def test_the_server_without_tfaas_needs_nothing_of_it():
    assert without(TFAAS, "import mlaas4hep_serving.server").returncode == 0


def test_tests_install_every_extra_that_a_command_asks_for():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    extras = setup["options.extras_require"]
    assert extras["all"].split() == ["mlaas4hep_tf[report,serve,tfaas,parquet,onnx,tune,registry,service]"]
    assert "mlaas4hep_tf[all,dask]" in extras["test"].split()
