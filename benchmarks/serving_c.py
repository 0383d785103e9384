"""The servers of `serving_compare` under load generators in C (`generators`), in alternating rounds.

    python benchmarks/serving_c.py --out docs [--mlserver PATH/bin/mlserver] [--rounds 3] [--seconds 3]

For the network with two hidden layers of 1024, 1 and 100 rows a request: closed loops of 100 clients; then open loops
at 50 % and 80 % of the slowest peer's best rate, without and with a process that keeps one core busy.  Then that
network and TFaaS's example, 100 and 200 clients.  All servers run all the time, and each round asks one after the
other, so that a machine that is shared is the same to all.  Writes serving_c.json and serving_c.md.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from generators import Ask, Load, closed, opened
from mlaas4hep_serving.messages import Row as TfaasRow
from serving_compare import MLSERVER, OURS, TWO, USER, Ports, environment, mlserver, ours, user
from tensorflow_serving.apis.predict_pb2 import PredictRequest

import serving

CLIENTS = 100
BATCHING = ("--enable_batching", "--batching_parameters_file=BATCHING")
PREDICT = "tensorflow.serving.PredictionService/Predict"
EXAMPLE = (42, 128, 128, 128, 64, 64, 1)  # inputs and layers of a network as TFaaS's documentation has it


@dataclass(frozen=True)
class Way:
    """A server and a protocol, and what it is asked."""

    server: str
    protocol: str
    ask: Ask


@dataclass(frozen=True)
class Row:
    """The median of the rounds of one way; ``offered`` is the rate of an open loop, 0 for a closed one."""

    model: str
    load: str
    server: str
    protocol: str
    rows: int
    clients: int
    offered: float
    rate: float
    p50: float
    p99: float


def ways(name: str, ports: Ports, rows: np.ndarray) -> list[Way]:
    """What a server is asked, JSON and gRPC."""
    url = f"http://127.0.0.1:{ports.http}{ports.path}"
    if name == MLSERVER:
        tensor = {"name": "x", "shape": list(rows.shape), "datatype": "FP32", "data": rows.ravel().tolist()}
        return [Way(name, "JSON", Ask(url, json.dumps({"inputs": [tensor]}).encode()))]
    request = PredictRequest(model_spec={"name": "m"})
    request.inputs["x"].CopyFrom(_tensor(rows))
    grpc = Ask(f"http://127.0.0.1:{ports.grpc}/{PREDICT}", request.SerializeToString(), grpc=True)
    body = json.dumps({"instances": rows.tolist()}).encode()
    return [Way(name, "JSON", Ask(url, body)), Way(name, "gRPC", grpc)]


def _tensor(rows: np.ndarray) -> Any:
    import tensorflow as tf

    return tf.make_tensor_proto(rows)


def tfaas_ways(name: str, ports: Ports, rows: np.ndarray) -> list[Way]:
    """TFaaS's own interfaces."""
    keys, values = [f"x{i}" for i in range(rows.shape[1])], rows[0].tolist()
    base = f"http://127.0.0.1:{ports.http}"
    body = json.dumps({"keys": keys, "values": values, "model": "m"}).encode()
    proto = TfaasRow(key=keys, value=values, model="m").SerializeToString()
    return [Way(name, "TFaaS /json", Ask(f"{base}/json", body)), Way(name, "TFaaS /proto", Ask(f"{base}/proto", proto))]


def in_turn(found: Sequence[Way], rounds: int, measure: Callable[[Way], Load]) -> Iterator[tuple[Way, Load]]:
    """The median of so many rounds, in each of which all ways have their turn."""
    told: dict[Way, list[Load]] = {way: [] for way in found}
    for _, way in itertools.product(range(rounds), found):
        told[way].append(measure(way))
    for way, loads in told.items():
        yield way, Load(*(median(getattr(load, name) for load in loads) for name in ("rate", "p50", "p99")))


@contextmanager
def second_load(wanted: bool) -> Iterator[None]:
    """A process that keeps one core busy."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if wanted else None
    try:
        yield
    finally:
        if process is not None:
            process.kill()
            process.wait()


def compare(folder: Path, given: argparse.Namespace) -> Iterator[Row]:
    """Closed loops of all servers, then open ones of those with one process."""
    model = folder / "model1024"
    serving.export_model(model, 1024)
    with ExitStack() as stack:
        running: dict[str, Ports] = {
            OURS: stack.enter_context(ours(model, *BATCHING)),
            TWO: stack.enter_context(ours(model, *BATCHING, "--processes=2")),
            USER: stack.enter_context(user(model)),
        }
        if given.mlserver:
            running[MLSERVER] = stack.enter_context(mlserver(given.mlserver, model))
        for rows in (1, 100):
            data = serving.rows_of(rows).round(6)
            found = [way for name, ports in running.items() for way in ways(name, ports, data)]
            best: dict[str, list[float]] = {"JSON": [], "gRPC": []}
            for way, load in in_turn(found, given.rounds, lambda way: closed(way.ask, CLIENTS, given.seconds)):
                yield Row("1024", "closed", way.server, way.protocol, rows, CLIENTS, 0.0, *asdict(load).values())
                if way.server in (USER, MLSERVER):
                    best[way.protocol].append(load.rate)
            if "open" not in given.skip:
                slowest = {protocol: min(rates) for protocol, rates in best.items()}
                yield from open_loops([way for way in found if way.server != TWO], slowest, rows, given)


def open_loops(found: Sequence[Way], best: dict[str, float], rows: int, given: argparse.Namespace) -> Iterator[Row]:
    """At 50 % and 80 % of the slowest peer's best, without and with a second load."""
    for busy, share in itertools.product((False, True), (0.5, 0.8)):
        name = f"open, {share:.0%}" + (", one core busy" if busy else "")

        def measure(way: Way, share: float = share) -> Load:
            return opened(way.ask, share * best[way.protocol], given.seconds)

        with second_load(busy):
            for way, load in in_turn(found, given.rounds, measure):
                offered = share * best[way.protocol]
                yield Row("1024", name, way.server, way.protocol, rows, 0, offered, *asdict(load).values())


def tfaas(folder: Path, given: argparse.Namespace) -> Iterator[Row]:
    """The paper's network for serving and that of TFaaS's documentation, one row a request, 100 and 200 clients."""
    for name, layers in (("1024, 1024", (serving.INPUTS, 1024, 1024, 1)), ("42-128-128-128-64-64-1", EXAMPLE)):
        model = folder / name.replace(", ", "-") / "m"
        serving.export_network(model, layers)
        flags = [*BATCHING, "--enable_tfaas", f"--tfaas_base_path={folder / 'uploads'}"]
        (folder / "uploads").mkdir(exist_ok=True)
        data = np.random.default_rng(1).random((1, layers[0]), np.float32).round(6)
        with ours(model, *flags) as ports:
            found = [*ways(OURS, ports, data), *tfaas_ways(OURS, ports, data)]
            for clients in (100, 200):

                def measure(way: Way, clients: int = clients) -> Load:
                    return closed(way.ask, clients, given.seconds)

                for way, load in in_turn(found, given.rounds, measure):
                    yield Row(name, "closed", way.server, way.protocol, 1, clients, 0.0, *asdict(load).values())


def table(rows: Sequence[Row]) -> str:
    """All of it, ratios to our one process in the same protocol and load last."""
    heads = [
        "model",
        "rows",
        "load",
        "clients",
        "server",
        "protocol",
        "offered/s",
        "req/s",
        "p50 ms",
        "p99 ms",
        "ours / this",
    ]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    own = {(r.model, r.rows, r.load, r.clients, r.protocol): r.rate for r in rows if r.server == OURS}
    for r in rows:
        ratio = own[r.model, r.rows, r.load, r.clients, r.protocol] / r.rate
        cells = [r.model, r.rows, r.load, r.clients or "", r.server, r.protocol, f"{r.offered:.0f}", f"{r.rate:.0f}"]
        lines.append(f"| {' | '.join(map(str, cells))} | {r.p50:.1f} | {r.p99:.1f} | {ratio:.2f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--mlserver", default=shutil.which("mlserver"), help="the program, of any environment")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=3, help="of each measurement")
    parser.add_argument("--skip", default="", help="open, tfaas")
    given = parser.parse_args()
    told, before = [], environment(given.mlserver)
    with tempfile.TemporaryDirectory() as folder:
        parts = [compare(Path(folder), given)] + ([tfaas(Path(folder), given)] if "tfaas" not in given.skip else [])
        for row in itertools.chain(*parts):
            told.append(row)
            print(json.dumps(asdict(row)), flush=True)
    given.out.mkdir(parents=True, exist_ok=True)
    found = {"environment": before, "load_after": os.getloadavg(), "rows": [asdict(row) for row in told]}
    (given.out / "serving_c.json").write_text(json.dumps(found, indent=1))
    (given.out / "serving_c.md").write_text(table(told) + "\n")


if __name__ == "__main__":
    main()
