import threading
import time
from concurrent.futures import wait

import numpy as np
import pytest
from mlaas4hep_serving.errors import Code, ServingError
from mlaas4hep_serving.metrics import Registry
from mlaas4hep_serving.models.batcher import Batcher, BatchingOptions, pad_to_largest


class Doubler:
    """A model that doubles its input, remembers its batches, and can be held up."""

    def __init__(self):
        self.sizes = []
        self.free = threading.Event()
        self.free.set()

    def __call__(self, feeds, values, fetches, timeout):
        self.free.wait(10)
        self.sizes.append(len(values[0]))
        return [2 * values[0]]


@pytest.fixture
def make():
    made = []

    def build(model, **options):
        batcher = Batcher(model, BatchingOptions(**{"num_batch_threads": 1, **options}), Registry(), "m")
        made.append((batcher, model))
        return batcher

    yield build
    for batcher, model in made:
        model.free.set()
        batcher.close()


def submit(batcher, rows, start=0.0, deadline=None):
    return batcher.submit(["x:0"], [np.arange(start, start + rows)], ["y:0"], deadline)


def test_requests_meet_in_one_run_and_each_gets_its_rows(make):
    model = Doubler()
    batcher = make(model, max_batch_size=6, batch_timeout_micros=5_000_000)
    parts = [submit(batcher, rows, 10.0 * rows) for rows in (1, 2, 3)]
    results = [part.result(5)[0].tolist() for part in parts]
    assert results == [[20.0], [40.0, 42.0], [60.0, 62.0, 64.0]]
    assert model.sizes == [6]


def test_a_lonely_request_leaves_after_the_timeout(make):
    model = Doubler()
    batcher = make(model, max_batch_size=100, batch_timeout_micros=50_000)
    assert submit(batcher, 1).result(5)[0].tolist() == [0.0]


def test_full_queue_is_unavailable(make):
    model = Doubler()
    model.free.clear()
    batcher = make(model, max_batch_size=1, max_enqueued_batches=2)
    held = submit(batcher, 1)
    while batcher._queues[(("x:0",), ("y:0",))]:
        time.sleep(0.001)  # until the thread has taken it
    queued = [submit(batcher, 1), submit(batcher, 1)]
    with pytest.raises(ServingError, match="queue to which this task was submitted is full") as caught:
        submit(batcher, 1)
    assert caught.value.code is Code.UNAVAILABLE
    model.free.set()
    wait([held, *queued], 5)
    assert submit(batcher, 1).result(5)[0].tolist() == [0.0]


def test_a_request_past_its_deadline_is_not_run(make):
    model = Doubler()
    model.free.clear()
    batcher = make(model, max_batch_size=1)
    first = submit(batcher, 1)
    late = submit(batcher, 1, deadline=time.monotonic() + 0.05)
    time.sleep(0.1)
    model.free.set()
    first.result(5)
    with pytest.raises(ServingError) as caught:
        late.result(5)
    assert caught.value.code is Code.RESOURCE_EXHAUSTED
    assert caught.value.message == "Run() timeout exceeded while waiting in batching queue"
    assert model.sizes == [1]


def test_large_requests_are_split_where_asked(make):
    model = Doubler()
    batcher = make(model, max_batch_size=10, max_execution_batch_size=4, enable_large_batch_splitting=True)
    assert submit(batcher, 10).result(5)[0].tolist() == [2.0 * i for i in range(10)]
    assert sum(model.sizes) == 10 and max(model.sizes) <= 4


def test_an_error_of_the_model_reaches_every_request_and_the_thread_lives_on(make):
    class Broken(Doubler):
        def __call__(self, feeds, values, fetches, timeout):
            if len(self.sizes) == 0:
                self.sizes.append(0)
                raise RuntimeError("no")
            return super().__call__(feeds, values, fetches, timeout)

    batcher = make(Broken(), max_batch_size=2, batch_timeout_micros=5_000_000)
    for part in [submit(batcher, 1), submit(batcher, 1)]:
        with pytest.raises(ServingError, match="RuntimeError: no") as caught:
            part.result(5)
        assert caught.value.code is Code.INTERNAL
    assert submit(batcher, 2).result(5)[0].tolist() == [0.0, 2.0]


def test_close_answers_what_is_enqueued(make):
    batcher = make(Doubler(), max_batch_size=100, batch_timeout_micros=60_000_000)
    part = submit(batcher, 1)
    batcher.close()
    assert part.result(0)[0].tolist() == [0.0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_batch_size": 4, "allowed_batch_sizes": (2, 8)}, "Last entry in allowed_batch_sizes must match"),
        ({"max_batch_size": 4, "allowed_batch_sizes": (4, 2)}, "monotonically increasing"),
        ({"max_batch_size": 0}, "max_batch_size must be positive; was 0"),
    ],
)
def test_options_that_contradict_each_other(options, message):
    with pytest.raises(ServingError, match=message):
        BatchingOptions(**options)


def test_padding_repeats_the_first_element():
    small, large = pad_to_largest([np.array([[7, 8]]), np.array([[1, 2, 3]])])
    assert small.tolist() == [[7, 8, 7]] and large.tolist() == [[1, 2, 3]]
