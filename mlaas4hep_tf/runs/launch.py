"""Starts the processes of a training on this machine, and ends all of them when one ends."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence

_START = "from mlaas4hep_tf.cli import main; main()"
_POLL_S, _PATIENCE_S = 0.1, 3.0


def typed(arguments: Sequence[str]) -> list[str]:
    """What the user gave: without what `launch` adds."""
    added = len(arguments) > 4 and (arguments[-4], arguments[-2]) == ("--coordinator", "--process-id")
    return [*arguments[:-4]] if added else [*arguments]


def launch(arguments: Sequence[str], count: int) -> int:
    """Run `mlaas4hep-tf` with these arguments in `count` processes; the exit status of the first that fails, or 0."""
    address = f"127.0.0.1:{free_port()}"
    environment = os.environ | {"KERAS_BACKEND": "jax"}
    children = [
        subprocess.Popen(
            [sys.executable, "-c", _START, *arguments, "--coordinator", address, "--process-id", str(number)],
            env=environment, stdin=subprocess.DEVNULL, stdout=None if number == 0 else subprocess.DEVNULL,
        )
        for number in range(count)
    ]  # fmt: skip
    try:
        return _watch(children)
    except KeyboardInterrupt:  # which the first of them got too: it writes a checkpoint
        return _status_of(children[0])
    finally:
        for child in children:
            child.kill()
            child.wait()


def _watch(children: Sequence[subprocess.Popen[bytes]]) -> int:
    """Wait until all have ended, or one has failed."""
    while True:
        ended = [child.poll() for child in children]
        failed = next((n for n, status in enumerate(ended) if status), None)
        if failed is not None:
            print(
                f"process {failed} of {len(children)} ended with status {ended[failed]}, and so do the others; "
                "the same command with --resume goes on",
                file=sys.stderr,
            )
            return 1
        if all(status == 0 for status in ended):
            return 0
        time.sleep(_POLL_S)


def _status_of(first: subprocess.Popen[bytes]) -> int:
    try:
        return first.wait(_PATIENCE_S)
    except subprocess.TimeoutExpired:
        return 128 + signal.SIGINT


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
