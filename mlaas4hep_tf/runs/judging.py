"""A new model against the one that is served, on the same held-out events, which neither has seen."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeVar

import numpy as np

from mlaas4hep_tf.errors import LabelError
from mlaas4hep_tf.evaluation import BoolArray, FloatArray, Judged, RegressionEvaluation, first
from mlaas4hep_tf.io.files import RootFile
from mlaas4hep_tf.models import wants_mask
from mlaas4hep_tf.runs.run import Run
from mlaas4hep_tf.scanner import scan
from mlaas4hep_tf.specs import Specs
from mlaas4hep_tf.train import evaluate

JUDGEMENT = "judgement.json"  # in a run folder
AUC, R2 = "AUC", "R2"
E = TypeVar("E", bound=Judged)


@dataclass(frozen=True)
class Paired:
    """Two models on the same events.

    Attributes:
        events: how many there are.
        figure: what is compared, the larger the better: `AUC`, of more than two classes the mean of one against the
            rest; or `R2`, the share of a number's variance that is explained.
        value, champion: of the new model and of the one that is served.
        error: standard error of their difference, for the same events.
    """

    events: int
    figure: str
    value: float
    champion: float
    error: float

    @property
    def difference(self) -> float:
        """How much better the new one is."""
        return self.value - self.champion


def paired(challenger: Judged, champion: Judged) -> Paired:
    """The paired test of two models.

    Of AUCs it is that of E. DeLong, D. DeLong and D. Clarke-Pearson, Biometrics 44 (1988), with weights; of R2 the
    paired test of the squared residuals, in units of the variance of what is true, which both have in common.

    Raises:
        LabelError: other events, events of one class, or with one value.
    """
    if not np.array_equal(challenger.labels, champion.labels):
        raise LabelError("two models are compared on the same events, in one order; these have other labels")
    figure, value, own = _figure(challenger)
    other, before, others = _figure(champion)
    if figure != other:
        raise LabelError(f"a model that is judged by {figure} is not compared with one that is judged by {other}")
    error = float(np.sqrt(np.sum((own - others) ** 2)))
    return Paired(len(champion.labels), figure, value, before, error)


def _figure(one: Judged) -> tuple[str, float, FloatArray]:
    """The figure of a model, and what each event adds to its deviation from its expectation."""
    if isinstance(one, RegressionEvaluation):
        return (R2, *_explained(one))
    if one.auc is None:
        raise LabelError(f"{len(one.labels)} held-out events are of one class: there is no AUC to compare")
    return AUC, one.auc, one.influence()


def _explained(one: RegressionEvaluation) -> tuple[float, FloatArray]:
    share = one.weights / one.weights.sum()
    variance = float(share @ np.square(one.labels - share @ one.labels))
    if not variance > 0:
        raise LabelError(f"{len(one.labels)} held-out events have one true value: nothing is there to be explained")
    missed = np.square(one.residuals) / variance
    return 1 - float(share @ missed), share * (share @ missed - missed)


def judge(run: Run, champion: Run) -> dict[str, Any]:
    """A run against the one that is served, on the held-out events of all files and of those that both know.

    Labels that are wrong in new files make a model that tells them well and the others worse; so both count.

    Returns:
        ``all`` and ``known`` (`Paired`), ``ranges``: branch -> [min, max] of before and of now, where they have grown.

    Raises:
        LabelError: models that cannot be compared, and why.
    """
    if champion.config.hold_out != run.config.hold_out:
        raise LabelError(
            f"the champion held out other events ({champion.config.hold_out}, not {run.config.hold_out}), so it may "
            "have been trained on those that it would be judged by"
        )
    if champion.task.class_names != run.task.class_names:
        raise LabelError(f"the champion tells {champion.task.class_names} apart, and this model {run.task.class_names}")
    files = {uuid for uuid, _ in champion.metrics["files"]}
    new, test = _held_out(run, run)
    old, _ = _held_out(champion, run)
    known = np.repeat([file.uuid in files for file, _, _ in test], [events for _, events, _ in test])
    added = [file for file, _, _ in test if file.uuid not in files]
    return {
        "all": asdict(paired(new, old)),
        "known": asdict(paired(*((_some(new, known), _some(old, known)) if known.any() else (new, old)))),
        "ranges": new_ranges(champion.specs, _seen(run, added)),
    }


def judge_run(run: Run, against: str | os.PathLike[str]) -> None:
    """Leave in a run folder how it compares with another one, or ``refused``: why it cannot be, once: `JUDGEMENT`."""
    if (run.folder / JUDGEMENT).exists():
        return
    try:
        found = judge(run, Run.load(against))
    except LabelError as error:
        found = {"refused": str(error)}
    scratch = run.folder / f".{JUDGEMENT}"
    scratch.write_text(json.dumps(found, indent=1) + "\n")
    scratch.replace(run.folder / JUDGEMENT)


def _held_out(model: Run, run: Run) -> tuple[Judged, list[tuple[RootFile, int, float | None]]]:
    """A model's first output on the events that `run` held out, and how many there are of each of its files."""
    own = {name: getattr(model.config, name) for name in ("normalize", "image", "layout", "targets")}
    config = replace(run.config, **own)
    masked = wants_mask(model.model, config.layout)
    test = config.parts(config.dataset(model.specs.unbound(), mask=masked))["test"]
    return first(evaluate(model.model, test, model.task)), test.files_and_labels()


def _some(one: E, chosen: BoolArray) -> E:
    return replace(one, labels=one.labels[chosen], scores=one.scores[chosen], weights=one.weights[chosen])


def _seen(run: Run, added: list[RootFile]) -> Specs:
    """The specs of a run's data; of a run that goes on from another one, whose specs it has, those of the new files."""
    if run.config.continue_from is None or not added:
        return run.specs
    derived = {branch.name for branch in run.specs.branches} & set(run.specs.analysis.defined)
    raw = [one.name for one in run.specs.inputs if one.feature] or [branch.name for branch in run.specs.branches]
    return scan(
        [file.url for file in added], run.specs.tree, branches=[*raw, *sorted(derived)], read=run.config.read,
        analysis=run.specs.analysis, labels=run.config.labels if isinstance(run.config.labels, str) else None,
        progress=False,
    )  # fmt: skip


def new_ranges(before: Specs, now: Specs) -> Mapping[str, list[list[float]]]:
    """Branch -> minimum and maximum before and now, for values beyond those that the older model was trained with."""
    known = {branch.name: branch for branch in before.branches}
    found = {}
    for branch in now.branches:
        old = known.get(branch.name)
        ends = (branch.min, branch.max, old.min if old else None, old.max if old else None)
        if None in ends:
            continue
        low, high, old_low, old_high = (float(end) for end in ends if end is not None)
        if low < old_low or high > old_high:
            found[branch.name] = [[old_low, old_high], [low, high]]
    return found
