"""What a selection and ten derived branches cost: scan and epochs with and without them, in turn.

The selection keeps every event, so that both ways deliver the same ones.

    python benchmarks/analysis_cost.py FILE... --tree events --rounds 7
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

from mlaas4hep_tf import DataWarning, RootDataset, Specs, scan

DEFINE = {
    "ht30": "sum(Jet_pt[Jet_pt > 30])", "njet30": "sum(Jet_pt > 30)", "lead": "max(Jet_pt)",
    "central": "min(abs(Jet_eta))",
    "mjj": "max(mass(pairs(Jet)))", "drmin": "min(delta_r(pairs(Jet)))", "share": "Jet_pt / ht30",
    "met_sig": "met / sqrt(ht30 + 1)", "dphi": "delta_phi(FatJet_phi[0], metphi)", "fat": "any(FatJet_mass > 100)",
}  # fmt: skip
SELECT = "met >= 0 and nJet >= 0"


def seconds(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def epochs(ds: RootDataset, count: int) -> None:
    for _ in range(count):
        for _ in ds:
            pass


def scanned(files: list[str], tree: str, **analysis: Any) -> Specs:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        return scan(files, tree, exclude="isSignal", progress=False, **analysis)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+")
    parser.add_argument("--tree", default="events")
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args()
    ways: dict[str, dict[str, Any]] = {"plain": {}, "analysis": {"define": DEFINE, "select": SELECT}}
    specs = {name: scanned(given.files, given.tree, **way) for name, way in ways.items()}
    datasets = {name: RootDataset(given.files, own, batch_size=1024, keep=False) for name, own in specs.items()}
    print({name: (ds.entries, len(specs[name].branches)) for name, ds in datasets.items()})
    times: dict[str, list[float]] = {f"{what} {name}": [] for what in ("scan", "epoch") for name in ways}
    for _ in range(given.rounds):
        for name, way in ways.items():
            times[f"scan {name}"].append(seconds(partial(scanned, given.files, given.tree, **way)))
            times[f"epoch {name}"].append(seconds(partial(epochs, datasets[name], 3)) / 3)
    for what in ("scan", "epoch"):
        ratios = [b / a for a, b in zip(times[f"{what} plain"], times[f"{what} analysis"], strict=True)]
        plain, middle = statistics.median(times[f"{what} plain"]), statistics.median(ratios)
        print(f"{what}: {plain:.3f} s; with analysis {middle:.2f} times ({min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    main()
