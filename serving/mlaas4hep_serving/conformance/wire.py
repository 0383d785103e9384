"""The layers ``rest`` and ``grpc``: requests to a running server."""

from __future__ import annotations

import base64
import http.client
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import grpc
from google.protobuf import json_format, text_format
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tensorflow.core.example.example_pb2 import Example
from tensorflow.core.framework import types_pb2
from tensorflow.core.framework.tensor_pb2 import TensorProto
from tensorflow_serving.apis import model_service_pb2_grpc, prediction_service_pb2_grpc
from tensorflow_serving.apis.classification_pb2 import ClassificationRequest
from tensorflow_serving.apis.get_model_metadata_pb2 import GetModelMetadataRequest, SignatureDefMap
from tensorflow_serving.apis.get_model_status_pb2 import GetModelStatusRequest
from tensorflow_serving.apis.inference_pb2 import MultiInferenceRequest
from tensorflow_serving.apis.model_management_pb2 import ReloadConfigRequest
from tensorflow_serving.apis.predict_pb2 import PredictRequest
from tensorflow_serving.apis.regression_pb2 import RegressionRequest
from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

from mlaas4hep_serving.conformance.compare import Case, NotRun, body, check, equal, known, message
from mlaas4hep_serving.conformance.servers import Endpoint
from mlaas4hep_serving.conformance.steps import Table, follow, validate
from mlaas4hep_serving.models.savedmodel import read_proto
from mlaas4hep_serving.wire.tensors import from_proto

TIMEOUT = 30.0
_VALUES = [field.name for field in TensorProto.DESCRIPTOR.fields if field.name.endswith("_val")]
_REQUESTS = {
    "Predict": PredictRequest,
    "Classify": ClassificationRequest,
    "Regress": RegressionRequest,
    "MultiInference": MultiInferenceRequest,
    "GetModelMetadata": GetModelMetadataRequest,
    "GetModelStatus": GetModelStatusRequest,
    "HandleReloadConfigRequest": ReloadConfigRequest,
    "Check": health_pb2.HealthCheckRequest,
}


def run_rest(case: Case, server: Endpoint, folder: Path) -> None:
    """Layer ``rest``; ``folder`` is where ``$file`` is looked for."""
    expect = case["expect"]
    known(
        expect,
        ("http", "json", "error_equals", "error_contains", "body_contains", "body_equals", "headers"),
        "expect",
    )
    for request in (*case.get("before", []), case["request"]):
        known(request, ("body", "headers"), "request", ("method", "path"))
    for request in case.get("before", []):
        _http(request, server)
    status, headers, content = _http(case["request"], server)
    check(status == expect.get("http", status), f"http: expected {expect.get('http')}, got {status}: {content!r}")
    text = content.decode()
    for part in expect.get("body_contains", []):
        check(part in text, f"expected {part!r} in the body {text!r}")
    check(text == expect.get("body_equals", text), f"expected the body {expect.get('body_equals')!r}, got {text!r}")
    for name, value in expect.get("headers", {}).items():
        check(headers.get(name.lower(), "").startswith(value), f"header {name}: expected {value}, got {headers}")
    if any(key.startswith("error_") for key in expect):
        message(expect, json.loads(text)["error"], "error")
    if "json" in expect:
        _json(expect["json"], json.loads(text), server, folder)


def _http(request: Case, server: Endpoint) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection(server.host, server.rest_port, timeout=TIMEOUT)
    try:
        sent = body(request["body"]) if "body" in request else None
        connection.request(request["method"], request["path"], body=sent, headers=dict(request.get("headers", {})))
        response = connection.getresponse()
        return response.status, {k.lower(): v for k, v in response.getheaders()}, response.read()
    finally:
        connection.close()


def _json(expected: Any, got: Any, server: Endpoint, folder: Path) -> None:
    if not (isinstance(expected, Mapping) and "$file" in expected):
        equal(expected, got, "json")
        return
    file = folder / Path(expected["$file"]).name
    if file.exists():
        equal(json.loads(file.read_text()), got, "json")
    elif server.model is not None:
        _metadata(got, server.model)
    else:
        raise NotRun(f"{file} is not here, and the model of the server is not known")


def _metadata(got: Any, model: Path) -> None:
    """Metadata against the signatures that the model's own file has."""
    signatures = got["metadata"]["signature_def"]["signature_def"]
    wanted = read_proto(model).meta_graphs[0].signature_def
    parsed = json_format.ParseDict({"signature_def": signatures}, SignatureDefMap())
    # TensorFlow's loader adds a signature for initialisation, which TF-Serving shows as well
    for name, signature in wanted.items():
        check(parsed.signature_def[name] == signature, f"signature {name}: {signatures.get(name)}")
    check(set(signatures) == set(wanted), f"signatures: expected {sorted(wanted)}, got {sorted(signatures)}")
    for signature in signatures.values():
        check("defaults" in signature, "SignatureDef.defaults is not written")
    check(set(got["model_spec"]) >= {"name", "signature_name", "version"}, f"model_spec: {got['model_spec']}")


def run_grpc(case: Case, server: Endpoint) -> None:
    """Layer ``grpc``."""
    known(
        case["expect"],
        ("code", "message", "message_contains", "message_suffix", "message_prefix", "response"),
        "expect",
    )
    service, method = case["rpc"].rsplit("/", 1)
    with grpc.insecure_channel(server.grpc) as channel:
        call = getattr(_stub(service, channel), method)
        if "sequence" in case["request"]:
            _sequence(case["request"]["sequence"], call)
            return
        deadline = case["request"].get("deadline_ms")
        _unary(case, call, message_of(method, case["request"], server), deadline / 1000 if deadline else TIMEOUT)


def _stub(service: str, channel: grpc.Channel) -> Any:
    if service.endswith("PredictionService"):
        return prediction_service_pb2_grpc.PredictionServiceStub(channel)
    if service.endswith("ModelService"):
        return model_service_pb2_grpc.ModelServiceStub(channel)
    return health_pb2_grpc.HealthStub(channel)


def _unary(case: Case, call: Any, request: Any, timeout: float) -> None:
    expect = case["expect"]
    code, details, response = "OK", "", None
    try:
        response = call(request, timeout=timeout)
    except grpc.RpcError as error:
        code, details = error.code().name, error.details() or ""
    wanted = expect.get("code", "OK")
    check(code == wanted, f"code: expected {wanted}, got {code} {details!r}")
    message(expect, details, "message")
    if "response" in expect:
        _response(expect["response"], response)


def _sequence(steps: Sequence[Any], call: Any) -> None:
    validate(steps, "action", CALLS)
    follow(steps, "action", CALLS, call)


def _predict(call: Any, signature: str, output: float, inputs: Mapping[str, float] | None = None) -> None:
    """One Predict of a signature with scalar inputs and one output."""
    request = PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = "default", signature
    for alias, value in (inputs or {}).items():
        request.inputs[alias].CopyFrom(TensorProto(dtype=types_pb2.DT_FLOAT, float_val=[value]))
    (got,) = call(request, timeout=TIMEOUT).outputs.values()
    equal(output, got.float_val[0], signature)


CALLS: Table = {"predict": _predict}


def message_of(method: str, given: Case, server: Endpoint) -> Any:
    """The request message of a case."""
    known(
        given,
        (
            "model_spec",
            "inputs",
            "output_filter",
            "input",
            "tasks",
            "metadata_field",
            "config",
            "service",
            "deadline_ms",
        ),
        "request",
    )
    request = _REQUESTS[method]()
    if "model_spec" in given:
        _spec(request.model_spec, given["model_spec"])
    for alias, tensor in given.get("inputs", {}).items():
        _tensor(request.inputs[alias], tensor)
    for field in ("output_filter", "metadata_field"):
        if field in given:
            getattr(request, field).extend(given[field])
    if "input" in given:
        _input(request.input, given["input"])
    for task in given.get("tasks", []):
        added = request.tasks.add(method_name=task.get("method_name", ""))
        _spec(added.model_spec, task["model_spec"])
    if "config" in given:
        request.config.CopyFrom(_config(given["config"], server))
    if "service" in given:
        request.service = given["service"]
    return request


def _spec(spec: Any, given: Case) -> None:
    spec.SetInParent()
    known(given, ("name", "signature_name", "version", "version_label"), "model_spec")
    for field in ("name", "signature_name", "version_label"):
        if field in given:
            setattr(spec, field, given[field])
    if "version" in given:
        spec.version.value = int(given["version"])


def _tensor(proto: Any, given: Case) -> None:
    known(given, ("shape", "tensor_content", *_VALUES), "a tensor", ("dtype",))
    proto.dtype = types_pb2.DataType.Value(given["dtype"])
    for size in given.get("shape", []):
        proto.tensor_shape.dim.add().size = size
    for field, values in given.items():
        if field == "tensor_content":
            proto.tensor_content = base64.b64decode(values)
        elif field.endswith("_val"):
            items = [v.encode() if field == "string_val" else float(v) if isinstance(v, str) else v for v in values]
            getattr(proto, field).extend(items)


def _input(out: Any, given: Case) -> None:
    known(given, ("example_list", "example_list_with_context"), "input")
    if "example_list" in given:
        out.example_list.SetInParent()
        for example in given["example_list"]:
            _example(out.example_list.examples.add(), example)
    if "example_list_with_context" in given:
        listed = given["example_list_with_context"]
        _example(out.example_list_with_context.context, listed.get("context", {}))
        for example in listed.get("examples", []):
            _example(out.example_list_with_context.examples.add(), example)


def _example(out: Example, given: Case) -> None:
    for name, feature in given.items():
        for kind, values in feature.items():
            items = [v.encode() if kind == "bytes" else v for v in values]
            getattr(out.features.feature[name], f"{kind}_list").value.extend(items)


def _config(given: Any, server: Endpoint) -> ModelServerConfig:
    """A config from the models of a case, from the message as JSON, or from a text-proto."""
    if isinstance(given, str):
        try:
            return text_format.Parse(given, ModelServerConfig())
        except text_format.ParseError as error:
            raise NotRun(f"config is not understood: {given!r}: {error}") from None
    if "models" not in given:
        return json_format.ParseDict(given, ModelServerConfig())
    known(given, ("models", "text"), "config")
    base = str(server.model.parent) if server.model else "/models/half_plus_two"
    config = ModelServerConfig()
    for model in given["models"]:
        known(model, ("name", "base_path", "model_platform", "version_labels"), "a model of the config")
        served = {"name": "default", "base_path": base, "model_platform": "tensorflow", **model}
        json_format.ParseDict(served, config.model_config_list.config.add())
    return config


def _response(expect: Case, got: Any) -> None:
    known(
        expect,
        ("outputs", "model_spec", "result", "results", "metadata_keys", "model_version_status", "n_versions", "status"),
        "response",
    )
    for alias, wanted in expect.get("outputs", {}).items():
        check(alias in got.outputs, f"no output {alias}: {sorted(got.outputs)}")
        _output(wanted, got.outputs[alias], alias)
    if "model_spec" in expect:
        spec = got.model_spec
        seen = {"name": spec.name, "signature_name": spec.signature_name, "version": spec.version.value}
        equal(expect["model_spec"], {key: seen[key] for key in expect["model_spec"]}, "model_spec")
    if "result" in expect:
        equal(expect["result"], _result(got.result), "result")
    if "results" in expect:
        equal(expect["results"], [_inference(result) for result in got.results], "results")
        check(all(r.model_spec.version.value for r in got.results), "a result has no version")
    if "metadata_keys" in expect:
        equal(sorted(expect["metadata_keys"]), sorted(got.metadata), "metadata")
    if "model_version_status" in expect:
        equal(expect["model_version_status"], [_status(s) for s in got.model_version_status], "status")
    if "n_versions" in expect:
        equal(expect["n_versions"], len(got.model_version_status), "n_versions")
    if "status" in expect:
        equal(expect["status"], health_pb2.HealthCheckResponse.ServingStatus.Name(got.status), "status")


def _output(wanted: Case, got: TensorProto, alias: str) -> None:
    known(wanted, ("dtype", "shape", *_VALUES), f"output {alias}")
    if "dtype" in wanted:
        equal(wanted["dtype"], types_pb2.DataType.Name(got.dtype), f"{alias}.dtype")
    if "shape" in wanted:
        equal(wanted["shape"], [dim.size for dim in got.tensor_shape.dim], f"{alias}.shape")
    for field, values in wanted.items():
        if field.endswith("_val"):
            check(not got.tensor_content, f"{alias} came as tensor_content")
            equal(values, from_proto(got, alias).ravel().tolist(), f"{alias}.{field}")


def _result(result: Any) -> dict[str, Any]:
    if hasattr(result, "regressions"):
        return {"regressions": [r.value for r in result.regressions]}
    return {"classifications": [[[c.label, c.score] for c in row.classes] for row in result.classifications]}


def _inference(result: Any) -> dict[str, Any]:
    kind = result.WhichOneof("result")
    ((_, values),) = _result(getattr(result, kind)).items()
    return {kind: values}


def _status(status: Any) -> dict[str, Any]:
    name = type(status).State.Name(status.state)
    return {"version": status.version, "state": name, "error_code": status.status.error_code}
