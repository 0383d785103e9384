"""Bytes in flight: counted, refused beyond the limit, given back."""

import gzip
import http.client
import json
import threading

import grpc
import numpy as np
import pytest
import tensorflow as tf
from mlaas4hep_serving.errors import Code, ServingError
from mlaas4hep_serving.frontends.budget import FREE, Budget, Share
from tensorflow_serving.apis import prediction_service_pb2_grpc
from tensorflow_serving.apis.predict_pb2 import PredictRequest

SMALL = b'{"instances": [2.0]}'


def test_shares_are_taken_refused_and_given_back():
    budget = Budget(10 * FREE)
    with Share(budget) as first, Share(budget) as second:
        first.hold(6 * FREE)
        first.hold(5 * FREE)  # it has more already
        with pytest.raises(ServingError) as caught:
            second.grow(5 * FREE)
        assert caught.value.code is Code.UNAVAILABLE and f"{6 * FREE} bytes" in caught.value.message
        second.grow(4 * FREE)
        second.hold(4 * FREE)
    Share(budget).hold(10 * FREE)  # and dropped
    Share(budget).hold(10 * FREE)


def test_small_requests_pass_when_nothing_is_left():
    budget = Budget(FREE)
    with Share(budget) as large, Share(budget) as small:
        with pytest.raises(ServingError):
            large.hold(FREE + 1)
        small.hold(FREE)


def ask(server, body, **headers):
    connection = http.client.HTTPConnection("127.0.0.1", server.rest_port, timeout=60)
    connection.request("POST", "/v1/models/default:predict", body, headers)
    response = connection.getresponse()
    content = response.read()
    connection.close()
    return response, content


def test_what_does_not_fit_is_told_to_come_again(half_plus_two, start_server):
    server = start_server(model_base_path=str(half_plus_two.parent), max_inflight_bytes=1 << 20)
    for body, headers in ((b" " * (2 << 20), {}), (gzip.compress(b" " * (2 << 20)), {"Content-Encoding": "gzip"})):
        response, content = ask(server, body, **headers)
        assert response.status == 503 and response.headers["Retry-After"]
        assert "--max_inflight_bytes" in json.loads(content)["error"]
    assert ask(server, SMALL + b" " * (1 << 19))[0].status == 200
    assert ask(server, SMALL)[0].status == 200
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        for call in (stub.Predict, stub.Classify):
            tensor = tf.make_tensor_proto(np.zeros(1 << 19, np.float32))
            with pytest.raises(grpc.RpcError) as caught:
                call(PredictRequest(model_spec={"name": "default"}, inputs={"x": tensor}), timeout=20)
            assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        tensor = tf.make_tensor_proto(np.ones(1 << 17, np.float32))
        for _ in range(5):  # each is given back
            answer = stub.Predict(PredictRequest(model_spec={"name": "default"}, inputs={"x": tensor}), timeout=20)
            assert answer.outputs["y"].float_val[0] == 2.5


def test_a_large_body_is_answered_like_a_small_one(server):
    rows = 150_000
    response, content = ask(server, json.dumps({"instances": [2.0] * rows + [4.0]} | {"pad": "x" * (1 << 20)}).encode())
    found = json.loads(content)["predictions"]
    assert response.status == 200 and found == [3.0] * rows + [4.0]


@pytest.mark.slow
@pytest.mark.parametrize("filling", [b"\0", b'"', b"1", b"["])
def test_many_bodies_that_inflate_leave_others_their_answers(server, filling):
    bomb = gzip.compress(filling * (99 << 20), 9)
    statuses = []
    send = lambda: statuses.append(ask(server, bomb, **{"Content-Encoding": "gzip"})[0].status)  # noqa: E731
    threads = [threading.Thread(target=send) for _ in range(6)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        assert ask(server, SMALL)[0].status == 200
    assert len(statuses) == 6 and set(statuses) <= {400, 413, 429, 503}
