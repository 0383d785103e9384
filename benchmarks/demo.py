"""The main job from the shell: scan, train, evaluate, export and predict on simulated ttH(bb) events.

Run by ``make demo``; every line that it prints with ``$`` can be typed as it is.  Here all run in one process, as
each of its own would import TensorFlow anew and start new reader processes.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from pathlib import Path
from time import perf_counter

from mlaas4hep_tf.cli import main as mlaas4hep_tf


def run(*command: str) -> None:
    print(f"\n$ {shlex.join(command)}", flush=True)
    sys.argv = [*command]
    try:
        mlaas4hep_tf()
    except SystemExit as ended:
        if ended.code:
            raise


def main() -> None:
    parser = argparse.ArgumentParser(description="The main job on the demo data.")
    parser.add_argument("--data", type=Path, default=Path("benchmarks/data/tth"))
    parser.add_argument("--out", type=Path, default=Path("runs/demo"))
    parser.add_argument("--epochs", default="5")
    args = parser.parse_args()
    start = perf_counter()
    data, out = str(args.data), args.out
    specs, trained, models, scores = (str(out / name) for name in ("specs.json", "tth", "models/tth", "scores.root"))
    run("mlaas4hep-tf", "scan", data, "--tree", "events", "--exclude", "isSignal", "-o", specs)
    run(
        "mlaas4hep-tf", "train", data, "--specs", specs, "--label", "*signal*=1", "--label", "*=0", "--model", "mlp",
        "--epochs", args.epochs, "--batch-size", "100", "--split", "0.64,0.16,0.20", "--seed", "1", "--out", trained,
    )  # fmt: skip
    run("mlaas4hep-tf", "evaluate", "--run", trained)
    run("mlaas4hep-tf", "export", "--run", trained, "--to", models)
    run("mlaas4hep-tf", "predict", data, "--run", trained, "-o", scores)
    metrics = json.loads((out / "tth" / "metrics.json").read_text())
    print(f"\ndone in {perf_counter() - start:.0f} s")
    print("AUC: " + ", ".join(f"{name} {part['auc']:.3f}" for name, part in metrics["parts"].items()))
    print(f"training: {metrics['events_per_s']:,.0f} events/s, reading included")
    print(f"report: {out / 'tth' / 'report.html'}")
    print(f"model:  {models}/1 (a SavedModel for TF-Serving), scores: {scores}")


if __name__ == "__main__":
    main()
