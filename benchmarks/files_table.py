"""How long a dataset of a million files takes, and how much memory: table, dataset, split, first batch.

The files are the demo's, each of which is many rows of the table, so that the readers really open and read them.  Each
step is timed in a process of its own that has only loaded the specs; its peak memory includes TensorFlow, which is told
beside it.

    python benchmarks/files_table.py [--files 1000000]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from mlaas4hep_tf.files_table import FilesTable
from mlaas4hep_tf.io.lists import Texts

DATA = Path(__file__).parent / "data" / "tth"


def make(folder: Path, files: int) -> dict[str, Any]:
    """Specs of so many files, and how long their table took to be written."""
    from mlaas4hep_tf import scan

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        specs = scan(str(DATA), tree="events", exclude="isSignal,genWeight", progress=False)
    specs = replace(specs, files=repeated(specs.files, files).limited())
    start = time.perf_counter()
    specs.save(folder / "specs.json")
    (table,) = folder.glob("specs.files.*")
    return {"write s": time.perf_counter() - start, "table MB": table.stat().st_size / 1e6}


def repeated(table: FilesTable, files: int) -> FilesTable:
    """A table of so many files, which are those of another one over and over."""
    texts = table.texts("baskets")
    whole, rest = divmod(files, len(table))
    values = np.concatenate([np.tile(texts.values, whole), texts.values[: texts.ends[rest - 1] if rest else 0]])
    ends = np.cumsum(np.resize(np.diff(texts.ends, prepend=0), files))
    bare = FilesTable(table.columns | {"baskets": Texts.of([""] * len(table))}, table.branches, table.indexed)
    many = bare.take(np.arange(files) % len(table))
    return FilesTable(many.columns | {"baskets": Texts(values, ends)}, table.branches, table.indexed)


def measure(folder: Path) -> dict[str, Any]:
    """Runs in a fresh process: seconds of each step and the peak memory behind it, in MB."""
    import tensorflow as tf

    from mlaas4hep_tf import RootDataset, Specs

    tf.constant(0)
    found: dict[str, Any] = {"import MB": _peak()}
    start = time.perf_counter()

    def told(step: str) -> None:
        nonlocal start
        found[f"{step} s"], found[f"{step} MB"] = time.perf_counter() - start, _peak()
        start = time.perf_counter()

    specs = Specs.load(folder / "specs.json")
    told("load")
    ds = RootDataset(specs.files, specs, labels=[n % 2 for n in range(len(specs.files))], batch_size=1024)
    told("dataset")
    next(iter(ds))
    told("first batch")
    ds.split(0.64, 0.16, 0.20)
    told("split in three")
    return found


def _peak() -> float:
    """Of this process alone: what `getrusage` tells begins with that of the process which started it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--files", type=lambda text: int(float(text)), default=1_000_000)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        print(json.dumps(measure(given.measure)))
        return
    with tempfile.TemporaryDirectory() as folder:
        found = make(Path(folder), given.files)
        command = [sys.executable, __file__, "--measure", folder]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        found |= json.loads(done.stdout.splitlines()[-1])
    for name, value in found.items():
        print(f"{name:20} {value:10.2f}")


if __name__ == "__main__":
    main()
