"""Scores of many files as a folder: one part for each worker of a cluster, and a manifest that says what is where."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from mlaas4hep_tf.errors import ConfigError
from mlaas4hep_tf.io.branches import Selection
from mlaas4hep_tf.io.files import FileArgument, RootFile, expand
from mlaas4hep_tf.io.read_options import DEFAULT_READ, ReadOptions
from mlaas4hep_tf.io.workers import WorkerPool, in_own_process
from mlaas4hep_tf.io.writer import whole_file
from mlaas4hep_tf.predict import predict_files
from mlaas4hep_tf.progress import progress_bar
from mlaas4hep_tf.runs.run import Run
from mlaas4hep_tf.streaming.open_files import inspect_files

MANIFEST = "manifest.json"
_DAY_S = 86_400.0  # a part takes longer than a block


def predict_parts(
    run: Run,
    files: FileArgument,
    out: Path,
    *,
    observe: Sequence[str] = (),
    read: ReadOptions = DEFAULT_READ,
    progress: bool = False,
) -> int:
    """Scores of all events, as `predict.predict_files` has them, in ROOT files of a folder.

    With an executor each worker loads the run, which must lie where all of them see it, and writes neighbouring files'
    scores as a part of its own; a part whose worker is lost is done again.  Without one there is one part.  The
    manifest is written last: a folder without it is not complete.  It has ``files`` (url, uuid, entries; the number
    of a file in the parts is its place here) and ``parts`` (name, first_file, files, events).

    Returns:
        The number of events.

    Raises:
        MlaasError: as `predict.predict_files`.
    """
    if read.on_bad_file == "skip":
        raise ConfigError("prediction gives every event a row, so on_bad_file='skip' has no place there; take 'raise'")
    opened = inspect_files(expand(files, run.specs.tree or None), Selection((), (), ()), WorkerPool(read), progress)
    _clear(out)
    ranges = list(_ranges([file.num_entries for file in opened], getattr(read.executor, "num_workers", 1)))
    tasks = [
        (out.resolve() / f"part-{n:04d}.root", first, opened[first:stop]) for n, (first, stop) in enumerate(ranges)
    ]
    alone = replace(read, executor=None, workers=1 if read.executor else read.workers)
    work = partial(_predict_part, str(run.folder.resolve()), tuple(observe), alone)
    pool = WorkerPool(replace(read, policy=replace(read.policy, work_timeout_s=_DAY_S)))
    done = []
    with progress_bar("predict", sum(file.num_entries for file in opened), "events", progress) as advance:
        for events in pool.map(partial(in_own_process, work), tasks) if read.executor else map(work, tasks):
            done.append(events)
            advance(events)
    _write_manifest(out, run, opened, [
        {"name": path.name, "first_file": first, "files": len(part), "events": events}
        for (path, first, part), events in zip(tasks, done, strict=True)
    ])  # fmt: skip
    _clear_unfinished(out)
    return sum(done)


def _predict_part(
    folder: str, observe: Sequence[str], read: ReadOptions, task: tuple[Path, int, Sequence[RootFile]]
) -> int:
    """Scores of some files; on a cluster in a process of its own, as TensorFlow and XRootD cannot share one."""
    path, first, files = task
    run = Run.load(folder)
    named = [f"{file.source.location}:{file.tree}" for file in files]
    return predict_files(run.model, named, run, path, observe=observe, first_file=first, read=read)


def _ranges(entries: Sequence[int], parts: int) -> Iterator[tuple[int, int]]:
    """Neighbouring files [first, stop) of each part, with about as many events each."""
    ends = np.cumsum(entries)
    bounds = np.searchsorted(ends, ends[-1] * np.arange(1, parts) / parts) + 1
    cuts = sorted({0, *bounds.tolist(), len(entries)})
    return pairwise(cuts)


def _clear(out: Path) -> None:
    """Take away what an earlier prediction left."""
    _clear_unfinished(out)
    manifest = out / MANIFEST
    if manifest.exists():
        parts = json.loads(manifest.read_text())["parts"]
        manifest.unlink()
        for part in parts:
            (out / part["name"]).unlink(missing_ok=True)


def _clear_unfinished(out: Path) -> None:
    """Take away what workers that were killed were writing."""
    for path in out.glob(".part-*.part"):
        path.unlink(missing_ok=True)


def _write_manifest(out: Path, run: Run, files: Sequence[RootFile], parts: Sequence[dict[str, Any]]) -> None:
    content = {
        "run": str(run.folder),
        "fingerprint": run.specs.fingerprint,
        "tree": files[0].tree,
        "events": sum(part["events"] for part in parts),
        "files": [{"url": file.url, "uuid": file.uuid, "entries": file.num_entries} for file in files],
        "parts": list(parts),
    }
    with whole_file(out / MANIFEST) as partial_file:
        partial_file.write_text(json.dumps(content, indent=1) + "\n")
