"""Networks on particles beside the set model and boosted trees: AUC, parameters and events trained on per second.

    python benchmarks/physics/networks.py --data ../shared/data/tth --out runs/networks

It takes a sample of the events (``--events``), as particle networks look at every pair, and few epochs.  Each training
is kept in ``networks.json`` of the output folder, so a study that was stopped (``--minutes``) goes on with the next
call.  Every row sees the same events of a seed.  Needs the extra ``physics``: ``pip install -e .[physics]``.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping
from pathlib import Path
from time import monotonic
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import trees
from features import PARTS, SPLIT
from inside import LABELS, Sample
from sklearn.metrics import roc_auc_score

from mlaas4hep_tf import RootDataset
from mlaas4hep_tf.bench.compare import environment
from mlaas4hep_tf.models import build
from mlaas4hep_tf.train import evaluate, fit

NETWORKS = ("set", "particle_net", "particle_transformer")
TREES = "HistGradientBoosting"
KEPT = 0.99  # quantile of the multiplicities at which lists are cut, for all networks alike
OWN = Path(__file__).parent.parent / "data" / "tth"


def parts(sample: Sample, features: str, seed: int, events: int, batch: int) -> dict[str, RootDataset]:
    """Training, validation and test of a sample of the events, which depend on the seed alone."""
    specs = sample.specs(features)
    specs = specs.with_lengths(quantile=KEPT) if features == "jagged" else specs
    normalize = "standard" if features == "jagged" else "minmax"
    ds = RootDataset(
        sample.files, specs, labels=LABELS, batch_size=batch, seed=seed, mask=True, normalize=normalize
    )  # fmt: skip
    return dict(zip(PARTS, ds.sample(min(events, ds.entries)).split(*SPLIT), strict=True))


def network(name: str, sample: Sample, seed: int, args: argparse.Namespace) -> dict[str, Any]:
    keras.utils.set_random_seed(seed)
    own = parts(sample, "jagged", seed, args.events, args.batch_size)
    model = build(name, own["train"].specs, preprocessor=own["train"].preprocessor)
    done = fit(model, own["train"], own["validation"], epochs=args.epochs)
    return {
        "auc": evaluate(model, own["test"]).summary()["auc"], "parameters": model.count_params(),
        "events_per_s": done.events_per_s,
    }  # fmt: skip


def boosted(sample: Sample, seed: int, args: argparse.Namespace) -> dict[str, Any]:
    """Trees on the 27 flat features; their rate is of one pass over the training events for all trees."""
    arrays = {}
    for name, part in parts(sample, "flat27", seed, args.events, 4096).items():
        x, y = zip(*((np.where(x["mask"], x["vector"], np.nan), y.numpy()) for x, y in part), strict=True)
        arrays[name] = np.concatenate(x).astype("f4"), np.concatenate(y)
    scores, seconds = trees.train(trees.scikit_learn, arrays, seed)
    rate = len(arrays["train"][1]) / seconds
    return {"auc": float(roc_auc_score(*scores["test"])), "parameters": None, "events_per_s": rate}


def table(results: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    """A row for each way: mean and standard deviation over the seeds, and the fastest one."""
    rows = ["| way | test AUC | over set | seeds | parameters | events/s |", "|---|---:|---:|---:|---:|---:|"]
    for name, seeds in results.items():
        common = [seed for seed in seeds if seed in results.get("set", {})]
        gain = np.array([seeds[seed]["auc"] - results["set"][seed]["auc"] for seed in common])
        areas = np.array([one["auc"] for one in seeds.values()])
        one = next(iter(seeds.values()))
        told = "" if name == "set" or not common else f"{gain.mean():.4f} ± {gain.std():.4f}"
        parameters = "" if one["parameters"] is None else f"{one['parameters']:,}"
        rate = max(run["events_per_s"] for run in seeds.values())
        rows.append(
            f"| {name} | {areas.mean():.4f} ± {areas.std():.4f} | {told} | {len(areas)} | {parameters} | {rate:,.0f} |"
        )
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=OWN, help="folder with signal_*.root and bkg_*.root")
    parser.add_argument("--out", type=Path, default=Path("runs/networks"))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--events", type=int, default=12_000, help="of the sample, split as in the paper")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--batch-size", type=int, default=100)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="start no training after so long")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    path, end = args.out / "networks.json", monotonic() + 60 * args.minutes
    results: dict[str, dict[str, Any]] = json.loads(path.read_text()) if path.exists() else {}
    sample = Sample(sorted(map(str, args.data.glob("*.root"))))
    for seed in range(args.seeds):
        for name in (TREES, *NETWORKS):
            if str(seed) in results.get(name, {}) or monotonic() > end:
                continue
            found = boosted(sample, seed, args) if name == TREES else network(name, sample, seed, args)
            results.setdefault(name, {})[str(seed)] = found
            path.write_text(json.dumps(results, indent=1) + "\n")
            print(f"seed {seed}  {name}: AUC {found['auc']:.4f}, {found['events_per_s']:,.0f} events/s", flush=True)
    how = f"{args.events:,} events, {args.epochs} epochs in batches of {args.batch_size}. {environment()}"
    (args.out / "networks.md").write_text(f"{how}\n\n{table(results)}\n")
    print((args.out / "networks.md").read_text())


if __name__ == "__main__":
    main()
