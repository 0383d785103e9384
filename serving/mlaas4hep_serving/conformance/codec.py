"""The layers that speak to the codec alone."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from tensorflow.core.framework import types_pb2
from tensorflow_serving.apis.classification_pb2 import ClassificationResult
from tensorflow_serving.apis.regression_pb2 import RegressionResult

from mlaas4hep_serving import metrics
from mlaas4hep_serving.conformance.compare import Case, NotRun, body, check, equal, known, message
from mlaas4hep_serving.errors import ServingError
from mlaas4hep_serving.wire import json_requests, json_responses, paths, tensors


def run_path(case: Case) -> None:
    """Layer ``path``."""
    request, expect = case["request"], case["expect"]
    known(
        expect, ("ok", "name", "label", "version", "method", "subresource", "error_equals", "error_contains"), "expect"
    )
    target = _attempt(lambda: paths.parse(request["method"], request["path"]), expect)
    if target is _REFUSED:
        return
    check((target is not None) == expect.get("ok", True), f"expected ok={expect.get('ok')}, got {target}")
    for key in ("name", "label", "version", "method", "subresource"):
        if key in expect:
            wanted = expect[key]
            got = getattr(target, key)
            check(str(got or "") == str(wanted or ""), f"{key}: expected {wanted!r}, got {got!r}")


_REFUSED: Any = object()
_ERRORS = ("error_contains", "error_equals", "code", "http")


def _attempt(act: Callable[[], Any], expect: Case) -> Any:
    """The result; or, where the case expects an error and it is the right one, `_REFUSED`."""
    refused = any(key in expect for key in _ERRORS)
    try:
        result = act()
    except ServingError as error:
        check(refused, f"refused: {error}")
        message(expect, error.message, "error")
        if "code" in expect:
            check(error.code.name == expect["code"], f"code: expected {expect['code']}, got {error.code.name}")
        if "http" in expect:
            check(error.code.http == expect["http"], f"http: expected {expect['http']}, got {error.code.http}")
        return _REFUSED
    check(not refused, f"expected an error ({expect}), got a result")
    return result


def run_json2tensor(case: Case) -> None:
    """Layer ``json2tensor``."""
    expect = case["expect"]
    known(expect, ("format", "signature_name", "tensors", "int_val", *_ERRORS), "expect")
    dtypes = {name: types_pb2.DataType.Value(dtype) for name, dtype in case["infomap"].items()}
    request = _attempt(lambda: json_requests.predict_request(body(case["body"]), lambda _: dtypes), expect)
    if request is _REFUSED:
        return
    for key in ("format", "signature_name"):
        if key in expect:
            equal(expect[key], getattr(request, key), key)
    if "tensors" in expect:
        equal(sorted(expect["tensors"]), sorted(request.inputs), "tensor names")
        for name, wanted in expect["tensors"].items():
            _tensor(wanted, request.inputs[name], name)
    if "int_val" in expect:
        (array,) = request.inputs.values()
        equal(np.array(expect["int_val"]).astype(array.dtype).tolist(), array.ravel().tolist(), "int_val")


def _tensor(wanted: Mapping[str, Any], array: tensors.Array, name: str) -> None:
    dtype = types_pb2.DataType.Name(tensors.enum_of(array))
    equal(wanted.get("dtype", dtype), dtype, f"{name}.dtype")
    equal(wanted.get("shape", list(array.shape)), list(array.shape), f"{name}.shape")
    values = [v.decode() if isinstance(v, bytes) else v for v in array.ravel().tolist()]
    equal(wanted.get("values", values), values, f"{name}.values")


def run_json2examples(case: Case) -> None:
    """Layer ``json2examples``."""
    expect = case["expect"]
    known(expect, ("kind", "signature_name", "context", "examples", *_ERRORS), "expect")
    result = _attempt(lambda: json_requests.examples_request(body(case["body"])), expect)
    if result is _REFUSED:
        return
    name, given = result
    equal(expect.get("signature_name", name), name, "signature_name")
    equal(expect.get("kind", given.WhichOneof("kind")), given.WhichOneof("kind"), "kind")
    listed = getattr(given, given.WhichOneof("kind"))
    if "context" in expect:
        equal(expect["context"], _features(listed.context), "context")
    if "examples" in expect:
        equal(expect["examples"], [_features(example) for example in listed.examples], "examples")


def _features(example: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, feature in example.features.feature.items():
        kind = feature.WhichOneof("kind")
        values = list(getattr(feature, kind).value) if kind else []
        values = [v.decode() if isinstance(v, bytes) else v for v in values]
        found[name] = {kind.removesuffix("_list"): values} if kind else {}
    return found


def run_tensor2json(case: Case) -> None:
    """Layer ``tensor2json``."""
    expect = case["expect"]
    known(expect, ("row", "columnar", *_ERRORS), "expect")
    arrays = {name: _array(given) for name, given in case["tensors"].items()}
    forms: tuple[json_requests.Format, ...] = ("row", "columnar")
    for form in forms:
        if form not in expect and not any(key in expect for key in _ERRORS):
            continue
        refusing = {key: value for key, value in expect.items() if key in _ERRORS} if form not in expect else {}
        written = _attempt(lambda form=form: json_responses.predict_response(arrays, form), refusing)  # type: ignore[misc]
        if written is not _REFUSED:
            equal(json.loads(expect[form]), json.loads(written), form)


def _array(given: Mapping[str, Any]) -> tensors.Array:
    kind = tensors.numpy_dtype(types_pb2.DataType.Value(given["dtype"]))
    values = given["values"]
    if kind is object:
        flat = np.empty(len(values), object)
        flat[:] = [v.encode() if isinstance(v, str) else v for v in values]
    elif np.dtype(kind).kind == "c":
        flat = np.array([complex(v.replace("i", "j")) for v in values], kind)
    else:
        flat = np.array([float(v) if isinstance(v, str) else v for v in values], kind)
    return flat.reshape(given["shape"])


def run_result2json(case: Case) -> None:
    """Layer ``result2json``."""
    given, expect = case["input"], case["expect"]
    known(expect, ("json", *_ERRORS), "expect")
    written = _attempt(lambda: _result(given), expect)
    if written is not _REFUSED:
        equal(expect["json"], json.loads(written), "json")


def _result(given: Mapping[str, Any]) -> bytes:
    if "status" in given:
        return json_responses.error_response(given["status"][1])
    if "classifications" in given:
        classified = ClassificationResult()
        for row in given["classifications"]:
            classes = classified.classifications.add().classes
            for entry in row.get("classes", row) if isinstance(row, Mapping) else row:
                label, score = (entry["label"], entry["score"]) if isinstance(entry, Mapping) else entry
                classes.add(label=label, score=float(score))
        return json_responses.classify_response(classified)
    if "regressions" in given:
        regressed = RegressionResult()
        for value in given["regressions"]:
            regressed.regressions.add(value=float(value["value"] if isinstance(value, Mapping) else value))
        return json_responses.regress_response(regressed)
    raise NotRun(f"input is not understood: {given}")


def run_metrics(case: Case) -> None:
    """Layer ``metrics``: one metric, written."""
    given, expect = case["input"], case["expect"]
    known(expect, ("text", "line", "lines", "contains"), "expect")
    labels = tuple(given.get("labels", {}).items())
    kind = given.get("kind", "counter")
    values = [float(given["value"])] if kind != "histogram" else [float(v) for v in given["value"]]
    text = metrics.render({(kind, given["name"]): {labels: values}})
    check(expect.get("text", text) == text, f"expected {expect.get('text')!r}, got {text!r}")
    for line in [*expect.get("lines", []), *([expect["line"]] if "line" in expect else [])]:
        check(line in text.splitlines(), f"expected the line {line!r}, got {text!r}")
    for part in expect.get("contains", []):
        check(part in text, f"expected {part!r} in {text!r}")
