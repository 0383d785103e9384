"""Large bodies are read elsewhere, with the same result as here."""

import gzip
import json
import time

import numpy as np
import pytest
from mlaas4hep_serving.errors import Code, ServingError
from mlaas4hep_serving.wire import apart, json_requests
from mlaas4hep_serving.wire.apart import Body, Readers, Signatures
from tensorflow.core.framework import types_pb2

SIGNATURES = Signatures(
    {
        "all": {
            "f": types_pb2.DT_FLOAT,
            "d": types_pb2.DT_DOUBLE,
            "i": types_pb2.DT_INT8,
            "s": types_pb2.DT_STRING,
            "b": types_pb2.DT_BOOL,
        },
        "ragged": {"x": types_pb2.DT_FLOAT},
    },
    {"ragged": {"x": (None,)}},
    "ragged",
)


@pytest.fixture(scope="module")
def readers():
    found = Readers(1, 1 << 30)
    yield found
    found.close()


def body(document, *, zipped=False):
    data = document if isinstance(document, bytes) else json.dumps(document).encode()
    return Body(gzip.compress(data), True, len(data), 1024) if zipped else Body(data, False, 0, 1024)


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize(
    "document",
    [
        {
            "signature_name": "all",
            "inputs": {"f": [[1.5, float("nan")]], "d": 3, "i": [[[-7]]], "s": ["é", ""], "b": [True]},
        },
        {"signature_name": "all", "inputs": {"f": [], "d": [], "i": [], "s": [], "b": []}},
        {"instances": [{"x": [1, 2, 3]}, {"x": []}, {"x": [5.5]}]},
        {"instances": [[0.25]] * 10},
    ],
)
def test_a_prediction_is_read_apart_as_it_is_here(readers, document, zipped):
    here, there = (
        apart.predict(body(document), SIGNATURES),
        readers.predict(body(document, zipped=zipped), SIGNATURES, None),
    )
    assert (there.signature_name, there.format) == (here.signature_name, here.format)
    assert there.inputs.keys() == here.inputs.keys()
    for alias, array in here.inputs.items():
        assert there.inputs[alias].dtype == array.dtype
        np.testing.assert_array_equal(there.inputs[alias], array)


def test_examples_are_read_apart_as_they_are_here(readers):
    document = {"signature_name": "c", "context": {"a": 1}, "examples": [{"x": 2.5, "s": ["t", "u"]}] * 3}
    assert readers.examples(body(document), None) == json_requests.examples_request(json.dumps(document).encode())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (body(b'{"instances": [1,'), "JSON Parse error: Invalid value. at offset: 17"),
        (body({"signature_name": "no", "instances": [1]}), 'Serving signature name: "no" not found in signature def'),
        (body(b"[" * 5000), "JSON is nested deeper than 1024 levels"),
        (Body(b"no gzip", True, 100, 1024), "Failed to uncompress"),
        (Body(gzip.compress(bytes(101)), True, 100, 1024), "larger than 100 bytes"),
    ],
)
def test_errors_are_told_as_they_are_here(readers, given, message):
    for read in (lambda: readers.predict(given, SIGNATURES, None), lambda: apart.predict(given, SIGNATURES)):
        with pytest.raises(ServingError) as caught:
            read()
        assert caught.value.code is Code.INVALID_ARGUMENT and message in caught.value.message


def test_a_deadline_that_passes_ends_the_reading_and_the_next_request_is_read(readers):
    brackets = body(b'{"a": NaN, "instances": [' + b"[]," * 5_000_000 + b"[]]}")  # half a minute
    with pytest.raises(ServingError) as caught:
        readers.predict(brackets, SIGNATURES, time.monotonic() + 0.2)
    assert caught.value.code is Code.DEADLINE_EXCEEDED
    assert readers.predict(body({"instances": [[1.0]]}), SIGNATURES, None).inputs["x"].tolist() == [[1.0]]


def test_a_body_that_takes_too_much_memory_is_refused_and_the_next_request_is_read():
    readers = Readers(1, 350 << 20)
    with pytest.raises(ServingError) as caught:
        readers.predict(body(b'{"instances": [' + b"[]," * 3_000_000 + b"[]]}"), SIGNATURES, None)
    assert caught.value.code is Code.RESOURCE_EXHAUSTED
    assert readers.predict(body({"instances": [[1.0]]}), SIGNATURES, None).inputs["x"].tolist() == [[1.0]]
    readers.close()


def test_what_gzip_says_of_its_size_is_the_size():
    assert apart.declared_size(gzip.compress(bytes(1234))) == 1234
    with pytest.raises(ServingError, match="too short"):
        apart.declared_size(b"\x1f\x8b")
