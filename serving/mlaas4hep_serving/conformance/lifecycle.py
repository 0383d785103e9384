"""What the sentences of lifecycle cases do: folders come and go, a server starts, its versions are watched."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
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
from mlaas4hep_serving.conformance.compare import Failed, check, equal
from mlaas4hep_serving.errors import ServingError
from mlaas4hep_serving.models.versions import State

PATIENCE = 20.0  # seconds until something must have happened
POLL = 0.1
NAME = "default"
_START = r"^start with "
_POLICIES = {"all": "all {}"}


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

    def steps(self) -> list[tuple[str, Callable[..., None]]]:
        """Rules of the steps."""
        return [
            (_START + r"model_config_file ?\{(.+)\}", self._start_models),
            (_START + r'file "(.*)"', self._start_broken),
            (_START + "empty base_path", self._start_empty),
            (r"^--(\w+)=(\S+)$", self._flag),
            (r"^rewrite config", self._rewrite),
            (r"^(?:copy version|add v) ?(\d+)", self._add),
            (r"^dirs? ([\w,]+)$", self._dirs),
            (r"^policy (\w+) ?(?:\{([\d, ]*)\})?", self._set_policy),
            (r"^versions ([\d,]+) on disk, (\d+) served", self._serve_on_disk),
            (r"^rm -r (\d+)", self._remove),
            (r"^serve v(\d+) under load", self._serve_under_load),
            (r"tf_serving_warmup_requests", self._warm),
        ]

    def expectations(self) -> list[tuple[str, Callable[..., None]]]:
        """Rules of the expectations."""
        return [
            (r"^predict (\w+)\(([\d.]+)\) ?= ?([\d.]+)", self._predicts),
            (r"^still serves (\w+)", lambda name: self._predicts(name, "2.0", "3.0")),
            (r"^predict ok", lambda: self._predicts(NAME, "2.0", "3.0")),
            (r"^process exits non-zero", self._exited),
            (r'^stderr contains "(.*)"', self._said),
            (r"^(?:only )?(?:versions? )?([\d ,]+(?:and \d+)?)(?: \(int64\))? AVAILABLE", self._available),
            (r"^version becomes AVAILABLE", lambda: self._available(str(self._last))),
            (r"^v(\d+) is loaded then v(\d+) unloaded", self._swapped),
            (r"^no NOT_FOUND during swap", lambda: self._load_fine()),
            (r"^v(\d+) loaded BEFORE v(\d+) is unloaded", self._swapped),
            (r"^after swap Latest\(\)=v(\d+), status lists v(\d+) END and v(\d+) AVAILABLE", self._after_swap),
            (r"non-numeric child ignored", lambda: self._available(None)),
            (r"^replayed before AVAILABLE", self._warmed),
            (r'^>(\d+) records -> load error "(.*)"', self._too_warm),
        ]

    def start(self) -> None:
        """Start the server, unless it runs (or was meant to fail)."""
        if self._server or self._process:
            return
        if self._bases == {NAME: self._base} and not any(self._base.iterdir()):
            self._add("1")
        self._serve()

    def _serve(self) -> None:
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

    def _start_models(self, names: str) -> None:
        self._bases = {}
        for name in re.split(r", ?", names):
            self._bases[name] = self._home / name
            servers.exporter(name)(self._bases[name] / "1")

    def _start_empty(self) -> None:
        self._serve()

    def _start_broken(self, text: str) -> None:
        self._config.write_text(text)
        command = [sys.executable, "-m", "mlaas4hep_serving", f"--model_config_file={self._config}"]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        self._process = subprocess.run(
            command, capture_output=True, text=True, timeout=60, env=environment, check=False
        )

    def _flag(self, name: str, value: str) -> None:
        self._flags[name] = servers._typed(name, value)

    def _rewrite(self) -> None:
        if not self._server:
            self._start_models("half_plus_two")
            self.start()
        self._start_models("half_plus_three")
        self._write_config()
        time.sleep(1.2)

    def _add(self, version: str) -> None:
        template = self._home / "template"
        if not template.exists():
            fixtures.half_plus_two(template)
        shutil.copytree(template, self._base / version)
        self._last = int(version)

    def _dirs(self, names: str) -> None:
        for name in names.split(","):
            if name.isdigit():
                self._add(name)
            else:
                (self._base / name).mkdir()

    def _set_policy(self, kind: str, numbers: str | None) -> None:
        listed = [int(n) for n in re.findall(r"\d+", numbers or "")]
        if kind == "specific":
            self._policy = "specific { " + " ".join(f"versions: {n}" for n in listed) + " }"
        elif kind == "latest":
            self._policy = f"latest {{ num_versions: {listed[0] if listed else 1} }}"
        elif kind in _POLICIES:
            self._policy = _POLICIES[kind]
        else:
            raise Failed(f"policy is not understood: {kind}")

    def _serve_on_disk(self, names: str, served: str) -> None:
        self._dirs(names)
        self.start()
        self._available(served)

    def _remove(self, version: str) -> None:
        shutil.rmtree(self._base / version)

    def _serve_under_load(self, version: str) -> None:
        self._add(version)
        self.start()
        self._available(version)
        self._load = _Load(self._endpoint.grpc)

    def _warm(self) -> None:
        folder = fixtures.saved_model_counter(self._base / "1")
        _write_warmup(folder, 3)

    # expectations

    def _predicts(self, name: str, x: str, y: str) -> None:
        request = _request(name, float(x))
        with grpc.insecure_channel(self._endpoint.grpc) as channel:
            response = prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict(request, timeout=PATIENCE)
        equal(float(y), response.outputs["y"].float_val[0], f"{name}({x})")

    def _exited(self) -> None:
        check(self._process is not None and self._process.returncode != 0, "the process did not fail")

    def _said(self, text: str) -> None:
        stderr = self._process.stderr if self._process else ""
        check(text in stderr, f"expected {text!r} in stderr {stderr!r}")

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

    def _available(self, names: str | None) -> None:
        if names is None:
            names = ",".join(child.name for child in self._base.iterdir() if child.name.isdigit())
        wanted = {int(n) for n in re.findall(r"\d+", names)}
        self._wait(
            lambda states: {n for n, state in states.items() if state is State.AVAILABLE} == wanted,
            f"{wanted} AVAILABLE",
        )

    def _swapped(self, new: str, old: str) -> None:
        self._watched.clear()
        self._wait(
            lambda states: states.get(int(new)) is State.AVAILABLE and states.get(int(old)) is State.END,
            f"v{new} AVAILABLE and v{old} END",
        )
        check(all(self._watched), f"for a moment nothing was available: {self._watched}")

    def _load_fine(self) -> None:
        check(self._load is not None, "nothing was under load")
        assert self._load is not None
        self._wait(lambda states: State.END in states.values(), "the swap")
        self._load.stop()
        check(not self._load.errors, f"requests failed: {self._load.errors[:3]}")
        check(len(self._load.versions) > 1, f"answers came only from {self._load.versions}")

    def _after_swap(self, latest: str, old: str, new: str) -> None:
        with self._server.repository.use(_request(NAME, 1.0).model_spec) as version:
            equal(int(latest), version.number, "Latest()")
        states = self._states()
        equal([State.END, State.AVAILABLE], [states[int(old)], states[int(new)]], "states")

    def _warmed(self) -> None:
        request = PredictRequest()
        request.model_spec.name, request.model_spec.signature_name = NAME, "get_counter"
        with grpc.insecure_channel(self._endpoint.grpc) as channel:
            response = prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict(request, timeout=PATIENCE)
        equal(3.0, response.outputs["output"].float_val[0], "warm-up requests that were run")

    def _too_warm(self, most: str, text: str) -> None:
        folder = fixtures.saved_model_counter(self._home / "warm")
        _write_warmup(folder, int(most) + 1)
        shutil.move(folder, self._base / "2")
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            errors = [
                error.message for number, _, error in self._server.repository.status(NAME) if error and number == 2
            ]
            if errors:
                check(text in errors[0], f"expected {text!r}, got {errors[0]!r}")
                return
            time.sleep(0.02)
        raise Failed("no load error")


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
