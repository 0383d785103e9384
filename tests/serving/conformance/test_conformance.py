import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from mlaas4hep_serving.conformance import batching, lifecycle, prose, servers, wire
from mlaas4hep_serving.conformance.__main__ import CASES, read

PAGE = Path(__file__).parents[3] / "docs" / "how-to" / "conformance-cases.md"
PREDICT: dict[str, Any] = {
    "layer": "rest",
    "request": {"method": "POST", "path": "/v1/models/half_plus_two:predict", "body": '{"instances": [1.0, 2.0]}'},
    "expect": {"http": 200, "json": {"predictions": [2.5, 3.0]}},
}
STORY: dict[str, Any] = {"layer": "lifecycle", "steps": [{"action": "start"}], "expect": []}
OWN = [
    {"id": "predict", "fixture": "hp2", **PREDICT},
    {"id": "wrong_value", **PREDICT, "expect": {"http": 200, "json": {"predictions": [2.5, 3.5]}}},
    {"id": "wrong_path", "layer": "path", "request": {"method": "GET", "path": "/v1/foo"}, "expect": {"ok": True}},
]
NOT_UNDERSTOOD: dict[str, tuple[dict[str, Any], str]] = {
    "strange_key": (
        {"layer": "path", "request": {"method": "GET", "path": "/v1/foo"}, "expect": {"okay": False}},
        "expect has keys that this replay does not understand: okay",
    ),
    "strange_key_of_the_case": ({**PREDICT, "retries": 3}, "the case has keys .*: retries"),
    "strange_key_of_a_request": (
        {**PREDICT, "request": {**PREDICT["request"], "form": {}}},
        "request has keys .*: form",
    ),
    "nothing_expected": ({key: PREDICT[key] for key in ("layer", "request")}, "the case has no expect"),
    "strange_fixture": ({**PREDICT, "fixture": "some model"}, "fixture is not understood: 'some model'"),
    "strange_model": (
        {**PREDICT, "fixture": {"model": "nobody"}},
        "there is no model 'nobody'; there are .*half_plus_two",
    ),
    "strange_flag": ({**PREDICT, "fixture": {"model": "slow", "flags": {"fast": 1}}}, "there is no flag --fast"),
    "strange_sentence": ({**STORY, "steps": ["dance"], "expect": ["only 3 AVAILABLE"]}, "step 1: .*'dance'"),
    "strange_action": (
        {**STORY, "steps": [{"action": "start"}, {"action": "dance"}]},
        "step 2: unknown action 'dance'; there are .*add_versions",
    ),
    "missing_argument": (
        {**STORY, "steps": [{"action": "add_versions"}]},
        r"step 1 \(add_versions\): argument names is missing",
    ),
    "strange_argument": (
        {**STORY, "steps": [{"action": "start", "late": True}]},
        r"step 1 \(start\): unknown argument late; it takes none",
    ),
    "strange_check": ({**STORY, "expect": [{"check": "joy"}]}, "check 1: unknown check 'joy'; there are"),
    "strange_layer": ({"layer": "http", "steps": [], "expect": []}, "there is no layer 'http'; there are rest"),
}


def replay(environment, *arguments, cases=None, folder=None, timeout=300):
    if cases is not None:
        (folder / "cases.json").write_text(json.dumps(cases))
        arguments = ("--cases", str(folder / "cases.json"), *arguments)
    command = [sys.executable, "-m", "mlaas4hep_serving.conformance", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=environment)


@pytest.mark.slow
def test_all_cases_hold(environment):
    done = replay(environment)
    assert done.stdout.splitlines()[-1] == "176 passed, 0 failed", done.stdout
    assert done.returncode == 0


def test_replay_tells_cases_that_do_not_hold_and_never_passes_what_it_does_not_understand(tmp_path, environment):
    strange = [{"id": name, **case} for name, (case, _) in NOT_UNDERSTOOD.items()]
    done = replay(environment, cases=[*OWN, *strange], folder=tmp_path)
    *told, last = done.stdout.splitlines()
    assert [line.split(":")[0] for line in told if line.startswith("FAILED")] == [
        "FAILED wrong_value",
        "FAILED wrong_path",
    ]
    reasons = dict(re.findall(r"^NOT RUN (\w+): (.*)$", done.stdout, re.MULTILINE))
    assert list(reasons) == list(NOT_UNDERSTOOD)
    for name, (_, reason) in NOT_UNDERSTOOD.items():
        assert re.match(reason, reasons[name]), name
    assert last == f"1 passed, 2 failed, {len(NOT_UNDERSTOOD)} not run"
    assert done.returncode == 1


def test_a_case_that_is_not_run_is_no_success(tmp_path, environment):
    done = replay(environment, cases=[{"id": "strange", "layer": "http", "expect": {}}], folder=tmp_path)
    assert done.stdout.splitlines()[-1] == "0 passed, 0 failed, 1 not run"
    assert done.returncode == 1


def test_a_running_server(server, tmp_path, environment):
    address = ["--rest", f"http://127.0.0.1:{server.rest_port}", "--grpc", f"127.0.0.1:{server.grpc_port}"]
    path = "/v1/models/default:predict"
    cases = [{"id": "predict", **PREDICT, "request": {**PREDICT["request"], "path": path}}, {"id": "story", **STORY}]
    done = replay(environment, *address, cases=cases, folder=tmp_path)
    assert "NOT RUN story: it starts servers of its own" in done.stdout
    assert done.stdout.splitlines()[-1] == "1 passed, 0 failed, 1 not run"


@pytest.mark.parametrize("text", ["{", "{}", '[{"id": "a"}]', "[3]"])
def test_a_file_that_is_no_list_of_cases(text, tmp_path, environment):
    (tmp_path / "cases.json").write_text(text)
    done = replay(environment, "--cases", str(tmp_path / "cases.json"))
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "cases.json: " in done.stderr.splitlines()[-1]


def sentences(items):
    """Steps or checks as the sentences that they were made of; those without one belong to the sentence before."""
    return [item["text"] for item in items if "text" in item]


def in_sentences(case):
    """A case of the package with sentences in the place of its objects."""
    told = dict(case)
    if case["layer"] in ("lifecycle", "batching"):
        told |= {"steps": sentences(case["steps"]), "expect": sentences(case["expect"])}
    if "fixture" in case:
        told["fixture"] = case["fixture"]["text"]
    request = case.get("request", {})
    if "sequence" in request:
        told["request"] = request | {"sequence": sentences(request["sequence"])}
    if "config" in request:
        told["request"] = request | {"config": request["config"]["text"]}
    return told


def test_sentences_become_the_structure_that_the_package_has():
    cases = read(CASES)
    told = list(map(in_sentences, cases))
    assert sum(a != b for a, b in zip(cases, told, strict=True)) == 129  # 107 fixtures, 22 stories
    assert list(map(prose.structured, told)) == cases
    assert list(map(prose.structured, cases)) == cases


@pytest.mark.slow
def test_files_of_sentences_run(tmp_path, environment):
    chosen = ("lc_config_file_two_models", "ba_too_large", "grpc_predict_counter", "grpc_reload_duplicate_names")
    cases = [in_sentences(case) for case in read(CASES) if case["id"] in chosen]
    done = replay(environment, cases=cases, folder=tmp_path)
    assert done.stdout.splitlines()[-1] == "4 passed, 0 failed", done.stdout


def test_the_page_names_every_action_check_and_model():
    page = PAGE.read_text()
    lines = re.findall(r"^\| `(\w+)` \|(.*?)\|", page, re.MULTILINE)
    for table in (lifecycle.STEPS, lifecycle.CHECKS, batching.STEPS, batching.CHECKS):
        for name, method in table.items():
            _, *parameters = method.__code__.co_varnames[: method.__code__.co_argcount]
            assert (name, parameters) in [(n, re.findall(r"`(\w+)`", arguments)) for n, arguments in lines]
    for name in [*servers.MODELS, *wire.CALLS]:
        assert f"`{name}`" in page or f'"{name}"' in page


@pytest.mark.slow
def test_the_examples_of_the_page_hold(tmp_path, environment):
    cases = []
    for block in re.findall(r"```json\n(.*?)```", PAGE.read_text(), re.DOTALL):
        example = json.loads(block)
        cases += example if isinstance(example, list) else [example]
    done = replay(environment, cases=cases, folder=tmp_path)
    assert done.stdout.splitlines()[-1] == "3 passed, 0 failed", done.stdout
