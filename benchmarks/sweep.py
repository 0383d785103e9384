"""What reading costs against the shape of the data and of the job: the paper's figures 9 and 10, and more.

    python benchmarks/sweep.py --out docs/images                     # every sweep, some 10 minutes on two cores
    python benchmarks/sweep.py --basket 100,1000 --files 20,2000     # only these

Each point is a synthetic dataset in a temporary folder, timed in turn by `uproot.iterate` in one process, `scan`
and `RootDataset` in batches of 1024.  Leaves ``sweep.png``, ``sweep.md`` and ``sweep.json``.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from mlaas4hep_tf import DataWarning, ReadOptions, RootDataset, scan
from mlaas4hep_tf.bench.compare import PeakMemory, environment, time_iterate
from mlaas4hep_tf.io.workers import WorkerPool, default_workers
from mlaas4hep_tf.testing import write_files

WAYS = {"uproot_iterate": "#BBBBBB", "scan": "#CCBB44", "dataset_1024": "#4477AA"}
GROUPS = 4  # in which the columns are


@dataclass(frozen=True)
class Shape:
    """One dataset and how it is read.

    Attributes:
        columns: jagged branches.
        multiplicity: mean number of objects in an event.
        basket: entries per basket.
        chunk: events mixed at a time.
        entries: events of all files together.
        files: number of files.
        workers: reader processes.
    """

    columns: int = 48
    multiplicity: float = 4
    basket: int = 1000
    chunk: int = 100_000
    entries: int = 60_000
    files: int = 6
    workers: int = default_workers()


SWEEPS: Mapping[str, tuple[str, Sequence[float]]] = {
    "columns": ("jagged branches", (8, 24, 48, 96, 192)),
    "multiplicity": ("objects in an event", (1, 4, 10, 20)),
    "basket": ("entries in a basket", (50, 200, 1000, 5000, 20_000)),
    "chunk": ("events in a chunk", (2000, 10_000, 50_000, 100_000)),
    "entries": ("events", (15_000, 60_000, 240_000)),
    "files": ("files", (20, 100, 500, 2000)),
    "workers": ("reader processes", (1, 2, 4)),
}


def shape_of(sweep: str, value: float) -> Shape:
    """A sweep's point; many files are small, as they are where there are many."""
    if sweep == "files":
        return Shape(columns=8, entries=100 * int(value), basket=100, files=int(value))
    changes: dict[str, Any] = {sweep: value if sweep == "multiplicity" else int(value)}
    shape = replace(Shape(), **changes)
    return replace(shape, entries=20_000) if sweep == "columns" and value > 96 else shape


def in_fresh_process(shape: Shape, rounds: int) -> dict[str, float]:
    """`measure` in a process of its own: memory of one point must not count for the next."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(measure, shape, rounds).result()


def measure(shape: Shape, rounds: int) -> dict[str, float]:
    """Events per second of each way, seconds to the first batch, and peak memory while the dataset was read."""
    groups = {f"G{n}": max(1, shape.columns // GROUPS) for n in range(min(GROUPS, shape.columns))}
    sizes = [shape.entries * (n + 1) // shape.files - shape.entries * n // shape.files for n in range(shape.files)]
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        files = write_files(folder, sizes, groups=groups, mean=shape.multiplicity, basket=shape.basket)
        return _measure(files, shape, rounds)


def _measure(files: Sequence[str], shape: Shape, rounds: int) -> dict[str, float]:
    read = ReadOptions(workers=shape.workers)

    def scanned() -> Any:
        return scan(files, read=read, progress=False)

    specs = scanned()
    start = perf_counter()
    ds = RootDataset(files, specs, batch_size=1024, chunk_size=shape.chunk, read=read, keep=False)
    next(iter(ds))
    found = {"first_batch_s": perf_counter() - start}
    paths, names = [f"{path}:events" for path in files], [b.name for b in specs.branches]
    alone = WorkerPool(ReadOptions(workers=1))
    ways: dict[str, Callable[[], object]] = {
        "uproot_iterate": lambda: alone.run(time_iterate, paths, names),
        "scan": scanned,
        "dataset_1024": lambda: [None for _ in ds],
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            start = perf_counter()
            way()
            times[name].append(perf_counter() - start)
    with PeakMemory() as memory:
        ways["dataset_1024"]()
    found |= {name: specs.entries / median(seconds) for name, seconds in times.items()}
    return found | {"peak_rss_mb": memory.peak / 1e6}


def draw(results: Mapping[str, Mapping[float, Mapping[str, float]]]) -> Figure:
    rows = -(-len(results) // 3)
    figure = Figure(figsize=(12, 3.4 * rows))
    for number, (sweep, points) in enumerate(results.items()):
        axes = figure.add_subplot(rows, min(3, len(results)), number + 1)
        for name, color in WAYS.items():
            rates = [point[name] / 1000 for point in points.values()]
            axes.plot(list(points), rates, "o-", color=color, label=name, markersize=4)
        axes.set(xlabel=SWEEPS[sweep][0], xscale="log", yscale="log")
        axes.set_xticks(list(points), [_short(value) for value in points], minor=False)
        axes.set_xticks([], minor=True)
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.grid(visible=True, which="major", alpha=0.25)
        if number % 3 == 0:
            axes.set_ylabel("1000 events/s")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, ncols=3, loc="upper center", bbox_to_anchor=(0.5, 1.02), frameon=False)
    figure.tight_layout()
    return figure


def _short(value: float) -> str:
    return f"{value / 1000:g}k" if value >= 1000 else f"{value:g}"


def table(results: Mapping[str, Mapping[float, Mapping[str, float]]]) -> str:
    head = ["sweep", "value", *WAYS, "dataset / iterate", "first batch s", "peak MB"]
    rows = [head, ["---", *["---:"] * (len(head) - 1)]]
    for sweep, points in results.items():
        for value, point in points.items():
            rates = [f"{point[name]:,.0f}" for name in WAYS]
            ratio = f"{point['dataset_1024'] / point['uproot_iterate']:.2f}"
            rows.append([SWEEPS[sweep][0], f"{value:,g}", *rates, ratio, f"{point['first_batch_s']:.2f}",
                         f"{point['peak_rss_mb']:,.0f}"])  # fmt: skip
    return "\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for sweep, (what, values) in SWEEPS.items():
        default = ",".join(f"{v:g}" for v in values)
        parser.add_argument(f"--{sweep}", nargs="?", const=default, metavar=default, help=what)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("runs/sweep"))
    args = parser.parse_args(arguments)
    chosen = {sweep: vars(args)[sweep] for sweep in SWEEPS if vars(args)[sweep]}
    wanted = chosen or {sweep: ",".join(map(str, values)) for sweep, (_, values) in SWEEPS.items()}
    results: dict[str, dict[float, dict[str, float]]] = {}
    for sweep, values in wanted.items():
        for value in map(float, values.split(",")):
            results.setdefault(sweep, {})[value] = in_fresh_process(shape_of(sweep, value), args.rounds)
            print(f"{SWEEPS[sweep][0]} {value:g}: {results[sweep][value]}", flush=True)
    args.out.mkdir(parents=True, exist_ok=True)
    draw(results).savefig(args.out / "sweep.png", dpi=110, bbox_inches="tight")
    (args.out / "sweep.md").write_text(table(results))
    content = {"environment": environment(), "defaults": vars(Shape()), "results": results}
    (args.out / "sweep.json").write_text(json.dumps(content, indent=1) + "\n")
    print(f"{environment()}\n{args.out / 'sweep.png'}")


if __name__ == "__main__":
    main()
