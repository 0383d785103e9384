"""JSON as TF-Serving reads it (rapidjson with NaN and Inf): orjson, or Python's reader where orjson refuses.

Rules beyond the standard: NaN, Inf and Infinity are numbers; of equal keys the first counts; what follows the object
is ignored; integers beyond 64 bits are floats.  The words of an error are rapidjson's ("The document is empty",
"Invalid value", which the conformance cases look for), its offset is where Python's reader stopped.  Any depth is
read, which two conformance cases need (j2t_deep_nested_*): what lies deeper than any request is left out.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator
from typing import Any

import orjson

from mlaas4hep_serving.errors import LONGEST_ECHO, ServingError, invalid_argument, shown

_DEEPEST_READ = 500  # levels that Python's reader, which recurses, is given; no tensor has as many dimensions
_LONGEST_INT = 20  # characters of -2^63 and of 2^64 - 1; Python refuses to read very long ones
_BLANKS = b" \n\r\t"
_SPACE = re.compile(r"[ \n\r\t]*")
_STRING = r'"(?:[^"\\]|\\.)*+"?'
_SPECIAL = re.compile(rf"{_STRING}|-NaN|\bInf\b", re.DOTALL)  # spellings that Python does not know
# one match goes from bracket to bracket, however many strings lie between: they cost no more than digits
_BRACKETS = re.compile(rf'(?:[^"\[\]{{}}]++|{_STRING})*+([\[\]{{}}])'.encode(), re.DOTALL)
_ESCAPES = re.compile(
    r"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)", re.DOTALL
)
_RULES = {  # how Python's message begins -> rapidjson's
    "Expecting value": "Invalid value.",
    "Expecting property name": "Missing a name for object member.",
    "Illegal trailing comma before end of object": "Missing a name for object member.",
    "Illegal trailing comma before end of array": "Invalid value.",
    "Expecting ':'": "Missing a colon after a name of object member.",
    "Expecting ','": "Missing a comma or a closing bracket.",
    "Unterminated string": "Missing a closing quotation mark in string.",
    "Invalid control character": "Invalid encoding in string.",
    "Invalid \\uXXXX": "Incorrect hex digit after \\u escape in string.",
    "Invalid \\": "Invalid escape character in string.",
}


def parse(body: bytes, deepest: int | None = None) -> dict[str, Any]:
    """The object in a request body.

    Strings that are not UTF-8 keep their bytes (``surrogateescape``).

    Args:
        deepest: nesting that is refused beyond; at least 1024, as what orjson reads is not looked at again.

    Raises:
        ServingError: INVALID_ARGUMENT ``JSON Parse error: ... at offset: N``, or a value that is no object.
    """
    if not body:
        raise invalid_argument("JSON Parse error: The document is empty")
    document = _fast(body)
    if document is None:
        if deepest is not None and deeper_than(body, deepest):
            raise invalid_argument(f"JSON is nested deeper than {deepest} levels")
        document = _python(_shallow(body, _DEEPEST_READ) if deeper_than(body, _DEEPEST_READ) else body)
    if not isinstance(document, dict):
        raise invalid_argument(f"JSON Value: {text(document)} Is not object")
    return document


def deeper_than(body: bytes, depth: int) -> bool:
    """True for JSON whose first value has lists and objects nested deeper than ``depth``."""
    if body.count(b"[") + body.count(b"{") <= depth:
        return False
    return any(level > depth for _, _, level in _brackets(body))


def _brackets(body: bytes) -> Iterator[tuple[bytes, int, int]]:
    """The brackets of the first value of JSON, in order: which, where, and the level inside an opening one."""
    level = 0
    if body.lstrip(_BLANKS)[:1] not in (b"[", b"{"):
        return
    for match in _BRACKETS.finditer(body):
        mark = match[1]
        opens = mark in (b"[", b"{")
        level += opens
        yield mark, match.start(1), level
        level -= not opens
        if not level:
            return


def text(value: Any) -> str:
    """A JSON value as an error repeats it, as rapidjson's PrettyWriter lays it out; cut off after 256 characters."""
    parts: list[str] = []
    length = 0
    for part in _pretty(value, 0):  # in parts, so that no more is written, and no deeper, than is shown
        parts.append(part)
        length += len(part)
        if length > LONGEST_ECHO:
            break
    return shown("".join(parts).encode("utf-8", "replace").decode())


def _pretty(value: Any, level: int) -> Iterator[str]:
    """Members of objects on lines of their own, lists on one line."""
    if isinstance(value, dict) and value:
        for i, (key, item) in enumerate(value.items()):
            yield ",\n" if i else "{\n"
            yield _INDENT * (level + 1) + _ECHO.encode(key) + ": "
            yield from _pretty(item, level + 1)
        yield "\n" + _INDENT * level + "}"
    elif isinstance(value, list) and value:
        for i, item in enumerate(value):
            yield ", " if i else "["
            yield from _pretty(item, level + 1)
        yield "]"
    else:
        yield _ECHO.encode(value)


_ECHO = json.JSONEncoder(ensure_ascii=False)
_INDENT = "    "


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
    source = body.decode("utf-8", "surrogateescape")
    start = _SPACE.match(source).end()  # type: ignore[union-attr]  # matches always
    if start == len(source):
        raise _error("The document is empty.", source, start)
    try:
        document, end = _PYTHON.raw_decode(source, start)
    except json.JSONDecodeError as error:
        if "Inf" in source or "-NaN" in source:
            plain = _SPECIAL.sub(_python_spelling, source)
            if plain != source:
                return _python(plain.encode("utf-8", "surrogateescape"))
        raise _error(_rule(error.msg), source, error.pos) from None
    half = next((match for match in _ESCAPES.finditer(source, start, end) if match[1]), None)
    if half:
        raise _error("The surrogate pair in string is invalid.", source, half.start())
    return document


def _shallow(body: bytes, depth: int) -> bytes:
    """JSON with null for each list and object that lies deeper than ``depth`` levels."""
    kept, start = [], 0
    for mark, at, level in _brackets(body):
        if level == depth + 1:
            if mark in (b"[", b"{"):
                kept += [body[start:at], b"null"]
            start = at + 1
    return b"".join([*kept, body[start:]] if level <= depth else kept)


def _python_spelling(match: re.Match[str]) -> str:
    return {"-NaN": "NaN", "Inf": "Infinity"}.get(match[0], match[0])


def _rule(message: str) -> str:
    return next((rule for start, rule in _RULES.items() if message.startswith(start)), f"{message}.")


def _error(rule: str, source: str, at: int) -> ServingError:
    offset = len(source[:at].encode("utf-8", "surrogateescape"))
    return invalid_argument(f"JSON Parse error: {rule} at offset: {offset}")


def _first_wins(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in pairs:
        result.setdefault(key, value)
    return result


def _integer(written: str) -> int | float:
    """An integer of 64 bits, or else the float of the same value."""
    number = int(written) if len(written) <= _LONGEST_INT else 1 << 64
    return number if -(1 << 63) <= number < 1 << 64 else _finite(written)


def _finite(written: str) -> float:
    number = float(written)
    if math.isinf(number):
        raise invalid_argument("JSON Parse error: Number too big to be stored in double.")
    return number


_PYTHON = json.JSONDecoder(object_pairs_hook=_first_wins, parse_int=_integer, parse_float=_finite)
