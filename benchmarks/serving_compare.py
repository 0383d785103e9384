"""The paper's load on mlaas4hep-serve and on what a user would take instead, in one run; a table and two plots.

    python benchmarks/serving_compare.py --out docs [--mlserver PATH/bin/mlserver] [--quick]

Loads: 1000 calls from 100 clients and 5000 from 200, JSON and gRPC, one row of 30 numbers a request; then 1, 10, 100
and 1000 rows a request from 8 clients.  Models: two hidden layers of 1024, and of 16.  The load generator (`serving`)
runs in this process, each server in its own, all on the same cores.  CPU is that of the server's processes in cores;
memory is their resident memory at the end of a load.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import numpy as np
import psutil
import uvloop

import serving

OURS, TWO, PLAIN = "mlaas4hep-serve", "mlaas4hep-serve, 2 processes", "mlaas4hep-serve, no batching"
USER, MLSERVER = "Starlette or servicer + signatures", "MLServer"
ROUNDS = 3
BATCHING = (
    "max_batch_size { value: 1024 } batch_timeout_micros { value: 0 } num_batch_threads { value: 1 } "
    "max_enqueued_batches { value: 200 }"
)


@dataclass(frozen=True)
class Ports:
    """Where a server listens: HTTP, gRPC (0 without), its process; MLServer's URL and body are its own."""

    http: int
    grpc: int
    process: psutil.Process
    path: str = "/v1/models/m:predict"


@dataclass(frozen=True)
class Row:
    """One measurement: times in ms, CPU in cores, memory in MiB."""

    server: str
    protocol: str
    width: int
    clients: int
    rows: int
    req_s: float
    rows_s: float
    p50: float
    p99: float
    cpu: float
    memory: float


@contextmanager
def ours(model: Path, *flags: str) -> Iterator[Ports]:
    batching = model.parent / "batching"
    batching.write_text(BATCHING)
    extra = [flag.replace("BATCHING", str(batching)) for flag in flags]
    with serving.Served(model, *extra) as server:
        yield Ports(server.rest, server.grpc, psutil.Process(server.process.pid))


@contextmanager
def user(model: Path) -> Iterator[Ports]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    command = [sys.executable, "-m", "baselines.servicer", str(model / "1")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment)
    assert process.stdout is not None
    try:
        _, http, grpc = process.stdout.readline().split()
        yield Ports(int(http), int(grpc), psutil.Process(process.pid))
    finally:
        process.terminate()
        process.wait(60)


@contextmanager
def mlserver(program: str, model: Path) -> Iterator[Ports]:
    with tempfile.TemporaryDirectory() as scratch:
        folder, port = Path(scratch), 18080
        settings = {
            "name": "m", "implementation": "mlserver_model.SavedModelRuntime", "parameters": {"uri": str(model / "1")},
            "max_batch_size": 100, "max_batch_time": 0.002,
        }  # fmt: skip
        (folder / "model-settings.json").write_text(json.dumps(settings))
        ports = {"http_port": port, "grpc_port": port + 1, "metrics_port": port + 2}
        server = {**ports, "host": "127.0.0.1", "debug": False}
        (folder / "settings.json").write_text(json.dumps({**server, "parallel_workers": 0}))
        shutil.copy(Path(__file__).parent / "baselines" / "mlserver_model.py", folder)
        clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        process = subprocess.Popen(
            [program, "start", "."], cwd=folder, env=clean, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            _wait(port, process)
            yield Ports(port, 0, psutil.Process(process.pid), "/v2/models/m/infer")
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


def _wait(port: int, process: subprocess.Popen[bytes]) -> None:
    import urllib.request

    url = f"http://127.0.0.1:{port}/v2/models/m/ready"
    for _ in range(240):
        with suppress(OSError), urllib.request.urlopen(url, timeout=5) as reply:
            if reply.status == 200:
                return
        if process.poll() is not None:
            raise RuntimeError("MLServer ended at its start")
        time.sleep(0.5)
    raise RuntimeError("MLServer does not become ready")


def measure(server: str, ports: Ports, protocol: str, width: int, clients: int, rows: int, calls: int) -> Row:
    """The round of median rate out of `ROUNDS`, after a short warm-up."""
    load: Callable[..., Any] = serving.http_load if protocol == "JSON" else serving.grpc_load
    port = ports.http if protocol == "JSON" else ports.grpc
    if ports.path.startswith("/v2"):
        load = mlserver_load
    run(load, port, rows, clients, max(clients, calls // 10))
    gc.collect()
    gc.freeze()  # as in `serving.measure`
    found = []
    for _ in range(ROUNDS):
        cpu, start = cpu_seconds(ports.process), time.perf_counter()
        times = sorted(run(load, port, rows, clients, calls))
        seconds = time.perf_counter() - start
        rate, used = len(times) / seconds, (cpu_seconds(ports.process) - cpu) / seconds
        p50, p99 = (times[int(len(times) * share)] * 1e3 for share in (0.5, 0.99))
        found.append(
            Row(server, protocol, width, clients, rows, rate, rate * rows, p50, p99, used, memory(ports.process))
        )
    return sorted(found, key=lambda row: row.req_s)[ROUNDS // 2]


def run(load: Callable[..., Any], port: int, rows: int, clients: int, calls: int) -> list[float]:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        times: list[float] = runner.run(load(port, rows, clients, calls))
        return times


async def mlserver_load(port: int, rows: int, clients: int, calls: int) -> list[float]:
    """`serving.http_load` with the body and URL of the V2 protocol."""
    data = np.random.default_rng(1).random((rows, serving.INPUTS)).round(6)
    tensor = {"name": "x", "shape": list(data.shape), "datatype": "FP32", "data": data.ravel().tolist()}
    body = json.dumps({"inputs": [tensor]}).encode()
    times: list[float] = []
    left = [calls]
    head = "POST /v2/models/m/infer HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    head += f"Content-Length: {len(body)}\r\n\r\n"

    async def client() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while left[0] > 0:
            left[0] -= 1
            start = time.perf_counter()
            writer.write(head.encode() + body)
            reply = await reader.readuntil(b"\r\n\r\n")
            if not reply.startswith(b"HTTP/1.1 200"):
                raise RuntimeError(reply)
            await reader.readexactly(int(reply.lower().split(b"content-length: ")[1].split(b"\r\n")[0]))
            times.append(time.perf_counter() - start)
        writer.close()

    await asyncio.gather(*(client() for _ in range(clients)))
    return times


def family(process: psutil.Process) -> list[psutil.Process]:
    return [process, *process.children(recursive=True)]


def cpu_seconds(process: psutil.Process) -> float:
    return sum(sum(member.cpu_times()[:2]) for member in family(process))


def memory(process: psutil.Process) -> float:
    return float(sum(member.memory_info().rss for member in family(process)) / 2**20)


def compare(folder: Path, program: str | None, *, quick: bool) -> Iterator[Row]:
    """All measurements, server by server."""
    scale = 5 if quick else 1
    batching = ("--enable_batching", "--batching_parameters_file=BATCHING")
    for width in (1024, 16):
        model = folder / f"model{width}"
        serving.export_model(model, width)
        servers: list[tuple[str, Any, Sequence[str]]] = [
            (OURS, lambda model=model: ours(model, *batching), ("JSON", "gRPC")),
            (TWO, lambda model=model: ours(model, *batching, "--processes=2"), ("JSON", "gRPC")),
            (PLAIN, lambda model=model: ours(model), ("JSON", "gRPC")),
            (USER, lambda model=model: user(model), ("JSON", "gRPC")),
        ]
        if program:
            servers.append((MLSERVER, lambda model=model: mlserver(program, model), ("JSON",)))
        for name, start, protocols in servers:
            with start() as ports:
                for protocol in protocols:
                    loads = [(100, 1, 1000), (200, 1, 5000)] if width == 1024 else [(100, 1, 1000)]
                    if name in (OURS, USER, MLSERVER):
                        loads += [(8, 1, 500), (8, 10, 500), (8, 100, 300), (8, 1000, 100)]
                    for clients, rows, calls in loads:
                        yield measure(name, ports, protocol, width, clients, rows, max(clients, calls // scale))


def table(rows: Sequence[Row]) -> str:
    lines = ["| model | clients | rows | server | protocol | req/s | rows/s | p50 ms | p99 ms | CPU cores | MiB |"]
    lines.append("|---|---|---|---|---|---|---|---|---|---|---|")
    ordered = sorted(rows, key=lambda r: (-r.width, r.clients == 8, r.clients, r.rows, r.protocol))
    lines += [
        f"| {r.width} | {r.clients} | {r.rows} | {r.server} | {r.protocol} | {r.req_s:.0f} | {r.rows_s:.0f} | "
        f"{r.p50:.1f} | {r.p99:.1f} | {r.cpu:.2f} | {r.memory:.0f} |"
        for r in ordered
    ]
    return "\n".join(lines)


def plots(rows: Sequence[Row], out: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    load = sorted((r for r in rows if r.width == 1024 and r.clients == 100), key=lambda r: r.protocol)
    figure, axes = plt.subplots(figsize=(8, 4.2), layout="constrained")
    names = [f"{r.server}\n{r.protocol}" for r in load]
    colours = ["C0" if r.server.startswith("mlaas4hep") else "C1" for r in load]
    axes.barh(names[::-1], [r.req_s for r in load][::-1], color=colours[::-1])
    axes.set_xlabel("requests/s, one row each, 100 clients, two hidden layers of 1024")
    axes.tick_params(axis="y", labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(out / "serving_load.svg")
    figure, panels = plt.subplots(1, 2, figsize=(9, 3.8), layout="constrained", sharey=True)
    for panel, width in zip(panels, (1024, 16), strict=True):
        for server in (OURS, USER, MLSERVER):
            for protocol, style in (("JSON", "o-"), ("gRPC", "s--")):
                line = sorted(
                    (r.rows, r.rows_s)
                    for r in rows
                    if (r.server, r.protocol, r.width, r.clients) == (server, protocol, width, 8)
                )
                if line:
                    colour = {OURS: "C0", USER: "C1", MLSERVER: "C2"}[server]
                    panel.plot(*zip(*line, strict=True), style, color=colour, label=f"{server}, {protocol}")
        panel.set(xscale="log", yscale="log", xlabel="rows a request", title=f"two hidden layers of {width}")
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("rows/s, 8 clients")
    panels[0].legend(fontsize=7)
    figure.savefig(out / "serving_rows.svg")


def environment(program: str | None) -> dict[str, Any]:
    packages = ("tensorflow", "uvicorn", "starlette", "grpcio", "orjson", "numpy")
    found: dict[str, Any] = {"python": platform.python_version(), "cores": os.cpu_count(), "load": os.getloadavg()}
    found |= {package: version(package) for package in packages}
    if program:
        told = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
        found["mlserver"] = told.stdout.strip()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for serving.json, serving.md and the plots")
    parser.add_argument("--mlserver", default=shutil.which("mlserver"), help="the program, of any environment")
    parser.add_argument("--quick", action="store_true", help="a fifth of the calls")
    given = parser.parse_args()
    if not given.mlserver:
        print("MLServer is left out: no program mlserver was found")
    rows = []
    before = environment(given.mlserver)
    with tempfile.TemporaryDirectory() as folder:
        for row in compare(Path(folder), given.mlserver, quick=given.quick):
            rows.append(row)
            print(json.dumps(asdict(row)), flush=True)
    given.out.mkdir(parents=True, exist_ok=True)
    told = {"environment": before, "load_after": os.getloadavg(), "rows": [asdict(row) for row in rows]}
    (given.out / "serving.json").write_text(json.dumps(told, indent=1))
    (given.out / "serving_table.md").write_text(table(rows) + "\n")
    plots(rows, given.out)


if __name__ == "__main__":
    main()
