"""Uploaded models run apart: what one does costs its own requests only."""

import contextlib
import errno
import hashlib
import http.client
import json
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import tensorflow as tf
from helpers.savedmodels import ABORT, FAIL, FILL, LOOP, READ, Hostile, form, packed, put
from helpers.soak import cases, report
from mlaas4hep_serving.conformance import fixtures
from mlaas4hep_serving.errors import ServingError
from mlaas4hep_serving.tfaas import apart, seccomp
from mlaas4hep_serving.tfaas.allowed_ops import ALLOWED
from mlaas4hep_serving.tfaas.confine import Limits
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
COUNT = cases(3, 500)


class Honest(tf.Module):
    """A network, a loop, a branch and the length of a path: something to change."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.weights, self.path = tf.Variable(tf.ones([3, 2])), path

    @tf.function(input_signature=[tf.TensorSpec([None, 3], tf.float32, name="x")])
    def __call__(self, x):
        y = tf.nn.softmax(tf.nn.relu(x @ self.weights)) + 0.0 * tf.cast(tf.strings.length(self.path), tf.float32)
        y = tf.while_loop(lambda i, _: i < 3, lambda i, v: (i + 1, v * 0.5), [0, y])[1]
        return {"y": tf.cond(tf.reduce_sum(y) > 1, lambda: y, lambda: tf.sort(y))}


@pytest.fixture(scope="module")
def uploads(tmp_path_factory):
    base = tmp_path_factory.mktemp("apart") / "models"
    for name in ("hostile", "other"):
        put(base, name, Hostile())
    return base


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    return fixtures.half_plus_two(tmp_path_factory.mktemp("own") / "default" / "1").parent


def ask(server, model: str, value: float) -> tuple[int, object]:
    connection = http.client.HTTPConnection("127.0.0.1", server.rest_port, timeout=120)
    connection.request("POST", f"/v1/models/{model}:predict", json.dumps({"instances": [value]}))
    reply = connection.getresponse()
    answer = json.load(reply)
    connection.close()
    return reply.status, answer.get("predictions", answer.get("error"))


def until_it_answers(server, model: str) -> None:
    for _ in range(120):
        if ask(server, model, 1.0) == (200, [2.0]):
            return
        time.sleep(0.5)
    pytest.fail(f"{model} is not started again: {ask(server, model, 1.0)}")


def test_what_a_model_does_costs_its_own_requests(uploads, own, start_server):
    server = start_server(model_base_path=str(own), enable_tfaas=True, tfaas_base_path=str(uploads),
                          rest_api_timeout_in_ms=10_000)  # fmt: skip
    until_it_answers(server, "hostile")
    until_it_answers(server, "other")
    failed, stop = [], threading.Event()

    def constantly() -> None:
        while not stop.wait(0.02):
            for model, answer in (("default", [2.5]), ("other", [2.0])):
                got = ask(server, model, 1.0)
                if got != (200, answer):
                    failed.append((model, got))

    others = threading.Thread(target=constantly)
    others.start()
    try:
        status, told = ask(server, "hostile", ABORT)
        assert (status, told) == (503, "the process of the uploaded model has ended, or did not answer in time")
        until_it_answers(server, "hostile")
        status, told = ask(server, "hostile", FAIL)
        assert status == 400 and "no such value" in str(told)  # the model's own error, no end of its process
        status, told = ask(server, "hostile", READ)
        assert status in (400, 403, 500) and "ermission denied" in str(told)  # Landlock
        assert ask(server, "hostile", FILL)[0] in (429, 503, 504)  # 64 GiB
        until_it_answers(server, "hostile")
        assert ask(server, "hostile", LOOP)[0] in (503, 504)
        until_it_answers(server, "hostile")
    finally:
        stop.set()
        others.join()
    assert not failed


def test_as_many_processes_as_the_flag_says(uploads, start_server):
    server = start_server(enable_tfaas=True, tfaas_base_path=str(uploads), max_upload_processes=1, model_name="none")
    for _ in range(2):
        for name in ("hostile", "other"):
            assert ask(server, name, 2.0) == (200, [4.0])
            assert len(workers(psutil.Process())) == 1


def workers(server: psutil.Process) -> list[psutil.Process]:
    found = []
    for child in server.children(recursive=True):
        try:
            if "worker" in child.cmdline() and child.status() != psutil.STATUS_ZOMBIE:
                found.append(child)
        except psutil.Error:  # ended meanwhile
            continue
    return found


def test_processes_end_with_the_server_however_it_ends(uploads, own, environment):
    command = [sys.executable, "-m", "mlaas4hep_serving", "--port=0", "--rest_api_port=-1", f"--model_base_path={own}"]
    command += ["--enable_tfaas", f"--tfaas_base_path={uploads}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as server:
        assert server.stdout is not None
        line = server.stdout.readline()
        at = type("At", (), {"rest_port": int(line.strip().rsplit(":", 1)[1])})
        assert ask(at, "other", 2.0) == (200, [4.0])
        (worker,) = workers(psutil.Process(server.pid))
        server.send_signal(signal.SIGKILL)
        psutil.wait_procs([worker], timeout=60)
        assert not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE


def test_a_process_that_always_ends_is_started_less_and_less_often(uploads):
    processes = apart.Processes(apart.ApartOptions(limits=Limits(memory=1 << 28)))  # too little for TensorFlow
    model = apart.Apart(uploads / "hostile" / "1", processes)
    told = []
    for _ in range(3):
        with pytest.raises(ServingError) as caught:
            model.run([], [], ["y:0"], 60)
        told.append(caught.value.message)
    assert "has ended" in told[0] and "times in a row; it is started in" in told[-1]
    model.close()


# what the kernel refuses

CONFINED = """
import ctypes, json, socket, subprocess, sys
from pathlib import Path
from mlaas4hep_serving.tfaas.confine import confine

def told(act):
    try:
        act()
    except OSError as error:
        return error.errno
    return 0

in_force = confine(60, 4 << 30, [], [Path(sys.argv[1])])
libc, families = ctypes.CDLL(None, use_errno=True), (socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK, socket.AF_UNIX)
ring = 0 if libc.syscall(425, 1, ctypes.create_string_buffer(256)) >= 0 else ctypes.get_errno()  # io_uring_setup
found = {"sockets": [told(lambda: socket.socket(family)) for family in families], "ring": ring}
found |= {"program": told(lambda: subprocess.run(["/bin/true"]))}
print(json.dumps(found | {"in force": in_force}))
"""


def test_a_confined_process_opens_no_socket_but_local_ones_and_starts_no_program(tmp_path, environment):
    run = [sys.executable, "-c", CONFINED, str(tmp_path)]
    found = json.loads(subprocess.run(run, env=environment, stdout=subprocess.PIPE, check=True).stdout)
    if not any(one.startswith("seccomp") for one in found["in force"]):
        pytest.skip(f"this kernel or machine has no seccomp: {found['in force']}")
    refused = errno.EPERM
    assert found["sockets"] == [refused, refused, refused, 0]
    assert (found["ring"], found["program"]) == (refused, refused)


@pytest.mark.parametrize(("machine", "architecture", "allowed", "refused"), [
    ("x86_64", 0xC000003E, [(0, 0), (41, 1)], [(41, 2), (41, 10), (59, 0), (425, 0), (0x40000000 | 41, 1)]),
    ("aarch64", 0xC00000B7, [(63, 0), (198, 1)], [(198, 2), (198, 10), (221, 0), (425, 0)]),
])  # fmt: skip
def test_which_calls_the_filter_refuses(machine, architecture, allowed, refused):
    """The filter run step by step as linux/bpf_common.h describes it; numbers as in the kernel's asm/unistd headers."""

    def verdict(call: int, argument: int, on: int = architecture) -> bool:
        data, at, held = struct.pack("<IIQQ", call, on, 0, argument), 0, 0
        steps = seccomp.program(*seccomp.AUDIT[machine])
        while True:
            operation, true, false, operand = steps[at]
            if operation == 0x06:
                return operand == 0x7FFF0000
            if operation == 0x20:
                held, at = struct.unpack_from("<I", data, operand)[0], at + 1
            else:
                at += 1 + (true if (held == operand if operation == 0x15 else held >= operand) else false)

    assert all(verdict(*call) for call in allowed)
    assert not any(verdict(*call) for call in refused)
    assert not verdict(0, 0, on=0x40000003)  # the calls of 32 bits


# models changed at random


READERS = (
    "ReadFile",
    "MatchingFiles",
    "FixedLengthRecordDataset",
    "TFRecordDataset",
    "TextLineDataset",
    "LookupTableSize",
)


def mutated(source: Path, target: Path, seed: int) -> Path:
    """A copy of a model: bytes of its graph changed, or two nodes made into other ops, or the path read as a file's."""
    chosen = random.Random(seed)
    shutil.copytree(source, target)
    path = target / "saved_model.pb"
    proto = SavedModel.FromString(path.read_bytes())
    graph = proto.meta_graphs[0].graph_def
    nodes = [*graph.node, *(node for function in graph.library.function for node in function.node_def)]
    if seed % 3 == 1:
        for node in chosen.sample(nodes, 2):
            node.op = chosen.choice(sorted(ALLOWED))
    elif seed % 3 == 2:
        next(node for node in nodes if node.op == "StringLength").op = chosen.choice(READERS)
    data = bytearray(proto.SerializeToString())
    for _ in range(chosen.randrange(1, 20) if seed % 3 == 0 else 0):
        data[chosen.randrange(len(data))] = chosen.randrange(256)
    path.write_bytes(data)
    return target


@contextlib.contextmanager
def tripwire(path: Path):
    """A pipe in the place of a file: whoever opens it to read waits, and is seen."""
    os.mkfifo(path)
    seen, stop = [], threading.Event()

    def watch() -> None:
        while not stop.wait(0.01):
            with contextlib.suppress(OSError):  # nobody reads
                os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
                seen.append(time.monotonic())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield seen
    finally:
        stop.set()
        watcher.join()


@pytest.mark.soak
@pytest.mark.timeout(14400)
def test_changed_models_are_refused_or_run_and_end_nothing_and_read_nothing(tmp_path, uploads, start_server):
    secret, source, token = tmp_path / "secret", tmp_path / "source", "of the changed models"
    tf.saved_model.save(module := Honest(str(secret)), str(source), signatures={"serving_default": module.__call__})
    key = f'sha256 = "{hashlib.sha256(token.encode()).hexdigest()}"'
    (tmp_path / "auth.toml").write_text(f'[[key]]\nname = "a"\n{key}\nscopes = ["predict", "read", "write"]')
    shutil.copytree(uploads / "other", tmp_path / "models" / "other")
    server = start_server(enable_tfaas=True, tfaas_base_path=str(tmp_path / "models"), model_name="none",
                          auth_config_file=str(tmp_path / "auth.toml"))  # fmt: skip
    bearer = {"Authorization": f"Bearer {token}"}

    def send(method: str, path: str, body: bytes | str | None = None, headers: Any = ()) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", server.rest_port, timeout=200)
        connection.request(method, path, body, {**bearer, **dict(headers)})
        reply = connection.getresponse()
        told = reply.read()
        connection.close()
        assert b"Traceback" not in told
        return reply.status, told

    def other() -> tuple[int, bytes]:
        return send("POST", "/v1/models/other:predict", '{"instances": [1.0]}')

    counts: dict[int, int] = {}
    assert any(other()[0] == 200 for _ in range(20))  # on a busy machine its start takes long
    (steady,) = workers(psutil.Process())
    with tripwire(secret) as seen:
        for seed in range(COUNT):
            folder = mutated(source, tmp_path / str(seed), seed)
            status, told = send("POST", "/upload", *form(name="changed", model=packed(folder)))
            counts[status] = counts.get(status, 0) + 1
            assert status in (200, 400, 403), told  # refused, or it ran; never the server's fault
            if status == 200:
                body = json.dumps({"instances": [[1.0, 2.0, 3.0]]})
                assert send("POST", "/v1/models/changed:predict", body)[0] in (200, 400, 503, 504)
                assert send("DELETE", "/delete/changed")[0] == 200
            assert other() == (200, b'{\n    "predictions": [2.0\n    ]\n}')
            shutil.rmtree(folder)
    assert not seen
    assert steady.is_running() and steady.status() != psutil.STATUS_ZOMBIE
    report("changed uploads", **{f"answered {status}": count for status, count in sorted(counts.items())})
