"""JSON as TF-Serving reads it (rapidjson with NaN and Inf): fast where the body is plain, exact everywhere else.

Three readers, each trying what the one before refused: orjson; Python's own (NaN, Infinity, trailing data, the
first of equal keys); and an iterative one that takes any depth and ``Inf`` and words errors as rapidjson does.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from typing import Any

import orjson

from mlaas4hep_serving.errors import invalid_argument

_MOST_NESTED_ECHO = 256  # bytes of a value that an error repeats
_SPACE = re.compile(r"[ \n\r\t]*")
_NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d*)?([eE][+-]?\d*)?", re.ASCII)
_CHUNK = re.compile(r'[^"\\\x00-\x1f]*')
_LITERALS = {
    "null": None,
    "true": True,
    "false": False,
    "NaN": math.nan,
    "Infinity": math.inf,
    "Inf": math.inf,
    "-Infinity": -math.inf,
    "-Inf": -math.inf,
    "-NaN": math.nan,
}
_ESCAPES = {'"': '"', "\\": "\\", "/": "/", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
_VALUES = re.compile("|".join(sorted(map(re.escape, _LITERALS), key=len, reverse=True)))


def _first_wins(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in pairs:
        result.setdefault(key, value)
    return result


def _int64(text: str) -> int:
    """An integer of 64 bits; larger ones are doubles to rapidjson, or too big, which the exact reader knows."""
    number = int(text) if len(text) <= _LONGEST_INT else 1 << 64
    if not -(1 << 63) <= number < 1 << 64:
        raise ValueError(text)
    return number


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(text)
    return number


_LONGEST_INT = 20  # characters of -2^63 and of 2^64 - 1
_PYTHON = json.JSONDecoder(object_pairs_hook=_first_wins, parse_int=_int64, parse_float=_finite)


def parse(body: bytes, deepest: int | None = None) -> dict[str, Any]:
    """The object in a request body; what follows it is ignored, of equal keys the first counts.

    Strings that are not UTF-8 keep their bytes (``surrogateescape``).

    Args:
        deepest: nesting that is refused beyond; at least 1024, as what orjson reads is not looked at again.

    Raises:
        ServingError: INVALID_ARGUMENT ``JSON Parse error: ... at offset: N``, or a value that is no object.
    """
    if not body:
        raise invalid_argument("JSON Parse error: The document is empty")
    document = _fast(body)
    if document is None and deepest is not None and deeper_than(body, deepest):
        raise invalid_argument(f"JSON is nested deeper than {deepest} levels")
    if document is None:
        document = _python(body)
    if document is None:
        document = _Exact(body.decode("utf-8", "surrogateescape")).value()
    if not isinstance(document, dict):
        raise invalid_argument(f"JSON Value: {text(document)} Is not object")
    return document


def _fast(body: bytes) -> Any:
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    return document if isinstance(document, dict) and _keys(document) == body.count(b":") else None


def _keys(document: dict[str, Any]) -> int:
    """Keys where a request has them.  The body has as many colons, or it has equal keys or needs a closer look."""
    count = len(document)
    for value in document.values():
        if type(value) is dict:
            count += len(value)
        elif type(value) is list and value and type(value[0]) is dict:
            count += sum(len(item) for item in value if type(item) is dict)
    return count


def _python(body: bytes) -> Any:
    if b"\\ud" in body or b"\\uD" in body:  # Python takes half a surrogate pair
        return None
    try:
        source = body.decode("utf-8", "surrogateescape")
        return _PYTHON.raw_decode(source, _SPACE.match(source).end())[0]  # type: ignore[union-attr]
    except (ValueError, RecursionError):
        return None


_BRACKETS = re.compile(rb'"(?:[^"\\]|\\.)*+"?|[\[\]{}]', re.DOTALL)


def deeper_than(body: bytes, depth: int) -> bool:
    """True for JSON whose lists and objects are nested deeper than ``depth``."""
    level = 0
    for match in _BRACKETS.finditer(body):
        mark = match[0]
        level += (mark in (b"[", b"{")) - (mark in (b"]", b"}"))
        if level > depth:
            return True
    return False


class _Exact:
    """An iterative reader; a stack instead of recursion."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._at = 0

    def value(self) -> Any:
        self._skip()
        if self._at == len(self._source):
            raise self._error("The document is empty.")
        stack: list[tuple[Any, str | None]] = []  # containers that are open, and the key that waits in each
        while True:
            value = self._scalar_or_open()
            if value is _OPEN_LIST or value is _OPEN_DICT:
                stack.append(([] if value is _OPEN_LIST else {}, None))
                value = self._enter(stack)
                if value is _MORE:
                    continue
            value = self._leave(stack, value)
            if value is not _MORE:
                return value

    def _enter(self, stack: list[tuple[Any, str | None]]) -> Any:
        """Behind an opening bracket: the empty container, or on to its first value."""
        self._skip()
        container = stack[-1][0]
        if self._peek() == ("]" if isinstance(container, list) else "}"):
            self._at += 1
            return stack.pop()[0]
        if isinstance(container, dict):
            stack[-1] = (container, self._key())
        return _MORE

    def _leave(self, stack: list[tuple[Any, str | None]], value: Any) -> Any:
        """Put a finished value where it belongs; close what closes."""
        while stack:
            container, key = stack[-1]
            if isinstance(container, list):
                container.append(value)
                close, rule = "]", "Missing a comma or ] after an array element."
            else:
                container.setdefault(key, value)
                close, rule = "}", "Missing a comma or } after an object member."
            self._skip()
            mark = self._peek()
            if mark == ",":
                self._at += 1
                self._skip()
                if isinstance(container, dict):
                    stack[-1] = (container, self._key())
                return _MORE
            if mark != close:
                raise self._error(rule)
            self._at += 1
            value = stack.pop()[0]
        return value

    def _scalar_or_open(self) -> Any:
        mark = self._peek()
        if mark in "[{" and mark:
            self._at += 1
            return _OPEN_LIST if mark == "[" else _OPEN_DICT
        if mark == '"':
            return self._string()
        literal = _VALUES.match(self._source, self._at)
        if literal:
            self._at = literal.end()
            return _LITERALS[literal[0]]
        return self._number()

    def _number(self) -> int | float:
        match = _NUMBER.match(self._source, self._at)
        if not match:
            raise self._error("Invalid value.")
        whole, fraction, exponent = match.groups()
        if fraction == ".":
            self._at += match[0].index(".") + 1
            raise self._error("Miss fraction part in number.")
        if exponent and not exponent[-1].isdigit():
            self._at = match.end()
            raise self._error("Miss exponent in number.")
        # a number of more digits is none of 64 bits, and Python refuses to read very long ones
        number: int | float = float(match[0])
        if not fraction and not exponent and len(whole) <= 20 and -(1 << 63) <= int(match[0]) < 1 << 64:
            number = int(match[0])
        if math.isinf(number):
            raise self._error("Number too big to be stored in double.")
        self._at = match.end()
        return number

    def _key(self) -> str:
        if self._peek() != '"':
            raise self._error("Missing a name for object member.")
        key = self._string()
        self._skip()
        if self._peek() != ":":
            raise self._error("Missing a colon after a name of object member.")
        self._at += 1
        self._skip()
        return key

    def _string(self) -> str:
        start = self._at
        self._at += 1
        parts = []
        while True:
            chunk = _CHUNK.match(self._source, self._at)
            assert chunk is not None
            parts.append(chunk[0])
            self._at = chunk.end()
            mark = self._peek()
            if mark == '"':
                self._at += 1
                return "".join(parts)
            if mark != "\\":
                self._at = self._at if mark else start
                raise self._error(
                    "Invalid encoding in string." if mark else "Missing a closing quotation mark in string."
                )
            parts.append(self._escape())

    def _escape(self) -> str:
        mark = self._source[self._at + 1 : self._at + 2]
        if mark in _ESCAPES and mark:
            self._at += 2
            return _ESCAPES[mark]
        if mark != "u":
            raise self._error("Invalid escape character in string.")
        unit = self._hex(self._at + 2)
        if not 0xD800 <= unit <= 0xDFFF:
            self._at += 6
            return chr(unit)
        if unit > 0xDBFF or self._source[self._at + 6 : self._at + 8] != "\\u":
            raise self._error("The surrogate pair in string is invalid.")
        low = self._hex(self._at + 8)
        if not 0xDC00 <= low <= 0xDFFF:
            raise self._error("The surrogate pair in string is invalid.")
        self._at += 12
        return chr(0x10000 + ((unit - 0xD800) << 10) + (low - 0xDC00))

    def _hex(self, at: int) -> int:
        digits = self._source[at : at + 4]
        if not re.fullmatch(r"[0-9a-fA-F]{4}", digits):
            raise self._error("Incorrect hex digit after \\u escape in string.")
        return int(digits, 16)

    def _peek(self) -> str:
        return self._source[self._at : self._at + 1]

    def _skip(self) -> None:
        self._at = _SPACE.match(self._source, self._at).end()  # type: ignore[union-attr]

    def _error(self, rule: str) -> Exception:
        offset = len(self._source[: self._at].encode("utf-8", "surrogateescape"))
        return invalid_argument(f"JSON Parse error: {rule} at offset: {offset}")


_MORE, _OPEN_LIST, _OPEN_DICT = object(), object(), object()


def text(value: Any) -> str:
    """A JSON value as an error repeats it, cut off after 256 bytes."""
    written = "".join(_pieces(value))
    return written if len(written) <= _MOST_NESTED_ECHO else written[:_MOST_NESTED_ECHO] + "...TRUNCATED"


def _pieces(value: Any) -> Iterable[str]:
    """As much of a value as is needed; a stack, as the value may be deep."""
    stack: list[Any] = [value]
    length = 0
    while stack and length <= _MOST_NESTED_ECHO:
        item = stack.pop()
        if isinstance(item, _Raw):
            piece = item.text
        elif isinstance(item, list):
            piece = "["
            stack.append(_Raw("]"))
            for i, inner in reversed(list(enumerate(item[:_MOST_NESTED_ECHO]))):
                stack.extend([inner, _Raw(", ")] if i else [inner])
        elif isinstance(item, dict):
            piece = "{"
            stack.append(_Raw("}"))
            for i, (key, inner) in reversed(list(enumerate(list(item.items())[:_MOST_NESTED_ECHO]))):
                stack.extend([inner, _Raw(": "), key])
                if i:
                    stack.append(_Raw(", "))
        else:
            piece = _scalar(item)
        length += len(piece)
        yield piece


class _Raw:
    def __init__(self, text: str) -> None:
        self.text = text


def _scalar(value: Any) -> str:
    if isinstance(value, str):
        return json.dumps(value[: 2 * _MOST_NESTED_ECHO].encode("utf-8", "replace").decode(), ensure_ascii=False)
    return json.dumps(value)
