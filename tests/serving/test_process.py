"""The server as processes: the line it prints, SIGTERM, several on one port."""

import contextlib
import ctypes
import fcntl
import http.client
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

import grpc
import psutil
import pytest
import tensorflow as tf
from grpc_health.v1 import health_pb2, health_pb2_grpc
from mlaas4hep_serving import scratch
from mlaas4hep_serving.conformance import fixtures
from mlaas4hep_serving.options import Options, listening
from mlaas4hep_serving.scratch import Scratch
from reload import memory, under_load
from tensorflow_serving.apis import model_service_pb2_grpc, prediction_service_pb2_grpc
from tensorflow_serving.apis.get_model_status_pb2 import GetModelStatusRequest
from tensorflow_serving.apis.predict_pb2 import PredictRequest


@contextlib.contextmanager
def served(environment, *flags):
    command = [sys.executable, "-m", "mlaas4hep_serving", "--port=0", "--rest_api_port=-1", *flags]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment)
    assert process.stdout is not None
    try:
        found = re.search(r"(?:gRPC at (\S+), )?HTTP at http://127\.0\.0\.1:(\d+)", process.stdout.readline())
        assert found
        yield process, int(found[2]), found[1]
    finally:
        process.terminate()
        try:
            process.wait(60)
        finally:
            process.kill()  # one that does not end is a failure, and is not left behind
            process.stdout.close()


def test_the_server_says_what_it_serves_and_where_and_nothing_else(environment, half_plus_two):
    command = [sys.executable, "-m", "mlaas4hep_serving", "--port=0", "--rest_api_port=-1", "--model_name=half"]
    quiet = {k: v for k, v in environment.items() if k not in ("TF_CPP_MIN_LOG_LEVEL", "CUDA_VISIBLE_DEVICES")}
    process = subprocess.Popen(
        [*command, f"--model_base_path={half_plus_two.parent}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=quiet,
    )
    assert process.stdout is not None
    first, *rest = (process.stdout.readline() for _ in range(3))
    process.send_signal(signal.SIGTERM)
    log = process.communicate(timeout=60)[1]
    base = re.fullmatch(r"mlaas4hep-serve listens: HTTP at (http://127\.0\.0\.1:\d+)\n", first)
    assert base
    assert [line.rstrip() for line in rest] == [
        f"  half, version 123: {base[1]}/v1/models/half:predict",
        f"  models, and a form to try them: {base[1]}/",
    ]
    ours = re.compile(r"[\d-]+ [\d:,]+ INFO (loading|unloading)? ?model half version 123.*")
    assert [line for line in log.splitlines() if not ours.fullmatch(line)] == []


@pytest.mark.parametrize(
    ("flags", "ports", "models", "lines"),
    [
        ({}, (8500, 0), {"a": [1]}, ["mlaas4hep-serve listens: gRPC at 127.0.0.1:8500"]),
        ({"host": "::", "ssl_config_file": "tls"}, (0, 8501), {"a b": [2, 1], "c": []},
         ["mlaas4hep-serve listens: HTTP at https://[::]:8501",
          "  a b, versions 2, 1: https://[::]:8501/v1/models/a%20b:predict",
          "  c, no version yet: https://[::]:8501/v1/models/c:predict",
          "  models, and a form to try them: https://[::]:8501/"]),
    ],
)  # fmt: skip
def test_what_the_server_says_when_it_is_ready(flags, ports, models, lines):
    assert listening(Options(**flags), ports[0], ports[1], models).splitlines() == lines


def predict(port, body='{"instances": [2.0]}'):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("POST", "/v1/models/default:predict", body=body)
    response = connection.getresponse()
    content = response.read().decode()
    connection.close()
    return response.status, content


@pytest.mark.slow
@pytest.mark.parametrize(("flag", "what"), [("port", "gRPC"), ("rest_api_port", "HTTP")])
@pytest.mark.parametrize("processes", [1, 2])
def test_a_port_in_use_is_told_before_tensorflow_is_imported(environment, flag, what, processes):
    code = "import sys; from mlaas4hep_serving.cli import main; main(); print('tensorflow' in sys.modules)"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        flags = {"port": 0, "rest_api_port": 0, "processes": processes, "model_base_path": "/models"} | {flag: port}
        command = [sys.executable, "-c", code, *(f"--{name}={value}" for name, value in flags.items())]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "False\n"
    (line,) = done.stderr.splitlines()
    assert line.endswith(f"{what} cannot listen on 127.0.0.1:{port}: Address already in use")


def test_sigterm_answers_what_is_under_way(environment, tmp_path):
    fixtures.slow(tmp_path / "1", steps=3_000_000_000)
    with served(environment, f"--model_base_path={tmp_path}") as (process, port, _):
        answers = []
        client = threading.Thread(target=lambda: answers.append(predict(port)))
        client.start()
        time.sleep(1)  # until the server has the request
        assert client.is_alive()
        process.send_signal(signal.SIGTERM)
        client.join(60)
        assert answers[0][0] == 200
        assert process.wait(30) == 0
        with pytest.raises(ConnectionRefusedError):
            predict(port)


@pytest.mark.slow
def test_processes_share_a_port_and_one_view_of_metrics(environment, half_plus_two, tmp_path):
    (tmp_path / "monitoring").write_text('prometheus_config { enable: true path: "/metrics" }')
    flags = [f"--model_base_path={half_plus_two.parent}", f"--monitoring_config_file={tmp_path / 'monitoring'}"]
    with served(environment, *flags, "--processes=2") as (supervisor, port, _):
        assert (
            supervisor.stdout.readline()
            == f"  default, version 123: http://127.0.0.1:{port}/v1/models/default:predict\n"
        )
        assert all(predict(port)[0] == 200 for _ in range(40))
        seen = set()
        for _ in range(10):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
            connection.request("GET", "/metrics")
            text = connection.getresponse().read().decode()
            connection.close()
            seen.update(re.findall(r'request_count\{model_name="default",status="OK"\} (\d+)', text))
        assert seen == {"40"}


@pytest.mark.slow
def test_no_request_fails_while_versions_come_and_go():
    seen = under_load(seconds=6, interval=0.5)
    assert seen.errors == [] and seen.wrong == []
    assert len(seen.versions) >= 4 and seen.answers > 200


@pytest.mark.slow
def test_reloads_hold_the_memory():
    found = memory(30)
    assert found[-1] - found[9] < 60  # MiB over 20 reloads


def children(process):
    return psutil.Process(process.pid).children(recursive=True)


@pytest.mark.slow
def test_workers_end_with_their_supervisor_however_it_ends(environment, half_plus_two):
    with served(environment, f"--model_base_path={half_plus_two.parent}", "--processes=2") as (process, port, _):
        workers = children(process)
        assert len(workers) == 2
        process.kill()
        _, alive = psutil.wait_procs(workers, timeout=20)
        assert alive == []
        with pytest.raises(ConnectionRefusedError):
            predict(port)


@pytest.mark.parametrize("processes", [1, 2])
def test_sigterm_during_the_start_ends_it_as_asked(environment, half_plus_two, processes):
    flags = [f"--model_base_path={half_plus_two.parent}", f"--processes={processes}", "--port=-1", "--rest_api_port=-1"]
    command = [sys.executable, "-m", "mlaas4hep_serving", *flags]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment)
    time.sleep(1.5)  # TensorFlow is being imported
    process.terminate()
    output, _ = process.communicate(timeout=20)
    assert (process.returncode, output) == (0, b"")


def test_a_signal_that_another_thread_gets_stops_the_server(environment, half_plus_two):
    with served(environment, f"--model_base_path={half_plus_two.parent}") as (process, _, _):
        for thread in psutil.Process(process.pid).threads():
            if thread.id != process.pid:  # the main one
                ctypes.CDLL(None).tgkill(process.pid, thread.id, signal.SIGTERM)
        assert process.wait(20) == 0


@pytest.mark.slow
def test_a_drain_ends_in_its_time_whatever_is_under_way(environment, tmp_path):
    fixtures.slow(tmp_path / "1", steps=2_000_000_000_000)  # for hours
    flags = [f"--model_base_path={tmp_path}", "--drain_seconds=0.5", "--rest_api_timeout_in_ms=0"]
    with served(environment, *flags) as (process, port, _):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        connection.request("POST", "/v1/models/default:predict", body='{"instances": [2.0]}')
        time.sleep(0.5)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        assert connection.getresponse().status == 503
        connection.close()


def test_what_a_killed_server_has_left_goes_at_the_next_start(tmp_path, monkeypatch, environment):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    code = "from mlaas4hep_serving.scratch import Scratch; s = Scratch(); print(s.name, flush=True); input()"
    with Scratch() as own:
        killed = subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**environment, "TMPDIR": str(tmp_path)},
        )  # fmt: skip
        assert killed.stdout is not None
        left = killed.stdout.readline().strip()
        start_beside(tmp_path)
        assert {str(folder) for folder in tmp_path.iterdir()} >= {own, left}  # both are held
        killed.kill()
        killed.communicate()
        scratch.remove_left()
        assert [str(folder) for folder in tmp_path.iterdir()] == [own]
    young = tmp_path / "mlaas4hep-serve-young"  # of a server that is about to hold it
    young.mkdir()
    scratch.remove_left()
    assert young.is_dir()


def age(folder):
    for one in folder.iterdir():
        os.utime(one, (0, 0))


def start_beside(folder):
    age(folder)
    scratch.remove_left()


def first(monkeypatch, meanwhile):
    """Let something happen in the moment before the next lock of a folder."""
    lock = fcntl.flock

    def flock(opened, how):
        monkeypatch.setattr("fcntl.flock", lock)
        meanwhile()
        lock(opened, how)

    monkeypatch.setattr("fcntl.flock", flock)


def test_a_server_that_starts_takes_no_folder_of_one_that_begins_or_ends(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    caplog.set_level("INFO")
    first(monkeypatch, lambda: start_beside(tmp_path))
    with Scratch() as folder:  # long made, and not yet held, when another server starts
        start_beside(tmp_path)
        assert [str(one) for one in tmp_path.iterdir()] == [folder]
    ending = Scratch()
    caplog.clear()
    age(tmp_path)
    first(monkeypatch, ending.cleanup)
    scratch.remove_left()
    assert not caplog.records  # it was no folder of a server that was killed
    assert not list(tmp_path.iterdir())


PAGES = ("/healthz", "/readyz", "/monitoring/prometheus/metrics", "/v1/models/default", "/v1/models/default/metadata")


def test_what_runs_no_model_is_answered_whatever_the_models_do(environment, tmp_path):
    fixtures.slow(tmp_path / "models" / "1", steps=2_000_000_000_000)  # for hours
    (tmp_path / "monitoring").write_text("prometheus_config { enable: true }")
    flags = [f"--model_base_path={tmp_path / 'models'}", f"--monitoring_config_file={tmp_path / 'monitoring'}"]
    flags += ["--port=-1", "--rest_api_num_threads=2", "--grpc_max_threads=2", "--enable_grpc_healthcheck_service"]
    with served(environment, *flags, "--rest_api_timeout_in_ms=0", "--drain_seconds=0") as (_, port, address):
        hanging = [http.client.HTTPConnection("127.0.0.1", port) for _ in range(8)]
        for connection in hanging:
            connection.request("POST", "/v1/models/default:predict", body='{"instances": [2.0]}')
        with grpc.insecure_channel(address) as channel:
            prediction = prediction_service_pb2_grpc.PredictionServiceStub(channel)
            request = PredictRequest(model_spec={"name": "default"}, inputs={"x": tf.make_tensor_proto([1.0])})
            waiting = [prediction.Predict.future(request) for _ in range(8)]
            for path in PAGES:
                connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
                connection.request("GET", path)
                assert connection.getresponse().status == 200
                connection.close()
            status = model_service_pb2_grpc.ModelServiceStub(channel).GetModelStatus
            assert status(GetModelStatusRequest(model_spec={"name": "default"}), timeout=20).model_version_status
            health = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=20)
            assert health.status == health_pb2.HealthCheckResponse.SERVING
            done = [call for call in waiting if call.done()]
            assert not done, [(call.code(), call.details()) for call in done]
        for connection in hanging:
            connection.close()
