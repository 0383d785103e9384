"""How many bytes of requests may be in flight at once: `Budget`, and the `Share` that one request has of it."""

from __future__ import annotations

import contextlib
import os
import resource
import threading
from pathlib import Path

from mlaas4hep_serving.errors import unavailable

FREE = 1 << 16  # bytes of a request that are not counted: large ones do not keep small ones out
_PART = 8  # of the memory, where nobody says how much
_CGROUP = Path("/sys/fs/cgroup/memory.max")


class Budget:
    """Bytes in flight, of all requests together; ``size`` 0 is an eighth of the memory that this process may have."""

    def __init__(self, size: int = 0) -> None:
        self.size = size or memory() // _PART
        self._used = 0
        self._lock = threading.Lock()

    def take(self, size: int) -> None:
        """Use ``size`` bytes more.

        Raises:
            ServingError: UNAVAILABLE, there are not so many left.
        """
        with self._lock:
            if self._used + size > self.size:
                raise unavailable(
                    f"Requests in flight hold {self._used} bytes; {size} more would exceed the limit of {self.size} "
                    "bytes, see --max_inflight_bytes. Try again later"
                )
            self._used += size

    def give(self, size: int) -> None:
        """Use ``size`` bytes less."""
        with self._lock:
            self._used -= size


class Share:
    """What one request has of a budget, until the end of the block ``with Share(budget):``, or until it is dropped."""

    def __init__(self, budget: Budget) -> None:
        self._budget, self._held = budget, 0

    def __enter__(self) -> Share:
        return self

    def __exit__(self, *_: object) -> None:
        self.give_back()

    def __del__(self) -> None:
        self.give_back()

    def hold(self, size: int) -> None:
        """Have ``size`` bytes in all; raises as `Budget.take`."""
        if size > max(self._held, FREE):
            self._budget.take(size - self._held)
            self._held = size

    def grow(self, size: int) -> None:
        """Have ``size`` bytes more; raises as `Budget.take`."""
        self.hold(self._held + size)

    def give_back(self) -> None:
        """Have none."""
        if self._held:
            self._budget.give(self._held)
            self._held = 0


def memory() -> int:
    """Bytes that this process may have: of the machine, its control group and its limit of address space."""
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    with contextlib.suppress(OSError, ValueError):  # no such group, or "max"
        found.append(int(_CGROUP.read_text()))
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    return min([*found, limit] if limit != resource.RLIM_INFINITY else found)
