"""Plots and the HTML report of a run: one file that can be sent to a colleague."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from mlaas4hep_tf.specs import BranchSpec, Specs
from mlaas4hep_tf.train import Evaluation, FloatArray

COLORS = {"train": "#4477AA", "validation": "#CCBB44", "test": "#EE6677"}  # P. Tol's bright scheme
SIGNAL, BACKGROUND = "#EE6677", "#4477AA"
_STYLE: dict[Any, Any] = {
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.3, "grid.linewidth": 0.6,
    "font.size": 11, "axes.titlesize": 12, "legend.frameon": False, "savefig.bbox": "tight", "savefig.dpi": 130,
}  # fmt: skip


def write_report(
    folder: Path, metrics: Mapping[str, Any], specs: Specs, history: Mapping[str, Sequence[float]],
    results: Mapping[str, Evaluation],
) -> Path:  # fmt: skip
    """Draw curves, ROC, scores, importance and multiplicities and write ``report.html`` with them inside."""
    with mpl.rc_context(_STYLE):
        plots = {
            "curves": plot_curves(history), "roc": plot_roc(results), "scores": plot_scores(results),
            "multiplicity": plot_multiplicities(specs), "importance": plot_importance(metrics["importance"]),
        }  # fmt: skip
        images = {}
        for name, figure in plots.items():
            path = folder / f"{name}.png"
            figure.savefig(path)
            images[name] = "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    page = environment.from_string((Path(__file__).parent / "report.html.jinja").read_text())
    report = folder / "report.html"
    report.write_text(
        page.render(
            title=folder.name,
            metrics=metrics,
            specs=specs,
            images=images,
            notes=data_notes(specs),
            missing=missing_values(specs),
        )
    )
    return report


def missing_values(specs: Specs) -> tuple[int, int]:
    """How many values of all branches are NaN or infinite, and how many there are."""
    return sum(b.nan + b.posinf + b.neginf for b in specs.branches), sum(b.values for b in specs.branches)


def data_notes(specs: Specs) -> list[tuple[str, str]]:
    """What the data card says of missing values, truncation and branches that tell nothing."""
    notes = []
    for branch in specs.branches:
        missing = branch.nan + branch.posinf + branch.neginf
        if missing:
            notes.append((branch.name, f"{missing:,} of {branch.values:,} values are NaN or infinite (masked)"))
        if branch.empty:
            notes.append((branch.name, "no finite value: all its columns are masked"))
        elif branch.constant:
            notes.append((branch.name, f"constant ({branch.min:g})"))
    for group, members in specs.groups.items():
        events, objects = members[0].truncated
        if events:
            notes.append((group, f"cut at {members[0].length} objects: {events:,} events lose {objects:,} objects"))
    return notes + [(name, f"left out: {why}") for name, why in specs.left_out.items()]


def plot_curves(history: Mapping[str, Sequence[float]]) -> Figure:
    """Loss and AUC of training and validation per epoch."""
    names = [name for name in ("loss", "auc") if name in history]
    figure = Figure(figsize=(5.4, 2.7 * len(names)))
    for axes, name in zip(figure.subplots(len(names), squeeze=False)[:, 0], names, strict=True):
        for part, key in (("train", name), ("validation", f"val_{name}")):
            if key in history:
                values = history[key]
                axes.plot(range(1, len(values) + 1), values, "o-", color=COLORS[part], label=part, markersize=4)
        axes.set(xlabel="epoch", ylabel={"loss": "loss", "auc": "AUC"}[name])
        axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
        axes.legend()
    figure.tight_layout()
    return figure


def plot_roc(results: Mapping[str, Evaluation]) -> Figure:
    """Signal efficiency against background efficiency, with the AUC of each part."""
    figure = Figure(figsize=(4.8, 4.4))
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="0.7", linestyle=":", linewidth=1)
    for name, result in results.items():
        if result.auc is None:
            continue
        false, true = result.roc()
        axes.plot(false, true, color=COLORS[name], label=f"{name}  AUC = {result.auc:.3f} ± {result.auc_error:.3f}")
    axes.set(xlabel="background efficiency", ylabel="signal efficiency", xlim=(0, 1), ylim=(0, 1.01), aspect="equal")
    axes.legend(loc="lower right")
    figure.tight_layout()
    return figure


def plot_scores(results: Mapping[str, Evaluation]) -> Figure:
    """Weighted scores of signal and background: filled for training, points with errors for test (over-training)."""
    figure = Figure(figsize=(5.2, 4.7))
    axes = figure.subplots()
    top = max((float(r.scores.max()) for r in results.values() if len(r.scores)), default=1.0)
    low = min((float(r.scores.min()) for r in results.values() if len(r.scores)), default=0.0)
    bins = [low + (max(top, low + 1e-6) - low) * i / 30 for i in range(31)]
    for wanted, name, color in ((1, "signal", SIGNAL), (0, "background", BACKGROUND)):
        train, test = results["train"], results["test"]
        axes.hist(
            train.of_class(wanted), bins=bins, weights=train.weights_of_class(wanted), density=True,
            color=color, alpha=0.35, label=f"{name} (train)",
        )  # fmt: skip
        height, error = density(test.of_class(wanted), test.weights_of_class(wanted), bins)
        middle, filled = (np.array(bins[1:]) + bins[:-1]) / 2, height > 0
        axes.errorbar(
            middle[filled], height[filled], error[filled], fmt="o", color=color, markersize=3, linewidth=1,
            label=f"{name} (test)",
        )  # fmt: skip
    axes.set(xlabel="score", ylabel="events (normalised)", xlim=(bins[0], bins[-1]), yscale="log")
    axes.legend(ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1))
    figure.tight_layout()
    return figure


def density(values: FloatArray, weights: FloatArray, bins: Sequence[float]) -> tuple[FloatArray, FloatArray]:
    """Weighted events per unit of score, normalised to 1, and their statistical errors sqrt(sum of w^2)."""
    content, entry_offsets = np.histogram(values, bins=bins, weights=weights)
    squares, _ = np.histogram(values, bins=bins, weights=weights**2)
    scale = (content.sum() or 1.0) * np.diff(entry_offsets)
    return content / scale, np.sqrt(squares) / scale


def plot_importance(importance: Sequence[Mapping[str, Any]], shown: int = 15) -> Figure:
    """Loss of AUC of the most important branches when they are shuffled; errors are between rounds."""
    first = importance[:shown][::-1]
    figure = Figure(figsize=(5.4, 1.1 + 0.29 * len(first)))
    axes = figure.subplots()
    axes.barh(
        [one["branch"] for one in first],
        [one["loss"] for one in first],
        xerr=[one["spread"] for one in first],
        color=BACKGROUND,
        alpha=0.85,
        error_kw={"elinewidth": 1, "ecolor": "0.3"},
    )
    axes.set(xlabel="AUC lost when the branch is shuffled")
    axes.grid(visible=False, axis="y")
    figure.tight_layout()
    return figure


def plot_multiplicities(specs: Specs) -> Figure:
    """Events against multiplicity of each group, and where its length cuts."""
    groups: dict[str, BranchSpec] = {g: m[0] for g, m in specs.groups.items() if m[0].multiplicities}
    shown = dict(sorted(groups.items(), key=lambda item: -sum(item[1].multiplicities[1:]))[:6])
    figure = Figure(figsize=(5.6, 3.6))
    axes = figure.subplots()
    for number, (group, branch) in enumerate(shown.items()):
        color = f"C{number}"
        axes.stairs(
            branch.multiplicities, [i - 0.5 for i in range(len(branch.multiplicities) + 1)], color=color, label=group
        )
        if branch.length < branch.largest:
            axes.axvline(branch.length + 0.5, color=color, linestyle=":", linewidth=1)
    axes.set(xlabel="objects in an event", ylabel="events")
    if shown:
        axes.set_yscale("log")
        axes.legend(ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1))
    figure.tight_layout()
    return figure
