"""Trainings as processes that outlive the service: alive as long as they hold the lock of their folder."""

from __future__ import annotations

import fcntl
import os
import shlex
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

LOCK, PID, LOG = "lock", "pid", "log.txt"
_SHELL = 'echo $$ > pid.part && mv pid.part pid && exec "$@"'


def start(folder: Path, command: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
    """Start a command in a folder, in a session of its own.

    The lock that it inherits is held from before it exists to its end, so that whoever looks later, after a crash too,
    knows whether it runs.

    Raises:
        BlockingIOError: one runs there already.
    """
    with (folder / LOCK).open("a") as lock, (folder / LOG).open("ab") as log:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        subprocess.Popen(
            ["sh", "-c", _SHELL, "job", *command], cwd=folder, stdin=subprocess.DEVNULL, stdout=log,
            stderr=subprocess.STDOUT, start_new_session=True, pass_fds=(lock.fileno(),),
            env={**os.environ, **(environment or {})},
        )  # fmt: skip


def alive(folder: Path) -> bool:
    """Whether a process that was started there runs."""
    try:
        with (folder / LOCK).open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    return False


def kill(folder: Path, how: signal.Signals = signal.SIGKILL) -> None:
    """End what runs there, with all of its session."""
    try:
        os.killpg(int((folder / PID).read_text()), how)
    except (FileNotFoundError, ProcessLookupError, ValueError):  # it has not begun, or has ended meanwhile
        return


def memory_gb(folder: Path) -> float:
    """Resident memory of what runs there, and of its children."""
    try:
        process = psutil.Process(int((folder / PID).read_text()))
        return float(sum(one.memory_info().rss for one in (process, *process.children(recursive=True))) / 1e9)
    except (FileNotFoundError, ValueError, psutil.Error):
        return 0.0


def last_line(folder: Path) -> str:
    """What it said last."""
    path = folder / LOG
    if not path.exists():
        return "nothing"
    with path.open("rb") as log:
        log.seek(max(0, path.stat().st_size - 4096))
        lines = log.read().decode("utf-8", "replace").replace("\r", "\n").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "nothing")


def launched(launch: Sequence[str], command: Sequence[str]) -> list[str]:
    """A command as a template starts it: ``sbatch --wait --wrap {command}``."""
    if not launch:
        return list(command)
    return [word.replace("{command}", shlex.join(command)) for word in launch]
