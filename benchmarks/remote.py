"""The stream over the network: local files against an XRootD and an HTTP server on this machine, cold and cached.

    python benchmarks/remote.py FILE... [--tree events] [--exclude isSignal] [--rounds 3]

Each way is timed in turn, median of the rounds after a warm-up: `scan`, and `RootDataset` to batches of 1024.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter

from mlaas4hep_tf import DataWarning, ReadOptions, RootDataset, scan
from mlaas4hep_tf.bench.compare import environment
from mlaas4hep_tf.io.files import expand
from mlaas4hep_tf.testing import has_xrootd, http_server, xrootd_server

Way = Callable[[], int]


@contextmanager
def served(files: Sequence[str]) -> Iterator[dict[str, list[str]]]:
    """The same files by each scheme; the folder is one that everybody may read, as XRootD's server is nobody."""
    with tempfile.TemporaryDirectory() as place, ExitStack() as stack:
        folder = Path(place)
        folder.chmod(0o755)
        for file in files:
            shutil.copyfile(file, folder / Path(file).name)
        names = [Path(file).name for file in files]
        ways = {"local": [str(folder / name) for name in names]}
        if has_xrootd():
            url = stack.enter_context(xrootd_server(folder))
            ways["root"] = [f"{url}/{name}" for name in names]
        url = stack.enter_context(http_server(folder))
        ways["http"] = [f"{url}/{name}" for name in names]
        yield ways


def read(ds: RootDataset) -> int:
    return sum(int(x.shape[0]) for x in ds)


def ways_of(served_as: dict[str, list[str]], tree: str | None, exclude: Sequence[str], cache: Path) -> dict[str, Way]:
    ways: dict[str, Way] = {}
    for scheme, files in served_as.items():
        for kept in [None] if scheme == "local" else [None, str(cache / scheme)]:
            name = scheme + (" with a warm cache" if kept else "")
            reading = ReadOptions(cache=kept)
            scan_all = partial(scan, files, tree, exclude=exclude, progress=False, read=reading)
            ds = RootDataset(files, scan_all(), batch_size=1024, read=reading, keep=False)
            ways[f"scan, {name}"] = lambda scan_all=scan_all: scan_all().entries  # type: ignore[misc]
            ways[f"dataset_1024, {name}"] = partial(read, ds)
    return ways


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+")
    parser.add_argument("--tree")
    parser.add_argument("--exclude", nargs="*", default=[])
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args(arguments)
    files = [source.location for source in expand(args.files)]
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as cache, served(files) as served_as:
        warnings.simplefilter("ignore", DataWarning)
        ways = ways_of(served_as, args.tree, args.exclude, Path(cache))
        rates: dict[str, list[float]] = {name: [] for name in ways}
        for number in range(args.rounds + 1):
            for name, way in ways.items():
                start = perf_counter()
                events = way()
                if number:
                    rates[name].append(events / (perf_counter() - start))
    print("| way | events/s | of local |\n|---|---:|---:|")
    for name, found in rates.items():
        local = median(rates[f"{name.split(',')[0]}, local"])
        print(f"| {name} | {median(found):,.0f} | {median(found) / local:.2f} |")
    print(f"\n{environment()}; median of {args.rounds} rounds")


if __name__ == "__main__":
    main()
