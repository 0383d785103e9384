"""JSON as TF-Serving reads it; expected values from Python's own writer and from rapidjson's error texts."""

import contextlib
import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlaas4hep_serving.errors import ServingError
from mlaas4hep_serving.wire import jsonreader

values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), values))
@settings(max_examples=200, deadline=None)
def test_both_readers_read_what_python_writes(document):
    source = json.dumps(document, ensure_ascii=False)
    assert jsonreader._python(source.encode("utf-8", "surrogatepass")) == document
    assert jsonreader.parse(source.encode("utf-8", "surrogatepass")) == document


@given(st.binary(max_size=60))
@settings(max_examples=300, deadline=None)
def test_any_bytes_are_an_object_or_a_clear_error(body):
    with contextlib.suppress(ServingError):  # nothing but this may be raised
        assert isinstance(jsonreader.parse(body), dict)


def test_deep_nesting_neither_crashes_nor_recurses():
    depth = 100_000
    body = b'{"a":' + b"[" * depth + b"]" * depth + b', "instances": [1]}'
    assert jsonreader.parse(body)["instances"] == [1]


def test_nesting_beyond_a_limit_is_refused_in_python_too():
    body = b'{"a": ' + b"[" * 1500 + b"]" * 1500 + b', "b": NaN}'
    with pytest.raises(ServingError, match="nested deeper than 1024 levels"):
        jsonreader.parse(body, 1024)


@pytest.mark.parametrize("depth", [499, 500, 501, 2000])
def test_brackets_that_do_not_close_are_an_error_at_any_depth(depth):
    for body in (b'{"a":' + b"[" * depth, b'{"a":' + b"[" * depth + b"]" * (depth - 1) + b"}"):
        with pytest.raises(ServingError, match="JSON Parse error"):
            jsonreader.parse(body)


def test_other_spellings_of_nan_and_infinity_are_numbers_but_not_in_strings():
    document = jsonreader.parse(b'{"a": [Inf, -Inf, Infinity, NaN, -NaN], "-NaN \\" Inf": "Inf, \\"-NaN"}')
    assert document["a"][:3] == [math.inf, -math.inf, math.inf]
    assert all(map(math.isnan, document["a"][3:]))
    assert document['-NaN " Inf'] == 'Inf, "-NaN'


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "The document is empty"),
        (b"  ", "The document is empty. at offset: 2"),
        (b"instances = [1, 2]", "Invalid value. at offset: 0"),
        (b'{"\xc3\xa4": nothing}', "Invalid value. at offset: 7"),
        (b"{a: 1}", "Missing a name for object member. at offset: 1"),
        (b'{"a" 1}', "Missing a colon after a name of object member. at offset: 5"),
        (b'{"a": 1 "b": 2}', "Missing a comma or a closing bracket. at offset: 8"),
        (b'{"a": "b', "Missing a closing quotation mark in string. at offset: 6"),
        (b'{"a": "\n"}', "Invalid encoding in string. at offset: 7"),
        (b'{"a": "\\x"}', "Invalid escape character in string. at offset: 7"),
        (b'{"a": "\\ud800"}', "The surrogate pair in string is invalid. at offset: 7"),
        (b'{"a": "\\udc00\\ud800"}', "The surrogate pair in string is invalid. at offset: 7"),
        (b'{"a": 1e999}', "Number too big to be stored in double."),
    ],
)
def test_errors_say_in_rapidjsons_words_what_is_wrong_and_where(body, message):
    with pytest.raises(ServingError) as caught:
        jsonreader.parse(body)
    assert caught.value.message == f"JSON Parse error: {message}"


def test_a_surrogate_pair_is_one_character_and_an_escaped_backslash_begins_none():
    assert jsonreader.parse(b'{"a": "\\ud83d\\ude00\\\\ud800", "b": NaN}')["a"] == "\U0001f600\\ud800"


@given(values)
@settings(max_examples=200, deadline=None)
def test_an_error_repeats_a_value_but_not_more_than_256_characters(value):
    written = jsonreader.text(value)
    if written.endswith("...TRUNCATED"):
        assert len(written) == 256 + len("...TRUNCATED")
    else:
        assert len(written) <= 256 and json.loads(written) == json.loads(json.dumps(value).encode("utf-8", "replace"))


def test_an_error_lays_a_value_out_as_rapidjson_does():
    value = {"a": [1, 2.5, "x"], "b": {}, "c": [{"d": None}], "e": []}
    assert jsonreader.text(value) == (
        '{\n    "a": [1, 2.5, "x"],\n    "b": {},\n    "c": [{\n            "d": null\n        }],\n    "e": []\n}'
    )


def test_an_error_repeats_the_beginning_of_a_value_of_any_depth():
    deep = json.loads("[" * 900 + "]" * 900)
    assert jsonreader.text(deep) == "[" * 256 + "...TRUNCATED"
