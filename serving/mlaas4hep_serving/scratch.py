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
_YOUNG = 60.0  # seconds in which a folder may have been made and not yet been held


class Scratch(tempfile.TemporaryDirectory[str]):
    """A temporary folder that this process holds (a lock that the kernel gives up with it, however it ends)."""

    def __init__(self) -> None:
        super().__init__(prefix=_PREFIX)
        self._held = os.open(self.name, os.O_RDONLY)
        with contextlib.suppress(OSError):  # a file system without locks, where nobody gets one to remove it either
            fcntl.flock(self._held, fcntl.LOCK_EX)

    def cleanup(self) -> None:
        """Remove it."""
        super().cleanup()
        os.close(self._held)


def remove_left() -> None:
    """Remove the folders that servers of this user have left, which were killed."""
    left = [folder for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*") if _is_left(folder)]
    for folder in left:
        shutil.rmtree(folder, ignore_errors=True)
    if left:
        log.info("scratch folders of servers that were killed are removed: %d", len(left))


def _is_left(folder: Path) -> bool:
    with contextlib.suppress(OSError):  # gone meanwhile, or held by another process
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or time.time() - found.st_mtime < _YOUNG:
            return False
        opened = os.open(folder, os.O_RDONLY | os.O_NOFOLLOW)
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        finally:
            os.close(opened)
    return False
