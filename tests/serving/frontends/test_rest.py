"""REST behaviour that needs no shared cases; expected values from the definition of the models and of JSON."""

import contextlib
import http.client
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlaas4hep_serving.errors import ServingError
from mlaas4hep_serving.wire import json_responses, jsonreader


def ask(server, method, path, body=None):
    connection = http.client.HTTPConnection("127.0.0.1", server.rest_port, timeout=10)
    connection.request(method, path, body=body)
    response = connection.getresponse()
    content = response.read().decode()
    connection.close()
    return response.status, content


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ('{"instances": [1.0, 2.0, 5.0]}', {"predictions": [2.5, 3.0, 4.5]}),
        ('{"inputs": {"x": [[1], [2]]}}', {"outputs": [[2.5], [3.0]]}),
        ('{"instances": [{"x": [4]}]} trailing', {"predictions": [[4.0]]}),
        ('{"instances": [1.0], "instances": [9.0]}', {"predictions": [2.5]}),
    ],
)
def test_predict(server, body, expected):
    status, content = ask(server, "POST", "/v1/models/default:predict", body)
    assert status == 200 and json.loads(content) == expected


def test_nan_goes_in_and_comes_out_bare(server):
    _, content = ask(server, "POST", "/v1/models/default:predict", '{"instances": [NaN, -Infinity]}')
    first, second = json.loads(content)["predictions"]
    assert math.isnan(first) and second == -math.inf


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "/v1/models/default:predict", "{", 400),
        ("POST", "/v1/models/nope:predict", "{}", 404),
        ("POST", "/v1/models/default/versions/9:predict", "{}", 404),
        ("POST", "/v1/models/default/labels/x:predict", "{}", 400),
        ("POST", "/v1/models/default:explain", "{}", 400),
        ("GET", "/v1/models/default/versions/99999999999999999999", None, 400),
        ("GET", "/other", None, 404),
    ],
)
def test_errors(server, method, path, body, status):
    assert ask(server, method, path, body)[0] == status


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), values))
@settings(max_examples=200, deadline=None)
def test_the_exact_reader_reads_what_python_writes(document):
    source = json.dumps(document, ensure_ascii=False)
    assert jsonreader._Exact(source).value() == document  # noqa: SLF001 (`parse` takes it for some documents only)
    assert jsonreader.parse(source.encode("utf-8", "surrogatepass")) == document


@given(st.binary(max_size=60))
@settings(max_examples=300, deadline=None)
def test_any_bytes_are_an_object_or_a_clear_error(body):
    with contextlib.suppress(ServingError):  # nothing but this may be raised
        assert isinstance(jsonreader.parse(body), dict)


@given(st.lists(st.floats(width=32), min_size=1))
@settings(deadline=None)
def test_float32_survives_json(numbers):
    array = np.array(numbers, np.float32)
    back = json.loads(json_responses.predict_response({"y": array}, "row"))["predictions"]
    np.testing.assert_array_equal(np.array(back, np.float32), array)


def test_deep_nesting_neither_crashes_nor_recurses():
    depth = 100_000
    body = b'{"a":' + b"[" * depth + b"]" * depth + b', "instances": [1]}'
    assert jsonreader.parse(body)["instances"] == [1]
