"""Where reading runs: local processes by default, or any `concurrent.futures.Executor` (Dask, MPI).

The local processes come from loky: clean interpreters that do not import the user's ``__main__`` again.  A
process that dies takes its executor along; the work that was under way is then done again on a new one.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from multiprocessing.util import Finalize
from typing import Any, TypeVar

from loky.process_executor import ProcessPoolExecutor, ShutdownExecutorError

from mlaas4hep_tf import buffers
from mlaas4hep_tf.errors import PlanError, ReaderError

T = TypeVar("T")
R = TypeVar("R")

MAX_RESTARTS = 5  # of the reader processes for one piece of work
MAX_OPEN_FILES = 64  # of all reader processes together
IDLE_S = 120.0  # after which a reader process without work ends


def default_workers() -> int:
    """Reader processes by default: one per core that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class Engine:
    """Runs functions elsewhere, in order, a bounded number of them ahead.

    Attributes:
        workers: number of processes that work at the same time.
        executor: the user's executor; None for local processes.
    """

    workers: int
    executor: Executor | None = None

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise PlanError(f"workers must be at least 1, not {self.workers}")

    @property
    def shares_memory(self) -> bool:
        """Whether readers can write into this process's buffers."""
        return self.executor is None and buffers.supported()

    def submit(self, function: Callable[..., R], *args: Any) -> Future[R]:
        if self.executor is not None:
            return self.executor.submit(function, *args)
        return _pools.submit(self.workers, function, *args)

    def run(self, function: Callable[..., R], *args: Any) -> R:
        """Call a function elsewhere and wait for its result."""
        return self.result(self.submit(function, *args), partial(self.submit, function, *args))

    def result(self, future: Future[R], again: Callable[[], Future[R]]) -> R:
        """Wait for a result; if the process died, do the work again.

        Raises:
            ReaderError: the processes died `MAX_RESTARTS` times in a row.
        """
        for attempt in range(1, MAX_RESTARTS + 1):
            try:
                return future.result()
            except BrokenProcessPool as error:
                if self.executor is not None:
                    raise
                last = error
                if attempt < MAX_RESTARTS:
                    future = again()
        raise ReaderError(
            f"reader processes died {MAX_RESTARTS} times on the same piece of work ({type(last).__name__}); they may "
            "be short of memory: lower workers= or chunk_size="
        ) from last

    def map(self, function: Callable[[T], R], tasks: Iterable[T], ahead: int | None = None) -> Iterator[R]:
        """Results in the order of the tasks, with at most `ahead` (default: two per worker) under way."""
        pending: deque[tuple[Future[R], T]] = deque()
        limit = ahead or 2 * self.workers
        try:
            for task in tasks:
                pending.append((self.submit(function, task), task))
                if len(pending) >= limit:
                    yield self._take(function, pending)
            while pending:
                yield self._take(function, pending)
        finally:
            for future, _ in pending:
                future.cancel()

    def _take(self, function: Callable[[T], R], pending: deque[tuple[Future[R], T]]) -> R:
        future, task = pending.popleft()
        return self.result(future, partial(self.submit, function, task))


class _Pools:
    """The process pools of this interpreter, one per number of workers."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pools: dict[int, ProcessPoolExecutor | None] = {}
        # a process that multiprocessing started waits for its children: without this, until they have been idle
        Finalize(self, self.close, exitpriority=100)

    def close(self) -> None:
        """End the processes, whatever they are doing."""
        while self._pools:
            _, pool = self._pools.popitem()
            if pool is not None:
                pool.shutdown(kill_workers=True)

    def submit(self, workers: int, function: Callable[..., R], *args: Any) -> Future[R]:
        with self._lock:
            for _ in range(MAX_RESTARTS):
                pool = self._pools.setdefault(workers, None) or _new_pool(workers)
                self._pools[workers] = pool
                try:
                    future: Future[R] = pool.submit(function, *args)
                    return future
                except (BrokenProcessPool, ShutdownExecutorError):
                    self._pools[workers] = None
        raise ReaderError("reader processes cannot be started: they die at once; see their output above")


def _new_pool(workers: int) -> ProcessPoolExecutor:
    files = max(1, MAX_OPEN_FILES // workers - 1)  # and one more, of which the decoder reads
    return ProcessPoolExecutor(workers, timeout=IDLE_S, initializer=start_reader, initargs=(os.getpid(), files))


def start_reader(parent: int, files: int) -> None:
    """Runs once in each reader process.

    Args:
        parent: the process with which it ends.
        files: how many it may keep open in uproot.
    """
    from mlaas4hep_tf import reader  # here, so that the training process never imports uproot

    reader.keep_open(files)
    end_with_parent(parent)


def end_with_parent(parent: int) -> None:
    """Have this process end within a second of its parent, however that ends.

    A thread that looks; the kernel's own signal for this goes by the thread that started the process, which
    may well end before the parent does.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(0)

    threading.Thread(target=watch, daemon=True).start()


_pools = _Pools()
