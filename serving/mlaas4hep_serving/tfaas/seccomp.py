"""System calls that a stranger's model does not need, refused by the kernel: seccomp, without a library."""

from __future__ import annotations

import ctypes
import errno
import platform
import struct
from collections.abc import Mapping

# number of a call on x86_64 and on aarch64 (Linux, asm/unistd_64.h and asm-generic/unistd.h)
_REFUSED: Mapping[str, tuple[int, int]] = {
    "io_uring_setup": (425, 425),  # first: it opens sockets without `socket`
    "execve": (59, 221), "execveat": (322, 281),
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "pidfd_getfd": (438, 438),
    "unshare": (272, 97), "setns": (308, 268), "mount": (165, 40), "open_by_handle_at": (304, 265),
    "bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282),
    "add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219),
    "init_module": (175, 105), "finit_module": (313, 273), "kexec_load": (246, 104),
}  # fmt: skip
_SOCKET = (41, 198)
AUDIT = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # column above, number of the architecture
_UNIX = 1  # address family of the server's own socket
_X32 = 0x40000000  # bit of the calls of x86_64 with short pointers
_SET_SECCOMP, _FILTER, _NO_NEW_PRIVILEGES = 22, 2, 38
_LOAD, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06  # BPF_LD|W|ABS, BPF_JMP|JEQ, BPF_JMP|JGE, BPF_RET
_NUMBER, _ARCHITECTURE, _ARGUMENT = 0, 4, 16  # where they lie in seccomp_data (little-endian)
_ALLOW, _REFUSE = 0x7FFF0000, 0x00050000 | errno.EPERM
Step = tuple[int, int, int, int]  # operation, steps to skip if true, if false, operand


def refuse_calls(libc: ctypes.CDLL) -> str:
    """Take the calls from this thread and all that it starts; what is in force, or "" where the kernel has no such."""
    if platform.machine() not in AUDIT:
        return ""
    steps = b"".join(struct.pack("HBBI", *step) for step in program(*AUDIT[platform.machine()]))
    held = ctypes.create_string_buffer(steps, len(steps))
    filter_ = struct.pack("HxxxxxxP", len(steps) // 8, ctypes.addressof(held))
    libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    done = libc.prctl(_SET_SECCOMP, _FILTER, filter_, 0, 0) == 0
    return "seccomp: no socket but local ones, no program, no other process" if done else ""


def program(column: int, architecture: int) -> list[Step]:
    """The filter: every call is allowed but those refused, sockets beyond this machine, and those of other ABIs."""
    refused = [numbers[column] for numbers in _REFUSED.values()]
    count = len(refused)
    return [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_EQUAL, 0, count + 6, architecture),  # steps to the last one: it refuses
        (_LOAD, 0, 0, _NUMBER),
        (_AT_LEAST, count + 4, 0, _X32),
        *((_EQUAL, count + 3 - at, 0, number) for at, number in enumerate(refused)),
        (_EQUAL, 0, 2, _SOCKET[column]),
        (_LOAD, 0, 0, _ARGUMENT),
        (_EQUAL, 0, 1, _UNIX),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _REFUSE),
    ]
