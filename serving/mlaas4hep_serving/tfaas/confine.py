"""``python -m mlaas4hep_serving.tfaas.confine``: a process that runs a stranger's model, and what it may do.

It takes from itself what the model shall not have, first thing, before TensorFlow is there (a process with several
threads cannot leave the network); then it is a `trial` or a `worker`.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from mlaas4hep_serving.tfaas.seccomp import refuse_calls

SOCKET = "socket"  # of a worker, in its scratch folder
_LARGEST_FILE = 1 << 16  # bytes; some libraries write a probe into the temporary folder
_OPEN_FILES = 256
_SYSTEM = ("/usr", "/lib", "/lib64", "/etc/ld.so.cache", "/etc/localtime", "/proc", "/sys", "/dev/null", "/dev/urandom")
_NEW_USER, _NEW_NET = 0x10000000, 0x40000000
_NO_NEW_PRIVILEGES = 38
_CREATE, _ADD, _RESTRICT = 444, 445, 446  # landlock_create_ruleset, landlock_add_rule, landlock_restrict_self
_READ, _READ_FILE = 0b1100, 0b0100  # files and folders; of a file
_FILE_ACCESS = {1: 0x1FFF, 2: 0x3FFF, 3: 0x7FFF, 4: 0x7FFF, 5: 0xFFFF}  # version of Landlock -> all it knows of files
_TCP, _SCOPES = 0b11, 0b11  # bind and connect; abstract sockets and signals


@dataclass(frozen=True)
class Limits:
    """Seconds of real and of processor time, bytes of memory."""

    seconds: float = 120
    cpu_seconds: int = 120
    memory: int = 4 << 30


LIMITS = Limits()


def environment(scratch: str) -> dict[str, str]:
    """The variables of such a process: nothing of the server's but where Python finds its modules."""
    found = {"PATH": os.defpath, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "HOME": scratch}
    return found | {
        "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "", "PYTHONDONTWRITEBYTECODE": "1", "TMPDIR": scratch,
    }  # fmt: skip


def command(role: str, folder: Path, scratch: str, told: int, limits: Limits) -> list[str]:
    """The command of such a process: a ``trial`` or a ``worker`` of the model in ``folder``.

    Args:
        scratch: the folder where it may write.
        told: the file descriptor where it tells the server what it has to tell.
    """
    arguments = [role, folder.resolve(), scratch, told, limits.cpu_seconds, limits.memory]
    return [sys.executable, "-m", "mlaas4hep_serving.tfaas.confine", *map(str, arguments)]


def confine(cpu_seconds: int, memory: int, readable: Iterable[Path], writable: Iterable[Path]) -> list[str]:
    """Take from this process what the model shall not have.

    Args:
        cpu_seconds: of processor time; the server may give more as it goes.
        memory: bytes of address space.
        readable, writable: folders, beside those of Python and of the system's libraries.

    Returns:
        What is in force, in words.
    """
    for kind, most in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_FSIZE, _LARGEST_FILE),
        (resource.RLIMIT_NOFILE, _OPEN_FILES),
    ):
        resource.setrlimit(kind, (most, most))
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, resource.getrlimit(resource.RLIMIT_CPU)[1]))
    os.umask(0o077)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")  # where memory is short, this process goes first
    in_force = ["limits of memory, time and files"]
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_NEW_USER | _NEW_NET) == 0:
        in_force.append("a network namespace without a network")
    python = [Path(path) for path in {*sys.path, sys.prefix, sys.base_prefix} if path]
    landlock = _landlock(libc, [*map(Path, _SYSTEM), *python, *readable], writable)
    return [*in_force, *filter(None, (landlock, refuse_calls(libc)))]


class _Ruleset(ctypes.Structure):
    _fields_ = (("files", ctypes.c_uint64), ("network", ctypes.c_uint64), ("scoped", ctypes.c_uint64))


class _Beneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32))


def _landlock(libc: ctypes.CDLL, readable: Iterable[Path], writable: Iterable[Path]) -> str:
    """No file but those, no TCP; what of it is in force, or ""."""
    version = libc.syscall(_CREATE, None, 0, 1)
    if version < 1:
        return ""
    files = _FILE_ACCESS[min(version, max(_FILE_ACCESS))]
    rules = _Ruleset(files, _TCP if version >= 4 else 0, _SCOPES if version >= 6 else 0)
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    ruleset = libc.syscall(_CREATE, ctypes.byref(rules), size, 0)
    if ruleset < 0:
        return ""
    for paths, allowed in ((readable, _READ), (writable, files & ~1)):  # 1 is to execute
        for path in paths:
            _allow(libc, ruleset, path, allowed)
    libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    done = libc.syscall(_RESTRICT, ruleset, 0) == 0
    os.close(ruleset)
    return f"Landlock {version} of files{' and TCP' if version >= 4 else ''}" if done else ""


def _allow(libc: ctypes.CDLL, ruleset: int, path: Path, allowed: int) -> None:
    try:
        opened = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:  # a path that this system does not have
        return
    rule = _Beneath(allowed if path.is_dir() else allowed & _READ_FILE, opened)
    libc.syscall(_ADD, ruleset, 1, ctypes.byref(rule), 0)
    os.close(opened)


def _main(role: str, folder: Path, scratch: Path, told: int, cpu_seconds: int, memory: int) -> None:
    in_force = confine(cpu_seconds, memory, [folder], [scratch])
    with open(told, "wb") as answer:
        if role == "trial":
            from mlaas4hep_serving.tfaas import trial  # here and below: TensorFlow comes after the limits

            answer.write(trial.told(folder))
            return
        answer.write(", ".join(in_force).encode())
    from mlaas4hep_serving.tfaas import worker

    worker.serve(folder, scratch / SOCKET)


if __name__ == "__main__":
    _main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), *map(int, sys.argv[4:]))
