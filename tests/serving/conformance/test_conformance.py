import json
import subprocess
import sys
from pathlib import Path

import pytest

CASES = Path(__file__).parents[4] / "shared" / "serving" / "conformance.json"
OWN = [
    {
        "id": "predict",
        "layer": "rest",
        "fixture": "hp2",
        "request": {"method": "POST", "path": "/v1/models/half_plus_two:predict", "body": '{"instances": [1.0, 2.0]}'},
        "expect": {"http": 200, "json": {"predictions": [2.5, 3.0]}},
    },
    {
        "id": "wrong_value",
        "layer": "rest",
        "fixture": "hp2",
        "request": {"method": "POST", "path": "/v1/models/half_plus_two:predict", "body": '{"instances": [1.0, 2.0]}'},
        "expect": {"http": 200, "json": {"predictions": [2.5, 3.5]}},
    },
    {"id": "wrong_path", "layer": "path", "request": {"method": "GET", "path": "/v1/foo"}, "expect": {"ok": True}},
    {"id": "strange_key", "layer": "path", "request": {"method": "GET", "path": "/v1/foo"}, "expect": {"okay": False}},
    {"id": "strange_step", "layer": "lifecycle", "steps": ["dance"], "expect": ["only 3 AVAILABLE"]},
]


def replay(path, environment, timeout=300):
    command = [sys.executable, "-m", "mlaas4hep_serving.conformance", "--cases", str(path)]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=environment)


@pytest.mark.slow
def test_all_cases_hold(environment):
    if not CASES.exists():
        pytest.skip("the conformance cases are not beside this checkout (../shared/serving)")
    done = replay(CASES, environment)
    count = len(json.loads(CASES.read_text()))
    assert done.stdout.splitlines()[-1] == f"{count} passed, 0 failed", done.stdout


def test_replay_tells_cases_that_do_not_hold_and_never_passes_what_it_does_not_understand(tmp_path, environment):
    cases = tmp_path / "cases.json"
    cases.write_text(json.dumps(OWN))
    done = replay(cases, environment)
    failed = [line.split(":")[0] for line in done.stdout.splitlines() if line.startswith("FAILED")]
    assert failed == [f"FAILED {name}" for name in ("wrong_value", "wrong_path", "strange_key", "strange_step")]
    assert done.stdout.splitlines()[-1] == "1 passed, 4 failed"
    assert done.returncode == 1
