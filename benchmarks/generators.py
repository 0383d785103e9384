"""Load generators in C: ``wrk`` (HTTP) and ``h2load`` (HTTP and gRPC with a prepared body), Debian's packages
wrk and nghttp2-client.

A closed loop has so many clients, each of which asks again when it has its answer; an open one sends at a rate,
whatever the answers take, by as many clients as requests a second, so that none waits for its own answer before it asks
again.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

_MILLISECONDS = {"us": 1e-3, "ms": 1.0, "s": 1e3}
_WARM = 0.3  # seconds that do not count
_SPREAD = 50  # parts of a second over which an open loop's clients begin


@dataclass(frozen=True)
class Load:
    """What came of a load: answers a second, and how long they took in ms."""

    rate: float
    p50: float
    p99: float


@dataclass(frozen=True)
class Ask:
    """One request, sent again and again: a POST of ``body``, over HTTP 1.1 or as gRPC."""

    url: str
    body: bytes
    grpc: bool = False


def closed(ask: Ask, clients: int, seconds: int) -> Load:
    """As many answers as the server gives to so many clients.

    Raises:
        RuntimeError: an answer that is no success.
    """
    if ask.grpc:
        return _h2load(ask, "-c", str(clients), "-m", "1", "-D", str(seconds))
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "post.lua"
        (Path(folder) / "body").write_bytes(ask.body)
        script.write_text(f'wrk.method = "POST"\nwrk.body = io.open("{folder}/body", "rb"):read("*a")\n')
        command = [
            "wrk",
            "-t1",
            f"-c{clients}",
            f"-d{seconds}s",
            "--timeout=30s",
            "--latency",
            f"-s{script}",
            ask.url,
        ]
        told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    if "Non-2xx" in told or "Socket errors" in told:
        raise RuntimeError(told)
    p50, p99 = (_found(rf"{share}%\s+([\d.]+)(us|ms|s)", told) for share in (50, 99))
    return Load(_found(r"Requests/sec:\s+([\d.]+)", told), p50, p99)


def opened(ask: Ask, rate: float, seconds: int) -> Load:
    """The same number of requests every second.

    Raises:
        RuntimeError: an answer that is no success.
    """
    clients = max(_SPREAD, round(rate / _SPREAD) * _SPREAD)
    spread = ["-r", str(clients // _SPREAD), "--rate-period", f"{1000 // _SPREAD}ms"]
    return _h2load(ask, "-c", str(clients), "-n", str(clients * seconds), "--rps", "1", *spread)


def _found(pattern: str, told: str) -> float:
    match = re.search(pattern, told)
    if match is None:
        raise RuntimeError(f"{pattern} is not in {told}")
    return float(match[1]) * _MILLISECONDS.get(match[2] if match.re.groups > 1 else "", 1.0)


def _h2load(ask: Ask, *how: str) -> Load:
    with tempfile.TemporaryDirectory() as folder:
        body, log = Path(folder) / "body", Path(folder) / "log"
        body.write_bytes(b"\0" + len(ask.body).to_bytes(4, "big") + ask.body if ask.grpc else ask.body)
        kind = ["-H", "content-type: application/grpc", "-H", "te: trailers"] if ask.grpc else ["--h1"]
        command = ["h2load", "-d", str(body), "--log-file", str(log), *how, *kind, ask.url]
        told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        answers = [[int(part) for part in line.split("\t")] for line in log.read_text().splitlines()]
    if not answers or any(status != 200 for _, status, _ in answers):
        raise RuntimeError(told)
    begin = min(start for start, *_ in answers) + _WARM * 1e6
    answers = [answer for answer in answers if answer[0] >= begin]
    ends = [start + took for start, _, took in answers]
    seconds = (max(ends) - begin) / 1e6
    times = sorted(took / 1e3 for *_, took in answers)
    return Load(len(times) / seconds, times[len(times) // 2], times[int(len(times) * 0.99)])
