"""Reading in the user's executor: as much under way as it may take, and its own faults as ours."""

import threading
import time
from concurrent.futures import BrokenExecutor, Executor, Future, ThreadPoolExecutor

import pytest

from mlaas4hep_tf import ReadOptions, ReadPolicy
from mlaas4hep_tf.errors import ReaderError
from mlaas4hep_tf.io.workers import WorkerPool, pages_kept


class KilledWorker(Exception):
    """As Dask's, it is of the package of the executor."""


class Failing(Executor):
    """An executor that fails so many times before it works."""

    def __init__(self, failures, error):
        self.failures, self.error, self.asked = failures, error, 0

    def submit(self, function, /, *args, **kwargs):
        self.asked += 1
        future = Future()
        if self.asked <= self.failures:
            future.set_exception(self.error)
        else:
            future.set_result(function(*args, **kwargs))
        return future


def pool(executor, retries=2, **options):
    return WorkerPool(ReadOptions(executor=executor, policy=ReadPolicy(retries=retries, backoff_s=0.01, **options)))


def three():
    return 3


@pytest.mark.parametrize("error", [KilledWorker("gone"), BrokenExecutor("broken")])
def test_a_lost_piece_of_work_is_done_again(error):
    executor = Failing(2, error)
    assert pool(executor).run(three) == 3
    assert executor.asked == 3


@pytest.mark.parametrize("error", [KilledWorker("gone"), BrokenExecutor("broken")])
def test_what_is_lost_again_and_again_is_our_error(error):
    executor = Failing(99, error)
    with pytest.raises(ReaderError, match=f"Failing lost a piece of work: {type(error).__name__}"):
        pool(executor).run(three)
    assert executor.asked == 3


def test_other_errors_stay_what_they_are():
    executor = Failing(99, ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        pool(executor).run(three)
    assert executor.asked == 1


def test_many_slow_slots_are_kept_at_work():
    """Each task waits until 60 are under way at the same time."""
    together = threading.Barrier(60)

    def task(number):
        together.wait(30)
        return number

    with ThreadPoolExecutor(64) as executor:
        assert list(pool(executor).map(task, range(60))) == list(range(60))


@pytest.mark.parametrize(
    ("free_gib", "workers", "mib"), [(0, 4, 128), (8, 4, 256), (8, 2, 512), (1000, 1, 512), (8, 64, 128)]
)
def test_readers_keep_pages_in_an_eighth_of_the_free_memory_within_bounds(free_gib, workers, mib):
    assert pages_kept(free_gib << 30, workers) == mib << 20


def test_work_that_waits_for_its_turn_is_not_late():
    """Eight pieces in one slot take twice the time that one may take."""

    def task(number):
        time.sleep(0.5)
        return number

    with ThreadPoolExecutor(1) as executor:
        waiting = pool(executor, retries=0, work_timeout_s=2.0)
        assert list(waiting.map(task, range(8))) == list(range(8))


def test_work_that_does_not_end_is_late():
    """One of two slots hangs; what the other one ends puts that off, and there is little of it."""
    freed = threading.Event()
    with ThreadPoolExecutor(2) as executor:
        late = pool(executor, retries=0, work_timeout_s=0.5)
        with pytest.raises(ReaderError, match=r"took more than 0.5 s \(work_timeout_s"):
            list(late.map(lambda number: number or freed.wait(60), range(8)))
        freed.set()
