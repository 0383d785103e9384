"""Whatever the layers below raise becomes an error that says where, and whether another try may help."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from mlaas4hep_tf.errors import InputFileError, MlaasError
from mlaas4hep_tf.io.policy import conditions, place

_FINAL = re.compile("no such file|not found|permission denied|not authorized", re.IGNORECASE)  # no use to try again


class Busy(OSError):
    """A server that asks to come back later.

    Attributes:
        after_s: in so many seconds.
    """

    after_s = 0.0


@contextmanager
def blame(url: str, tree: str | None = None, what: str = "") -> Iterator[None]:
    """Turn whatever the ROOT layers raise into an `InputFileError` that says where, and if another try may help."""
    try:
        yield
    except InputFileError as error:
        error.passing = error.passing or len(conditions.get().policy.places(url)) > 1
        raise
    except (MlaasError, MemoryError):
        raise
    except Exception as error:
        where = f"file {place(url)}" + (f", tree {tree}" if tree else "") + (f", {what}" if what else "")
        notes = "".join(f", {note}" for note in getattr(error, "__notes__", ()))
        remedy = "" if isinstance(error, Busy) else "; check that it is a complete ROOT file"
        raised = InputFileError(f"cannot read {where}{notes}: {_first_line(error)}{remedy}")
        raised.passing = _may_pass(url, error)
        raised.after_s = _wait_asked_for(url, error)
        raise raised from error


def _may_pass(url: str, error: Exception) -> bool:
    """Whether a fault may be gone at the next try: of a server or a disk, or of one replica."""
    if len(conditions.get().policy.places(url)) > 1:
        return True
    if isinstance(error, (FileNotFoundError, PermissionError, IsADirectoryError)) or _FINAL.search(str(error)):
        return False
    return "://" in url or (isinstance(error, OSError) and error.errno is not None)


def _wait_asked_for(url: str, error: Exception) -> float:
    """Seconds after which a server wants to be asked again, unless the next try goes to a replica."""
    return error.after_s if isinstance(error, Busy) and len(conditions.get().policy.places(url)) == 1 else 0.0


def _first_line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__
