"""A run folder belongs to one training at a time."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mlaas4hep_tf.errors import ConfigError

LOCK = ".lock"


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold a run folder, which is made if need be; the kernel lets go of it with the process.

    Nothing is left where nothing but the lock came to lie in it, as when the training is refused.

    Raises:
        ConfigError: another training holds it.
    """
    new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / LOCK, "a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.seek(0)
            raise ConfigError(
                f"{folder} is being written by another training, process {lock.read().strip() or 'unknown'}; "
                "wait for it, or choose another folder"
            ) from error
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        try:
            yield
        finally:
            if folder.exists() and os.listdir(folder) == [LOCK]:
                (folder / LOCK).unlink()
                if new:
                    folder.rmdir()
