"""The client and `mlaas4hep-predict`, over HTTP and gRPC."""

import io
import json
import subprocess
import sys

import awkward as ak
import numpy as np
import pytest
import tensorflow as tf
from mlaas4hep_serving import Client, predict
from mlaas4hep_serving.client import columns
from mlaas4hep_serving.errors import Code, ServingError


class Sums(tf.Module):
    """Two outputs from a flat float, a flat integer and a jagged input."""

    @tf.function(
        input_signature=[
            tf.TensorSpec([None], tf.float32, name="met"),
            tf.TensorSpec([None], tf.int64, name="n"),
            tf.TensorSpec([None, None], tf.float32, name="pt"),
        ]
    )
    def __call__(self, met, n, pt):
        ht = tf.reduce_sum(tf.where(tf.math.is_nan(pt), 0.0, pt), axis=1)
        return {"ht": ht + met, "twice": 2 * n}


EVENTS = [
    {"met": 1.5, "n": 3, "pt": [1.0, 2.0]},
    {"met": 0.0, "n": 4, "pt": []},
    {"met": 2, "n": 5, "pt": [10.0, 20.0, 30.0]},
]
HT, TWICE = [4.5, 0.0, 62.0], [6, 8, 10]


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    from mlaas4hep_serving.options import Options
    from mlaas4hep_serving.server import Server

    model = Sums()
    folder = tmp_path_factory.mktemp("sums") / "5"
    tf.saved_model.save(model, str(folder), signatures=model.__call__)
    server = Server(Options(port=-1, rest_api_port=-1, model_name="sums", model_base_path=str(folder.parent)))
    yield {"http": f"http://127.0.0.1:{server.rest_port}", "grpc": f"grpc://127.0.0.1:{server.grpc_port}"}
    server.stop()


@pytest.fixture(params=["http", "grpc"])
def url(request, served):
    return served[request.param]


@pytest.mark.parametrize(
    "events",
    [
        EVENTS,
        {name: [event[name] for event in EVENTS] for name in EVENTS[0]},
        ak.Array(EVENTS),
        {"met": np.float64([1.5, 0, 2]), "n": np.int32([3, 4, 5]), "pt": ak.Array([e["pt"] for e in EVENTS])},
        {
            "met": np.float32([1.5, 0, 2]),
            "n": np.int64([3, 4, 5]),
            "pt": np.array([np.float32(e["pt"]) for e in EVENTS], object),
        },
    ],
    ids=["dicts", "columns", "awkward", "mixed", "object"],
)
def test_events_of_many_kinds(url, events):
    with Client(url) as client:
        answer = client.predict(events, "sums")
    assert answer["ht"].tolist() == HT and answer["twice"].tolist() == TWICE


def test_one_array_and_one_output(server):
    for url in (f"http://127.0.0.1:{server.rest_port}", f"grpc://127.0.0.1:{server.grpc_port}"):
        with Client(url) as client:
            answer = client.predict(np.float32([[2], [5]]))
            assert answer.tolist() == [[3.0], [4.5]]
            assert client.predict([[2.0], [5]], version=123).tolist() == [[3.0], [4.5]]
            with pytest.raises(ServingError) as caught:
                client.predict([1.0], "none")
            assert caught.value.code is Code.NOT_FOUND
            with pytest.raises(ServingError) as caught:
                client.predict([1.0], version=7)
            assert caught.value.code is Code.NOT_FOUND
            with pytest.raises(ServingError) as caught:
                client.predict({"y": [1.0]})
            assert caught.value.code is Code.INVALID_ARGUMENT


def test_errors_of_the_caller():
    with pytest.raises(ServingError, match="HOST:PORT"):
        Client("127.0.0.1:8501")
    with pytest.raises(ServingError, match="event 1 has other keys than event 0"):
        columns([{"a": 1}, {"b": 1}])
    with pytest.raises(ServingError, match="different depths"):
        columns({"a": [[1.0], 2.0, [3.0, 4.0]]})
    with pytest.raises(ServingError) as caught, Client("http://127.0.0.1:9") as client:
        client.predict([1.0])
    assert caught.value.code is Code.UNAVAILABLE
    with pytest.raises(ServingError) as caught, Client("grpc://127.0.0.1:9", timeout=5) as client:
        client.predict([1.0])
    assert caught.value.code is Code.UNAVAILABLE


def test_http_does_without_tensorflow():
    code = "import sys; from mlaas4hep_serving import Client; Client('http://a'); print('tensorflow' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONPATH": ":".join(sys.path)}
    )
    assert done.stdout == "False\n"


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(EVENTS),
        "\n".join(map(json.dumps, EVENTS)),
        json.dumps({k: [e[k] for e in EVENTS] for k in EVENTS[0]}, indent=1),
    ],
    ids=["list", "lines", "columns"],
)
def test_predict_from_the_shell(url, text, tmp_path, capsys, monkeypatch):
    file = tmp_path / "events.json"
    file.write_text(text)
    assert predict.main([url, str(file), "--model", "sums"]) == 0
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == [
        {"ht": ht, "twice": twice} for ht, twice in zip(HT, TWICE, strict=True)
    ]
    monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps(EVENTS[0])))
    assert predict.main([url, "--model", "sums"]) == 0
    assert json.loads(capsys.readouterr().out) == {"ht": 4.5, "twice": 6}


def test_mistakes_on_the_shell(served, tmp_path, capsys):
    (tmp_path / "bad").write_text('{"a": 1}\n{"a": \n')
    for arguments, rule in [
        (["127.0.0.1:80", "x"], "none cannot be read|x cannot be read"),
        ([served["http"], str(tmp_path / "none")], "none cannot be read"),
        ([served["http"], str(tmp_path / "bad")], "line 2 of the events is no JSON"),
        ([served["http"], "/dev/null"], "has no events"),
    ]:
        assert predict.main(arguments) == 1
        error = capsys.readouterr().err
        assert any(part in error for part in rule.split("|")) and error.startswith("mlaas4hep-predict: ")
        assert len(error.splitlines()) == 1
