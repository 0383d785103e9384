"""Networks and servers that fail: every event comes exactly once, or the error says what is missing, in time."""

import threading
import time
from collections import Counter

import pytest
from helpers.layout import urls
from helpers.proxy import Fault, proxy
from helpers.streams import QUICK, assert_all_once, delivered, quiet_scan

from mlaas4hep_tf import ReadOptions, ReadPolicy, RootDataset
from mlaas4hep_tf.errors import MlaasError
from mlaas4hep_tf.testing import free_port, has_xrootd, http_server, xrootd_server

STALL = 900  # seconds, beyond the limit of a test: who waits for its end fails


@pytest.fixture(scope="module")
def specs(folder):
    return quiet_scan(str(folder))


@pytest.mark.slow
@pytest.mark.parametrize(
    "fault",
    [
        Fault(after=9000, reset=True, connections=3),
        Fault(after=300, reset=True, connections=2),
        Fault(after=9000, stall=STALL, connections=1),
        Fault(delay=0.02),
        Fault(after=14_000, flip=True, connections=1),
    ],
    ids=["reset in a basket", "reset at the start", "stall", "slow", "one bit flipped on the way"],
)
def test_faults_that_pass(server, fault, specs):
    scheme, port = server
    with proxy(port, fault) as between:
        assert_all_once(delivered(urls(scheme, between.port), specs, read=ReadOptions(policy=QUICK)))
        assert between.harmed


@pytest.mark.slow
def test_connection_refused_for_a_while(server, specs):
    scheme, port = server
    with proxy(port) as between:
        between.refuse()
        threading.Timer(2, between.accept).start()
        assert_all_once(delivered(urls(scheme, between.port), specs, read=ReadOptions(policy=QUICK)))


@pytest.mark.timeout(60)
def test_a_server_that_is_never_there_is_an_error_in_time(server):
    scheme, _ = server
    with pytest.raises(MlaasError, match=r"cannot read file .*f000\.root"):
        quiet_scan(
            urls(scheme, free_port()),
            read=ReadOptions(policy=ReadPolicy(request_timeout_s=1, retries=2, backoff_s=0.1)),
        )


@pytest.mark.parametrize("scheme", ["http", "root"])
def test_a_server_that_is_killed_and_comes_back(scheme, folder, specs):
    if scheme == "root" and not has_xrootd():
        pytest.skip("no XRootD server on this machine (Debian: apt-get install xrootd-server)")
    serve = http_server if scheme == "http" else xrootd_server
    port = free_port()
    down, up, done = threading.Event(), threading.Event(), threading.Event()

    def run():
        with serve(folder, port):
            up.set()
            down.wait(20)
        time.sleep(1)
        with serve(folder, port):
            done.wait(20)

    thread = threading.Thread(target=run)
    thread.start()
    up.wait(10)
    try:
        ds = RootDataset(
            urls(scheme, port),
            specs.unbound(),
            normalize=None,
            batch_size=100,
            chunk_size=1000,
            read=ReadOptions(policy=QUICK),
        )
        column = specs.vector_names.index("id")
        counts = Counter()
        for number, x in enumerate(ds):
            counts.update(int(i) for i in x[:, column].numpy())
            if number == 5:
                down.set()
                time.sleep(0.5)
        assert_all_once(counts)
    finally:
        down.set()
        done.set()
        thread.join(30)


@pytest.mark.parametrize("dead", [0, 1])
def test_one_of_two_replicas_is_dead(server, dead, specs):
    scheme, port = server
    ports = [port, port]
    ports[dead] = free_port()
    slash = "//" if scheme == "root" else "/"
    starts = [f"{scheme}://127.0.0.1:{p}{slash}" for p in ports]
    policy = ReadPolicy(request_timeout_s=2, retries=2, backoff_s=0.1, replicas={starts[0]: [starts[1]]})
    assert_all_once(delivered(urls(scheme, ports[0]), specs, read=ReadOptions(policy=policy)))


@pytest.mark.slow
def test_a_stall_that_does_not_end_goes_to_the_replica(server, specs):
    scheme, port = server
    slash = "//" if scheme == "root" else "/"
    with proxy(port, Fault(after=20_000, stall=STALL)) as between:
        places = [f"{scheme}://127.0.0.1:{p}{slash}" for p in (between.port, port)]
        policy = ReadPolicy(request_timeout_s=1, retries=2, backoff_s=0.1, replicas={places[0]: [places[1]]})
        assert_all_once(delivered(urls(scheme, between.port), specs, read=ReadOptions(policy=policy)))
