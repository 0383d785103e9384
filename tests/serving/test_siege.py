"""All that strangers have sent, at once, against one server, while another client goes on getting its answers."""

import contextlib
import gzip
import hashlib
import http.client
import importlib.resources
import json
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import jwt
import psutil
import pytest
from helpers.savedmodels import ABORT, LOOP, Aborts, Dense, Hostile, Maps, form, packed, put, saved
from helpers.soak import SOAK, cases, report
from mlaas4hep_serving.conformance import fixtures, prose, wire
from mlaas4hep_serving.conformance.compare import body as expanded
from mlaas4hep_serving.conformance.servers import Endpoint
from tensorflow_serving.apis.predict_pb2 import PredictRequest

SECONDS = cases(15, 60)
MEMORY = 2 << 30  # bytes, of the server and all its processes
TOKEN = "of the siege"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
BUSY = {429, 503, 504}  # what large or slow requests may be told
FULL = "RESOURCE_EXHAUSTED"  # the same over gRPC, of messages beyond 64 KiB
PREDICT = "tensorflow.serving.PredictionService/Predict"
FLAGS = ["--port=-1", "--rest_api_port=-1", "--enable_batching", "--enable_per_model_batching_parameters", "--enable_tfaas", "--rest_api_timeout_in_ms=20000", "--max_upload_processes=1"] + [f"--max_inflight_bytes={MEMORY // 8}"]  # what a machine of 2 GB has by default  # fmt: skip


class Target:
    """The server as attackers see it."""

    def __init__(self, endpoint: Endpoint, folder) -> None:
        self.endpoint, self.folder = endpoint, folder

    def ask(self, method, path, body=None, headers=None) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", self.endpoint.rest_port, timeout=90)
        try:
            connection.request(method, path, body, {**BEARER, **(headers or {})})
            reply = connection.getresponse()
            assert b"Traceback" not in reply.read()
            return reply.status
        finally:
            connection.close()

    def zipped(self, content: bytes) -> int:
        return self.ask("POST", "/v1/models/default:predict", gzip.compress(content, 1), {"Content-Encoding": "gzip"})

    def code(self, rpc: str, message: bytes) -> str:
        with grpc.insecure_channel(self.endpoint.grpc) as channel:
            call = channel.unary_unary(f"/{rpc}").future(
                message, timeout=60, metadata=[("authorization", f"Bearer {TOKEN}")]
            )
            return call.code().name

    def raw(self, *parts: bytes) -> bytes:
        """What comes back, if anything does before the connection is reset."""
        got = b""
        with socket.create_connection(("127.0.0.1", self.endpoint.rest_port), timeout=60) as connection:
            with contextlib.suppress(OSError):
                for part in parts:
                    connection.sendall(part)
            with contextlib.suppress(OSError):
                while data := connection.recv(65536):
                    got += data
        return got


def at_once(count, act) -> list:
    with ThreadPoolExecutor(count) as pool:
        return [done.result() for done in [pool.submit(act) for _ in range(count)]]


# attacks: each raises AssertionError where an answer is not the right one


def every_case(target):
    """TF-Serving's cases and those of strangers, as far as this server has their model."""
    cases = json.loads((importlib.resources.files("mlaas4hep_serving.conformance") / "cases.json").read_text())
    for case in cases:
        if case["layer"] not in ("rest", "grpc") or set(case.get("fixture", {"model": ""})) - {"text", "model"}:
            continue
        if case.get("fixture", {}).get("model", "half_plus_two") != "half_plus_two" or "sequence" in case["request"]:
            continue
        made = prose.structured(case)
        if case["layer"] == "rest":
            request = made["request"]
            body = expanded(request["body"]) if "body" in request else None
            got = target.ask(request["method"], request["path"], body, request.get("headers"))
            wanted = made["expect"].get("http", got)
        elif case["rpc"].endswith(("HandleReloadConfigRequest", "Check")):
            continue  # a new configuration would end the siege
        else:
            message = wire.message_of(case["rpc"].rsplit("/", 1)[1], made["request"], target.endpoint)
            got, wanted = target.code(case["rpc"], message.SerializeToString()), made["expect"].get("code", "OK")
        assert got == wanted, f"{case['id']}: {got}, not {wanted}"


def bodies_that_inflate(target):
    """98 KB that are 99 MiB: of NUL, and one of quotes."""
    bomb = gzip.compress(b"\0" * (99 << 20), 9)
    quotes = gzip.compress(b'"' * (99 << 20), 9)
    send = lambda body: target.ask("POST", "/v1/models/default:predict", body, {"Content-Encoding": "gzip"})  # noqa: E731
    assert set(at_once(60, lambda: send(bomb))) <= {400, 413, *BUSY}
    assert send(quotes) in {400, 413, *BUSY}


def large_bodies(target):
    numbers = json.dumps({"instances": [1.5] * 1_500_000}).encode()
    assert set(at_once(4, lambda: target.ask("POST", "/v1/models/default:predict", numbers))) <= {200, *BUSY}
    assert target.zipped(b"[" * (50 << 20)) in {400, *BUSY}
    assert target.ask("POST", "/v1/models/default:predict", b" " * (300 << 20)) in {413, *BUSY}


def endless_trailers(target):
    head = b"POST /v1/models/default:predict HTTP/1.1\r\nTransfer-Encoding: chunked\r\n"
    line = b"".join(b"X-%d: %s\r\n" % (i, b"a" * 1000) for i in range(60))
    got = target.raw(head + b"\r\n1\r\n{\r\n0\r\n", *[line] * 5000)  # 300 MB
    assert got == b"" or got.startswith((b"HTTP/1.1 431", b"HTTP/1.1 401"))
    got = target.raw(head + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n")
    assert got.startswith(b"HTTP/1.1 400")


def requests_that_never_end(target):
    """Many connections that say a little and wait."""
    with contextlib.ExitStack() as stack:
        for i in range(300):
            opened = stack.enter_context(socket.create_connection(("127.0.0.1", target.endpoint.rest_port), timeout=60))
            opened.sendall((b"", b"GET / HT", b"POST /json HTTP/1.1\r\nContent-Length: 9999999\r\n\r\n{")[i % 3])
        time.sleep(5)


def slow_predictions(target):
    """150 at once, of a model that does not batch; the pages of health answer all the same."""
    with ThreadPoolExecutor(150) as pool:
        body = b'{"instances": [1.0]}'
        asked = [pool.submit(target.ask, "POST", "/v1/models/slow:predict", body) for _ in range(150)]
        for path in ("/healthz", "/readyz", "/v1/models/slow"):
            assert target.ask("GET", path) == 200
        assert {done.result() for done in asked} <= {200, *BUSY}


def hostile_tensors(target):
    for dtype, model, alias, size in (
        (1, "default", "x", 10**9),
        (7, "strings", "s", 2**31 - 1),
        (1, "default", "x", 2**62),
    ):
        request = PredictRequest(model_spec={"name": model})
        request.inputs[alias].dtype = dtype
        request.inputs[alias].tensor_shape.dim.add(size=size)
        assert target.code(PREDICT, request.SerializeToString()) == "INVALID_ARGUMENT"
    for garbage in (b"\xff" * 1000, b"\x0a" * 100_000, b"\x0a\xff\xff\xff\xff\x07"):
        assert target.code(PREDICT, garbage) in {"INVALID_ARGUMENT", FULL}
    name = PredictRequest(model_spec={"name": "x" * (1 << 20)}).SerializeToString()
    assert target.code(PREDICT, name) in {"NOT_FOUND", FULL}


def odd_tokens(target):
    claims: list[dict[str, object]] = [{"exp": []}, {"scope": {"a": 1}}, {"aud": 1e300}, {}]
    tokens = ["", "x" * 50_000, "a.b.c", *[jwt.encode(claim, "k" * 32, "HS256") for claim in claims]]
    for token in tokens:
        assert target.ask("POST", "/v1/models/default:predict", b"{}", {"Authorization": f"Bearer {token}"}) == 401


def hostile_uploads(target):
    """Models and archives that attack, and an honest one."""

    def upload(name: str, model: bytes) -> int:
        body, headers = form(name=name, model=model)
        return target.ask("POST", "/upload", body, headers)

    for name in ("maps", "aborts"):
        assert upload(name, (target.folder / f"{name}.tgz").read_bytes()) == 403
    for model in (b"", b"hello", gzip.compress(b"\0" * (200 << 20), 9)):
        assert upload("bad", model) in {400, 413, *BUSY}
    assert upload("../evil", (target.folder / "honest.tgz").read_bytes()) == 400
    assert upload("honest", (target.folder / "honest.tgz").read_bytes()) == 200


def hostile_models(target):
    """What a scan might have let pass: it ends its own process, or never ends."""
    for value in (1.0, ABORT, LOOP):
        body = json.dumps({"instances": [value]})
        assert target.ask("POST", "/v1/models/hostile:predict", body) in ({200, *BUSY} if value == 1.0 else BUSY)


ATTACKS = (
    every_case, bodies_that_inflate, large_bodies, endless_trailers, requests_that_never_end, slow_predictions,
    hostile_tensors, odd_tokens, hostile_uploads, hostile_models,
)  # fmt: skip


# the server


def write_models(folder) -> str:
    """The configuration: of a model that batches, and of others that do not."""
    fixtures.half_plus_two(folder / "half" / "00000123")
    steady = fixtures.half_plus_two(folder / "steady" / "1")
    (steady / "batching_params.pbtxt").write_text("max_batch_size { value: 100 }")
    fixtures.slow(folder / "slow" / "1")
    fixtures.strings(folder / "strings" / "1")
    put(folder / "uploads", "hostile", Hostile())
    for name, module in (("maps", Maps()), ("aborts", Aborts()), ("honest", Dense())):
        (folder / f"{name}.tgz").write_bytes(packed(saved(folder / name, module)))
    names = {"steady": "steady", "default": "half", "half_plus_two": "half", "slow": "slow", "strings": "strings"}
    models = [
        f'config {{ name: "{n}" base_path: "{folder / b}" model_platform: "tensorflow" }}' for n, b in names.items()
    ]
    return f"model_config_list {{ {' '.join(models)} }}"


@pytest.fixture
def besieged(tmp_path, environment):
    """A server process, and the process."""
    (tmp_path / "models").write_text(write_models(tmp_path))
    digest = hashlib.sha256(TOKEN.encode()).hexdigest()
    (tmp_path / "auth.toml").write_text(
        f'[[key]]\nname = "a"\nsha256 = "{digest}"\nscopes = ["predict", "read", "write"]'
    )
    flags = [f"--model_config_file={tmp_path / 'models'}", f"--auth_config_file={tmp_path / 'auth.toml'}"]
    command = [sys.executable, "-m", "mlaas4hep_serving", *FLAGS, *flags, f"--tfaas_base_path={tmp_path / 'uploads'}"]
    with open(tmp_path / "log", "w") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=environment)
    assert process.stdout is not None
    try:
        address, rest = (part.rsplit(" ", 1)[1].strip() for part in process.stdout.readline().split(", "))
        endpoint = Endpoint("127.0.0.1", int(rest.rsplit(":", 1)[1]), address, tmp_path / "half" / "00000123")
        yield Target(endpoint, tmp_path), process
    finally:
        process.kill()
        process.communicate()


def used(process: psutil.Process) -> int:
    """Bytes of a process and all that it has started; what they share counts once."""
    total = 0
    for member in (process, *process.children(recursive=True)):
        with contextlib.suppress(psutil.Error):  # it has ended meanwhile
            total += member.memory_full_info().pss
    return total


def again_and_again(attack, target, stop, wrong, rounds) -> None:
    while not stop.is_set():
        try:
            attack(target)
        except Exception as error:  # noqa: BLE001  # told at the end, whatever it is
            wrong.append(f"{attack.__name__}: {type(error).__name__}: {error}")
        rounds[attack.__name__] = rounds.get(attack.__name__, 0) + 1
        stop.wait(0.2)


@pytest.mark.slow
@pytest.mark.soak
@pytest.mark.timeout(400)
def test_all_attacks_at_once_leave_others_their_answers(besieged, environment):
    target, process = besieged
    server, stop, wrong, rounds = psutil.Process(process.pid), threading.Event(), [], {}
    attackers = [threading.Thread(target=again_and_again, args=(a, target, stop, wrong, rounds)) for a in ATTACKS]
    where = [str(target.endpoint.rest_port), target.endpoint.grpc, TOKEN, str(SECONDS)]
    command = [sys.executable, "-m", "helpers.steady", *where]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as client:
        for attacker in attackers:
            attacker.start()
        most = 0
        while client.poll() is None:
            most = max(most, used(server))
            time.sleep(0.2)
        stop.set()
        for attacker in attackers:
            attacker.join()
        told = json.loads(client.communicate()[0])
    times = sorted(told["times"])
    p50, p99 = (times[int(len(times) * share)] for share in (0.5, 0.99))
    report("siege", p50=f"{p50:.3f} s", p99=f"{p99:.3f} s", longest=f"{times[-1]:.3f} s", MiB=most >> 20, **rounds)
    assert not wrong
    assert set(rounds) == {attack.__name__ for attack in ATTACKS}
    assert not told["wrong"] and len(times) >= 10 * SECONDS
    assert p99 < 1.0 or not SOAK  # a time is held where nothing else runs, over a minute
    assert most < MEMORY
    assert process.poll() is None
    process.terminate()
    assert process.wait(30) == 0
