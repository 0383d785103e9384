"""Functions that tests run in reader processes; imports nothing, so that it brings nothing in there."""

import os
import sys
import time


def loaded_modules() -> list[str]:
    return sorted(sys.modules)


def pid() -> int:
    return os.getpid()


def hang_once(path: str) -> str:
    """Hang, unless it was called with this path before."""
    if not os.path.exists(path):
        os.close(os.open(path, os.O_CREAT))
        time.sleep(900)  # beyond the limit of a test
    return "done"


def slow(seconds: float, path: str) -> None:
    """Leave a file behind after some time."""
    time.sleep(seconds)
    os.close(os.open(path, os.O_CREAT))


def fail() -> None:
    raise RuntimeError("no fault of the process")
