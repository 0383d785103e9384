"""Tables 1 and 2 of the paper on this machine, in its columns: local files, and the same through a local XRootD server.

    python benchmarks/paper_tables.py DATA/*.root --tree events --exclude isSignal

The server is left out with a word where `xrootd` is not installed.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from time import perf_counter

from mlaas4hep_tf import RootDataset, scan
from mlaas4hep_tf.bench.compare import decompress_all, environment
from mlaas4hep_tf.io.branches import Selection
from mlaas4hep_tf.io.files import expand
from mlaas4hep_tf.io.workers import WorkerPool
from mlaas4hep_tf.streaming.open_files import inspect_files
from mlaas4hep_tf.streaming.position import BEGINNING
from mlaas4hep_tf.testing import has_xrootd, xrootd_server

PAPER_1 = {
    "macOS with local files": (1532, 1031, 2608, 11006), "macOS with remote files (BO)": (4349, 1007, 5453, 5265),
    "VM with local files": (1132, 978, 2153, 13366), "VM with remote files (BO)": (1919, 1017, 2994, 9606),
    "VM with remote files (BA)": (2136, 988, 3193, 9027), "VM with remote files (PI)": (2114, 996, 3171, 9067),
}  # fmt: skip
PAPER_2 = {
    "macOS with local files": (1101, 1156), "macOS with remote files (BO)": (1051, 1188),
    "VM with local files": (1081, 1120), "VM with remote files (BO)": (1020, 1080),
    "VM with remote files (BA)": (942, 1081), "VM with remote files (PI)": (982, 1060),
}  # fmt: skip


def measure(files: Sequence[str], tree: str, exclude: Sequence[str], rounds: int) -> tuple[int, dict[str, float]]:
    """Events, and median seconds of: reading, all of step 1, reading chunks, all of a chunk."""
    worker_pool = WorkerPool()
    selection = Selection((), tuple(exclude))
    specs = scan(files, tree, exclude=exclude, progress=False)
    ds = RootDataset(files, specs, batch_size=1024, chunk_size=100_000, keep=False)
    names = [branch.name for branch in specs.branches]
    ways: dict[str, Callable[[], object]] = {
        "reading": lambda: decompress_all(
            inspect_files(expand(files, tree), selection, worker_pool), names, worker_pool
        ),
        "step 1": lambda: scan(files, tree, exclude=exclude, progress=False),
        "chunk, reading": lambda: [None for _ in ds._stream.chunks(ds.plan, BEGINNING)],  # noqa: SLF001 (the part of a pass before TensorFlow)
        "chunk": lambda: [None for _ in ds],
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, way in ways.items():
            start = perf_counter()
            way()
            if number:
                times[name].append(perf_counter() - start)
    return specs.entries, {name: median(seconds) for name, seconds in times.items()}


def tables(measured: dict[str, tuple[int, dict[str, float]]]) -> str:
    one = ["| | reading time (s) | specs comp. time (s) | time to complete step 1 (s) | reading + specs (evts/s) |",
           "|---|---:|---:|---:|---:|"]  # fmt: skip
    two = ["| | creating a chunk (evts/s) | pre-processing a chunk (evts/s) |", "|---|---:|---:|"]
    for name, (read, computed, total, rate) in PAPER_1.items():
        one.append(f"| paper: {name} | {read:,} | {computed:,} | {total:,} | {rate:,} |")
    for name, rates in PAPER_2.items():
        two.append(f"| paper: {name} | {rates[0]:,} | {rates[1]:,} |")
    for name, (n, s) in measured.items():
        one.append(f"| **{name}** ({n:,} events) | {s['reading']:.2f} | {s['step 1'] - s['reading']:.2f} "
                   f"| {s['step 1']:.2f} | {n / s['step 1']:,.0f} |")  # fmt: skip
        two.append(f"| **{name}** | {n / s['chunk']:,.0f} | {n / (s['chunk'] - s['chunk, reading']):,.0f} |")
    return "\n".join(["Table 1", "", *one, "", "Table 2", "", *two])


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+")
    parser.add_argument("--tree", required=True)
    parser.add_argument("--exclude", default="", help="patterns, separated by commas")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args(arguments)
    exclude = [pattern for pattern in args.exclude.split(",") if pattern]
    found = {"local files": measure(args.files, args.tree, exclude, args.rounds)}
    if has_xrootd():
        with tempfile.TemporaryDirectory() as place:
            Path(place).chmod(0o755)
            for path in args.files:
                shutil.copy(path, place)
            with xrootd_server(place) as url:
                remote = [f"{url}/{Path(path).name}" for path in args.files]
                found["local XRootD server"] = measure(remote, args.tree, exclude, args.rounds)
    else:
        print("no XRootD server on this machine (Debian: apt-get install xrootd-server): its rows are left out")
    print(f"{environment()}\n\n{tables(found)}")


if __name__ == "__main__":
    main()
