"""The paper's physics case (section 4) again: three ways to train, boosted trees, and what jagged branches bring.

    python benchmarks/physics/study.py --data ../shared/data/tth --out runs/physics

Without ``--data`` it takes this project's own simulated sample.  Each training is kept in ``results.json`` of the
output folder, so a study that was stopped (``--minutes``) goes on with the next call.  Tables and figures are
made of what is there.  Needs the extra ``physics``: ``pip install -e .[physics]``.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from time import monotonic
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import inside
import numpy as np
import outside
import tables
import trees
from features import EPOCHS, EVENT_WEIGHT
from inside import Sample, Way
from sklearn.metrics import roc_auc_score, roc_curve

GRID = np.linspace(0, 1, 101)  # signal efficiencies at which the ROC curve is kept
OWN = Path(__file__).parent.parent / "data" / "tth"

IN_FRAMEWORK = {
    "(i) framework": Way("flat27", inside.paper_network),
    "vector": Way("jagged", inside.paper_network),
    "set": Way("jagged", inside.set_network, {"mask": True}),
    "image": Way("jagged", inside.image_network, {"layout": "image", "image": inside.JETS}),
    "mixing: half signal": Way(
        "flat27", inside.paper_network, prepare=lambda train: train.mixed({"*signal*": len(train.files) - 1, "*": 1})
    ),
    "class weights": Way("flat27", inside.paper_network, fit={"class_weights": "balanced"}),
    "vector and mask": Way("jagged", inside.masked_network, {"mask": True}),
    "flat": Way("flat", inside.paper_network),
    "standard": Way("flat27", inside.paper_network, {"normalize": "standard"}),
    "mixing: equal": Way("flat27", inside.paper_network, prepare=lambda train: train.mixed("equal")),
    "event weights": Way("flat27", inside.paper_network, {"weights": EVENT_WEIGHT}),
    "vector, 52": Way("truth", inside.paper_network),
    "vector and mask, 52": Way("truth", inside.masked_network, {"mask": True}),
    "set, 52": Way("truth", inside.set_network, {"mask": True}),
}


def trainings(sample: Sample, epochs: int) -> dict[str, Callable[[int], dict[str, Any]]]:
    """Row of the tables -> what trains it for a seed; the three ways and the trees come first."""
    found: dict[str, Callable[[int], dict[str, Any]]] = {
        "(ii) arrays of RootDataset": lambda seed: summary(
            *outside.train(sample.arrays("flat27", seed), seed, epochs)
        ),
        "(iii) uproot, numpy, Keras": lambda seed: summary(
            *outside.train(outside.split(*outside.read(sample.files), seed), seed, epochs)
        ),
        "HistGradientBoosting": partial(train_trees, trees.scikit_learn, sample),
    }  # fmt: skip
    if find_spec("xgboost"):
        found["XGBoost"] = partial(train_trees, trees.xgboost, sample)
    return found | {
        name: partial(train_inside, way, sample, epochs)
        for name, way in IN_FRAMEWORK.items()
        if sample.knows_flavour or way.features != "truth"
    }


def train_inside(way: Way, sample: Sample, epochs: int, seed: int) -> dict[str, Any]:
    scores, seconds, parameters, signal = inside.train(way, sample, seed, epochs)
    return summary(scores, seconds, parameters) | {"signal_fraction": signal}


def train_trees(make: Callable[[int], Any], sample: Sample, seed: int) -> dict[str, Any]:
    scores, seconds = trees.train(make, sample.arrays("flat27", seed, missing=np.nan), seed)
    return summary(scores, seconds, None)


def summary(scores: dict[str, Any], seconds: float, parameters: int | None) -> dict[str, Any]:
    """What is kept of a training."""
    labels, test = scores["test"]
    background, signal, _ = roc_curve(labels, test)
    return {
        "auc": {name: float(roc_auc_score(*part)) for name, part in scores.items()},
        "seconds": seconds,
        "parameters": parameters,
        "background": np.interp(GRID, signal, background).tolist(),
        "passed": [float((test[labels == kind] > 0.5).mean()) for kind in (1, 0)],  # of signal and background
    }


def run(sample: Sample, out: Path, seeds: int, epochs: int, minutes: float, rows: Sequence[str] = ()) -> bool:
    """Do the trainings that are missing; whether all are done."""
    path, end = out / "results.json", monotonic() + 60 * minutes
    results: dict[str, dict[str, Any]] = json.loads(path.read_text()) if path.exists() else {}
    ways = trainings(sample, epochs)
    for name, way in ways.items():
        for seed in range(seeds):
            if str(seed) in results.get(name, {}) or (rows and name not in rows):
                continue
            if monotonic() > end:
                return False
            results.setdefault(name, {})[str(seed)] = found = way(seed)
            path.write_text(json.dumps(results, indent=1) + "\n")
            auc = ", ".join(f"{part} {value:.4f}" for part, value in found["auc"].items())
            print(f"seed {seed}  {name}: AUC {auc}; {found['seconds']:.1f} s an epoch", flush=True)
    return True


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=OWN, help="folder with signal_*.root and bkg_*.root")
    parser.add_argument("--out", type=Path, default=Path("runs/physics"))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="start no training after so long")
    args = parser.parse_args(arguments)
    files = sorted(map(str, args.data.glob("*.root")))
    if not files:
        parser.error(f"no .root file in {args.data}")
    args.out.mkdir(parents=True, exist_ok=True)
    sample = Sample(files)
    done = run(sample, args.out, args.seeds, args.epochs, args.minutes)
    tables.write(args.out, tables.describe(sample))
    print((args.out / "tables.md").read_text())
    print("all trainings are done" if done else "not all trainings are done: the same call goes on")


if __name__ == "__main__":
    main()
