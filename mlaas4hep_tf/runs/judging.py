"""A new model against the one that is served, on the same held-out events, which neither has seen."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from mlaas4hep_tf.errors import LabelError
from mlaas4hep_tf.evaluation import Evaluation, first
from mlaas4hep_tf.models import wants_mask
from mlaas4hep_tf.runs.run import Run
from mlaas4hep_tf.specs import Specs
from mlaas4hep_tf.train import evaluate

JUDGEMENT = "judgement.json"  # in a run folder


@dataclass(frozen=True)
class Paired:
    """Two models on the same events.

    Attributes:
        events: how many there are.
        auc, champion_auc: areas under the ROC curves of the new model and of the one that is served.
        error: standard error of their difference, by DeLong, for the same events.
    """

    events: int
    auc: float
    champion_auc: float
    error: float

    @property
    def difference(self) -> float:
        """How much better the new one is."""
        return self.auc - self.champion_auc


def paired(challenger: Evaluation, champion: Evaluation) -> Paired:
    """The paired test of E. DeLong, D. DeLong and D. Clarke-Pearson, Biometrics 44 (1988), with weights.

    Raises:
        LabelError: other events, or events of one class.
    """
    if not np.array_equal(challenger.labels, champion.labels):
        raise LabelError("two models are compared on the same events, in one order; these have other labels")
    if challenger.auc is None or champion.auc is None:
        raise LabelError(f"{len(champion.labels)} held-out events are of one class: there is no AUC to compare")
    error = float(np.sqrt(np.sum((challenger.influence() - champion.influence()) ** 2)))
    return Paired(len(champion.labels), challenger.auc, champion.auc, error)


def judge(run: Run, champion: Run) -> dict[str, Any]:
    """A run against the one that is served, on the held-out events of all files and of those that both know.

    Labels that are wrong in new files make a model that tells them well and the others worse; so both count.

    Returns:
        ``all`` and ``known`` (`Paired`), ``ranges``: branch -> [min, max] of before and of now, where they have grown.
    """
    known = tuple(file.url for file in champion.specs.files)
    return {
        "all": asdict(_on(run, champion, run.config.files)),
        "known": asdict(_on(run, champion, known)),
        "ranges": new_ranges(champion.specs, run.specs),
    }


def judge_run(run: Run, against: str | os.PathLike[str]) -> None:
    """Leave in a run folder how it compares with another one, once: `JUDGEMENT`."""
    if not (run.folder / JUDGEMENT).exists():
        scratch = run.folder / f".{JUDGEMENT}"
        scratch.write_text(json.dumps(judge(run, Run.load(against)), indent=1) + "\n")
        scratch.replace(run.folder / JUDGEMENT)


def _on(run: Run, champion: Run, files: tuple[str, ...]) -> Paired:
    return paired(*(_held_out(one, files, run) for one in (run, champion)))


def _held_out(model: Run, files: tuple[str, ...], run: Run) -> Evaluation:
    """A model on the events of files that `run` held out."""
    config = replace(model.config, files=files, labels=run.config.labels, hold_out=run.config.hold_out, split=())
    ds = config.dataset(model.specs.unbound(), mask=wants_mask(model.model, config.layout))
    found = first(evaluate(model.model, config.parts(ds)["test"], model.task))
    if not isinstance(found, Evaluation):
        raise LabelError("two models are compared by their AUC: a task of two classes")
    return found


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
