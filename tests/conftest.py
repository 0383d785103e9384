"""Data that tests share, all of it committed: the demo sample, and files written by ROOT itself."""

import os
import warnings
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import pytest
from hypothesis import settings

from mlaas4hep_tf import Specs, scan
from mlaas4hep_tf.errors import DataWarning

settings.register_profile("project", deadline=None)  # how long an example takes depends on who else is at work
settings.load_profile("project")

ROOT = Path(__file__).parent.parent
DEMO = ROOT / "benchmarks" / "data" / "tth"


@pytest.fixture(scope="session")
def demo_files() -> list[str]:
    return sorted(map(str, DEMO.glob("*.root")))


@pytest.fixture(scope="session")
def demo_specs(demo_files: list[str]) -> Specs:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)  # genWeight is constant
        return scan(demo_files, "events", exclude="isSignal", progress=False)


@pytest.fixture(scope="session")
def real_files() -> Path:
    return ROOT / "tests" / "data" / "real"
