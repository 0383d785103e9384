"""Versions come and go every second under constant load; and resident memory over many reloads.

    python benchmarks/reload.py --seconds 60
    python benchmarks/reload.py --reloads 100

No request may fail, and each answer must belong to a version that was available: version n answers 0.5 * x + n.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
import threading
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import grpc
import psutil
from mlaas4hep_serving.conformance import fixtures
from mlaas4hep_serving.options import Options
from mlaas4hep_serving.server import Server
from tensorflow.core.framework import types_pb2
from tensorflow.core.framework.tensor_pb2 import TensorProto
from tensorflow_serving.apis import prediction_service_pb2_grpc
from tensorflow_serving.apis.predict_pb2 import PredictRequest


@dataclass
class Seen:
    """What the clients saw."""

    answers: int = 0
    versions: set[int] = field(default_factory=set)
    errors: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


def request(x: float) -> PredictRequest:
    message = PredictRequest()
    message.model_spec.name = "default"
    message.inputs["x"].CopyFrom(TensorProto(dtype=types_pb2.DT_FLOAT, float_val=[x]))
    message.inputs["x"].tensor_shape.dim.add().size = 1
    return message


def client(address: str, stop: threading.Event, available: set[int], seen: Seen) -> None:
    with grpc.insecure_channel(address) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        while not stop.is_set():
            try:
                response = stub.Predict(request(2.0), timeout=30)
            except grpc.RpcError as error:
                seen.errors.append(f"{error.code().name} {error.details()}")
                continue
            version, value = response.model_spec.version.value, response.outputs["y"].float_val[0]
            seen.answers += 1
            seen.versions.add(version)
            if version not in available or value != 1.0 + version:
                seen.wrong.append(f"{value} from version {version}, of {sorted(available)}")


def under_load(seconds: float, clients: int = 4, interval: float = 1.0, *, batching: bool = True) -> Seen:
    """Add the next version and remove the oldest every ``interval`` seconds, with ``clients`` asking all the time."""
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder) / "model"
        fixtures.half_plus_two(base / "1", b=1.0)
        options = Options(port=-1, rest_api_port=0, model_base_path=str(base), enable_batching=batching)
        server = Server(replace(options, file_system_poll_wait_seconds=0.1))
        stop, seen, offered = threading.Event(), Seen(), {1}
        address = f"127.0.0.1:{server.grpc_port}"
        threads = [threading.Thread(target=client, args=(address, stop, offered, seen)) for _ in range(clients)]
        for thread in threads:
            thread.start()
        number, end = 1, time.monotonic() + seconds
        while time.monotonic() < end:
            start = time.monotonic()
            number += 1
            offered.add(number)
            fixtures.half_plus_two(Path(folder) / "next", b=float(number)).rename(base / str(number))
            if number > 2:
                shutil.rmtree(base / str(number - 2))
            time.sleep(max(0.0, interval - (time.monotonic() - start)))
        stop.set()
        for thread in threads:
            thread.join()
        server.stop()
        return seen


def memory(reloads: int) -> list[float]:
    """Resident memory in MiB after each of ``reloads`` new versions, each asked once."""
    process, found = psutil.Process(), []
    with tempfile.TemporaryDirectory() as folder:
        base, template = Path(folder) / "model", Path(folder) / "template"
        fixtures.half_plus_two(template)
        shutil.copytree(template, base / "1")
        server = Server(Options(port=0, rest_api_port=0, model_base_path=str(base), file_system_poll_wait_seconds=0))
        for number in range(2, reloads + 2):
            shutil.copytree(template, base / str(number))
            shutil.rmtree(base / str(number - 1))
            server.repository.poll()
            response = server.handlers.predict(request(2.0))
            if response.model_spec.version.value != number:
                raise RuntimeError(f"version {number} does not answer")
            found.append(process.memory_info().rss / 2**20)
        server.stop()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=0)
    parser.add_argument("--reloads", type=int, default=0)
    given = parser.parse_args()
    if given.seconds:
        seen = under_load(given.seconds)
        counts = {"answers": seen.answers, "versions": len(seen.versions)}
        print(json.dumps({"seconds": given.seconds, **counts, "errors": seen.errors[:5], "wrong": seen.wrong[:5]}))
    if given.reloads:
        found = memory(given.reloads)
        marks = {str(n): round(found[n - 1], 1) for n in (1, 10, 20, 50, 100, len(found)) if n <= len(found)}
        print(json.dumps({"reloads": given.reloads, "resident_MiB_after": marks}))


if __name__ == "__main__":
    main()
