"""A run of folds: a model for each, trained one after the other, and judged together by events they have not seen."""

from __future__ import annotations

import csv
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mlaas4hep_tf.errors import ConfigError
from mlaas4hep_tf.evaluation import Evaluated, HeadsEvaluation, Judged, by_output, first, over_training
from mlaas4hep_tf.folded import Folded
from mlaas4hep_tf.io.branches import BranchInfo
from mlaas4hep_tf.io.read_options import ReadOptions
from mlaas4hep_tf.models import wants_mask
from mlaas4hep_tf.predict import predict_files
from mlaas4hep_tf.runs.config import RunConfig, check_new, folds_of
from mlaas4hep_tf.runs.interrupt import Interrupt
from mlaas4hep_tf.runs.run import Run, can_report, evaluate_run, train_run
from mlaas4hep_tf.specs import Specs
from mlaas4hep_tf.tasks import Task
from mlaas4hep_tf.train import evaluate_by
from mlaas4hep_tf.transforms.vector import Preprocessor

PREDICTIONS = "predictions.root"  # in the folder: every event of the data, by the model that has not seen it
HELD_OUT = "held out"  # the part that no model has seen, where there is one; the mean of all models tells it


@dataclass(frozen=True)
class FoldedRun:
    """A folder with a run for each fold, ``fold_0`` ..., and what they say together.

    Attributes:
        folder: where it is.
        runs: by fold.
        metrics: as those of a run, of the events of all folds together.
    """

    folder: Path
    runs: tuple[Run, ...]
    metrics: Mapping[str, Any]

    @property
    def preprocessor(self) -> Preprocessor:
        return self.runs[0].preprocessor

    @property
    def specs(self) -> Specs:
        return self.runs[0].specs

    @property
    def task(self) -> Task:
        return self.runs[0].task

    @property
    def config(self) -> RunConfig:
        return self.runs[0].config

    @property
    def model(self) -> Folded:
        """The models, as `predict_files` and `export` take them."""
        run = self.runs[0]
        assert run.config.folds is not None  # as `load` and `train_folds` make sure
        known = run.metrics["drawn"][-1]["branches"]
        infos = tuple(BranchInfo(name, "", "flat", dtype) for name, dtype in known.items())
        return Folded(tuple(one.model for one in self.runs), run.config.folds.draw(run.specs), infos)

    @staticmethod
    def load(folder: str | os.PathLike[str]) -> FoldedRun:
        """Read a folder that `train_folds` left.

        Raises:
            ConfigError: it is none, or one of its runs is not complete.
        """
        path = Path(folder)
        count = folds_of(path)
        if not count or not (path / "metrics.json").exists():
            raise ConfigError(f"{path} holds no complete run of folds; make one with `mlaas4hep-tf train --folds`")
        runs = tuple(Run.load(path / f"fold_{n}") for n in range(count))
        return FoldedRun(path, runs, json.loads((path / "metrics.json").read_text()))


def train_folds(
    config: RunConfig, specs: Specs, out: str | os.PathLike[str], *, overwrite: bool = False, verbose: int = 0,
    command: str = "", checkpoint_every: int | str = "60s", resume: bool = False, interrupt: Interrupt | None = None,
) -> FoldedRun:  # fmt: skip
    """Train a model for each fold, as `runs.run.train_run` does, and leave what they say together.

    The folder has a run for each fold, ``metrics.json`` and ``report.html`` of the events of all folds, each told by
    the model that has not seen it, and their scores, `PREDICTIONS`, unless blocks may be skipped.  Of what is held out
    there are figures too, by the mean of all models.  With `resume` folds that are done are left as they are.

    Raises:
        ConfigError: a configuration without folds.
        MlaasError: as `train_run`.
    """
    folder = Path(out)
    if config.folds is None:
        raise ConfigError("a run of folds needs folds in its configuration: RunConfig(folds=Folds(5))")
    check_new(folder, overwrite=overwrite, resume=resume)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "folds.json").write_text(json.dumps(asdict(config.folds)) + "\n")
    (folder / "metrics.json").unlink(missing_ok=True)
    runs, results = [], []
    for number in range(config.folds.count):
        own, place = replace(config, fold=number), folder / f"fold_{number}"
        if resume and (place / "metrics.json").exists():
            runs.append(Run.load(place))
        else:
            run = train_run(
                own, specs, place, overwrite=overwrite, verbose=verbose, command=command,
                checkpoint_every=checkpoint_every, resume=resume, interrupt=interrupt,
            )  # fmt: skip
            runs.append(run)
        results.append(runs[-1].results or evaluate_run(runs[-1]))
    return _together(folder, tuple(runs), results, command)


def evaluate_folds(run: FoldedRun, *, read: ReadOptions | None = None) -> dict[str, Evaluated]:
    """Evaluate the models of a run of folds again, on their own parts of its data together.

    Raises:
        ConfigError: files that are not those it was trained on.
    """
    found = _pooled([evaluate_run(one, read=read) for one in run.runs])
    return found | held_out_results(run, replace(run.config, read=read or run.config.read))[0]


def held_out_results(run: FoldedRun, config: RunConfig) -> tuple[dict[str, Evaluated], dict[str, Any]]:
    """How well the mean of the models tells what is held out, if there is such a part, and its composition."""
    if config.hold_out is None:
        return {}, {}
    mask = wants_mask(run.model.first, config.layout)
    held = config.held_out(config.dataset(run.specs, mask=mask))
    assert held is not None  # as there is a hold_out
    composition = {f"{label:g}": events for label, events in held.composition().items()}
    return {HELD_OUT: evaluate_by(run.model.mean, held, run.task)}, composition


def _pooled(results: Sequence[Mapping[str, Evaluated]]) -> dict[str, Evaluated]:
    return {name: pooled([own[name] for own in results]) for name in results[0]}


def _together(
    folder: Path, runs: tuple[Run, ...], results: Sequence[Mapping[str, Evaluated]], command: str
) -> FoldedRun:
    joined = _pooled(results)
    metrics = _metrics([run.metrics for run in runs], joined) | {"command": command}
    held, composition = held_out_results(FoldedRun(folder, runs, metrics), runs[0].config)
    metrics["parts"] |= {name: one.summary() | {"composition": composition} for name, one in held.items()}
    joined |= held
    reports = can_report()
    if reports:
        over = over_training(joined["train"], joined["test"])
        metrics["over_training"] = {name: asdict(one) for name, one in over.items()}
    made = FoldedRun(folder, runs, metrics)
    config = runs[0].config
    if config.read.on_bad_file == "raise":  # else there may be events that have no row
        predict_files(
            made.model,
            config.files,
            made,
            folder / PREDICTIONS,
            friends=config.friends,
            task=made.task,
            read=config.read,
        )
    (folder / "metrics.json").write_text(json.dumps(metrics, indent=1) + "\n")
    if reports:
        from mlaas4hep_tf.runs.report import write_report  # an extra

        write_report(folder, metrics, runs[0].specs, _mean_history([run.folder for run in runs]), joined)
    return made


def pooled(parts: Sequence[Evaluated]) -> Evaluated:
    """The events of several evaluations of one task as those of one."""
    one = parts[0]
    if isinstance(one, HeadsEvaluation):
        own = {name: [by_output(part)[name] for part in parts] for name in one.by_output}
        return HeadsEvaluation({name: _pooled_head(judged) for name, judged in own.items()})
    return _pooled_head([first(part) for part in parts])


def _pooled_head(parts: Sequence[Judged]) -> Judged:
    names = ("labels", "scores", "weights")
    arrays: dict[str, Any] = {name: np.concatenate([getattr(one, name) for one in parts]) for name in names}
    return replace(parts[0], **arrays)


def _metrics(folds: Sequence[Mapping[str, Any]], joined: Mapping[str, Evaluated]) -> dict[str, Any]:
    """Figures of all folds together: of all their events, and sums or means of the rest."""
    parts = {}
    for name, one in joined.items():
        composition = Counter[str]()
        for m in folds:
            composition.update(m["parts"][name]["composition"])
        parts[name] = one.summary() | {"composition": dict(composition)}
    mean = {name: float(np.mean([m[name] for m in folds])) for name in ("events_per_s", "input_wait")}
    return {
        **folds[0], **mean, "parts": parts, "seconds": sum(m["seconds"] for m in folds),
        "epochs": max(m["epochs"] for m in folds), "importance": _mean_importance([m["importance"] for m in folds]),
        "folds": [m["parts"] for m in folds], "reweighted": _all_reweighted([m["reweighted"] for m in folds]),
    }  # fmt: skip


def _all_reweighted(folds: Sequence[Mapping[str, Any] | None]) -> dict[str, Any] | None:
    """Distributions before and after reweighting of the training parts of all folds together."""
    known = [one for one in folds if one is not None]
    if not known:
        return None
    branches = {
        name: {
            "edges": one_fold["edges"],
            **{
                when: np.sum([one["branches"][name][when] for one in known], axis=0).tolist()
                for when in ("before", "after")
            },
        }
        for name, one_fold in known[0]["branches"].items()
    }
    return {**known[0], "largest": max(one["largest"] for one in known), "branches": branches}


def _mean_importance(folds: Sequence[Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """Mean and spread over the models, the greatest first."""
    found: dict[str, list[float]] = {}
    for one in (one for fold in folds for one in fold):
        found.setdefault(one["branch"], []).append(one["loss"])
    listed = [{"branch": name, "loss": float(np.mean(v)), "spread": float(np.std(v))} for name, v in found.items()]
    return sorted(listed, key=lambda one: -float(one["loss"]))


def _mean_history(folders: Sequence[Path]) -> dict[str, list[float]]:
    """Mean over the models of each epoch that all of them had."""
    read = [list(csv.DictReader((folder / "history.csv").read_text().splitlines())) for folder in folders]
    epochs = min(map(len, read))
    return {
        name: [float(np.mean([float(rows[epoch][name]) for rows in read])) for epoch in range(epochs)]
        for name in read[0][0]
        if name != "epoch"
    }
