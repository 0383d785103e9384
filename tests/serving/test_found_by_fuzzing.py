"""Inputs that once made a 500, kept by hand."""

import http.client
import json

import grpc
import pytest
from mlaas4hep_serving.errors import ServingError
from mlaas4hep_serving.wire import jsonreader
from tensorflow.core.framework.types_pb2 import DT_VARIANT_REF
from tensorflow_serving.apis.predict_pb2 import PredictRequest

PREDICT, CLASSIFY = "/v1/models/default:predict", "/v1/models/default:classify"
HUGE = b"9" * 400


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CLASSIFY, b'{"signature_name": "classify_x_to_y", "examples": [{"x": 1, "x": 2, "y": ' + HUGE + b"}]}"),
        (CLASSIFY, b'{"signature_name": "classify_x_to_y", "examples": [{"\xff": 1}]}'),
        (CLASSIFY, b'{"signature_name": "\xff", "examples": [{"x": 1}]}'),
        (PREDICT, b'{"signature_name": "\xff", "instances": [1.0]}'),
        ("/v1/models/%ff:predict", b'{"instances": [1.0]}'),
        ("/v1/models/default/labels/%ff:predict", b'{"instances": [1.0]}'),
        ("/v1/models/%ff/metadata", None),
        ("/v1/models/%ff", None),
    ],
)
def test_no_500(server, path, body):
    connection = http.client.HTTPConnection("127.0.0.1", server.rest_port, timeout=20)
    connection.request("GET" if body is None else "POST", path, body)
    reply = connection.getresponse()
    assert reply.status in (400, 404)
    assert json.loads(reply.read().decode("utf-8", "surrogateescape"))["error"]
    connection.close()


@pytest.mark.parametrize("rest", [b"", b', "a": 1', b', "b": Inf', b', "b": NaN'])
def test_numbers_are_the_same_to_every_reader(rest):
    read = lambda number: jsonreader.parse(b'{"a": ' + number + rest + b"}")["a"]  # noqa: E731
    assert read(b"18446744073709551615") == 2**64 - 1 and isinstance(read(b"18446744073709551615"), int)
    for number in (b"18446744073709551616", b"-9223372036854775809", b"1" + b"0" * 30):
        assert isinstance(read(number), float) and read(number) == float(number)
    for number in (b"1e999", b"-1e999", HUGE):
        with pytest.raises(ServingError, match="Number too big to be stored in double"):
            read(number)


def test_a_string_for_a_model_of_several_inputs(start_server, tmp_path):
    from mlaas4hep_serving.conformance import fixtures

    fixtures.two_inputs(tmp_path / "1")
    server = start_server(model_base_path=str(tmp_path))
    connection = http.client.HTTPConnection("127.0.0.1", server.rest_port, timeout=20)
    connection.request("POST", PREDICT, b'{"instances": [{"b64": "a"}]}')
    reply = connection.getresponse()
    assert reply.status == 400 and "instances is a plain list" in json.loads(reply.read())["error"]


def test_a_type_that_numpy_lacks(prediction):
    request = PredictRequest()
    request.model_spec.name = "default"
    request.inputs["x"].dtype = DT_VARIANT_REF
    with pytest.raises(grpc.RpcError) as raised:
        prediction.Predict(request, timeout=20)
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert raised.value.details() == "tensor parsing error: x"
