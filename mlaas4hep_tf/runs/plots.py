"""Figures of the report: each is drawn from numbers that are there already."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mlaas4hep_tf.analysis.cutflow import CutFlow
from mlaas4hep_tf.evaluation import EFFICIENCIES, ClassEvaluation, Evaluation, FloatArray, RegressionEvaluation
from mlaas4hep_tf.specs import BranchSpec, Specs
from mlaas4hep_tf.tasks import Classes

COLORS = {
    "train": "#4477AA",
    "validation": "#CCBB44",
    "test": "#EE6677",
    "held out": "#228833",
}  # P. Tol's bright scheme
SIGNAL, BACKGROUND = "#EE6677", "#4477AA"
CLASS_COLORS = (SIGNAL, BACKGROUND, "#228833", "#CCBB44", "#66CCEE", "#AA3377", "#999999")  # signal first
_STYLE: dict[Any, Any] = {
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.3, "grid.linewidth": 0.6,
    "font.size": 12, "axes.titlesize": 12, "legend.frameon": False,
    "axes.formatter.min_exponent": 3,  # 0.2 and not 2 x 10^-1
    "savefig.bbox": "tight", "savefig.dpi": 130,
}  # fmt: skip
BINS = 30
ENOUGH = 10  # events in a bin, for a share with an error that means something
LONGEST_CUT = 36  # characters of a condition that are shown


@contextmanager
def style() -> Iterator[None]:
    """The look that all figures share."""
    with mpl.rc_context(_STYLE):
        yield


def colors(classes: Classes) -> dict[int, str]:
    """Label -> colour, the same in every figure."""
    return {label: CLASS_COLORS[n % len(CLASS_COLORS)] for n, label in enumerate(classes.signal_first)}


def plot_curves(history: Mapping[str, Sequence[float]]) -> Figure:
    """Loss and AUC of training and validation per epoch."""
    kinds = {"loss": "loss", "auc": "AUC", "mae": "mean absolute residual"}
    names = [name for name in history if name.rsplit("_", 1)[-1] in kinds and not name.startswith("val_")]
    figure = Figure(figsize=(5.4, 2.7 * len(names)))
    for axes, name in zip(figure.subplots(len(names), squeeze=False)[:, 0], names, strict=True):
        for part, key in (("train", name), ("validation", f"val_{name}")):
            if key in history:
                values = history[key]
                axes.plot(range(1, len(values) + 1), values, "o-", color=COLORS[part], label=part, markersize=4)
        axes.set(xlabel="epoch", ylabel=_axis_of(name, kinds))
        axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
        axes.legend()
    figure.tight_layout()
    return figure


def _axis_of(name: str, kinds: Mapping[str, str]) -> str:
    """What stands at the axis of a loss or metric: its output, where there are several, and what it is."""
    output, _, kind = name.rpartition("_")
    return f"{output}: {kinds[kind]}" if output else kinds[kind]


def plot_roc(results: Mapping[str, Evaluation]) -> Figure:
    """Signal efficiency against background efficiency, with the AUC of each part."""
    return _roc({name: (one, COLORS[name]) for name, one in results.items()}, "background efficiency")


def plot_class_roc(test: ClassEvaluation) -> Figure:
    """One class against the rest: efficiency of the class against that of all others, with the AUC of each."""
    names = test.classes.names
    curves = {names[n]: (test.against_rest(n), c) for n, c in colors(test.classes).items() if n in test.present}
    return _roc(curves, "efficiency of all other classes", "efficiency of the class")


def _roc(curves: Mapping[str, tuple[Evaluation, str]], xlabel: str, ylabel: str = "signal efficiency") -> Figure:
    figure = Figure(figsize=(4.8, 4.6))
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="0.7", linestyle=":", linewidth=1)
    for name, (one, color) in curves.items():
        if one.auc is not None:
            false, true = one.roc()
            axes.plot(false, true, color=color, label=f"{name}  AUC {one.auc:.3f} ± {one.auc_error:.3f}")
    axes.set(xlabel=xlabel, ylabel=ylabel, xlim=(0, 1), ylim=(0, 1.01), aspect="equal")
    axes.legend(loc="lower right", fontsize=11)
    figure.tight_layout()
    return figure


def plot_rejection(curves: Mapping[str, tuple[Evaluation, str]], signal: str) -> Figure:
    """Rejection of background against efficiency of signal, with bars at the efficiencies that the table tells.

    Args:
        curves: name of the background -> events of the two, and a colour.
        signal: name of the signal.
    """
    figure = Figure(figsize=(5.2, 4.6))
    axes = figure.subplots()
    for name, (one, color) in curves.items():
        if one.auc is None:
            continue
        false, true = one.roc()
        with np.errstate(divide="ignore", invalid="ignore"):
            axes.plot(true[false > 0], 1 / false[false > 0], color=color, label=name)
        told = [(r.efficiency, r.value, r.error or 0.0) for r in one.rejections() if r.value is not None]
        at, values, errors = (np.array([row[i] for row in told], np.float64) for i in range(3))
        axes.errorbar(at, values, errors, fmt="o", color=color, markersize=5, linewidth=1.5, capsize=3)
    for efficiency in EFFICIENCIES:
        axes.axvline(efficiency, color="0.8", linestyle=":", linewidth=1, zorder=0)
    axes.set(
        xlabel=f"efficiency of {signal}", ylabel="background events per one that passes", xlim=(0, 1), yscale="log",
    )  # fmt: skip
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), fontsize=11)
    figure.tight_layout()
    return figure


def rejection_curves(test: Evaluation | ClassEvaluation) -> dict[str, tuple[Evaluation, str]]:
    """The signal against each other class, by the discriminant of the two."""
    classes = test.classes
    signal, *others = classes.signal_first
    if isinstance(test, Evaluation):
        return {classes.names[0]: (test, colors(classes)[0])}
    known = {label: test.pair(signal, label) for label in others if {signal, label} <= {*test.present}}
    return {
        f"{classes.names[label]}  AUC {one.auc:.3f} ± {one.auc_error:.3f}": (one, colors(classes)[label])
        for label, one in known.items()
    }


def plot_scores(train: Evaluation, test: Evaluation) -> Figure:
    """Weighted scores of signal and background: filled for training, points with errors for test (over-training)."""
    figure = Figure(figsize=(5.2, 4.7))
    axes = figure.subplots()
    bins = _bins([train.scores, test.scores])
    for label, color in colors(test.classes).items():
        name = test.classes.names[label]
        _train_and_test(
            axes, (train.of_class(label), train.weights_of_class(label)),
            (test.of_class(label), test.weights_of_class(label)), bins, name, color,
        )  # fmt: skip
    axes.set(xlabel="score", ylabel="events (normalised)", xlim=(bins[0], bins[-1]), yscale="log")
    axes.legend(ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1))
    figure.tight_layout()
    return figure


def plot_own_scores(train: ClassEvaluation, test: ClassEvaluation) -> Figure:
    """Probability of its own class by class: filled for training, points with errors for test (over-training)."""
    shown = [label for label in test.classes.signal_first if label in test.present and label in train.present]
    figure, grid = _grid(len(shown), height=2.9)
    bins = [i / BINS for i in range(BINS + 1)]
    for label, axes in zip(shown, grid, strict=False):
        name = test.classes.names[label]
        a, b = ((one.of_class(label), one.weights[one.labels == label]) for one in (train, test))
        _train_and_test(axes, a, b, bins, "", colors(test.classes)[label])
        axes.set(xlabel=f"p({name}) of {name}", ylabel="events (normalised)", xlim=(0, 1), yscale="log")
        axes.legend(fontsize=10, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2)
    figure.tight_layout()
    return figure


def plot_class_scores(test: ClassEvaluation) -> Figure:
    """The probability of each class, by true class, on test events."""
    shown = test.classes.signal_first
    figure, grid = _grid(len(shown), height=3.1)
    bins = [i / BINS for i in range(BINS + 1)]
    for label, axes in zip(shown, grid, strict=False):
        for true in (true for true in shown if true in test.present):
            own = test.labels == true
            height, _ = density(test.scores[own, label], test.weights[own], bins)
            axes.stairs(
                height, bins, color=colors(test.classes)[true], label=test.classes.names[true],
                linewidth=2 if true == label else 1.2,
            )  # fmt: skip
        axes.set(xlabel=f"p({test.classes.names[label]})", ylabel="events (normalised)", xlim=(0, 1), yscale="log")
    lines, names = grid[0].get_legend_handles_labels()
    figure.legend(lines, names, title="true class", ncols=len(names), loc="lower center", bbox_to_anchor=(0.5, 1))
    figure.tight_layout()
    return figure


def plot_confusion(test: ClassEvaluation) -> Figure:
    """Which share of each class is told to be of which."""
    order = test.classes.signal_first
    with np.errstate(invalid="ignore"):
        share = test.confusion / test.confusion.sum(axis=1, keepdims=True)
    share = share[np.ix_(order, order)]
    names = [test.classes.names[label] for label in order]
    size = 2.6 + 0.6 * len(names)
    figure = Figure(figsize=(size, size * 0.92))
    axes = figure.subplots()
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for (row, column), value in np.ndenumerate(share):
        text = "-" if np.isnan(value) else f"{100 * value:.1f} %"
        axes.text(column, row, text, ha="center", va="center", color="white" if value > 0.55 else "0.15", fontsize=11)
    axes.set_xticks(range(len(names)), names, rotation=30, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(names)), names)
    axes.set(xlabel="most probable class", ylabel="true class")
    axes.grid(visible=False)
    figure.tight_layout()
    return figure


def plot_calibration(test: Evaluation | ClassEvaluation) -> Figure:
    """Share of a class among the events that a model gives a probability, against that probability."""
    classes = test.classes
    figure = Figure(figsize=(4.8, 4.6))
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="0.7", linestyle=":", linewidth=1)
    shown = (classes.signal,) if isinstance(test, Evaluation) else classes.signal_first
    for label in shown:
        one = test if isinstance(test, Evaluation) else test.against_rest(label)
        told, share, error = calibration(one)
        axes.errorbar(
            told, share, error, fmt="o-", color=colors(classes)[label], markersize=4, linewidth=1.2,
            label=classes.names[label],
        )  # fmt: skip
    axes.set(
        xlabel="probability the model gives", ylabel="share of the class", xlim=(0, 1), ylim=(0, 1), aspect="equal"
    )
    axes.legend(loc="upper left", fontsize=11)
    figure.tight_layout()
    return figure


def calibration(one: Evaluation, bins: int = 10) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Mean score, weighted share of signal and its standard error in equal bins of the score with 10 events or more."""
    at = np.clip((one.scores * bins).astype(int), 0, bins - 1)
    signal = (one.labels > 0.5).astype(np.float64)

    def summed(values: Any) -> FloatArray:
        return np.bincount(at, weights=values, minlength=bins).astype(np.float64)

    total = summed(one.weights)
    with np.errstate(invalid="ignore", divide="ignore"):
        filled = np.square(total) / summed(np.square(one.weights)) >= ENOUGH  # events that would say as much
        told, share = summed(one.weights * one.scores) / total, summed(one.weights * signal) / total
        error = np.sqrt(summed(np.square(one.weights * (signal - share[at])))) / total
    return told[filled], share[filled], error[filled]


def plot_residuals(train: RegressionEvaluation, test: RegressionEvaluation) -> Figure:
    """Told - true: filled for training, points with errors for test (over-training)."""
    figure = Figure(figsize=(5.2, 4.6))
    axes = figure.subplots()
    both = np.concatenate([train.residuals, test.residuals])
    low, high = np.quantile(both, [0.002, 0.998])
    bins = [low + (max(high, low + 1e-6) - low) * i / BINS for i in range(BINS + 1)]
    _train_and_test(axes, (train.residuals, train.weights), (test.residuals, test.weights), bins, "", BACKGROUND)
    axes.axvline(0, color="0.6", linestyle=":", linewidth=1)
    axes.set(xlabel=f"told - true {test.regression.target}", ylabel="events (normalised)", xlim=(bins[0], bins[-1]))
    axes.legend()
    figure.tight_layout()
    return figure


def plot_told_and_true(test: RegressionEvaluation) -> Figure:
    """What is told against the truth; darker where there are more events."""
    told = test.scores[:, test.regression.central]
    low, high = np.quantile(np.concatenate([told, test.labels]), [0.002, 0.998])
    figure = Figure(figsize=(5.2, 4.6))
    axes = figure.subplots()
    span = (float(low), float(max(high, low + 1e-6)))
    content, x, y = np.histogram2d(test.labels, told, bins=50, range=(span, span), weights=test.weights)
    drawn = axes.pcolormesh(x, y, np.ma.masked_less_equal(content.T, 0), cmap="Blues", norm="log")
    figure.colorbar(drawn, label="events")
    axes.plot(span, span, color="0.4", linestyle=":", linewidth=1)
    name = test.regression.target
    axes.set(xlabel=f"true {name}", ylabel=f"told {name}", xlim=span, ylim=span)
    figure.tight_layout()
    return figure


def plot_profile(test: RegressionEvaluation) -> Figure:
    """Bias and resolution against the truth."""
    found = test.profile()
    figure = Figure(figsize=(5.2, 4.6))
    axes = figure.subplots()
    truth = [one.truth for one in found]
    axes.axhline(0, color="0.6", linestyle=":", linewidth=1)
    axes.errorbar(
        truth, [one.bias for one in found], [one.bias_error for one in found], fmt="o-", color=SIGNAL, markersize=4,
        label="bias (mean residual)",
    )  # fmt: skip
    resolution = [one.resolution for one in found]
    axes.plot(truth, resolution, "s-", color=BACKGROUND, markersize=4, label="resolution (half of central 68 %)")
    axes.set(xlabel=f"true {test.regression.target}", ylabel=f"in the unit of {test.regression.target}")
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1))
    figure.tight_layout()
    return figure


def _grid(count: int, height: float) -> tuple[Figure, list[Axes]]:
    """A figure over the whole width with so many panels, and those that are needed."""
    columns = min(count, 3) if count != 4 else 2
    rows = -(-count // columns)
    figure = Figure(figsize=(1 + 3.4 * columns, height * rows + 0.3))
    panels = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
    for idle in panels[count:]:
        idle.set_axis_off()
    return figure, panels


def _train_and_test(
    axes: Axes, train: tuple[FloatArray, FloatArray], test: tuple[FloatArray, FloatArray], bins: Sequence[float],
    name: str, color: str,
) -> None:  # fmt: skip
    """Training filled, test as points with errors."""
    names = [f"{name} ({part})" if name else part for part in ("train", "test")]
    axes.hist(train[0], bins=list(bins), weights=train[1], density=True, color=color, alpha=0.35, label=names[0])
    height, error = density(*test, bins)
    middle, filled = (np.array(bins[1:]) + bins[:-1]) / 2, height > 0
    axes.errorbar(
        middle[filled], height[filled], error[filled], fmt="o", color=color, markersize=3, linewidth=1, label=names[1]
    )


def _bins(parts: Sequence[FloatArray]) -> list[float]:
    top = max((float(scores.max()) for scores in parts if len(scores)), default=1.0)
    low = min((float(scores.min()) for scores in parts if len(scores)), default=0.0)
    return [low + (max(top, low + 1e-6) - low) * i / BINS for i in range(BINS + 1)]


def density(values: FloatArray, weights: FloatArray, bins: Sequence[float]) -> tuple[FloatArray, FloatArray]:
    """Weighted events per unit of score, normalised to 1, and their statistical errors sqrt(sum of w^2)."""
    content, edges = np.histogram(values, bins=list(bins), weights=weights)
    squares, _ = np.histogram(values, bins=list(bins), weights=weights**2)
    scale = (content.sum() or 1.0) * np.diff(edges)
    return content / scale, np.sqrt(squares) / scale


def plot_importance(importance: Sequence[Mapping[str, Any]], shown: int = 15, *, what: str = "AUC lost") -> Figure:
    """How much worse it is when one of the most important branches is shuffled; errors are between rounds."""
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
    axes.set(xlabel=f"{what} when the branch is shuffled")
    axes.grid(visible=False, axis="y")
    figure.tight_layout()
    return figure


def plot_cut_flow(flow: CutFlow) -> Figure:
    """Which share of the events is left after each condition, by label, with the numbers of events."""
    labels = flow.by_label()
    figure = Figure(figsize=(6.4, 1.2 + 0.45 * (1 + len(flow.cuts)) * len(labels) ** 0.5))
    axes = figure.subplots()
    names = [name if len(name) <= LONGEST_CUT else f"{name[: LONGEST_CUT - 1]}…" for name in ("all", *flow.cuts)]
    height = 0.8 / len(labels)
    for number, (label, own) in enumerate(labels.items()):
        places = [place + (number - (len(labels) - 1) / 2) * height for place in range(len(names))]
        shares = [events / max(own.events[0], 1) for events in own.events]
        axes.barh(places, shares, height, label=None if label is None else flow.told(label))
        for place, share, events in zip(places, shares, own.events, strict=True):
            axes.text(share + 0.01, place, f"{events:,}", va="center", fontsize="small")
    axes.set_yticks(range(len(names)), names)
    axes.set(xlabel="events left, as a share of all", xlim=(0, 1.18))
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    if None not in labels:
        axes.legend(loc="lower right")
    figure.tight_layout()
    return figure


def plot_reweighted(reweighted: Mapping[str, Any], classes: Classes) -> Figure:
    """Of each branch the distribution of each class before and after (`reweight.Reweighted.to_json`)."""
    branches = reweighted["branches"]
    figure = Figure(figsize=(5.4 * len(branches), 4.2))
    for axes, (branch, found) in zip(
        figure.subplots(1, len(branches), squeeze=False)[0], branches.items(), strict=True
    ):
        for label, color in colors(classes).items():
            for which, options in (
                ("before", {"linestyle": ":"}),
                ("after", {"linewidth": 1.8, "label": classes.names[label]}),
            ):
                values = np.array(found[which][label])
                axes.stairs(values / values.sum(), found["edges"], color=color, **options)
        axes.set(xlabel=branch, ylabel="share of the class")
    figure.legend(*axes.get_legend_handles_labels(), ncols=len(classes.names), loc="outside upper center")
    figure.tight_layout(rect=(0, 0, 1, 0.92))
    return figure


def plot_inputs(inputs: Sequence[Mapping[str, Any]], classes: Classes | None) -> Figure:
    """Each branch by class (`inputs.distributions`), every class as shares of its own."""
    figure, grid = _grid(len(inputs), height=2.6)
    known = {0: BACKGROUND} if classes is None else colors(classes)
    for one, axes in zip(inputs, grid, strict=False):
        for label, color in known.items():
            content = np.array(one["content"][label])
            name = "all events" if classes is None else classes.names[label]
            axes.stairs(content / (content.sum() or 1.0), one["edges"], color=color, label=name, linewidth=1.5)
        axes.set(xlabel=one["branch"], ylabel="share of all" if classes is None else "share of the class")
    lines, names = grid[0].get_legend_handles_labels()
    figure.legend(lines, names, ncols=len(names), loc="lower center", bbox_to_anchor=(0.5, 1))
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
