"""Readers that are killed or hang, few descriptors, a full disk, a cache that is damaged or in use by others."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from multiprocessing import get_context
from pathlib import Path

import psutil
import pytest
from helpers import probe, sharing
from helpers.layout import EVENTS, urls
from helpers.proxy import Fault, proxy
from helpers.soak import cases, report
from helpers.streams import QUICK, assert_all_once, delivered, quiet_scan

from mlaas4hep_tf import Cache, ReadOptions, ReadPolicy, RootDataset
from mlaas4hep_tf.errors import ConfigError, ReaderError
from mlaas4hep_tf.io.workers import WorkerPool
from mlaas4hep_tf.testing import http_server, write_files

KILLS = cases(6, 200)


def readers():
    """The reader processes, without the ones that only keep house for them."""
    children = psutil.Process().children(recursive=True)
    alive = [p for p in children if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
    return [p.pid for p in alive if "io.processes" in " ".join(p.cmdline())]


@pytest.mark.slow
@pytest.mark.soak
@pytest.mark.timeout(cases(300, 7200))
def test_readers_killed_at_random_moments(tmp_path):
    """They read slowly, so that there is always one to kill at work."""
    entries = 250 * KILLS
    write_files(tmp_path, [entries] * 4, basket=100)
    specs = quiet_scan(str(tmp_path))
    done = threading.Event()
    killed = []

    def kill():
        chance = random.Random(0)
        while not done.is_set() and len(killed) < KILLS:
            time.sleep(chance.uniform(0.5, 2.0))
            if found := readers():
                killed.append(chance.choice(found))
                os.kill(killed[-1], signal.SIGKILL)

    with http_server(tmp_path) as url, proxy(int(url.rpartition(":")[2]), Fault(delay=0.05)) as between:
        named = [f"http://127.0.0.1:{between.port}/f{number:03d}.root" for number in range(4)]
        thread = threading.Thread(target=kill)
        thread.start()
        epochs = 0
        try:
            while len(killed) < KILLS:
                assert delivered(named, specs, chunk_size=1000) == dict.fromkeys(range(4 * entries), 1)
                epochs += 1
        finally:
            done.set()
            thread.join()
    report("readers killed", kills=len(killed), epochs=epochs)


def test_a_reader_that_hangs_is_killed_and_its_work_done_again(tmp_path):
    worker_pool = WorkerPool(ReadOptions(workers=1, policy=ReadPolicy(work_timeout_s=2, retries=2, backoff_s=0.1)))
    assert worker_pool.run(probe.hang_once, str(tmp_path / "hung")) == "done"


def test_work_that_always_hangs_is_an_error_in_time():
    worker_pool = WorkerPool(ReadOptions(workers=1, policy=ReadPolicy(work_timeout_s=1, retries=1, backoff_s=0.1)))
    with pytest.raises(ReaderError, match=r"took more than 1 s \(work_timeout_s"):
        worker_pool.run(time.sleep, 900)
    assert worker_pool.run(probe.pid) > 0


@pytest.mark.slow
def test_work_that_kills_its_reader_is_an_error():
    with pytest.raises(ReaderError, match="reader processes died 12 times over the same piece of work"):
        WorkerPool(ReadOptions(workers=1)).run(os._exit, 1)


ENDS = """
import sys, time
from helpers import probe
from mlaas4hep_tf import ReadOptions
from mlaas4hep_tf.io.workers import WorkerPool
pool = WorkerPool(ReadOptions(workers=1))
print(pool.run(probe.pid))
work = [pool.submit(probe.slow, 1.0, f"{sys.argv[1]}/{number}") for number in range(60)]
time.sleep(0.5)
"""


def test_the_interpreter_ends_without_doing_what_is_queued(tmp_path):
    """It waits for the piece that a reader works on, and leaves no process behind."""
    tests = str(Path(probe.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", ENDS, str(tmp_path)], cwd=tests, capture_output=True, text=True, timeout=50, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert len(list(tmp_path.iterdir())) < 5
    assert not psutil.pid_exists(int(done.stdout))


def test_work_may_raise_any_error():
    """A RuntimeError of the work is not taken for one of the process."""
    with pytest.raises(RuntimeError, match="no fault of the process"):
        WorkerPool(ReadOptions(workers=1)).run(probe.fail)


FEW = """
import resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
from mlaas4hep_tf import RootDataset, scan
ds = RootDataset(sys.argv[1], scan(sys.argv[1], progress=False), normalize=None, batch_size=100)
print(sum(len(x) for x in ds), sum(len(x) for x in ds))
"""


@pytest.mark.slow
def test_64_descriptors_are_enough(tmp_path):
    write_files(tmp_path, [30] * 100)
    done = subprocess.run(
        [sys.executable, "-c", FEW, str(tmp_path)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stdout.split() == ["3000", "3000"], done.stderr


def test_a_closed_dev_shm_is_no_hindrance(tmp_path):
    if subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode:
        pytest.skip("no right to mount a file system here")
    (path,) = write_files(tmp_path, [30])
    script = f"mount -t tmpfs -o ro tmpfs /dev/shm && exec {sys.executable} -m mlaas4hep_tf.cli scan {path} -o {tmp_path}/specs.json"
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script], capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr


def test_a_process_that_cannot_be_started_is_told_in_one_line(tmp_path):
    (path,) = write_files(tmp_path, [30])
    script = f"""
import sys
from mlaas4hep_tf.cli import main
sys.executable, sys.argv = "/nowhere/python", ["mlaas4hep-tf", "scan", {path!r}, "-o", {str(tmp_path / "s.json")!r}]
main()
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: no reader process can be started: ")
    assert "/nowhere/python" in line


@pytest.fixture
def full_disk(tmp_path):
    place = tmp_path / "full"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", place], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("no right to mount a small file system here")
    yield place
    subprocess.run(["umount", place], check=True)


def test_a_full_disk_only_costs_the_cache(server, full_disk, folder, caplog):
    specs = quiet_scan(str(folder))
    assert_all_once(delivered(urls(*server), specs, read=ReadOptions(policy=QUICK, cache=full_disk)))


def test_the_second_epoch_comes_from_the_cache(server, folder, tmp_path):
    scheme, port = server
    with proxy(port) as between:
        named = urls(scheme, between.port)
        specs = quiet_scan(named, read=ReadOptions(cache=tmp_path / "cache"))
        ds = RootDataset(named, specs, batch_size=100, read=ReadOptions(cache=tmp_path / "cache"), keep=False)
        assert sum(len(x) for x in ds) == EVENTS
        before = between.bytes
        for _ in range(3):
            assert sum(len(x) for x in ds) == EVENTS
        # who the files are is asked again now and then, what is in them is not
        assert between.bytes - before < 0.2 * sum(p.stat().st_size for p in Path(folder).glob("*.root"))


def test_a_damaged_block_is_thrown_away(server, folder, tmp_path):
    named = urls(*server)
    specs = quiet_scan(named, read=ReadOptions(cache=tmp_path))
    blocks = list(tmp_path.glob("??/*"))
    assert blocks
    for path in blocks:
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    assert_all_once(delivered(named, specs, read=ReadOptions(cache=tmp_path)))
    blocks[0].write_bytes(b"short")
    assert_all_once(delivered(named, specs, read=ReadOptions(cache=tmp_path)))


def test_processes_share_a_cache(tmp_path):
    processes = [get_context("spawn").Process(target=sharing.put_and_get, args=(str(tmp_path),)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert not list(tmp_path.glob("??/.*"))


def test_the_block_that_was_used_longest_ago_goes_first(tmp_path):
    cache = Cache(str(tmp_path), 10 * 1000)
    for number in range(9):
        cache.put(str(number), bytes(1000))
        os.utime(cache._path(str(number)), (number, number))  # noqa: SLF001 (which file a block lies in is nobody else's)
    assert cache.get("0") is not None
    cache.put("9", bytes(1000))
    cache.evict()
    there = [number for number in range(10) if cache.get(str(number)) is not None]
    assert {0, 9} <= set(there)
    assert 1 not in there
    assert sum(p.stat().st_size for p in tmp_path.glob("??/*")) <= 10_000


def test_half_written_blocks_of_the_dead_are_swept_away(tmp_path):
    (tmp_path / "ab").mkdir()
    old, new = tmp_path / "ab" / ".1-1.part", tmp_path / "ab" / ".2-1.part"
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (0, 0))
    Cache(str(tmp_path)).evict()
    assert not old.exists()
    assert new.exists()


def test_wrong_caches(tmp_path):
    with pytest.raises(ConfigError, match="limit of a cache"):
        Cache(str(tmp_path), 0)
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="must be a folder"):
        Cache(str(tmp_path / "file"))


def test_credentials_reach_the_readers(monkeypatch):
    worker_pool = WorkerPool(ReadOptions(workers=1))
    monkeypatch.setenv("BEARER_TOKEN", "first")
    assert worker_pool.run(os.getenv, "BEARER_TOKEN") == "first"
    monkeypatch.setenv("X509_USER_PROXY", "/tmp/proxy")
    monkeypatch.delenv("BEARER_TOKEN")
    assert worker_pool.run(os.getenv, "X509_USER_PROXY") == "/tmp/proxy"
    assert worker_pool.run(os.getenv, "BEARER_TOKEN") is None


class Unreadable:
    """Can be sent and not be received."""

    def __reduce__(self):
        return int, ("no number",)


def test_work_that_cannot_be_received_is_an_error_at_once():
    with pytest.raises(ReaderError, match="could not take up its work"):
        WorkerPool(ReadOptions(workers=1)).run(len, Unreadable())
    assert WorkerPool(ReadOptions(workers=1)).run(probe.pid) > 0
