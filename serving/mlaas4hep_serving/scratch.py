"""Scratch folders of a server: gone when it ends, and, where it was killed, at the next start of another."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import shutil
import stat
import tempfile
import time
from pathlib import Path

log = logging.getLogger(__name__)
_PREFIX = "mlaas4hep-serve-"
_YOUNG = 60.0  # seconds in which a folder is most likely one that is about to be held


class Scratch(tempfile.TemporaryDirectory[str]):
    """A temporary folder that this process holds (a lock that the kernel gives up with it, however it ends)."""

    def __init__(self) -> None:
        super().__init__(prefix=_PREFIX)
        while not self._hold():  # a server that started has removed it before it was held
            super().cleanup()
            super().__init__(prefix=_PREFIX)

    def _hold(self) -> bool:
        """Hold it, and say whether it is still there."""
        try:
            self._held = os.open(self.name, os.O_RDONLY)
        except FileNotFoundError:
            return False
        with contextlib.suppress(OSError):  # a file system without locks, where nobody gets one to remove it either
            fcntl.flock(self._held, fcntl.LOCK_EX)
        there = _is_there(self.name, self._held)
        if not there:
            os.close(self._held)
        return there

    def cleanup(self) -> None:
        """Remove it."""
        super().cleanup()
        os.close(self._held)


def remove_left() -> None:
    """Remove the folders that servers of this user have left, which were killed."""
    removed = sum(map(_remove, Path(tempfile.gettempdir()).glob(f"{_PREFIX}*")))
    if removed:
        log.info("scratch folders that servers had left are removed: %d", removed)


def _remove(folder: Path) -> bool:
    """Remove a folder unless a server holds it; it is held here meanwhile, so that none that makes it now uses it."""
    with contextlib.suppress(OSError):  # gone meanwhile, or held by another process
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or time.time() - found.st_mtime < _YOUNG:
            return False
        opened = os.open(folder, os.O_RDONLY | os.O_NOFOLLOW)
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
            left = _is_there(folder, opened)  # else its server has removed it at its end
            if left:
                shutil.rmtree(folder, ignore_errors=True)
            return left
        finally:
            os.close(opened)
    return False


def _is_there(folder: str | Path, opened: int) -> bool:
    """Whether an opened folder still has its name."""
    try:
        return os.path.samestat(os.lstat(folder), os.fstat(opened))
    except FileNotFoundError:
        return False
