"""Tables and figures of the study, from `results.json`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from features import PARTS
from inside import Sample
from matplotlib.figure import Figure

from mlaas4hep_tf.bench.compare import environment
from mlaas4hep_tf.runs.plots import COLORS

Results = Mapping[str, Mapping[str, Mapping[str, Any]]]  # row -> seed -> what `study.summary` kept

THREE_WAYS = ("(i) framework", "(ii) arrays of RootDataset", "(iii) uproot, numpy, Keras")
TREES = ("HistGradientBoosting", "XGBoost")
REPRESENTATIONS = (
    "flat",
    "(i) framework",
    "standard",
    "vector",
    "vector and mask",
    "set",
    "image",
    "vector, 52",
    "vector and mask, 52",
    "set, 52",
)
BALANCE = ("(i) framework", "event weights", "class weights", "mixing: equal", "mixing: half signal")
MEANING = {
    "flat": "flat branches alone, 128-64",
    "standard": '27 flat features, normalize="standard", 128-64',
    "(i) framework": "27 flat features, 128-64",
    "vector": "flat and jagged, vector, 128-64",
    "vector and mask": "flat and jagged, vector with mask, 128-64",
    "set": "flat and jagged, set model (knows the mask)",
    "image": "jets alone, image in eta and phi, small CNN",
    "vector, 52": "all 52 jagged, the generator's flavour too: vector, 128-64",
    "vector and mask, 52": "all 52 jagged, vector with mask, 128-64",
    "set, 52": "all 52 jagged, set model",
}
LABELS = {
    "(i) framework": "(i)\nall in the\nframework",
    "(ii) arrays of RootDataset": "(ii)\nits arrays,\nplain Keras",
    "(iii) uproot, numpy, Keras": "(iii)\nuproot, numpy,\nKeras",
    "HistGradientBoosting": "trees:\nHistGradient-\nBoosting",
    "XGBoost": "trees:\nXGBoost",
}  # under the bars
EFFICIENCY = 50  # per cent of signal at which the background is quoted


def describe(sample: Sample) -> str:
    """Hardware, versions and data, for whoever reads the figures."""
    more = []
    for package in ("keras", "scikit-learn", "xgboost"):
        try:
            more.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            more.append(f"no {package}")
    sizes = {name: sample.specs(name) for name in ("flat", "flat27", "jagged")}
    jagged = len(sizes["jagged"].jagged)
    return (
        f"{environment()}, {', '.join(more)}.\n\n{sizes['flat'].entries:,} events in {len(sample.files)} files; "
        f"{len(sizes['flat'].flat)} flat branches, {len(sizes['flat27'].vector_names)} flat features, "
        f"{jagged} jagged branches without the generator's flavour, "
        f"vector of {len(sizes['jagged'].vector_names)} columns."
    )


def write(out: Path, description: str) -> None:
    """``tables.md``, ``three_ways.png``, ``representations.png``, ``balance.png`` of the trainings that are done."""
    results: Results = json.loads((out / "results.json").read_text())
    text = [description, "", "## Three ways and the traditional reference", "", *three_ways(results),
            "", "## Representations", "", *representations(results),
            "", "## Weights and balance", "", *balance(results)]  # fmt: skip
    (out / "tables.md").write_text("\n".join(text) + "\n")
    style: dict[Any, Any] = {"axes.spines.top": False, "axes.spines.right": False, "font.size": 11,
                             "legend.frameon": False, "savefig.bbox": "tight", "savefig.dpi": 110}  # fmt: skip
    with mpl.rc_context(style):
        plot_bars(results, [row for row in (*THREE_WAYS, *TREES) if row in results]).savefig(out / "three_ways.png")
        plot_gain(results).savefig(out / "representations.png")
        plot_background(results).savefig(out / "balance.png")


def aucs(results: Results, row: str, part: str) -> npt.NDArray[np.float64]:
    return np.array([found["auc"][part] for found in results[row].values()])


def spread(values: npt.NDArray[np.float64]) -> float:
    """Standard deviation between seeds; nan for one."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")


def cell(values: Sequence[float] | npt.NDArray[np.float64], digits: int = 4) -> str:
    array = np.asarray(values, np.float64)
    return f"{array.mean():.{digits}f}" + (f" ± {spread(array):.{digits}f}" if len(array) > 1 else "")


def gains(results: Results, row: str, over: str) -> npt.NDArray[np.float64]:
    """Difference in test AUC of the same seed, so of the same events."""
    seeds = [seed for seed in results[row] if seed in results[over]]
    return np.array([results[row][s]["auc"]["test"] - results[over][s]["auc"]["test"] for s in seeds])


def three_ways(results: Results) -> list[str]:
    lines = ["| way | AUC train | validation | test | seeds | s |", "|---|---:|---:|---:|---:|---:|"]
    for row in (*THREE_WAYS, *TREES):
        if row not in results:
            continue
        unit = "whole" if row in TREES else "per epoch"
        parts = " | ".join(cell(aucs(results, row, part)) for part in PARTS)
        lines.append(f"| {row} | {parts} | {len(results[row])} | {seconds(results, row):.1f} {unit} |")
    return lines


def seconds(results: Results, row: str) -> float:
    """Of the fastest seed: others may have shared the cores."""
    return float(min(found["seconds"] for found in results[row].values()))


def representations(results: Results) -> list[str]:
    lines = [
        "| representation and network | test AUC | gain over 27 flat features | seeds | parameters | s per epoch |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for row in REPRESENTATIONS:
        if row in results:
            gain = "" if row == "(i) framework" else f"{cell(gains(results, row, '(i) framework'))}"
            first = next(iter(results[row].values()))
            lines.append(f"| {MEANING[row]} | {cell(aucs(results, row, 'test'))} | {gain} "
                         f"| {len(results[row])} | {first['parameters']:,} "
                         f"| {seconds(results, row):.1f} |")  # fmt: skip
    return lines


def balance(results: Results) -> list[str]:
    lines = [
        f"| training | signal per epoch | test AUC | difference | background at {EFFICIENCY} % signal "
        "| signal above 0.5 | background above 0.5 | seeds |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in BALANCE:
        if row in results:
            found = results[row].values()
            fraction = 100 * np.mean([f["signal_fraction"] for f in found])
            difference = "" if row == "(i) framework" else cell(gains(results, row, "(i) framework"))
            passed = [cell([100 * f["passed"][n] for f in found], 1) for n in (0, 1)]
            name = "as the files are" if row == "(i) framework" else row
            lines.append(f"| {name} | {fraction:.1f} % | {cell(aucs(results, row, 'test'))} | {difference} "
                         f"| {cell([100 * f['background'][EFFICIENCY] for f in found], 2)} % "
                         f"| {passed[0]} % | {passed[1]} % | {len(found)} |")  # fmt: skip
    return lines


def plot_bars(results: Results, rows: Sequence[str]) -> Figure:
    """AUC of train, validation and test for each way, as in the paper's figure 8; bars of error: between seeds."""
    figure = Figure(figsize=(8.4, 3.9))
    axes = figure.subplots()
    low = min(float(aucs(results, row, part).min()) for row in rows for part in PARTS)
    for number, part in enumerate(PARTS):
        values = [aucs(results, row, part) for row in rows]
        axes.bar(
            np.arange(len(rows)) + 0.27 * (number - 1), [v.mean() for v in values], 0.25,
            color=COLORS[part], label=part, yerr=[spread(v) for v in values], capsize=3, error_kw={"linewidth": 1},
        )  # fmt: skip
    axes.set(ylabel="AUC", ylim=(np.floor(20 * (low - 0.03)) / 20, 1))
    axes.set_xticks(range(len(rows)), [LABELS.get(row, row) for row in rows], fontsize=10)
    axes.tick_params("x", length=0)
    axes.legend(ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1))
    return figure


def plot_gain(results: Results) -> Figure:
    """Test AUC of each representation: every seed a dot, the mean a line."""
    rows = [row for row in (*REPRESENTATIONS, TREES[0]) if row in results]
    figure = Figure(figsize=(7.2, 0.5 * len(rows) + 0.9))
    axes = figure.subplots()
    for number, row in enumerate(rows):
        values = aucs(results, row, "test")
        axes.plot(values, [number] * len(values), "o", color=COLORS["test"], alpha=0.6, markersize=6)
        axes.plot([values.mean()] * 2, [number - 0.3, number + 0.3], color="0.2", linewidth=1.5)
    axes.set(xlabel="test AUC, a dot per seed", ylim=(len(rows) - 0.5, -0.5))
    axes.set_yticks(range(len(rows)), [MEANING.get(row, f"27 flat features, {row}") for row in rows])
    axes.grid(axis="x", alpha=0.3)
    return figure


def plot_background(results: Results) -> Figure:
    """Background of each training at the same signal efficiency, over that of training as the files are.

    Mean over the seeds, each divided by its own, so that the test events are the same.
    """
    figure = Figure(figsize=(7.2, 4.2))
    axes = figure.subplots()
    plain = results["(i) framework"]
    for row in [row for row in (*BALANCE[1:], "set", *TREES) if row in results]:
        ratio = [ratio_to(found["background"], plain[seed]["background"]) for seed, found in results[row].items()]
        style = "-" if row in BALANCE else "--"
        label = {"set": "set model, jagged branches"}.get(row, row)
        axes.plot(np.linspace(0, 1, len(ratio[0])), np.mean(ratio, axis=0), style, linewidth=1.4, label=label)
    axes.axhline(1, color="0.4", linewidth=1)
    axes.set(xlabel="signal efficiency", ylabel="background / as the files are", xlim=(0.3, 0.98), ylim=(0.6, 1.4))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=9, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1))
    return figure


def ratio_to(values: Sequence[float], plain: Sequence[float]) -> npt.NDArray[np.float64]:
    """Nothing where no background passes the plain training."""
    below = np.asarray(plain)
    return np.asarray(values) / np.where(below > 0, below, np.nan)
