"""``python -m mlaas4hep_serving.tfaas.sandbox``: a stranger's model run once, in a process that may do little.

`run` starts that process: its own session, an empty environment and working folder, limits on memory, processor time,
file sizes and real time.  What crashes, hangs or fills the memory does so there.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlaas4hep_serving.errors import ServingError, failed_precondition

_LONGEST = 500  # characters of the reason that a client is told
_LARGEST_FILE = 1 << 16  # bytes; some libraries write a probe into the temporary folder


@dataclass(frozen=True)
class Limits:
    """Seconds of real and of processor time, bytes of memory."""

    seconds: float = 120
    cpu_seconds: int = 120
    memory: int = 8 << 30


LIMITS = Limits()


def run(folder: Path, limits: Limits) -> None:
    """Load the version in ``folder`` and run its default signature on one row, elsewhere.

    Raises:
        ServingError: FAILED_PRECONDITION, how it failed.
    """
    environment = {"PATH": os.defpath, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "HOME": "/nonexistent"}
    environment |= {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "", "PYTHONDONTWRITEBYTECODE": "1"}
    with tempfile.TemporaryDirectory(prefix="mlaas4hep-serving-") as scratch:
        process = subprocess.Popen(
            [sys.executable, "-m", "mlaas4hep_serving.tfaas.sandbox", os.fspath(folder.resolve()), *_numbers(limits)],
            env=environment | {"TMPDIR": scratch}, cwd=scratch, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        try:
            _, errors = process.communicate(timeout=limits.seconds)
        except subprocess.TimeoutExpired:
            raise failed_precondition(f"the model took longer than {limits.seconds:g} s to load and run once") from None
        finally:
            _end(process)
    if process.returncode:
        raise failed_precondition(f"the model cannot be loaded and run: {_reason(process.returncode, errors)}")


def _numbers(limits: Limits) -> list[str]:
    return [str(limits.cpu_seconds), str(limits.memory)]


def limit(cpu_seconds: int, memory: int) -> None:
    """Take from this process what the model shall not have."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds))
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_FSIZE, (_LARGEST_FILE, _LARGEST_FILE))
    os.umask(0o077)


def _end(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _reason(status: int, errors: bytes) -> str:
    if status < 0:
        return f"it died of {signal.Signals(-status).name}"
    lines = errors.decode("utf-8", "replace").strip().splitlines()
    return lines[-1][:_LONGEST] if lines else f"exit status {status}"


def main(folder: Path) -> int:
    """Load and run once; the last line of stderr is the reason of a failure."""
    from mlaas4hep_serving.models.savedmodel import SavedModel, SessionOptions
    from mlaas4hep_serving.wire.tensors import DEFAULT_SIGNATURE, numpy_dtype

    try:
        model = SavedModel(folder, SessionOptions(intra_op=1, inter_op=1))
        if DEFAULT_SIGNATURE not in model.signatures:
            raise failed_precondition(f"it has no signature {DEFAULT_SIGNATURE}")
        signature = model.signatures[DEFAULT_SIGNATURE]
        inputs, outputs = list(signature.inputs.values()), list(signature.outputs.values())
        values = [_zeros(info, numpy_dtype(info.dtype)) for info in inputs]
        model.run([info.name for info in inputs], values, [info.name for info in outputs])
    except ServingError as error:
        print(" ".join(error.message.split()), file=sys.stderr)
        return 1
    return 0


def _zeros(info: Any, kind: Any) -> Any:
    import numpy as np  # here: `run` does without

    shape = [1 if dim.size < 0 else dim.size for dim in info.tensor_shape.dim]
    return np.full(shape, b"", object) if kind is object else np.zeros(shape, kind)


if __name__ == "__main__":
    limit(int(sys.argv[2]), int(sys.argv[3]))
    sys.exit(main(Path(sys.argv[1])))
