"""The layer ``lifecycle``: folders come and go, a server starts, its versions are watched."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import grpc
import tensorflow as tf
from tensorflow.core.framework import types_pb2
from tensorflow.core.framework.tensor_pb2 import TensorProto
from tensorflow_serving.apis import prediction_service_pb2_grpc
from tensorflow_serving.apis.predict_pb2 import PredictRequest
from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog

from mlaas4hep_serving.conformance import fixtures, servers
from mlaas4hep_serving.conformance.compare import Case, Failed, NotRun, check, equal
from mlaas4hep_serving.conformance.steps import Table, follow, validate
from mlaas4hep_serving.errors import ServingError
from mlaas4hep_serving.models.versions import State

PATIENCE = 20.0  # seconds until something must have happened
POLL = 0.1
NAME = "default"


class Life:
    """One lifecycle case."""

    def __init__(self) -> None:
        self._scratch = tempfile.TemporaryDirectory(prefix="lifecycle-")
        self._home = Path(self._scratch.name)
        self._base = self._home / NAME
        self._base.mkdir()
        self._bases = {NAME: self._base}
        self._policy = ""
        self._flags: dict[str, Any] = {"file_system_poll_wait_seconds": POLL}
        self._server: Any = None
        self._endpoint: Any = None
        self._process: subprocess.CompletedProcess[str] | None = None
        self._load: _Load | None = None
        self._last = 0
        self._watched: list[tuple[int, ...]] = []

    def __enter__(self) -> Life:
        return self

    def __exit__(self, *_: object) -> None:
        if self._load:
            self._load.stop()
        if self._server:
            self._server.stop()
        self._scratch.cleanup()

    def make_ready(self) -> None:
        """Start the server after the last step, unless it runs (or was meant to fail); without versions, on one."""
        if self._process:
            return
        if not self._server and self._bases == {NAME: self._base} and not any(self._base.iterdir()):
            self.add_versions(["1"])
        self.start()

    def start(self) -> None:
        """Start the server, unless it runs."""
        if self._server:
            return
        self._write_config()
        self._server, self._endpoint = servers.start(model_config_file=str(self._config), **self._flags)

    @property
    def _config(self) -> Path:
        return self._home / "models.config"

    def _write_config(self) -> None:
        policy = f"model_version_policy {{ {self._policy} }}" if self._policy else ""
        models = "".join(
            f'config {{ name: "{name}" base_path: "{base}" model_platform: "tensorflow" {policy} }}\n'
            for name, base in self._bases.items()
        )
        self._config.write_text(f"model_config_list {{\n{models}}}\n")

    # steps

    def list_models(self, models: Sequence[str]) -> None:
        """Serve version 1 of each of these models, in the place of the model ``default``."""
        self._bases = {name: self._home / name for name in models}
        for name, base in self._bases.items():
            if not base.exists():
                servers.exporter(name)(base / "1")

    def rewrite_config(self, models: Sequence[str]) -> None:
        """Write the config file again, with these models in it."""
        self.list_models(models)
        self._write_config()

    def run_process(self, config: str) -> None:
        """Run the server as a process with this text as its config file, until it ends."""
        self._config.write_text(config)
        command = [sys.executable, "-m", "mlaas4hep_serving", f"--model_config_file={self._config}"]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        self._process = subprocess.run(
            command, capture_output=True, text=True, timeout=60, env=environment, check=False
        )

    def set_flag(self, flag: str, value: Any) -> None:
        """Start the server with this flag."""
        self._flags[flag] = servers.typed(flag, value)

    def wait(self, seconds: float) -> None:
        """Do nothing for so long."""
        time.sleep(seconds)

    def add_versions(self, names: Sequence[str]) -> None:
        """Add folders: the model half_plus_two where the name is a number, an empty folder elsewhere."""
        template = self._home / "template"
        if not template.exists():
            fixtures.half_plus_two(template)
        for name in names:
            if name.isdigit():
                shutil.copytree(template, self._base / name)
                self._last = int(name)
            else:
                (self._base / name).mkdir()

    def remove_version(self, name: str) -> None:
        """Remove a version's folder."""
        shutil.rmtree(self._base / name)

    def set_policy(self, policy: str, versions: Sequence[int] = (), num_versions: int = 1) -> None:
        """Which versions are served: latest, all or specific."""
        policies = {
            "specific": "specific { " + " ".join(f"versions: {n}" for n in versions) + " }",
            "latest": f"latest {{ num_versions: {num_versions} }}",
            "all": "all {}",
        }
        if policy not in policies:
            raise NotRun(f"unknown policy {policy!r}; there are {', '.join(policies)}")
        self._policy = policies[policy]

    def start_load(self) -> None:
        """Send requests from now on, one after the other."""
        self._load = _Load(self._endpoint.grpc)

    def add_warmup(self, records: int) -> None:
        """Add version 1, a counter, with so many warm-up requests, each of which adds one to it."""
        _write_warmup(fixtures.saved_model_counter(self._base / "1"), records)

    # checks

    def predicts(self, model: str, x: float, y: float) -> None:
        """The model's answer y for x."""
        request = _request(model, x)
        with grpc.insecure_channel(self._endpoint.grpc) as channel:
            response = prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict(request, timeout=PATIENCE)
        equal(y, response.outputs["y"].float_val[0], f"{model}({x})")

    def process_fails(self) -> None:
        """The process ended with a status that is not 0."""
        check(self._process is not None and self._process.returncode != 0, "the process did not fail")

    def stderr_contains(self, contains: str) -> None:
        """What the process wrote on its standard error."""
        stderr = self._process.stderr if self._process else ""
        check(contains in stderr, f"expected {contains!r} in stderr {stderr!r}")

    def _states(self) -> dict[int, State]:
        try:
            return {number: state for number, state, _ in self._server.repository.status(NAME)}
        except ServingError:
            return {}

    def _wait(self, reached: Callable[[dict[int, State]], bool], what: str) -> None:
        end = time.monotonic() + PATIENCE
        while not reached(states := self._states()):
            self._watched.append(tuple(n for n, state in states.items() if state is State.AVAILABLE))
            check(time.monotonic() < end, f"expected {what}, got {states}")
            time.sleep(0.01)

    def available(self, versions: Sequence[int]) -> None:
        """These versions become AVAILABLE, and no others."""
        self._wait(
            lambda states: sorted(n for n, state in states.items() if state is State.AVAILABLE) == sorted(versions),
            f"{versions} AVAILABLE",
        )

    def last_added_available(self) -> None:
        """The version added last becomes AVAILABLE, and no other."""
        self.available([self._last])

    def numbers_available(self) -> None:
        """Every folder whose name is a number becomes AVAILABLE, and no other."""
        self.available([int(child.name) for child in self._base.iterdir() if child.name.isdigit()])

    def swapped(self, new: int, old: int) -> None:
        """One version is loaded before another is unloaded: at every moment there is one that answers."""
        self._watched.clear()
        self._wait(
            lambda states: states.get(new) is State.AVAILABLE and states.get(old) is State.END,
            f"v{new} AVAILABLE and v{old} END",
        )
        check(all(self._watched), f"for a moment nothing was available: {self._watched}")

    def load_unharmed(self) -> None:
        """Over a swap, no request of the load failed, and both versions answered."""
        check(self._load is not None, "nothing was under load")
        assert self._load is not None
        load = self._load
        self._wait(lambda states: State.END in states.values() and len(load.versions) > 1, "answers of both versions")
        self._load.stop()
        check(not self._load.errors, f"requests failed: {self._load.errors[:3]}")

    def latest(self, version: int) -> None:
        """A request that names no version is answered by this one."""
        with self._server.repository.use(_request(NAME, 1.0).model_spec) as found:
            equal(version, found.number, "Latest()")

    def states(self, states: Mapping[str, str]) -> None:
        """States of versions, by number."""
        found = self._states()
        equal(states, {number: getattr(found.get(int(number)), "name", None) for number in states}, "states")

    def warmed_up(self, records: int) -> None:
        """The counter has counted so many warm-up requests."""
        request = PredictRequest()
        request.model_spec.name, request.model_spec.signature_name = NAME, "get_counter"
        with grpc.insecure_channel(self._endpoint.grpc) as channel:
            response = prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict(request, timeout=PATIENCE)
        equal(records, response.outputs["output"].float_val[0], "warm-up requests that were run")

    def warmup_refused(self, records: int, error: str) -> None:
        """A new version with so many warm-up requests fails to load with this error."""
        folder = fixtures.saved_model_counter(self._home / "warm")
        _write_warmup(folder, records)
        shutil.move(folder, self._base / "2")
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            errors = [e.message for number, _, e in self._server.repository.status(NAME) if e and number == 2]
            if errors:
                check(error in errors[0], f"expected {error!r}, got {errors[0]!r}")
                return
            time.sleep(0.02)
        raise Failed("no load error")


STEPS: Table = {
    "list_models": Life.list_models,
    "set_flag": Life.set_flag,
    "set_policy": Life.set_policy,
    "add_versions": Life.add_versions,
    "add_warmup": Life.add_warmup,
    "remove_version": Life.remove_version,
    "start": Life.start,
    "run_process": Life.run_process,
    "start_load": Life.start_load,
    "rewrite_config": Life.rewrite_config,
    "await_available": Life.available,
    "wait": Life.wait,
}
CHECKS: Table = {
    "predicts": Life.predicts,
    "available": Life.available,
    "last_added_available": Life.last_added_available,
    "numbers_available": Life.numbers_available,
    "swapped": Life.swapped,
    "latest": Life.latest,
    "states": Life.states,
    "load_unharmed": Life.load_unharmed,
    "warmed_up": Life.warmed_up,
    "warmup_refused": Life.warmup_refused,
    "process_fails": Life.process_fails,
    "stderr_contains": Life.stderr_contains,
}


def run_lifecycle(case: Case) -> None:
    """Layer ``lifecycle``."""
    validate(case["steps"], "action", STEPS)
    validate(case["expect"], "check", CHECKS)
    with Life() as life:
        follow(case["steps"], "action", STEPS, life)
        life.make_ready()
        follow(case["expect"], "check", CHECKS, life)


class _Load:
    """Requests one after the other from a thread, until stopped."""

    def __init__(self, address: str) -> None:
        self.errors: list[str] = []
        self.versions: set[int] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, args=(address,), daemon=True)
        self._thread.start()

    def _work(self, address: str) -> None:
        with grpc.insecure_channel(address) as channel:
            stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
            while not self._stop.is_set():
                try:
                    response = stub.Predict(_request(NAME, 2.0), timeout=PATIENCE)
                    self.versions.add(response.model_spec.version.value)
                except grpc.RpcError as error:
                    self.errors.append(f"{error.code().name} {error.details()}")

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()


def _request(name: str, x: float) -> PredictRequest:
    request = PredictRequest()
    request.model_spec.name = name
    request.inputs["x"].CopyFrom(TensorProto(dtype=types_pb2.DT_FLOAT, float_val=[x]))
    request.inputs["x"].tensor_shape.dim.add().size = 1
    return request


def _write_warmup(folder: Path, count: int) -> None:
    log = PredictionLog()
    log.predict_log.request.model_spec.name = NAME
    log.predict_log.request.model_spec.signature_name = "incr_counter"
    extra = folder / "assets.extra"
    extra.mkdir()
    with tf.io.TFRecordWriter(str(extra / "tf_serving_warmup_requests")) as writer:
        for _ in range(count):
            writer.write(log.SerializeToString())
