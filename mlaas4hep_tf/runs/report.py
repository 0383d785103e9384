"""The HTML report of a run, which follows its task: one file that can be sent to a colleague."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from matplotlib.figure import Figure

from mlaas4hep_tf.evaluation import (
    EFFICIENCIES,
    ClassEvaluation,
    Evaluated,
    Evaluation,
    Judged,
    RegressionEvaluation,
    by_output,
)
from mlaas4hep_tf.runs import plots
from mlaas4hep_tf.specs import Specs
from mlaas4hep_tf.tasks import Classes

SEPARATES = "How well it separates"
RESIDUALS = "What is told minus what is true: training filled, test as points, which should lie on it."
PROFILE = "Test events, in bins of the truth with as many events each; bars are the standard error of the mean."
TOLD = "Test events: what is told against what is true."
ROC = "ROC of the three parts; the uncertainty of the AUC is that of DeLong."
CLASS_ROC = "Test events: each class against all others, by its own probability. Uncertainties are those of DeLong."
REJECTION = "Test events: how many background events there are for one that passes; bars are from a bootstrap."
PAIRS = (
    "Test events: {signal} against each other class alone, by p(signal) / (p(signal) + p(other)); bars are from a "
    "bootstrap."
)
SCORES = (
    "Scores: training filled, test as points; a small p of the test below says that training events are known by heart."
)
CLASS_SCORES = "Test events: the probability of each class, by the class that an event is of."
OWN_SCORES = "Probability of the own class: training filled, test as points, which should lie on it."
CONFUSION = "Test events: which share of each class (row) is told to be of which (column), weighted."
CALIBRATION = (
    "Test events: a probability that means what it says lies on the diagonal, if classes are mixed as in training."
)
IMPORTANCE = (
    "What the model looks at: how much worse it is on test events when one branch is shuffled among them. Branches "
    "that say the same stand in for each other."
)
CURVES = "Loss and metric per epoch. Dropout is on for the training curve, so it may lie on the worse side."
REWEIGHTED = (
    "Sum of weights of each class in training, as a share of the class: before the reweighting dotted, with it solid."
)
INPUTS = (
    "What the model takes, by class, the most important branches first: a sample of the test events in the unit of the "
    "branch, without the outermost 0.5 % on both sides, of lists all objects. Each class is normalised to 1."
)
CUT_FLOW = "Events that each condition of the selection leaves, of all that were scanned."
MULTIPLICITY = "How many objects events have, by group; dotted: where the length cuts."


@dataclass(frozen=True)
class Plot:
    """A figure with what there is to say of it.

    Attributes:
        name: of its file in the run folder.
        figure: as it was drawn.
        caption: what it shows.
        wide: it takes the whole width of the page.
    """

    name: str
    figure: Figure
    caption: str
    wide: bool = False

    def saved(self, folder: Path) -> dict[str, Any]:
        """Write it to the run folder; what the page needs of it."""
        path = folder / f"{self.name}.png"
        self.figure.savefig(path)
        source = "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()
        return {"name": self.name, "source": source, "caption": self.caption, "wide": self.wide}


def write_report(
    folder: Path, metrics: Mapping[str, Any], specs: Specs, history: Mapping[str, Sequence[float]],
    results: Mapping[str, Evaluated],
) -> Path:  # fmt: skip
    """Draw what the task asks for and write ``report.html`` with it inside."""
    heads = _heads(metrics, results)
    what = "AUC lost" if heads[0].classes else "RMSE added"
    with plots.style():
        physics = {head.name: [*_class_plots(head.results), *_number_plots(head)] for head in heads}
        others = [
            Plot("importance", plots.plot_importance(metrics["importance"], what=what), IMPORTANCE),
            Plot("curves", plots.plot_curves(history), CURVES),
        ]
        classes = heads[0].told_apart
        if metrics.get("reweighted") and classes is not None:
            several = len(metrics["reweighted"]["branches"]) > 1
            drawn_to = plots.plot_reweighted(metrics["reweighted"], classes)
            others.insert(0, Plot("reweighted", drawn_to, REWEIGHTED, wide=several))
        about_data = [Plot("multiplicity", plots.plot_multiplicities(specs), MULTIPLICITY)]
        if specs.cutflow is not None:
            about_data.insert(0, Plot("cutflow", plots.plot_cut_flow(specs.cutflow), CUT_FLOW))
        if metrics.get("inputs"):
            about_data.insert(0, Plot("inputs", plots.plot_inputs(metrics["inputs"], classes), INPUTS, wide=True))
        drawn = {
            name: [one.saved(folder) for one in shown]
            for name, shown in (*physics.items(), ("learning", others), ("data", about_data))
        }
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    page = environment.from_string((Path(__file__).parent / "report.html.jinja").read_text())
    report = folder / "report.html"
    report.write_text(
        page.render(
            title=folder.name, metrics=metrics, specs=specs, plots=drawn, notes=data_notes(specs),
            missing=missing_values(specs), heads=heads, classes=heads[0].classes, efficiencies=EFFICIENCIES,
        )
    )  # fmt: skip
    return report


@dataclass(frozen=True)
class _Head:
    """An output of the model, as the page shows it.

    Attributes:
        name: of the output.
        results: of it, by part.
        parts: their figures.
        behind: what the names of its plots end in, as there are several such outputs.
    """

    name: str
    results: Mapping[str, Judged]
    parts: Mapping[str, Any]
    behind: str

    @property
    def told_apart(self) -> Classes | None:
        """The classes; None where a number is told."""
        one = next(iter(self.results.values()))
        return None if isinstance(one, RegressionEvaluation) else one.classes

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes; none where a number is told."""
        return () if self.told_apart is None else self.told_apart.names

    @property
    def title(self) -> str:
        one = next(iter(self.results.values()))
        return f"How well it tells {one.regression.target}" if isinstance(one, RegressionEvaluation) else SEPARATES


def _heads(metrics: Mapping[str, Any], results: Mapping[str, Evaluated]) -> list[_Head]:
    names = [*by_output(next(iter(results.values())))]
    found = []
    for name in names:
        own = {part: by_output(one)[name] for part, one in results.items()}
        figures = {
            part: {"composition": one["composition"], **one.get("outputs", {name: one})[name]}
            for part, one in metrics["parts"].items()
        }
        found.append(_Head(name, own, figures, f"_{name}" if len(names) > 1 else ""))
    return found


def _number_plots(head: _Head) -> Iterator[Plot]:
    train, test = head.results["train"], head.results["test"]
    if isinstance(train, RegressionEvaluation) and isinstance(test, RegressionEvaluation):
        yield Plot(f"residuals{head.behind}", plots.plot_residuals(train, test), RESIDUALS)
        yield Plot(f"profile{head.behind}", plots.plot_profile(test), PROFILE)
        yield Plot(f"told{head.behind}", plots.plot_told_and_true(test), TOLD)


def _class_plots(results: Mapping[str, Judged]) -> Iterator[Plot]:
    train, test = results["train"], results["test"]
    if isinstance(train, RegressionEvaluation) or isinstance(test, RegressionEvaluation):
        return
    signal = test.classes.names[test.classes.signal]
    if isinstance(train, Evaluation) and isinstance(test, Evaluation):
        two = {name: one for name, one in results.items() if isinstance(one, Evaluation)}
        yield Plot("roc", plots.plot_roc(two), ROC)
        yield Plot("rejection", plots.plot_rejection(plots.rejection_curves(test), signal), REJECTION)
        yield Plot("scores", plots.plot_scores(train, test), SCORES)
        yield Plot("calibration", plots.plot_calibration(test), CALIBRATION)
    if isinstance(train, ClassEvaluation) and isinstance(test, ClassEvaluation):
        yield Plot("roc", plots.plot_class_roc(test), CLASS_ROC)
        yield Plot("rejection", plots.plot_rejection(plots.rejection_curves(test), signal), PAIRS.format(signal=signal))
        yield Plot("scores", plots.plot_class_scores(test), CLASS_SCORES, wide=True)
        yield Plot("confusion", plots.plot_confusion(test), CONFUSION)
        yield Plot("calibration", plots.plot_calibration(test), CALIBRATION)
        yield Plot("overtraining", plots.plot_own_scores(train, test), OWN_SCORES, wide=True)


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
