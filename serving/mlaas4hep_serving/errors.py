"""Status codes and the one exception that carries them, those of the client; a function for each code in use."""

from __future__ import annotations

from collections.abc import Callable

from mlaas4hep_client.errors import Code, ServingError, invalid_argument

__all__ = [
    "Code",
    "ServingError",
    "as_serving_error",
    "deadline_exceeded",
    "failed_precondition",
    "internal",
    "invalid_argument",
    "not_found",
    "resource_exhausted",
    "shown",
    "unavailable",
    "unimplemented",
    "unknown",
]


LONGEST_ECHO = 256  # characters of what a client sent that an error repeats


def _of(code: Code) -> Callable[[str], ServingError]:
    return lambda message: ServingError(code, message)


not_found = _of(Code.NOT_FOUND)
failed_precondition = _of(Code.FAILED_PRECONDITION)
unimplemented = _of(Code.UNIMPLEMENTED)
unavailable = _of(Code.UNAVAILABLE)
resource_exhausted = _of(Code.RESOURCE_EXHAUSTED)
deadline_exceeded = _of(Code.DEADLINE_EXCEEDED)
unknown = _of(Code.UNKNOWN)
internal = _of(Code.INTERNAL)


def shown(text: str) -> str:
    """A text of a client's as an error repeats it, cut off after 256 characters."""
    return text if len(text) <= LONGEST_ECHO else text[:LONGEST_ECHO] + "...TRUNCATED"


def as_serving_error(error: BaseException) -> ServingError:
    """The error itself, or INTERNAL for one that nobody foresaw."""
    return error if isinstance(error, ServingError) else internal(f"{type(error).__name__}: {shown(str(error))}")
