"""``--processes N``: N server processes on the same ports (SO_REUSEPORT), restarted when one dies."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace

from mlaas4hep_serving.options import Options, arguments
from mlaas4hep_serving.scratch import Scratch
from mlaas4hep_serving.stopping import Stop

RESTART = 1.0  # seconds between deaths and restarts


def run(options: Options, stop: Stop) -> int:
    """Start the workers and wait for ``stop``; then they drain."""
    with Scratch() as folder, _Held(options) as ports:
        each = replace(options, port=ports[0], rest_api_port=ports[1], shared_folder=folder)
        workers = [_start(each) for _ in range(options.processes)]
        threading.Thread(target=_announce, args=(workers,), daemon=True).start()
        while not stop.wait(RESTART):
            failed = [worker for worker in workers if worker.poll() == 1]
            if len(failed) == len(workers):
                return 1  # flags or files that no restart mends; each has said why
            workers = [worker if worker.poll() is None else _start(each) for worker in workers]
        return _stop(workers, options.drain_seconds)


def _start(options: Options) -> subprocess.Popen[bytes]:
    """A worker; it ends when its standard input, which only we hold, closes (`cli._stop_with_supervisor`)."""
    command = [sys.executable, "-m", "mlaas4hep_serving", *arguments(options)]
    return subprocess.Popen(command, env=os.environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def _announce(workers: list[subprocess.Popen[bytes]]) -> None:
    told = [_told(worker) for worker in workers]
    if all(told):
        print(json.loads(told[0]), flush=True)


def _told(worker: subprocess.Popen[bytes]) -> bytes:
    """Wait until a worker listens, and says what it serves; nothing when it has ended."""
    assert worker.stdout is not None
    return worker.stdout.readline()


def _stop(workers: list[subprocess.Popen[bytes]], grace: float) -> int:
    for worker in workers:
        worker.terminate()
    end = time.monotonic() + grace + 10
    for worker in workers:
        try:
            worker.wait(max(0.1, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            worker.kill()
    ended = {worker.wait() for worker in workers} - {-signal.SIGTERM}  # its Python had not begun yet
    return max(map(abs, ended), default=0)


class _Held:
    """Sockets that are bound and never listen: they keep the ports ours while workers come and go."""

    def __init__(self, options: Options) -> None:
        self._sockets = {
            name: _bound(options.host, port)
            for name, port in (("grpc", options.port), ("rest", options.rest_api_port))
            if port
        }

    def __enter__(self) -> tuple[int, int]:
        ports = {name: held.getsockname()[1] for name, held in self._sockets.items()}
        return ports.get("grpc", 0), ports.get("rest", 0)

    def __exit__(self, *_: object) -> None:
        for held in self._sockets.values():
            held.close()


def _bound(host: str, port: int) -> socket.socket:
    held = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    held.bind((host, max(port, 0)))
    return held
