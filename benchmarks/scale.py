"""The same epoch read here and by workers of Dask, and the same training in one process and in two.

    python benchmarks/scale.py FILE... --tree T [--exclude ...] [--workers 1 2 4] [--rounds 3]
    python benchmarks/scale.py FILE... --tree T --processes 1 2 --label '*signal*=S' --label '*=B'

Each way is timed in turn.  All run on this machine, so more workers than cores show what a cluster costs, not what it
gives.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections import defaultdict
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # workers of Dask import this module: TensorFlow is imported where it is used
    from mlaas4hep_tf import RootDataset, Specs

BATCH = 1024


def packed_bytes(ds: RootDataset) -> float:
    """Bytes per event that readers send to the training process."""
    from mlaas4hep_tf.streaming.position import Position

    chunk = next(ds._stream.chunks(ds.plan, Position(0)))  # noqa: SLF001 (what is measured lies below the public interface)
    return sum(array.nbytes for array in chunk[1:]) / len(chunk[0])


def read_everywhere(files: list[str], specs: Specs, workers: list[int], rounds: int) -> None:
    """Print the rates of epochs, read by processes here and by workers of Dask."""
    from mlaas4hep_tf import ReadOptions, RootDataset
    from mlaas4hep_tf.io.clusters import on_dask

    rates = defaultdict[str, list[float]](list)
    with ExitStack() as stack:
        ways = {f"{n} local readers": ReadOptions(workers=n) for n in workers}
        for n in workers:
            ways[f"{n} workers of Dask"] = ReadOptions(executor=stack.enter_context(on_dask(f"local:{n}")))
        datasets = {
            name: RootDataset(files, specs, batch_size=BATCH, keep=False, read=read) for name, read in ways.items()
        }
        for number in range(rounds + 1):  # the first is a warm-up
            for name, ds in datasets.items():
                start = perf_counter()
                events = sum(len(x) for x in ds)
                if number:
                    rates[name].append(events / (perf_counter() - start))
        moved = packed_bytes(datasets[f"{workers[0]} local readers"])
    print(f"\n{moved:,.0f} bytes per event from readers to the training process\n")
    print("| way | events/s | of local |\n|---|---:|---:|")
    for name, found in rates.items():
        local = rates[f"{name.split()[0]} local readers"]
        print(f"| {name} | {median(found):,.0f} | {median(found) / median(local):.2f} |")


def train_together(files: list[str], specs: Specs, processes: list[int], labels: list[str], epochs: int) -> None:
    """Print the rates and the AUC of trainings with as many events a step, in so many processes."""
    print("\n| processes | events of a step | events/s | AUC |\n|---:|---:|---:|---:|")
    with TemporaryDirectory() as folder:
        known = Path(folder) / "specs.json"
        specs.save(known)
        for n in processes:
            named = [argument for label in labels for argument in ("--label", label)]
            command = [
                sys.executable, "-c", "from mlaas4hep_tf.cli import main; main()", "train", *files, *named,
                "--specs", str(known), "--processes", str(n), "--batch-size", str(BATCH // n),
                "--epochs", str(epochs), "--out", f"{folder}/{n}",
            ]  # fmt: skip
            subprocess.run(command, check=True, stdout=sys.stderr, env=os.environ | {"KERAS_BACKEND": "jax"})
            metrics = json.loads((Path(folder) / str(n) / "metrics.json").read_text())
            test = metrics["parts"]["test"]
            auc = f"{test['auc']:.4f} ± {test['auc_error']:.4f}"
            print(f"| {n} | {BATCH // n * n} | {metrics['events_per_s']:,.0f} | {auc} |")


def main() -> None:
    from mlaas4hep_tf import scan
    from mlaas4hep_tf.bench import environment

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+")
    parser.add_argument("--tree")
    parser.add_argument("--exclude", nargs="*", default=[])
    parser.add_argument("--workers", nargs="+", type=int, default=[1, 2, 4])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--processes", nargs="*", type=int, default=[])
    parser.add_argument("--label", action="append", default=[])
    parser.add_argument("--epochs", type=int, default=3)
    args = parser.parse_args()
    specs = scan(args.files, args.tree, exclude=args.exclude, progress=False)
    print(environment())
    if args.processes:
        train_together(args.files, specs, args.processes, args.label, args.epochs)
    else:
        read_everywhere(args.files, specs, args.workers, args.rounds)


if __name__ == "__main__":
    main()
