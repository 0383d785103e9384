import json
import logging
import re
import shutil
import signal
import socket
from pathlib import Path

import mlaas4hep_serving
from google.protobuf import text_format
from mlaas4hep_serving.errors import Code
from mlaas4hep_serving.frontends.http import Request
from mlaas4hep_serving.frontends.rest import Rest, RestOptions
from mlaas4hep_serving.metrics import Registry
from mlaas4hep_serving.models.versions import State
from mlaas4hep_serving.options import Options, arguments, parse
from mlaas4hep_serving.server import Server, SharedConfig
from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig


def test_flags_survive_the_way_to_a_worker():
    options = parse(["--enable_batching", "--port=1", "--host", "::1", "--drain_seconds=2.5"])
    assert options.enable_batching and options.port == 1
    assert parse(arguments(options)) == options


def test_a_config_reaches_the_other_process_once(tmp_path):
    mine, other = SharedConfig(tmp_path), SharedConfig(tmp_path)
    config = text_format.Parse('model_config_list { config { name: "m" base_path: "/m" } }', ModelServerConfig())
    assert other.news() is None
    mine.tell(config)
    assert other.news() == config
    assert other.news() is None and mine.news() is None


def test_metrics_of_all_processes_are_added(tmp_path, monkeypatch):
    registries = []
    for pid in (11, 12):
        monkeypatch.setattr("os.getpid", lambda pid=pid: pid)
        registries.append(Registry(tmp_path))
    for registry in registries:
        registry.add("/a/b", {"x": "1"}, 2)
        registry.observe("/a/c", {}, 15.0)
    for registry in registries:
        assert ':a:b{x="1"} 4' in registry.text().splitlines()
        assert ':a:c_bucket{le="10"} 0' in registry.text().splitlines()
        assert ':a:c_bucket{le="18"} 2' in registry.text().splitlines()


def test_access_log_is_a_line_of_json(half_plus_two, caplog):
    server = Server(Options(port=0, rest_api_port=-1, model_base_path=str(half_plus_two.parent), access_log=True))
    with caplog.at_level(logging.INFO, "mlaas4hep_serving.access"):
        Rest(server.handlers, RestOptions()).respond(Request("POST", "/v1/models/default:predict", {}, b"{}"))
    server.stop()
    line = json.loads(caplog.messages[-1])
    assert line.pop("ms") > 0
    assert line == {"model": "default", "api": "predict", "entrypoint": "REST", "status": "INVALID_ARGUMENT"}


def test_a_model_that_is_garbage_is_told_in_the_status_and_does_not_keep_the_server_from_starting(tmp_path):
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "saved_model.pb").write_bytes(b"no model")
    server = Server(Options(port=0, rest_api_port=0, model_base_path=str(tmp_path)))
    ((number, state, error),) = server.repository.status("default")
    assert error is not None
    assert (number, state, error.code) == (1, State.END, Code.DATA_LOSS) and "saved_model.pb" in error.message
    server.stop()


def test_garbage_leaves_the_old_version_and_a_copy_under_way_is_waited_for(half_plus_two, tmp_path):
    shutil.copytree(half_plus_two, tmp_path / "1")
    server = Server(Options(port=0, rest_api_port=0, model_base_path=str(tmp_path), file_system_poll_wait_seconds=0))
    (tmp_path / "3").mkdir()
    (tmp_path / "3" / "saved_model.pb").write_bytes(b"<html>404 Not Found</html>")
    server.repository.poll()
    assert {number: state for number, state, _ in server.repository.status("default")} == {
        3: State.END,
        1: State.AVAILABLE,
    }
    shutil.rmtree(tmp_path / "3")
    shutil.copytree(half_plus_two / "variables", tmp_path / "2" / "variables")
    whole = (half_plus_two / "saved_model.pb").read_bytes()
    for size in (0, 1, 2, 3, 4, len(whole) // 2, len(whole) - 1):
        (tmp_path / "2" / "saved_model.pb").write_bytes(whole[:size])
        server.repository.poll()
        assert server.repository.available("default") == [1]
        assert 2 not in [number for number, *_ in server.repository.status("default")]
    (tmp_path / "2" / "saved_model.pb").write_bytes(whole)
    server.repository.poll()
    assert server.repository.available("default") == [2]
    server.stop()


def test_signals_stay_with_the_process(half_plus_two):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    server = Server(Options(port=0, rest_api_port=-1, model_base_path=str(half_plus_two.parent)))
    with socket.create_connection(("127.0.0.1", server.rest_port), timeout=20) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: here\r\n\r\n")
        assert connection.recv(12) == b"HTTP/1.1 200"
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
    server.stop()


def test_the_layer_is_independent():
    source = "\n".join(path.read_text() for path in Path(mlaas4hep_serving.__file__).parent.rglob("*.py"))
    assert not re.search(r"^\s*(import|from) (uproot|awkward|mlaas4hep_tf)\b", source, re.MULTILINE)


def test_a_model_folder_is_one_of_the_working_directory(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert parse(["--model_base_path=models/tth"]).model_base_path == str(tmp_path / "models/tth")
    assert parse(["--model_base_path=s3://bucket/tth"]).model_base_path == "s3://bucket/tth"
    assert parse([]).model_base_path == ""
