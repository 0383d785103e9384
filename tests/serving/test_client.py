"""The client and `mlaas4hep-predict`, over HTTP and gRPC."""

import io
import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import awkward as ak
import mlaas4hep_client
import numpy as np
import pytest
import tensorflow as tf
import uproot
from google.protobuf import descriptor_pb2
from mlaas4hep_client import messages, tensors
from mlaas4hep_client.events import column
from mlaas4hep_client.files import read_events
from mlaas4hep_serving import Client, predict
from mlaas4hep_serving.client import columns
from mlaas4hep_serving.errors import Code, ServingError
from tensorflow.core.framework import types_pb2
from tensorflow.core.framework.tensor_pb2 import TensorProto

from mlaas4hep_tf import __version__ as VERSION  # noqa: N812  # a constant


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


EVENTS: list[dict[str, Any]] = [
    {"met": 1.5, "n": 3, "pt": [1.0, 2.0]},
    {"met": 0.0, "n": 4, "pt": []},
    {"met": 2, "n": 5, "pt": [10.0, 20.0, 30.0]},
]
FLAGS = [True, False, True]  # of a trigger, say
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
        {
            "met": np.array([1.5, 0, 2], np.float64),
            "n": np.array([3, 4, 5], np.int32),
            "pt": ak.Array([e["pt"] for e in EVENTS]),
        },
        {
            "met": np.array([1.5, 0, 2], np.float32),
            "n": np.array([3, 4, 5], np.int64),
            "pt": np.array([np.array(e["pt"], np.float32) for e in EVENTS], object),
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
            answer = client.predict(np.array([[2], [5]], np.float32))
            assert np.asarray(answer).tolist() == [[3.0], [4.5]]
            assert np.asarray(client.predict([[2.0], [5]], version=123)).tolist() == [[3.0], [4.5]]
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


def run_alone(code, environment, *arguments):
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, env=environment, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


HEAVY = "print({'tensorflow', 'tensorflow_serving', 'keras', 'numpy'} & set(sys.modules) or 'light')"


@pytest.mark.parametrize("address", ["http://127.0.0.1:9", "grpc://127.0.0.1:9"])
def test_a_request_needs_no_tensorflow_and_no_numpy(address, environment):
    code = f"""
import sys
from mlaas4hep_serving import Client
from mlaas4hep_serving.errors import ServingError
try:
    Client(sys.argv[1], timeout=5).predict([[1.0, 2], [3]])
except ServingError as error:
    print(error.code.name)
{HEAVY}
"""
    assert run_alone(code, environment, address).split() == ["UNAVAILABLE", "light"]


@pytest.mark.parametrize(
    "module",
    ["mlaas4hep_serving", "mlaas4hep_serving.predict", "mlaas4hep_client.predict", "mlaas4hep_serving.conformance"],
)
@pytest.mark.parametrize("flag", ["--help", "--version"])
def test_help_and_version_need_no_tensorflow(module, flag, environment):
    code = f"""
import runpy, sys
sys.argv = ["command", sys.argv[2]] if (name := sys.argv[1]) else []
try:
    runpy.run_module(name, run_name="__main__", alter_sys=True)
except SystemExit as done:
    assert not done.code, done.code
{HEAVY}
"""
    *told, light = run_alone(code, environment, module, flag).splitlines()
    assert light == "light"
    assert told[0].startswith("usage: ") if flag == "--help" else told == [f"{told[0].rsplit(' ', 1)[0]} {VERSION}"]


def test_the_client_is_of_the_version_of_the_whole():
    assert mlaas4hep_client.__version__ == VERSION


@pytest.mark.parametrize("first", ["tensorflow", "client"])
def test_the_client_lives_beside_tensorflow(first, served, environment):
    imports = [
        "import tensorflow; from tensorflow_serving.apis import predict_pb2",
        "from mlaas4hep_client import over_grpc",
    ]
    code = (
        "\n".join(imports if first == "tensorflow" else reversed(imports))
        + """
import sys
from mlaas4hep_serving import Client
request = predict_pb2.PredictRequest()
request.inputs["x"].CopyFrom(tensorflow.make_tensor_proto([1.0]))
print(Client(sys.argv[1]).predict({"met": [1.5], "n": [3], "pt": [[1.0, 2.0]]}, "sums")["ht"].tolist())
"""
    )
    assert run_alone(code, environment, served["grpc"]) == "[4.5]\n"


WITHOUT_NUMPY = """
import json, sys
sys.modules["numpy"] = None  # as where it is not installed
from mlaas4hep_client import Client
print(json.dumps(Client(sys.argv[1]).predict(json.loads(sys.argv[2]), "sums")))
"""


def test_answers_without_numpy_are_lists(url, environment):
    answer = json.loads(run_alone(WITHOUT_NUMPY, environment, url, json.dumps(EVENTS)))
    assert answer == {"ht": HT, "twice": TWICE}


def test_whole_numbers_only_for_integers(served):
    with Client(served["grpc"]) as client:
        whole = [{**event, "n": float(event["n"])} for event in EVENTS]
        assert client.predict(whole, "sums")["twice"].tolist() == TWICE
        for n in ([3.5, 4, 5], np.array([3.5, 4, 5], np.float32), [[3.5], [4, 5], [6]], ["3", "4", "5"]):
            with pytest.raises(ServingError, match="n: the model takes int64") as caught:
                client.predict({"met": [1.0] * 3, "n": n, "pt": [[1.0]] * 3}, "sums")
            assert caught.value.code is Code.INVALID_ARGUMENT


@pytest.mark.parametrize(
    "values",
    [
        np.array([[1.5, -0.0], [np.inf, 3e38]], np.float32),
        np.array([0.1, -1e300], np.float64),
        np.array([1.5, 65504.0], np.float16),
        np.array([-128, 127], np.int8),
        np.array([0, 255], np.uint8),
        np.array([-32768, 7], np.int16),
        np.array([0, 65535], np.uint16),
        np.array([-(2**31), 2**31 - 1], np.int32),
        np.array([2**32 - 1], np.uint32),
        np.array([-(2**63), 2**63 - 1], np.int64),
        np.array([2**64 - 1], np.uint64),
        np.array([True, False]),
        np.array([1 + 2j, -0.5j], np.complex64),
        np.array([1e300 + 2j], np.complex128),
        np.array([b"a", b"\xff", b""], object),
        np.zeros([0, 3], np.float32),
    ],
    ids=lambda values: f"{values.dtype}{list(values.shape)}",
)
@pytest.mark.parametrize("form", ["array", "list"])
def test_tensors_are_those_of_tensorflow(values, form):
    dtype = tf.as_dtype(values.dtype).as_datatype_enum if values.dtype != object else types_pb2.DT_STRING
    given = values if form == "array" else values.tolist()
    if form == "list" and not values.size:
        pytest.skip("an empty list has no second dimension")
    proto = messages.TensorProto()
    tensors.fill(proto, column(given, "x"), "x", dtype)
    written = TensorProto.FromString(proto.SerializeToString())
    np.testing.assert_array_equal(tf.make_ndarray(written), values)
    # and back, from either form in which TensorFlow writes them
    as_fields = tf.make_tensor_proto(values)
    for theirs in (as_fields, fields_of(values, dtype)):
        read = tensors.read(messages.TensorProto.FromString(theirs.SerializeToString()), "x")
        np.testing.assert_array_equal(read, values)
        assert read.dtype == values.dtype


# tensor.proto: where the values of a dtype stand, and as what
FIELDS = {
    "float32": ("float_val", "float32"),
    "float64": ("double_val", "float64"),
    "float16": ("half_val", "uint16"),
    "int64": ("int64_val", "int64"),
    "uint32": ("uint32_val", "uint32"),
    "uint64": ("uint64_val", "uint64"),
    "bool": ("bool_val", "bool"),
    "complex64": ("scomplex_val", "float32"),
    "complex128": ("dcomplex_val", "float64"),
    "object": ("string_val", "object"),
}


def fields_of(values, dtype):
    """A TensorProto in typed fields, as TF-Serving answers."""
    proto = TensorProto(dtype=dtype, tensor_shape=tf.TensorShape(values.shape).as_proto())
    field, written = FIELDS.get(str(values.dtype), ("int_val", values.dtype))
    getattr(proto, field).extend(values.ravel().view(written).tolist())
    return proto


def test_bfloat16_is_rounded_as_tensorflow_does():
    values = np.array([1.0, 1.00390625, 1.01171875, -3.3895314e38, np.nan, np.inf], np.float32)
    wanted = tf.cast(values, tf.bfloat16)
    proto = messages.TensorProto()
    tensors.fill(proto, column(values, "x"), "x", types_pb2.DT_BFLOAT16)
    np.testing.assert_array_equal(
        tf.make_ndarray(TensorProto.FromString(proto.SerializeToString())).astype(np.float32),
        tf.cast(wanted, tf.float32).numpy(),
    )
    back = tensors.read(messages.TensorProto.FromString(tf.make_tensor_proto(wanted).SerializeToString()), "x")
    np.testing.assert_array_equal(back, tf.cast(wanted, tf.float32).numpy())


def test_the_last_value_stands_for_all_that_follow():
    proto = messages.TensorProto(dtype=types_pb2.DT_FLOAT, float_val=[2.0])
    proto.tensor_shape.dim.add().size = 3
    assert tensors.read(proto, "x").tolist() == [2.0, 2.0, 2.0]


def test_a_dtype_that_the_client_does_not_know():
    with pytest.raises(ServingError, match="x: .* number 11") as caught:
        tensors.read(messages.TensorProto(dtype=types_pb2.DT_QINT8), "x")
    assert caught.value.code is Code.UNIMPLEMENTED


def test_the_descriptor_set_is_made_of_the_protos(tmp_path):
    if find_spec("grpc_tools") is None:
        pytest.skip("grpcio-tools, which compiles the .proto files, is not installed")
    made = tmp_path / "messages.binpb"
    script = Path(__file__).parents[2] / "serving" / "client" / "make_protos.py"
    # a process of its own: the compiler and TensorFlow bring the same C++ library, and cannot share one
    subprocess.run([sys.executable, script, made], check=True, timeout=60)
    read = descriptor_pb2.FileDescriptorSet.FromString
    assert read(made.read_bytes()) == read((script.parent / "mlaas4hep_client/protos/messages.binpb").read_bytes())


def test_gaps_of_ragged_lists_are_filled_at_every_depth():
    filled = column([[[1], [2, 3]], [], [[4, 5]]], "x")
    assert filled.shape == (3, 2, 2)
    nan = float("nan")
    np.testing.assert_array_equal(filled.nested(), [[[1, nan], [2, 3]], [[nan, nan], [nan, nan]], [[4, 5], [nan, nan]]])
    with pytest.raises(ServingError, match="hold numbers only"):
        column([["a"], ["b", "c"]], "x")


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(EVENTS),
        "\n".join(map(json.dumps, EVENTS)),
        json.dumps({k: [e[k] for e in EVENTS] for k in EVENTS[0]}, indent=1),
        json.dumps({"instances": EVENTS}),
        json.dumps(
            {
                "signature_name": "serving_default",
                "inputs": {k: [e[k] for e in EVENTS] for k in ("met", "n")}
                | {"pt": [[1, 2, 0], [0, 0, 0], [10, 20, 30]]},
            }
        ),
    ],
    ids=["list", "lines", "columns", "body of rows", "body of columns"],
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


def write_table(path):
    """The events, and a column that the model does not take."""
    events = ak.Array([{**event, "weight": 0.5} for event in EVENTS])
    if path.suffix == ".root":
        with uproot.recreate(path) as file:
            for name, rows in (("events", events), ("other/runs", ak.Array([{"run": 1}]))):
                tree = file.mktree(name, {field: rows[field].type.content for field in rows.fields})
                tree.extend({field: rows[field] for field in rows.fields})
    elif path.suffix == ".csv":
        lines = ["weight,met,n,pt", *(f'0.5,{e["met"]},{e["n"]},"{e["pt"]}"' for e in EVENTS)]
        path.write_text("\n".join(lines) + "\n")
    else:
        pytest.importorskip("pyarrow", reason="pyarrow is not installed (pip install 'mlaas4hep_tf[parquet]')")
        ak.to_parquet(events, path)


@pytest.mark.parametrize("ending", ["root", "csv", "parquet"])
def test_tables_go_in_step_by_step(url, ending, tmp_path, capsys, monkeypatch):
    path = tmp_path / f"events.{ending}"
    write_table(path)
    monkeypatch.setattr("mlaas4hep_client.files.STEP", 2)  # so that there are two requests
    name = f"{path}:events" if ending == "root" else str(path)
    assert predict.main([url, "--model", "sums", name]) == 0  # options may stand between the two
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == [
        {"ht": ht, "twice": twice} for ht, twice in zip(HT, TWICE, strict=True)
    ]


def test_a_root_file_of_two_trees_and_one_that_is_none(served, tmp_path, capsys):
    write_table(tmp_path / "events.root")
    (tmp_path / "text.root").write_text("not ROOT")
    for name, says in [
        ("events.root", f"has the trees events, other/runs: say which, {tmp_path}/events.root:events"),
        ("events.root:other/runs", "tree runs lacks 3 of the 3 inputs: met, n, pt"),
        ("events.root:evnts", f"{tmp_path}/events.root has no tree evnts; it has events, other/runs"),
        ("text.root", "text.root cannot be read"),
        ("none.root", "none.root cannot be read"),
    ]:
        assert predict.main([served["http"], f"{tmp_path}/{name}", "--model", "sums"]) == 1
        said = capsys.readouterr().err
        assert says in said
        assert len(said.splitlines()) == 1


def test_members_of_records_of_an_rntuple_go_in_by_the_names_of_the_inputs(tmp_path):
    jets = [[{"pt": 1.0, "eta": 0.5}, {"pt": 2.0, "eta": -0.5}], [], [{"pt": 3.0, "eta": 1.5}]]
    with uproot.recreate(tmp_path / "records.root") as file:
        file["Events"] = {"met": np.array([10.0, 20.0, 30.0]), "Jet": ak.Array(jets)}
    (step,) = read_events(f"{tmp_path}/records.root", lambda: ["met", "Jet_pt", "Jet_eta"]).steps
    assert step == {
        "met": [10.0, 20.0, 30.0], "Jet_pt": [[1.0, 2.0], [], [3.0]], "Jet_eta": [[0.5, -0.5], [], [1.5]],
    }  # fmt: skip


def test_an_input_that_may_be_several_branches_is_not_guessed(tmp_path):
    with uproot.recreate(tmp_path / "twice.root") as file:
        file.mktree("Events", {"Jet.pt": "f4", "Jet_pt": "f4", "met": "f4"})
    with pytest.raises(ServingError, match=r"lacks 1 of the 2 inputs: Jet_pt \(is it 'Jet.pt' or 'Jet_pt'\?\); `mlaas"):
        list(read_events(f"{tmp_path}/twice.root", lambda: ["met", "Jet_pt"]).steps)


def test_a_cell_that_is_no_number(served, tmp_path, capsys):
    (tmp_path / "bad.csv").write_text("met,n,pt\n1,2,[3]\n1,two,[3]\n")
    assert predict.main([served["http"], str(tmp_path / "bad.csv"), "--model", "sums"]) == 1
    assert "bad.csv, line 3, n: 'two' is neither a number nor a list" in capsys.readouterr().err


def test_a_model_that_was_not_named(served, tmp_path, capsys):
    (tmp_path / "events.json").write_text(json.dumps(EVENTS))
    assert predict.main([served["http"], str(tmp_path / "events.json")]) == 1
    assert (
        "NOT_FOUND: Servable not found for request: Latest(default); --model names another" in capsys.readouterr().err
    )


def test_an_empty_cell_is_nan(served, tmp_path, capsys):
    (tmp_path / "gap.csv").write_text("met,n,pt\n,2,[3]\n")
    assert predict.main([served["http"], str(tmp_path / "gap.csv"), "--model", "sums"]) == 0
    assert np.isnan(json.loads(capsys.readouterr().out)["ht"])


def test_all_inputs_that_are_missing_or_unknown_are_named(url):
    with Client(url, "sums") as client:
        assert client.inputs() == ["met", "n", "pt"]
        with pytest.raises(
            ServingError, match="takes 3 inputs, and the events lack n, pt and have mass, which"
        ) as caught:
            client.predict([{"met": 1.0, "mass": 2.0}])
        assert caught.value.code is Code.INVALID_ARGUMENT
        assert caught.value.__cause__ is None and caught.value.__suppress_context__  # nothing else is shown before it
        with pytest.raises(ServingError, match="none"):
            client.inputs(signature="none")


@pytest.mark.parametrize("flags", [FLAGS, np.array(FLAGS), ak.Array(FLAGS)], ids=["list", "array", "awkward"])
def test_booleans_are_numbers_for_an_input_of_numbers(url, flags):
    with Client(url, "sums") as client:
        answer = client.predict({"met": flags, "n": flags, "pt": [[True], [False], []]})
    assert answer["ht"].tolist() == [2.0, 0.0, 1.0]
    assert answer["twice"].tolist() == [2, 0, 2]


class Bits(tf.Module):
    """What a list of integers holds, as the exported models take them: it ends before -2^63."""

    @tf.function(input_signature=[tf.TensorSpec([None, None], tf.int64, name="bits")])
    def __call__(self, bits):
        return {"sum": tf.reduce_sum(tf.where(bits == tf.int64.min, tf.zeros_like(bits), bits), axis=1)}


def test_lists_of_integers_are_padded_as_the_model_takes_them(tmp_path):
    from mlaas4hep_serving.options import Options
    from mlaas4hep_serving.server import Server

    model = Bits()
    tf.saved_model.save(model, str(tmp_path / "1"), signatures=model.__call__)
    server = Server(Options(port=-1, rest_api_port=-1, model_name="default", model_base_path=str(tmp_path)))
    events = [{"bits": [2**62, 1]}, {"bits": []}, {"bits": [3]}]
    for url in (f"http://127.0.0.1:{server.rest_port}", f"grpc://127.0.0.1:{server.grpc_port}"):
        with Client(url) as client:
            np.testing.assert_array_equal(client.predict(events), [2**62 + 1, 0, 3])
            np.testing.assert_array_equal(client.predict(ak.Array(events)), [2**62 + 1, 0, 3])
    server.stop()


def test_a_client_of_one_model_says_what_it_is(url):
    with Client(url, "sums") as client:
        assert repr(client) == f"<Client of {url}, model 'sums'>"
        assert client.predict(EVENTS)["ht"].tolist() == HT
        with pytest.raises(ServingError) as caught:
            client.predict(EVENTS, "other")
        assert caught.value.code is Code.NOT_FOUND


@pytest.mark.parametrize("flag", ["--model-version", "--version"])
def test_a_version_of_the_model_from_the_shell(url, flag, monkeypatch, capsys):
    for version, status in [("5", 0), ("6", 1)]:
        monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps(EVENTS[0])))
        assert predict.main([url, "--model", "sums", flag, version]) == status
    assert "NOT_FOUND" in capsys.readouterr().err


def test_what_no_server_can_be_asked_with():
    for url, token, rule in [
        ("http://[::1", None, "is no URL"),
        ("http://127.0.0.1:1", "secret\n", "a token is printable ASCII"),
        ("grpc://127.0.0.1:1", "gehëim", "a token is printable ASCII"),
    ]:
        with pytest.raises(ServingError, match=rule) as caught:
            Client(url, token=token)
        assert token is None or token not in str(caught.value)
    with pytest.raises(ServingError, match="the authority's file cannot be read: /none.pem"):
        Client("https://127.0.0.1:1", ca="/none.pem")


def test_mistakes_on_the_shell(served, tmp_path, capsys):
    (tmp_path / "bad").write_text('{"a": 1}\n{"a": \n')
    for arguments, rule in [
        (["127.0.0.1:80", "x"], "a server is http://"),
        ([served["http"], str(tmp_path / "none")], "none cannot be read"),
        ([served["http"], str(tmp_path / "bad")], "line 2 of the events is no JSON"),
        ([served["http"], "/dev/null"], "has no events"),
    ]:
        assert predict.main(arguments) == 1
        error = capsys.readouterr().err
        assert rule in error and error.startswith("mlaas4hep-predict: ")
        assert len(error.splitlines()) == 1
