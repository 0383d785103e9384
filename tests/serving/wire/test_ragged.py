"""Events as they are: lists of different lengths become NaN-padded arrays where the signature leaves a length open."""

import json
import math
import threading
import urllib.request

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from mlaas4hep_serving.errors import ServingError
from mlaas4hep_serving.metrics import Registry
from mlaas4hep_serving.models import cards
from mlaas4hep_serving.models.batcher import Batcher, BatchingOptions
from mlaas4hep_serving.wire import json_requests, ragged
from tensorflow.core.framework import types_pb2
from tensorflow.core.protobuf.meta_graph_pb2 import SignatureDef

FLOAT = types_pb2.DT_FLOAT


def signature(**inputs: tuple[int, ...]) -> SignatureDef:
    definition = SignatureDef()
    for name, sizes in inputs.items():
        definition.inputs[name].dtype = FLOAT
        for size in sizes:
            definition.inputs[name].tensor_shape.dim.add(size=size)
    return definition


def padded_by_hand(rows: list[list[float]]) -> np.ndarray:
    out = np.full((len(rows), max(map(len, rows))), np.nan, np.float32)
    for i, row in enumerate(rows):
        out[i, : len(row)] = row
    return out


def read(body: object, **inputs: tuple[int, ...]) -> dict[str, np.ndarray]:
    shapes = ragged.open_inputs(signature(**inputs))
    return json_requests.predict_request(
        json.dumps(body).encode(), lambda _: dict.fromkeys(inputs, FLOAT), lambda _: shapes
    ).inputs


def test_the_request_of_the_docs():
    body = {"instances": [{"Jet_pt": [45.1, 32.0], "met": 1.5}, {"Jet_pt": [61.0], "met": 2}]}
    inputs = read(body, Jet_pt=(-1, -1), met=(-1,))
    np.testing.assert_array_equal(inputs["Jet_pt"], np.array([[45.1, 32.0], [61.0, np.nan]], np.float32))
    np.testing.assert_array_equal(inputs["met"], np.array([1.5, 2], np.float32))


@given(st.lists(st.lists(st.floats(width=32, allow_nan=False), max_size=5), min_size=1, max_size=6))
def test_rows_of_any_lengths(rows):
    named = [{"x": row, "y": 0.0} for row in rows]
    forms = [{"instances": named}, {"inputs": {"x": rows, "y": [0.0] * len(rows)}}]
    for body in forms:
        np.testing.assert_array_equal(read(body, x=(-1, -1), y=(-1,))["x"], padded_by_hand(rows))
    for body in ({"instances": rows}, {"inputs": rows}):
        np.testing.assert_array_equal(read(body, x=(-1, -1))["x"], padded_by_hand(rows))


def test_lists_of_four_vectors_keep_their_inner_size():
    inputs = read({"instances": [[[1, 2, 3, 4]], [], [[5, 6, 7, 8], [9, 9, 9, 9]]]}, p4=(-1, -1, 4))
    assert inputs["p4"].shape == (3, 2, 4)
    assert np.isnan(inputs["p4"][1]).all()
    np.testing.assert_array_equal(inputs["p4"][2], [[5, 6, 7, 8], [9, 9, 9, 9]])


@pytest.mark.parametrize(
    ("rows", "sizes", "rule"),
    [
        ([[1, 2], [3]], (-1, 2), "Expecting tensor size: 2 but got: 1"),  # a fixed size stays fixed
        ([[1, 2], 3], (-1, -1), "Expecting tensor size"),  # a number is no list
        ([[1, 2], ["a"]], (-1, -1), "is not of expected type: float"),
        ([[[1, 2, 3, 4]], [[1, 2]]], (-1, -1, 4), "Expecting tensor size"),
    ],
)
def test_what_stays_an_error(rows, sizes, rule):
    with pytest.raises(ServingError, match=rule):
        read({"instances": rows}, x=sizes)


def test_integers_have_no_nan_and_stay_strict():
    definition = signature(n=(-1, -1))
    definition.inputs["n"].dtype = types_pb2.DT_INT64
    assert ragged.open_inputs(definition) == {}


def test_requests_of_different_widths_share_a_batch_where_nan_means_no_value():
    sizes = []

    def run(feeds, values, fetches, timeout):
        sizes.append(values[0].shape)
        return [np.nansum(values[0], axis=1)]

    gate = BatchingOptions(max_batch_size=2, batch_timeout_micros=5_000_000, num_batch_threads=1)
    batcher = Batcher(run, gate, Registry(), "m", frozenset({"x:0"}))
    rows = [np.array([[1, 2, 3]], np.float32), np.array([[10]], np.float32)]
    futures = [batcher.submit(["x:0"], [row], ["y:0"]) for row in rows]
    assert [future.result(5)[0].tolist() for future in futures] == [[6.0], [10.0]]
    assert sizes == [(2, 3)]
    batcher.close()


def test_a_model_says_so_in_its_card(tmp_path):
    assert not cards.pads_with_nan(cards.read(tmp_path))
    path = tmp_path / cards.FILE
    path.parent.mkdir()
    path.write_text('{"padding": "NaN"}')
    assert cards.pads_with_nan(cards.read(tmp_path))
    for text in ("[1]", "{", "[" * 100_000, '{"a":' * 60 + "1" + "}" * 60):
        path.write_text(text)
        assert cards.read(tmp_path) == {}


class Total(tf.Module):
    @tf.function(input_signature=[tf.TensorSpec([None, None], tf.float32, name="x")])
    def __call__(self, x):
        return {"total": tf.reduce_sum(tf.where(tf.math.is_nan(x), 0.0, x), axis=1)}


def test_over_http_alone_and_batched(tmp_path, start_server):
    model = Total()
    folder = tmp_path / "total" / "7"
    tf.saved_model.save(model, str(folder), signatures=model.__call__)
    (folder / "assets.extra").mkdir()
    (folder / cards.FILE).write_text('{"padding": "NaN"}')
    server = start_server(model_name="total", model_base_path=str(folder.parent), enable_batching=True)
    url = f"http://127.0.0.1:{server.rest_port}/v1/models/total:predict"
    rows = [[1.0], [], [1.0, 2.0, 3.5]]
    with urllib.request.urlopen(url, json.dumps({"instances": rows}).encode()) as reply:
        assert json.load(reply) == {"predictions": [1.0, 0.0, 6.5]}
        assert reply.headers["X-Model-Version"] == "7"
    answers: dict[int, list[float]] = {}

    def ask(i: int) -> None:
        with urllib.request.urlopen(url, json.dumps({"instances": [[1.0] * i]}).encode()) as reply:
            answers[i] = json.load(reply)["predictions"]

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == {i: [float(i)] for i in range(12)}
    assert not any(math.isnan(v[0]) for v in answers.values())
