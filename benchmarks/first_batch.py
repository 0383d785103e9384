"""How long the first batch of many files takes that were scanned before: files of its own, each run in a fresh process.

The import of TensorFlow does not count, the start of the reader processes does; a second dataset finds them running.

    python benchmarks/first_batch.py [--files 2000] [--events 100] [--rounds 3]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import psutil

from mlaas4hep_tf.testing import write_files

GROUPS = {"Jet": 6, "Mu": 4}  # and two counters, a flat branch and an identifier: 14 branches


def make(folder: Path, files: int, events: int) -> None:
    """Files of so many events each, and their specs."""
    from mlaas4hep_tf import scan

    paths = write_files(folder, [events] * files, groups=GROUPS)
    scan(paths, tree="events", progress=False).save(folder / "specs.json")


def measure(folder: Path) -> dict[str, float]:
    """Runs in a fresh process: seconds to the first batch, and of CPU of this process and of the readers."""
    import tensorflow as tf

    from mlaas4hep_tf import RootDataset, Specs

    tf.constant(0)
    specs = Specs.load(folder / "specs.json")
    own, start = time.process_time(), time.perf_counter()
    ds = RootDataset(specs.files, specs, batch_size=1024)
    made = time.perf_counter() - start
    next(iter(ds))
    found = {
        "of the dataset s": made, "to the first batch s": time.perf_counter() - start,
        "CPU of the training process s": time.process_time() - own,
        "CPU of the readers s": sum(sum(child.cpu_times()[:2]) for child in psutil.Process().children(recursive=True)),
    }  # fmt: skip
    again = time.perf_counter()
    next(iter(RootDataset(specs.files, specs, batch_size=1024, seed=1)))
    return found | {"once readers run s": time.perf_counter() - again}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--events", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        print(json.dumps(measure(given.measure)))
        return
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder), given.files, given.events)
        command = [sys.executable, __file__, "--measure", folder]
        runs: list[dict[str, Any]] = [
            json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
            for _ in range(given.rounds)
        ]
    for name in runs[0]:
        each = sorted(run[name] for run in runs)
        print(f"{name:32} {median(each):8.2f} ({each[0]:.2f} to {each[-1]:.2f})")


if __name__ == "__main__":
    main()
