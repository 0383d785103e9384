"""One file that holds a training: JSON with arrays in it, written whole or not at all; and how often it is written."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mlaas4hep_tf.errors import ConfigError, ResumeError

FORMAT = 1
_ARRAY, _CONTENT = "$array", "content"


@dataclass(frozen=True)
class Every:
    """How often a checkpoint is written: after so many steps, or seconds, whichever is given."""

    steps: int | None = None
    seconds: float | None = None

    @staticmethod
    def parse(given: int | str) -> Every:
        """``500`` steps or ``60s``.

        Raises:
            ConfigError: anything else, or a number that is not positive.
        """
        text = str(given)
        try:
            every = Every(seconds=float(text[:-1])) if text.endswith("s") else Every(steps=int(text))
        except ValueError:
            every = Every()
        if not (every.steps or every.seconds or 0) > 0:
            raise ConfigError(f"checkpoints are written every so many steps (500) or seconds (60s), not {given!r}")
        return every

    def due(self, steps: int, seconds: float) -> bool:
        """Whether one is to be written so long after the last."""
        return steps >= self.steps if self.steps else seconds >= (self.seconds or 0)


def write(path: str | os.PathLike[str], content: Mapping[str, Any]) -> None:
    """Write JSON with NumPy arrays in it, in place of what was there; whoever reads sees the old or the new whole."""
    arrays: list[npt.NDArray[Any]] = []

    def plain(value: Any) -> Any:
        if isinstance(value, np.ndarray):
            arrays.append(value)
            return {_ARRAY: len(arrays) - 1, "dtype": value.dtype.name}
        if isinstance(value, np.generic):
            return value.item()
        raise TypeError(f"a checkpoint cannot hold a {type(value).__name__}: {value!r}")

    text = json.dumps({"format": FORMAT, **content}, default=plain)
    part = f"{os.fspath(path)}.part"
    with open(part, "wb") as file:
        np.savez(file, **{_CONTENT: np.array(text)}, **{f"a{n}": array for n, array in enumerate(arrays)})  # type: ignore[arg-type]  # names of arrays, not allow_pickle
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)


def read(path: str | os.PathLike[str]) -> dict[str, Any] | None:
    """What `write` wrote; None where there is nothing yet.

    Raises:
        ResumeError: a file that is no checkpoint, or one of another version.
    """
    try:
        with np.load(path, allow_pickle=False) as file:

            def arrays(found: dict[str, Any]) -> Any:
                if _ARRAY not in found:
                    return found
                array = file[f"a{found[_ARRAY]}"]
                return array.view(found["dtype"]) if array.dtype.kind == "V" else array  # NumPy has no bfloat16

            content: dict[str, Any] = json.loads(str(file[_CONTENT]), object_hook=arrays)
    except FileNotFoundError:
        return None
    except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise ResumeError(f"{path} is no checkpoint of a training: {error}; remove it to begin anew") from error
    if content.get("format") != FORMAT:
        raise ResumeError(f"{path} is a checkpoint of format {content.get('format')}, and this package reads {FORMAT}")
    return content
