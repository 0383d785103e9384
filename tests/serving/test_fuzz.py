"""Inputs that nobody would send on purpose: no crash, no hang, no traceback in a reply, no 500 for a client's fault.

A few hundred of each kind by default; `make soak` runs 50 000 in all, and as many guided by coverage.
"""

import contextlib
import importlib.util
import itertools
import json
import socket
import string
import subprocess
import sys
import time
from pathlib import Path

import grpc
import pytest
from helpers.near_requests import MODELS, body_of, wire_of
from helpers.soak import SOAK, cases, report
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

pytestmark = [pytest.mark.soak, pytest.mark.timeout(3600)]

KINDS = 5
COUNT = cases(150, 10_000)
MANY = settings(
    max_examples=COUNT,
    deadline=None,
    derandomize=not SOAK,
    database=None,
    suppress_health_check=list(HealthCheck),
)
SLOWEST = 20.0  # seconds; a hang, not a limit of speed
counted = itertools.count()


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
    yield running
    running.stop()


@pytest.fixture(scope="module")
def rest(server, tmp_path_factory):
    uploads = Uploads(tmp_path_factory.mktemp("uploads"), server.repository)
    return Rest(server.handlers, RestOptions(routes=[Tfaas(server.handlers, uploads)]))


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
    if next(counted) % 50 == 0:
        with socket.create_connection(("127.0.0.1", server.rest_port), timeout=SLOWEST) as connection:
            connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            assert connection.recv(100).startswith(b"HTTP/1.1 200")


# protobuf bytes, over a real channel


RPCS = [
    *(f"/tensorflow.serving.PredictionService/{name}" for name in ("Predict", "Classify", "Regress", "MultiInference", "GetModelMetadata")),
    "/tensorflow.serving.ModelService/GetModelStatus",
]  # fmt: skip


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
    assert code in FAULTS, (code, details, rpc, message)


@MANY
@given(SEEDS.map(wire_of) | st.binary(max_size=60))
def test_rows_of_tfaas(rest, message):
    ask(rest, "POST", "/proto", message)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="atheris is not installed")
def test_inputs_guided_by_coverage(tmp_path, environment):
    script = Path(__file__).parents[1] / "helpers" / "coverage_fuzz.py"
    command = [sys.executable, str(script), f"-runs={COUNT * KINDS}", "-timeout=20", f"-artifact_prefix={tmp_path}/"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stderr[-5000:]
    assert f"Done {COUNT * KINDS} runs" in done.stderr
    assert not list(tmp_path.iterdir())
    report("inputs guided by coverage", runs=COUNT * KINDS)
