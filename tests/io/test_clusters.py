"""Reading on a cluster: the same specs and events as here, and what the workers are asked for."""

import gc
import os
import signal
import weakref
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from itertools import chain, count
from threading import Event
from time import sleep

import numpy as np
import pytest
from helpers.slow_writer import write_slowly
from helpers.streams import quiet_scan

from mlaas4hep_tf import ReadOptions, ReadPolicy, RootDataset
from mlaas4hep_tf.errors import ConfigError, MissingExtra, ReaderError
from mlaas4hep_tf.io import clusters, workers
from mlaas4hep_tf.io.clusters import DaskExecutor, as_executor, on_dask
from mlaas4hep_tf.io.workers import WorkerPool, in_own_process, perform_elsewhere, under_way
from mlaas4hep_tf.testing import write_files

needs_dask = pytest.mark.skipif(find_spec("distributed") is None, reason="pip install 'mlaas4hep_tf[dask]'")


def batches(files, specs, **options):
    ds = RootDataset(files, specs, batch_size=64, chunk_size=512, seed=1, read=ReadOptions(**options), keep=False)
    return (x.numpy() for x in ds)


@contextmanager
def in_this_process(workers):
    """A client of a cluster whose scheduler and workers are threads here."""
    from distributed import Client, LocalCluster

    cluster = LocalCluster(n_workers=workers, processes=False, dashboard_address=None, silence_logs=50)
    with cluster, Client(cluster, set_as_default=False) as client:
        yield client


@needs_dask
def test_a_dask_cluster_gives_the_same_specs_and_the_same_batches_though_a_worker_is_killed(tmp_path):
    files = write_files(tmp_path, [7000, 4000, 3000], basket=100)
    here = quiet_scan(files)
    with on_dask("local:2") as executor:
        assert under_way(executor) == 64
        there = quiet_scan(files, read=ReadOptions(executor=executor))
        assert there == here
        on_workers = batches(files, here, executor=executor)
        begun = [next(on_workers) for _ in range(20)]
        os.kill(executor.submit(os.getpid).result(), signal.SIGKILL)
        for own, other in zip(batches(files, here), chain(begun, on_workers), strict=True):
            assert np.array_equal(own, other)
        with pytest.raises(ReaderError, match="has mlaas4hep_tf .* and the training process 0.0.1"):
            WorkerPool(ReadOptions(executor=executor)).run(perform_elsewhere, "0.0.1", None, None)


def once(executor):
    return WorkerPool(ReadOptions(executor=executor, policy=ReadPolicy(retries=0)))


@needs_dask
def test_work_for_a_cluster_without_workers_is_our_error(monkeypatch):
    monkeypatch.setattr(clusters, "NOBODY_S", 0.2)
    monkeypatch.setattr(clusters, "_LOOK_S", 0.1)
    with in_this_process(0) as client, pytest.raises(ReaderError, match="the cluster has had no worker for 0.2 s"):
        once(DaskExecutor(client)).run(int)


BEGUN, END = Event(), Event()


def wait_for_end():
    BEGUN.set()
    END.wait(60)


@needs_dask
def test_work_whose_scheduler_is_gone_is_our_error():
    """A client that has not found it again closes itself: work that is under way, and what comes later."""
    with in_this_process(1) as client:
        executor = DaskExecutor(client)
        waiting = once(executor).submit(wait_for_end)
        assert BEGUN.wait(60)
        client.close()
        with pytest.raises(ReaderError, match="connection to the scheduler was lost"):
            waiting.result(60)
        END.set()
        with pytest.raises(ReaderError, match="scheduler of Dask is gone"):
            once(executor).run(int)


@needs_dask
def test_a_file_that_a_killed_worker_writes_is_whole(tmp_path):
    """As the parts of predictions are written: its own process may outlive the worker while another writes again."""
    with on_dask("local:2") as executor:
        pool = WorkerPool(ReadOptions(executor=executor))
        writing = pool.submit(partial(in_own_process, write_slowly), tmp_path / "a")
        while not (begun := "".join(file.read_text() for file in tmp_path.glob(".a.*"))):
            sleep(0.01)
        os.kill(int(begun), signal.SIGKILL)
        writing.result(60)
    worker, said = (tmp_path / "a").read_text().split()
    assert worker != begun.strip() and said == "whole"


@pytest.mark.parametrize("address", ["local:", "local:0", "local:two"])
@needs_dask
def test_a_local_cluster_has_a_number_of_workers(address):
    with pytest.raises(ConfigError, match="local:N"), on_dask(address):
        pass


def test_what_is_missing_is_named(monkeypatch):
    monkeypatch.setattr("mlaas4hep_tf.errors.find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"mlaas4hep_tf\[dask\]"), on_dask("local:1"):
        pass


def test_an_executor_is_one():
    with ThreadPoolExecutor(1) as executor:
        assert as_executor(executor) is executor
    with pytest.raises(ConfigError, match="not 'dask'"):
        ReadOptions(executor="dask")  # type: ignore[arg-type]  # what a user may try


def test_a_large_cluster_gets_two_pieces_of_work_for_each_that_it_does():
    class Large(ThreadPoolExecutor):
        num_workers = 500

    assert under_way(Large(1)) == 1000


def test_no_executor_is_kept_alive_when_its_user_has_done():
    executor = ThreadPoolExecutor(1)
    assert WorkerPool(ReadOptions(executor=executor)).run(int) == 0
    gone = weakref.ref(executor)
    executor.shutdown()
    del executor
    gc.collect()
    assert gone() is None


def test_threads_of_one_process_read_the_same_files(tmp_path):
    """A worker of a cluster may have several threads; lists of lists are read by uproot."""
    files = write_files(tmp_path, [400, 300], basket=50)
    with ThreadPoolExecutor(8) as executor:
        assert quiet_scan(files, read=ReadOptions(executor=executor)) == quiet_scan(files)


def test_a_process_of_its_own_ends_with_its_worker():
    assert workers.in_own_process(int, "3") == 3


def test_few_files_keep_all_slots_of_an_executor_at_work(tmp_path):
    """Each block waits here until sixty are under way, of chunks that have eight."""
    files = write_files(tmp_path, [2560] * 8, basket=256)
    begun, sixty = count(1), Event()

    class Slow(ThreadPoolExecutor):
        def submit(self, function, /, *args, **options):
            return super().submit(wait_for_others, function, *args, **options)

    def wait_for_others(function, *args, **options):
        if opened and next(begun) >= 60:
            sixty.set()
        assert not opened or sixty.wait(60)
        return function(*args, **options)

    opened = False
    specs = quiet_scan(files)
    with Slow(64) as executor:
        ds = RootDataset(files, specs, batch_size=64, chunk_size=2048, read=ReadOptions(executor=executor), keep=False)
        opened = True
        assert sum(len(x) for x in ds) == 20_480
