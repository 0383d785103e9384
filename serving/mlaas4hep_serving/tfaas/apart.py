"""Uploaded models run apart: each in a confined process of its own (`worker`), started on demand.

A model that aborts, loops or fills the memory costs its own requests, which are UNAVAILABLE; the next one starts its
process again, after a while that grows with each such end.
"""

from __future__ import annotations

import contextlib
import logging
import os
import resource
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import psutil
from tensorflow.core.protobuf.meta_graph_pb2 import MetaGraphDef, SignatureDef
from tensorflow_serving.apis.predict_pb2 import PredictRequest, PredictResponse

from mlaas4hep_serving.errors import Code, ServingError, deadline_exceeded, unavailable
from mlaas4hep_serving.scratch import Scratch
from mlaas4hep_serving.tfaas import sandbox
from mlaas4hep_serving.tfaas.confine import LIMITS, SOCKET, Limits, command, environment
from mlaas4hep_serving.tfaas.worker import AT_ONCE, GRACE, METHOD, OWN, SERVICE
from mlaas4hep_serving.wire import sizes, tensors
from mlaas4hep_serving.wire.tensors import Array

log = logging.getLogger(__name__)
SIGNATURES = Path("assets.extra") / "signatures.binpb"
LONGEST_RUN = 60.0  # seconds, where the client does not say; the start of a process included
_LARGEST = (1 << 31) - 1
_PATIENCE = 10.0  # seconds for a process that was killed to be gone
_MOST_PATIENCE = 60.0  # seconds between an end and the next start, at most
_CHANNEL = (
    ("grpc.max_receive_message_length", _LARGEST), ("grpc.max_send_message_length", _LARGEST),
    ("grpc.initial_reconnect_backoff_ms", 50), ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 200), ("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0),
)  # fmt: skip


@dataclass(frozen=True)
class ApartOptions:
    """``--max_upload_processes`` and ``--max_tensor_bytes``."""

    processes: int = 4
    max_tensor_bytes: int = sizes.NO_LIMIT
    limits: Limits = LIMITS


class Processes:
    """The processes of all uploaded models, at most so many at a time: for another, the one least lately used ends."""

    def __init__(self, options: ApartOptions) -> None:
        self.options = options
        self._lock = threading.Lock()
        self._running: dict[Path, _Process] = {}
        self._ends: dict[Path, tuple[int, float]] = {}  # how often in a row, and when the last time

    @contextlib.contextmanager
    def use(self, folder: Path) -> Any:
        """The process of a model, started if there is none.

        Raises:
            ServingError: UNAVAILABLE, all are busy, or this one has just ended.
        """
        with self._lock:
            process = self._running.get(folder)
            if process is None or process.ended:
                self._make_room(folder)
                process = self._running[folder] = _Process(folder, self.options.limits)
            process.users += 1
            process.used = time.monotonic()
        try:
            yield process
        finally:
            with self._lock:
                process.users -= 1

    def failed(self, folder: Path, process: _Process) -> None:
        """Note that a process has ended, or has to, by its model's fault."""
        with self._lock:
            if self._running.get(folder) is process:
                del self._running[folder]
                count, _ = self._ends.get(folder, (0, 0.0))
                lived = time.monotonic() - process.started > _MOST_PATIENCE
                self._ends[folder] = (1 if lived else count + 1, time.monotonic())
        process.end()

    def end(self, folder: Path) -> None:
        """End a model's process: it is no longer served."""
        with self._lock:
            process = self._running.pop(folder, None)
            self._ends.pop(folder, None)
        if process is not None:
            process.end()
            process.join()

    def _make_room(self, folder: Path) -> None:
        count, last = self._ends.get(folder, (0, 0.0))
        wait = last + min(2.0 ** (count - 1), _MOST_PATIENCE) - time.monotonic() if count else 0.0
        if wait > 0:
            raise unavailable(f"the model has ended its process {count} times in a row; it is started in {wait:.0f} s")
        running = {key: process for key, process in self._running.items() if not process.ended and key != folder}
        if len(running) >= self.options.processes:
            idle = [key for key, process in running.items() if not process.users]
            if not idle:
                raise unavailable(f"all {self.options.processes} processes of uploaded models are busy")
            running.pop(min(idle, key=lambda key: running[key].used)).end()
        self._running = running


class _Process:
    """A worker under way."""

    def __init__(self, folder: Path, limits: Limits) -> None:
        self.users, self.used, self.started = 0, time.monotonic(), time.monotonic()
        self.ended = self.answers = False
        self._scratch = Scratch()
        out, told = os.pipe()
        self._limits = limits
        self._popen = subprocess.Popen(
            command("worker", folder, self._scratch.name, told, limits), pass_fds=[told],
            env=environment(self._scratch.name), cwd=self._scratch.name, stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        os.close(told)
        self._usage, self._renewed = psutil.Process(self._popen.pid), 0.0
        self._channel = grpc.insecure_channel(f"unix:{self._scratch.name}/{SOCKET}", _CHANNEL)
        self._run = self._channel.unary_unary(
            f"/{SERVICE}/{METHOD}", PredictRequest.SerializeToString, PredictResponse.FromString
        )
        self._watcher = threading.Thread(target=self._watch, args=[folder, out], name="upload", daemon=True)
        self._watcher.start()

    def run(self, request: PredictRequest, seconds: float) -> PredictResponse:
        """One run.

        Raises:
            grpc.RpcError: the model's, marked with `worker.OWN`, or the end of the process.
        """
        self._give_time()
        response = self._run(request, timeout=seconds, wait_for_ready=True)
        self.answers = True
        return response

    @property
    def starting(self) -> bool:
        """Not there yet: whoever cannot wait so long is no sign of a fault."""
        return not self.ended and not self.answers and time.monotonic() - self.started < self._limits.seconds

    def end(self) -> None:
        """End the process; whoever waits for it gets an error."""
        self.ended = True
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._popen.pid, signal.SIGKILL)

    def join(self) -> None:
        """Wait until nothing of it is left."""
        self._watcher.join(_PATIENCE)

    def _give_time(self) -> None:
        """The limit of processor time is that of what is asked for now, not of all there ever was."""
        now = time.monotonic()
        if now - self._renewed < 1:
            return
        self._renewed = now
        with contextlib.suppress(psutil.Error, OSError):
            used = self._usage.cpu_times()
            most = int(used.user + used.system) + self._limits.cpu_seconds * (os.cpu_count() or 1)
            resource.prlimit(self._popen.pid, resource.RLIMIT_CPU, (most, resource.RLIM_INFINITY))

    def _watch(self, folder: Path, out: int) -> None:
        """Tell what is in force, wait for the end, let nobody wait longer."""
        name = "/".join(folder.parts[-2:])
        with open(out, "rb") as told:
            in_force = told.read(4096).decode("utf-8", "replace")
        log.info("uploaded model %s runs apart in process %d: %s", name, self._popen.pid, in_force)
        status = self._popen.wait()
        self.ended = True
        self._channel.close()
        assert self._popen.stdin is not None
        self._popen.stdin.close()
        self._scratch.cleanup()
        log.info("process %d of uploaded model %s has ended: status %d", self._popen.pid, name, status)


class Apart:
    """An uploaded model as `model.Model` runs it: like `SavedModel`, elsewhere."""

    at_once = AT_ONCE

    def __init__(self, folder: Path, processes: Processes) -> None:
        self._folder, self._processes = folder, processes
        path = folder / SIGNATURES
        if not path.is_file():  # uploaded to an older server
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(sandbox.run(folder, processes.options.limits).SerializeToString())
        definition = MetaGraphDef.FromString(path.read_bytes())
        self.signatures: Mapping[str, SignatureDef] = dict(definition.signature_def)

    def run(
        self, feeds: Sequence[str], values: Sequence[Array], fetches: Sequence[str], timeout: float | None = None
    ) -> Sequence[Array]:
        """As `SavedModel.run`.

        Raises:
            ServingError: the model's own; UNAVAILABLE, its process has ended or had to be ended.
        """
        request = PredictRequest(output_filter=fetches)
        for feed, value in zip(feeds, values, strict=True):
            tensors.to_proto(value, request.inputs[feed])
        seconds = LONGEST_RUN if timeout is None else min(timeout, LONGEST_RUN)
        with self._processes.use(self._folder) as process:
            response = self._answer(process, request, seconds)
        sizes.check(sum(map(sizes.of_proto, response.outputs.values())), self._processes.options.max_tensor_bytes)
        return [tensors.from_proto(response.outputs[fetch], fetch) for fetch in fetches]

    def _answer(self, process: _Process, request: PredictRequest, seconds: float) -> PredictResponse:
        try:
            return process.run(request, seconds + GRACE)
        except grpc.RpcError as error:
            if any(key == OWN for key, _ in error.trailing_metadata() or ()):
                raise ServingError(Code(error.code().value[0]), error.details()) from None
            if process.starting and error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                raise deadline_exceeded("The process of the uploaded model is being started") from None
            self._processes.failed(self._folder, process)
            raise unavailable("the process of the uploaded model has ended, or did not answer in time") from None

    def close(self) -> None:
        """End the process."""
        self._processes.end(self._folder)
