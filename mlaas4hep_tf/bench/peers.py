"""Loaders of others beside ours in `bench`: each way in a process of its own, of the Python that `make peers` made."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mlaas4hep_tf.bench import peer
from mlaas4hep_tf.errors import MlaasError
from mlaas4hep_tf.io.files import RootFile
from mlaas4hep_tf.io.workers import default_workers
from mlaas4hep_tf.specs import Specs

PEERS = Path(".peers")  # in the working directory
WAYS = {
    "root_tensorflow": "root", "root_numpy": "root", "root_eager": "root", "weaver": "weaver",
    "f9columnar_padded": "f9columnar", "f9columnar_packed": "f9columnar",
}  # fmt: skip


def peer_ways(files: Sequence[RootFile], specs: Specs, batch: int, epochs: int) -> dict[str, Callable[[], float]]:
    """Events per second of each loader that is installed, on the branches of the specs; none for remote files.

    Args:
        epochs: that one which keeps everything in memory is timed for.
    """
    if any(file.source.remote for file in files):
        return {}
    job = job_of(files, specs, batch)
    many = {"root_eager": epochs}  # it reads nothing; an epoch of the others takes seconds
    there = {way: python for way, name in WAYS.items() if (python := _python(name)).is_file()}
    return {way: _Peer(way, python, job | {"epochs": many.get(way, 1)}) for way, python in there.items()}


def _python(name: str) -> Path:
    return (PEERS / name / "bin/python").absolute()


def job_of(files: Sequence[RootFile], specs: Specs, batch: int) -> dict[str, Any]:
    """What a peer is to read."""
    groups = {group: [branch.name for branch in members] for group, members in specs.groups.items()}
    return {
        "files": [file.source.location for file in files], "tree": files[0].tree,
        "flat": [branch.name for branch in specs.flat], "groups": groups,
        "lengths": {branch.name: branch.length for branch in specs.jagged},
        "batch": batch, "workers": default_workers(),
    }  # fmt: skip


class _Peer:
    """A way of another loader; its process starts when it is first asked and ends with this one."""

    def __init__(self, way: str, python: Path, job: dict[str, Any]) -> None:
        self._way, self._python, self._job = way, python, job
        self._process: subprocess.Popen[str] | None = None

    def __call__(self) -> float:
        process = self._process = self._process or self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("\n")
        process.stdin.flush()
        answer = process.stdout.readline()
        if not answer:
            raise MlaasError(
                f"{self._way} ended without an answer (exit status {process.wait()}); see what it says above, or "
                f"remove {PEERS}"
            )
        found = json.loads(answer)
        return float(found["events"] / found["seconds"])

    def _start(self) -> subprocess.Popen[str]:
        command = [str(self._python), "-W", "ignore", peer.__file__, self._way]
        environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )  # fmt: skip
        assert process.stdin is not None
        process.stdin.write(json.dumps(self._job) + "\n")
        return process

    def __del__(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
