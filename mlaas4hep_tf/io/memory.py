"""How much memory this process may still take: the machine's, and that of the batch job or container it runs in."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

import psutil

_CGROUPS = Path("/sys/fs/cgroup")
_LOOK_S = 0.25


def free_memory() -> int:
    """Bytes that can be taken without swapping, and without passing the limit of a control group.

    They are those of a quarter of a second ago at most: to look takes some milliseconds, and who keeps what is read
    asks for each block.
    """
    return _free(int(time.monotonic() / _LOOK_S))


@lru_cache(maxsize=1)
def _free(_: int) -> int:
    left = int(psutil.virtual_memory().available)
    return max(0, min([left, *left_in_groups(Path("/proc/self/cgroup"), _CGROUPS)]))


def left_in_groups(membership: Path, root: Path) -> Iterator[int]:
    """What each control group with a limit that this process is in leaves, of either version of the interface.

    https://docs.kernel.org/admin-guide/cgroup-v2.html and cgroup-v1/memory.html.  Pages of files that were not used
    lately count as used there, and the kernel takes them back first.
    """
    for line in _text(membership).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        top, limit, used, cold = (
            (root / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            if controllers
            else (root, "memory.max", "memory.current", "inactive_file")
        )
        own = top / path.lstrip("/")
        for group in (own, *(parent for parent in own.parents if parent.is_relative_to(top))):
            with suppress(ValueError):  # "max", or no such file: no limit
                most, taken = int(_text(group / limit)), int(_text(group / used))
                statistics = dict(pair.split() for pair in _text(group / "memory.stat").splitlines())
                yield most - taken + int(statistics.get(cold, 0))


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # no control groups, or none that can be seen from inside a container
        return ""
