"""Load on mlaas4hep-serve: requests a second and latencies at N clients, JSON and gRPC, one row a request.

    python benchmarks/serving.py --clients 100 --requests 5000

The server runs in a process of its own, the load generator in this one, both on the same cores.  The model has two
hidden layers of 1024.  Prints one line of JSON per measurement.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import itertools
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import numpy as np
import uvloop

INPUTS = 30


def export_model(base: Path, width: int) -> None:
    """A dense network with two hidden layers, without training."""
    export_network(base, (INPUTS, width, width, 1))


def export_network(base: Path, sizes: Sequence[int]) -> None:
    """A dense network: its inputs and its layers."""
    import tensorflow as tf

    class Dense(tf.Module):  # type: ignore[misc]  # tensorflow has no type information
        def __init__(self) -> None:
            super().__init__()
            shapes = itertools.pairwise(sizes)
            self.weights = [tf.Variable(tf.random.normal(shape, stddev=shape[0] ** -0.5)) for shape in shapes]

        @tf.function(input_signature=[tf.TensorSpec([None, sizes[0]], tf.float32, name="x")])  # type: ignore[untyped-decorator]
        def __call__(self, x: Any) -> Any:
            for weight in self.weights[:-1]:
                x = tf.nn.relu(x @ weight)
            return {"score": tf.sigmoid(x @ self.weights[-1])}

    model = Dense()
    tf.saved_model.save(model, str(base / "1"), signatures=model.__call__)


def rows_of(rows: int) -> np.ndarray:
    return np.random.default_rng(1).random((rows, INPUTS), np.float32)


async def http_client(port: int, body: bytes, times: list[float], left: list[int]) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = f"POST /v1/models/m:predict HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    while left[0] > 0:
        left[0] -= 1
        start = time.perf_counter()
        writer.write(head + body)
        reply = await reader.readuntil(b"\r\n\r\n")
        if not reply.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(reply)
        length = int(reply.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        await reader.readexactly(length)
        times.append(time.perf_counter() - start)
    writer.close()


async def grpc_load(port: int, rows: int, clients: int, count: int) -> list[float]:
    import grpc.aio
    import tensorflow as tf
    from tensorflow_serving.apis.predict_pb2 import PredictRequest

    request = PredictRequest()
    request.model_spec.name = "m"
    request.inputs["x"].CopyFrom(tf.make_tensor_proto(rows_of(rows)))
    sent = request.SerializeToString()
    times: list[float] = []
    left = [count]
    channels = [
        grpc.aio.insecure_channel(f"127.0.0.1:{port}", [("grpc.use_local_subchannel_pool", 1)]) for _ in range(4)
    ]

    async def client(channel: Any) -> None:
        call = channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
        while left[0] > 0:
            left[0] -= 1
            start = time.perf_counter()
            await call(sent, timeout=30)
            times.append(time.perf_counter() - start)

    await asyncio.gather(*(client(channels[i % 4]) for i in range(clients)))
    for channel in channels:
        await channel.close()
    return times


async def http_load(port: int, rows: int, clients: int, count: int) -> list[float]:
    body = json.dumps({"instances": rows_of(rows).round(6).tolist()}).encode()
    times: list[float] = []
    left = [count]
    await asyncio.gather(*(http_client(port, body, times, left) for _ in range(clients)))
    return times


def measure(
    load: Callable[..., Coroutine[Any, Any, list[float]]], port: int, rows: int, clients: int, count: int
) -> dict[str, Any]:
    """One run after a short warm-up: req/s, rows/s, p50 and p99 in milliseconds."""

    def run(n: int) -> list[float]:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(load(port, rows, clients, n))

    run(max(200, count // 10))
    gc.freeze()  # TensorFlow's modules are not walked while the clock runs
    start = time.perf_counter()
    times = sorted(run(count))
    seconds = time.perf_counter() - start
    rate = len(times) / seconds
    cuts = statistics.quantiles(times, n=100)
    return {
        "req_s": round(rate),
        "rows_s": round(rate * rows),
        "p50": round(cuts[49] * 1e3, 1),
        "p99": round(cuts[98] * 1e3, 1),
    }


class Served:
    """A server process."""

    def __init__(self, base: Path, *flags: str) -> None:
        command = [sys.executable, "-m", "mlaas4hep_serving", "--model_name=m", f"--model_base_path={base}"]
        command += ["--port=-1", "--rest_api_port=-1", *flags]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if "listens" not in line:
            raise RuntimeError(f"the server did not start: {line!r}")
        self.grpc, self.rest = (int(part.rsplit(":", 1)[1]) for part in line.strip().split(", "))

    def __enter__(self) -> Served:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=100)
    parser.add_argument("--requests", type=int, default=5000)
    parser.add_argument("--rows", type=int, nargs="+", default=[1])
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--flags", nargs="*", default=[""], help="sets of server flags, each one string")
    parser.add_argument("--protocols", nargs="+", default=["json", "grpc"])
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder) / "model"
        export_model(base, given.width)
        batching = Path(folder) / "batching"
        batching.write_text(
            "max_batch_size { value: 1024 } batch_timeout_micros { value: 0 } num_batch_threads { value: 1 } "
            "max_enqueued_batches { value: 100 }"
        )
        for flags in given.flags:
            extra = flags.replace("BATCHING", f"--enable_batching --batching_parameters_file={batching}").split()
            with Served(base, *extra) as server:
                for rows in given.rows:
                    for protocol in given.protocols:
                        load, port = (http_load, server.rest) if protocol == "json" else (grpc_load, server.grpc)
                        found = measure(load, port, rows, given.clients, given.requests)
                        print(
                            json.dumps(
                                {"flags": flags, "protocol": protocol, "clients": given.clients, "rows": rows, **found}
                            ),
                            flush=True,
                        )


if __name__ == "__main__":
    main()
