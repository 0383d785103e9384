"""Inputs that nobody would send on purpose: no crash, no hang, no traceback in a reply, no 500 for a client's fault.

A few hundred of each kind by default; MLAAS4HEP_FUZZ=50000 runs so many in all, and as many guided by coverage.
"""

import contextlib
import importlib.util
import json
import os
import socket
import string
import subprocess
import sys
import time
from pathlib import Path
from random import Random

import grpc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mlaas4hep_serving.conformance import fixtures
from mlaas4hep_serving.errors import ServingError
from mlaas4hep_serving.frontends.http import Request
from mlaas4hep_serving.frontends.rest import Rest, RestOptions
from mlaas4hep_serving.options import Options
from mlaas4hep_serving.server import Server
from mlaas4hep_serving.tfaas import endpoints
from mlaas4hep_serving.tfaas.endpoints import Tfaas
from mlaas4hep_serving.tfaas.uploads import Uploads
from tensorflow_serving.apis.classification_pb2 import ClassificationRequest
from tensorflow_serving.apis.inference_pb2 import MultiInferenceRequest
from tensorflow_serving.apis.predict_pb2 import PredictRequest

KINDS = 5
COUNT = int(os.environ.get("MLAAS4HEP_FUZZ", 150 * KINDS)) // KINDS
MANY = settings(
    max_examples=COUNT,
    deadline=None,
    derandomize="MLAAS4HEP_FUZZ" not in os.environ,
    database=None,
    suppress_health_check=list(HealthCheck),
)
SLOWEST = 20.0  # seconds; a hang, not a limit of speed
MODELS = ("half_plus_two", "two_inputs", "matrix_half_plus_two", "saved_model_counter")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    base = tmp_path_factory.mktemp("fuzz")
    entries = []
    for name in MODELS:
        getattr(fixtures, name)(base / name / "1")
        entries.append(f'config {{ name: "{name}" base_path: "{base / name}" model_platform: "tensorflow" }}')
    (base / "models.config").write_text(f"model_config_list {{ {' '.join(entries)} }}")
    running = Server(
        Options(
            port=-1,
            rest_api_port=-1,
            model_config_file=str(base / "models.config"),
            enable_model_list=True,
            enable_batching=True,
        )
    )
    running.uploads = Uploads(base / "uploads", running.repository)
    yield running
    running.stop()


@pytest.fixture(scope="module")
def rest(server):
    return Rest(server.handlers, RestOptions(routes=[Tfaas(server.handlers, server.uploads)]))


def ask(rest: Rest, method: str, path: str, body: bytes, **headers: str) -> None:
    """One request; what it must hold whatever it is."""
    start = time.monotonic()
    reply = rest.respond(Request(method, path, headers, body, start + 30))
    assert time.monotonic() - start < SLOWEST
    assert reply.status in (200, 400, 403, 404, 409, 413, 429), (reply.status, reply.body, method, path, body[:2000])
    assert b"Traceback" not in reply.body and b'File "' not in reply.body
    if reply.status != 200 and ("Content-Type", "application/json") in reply.headers:
        assert json.loads(reply.body.decode("utf-8", "surrogateescape"))["error"]


# JSON bodies.  A seed decides all of one: hypothesis draws it, plain Python makes the body, so that 50 000 take minutes.

SEEDS = st.integers(0, 2**64 - 1)
NUMBERS = [
    0,
    1,
    -1,
    2.5,
    2**24 + 1,
    2**31,
    2**53 + 1,
    2**63,
    2**64,
    -(2**70),
    1e308,
    5e-324,
    float("nan"),
    float("inf"),
]
WORDS = ["", "a", "é", "\u0000", "\ud800", "\U0001f600", "NaN", "../", "x" * 300]
KEYS = ["x", "a", "b", "x2", "inputs", "delta", "", "y", "b64"]
SIGNATURES = ["serving_default", "regress_x_to_y", "classify_x_to_y", "regress_x2_to_y3", "incr_counter_by", "", "none"]
SCRAPS = [
    b"",
    b"NaN",
    b"-Inf",
    b"1e999",
    b"\\ud800",
    b"[",
    b"{",
    b'"',
    b",",
    b"\x00",
    b"\xff",
    b"9" * 400,
    b'{"b64":',
    b"[" * 1100,
]


def value(rng: Random, depth: int = 0):
    match rng.randrange(10 if depth < 5 else 7):
        case 0:
            return rng.choice([None, True, False])
        case 1 | 2 | 3:
            return rng.choice(NUMBERS)
        case 4:
            return rng.randint(-(10**6), 10**6)
        case 5:
            return rng.choice(WORDS)
        case 6:
            return {"b64": rng.choice(["aGVsbG8=", "*", "", "a", "_-8="])}
        case 7 | 8:
            return [value(rng, depth + 1) for _ in range(rng.randrange(4))]
        case _:
            return {rng.choice(KEYS): value(rng, depth + 1) for _ in range(rng.randrange(4))}


def rows(rng: Random):
    if rng.random() < 0.3:  # rows that a model takes, most of the time
        return [
            {key: rng.choice(NUMBERS) for key in rng.choice([("x",), ("a", "b"), ("delta",)])}
            for _ in range(rng.randrange(4))
        ]
    return [value(rng) for _ in range(rng.randrange(4))]


def body_of(seed: int) -> bytes:
    """JSON close to a request, with bytes cut out, doubled, put in; or no JSON at all."""
    rng = Random(seed)
    if rng.random() < 0.05:
        return rng.randbytes(rng.randrange(200))
    parts = {
        "signature_name": lambda: rng.choice([*SIGNATURES, 3, None]),
        "instances": lambda: rows(rng) if rng.random() < 0.8 else value(rng),
        "inputs": lambda: value(rng) if rng.random() < 0.5 else {key: rows(rng) for key in rng.sample(KEYS, 2)},
        "examples": lambda: rows(rng),
        "context": lambda: {rng.choice(KEYS): value(rng)},
        "keys": lambda: rng.choices(KEYS, k=rng.randrange(3)),
        "values": lambda: rng.choices(NUMBERS, k=rng.randrange(3)),
        "model": lambda: rng.choice([*MODELS, None, 1]),
    }
    chosen = [name for name in parts if rng.random() < 0.4]
    text = json.dumps({name: parts[name]() for name in chosen}, ensure_ascii=rng.random() < 0.5)
    return damaged(text.encode("utf-8", "surrogatepass"), rng)


def damaged(body: bytes, rng: Random) -> bytes:
    for _ in range(rng.choice([0, 0, 1, 2, 4])):
        at = rng.randint(0, len(body))
        body = body[:at] + rng.choice(SCRAPS) + body[at + rng.choice([0, 1, 5, 20]) :]
    return body


PATHS = [f"/v1/models/{model}:{verb}" for model in MODELS for verb in ("predict", "classify", "regress")] + [
    "/json",
    "/predict/json",
]


@MANY
@given(st.sampled_from(PATHS), SEEDS)
def test_json_bodies(rest, path, seed):
    ask(rest, "POST", path, body_of(seed))


@MANY
@given(
    st.sampled_from(["/proto", "/image", "/params", "/v1/models/half_plus_two:predict"]),
    st.binary(max_size=100) | SEEDS.map(body_of),
    st.sampled_from(
        [
            "multipart/form-data; boundary=B",
            "multipart/form-data",
            "application/x-www-form-urlencoded",
            "text/plain",
            "",
        ]
    ),
    st.sampled_from(["", "gzip", "base64"]),
)
def test_other_bodies(rest, path, body, kind, encoding):
    framed = b'--B\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n' + body + b"\r\n--B--\r\n"
    given_body = framed if kind.endswith("=B") and len(body) % 2 else body
    ask(rest, "POST", path, given_body, **{"content-type": kind, "content-encoding": encoding})
    with contextlib.suppress(ServingError):
        endpoints.read_upload(
            Request("POST", "/upload", {"content-type": kind, "content-encoding": encoding}, given_body)
        )


# URLs, over a real connection

PIECES = st.sampled_from(
    ["/", "v1", "models", "half_plus_two", "versions", "labels", "1", "metadata", ":predict", ":", "?", "#", "%2e", "%", "%ff", "..", "a=b", "healthz", "readyz", "99999999999999999999", " ", "\\", "é", "\x7f", "*", "//", "http://x/"]
) | st.text(alphabet=string.printable, max_size=5)  # fmt: skip
URLS = st.lists(PIECES, max_size=8).map(lambda parts: "/" + "".join(parts))
METHODS = st.sampled_from(
    ["GET", "POST", "PUT", "DELETE", "OPTIONS", "HEAD", "PATCH", "CONNECT", "TRACE", "get", "XYZ"]
)


@MANY
@given(METHODS, URLS, st.sampled_from([b"", b'{"instances": [1.0]}', b"\xff"]))
def test_urls(server, method, url, body):
    line = f"{method} {url} HTTP/1.1\r\n".encode("utf-8", "replace")
    start = time.monotonic()
    with socket.create_connection(("127.0.0.1", server.rest_port), timeout=SLOWEST) as connection:
        connection.sendall(line + b"Host: a\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        reply = b""
        try:
            while data := connection.recv(65536):
                reply += data
        except ConnectionResetError:
            pass
    assert time.monotonic() - start < SLOWEST
    if reply:
        status = int(reply.split()[1])
        assert status in (200, 400, 401, 403, 404, 405, 413, 431, 501), reply[:500]
        assert b"Traceback" not in reply
    if start % 1 < 0.02:
        with socket.create_connection(("127.0.0.1", server.rest_port), timeout=SLOWEST) as connection:
            connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            assert connection.recv(100).startswith(b"HTTP/1.1 200")


# protobuf bytes, over a real channel


def valid_messages() -> list[bytes]:
    predict = PredictRequest()
    predict.model_spec.name = "half_plus_two"
    predict.inputs["x"].dtype = 1
    predict.inputs["x"].tensor_shape.dim.add(size=2)
    predict.inputs["x"].float_val.extend([1.0, 2.0])
    content = PredictRequest()
    content.CopyFrom(predict)
    content.inputs["x"].ClearField("float_val")
    content.inputs["x"].tensor_content = b"\0" * 8
    classify = ClassificationRequest()
    classify.model_spec.name, classify.model_spec.signature_name = "half_plus_two", "classify_x_to_y"
    classify.input.example_list.examples.add().features.feature["x"].float_list.value.append(1.0)
    multi = MultiInferenceRequest(input=classify.input)
    multi.tasks.add(model_spec=classify.model_spec, method_name="tensorflow/serving/classify")
    return [message.SerializeToString() for message in (predict, content, classify, multi)]


VALID = valid_messages()
RPCS = [
    *(f"/tensorflow.serving.PredictionService/{name}" for name in ("Predict", "Classify", "Regress", "MultiInference", "GetModelMetadata")),
    "/tensorflow.serving.ModelService/GetModelStatus",
]  # fmt: skip


def wire_of(seed: int) -> bytes:
    """A valid message with some bytes changed, cut out or put in; or bytes."""
    rng = Random(seed)
    if rng.random() < 0.1:
        return rng.randbytes(rng.randrange(100))
    message = bytearray(rng.choice(VALID))
    for _ in range(rng.randrange(4)):
        at = rng.randint(0, max(len(message) - 1, 0))
        match rng.randrange(3):
            case 0 if message:
                message[at] = rng.randrange(256)
            case 1:
                del message[at : at + rng.randint(1, 6)]
            case _:
                message[at:at] = rng.randbytes(rng.randrange(6))
    return bytes(message)


@pytest.fixture(scope="module")
def channel(server):
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as opened:
        yield opened


FAULTS = {
    "OK",
    "INVALID_ARGUMENT",
    "NOT_FOUND",
    "FAILED_PRECONDITION",
    "UNIMPLEMENTED",
    "RESOURCE_EXHAUSTED",
    "OUT_OF_RANGE",
}


@MANY
@given(st.sampled_from(RPCS), SEEDS.map(wire_of))
def test_protobuf_bytes(channel, rpc, message):
    code, details = "OK", ""
    try:
        channel.unary_unary(rpc)(message, timeout=SLOWEST)
    except grpc.RpcError as error:
        code, details = error.code().name, error.details() or ""
    assert "Traceback" not in details and 'File "' not in details
    # bytes that are no message: gRPC itself answers INTERNAL, as TF-Serving's does
    assert code in FAULTS or (code == "INTERNAL" and details == "Exception deserializing request!"), (
        code,
        details,
        rpc,
        message,
    )


@MANY
@given(SEEDS.map(wire_of) | st.binary(max_size=60))
def test_rows_of_tfaas(rest, message):
    ask(rest, "POST", "/proto", message)


@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="atheris is not installed")
def test_inputs_guided_by_coverage(tmp_path, environment):
    script = Path(__file__).with_name("coverage_fuzz.py")
    command = [sys.executable, script, f"-runs={COUNT * KINDS}", "-timeout=20", f"-artifact_prefix={tmp_path}/"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-5000:]
    assert f"Done {COUNT * KINDS} runs" in done.stderr
    assert not list(tmp_path.iterdir())
