"""Words -> structure: the one place where sentences of a case file become steps, checks, fixtures and configs.

A sentence that no rule fits stays a string, and whoever runs the case says that it was not run.  What each step and
check does is told in docs/how-to/conformance-cases.md.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from mlaas4hep_serving.conformance.compare import Case

Item = dict[str, Any]
Rule = tuple[str, Callable[..., list[Item]]]
NOT_LOADED = 999999  # a version that no server has


def structured(case: Case) -> Item:
    """The case with objects in the place of its sentences; what is no sentence stays as it is."""
    made = dict(case)
    if case.get("layer") in _RULES:
        steps, checks = _RULES[case["layer"]]
        made["steps"] = _converted(case.get("steps", []), steps)
        made["expect"] = _converted(_clauses(case.get("expect", [])), checks)
    if isinstance(case.get("fixture"), str):
        made["fixture"] = fixture(case["fixture"])
    request = case.get("request")
    if isinstance(request, Mapping):
        made["request"] = dict(request)
        if "sequence" in request:
            made["request"]["sequence"] = _converted(request["sequence"], _CALLS)
        if isinstance(request.get("config"), str):
            made["request"]["config"] = config(request["config"])
    return made


def _clauses(expect: Any) -> list[Any]:
    """Sentences taken apart at ``;``, but not inside quotes."""
    clauses: list[Any] = []
    for item in [expect] if isinstance(expect, str) else expect:
        parts = re.split(r'; (?=(?:[^"]*"[^"]*")*[^"]*$)', item) if isinstance(item, str) else [item]
        clauses += [part.strip() if isinstance(part, str) else part for part in parts if part]
    return clauses


def _converted(items: Iterable[Any], rules: Sequence[Rule]) -> list[Any]:
    return [made for item in items for made in (_items(item, rules) if isinstance(item, str) else [item])]


def _items(sentence: str, rules: Sequence[Rule]) -> list[Any]:
    """What a sentence stands for; the first of several has it as its ``text``."""
    for pattern, make in rules:
        match = re.search(pattern, sentence)
        if match:
            first, *more = make(*match.groups())
            return [{**first, "text": sentence}, *more]
    return [sentence]


def _do(action: str, **arguments: Any) -> list[Item]:
    return [{"action": action, **arguments}]


def _expect(check: str, **arguments: Any) -> list[Item]:
    return [{"check": check, **arguments}]


def _numbers(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", text)]


def _policy(kind: str, numbers: str | None) -> list[Item]:
    listed = _numbers(numbers or "")
    if kind == "specific":
        return _do("set_policy", policy=kind, versions=listed)
    return _do("set_policy", policy=kind, **({"num_versions": listed[0]} if listed else {}))


_LIFECYCLE_STEPS: list[Rule] = [
    (
        r"^start with model_config_file ?\{(.+)\}",
        lambda names: _do("list_models", models=re.split(r", ?", names)),
    ),
    (r'^start with file "(.*)"', lambda text: _do("run_process", config=text)),
    (r"^start with empty base_path", lambda: _do("start")),
    (r"^--(\w+)=(\S+)$", lambda flag, value: _do("set_flag", flag=flag, value=value)),
    (
        r"^rewrite config",
        lambda: [
            *_do("list_models", models=["half_plus_two"]),
            *_do("start"),
            *_do("rewrite_config", models=["half_plus_three"]),
            *_do("wait", seconds=1.2),
        ],
    ),
    (r"^(?:copy version|add v) ?(\d+)", lambda version: _do("add_versions", names=[version])),
    (r"^dirs? ([\w,]+)$", lambda names: _do("add_versions", names=names.split(","))),
    (r"^policy (\w+) ?(?:\{([\d, ]*)\})?", _policy),
    (
        r"^versions ([\d,]+) on disk, (\d+) served",
        lambda names, served: [
            *_do("add_versions", names=names.split(",")),
            *_do("start"),
            *_do("await_available", versions=[int(served)]),
        ],
    ),
    (r"^rm -r (\d+)", lambda version: _do("remove_version", name=version)),
    (
        r"^serve v(\d+) under load",
        lambda version: [
            *_do("add_versions", names=[version]),
            *_do("start"),
            *_do("await_available", versions=[int(version)]),
            *_do("start_load"),
        ],
    ),
    (r"tf_serving_warmup_requests", lambda: _do("add_warmup", records=3)),
]
_SWAP = (
    r"^v(\d+) is loaded then v(\d+) unloaded",
    r"^v(\d+) loaded BEFORE v(\d+) is unloaded",
)
_LIFECYCLE_CHECKS: list[Rule] = [
    (
        r"^predict (\w+)\(([\d.]+)\) ?= ?([\d.]+)",
        lambda model, x, y: _expect("predicts", model=model, x=float(x), y=float(y)),
    ),
    (r"^still serves (\w+)", lambda model: _expect("predicts", model=model, x=2.0, y=3.0)),
    (r"^predict ok", lambda: _expect("predicts", model="default", x=2.0, y=3.0)),
    (r"^process exits non-zero", lambda: _expect("process_fails")),
    (r'^stderr contains "(.*)"', lambda text: _expect("stderr_contains", contains=text)),
    (
        r"^(?:only )?(?:versions? )?([\d ,]+(?:and \d+)?)(?: \(int64\))? AVAILABLE",
        lambda names: _expect("available", versions=_numbers(names)),
    ),
    (r"^version becomes AVAILABLE", lambda: _expect("last_added_available")),
    *((pattern, lambda new, old: _expect("swapped", new=int(new), old=int(old))) for pattern in _SWAP),
    (r"^no NOT_FOUND during swap", lambda: _expect("load_unharmed")),
    (
        r"^after swap Latest\(\)=v(\d+), status lists v(\d+) END and v(\d+) AVAILABLE",
        lambda latest, old, new: [
            *_expect("latest", version=int(latest)),
            *_expect("states", states={old: "END", new: "AVAILABLE"}),
        ],
    ),
    (r"^non-numeric child ignored", lambda: _expect("numbers_available")),
    (r"^replayed before AVAILABLE", lambda: _expect("warmed_up", records=3)),
    (
        r'^>(\d+) records -> load error "(.*)"',
        lambda most, error: _expect("warmup_refused", records=int(most) + 1, error=error),
    ),
]


def _matrices(sizes: Iterable[int]) -> list[Item]:
    return _send("matrix_half_plus_two", [{"x": [size, 2, 2]} for size in sizes])


def _send(model: str, requests: list[Item], **more: Any) -> list[Item]:
    return _do("send", model=model, requests=requests, **more)


_BATCHING_STEPS: list[Rule] = [
    (r"concurrent requests of batch ([\d+]+)", lambda sizes: _matrices(_numbers(sizes))),
    (r"^one request of batch (\d+)", lambda size: _matrices([int(size)])),
    (
        r"^requests giving total ([\d or,]+)",
        lambda totals: [step for total in _numbers(totals) for step in _matrices([1] * total)],
    ),
    (
        r"^(\[[\d,]+\](?: and \[[\d,]+\])*)$",
        lambda shapes: _send(
            "matrix_half_plus_two", [{"x": _numbers(shape)} for shape in re.findall(r"\[[\d,]+\]", shapes)]
        ),
    ),
    (r"^start$", lambda: _do("read_parameters")),
    (r"^two inputs with different 0th dim", lambda: _send("two_inputs", [{"a": [1], "b": [2]}])),
    (r"^rank-0 input", lambda: _send("scalar_out", [{"x": []}])),
    (r"^model returning a scalar", lambda: _send("scalar_out", [{"x": [2]}], signature="scalar_out")),
]
_BATCHING_CHECKS: list[Rule] = [
    (r'^(?:both )?([A-Z_]{4,}) "(.+)"', lambda code, text: _expect("fails", code=code, message=text)),
    (r"^one wrapped run", lambda: _expect("runs", count=1)),
    (r"^each caller gets its own rows in order", lambda: _expect("own_rows")),
    (r"^padded with first element", lambda: _expect("padded")),
    (r"^both succeed", lambda: _expect("all_succeed")),
    (r"^run at (\d+) with dummy rows, dummy rows dropped", lambda rows: _expect("ran_at", rows=int(rows))),
]
_RULES = {
    "lifecycle": (_LIFECYCLE_STEPS, _LIFECYCLE_CHECKS),
    "batching": (_BATCHING_STEPS, _BATCHING_CHECKS),
}


def _call(signature: str, alias: str | None, value: str | None, output: str) -> list[Item]:
    inputs = {"inputs": {alias: float(value or 0)}} if alias else {}
    return _do("predict", signature=signature, **inputs, output=float(output))


_CALLS: list[Rule] = [(r"^(\w+)(?:\((\w+)=([\d.]+)\))? ?-> ?([\d.]+)$", _call)]

# what a fixture's description contains -> the model; the first that fits
_MODELS = (
    (r"hp2_tf2", "half_plus_two_tf2"),
    (r"two_inputs", "two_inputs"),
    (r"matrix_half_plus_two", "matrix_half_plus_two"),
    (r"half_plus_three", "half_plus_three"),
    (r"saved_model_counter", "saved_model_counter"),
    (r"scalar_out", "scalar_out"),
    (r"y ?= ?3 ?\* ?2 ?\* ?x", "product"),
    (r"identity", "identity"),
    (r"slow", "slow"),
    (r"string model", "strings"),
    (r"hp2|half_plus_two|^--", "half_plus_two"),
)


def fixture(text: str) -> Item | str:
    """A fixture's description as an object; the text where no model is found in it."""
    model = next((name for pattern, name in _MODELS if re.search(pattern, text)), None)
    if model is None:
        return text
    made: Item = {"model": model}
    if "2_versions" in text:
        made["versions"] = ["00000123", "124"]
    if labels := re.findall(r"label (\w+) ?-> ?(\d+)", text):
        made["labels"] = {label: int(version) for label, version in labels}
    if "policy all" in text:
        made["policy"] = "all"
    if "monitoring_config" in text:
        made["monitoring_config"] = _braces(text, "monitoring_config")
    if flags := re.findall(r"--(\w+)(?:=(\S+))?", text):
        made["flags"] = {flag: value or "true" for flag, value in flags}
    return made | {"text": text}


def _braces(text: str, name: str) -> str:
    """What stands in the braces behind ``name``."""
    start = text.index("{", text.index(name)) + 1
    depth = 1
    for i, mark in enumerate(text[start:], start):
        depth += (mark == "{") - (mark == "}")
        if not depth:
            return text[start:i]
    return text[start:]


def config(text: str) -> Item | str:
    """The models of a config that is told in words; the text where it is something else (a text-proto)."""
    if repeated := re.search(r"same name (\w+)$", text):
        models: list[Item] = [{"name": repeated[1]}] * 2
    elif path := re.search(r'base_path: ?"([^"]*)"', text):
        models = [{"base_path": path[1]}]
    elif "other model_platform" in text:
        models = [{"model_platform": "other_platform"}]
    elif label := re.search(r'version_labels ?\{ ?key: ?"(\w+)" value: ?(\d+|<not loaded>)', text):
        models = [{"version_labels": {label[1]: NOT_LOADED if label[2].startswith("<") else int(label[2])}}]
    else:
        return text
    return {"models": models, "text": text}
