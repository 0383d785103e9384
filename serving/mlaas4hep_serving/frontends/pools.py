"""Threads in which models run: each model has its own, so that a slow one keeps no other waiting."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor


class Pools:
    """Pools of threads, made when they are first needed.

    Args:
        threads: of each model, at most.
        known: whether there is a model of this name; all others share one pool, as clients make names up.
    """

    def __init__(self, threads: int, known: Callable[[str], bool]) -> None:
        self._threads, self._known = threads, known
        self._pools: dict[str, ThreadPoolExecutor] = {}
        self._lock = threading.Lock()

    def of(self, model: str) -> Executor:
        """The threads of a model."""
        name = model if self._known(model) else ""
        return self._pools.get(name) or self._made(name)

    def _made(self, name: str) -> Executor:
        with self._lock:
            for gone in [other for other in self._pools if other and not self._known(other)]:
                self._pools.pop(gone).shutdown(wait=False)
            return self._pools.setdefault(name, ThreadPoolExecutor(self._threads, thread_name_prefix=f"model-{name}"))
