"""Where reading runs: local processes by default, or any `concurrent.futures.Executor` (Dask, MPI).

Each local process has a thread here that hands it one piece of work after the other, so that a process that dies or
hangs is known and replaced; the one piece of work that it had is done again.
"""

from __future__ import annotations

import logging
import math
import os
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future, wait
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing.util import Finalize
from queue import Empty, SimpleQueue
from socket import gethostname
from typing import Any, TypeVar
from weakref import WeakKeyDictionary, finalize

from mlaas4hep_tf import __version__
from mlaas4hep_tf.errors import InputFileError, MlaasError, ReaderError
from mlaas4hep_tf.io import buffers
from mlaas4hep_tf.io.cache import as_cache
from mlaas4hep_tf.io.memory import free_memory
from mlaas4hep_tf.io.policy import Conditions, credentials, perform
from mlaas4hep_tf.io.processes import REMEMBERED, Gone, Late, Once, ReaderProcess, end_with_parent
from mlaas4hep_tf.io.read_options import DEFAULT_READ, ReadOptions

T = TypeVar("T")
R = TypeVar("R")

MAX_DEATHS = 12  # of reader processes over one piece of work
MAX_OPEN_FILES = 64  # of all reader processes together
PAGES_OF_FREE = 8  # part of the free memory that decoded pages may take in all reader processes together
LEAST_PAGES, MOST_PAGES = 1 << 27, 1 << 29  # and bytes of them in one, whatever is free
START_S = 60.0  # for a reader process to start; not part of the time for its work
_NEEDS = "it needs descriptors (ulimit -n), processes (ulimit -u) and memory"
_ELSEWHERE = (
    64  # pieces of work under way at most in the user's executor, if it does not say how many it does at a time
)
_log = logging.getLogger(__name__)


def default_workers() -> int:
    """Reader processes by default: one per core that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class WorkerPool:
    """Runs functions elsewhere, in order, a bounded number of them ahead.

    Attributes:
        read: how many processes or whose executor, deadlines, retries, replicas and cache.
    """

    read: ReadOptions = DEFAULT_READ

    @property
    def workers(self) -> int:
        """Number of processes that work at the same time."""
        return default_workers() if self.read.workers is None else self.read.workers

    @property
    def remembers(self) -> int:
        """How many things (`Once`) each reader keeps that it was told."""
        return REMEMBERED // 2 if self.read.executor is None else 0

    @property
    def ahead(self) -> int:
        """Pieces of work to ask for before the first of them is waited for: two per worker, wherever these are."""
        return 2 * (self.workers if self.read.executor is None else under_way(self.read.executor))

    @property
    def shares_memory(self) -> bool:
        """Whether readers can write into this process's buffers."""
        return self.read.executor is None and buffers.supported()

    def submit(self, function: Callable[..., R], *args: Any) -> Future[R]:
        """Have a piece of work done; what fails and may pass is tried again.

        An argument that is `Once` is sent to each process once, and the function gets its value.

        The future raises what the function raises; ReaderError where reader processes died or hung over it.
        """
        given = Conditions(self.read.policy, as_cache(self.read.cache), 0, credentials())
        return _dispatchers.get(self).submit(self.read.executor, given, function, *args)

    def run(self, function: Callable[..., R], *args: Any) -> R:
        """Call a function elsewhere and wait for its result."""
        return self.submit(function, *args).result()

    def map(self, function: Callable[[T], R], tasks: Iterable[T]) -> Iterator[R]:
        """Results in the order of the tasks, with a bounded number of them under way."""
        for future in self.outcomes(function, tasks):
            yield future.result()

    def outcomes(self, function: Callable[[T], R], tasks: Iterable[T]) -> Iterator[Future[R]]:
        """Futures in the order of the tasks, with a bounded number of them under way."""
        most = self.ahead
        pending: deque[Future[R]] = deque()
        try:
            for task in tasks:
                pending.append(self.submit(function, task))
                if len(pending) >= most:
                    yield pending.popleft()
            while pending:
                yield pending.popleft()
        finally:
            for future in pending:
                future.cancel()


_Task = tuple[Future[Any], Callable[[], Any]]


class _Threads:
    """Daemon threads that do queued work in order, started when there is work and none is idle.

    The interpreter does not wait for them when it ends.  It would wait for those of a `ThreadPoolExecutor`, until
    they have done all that is queued.
    """

    def __init__(self, most: int) -> None:
        self._most = self._may_start = most
        self._queue: SimpleQueue[_Task | None] = SimpleQueue()
        self._idle = threading.Semaphore(0)
        self._lock = threading.Lock()

    def submit(self, work: Callable[[], R]) -> Future[R]:
        future: Future[R] = Future()
        self._queue.put((future, work))
        with self._lock:
            if not self._idle.acquire(blocking=False) and self._may_start:
                self._may_start -= 1
                threading.Thread(target=self._serve, name="mlaas4hep-reader", daemon=True).start()
        return future

    def _serve(self) -> None:
        while (task := self._next()) is not None:
            _do(*task)
            del task  # or its result is kept until there is more work

    def _next(self) -> _Task | None:
        try:
            return self._queue.get_nowait()
        except Empty:
            self._idle.release()
            return self._queue.get()

    def end(self) -> None:
        """Cancel what is queued, and let each thread end when it has done what it is at."""
        with suppress(Empty):
            while True:
                if (task := self._queue.get_nowait()) is not None:
                    task[0].cancel()
        for _ in range(self._most - self._may_start):
            self._queue.put(None)


def _do(future: Future[R], work: Callable[[], R]) -> None:
    if future.set_running_or_notify_cancel():
        try:
            future.set_result(work())
        except BaseException as error:  # noqa: BLE001 (it is raised where the result is asked for)
            future.set_exception(error)


class _Dispatcher:
    """Threads that each hand one piece of work at a time to a reader process of their own."""

    def __init__(self, workers: int) -> None:
        most = min(MAX_OPEN_FILES // workers, buffers.descriptors() // 4)
        self._files = max(1, most - 1)  # kept open by uproot; the decoder has one more
        self._pages = pages_kept(free_memory(), workers)
        self._threads = _Threads(workers)
        self._own = threading.local()
        self._readers: list[_Reader] = []
        self._closing = threading.Event()
        self._ended = 0.0  # when the user's executor last ended a piece of work

    def submit(self, executor: Executor | None, given: Conditions, function: Callable[..., R], *args: Any) -> Future[R]:
        return self._threads.submit(partial(self._work, executor, given, function, *args))

    def close(self) -> None:
        """End the processes, whatever they are doing."""
        self._closing.set()
        self._threads.end()
        for reader in self._readers:
            reader.kill()

    def _work(self, executor: Executor | None, given: Conditions, function: Callable[..., R], *args: Any) -> R:
        deaths, busy_since = 0, math.inf
        while True:
            try:
                return self._try(executor, given, function, *args)
            except _Died as error:
                deaths += 1
                if deaths >= MAX_DEATHS or self._closing.is_set():
                    raise ReaderError(
                        f"reader processes died {deaths} times over the same piece of work; they may be short of "
                        "memory: lower workers= or chunk_size="
                    ) from error
            except (_Stalled, _Lost, InputFileError) as error:
                asked = getattr(error, "after_s", 0.0)
                busy_since = min(busy_since, time.monotonic()) if asked else busy_since
                pause = _pause(error, given, busy_since)
                if pause is None:
                    raise
                _log.warning("%s; once more in %.1f s", error, pause)
                if self._closing.wait(pause):
                    raise
                given = replace(given, attempt=given.attempt + (asked == 0))

    def _try(self, executor: Executor | None, given: Conditions, function: Callable[..., R], *args: Any) -> R:
        seconds = given.policy.work_timeout_s
        if executor is not None:
            work = partial(function, *(a.value if isinstance(a, Once) else a for a in args))
            return self._try_elsewhere(executor, seconds, given, work)
        if not hasattr(self._own, "reader"):
            self._own.reader = _Reader(self._files, self._pages, self._closing)
            self._readers.append(self._own.reader)
        reader: _Reader = self._own.reader
        result: R = reader.call(seconds, perform, given, function, *args)
        return result

    def _try_elsewhere(self, executor: Executor, seconds: float, given: Conditions, work: Callable[[], R]) -> R:
        """In the user's executor; what its own package raises, such as a killed worker, is no fault of the data."""
        try:
            future = executor.submit(perform_elsewhere, __version__, given, work)
            self._await(future, seconds)
            return future.result()
        except MlaasError:
            raise
        except (Exception, CancelledError) as error:
            lost = isinstance(error, (BrokenExecutor, CancelledError, TimeoutError))
            if not lost and _package(error) != _package(executor):
                raise
            raise _Lost(f"{type(executor).__name__} lost a piece of work: {type(error).__name__}: {error}") from error

    def _await(self, future: Future[Any], seconds: float) -> None:
        """Wait until a piece of work has ended; raises _Stalled when the executor has ended none for so long.

        How long it waits for its turn there is not known, and no part of the work.
        """
        asked = time.monotonic()
        while not wait([future], max(asked, self._ended) + seconds - time.monotonic()).done:
            if time.monotonic() >= max(asked, self._ended) + seconds:
                future.cancel()
                raise _Stalled(_too_long(seconds))
        self._ended = time.monotonic()


def perform_elsewhere(version: str, given: Conditions, work: Callable[[], R]) -> R:
    """Runs in a worker of a cluster: a piece of work, if this package is the same there.

    Raises:
        ReaderError: it is another version.
    """
    if version != __version__:
        raise ReaderError(
            f"a worker on {gethostname()} has mlaas4hep_tf {__version__} and the training process {version}: install "
            "the same version on all machines"
        )
    return perform(given, work)


def under_way(executor: Executor) -> int:
    """How many pieces of work a user's executor is given at a time: two for each that it does, 64 at least."""
    return max(_ELSEWHERE, 2 * getattr(executor, "num_workers", 0))


def _package(thing: object) -> str:
    return type(thing).__module__.partition(".")[0]


def _pause(error: Exception, given: Conditions, busy_since: float) -> float | None:
    """Seconds until a piece of work is tried again; None where it is not."""
    asked = getattr(error, "after_s", 0.0)
    if asked:
        waited = time.monotonic() - busy_since
        return given.policy.busy_pause_s(asked, waited, given.attempt, random.random())
    again = getattr(error, "passing", True) and given.attempt < given.policy.retries
    return given.policy.pause_s(given.attempt, random.random()) if again else None


class _Died(Exception):
    """A reader process ended in the midst of its work."""


class _Lost(ReaderError):
    """The user's executor did not end a piece of work."""


class _Stalled(ReaderError):
    """A piece of work took too long."""


def _too_long(seconds: float) -> str:
    return f"reading took more than {seconds:g} s (work_timeout_s of the ReadPolicy)"


class _Reader:
    """One reader process, started when there is work for it, and again when it is gone."""

    def __init__(self, files: int, pages: int, closing: threading.Event) -> None:
        self._files, self._pages, self._closing = files, pages, closing
        self._process: ReaderProcess | None = None

    def call(self, seconds: float, function: Callable[..., R], *args: Any) -> R:
        """The result of the function; raises _Died or _Stalled after the process was ended."""
        process = self._process
        if process is None or not process.alive:  # it had no work for long
            process = self._start()
        try:
            return process.call(seconds, function, *args)
        except Late:
            self.kill()
            raise _Stalled(_too_long(seconds)) from None
        except Gone as error:
            self.kill()
            raise _Died from error

    def _start(self) -> ReaderProcess:
        """A process that answers; one that dies before that is replaced and not counted as a death over work."""
        end = time.monotonic() + START_S
        while True:
            try:
                process = self._process = ReaderProcess()
                process.call(max(0.0, end - time.monotonic()), start_reader, os.getpid(), self._files, self._pages)
                return process
            except (Gone, Late) as error:
                self.kill()
                if time.monotonic() > end or self._closing.is_set():
                    raise ReaderError(f"no reader process came up in {START_S:g} s; see the output above") from error
            except OSError as error:
                self.kill()
                raise ReaderError(f"no reader process can be started: {error}; {_NEEDS}") from error

    def kill(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()


class _Dispatchers:
    """The dispatchers of this process, one for each number of workers and time limit of a request, or executor.

    That of an executor ends with it.
    """

    def __init__(self) -> None:
        self._inherited: list[object] = []
        self.begin()

    def begin(self) -> None:
        """Have none yet, as in a forked child, which gets its parent's dispatchers but not their threads.

        The parent's are kept, since to drop them would be to talk to its reader processes.
        """
        self._lock = threading.Lock()
        self._dispatchers: dict[tuple[object, ...], _Dispatcher] = {}
        self._elsewhere = WeakKeyDictionary[Executor, _Dispatcher]()
        self._inherited.append((self._dispatchers, self._elsewhere))

    def get(self, worker_pool: WorkerPool) -> _Dispatcher:
        executor = worker_pool.read.executor
        # a process keeps the time limit with which it used XRootD first
        key = (worker_pool.workers, worker_pool.read.policy.request_timeout_s)
        with self._lock:
            if executor is not None:
                if executor not in self._elsewhere:
                    self._elsewhere[executor] = _Dispatcher(under_way(executor))
                    finalize(executor, self._elsewhere[executor].close)
                return self._elsewhere[executor]
            if not self._dispatchers:  # here, since multiprocessing forgets what a parent has registered
                Finalize(self, self.close, exitpriority=100)  # before a process waits for its children
            if key not in self._dispatchers:
                self._dispatchers[key] = _Dispatcher(worker_pool.workers)
            return self._dispatchers[key]

    def close(self) -> None:
        while self._dispatchers:
            self._dispatchers.popitem()[1].close()


def pages_kept(free: int, workers: int) -> int:
    """Bytes of decoded pages of RNTuples that each reader process keeps.

    Blocks of four clusters are read in turn (`streaming.plan`), and a page may be as long as its cluster: where those
    of four do not fit, a page is decoded anew for each of its blocks.
    """
    return min(max(free // PAGES_OF_FREE // workers, LEAST_PAGES), MOST_PAGES)


def start_reader(parent: int, files: int, pages: int) -> None:
    """Runs once in each reader process.

    Args:
        parent: the process with which it ends.
        files: how many it may keep open in uproot.
        pages: bytes of decoded pages that it may keep.
    """
    from mlaas4hep_tf.io import reader  # here, so that the training process never imports uproot

    reader.keep(files, pages)
    end_with_parent(parent)


def in_own_process(function: Callable[..., R], *args: Any) -> R:
    """Runs in a worker of a cluster: call a function in a process of its own, which ends with the worker."""
    process = ReaderProcess()
    try:
        process.call(START_S, end_with_parent, os.getpid())
        return process.call(float("inf"), function, *args)
    except Gone as error:
        raise ReaderError("the process of a worker died in the midst of its work") from error
    finally:
        process.kill()


_dispatchers = _Dispatchers()
os.register_at_fork(after_in_child=_dispatchers.begin)
