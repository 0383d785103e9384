"""Functions that tests run in reader processes; imports nothing, so that it brings nothing in there."""

import os
import sys


def loaded_modules() -> list[str]:
    return sorted(sys.modules)


def pid() -> int:
    return os.getpid()
