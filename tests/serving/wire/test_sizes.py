"""What tensors declare is asked before memory is taken, in every form; answers of any size are the same text."""

import http.client
import json

import grpc
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from mlaas4hep_serving.conformance import fixtures
from mlaas4hep_serving.errors import Code, ServingError
from mlaas4hep_serving.metrics import Registry
from mlaas4hep_serving.models.batcher import Batcher, BatchingOptions
from mlaas4hep_serving.models.cards import FILE as CARD
from mlaas4hep_serving.wire import examples, json_numbers, json_responses, sizes, tensors
from tensorflow.core.framework import types_pb2
from tensorflow.core.framework.tensor_pb2 import TensorProto
from tensorflow_serving.apis import prediction_service_pb2_grpc
from tensorflow_serving.apis.input_pb2 import Input
from tensorflow_serving.apis.predict_pb2 import PredictRequest

LIMIT = 1000  # bytes
TYPES = [
    "FLOAT",
    "DOUBLE",
    "HALF",
    "BFLOAT16",
    "INT8",
    "UINT8",
    "INT16",
    "INT32",
    "INT64",
    "UINT64",
    "BOOL",
    "COMPLEX64",
]


def declared(dtype: str, *shape: int, **values) -> TensorProto:
    proto = TensorProto(dtype=types_pb2.DataType.Value(f"DT_{dtype}"), **values)
    for size in shape:
        proto.tensor_shape.dim.add(size=size)
    return proto


@given(st.sampled_from(TYPES), st.lists(st.integers(0, 5), max_size=4))
def test_the_bytes_of_a_shape_are_those_of_its_array(dtype, shape):
    proto = declared(dtype, *shape)
    assert sizes.of_proto(proto) == np.zeros(shape, tf.dtypes.as_dtype(proto.dtype).as_numpy_dtype).nbytes


def test_a_repeated_string_counts_each_time():
    assert sizes.of_proto(declared("STRING", 10, string_val=[b"a", b"x" * 100])) == 10 * 24 + 1 + 9 * 100


@pytest.mark.parametrize("dtype", [*TYPES, "STRING", "QINT8", "VARIANT", "RESOURCE"])
@pytest.mark.parametrize("shape", [[1 << 62], [1 << 31, 1 << 31, 1 << 31], [1] * 100], ids=str)
def test_whatever_is_declared_is_counted_without_memory(dtype, shape):
    with pytest.raises(ServingError) as caught:
        sizes.check(sizes.of_proto(declared(dtype, *shape)), LIMIT)
    assert caught.value.code is Code.INVALID_ARGUMENT


def test_a_context_goes_before_each_example():
    given_ = Input()
    given_.example_list_with_context.context.features.feature["x"].bytes_list.value.append(b"x" * 300)
    for _ in range(4):
        given_.example_list_with_context.examples.add()
    assert len(examples.serialized(given_)) == 4
    with pytest.raises(ServingError, match=f"more than the limit of {LIMIT} bytes"):
        examples.serialized(given_, LIMIT)


def test_row_splits_lay_claim_to_values():
    assert sizes.of_splits(np.array([0, 3, 1_000_000_000])) == 4_000_000_000
    assert sizes.of_splits(np.array([], np.int64)) == sizes.of_splits(np.array([-5])) == 0


# a server with a small limit: each form at the limit and beyond it


class Wide(tf.Module):
    """A row of 100 numbers for each row."""

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
    def __call__(self, x):
        return {"y": tf.tile(x[:, tf.newaxis], [1, 100])}


class Jets(tf.Module):
    """Lists as values and row splits."""

    @tf.function(
        input_signature=[
            tf.TensorSpec([None], tf.float32, name="pt"),
            tf.TensorSpec([None], tf.int64, name="jet_row_splits"),
        ]
    )
    def __call__(self, pt, jet_row_splits):
        return {"n": jet_row_splits[1:] - jet_row_splits[:-1], "sum": tf.reduce_sum(pt)}


class Total(tf.Module):
    @tf.function(input_signature=[tf.TensorSpec([None, None], tf.float32, name="x")])
    def __call__(self, x):
        return {"total": tf.reduce_sum(tf.where(tf.math.is_nan(x), 0.0, x), axis=1)}


@pytest.fixture(scope="module")
def limited(tmp_path_factory):
    from mlaas4hep_serving.options import Options
    from mlaas4hep_serving.server import Server

    base = tmp_path_factory.mktemp("limited")
    fixtures.half_plus_two(base / "default" / "1")
    fixtures.strings(base / "strings" / "1")
    for name, module in (("wide", Wide()), ("total", Total()), ("jets", Jets())):
        tf.saved_model.save(module, str(base / name / "1"), signatures=module.__call__)
    (base / "total" / "1" / CARD).parent.mkdir()
    (base / "total" / "1" / CARD).write_text('{"padding": "NaN"}')
    models = " ".join(
        f'config {{ name: "{name}" base_path: "{base / name}" model_platform: "tensorflow" }}'
        for name in ("default", "strings", "wide", "total", "jets")
    )
    (base / "models").write_text(f"model_config_list {{ {models} }}")
    server = Server(Options(port=-1, rest_api_port=-1, model_config_file=str(base / "models"), max_tensor_bytes=LIMIT))
    yield server
    server.stop()


def over_grpc(server, model, **inputs) -> str:
    """What went wrong, or ""."""
    request = PredictRequest(model_spec={"name": model})
    for alias, proto in inputs.items():
        request.inputs[alias].CopyFrom(proto)
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        asked = prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict.future(request, timeout=20)
        assert asked.code() in (grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT)
        return asked.details()


def over_http(server, model, body) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", server.rest_port, timeout=20)
    connection.request("POST", f"/v1/models/{model}:predict", json.dumps(body))
    reply = connection.getresponse()
    answer = json.load(reply)
    connection.close()
    assert reply.status == (400 if "error" in answer else 200)
    return answer.get("error", "")


def test_requests_at_the_limit_and_beyond(limited):
    too_large = "The tensors of the request or of its answer take {} bytes, more than the limit of 1000 bytes"
    for proto, size in (
        (declared("FLOAT", 251), 1004),
        (declared("FLOAT", 251, float_val=[1.0]), 1004),
        (declared("FLOAT", 1_000_000_000), 4_000_000_000),
    ):
        assert over_grpc(limited, "default", x=proto).startswith(too_large.format(size))
    assert over_grpc(limited, "strings", s=declared("STRING", (1 << 31) - 1)).startswith(
        too_large.format(((1 << 31) - 1) * 24)
    )
    assert over_grpc(limited, "strings", s=declared("STRING", 9, string_val=[b"x" * 90])).startswith(
        too_large.format(9 * (24 + 90))
    )
    assert over_http(limited, "default", {"instances": [1.0] * 251}).startswith(too_large.format(1004))
    assert over_http(limited, "default", {"inputs": {"x": [[1.0] * 251]}}).startswith(too_large.format(1004))
    assert over_http(limited, "total", {"instances": [[1.0] * 50] + [[]] * 5}).startswith(too_large.format(1200))
    assert over_grpc(limited, "wide", x=declared("FLOAT", 3)).startswith(too_large.format(1200))
    assert over_http(limited, "wide", {"instances": [1.0] * 3}).startswith(too_large.format(1200))
    jets = {"pt": declared("FLOAT", 3), "jet_row_splits": declared("INT64", 3, int64_val=[0, 1, 1_000_000_000])}
    assert over_grpc(limited, "jets", **jets).startswith(too_large.format(4_000_000_000))
    # both inputs together
    jets = {"pt": declared("FLOAT", 200), "jet_row_splits": declared("INT64", 30)}
    assert over_grpc(limited, "jets", **jets).startswith(too_large.format(800 + 240))
    # and what is no larger is answered
    assert over_grpc(limited, "default", x=declared("FLOAT", 250)) == ""
    assert over_grpc(limited, "strings", s=declared("STRING", 9, string_val=[b"x" * 80])) == ""
    assert over_http(limited, "default", {"instances": [1.0] * 250}) == ""
    assert over_http(limited, "total", {"instances": [[1.0] * 50] + [[]] * 4}) == ""
    assert over_grpc(limited, "wide", x=declared("FLOAT", 2)) == ""


# batches


def test_requests_that_would_fill_a_batch_run_alone():
    """An empty request may be as wide as it likes; padded to it, a batch with others would be as wide."""
    shapes = []

    def run(feeds, values, fetches, timeout):
        shapes.append(values[0].shape)
        return [values[0].sum(axis=1)]

    options = BatchingOptions(max_batch_size=2, batch_timeout_micros=5_000_000, num_batch_threads=1)
    batcher = Batcher(run, options, Registry(), "m", frozenset({"x:0"}), LIMIT)
    wide, narrow = np.ones((1, 200), np.float32), np.ones((1, 1), np.float32)
    futures = [batcher.submit(["x:0"], [values], ["y:0"]) for values in (wide, narrow)]
    assert [future.result(5)[0].tolist() for future in futures] == [[200.0], [1.0]]
    assert shapes == [(1, 200), (1, 1)]
    batcher.close()


def test_rows_that_fill_up_an_allowed_batch_count():
    options = BatchingOptions(max_batch_size=64, allowed_batch_sizes=(64,), num_batch_threads=1)
    batcher = Batcher(lambda *given: [given[1][0]], options, Registry(), "m", most=LIMIT)
    assert len(batcher.submit(["x:0"], [np.ones((1, 3), np.float32)], ["y:0"]).result(5)[0]) == 1
    with pytest.raises(ServingError, match="take 1024 bytes, more than the limit of 1000"):
        batcher.submit(["x:0"], [np.ones((1, 4), np.float32)], ["y:0"]).result(5)
    batcher.close()


# answers


SPECIAL = st.sampled_from([0.0, -0.0, 1.0, 1e6, 1e16, 0.1, 1e-45])
FLOATS = st.lists(st.floats(width=32) | SPECIAL, min_size=1, max_size=12).map(
    lambda values: np.array(values, np.float32)
)
DOUBLES = st.lists(st.floats(width=64) | SPECIAL, min_size=1, max_size=12).map(np.array)
INTEGERS = st.lists(st.integers(-(1 << 63), (1 << 63) - 1), min_size=1).map(lambda values: np.array(values, np.int64))


@given(
    FLOATS | DOUBLES | INTEGERS | st.lists(st.booleans(), min_size=1).map(np.array),
    st.sampled_from(["row", "columnar"]),
)
def test_many_numbers_are_written_as_few_are(values, form):
    array = np.concatenate([np.resize(values, json_numbers.MANY), values])[:, np.newaxis]
    key = "predictions" if form == "row" else "outputs"
    many = bytes(json_responses.predict_response({"y": array}, form)).replace(b"\n", b"").replace(b" ", b"")
    few = [
        bytes(json_responses.predict_response({"y": row[np.newaxis]}, "row")).split(b": [", 1)[1].split(b"\n")[0]
        for row in array[: len(values)]
    ]
    assert many.startswith(b'{"%s":[' % key.encode() + b",".join(few))


def test_answers_in_parts_are_whole():
    array = np.arange(3 * json_numbers.MOST, dtype=np.float32)
    for shaped in (array, array.reshape(1, -1), array.reshape(-1, 3), array.reshape(2, 3, -1)):
        for outputs in ({"y": shaped}, {"y": shaped, "z": shaped * 2}):
            row = json.loads(json_responses.predict_response(outputs, "row"))["predictions"]
            columns = json.loads(json_responses.predict_response(outputs, "columnar"))["outputs"]
            for name, wanted in outputs.items():
                one = len(outputs) == 1
                np.testing.assert_array_equal(np.array(row if one else [item[name] for item in row]), wanted)
                np.testing.assert_array_equal(np.array(columns if one else columns[name]), wanted)


@given(st.sampled_from(TYPES), st.integers(0, 300))
def test_tensors_of_answers_are_read_by_tensorflow(dtype, size):
    kind = tf.dtypes.as_dtype(f"{dtype.lower()}").as_numpy_dtype
    array = np.arange(size).reshape(1, size).astype(kind)
    proto = TensorProto()
    tensors.to_proto(array, proto)
    np.testing.assert_array_equal(tf.make_ndarray(proto), array)
    np.testing.assert_array_equal(tf.io.parse_tensor(proto.SerializeToString(), array.dtype).numpy(), array)
