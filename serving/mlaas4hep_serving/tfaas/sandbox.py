"""A stranger's model is looked through and run once in a confined process (`trial`).

What crashes, hangs or fills the memory, in the look or in the run, does so there.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import threading
from pathlib import Path

from google.protobuf.message import DecodeError
from tensorflow.core.protobuf.meta_graph_pb2 import MetaGraphDef

from mlaas4hep_serving.errors import Code, ServingError, failed_precondition, invalid_argument
from mlaas4hep_serving.scratch import Scratch
from mlaas4hep_serving.tfaas.confine import LIMITS, Limits, command, environment

_LARGEST_TOLD = 4 << 20  # bytes of signatures, which this process reads
_PATIENCE = 5.0  # seconds to read what a process that has ended has said
_LONGEST = 500  # characters of the reason that a client is told


def run(folder: Path, limits: Limits = LIMITS) -> MetaGraphDef:
    """Check the version in ``folder``, load it and run its default signature on one row, elsewhere.

    Returns:
        Its signatures, and nothing else.

    Raises:
        ServingError: PERMISSION_DENIED, INVALID_ARGUMENT, what `graphscan.check` refuses; FAILED_PRECONDITION, how the
            run failed.
    """
    with Scratch() as scratch:
        out, told = os.pipe()
        process = subprocess.Popen(
            command("trial", folder, scratch, told, limits), pass_fds=[told], env=environment(scratch), cwd=scratch,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        os.close(told)
        answer = _Answer(out)
        try:
            _, errors = process.communicate(timeout=limits.seconds)
        except subprocess.TimeoutExpired:
            raise failed_precondition(f"the model took longer than {limits.seconds:g} s to load and run once") from None
        finally:
            _end(process)
    if process.returncode:
        raise failed_precondition(f"the model cannot be loaded and run: {_reason(process.returncode, errors)}")
    return answer.signatures()


class _Answer:
    """What the process says in a pipe, read as it comes: it says no more than fits."""

    def __init__(self, pipe: int) -> None:
        self._said = b""
        self._thread = threading.Thread(target=self._read, args=[pipe], name="trial", daemon=True)
        self._thread.start()

    def _read(self, pipe: int) -> None:
        with open(pipe, "rb") as file:
            self._said = file.read(_LARGEST_TOLD + 1)

    def signatures(self) -> MetaGraphDef:
        """The signatures; or the refusal is raised."""
        self._thread.join(_PATIENCE)
        kind, said = self._said[:1], self._said[1:]
        if len(self._said) > _LARGEST_TOLD:
            raise invalid_argument(f"the model's signatures take more than {_LARGEST_TOLD} bytes")
        try:
            if kind == b"S":
                return MetaGraphDef.FromString(said)
            refusal = json.loads(said)
            refused = ServingError(Code(refusal["code"]), str(refusal["message"])[:_LONGEST])
        except (DecodeError, ValueError, KeyError, TypeError):  # the model has got hold of the process
            raise failed_precondition("the model cannot be loaded and run: its trial says nothing") from None
        raise refused


def _end(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _reason(status: int, errors: bytes) -> str:
    if status < 0:
        return f"it died of {signal.Signals(-status).name}"
    lines = errors.decode("utf-8", "replace").strip().splitlines()
    return lines[-1][:_LONGEST] if lines else f"exit status {status}"
