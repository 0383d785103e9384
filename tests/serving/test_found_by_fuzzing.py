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
LONG = b"x" * (1 << 20)  # a name


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


def ask(server, path, body=None):
    connection = http.client.HTTPConnection("127.0.0.1", server.rest_port, timeout=20)
    connection.request("GET" if body is None else "POST", path, body)
    reply = connection.getresponse()
    answer = json.loads(reply.read().decode("utf-8", "surrogateescape"))
    connection.close()
    return reply.status, answer


@pytest.mark.parametrize("rank", [64, 65, 66, 254, 255, 300])
@pytest.mark.parametrize("form", ["instances", "inputs"])
def test_numbers_nested_deeper_than_arrays_can_be(server, rank, form):
    status, answer = ask(server, PREDICT, b'{"%s": ' % form.encode() + b"[" * rank + b"1.0" + b"]" * rank + b"}")
    if rank == 64:
        assert status == 200 or "dimensions" in answer["error"]  # TensorFlow's to say
    else:
        assert (status, answer["error"]) == (400, f"A tensor has {rank} dimensions; this server takes at most 64")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (PREDICT, b'{"signature_name": "%s", "instances": [1.0]}' % LONG),
        (CLASSIFY, b'{"signature_name": "%s", "examples": [{"x": 1}]}' % LONG),
        (CLASSIFY, b'{"signature_name": "classify_x_to_y", "examples": [{"%s": {}}]}' % LONG),
        (CLASSIFY, b'{"signature_name": "classify_x_to_y", "examples": [{"%s": [1, "a"]}]}' % LONG),
        (PREDICT, b'{"instances": [{"%s": 1.0}]}' % LONG),
        (PREDICT, b'{"instances": ["%s"]}' % LONG),
        (PREDICT, b'"%s"' % LONG),
        ("/v1/models/" + "x" * 60_000, None),
        ("/v1/models/" + "x" * 60_000 + ":predict", b'{"instances": [1.0]}'),
        ("/v1/models/default/labels/" + "x" * 60_000 + ":predict", b'{"instances": [1.0]}'),
        ("/v1/nothing/" + "x" * 60_000, None),
    ],
    ids=range(11),
)
def test_what_an_error_repeats_is_cut_off(server, path, body):
    status, answer = ask(server, path, body)
    assert status in (400, 404)
    assert "x" * 200 in answer["error"] and "TRUNCATED" in answer["error"] and len(answer["error"]) < 1000


@pytest.mark.parametrize("field", ["model", "label", "signature", "input", "filter"])
def test_what_an_error_repeats_is_cut_off_over_grpc(prediction, field):
    request = PredictRequest(model_spec={"name": "default"})
    request.inputs["x"].dtype = 1
    match field:
        case "model":
            request.model_spec.name = LONG
        case "label":
            request.model_spec.version_label = LONG
        case "signature":
            request.model_spec.signature_name = LONG
        case "input":
            request.inputs[LONG.decode()].dtype = 1
        case "filter":
            request.output_filter.append(LONG.decode())
    with pytest.raises(grpc.RpcError) as raised:
        prediction.Predict(request, timeout=20)
    assert raised.value.details().count("x" * 249 + "...TRUNCATED") >= 1 and len(raised.value.details()) < 1000


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
