"""REST behaviour that needs no shared cases; expected values from the definition of the models and of JSON."""

import asyncio
import http.client
import json
import math
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlaas4hep_serving.frontends.http import Reply, Request
from mlaas4hep_serving.frontends.rest import Rest, RestOptions
from mlaas4hep_serving.wire import json_responses


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


@given(st.lists(st.floats(width=32), min_size=1))
@settings(deadline=None)
def test_float32_survives_json(numbers):
    array = np.array(numbers, np.float32)
    back = json.loads(json_responses.predict_response({"y": array}, "row"))["predictions"]
    np.testing.assert_array_equal(np.array(back, np.float32), array)


@pytest.mark.parametrize("how", ["sync", "async"])
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/models/default:predict"),
        ("GET", "/v1/models/default"),
        ("GET", "/metrics"),
        ("DELETE", "/v1/models/default"),
        ("GET", "/elsewhere"),
    ],
)
def test_registered_routes_are_asked_first_on_every_path(server, method, path, how):
    asked = []

    def other(request):
        asked.append(request.path)

    def mine(request):
        return lambda: Reply(299, threading.current_thread().name.encode())

    routes = [other, mine, lambda _: pytest.fail("a route has answered already")]
    rest = Rest(server.handlers, RestOptions(routes=routes, metrics_path="/metrics"))
    request = Request(method, path, {}, b'{"instances": [1.0]}')
    reply = rest.respond(request) if how == "sync" else asyncio.run(rest.respond_async(request))
    assert (reply.status, asked) == (299, [path])
    assert reply.body.startswith((b"model", b"rest-looks") if how == "async" else b"Main")  # not in the event loop


def fails(_: Request) -> Reply:
    raise ZeroDivisionError


def test_a_route_that_answers_none_leaves_the_request_to_the_api_and_one_that_raises_is_a_500(server):
    request = Request("POST", "/v1/models/default:predict", {}, b'{"instances": [1.0]}')
    rest = Rest(server.handlers, RestOptions(routes=[lambda _: None]))
    assert json.loads(asyncio.run(rest.respond_async(request)).body) == {"predictions": [2.5]}
    broken = Rest(server.handlers, RestOptions(routes=[fails]))
    assert asyncio.run(broken.respond_async(request)).status == broken.respond(request).status == 500
