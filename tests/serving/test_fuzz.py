"""Inputs that nobody would send on purpose: no crash, no hang, no traceback in a reply, no 500 for a client's fault.

A few hundred of each kind by default; MLAAS4HEP_FUZZ=50000 runs so many in all.
"""

import json
import os
import socket
import string
import time

import grpc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mlaas4hep_serving import fixtures, tfaas
from mlaas4hep_serving.errors import ServingError
from mlaas4hep_serving.options import Options
from mlaas4hep_serving.rest import Request, Rest, RestOptions
from mlaas4hep_serving.server import Server
from mlaas4hep_serving.tfaas import Tfaas
from mlaas4hep_serving.uploads import Uploads
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
        Options(port=-1, rest_api_port=-1, model_config_file=str(base / "models.config"), enable_model_list=True, enable_batching=True)
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


# JSON bodies

NUMBERS = (
    st.integers(-(2**70), 2**70) | st.floats() | st.sampled_from([0, 1, -1, 2**24 + 1, 2**53 + 1, 2**63, 2**64, 1e308, 5e-324])
)
LEAVES = st.none() | st.booleans() | NUMBERS | st.text(max_size=8) | st.just({"b64": "aGVsbG8="}) | st.just({"b64": "*"})
VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3), max_leaves=12)
KEYS = st.sampled_from(["x", "a", "b", "x2", "inputs", "delta", "", "y"])
ROWS = st.lists(VALUES | st.dictionaries(KEYS, VALUES, max_size=3), max_size=4)
SIGNATURES = st.sampled_from(
    ["serving_default", "regress_x_to_y", "classify_x_to_y", "regress_x2_to_y3", "incr_counter_by", "", "none"]
)
DOCUMENTS = st.fixed_dictionaries(
    {},
    optional={
        "signature_name": SIGNATURES | VALUES,
        "instances": ROWS | VALUES,
        "inputs": VALUES | st.dictionaries(KEYS, VALUES, max_size=3),
        "examples": ROWS,
        "context": st.dictionaries(KEYS, VALUES, max_size=2),
        "keys": st.lists(KEYS, max_size=3),
        "values": st.lists(NUMBERS, max_size=3),
        "model": st.sampled_from(MODELS) | VALUES,
    },
)


@st.composite
def bodies(draw) -> bytes:
    """JSON close to a request, with bytes cut out, doubled, put in; or no JSON at all."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.binary(max_size=200))
    body = json.dumps(draw(DOCUMENTS), ensure_ascii=draw(st.booleans())).encode("utf-8", "surrogatepass")
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(body)))
        width = draw(st.integers(0, 12))
        extra = draw(st.sampled_from([b"", b"NaN", b"-Inf", b"1e999", b"\\ud800", b"[", b"{", b'"', b",", b"\x00", b"\xff", b"9" * 400, b'{"b64":']))
        body = body[:at] + extra + body[at + width * draw(st.integers(0, 1)) :]
    return body


PATHS = [f"/v1/models/{model}:{verb}" for model in MODELS for verb in ("predict", "classify", "regress")] + ["/json", "/predict/json"]


@MANY
@given(st.sampled_from(PATHS), bodies())
def test_json_bodies(rest, path, body):
    ask(rest, "POST", path, body)


@MANY
@given(
    st.sampled_from(["/proto", "/image", "/params", "/v1/models/half_plus_two:predict"]),
    st.binary(max_size=300) | bodies(),
    st.sampled_from(["multipart/form-data; boundary=B", "multipart/form-data", "application/x-www-form-urlencoded", "text/plain", ""]),
    st.sampled_from(["", "gzip", "base64"]),
)
def test_other_bodies(rest, path, body, kind, encoding):
    framed = b'--B\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n' + body + b"\r\n--B--\r\n"
    given_body = framed if kind.endswith("=B") and len(body) % 2 else body
    ask(rest, "POST", path, given_body, **{"content-type": kind, "content-encoding": encoding})
    try:
        tfaas.read_upload(Request("POST", "/upload", {"content-type": kind, "content-encoding": encoding}, given_body))
    except ServingError as error:
        assert error.code.name in ("INVALID_ARGUMENT", "RESOURCE_EXHAUSTED")


# URLs, over a real connection

PIECES = st.sampled_from(
    ["/", "v1", "models", "half_plus_two", "versions", "labels", "1", "metadata", ":predict", ":", "?", "#", "%2e", "%", "%ff", "..", "a=b", "healthz", "readyz", "99999999999999999999", " ", "\\", "é", "\x7f", "*", "//", "http://x/"]
) | st.text(alphabet=string.printable, max_size=5)  # fmt: skip
URLS = st.lists(PIECES, max_size=8).map(lambda parts: "/" + "".join(parts))
METHODS = st.sampled_from(["GET", "POST", "PUT", "DELETE", "OPTIONS", "HEAD", "PATCH", "CONNECT", "TRACE", "get", "XYZ"])


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


@st.composite
def wires(draw) -> bytes:
    """A valid message with some bytes changed, cut out or put in; or bytes."""
    if draw(st.integers(0, 5)) == 0:
        return draw(st.binary(max_size=100))
    message = bytearray(draw(st.sampled_from(VALID)))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(message) - 1)) if message else 0
        match draw(st.integers(0, 2)):
            case 0 if message:
                message[at] = draw(st.integers(0, 255))
            case 1:
                del message[at : at + draw(st.integers(1, 6))]
            case _:
                message[at:at] = draw(st.binary(max_size=6))
    return bytes(message)


@pytest.fixture(scope="module")
def channel(server):
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as opened:
        yield opened


FAULTS = {"OK", "INVALID_ARGUMENT", "NOT_FOUND", "FAILED_PRECONDITION", "UNIMPLEMENTED", "RESOURCE_EXHAUSTED", "OUT_OF_RANGE"}


@MANY
@given(st.sampled_from(RPCS), wires())
def test_protobuf_bytes(channel, rpc, message):
    code, details = "OK", ""
    try:
        channel.unary_unary(rpc)(message, timeout=SLOWEST)
    except grpc.RpcError as error:
        code, details = error.code().name, error.details() or ""
    assert "Traceback" not in details and 'File "' not in details
    # bytes that are no message: gRPC itself answers INTERNAL, as TF-Serving's does
    assert code in FAULTS or (code == "INTERNAL" and details == "Exception deserializing request!"), (code, details, rpc, message)


@MANY
@given(wires() | st.binary(max_size=60))
def test_rows_of_tfaas(rest, message):
    ask(rest, "POST", "/proto", message)
