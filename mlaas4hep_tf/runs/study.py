"""A search of hyperparameters by Optuna: every trial a run folder, made by ``mlaas4hep-tf train`` in a process."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from html import escape
from pathlib import Path
from threading import Lock
from typing import Any, Literal

from mlaas4hep_tf.errors import ConfigError, need
from mlaas4hep_tf.htmltable import text
from mlaas4hep_tf.runs.lock import held
from mlaas4hep_tf.runs.search_space import Searched

JOURNAL, CONFIG, REPORT = "study.log", "study.json", "study.html"
STYLE = """
body { font: 16px/1.5 system-ui, "DejaVu Sans", sans-serif; color: #1b2733; background: #f6f8fa; max-width: 1080px;
  margin: 2em auto; padding: 0 24px; }
div { overflow-x: auto; }
p { color: #5b6b7b; overflow-wrap: anywhere; }
table { border-collapse: collapse; width: 100%; background: #fff; border: 1px solid #e1e6eb; }
th, td { padding: 7px 14px; text-align: left; border-bottom: 1px solid #e1e6eb; font-variant-numeric: tabular-nums; }
th { color: #5b6b7b; background: #fafbfc; }
"""
SMALLER_IS_BETTER = ("rmse", "mae", "resolution", "bias")


@dataclass(frozen=True)
class Study:
    """A search.

    Attributes:
        folder: of the study; each trial is a run folder in it.
        searched: options that are tried out.
        train: everything else that ``mlaas4hep-tf train`` is told: files, labels, other options.
        metric: of the validation part, as in ``metrics.json``, by which trials are judged.
        trials: how many there are to be, those of earlier calls included.
        processes: trials at a time.
        seed: of what is tried.
    """

    folder: Path
    searched: tuple[Searched, ...]
    train: tuple[str, ...]
    metric: str = "auc"
    trials: int = 20
    processes: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.searched:
            raise ConfigError("there is nothing to search: say --search lr=1e-4:1e-2:log, for example")
        names = [one.option for one in self.searched]
        twice = next((name for name in names if names.count(name) > 1 or f"--{name}" in self.train), None)
        if twice is not None:
            raise ConfigError(f"--{twice} is searched, and given once more; take one of the two away")
        own = next((name for name in ("--out", "--resume", "--overwrite", "--json") if name in self.train), None)
        if own is not None:
            raise ConfigError(f"{own} is not for the trials, whose folders are those of the study; leave it out")

    @property
    def direction(self) -> Literal["minimize", "maximize"]:
        return "minimize" if self.metric in SMALLER_IS_BETTER else "maximize"

    def command(self, number: int, values: Mapping[str, Any]) -> list[str]:
        """What trains a trial, from its beginning or from where it was killed."""
        options = [text for name, value in values.items() for text in (f"--{name}", str(value))]
        start = [sys.executable, "-m", "mlaas4hep_tf.cli", "train"]
        return [*start, *self.train, *options, "--out", str(self.run(number)), "--resume", "--json"]

    def run(self, number: int) -> Path:
        """The run folder of a trial."""
        return self.folder / f"trial_{number:03d}"

    def to_json(self) -> dict[str, Any]:
        """What must be the same for a search to go on."""
        return {"searched": [repr(one) for one in self.searched], "train": list(self.train), "metric": self.metric,
                "seed": self.seed}  # fmt: skip


def run_study(study: Study, tell: Callable[[str], None] = lambda _: None) -> list[dict[str, Any]]:
    """Train what is missing and leave the report; a trial that fails is kept, with the reason.

    A study that was killed goes on with the same call: trials that were begun go on from their checkpoints.

    Returns:
        The trials, the best one first: ``trial``, ``value`` (None: it failed), ``run``, ``why``, and what was tried.

    Raises:
        MissingExtra: without the extra ``tune``.
        ConfigError: the folder holds another study, another process works on it, or every trial failed.
    """
    need("tune", "optuna", purpose="searches of hyperparameters")
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with held(study.folder):
        _check_same(study)
        storage = JournalStorage(JournalFileBackend(str(study.folder / JOURNAL)))
        known = optuna.create_study(
            storage=storage, study_name="study", load_if_exists=True, direction=study.direction
        )  # fmt: skip
        # a seed of its own where it goes on, or it would try again what the first call tried first
        known.sampler = optuna.samplers.TPESampler(seed=study.seed + len(known.trials))
        _work_off(study, known, tell)
        rows = sorted((_row(study, trial) for trial in known.trials), key=lambda row: _rank(study, row))
        (study.folder / REPORT).write_text(_page(study, rows))
    if all(row["value"] is None for row in rows):
        raise ConfigError(f"every trial of {study.folder} failed; the first: {rows[0]['why']}")
    return rows


def _check_same(study: Study) -> None:
    """Raise ConfigError where the folder holds another study; write down which it is."""
    path, now = study.folder / CONFIG, json.loads(json.dumps(study.to_json()))
    if path.exists():
        then = json.loads(path.read_text())
        differs = [name for name in now if then.get(name) != now[name]]
        if differs:
            raise ConfigError(
                f"{study.folder} holds another study, with other {', '.join(differs)}: {then.get(differs[0])} then; "
                "go on with the same, or choose another folder"
            )
    path.write_text(json.dumps(now, indent=1) + "\n")


def _work_off(study: Study, known: Any, tell: Callable[[str], None]) -> None:
    """Trials that were begun, and new ones up to the number that is wanted."""
    from optuna.trial import TrialState

    begun = [trial for trial in known.trials if trial.state == TrialState.RUNNING]
    lock = Lock()

    def work(number: int | None, values: Mapping[str, Any]) -> None:
        if number is None:
            with lock:
                trial = known.ask()
                number, values = trial.number, {one.option: one.suggest(trial) for one in study.searched}
        value, why = _train(study, number, values)
        with lock:
            known.tell(number, value, state=TrialState.FAIL if value is None else TrialState.COMPLETE)
        shown = ", ".join(f"{name} {_text(v)}" for name, v in values.items())
        tell(f"trial {number}: {shown}: {study.metric} {_text(value) if value is not None else why}")

    with ThreadPoolExecutor(study.processes) as pool:
        asked = [pool.submit(work, trial.number, trial.params) for trial in begun]
        asked += [pool.submit(work, None, {}) for _ in range(study.trials - len(known.trials))]
        for one in asked:
            one.result()


def _train(study: Study, number: int, values: Mapping[str, Any]) -> tuple[float | None, str]:
    """The metric of a trial, which is trained unless it is already; None and why where it fails."""
    metrics = study.run(number) / "metrics.json"
    if not metrics.exists():
        done = subprocess.run(study.command(number, values), capture_output=True, text=True, check=False)
        if done.returncode:
            why = next(iter(done.stderr.strip().splitlines()[-1:]), f"it ended with {done.returncode}")
            study.run(number).mkdir(parents=True, exist_ok=True)
            (study.run(number) / "error.txt").write_text(why + "\n")
            return None, why
    part = json.loads(metrics.read_text())["parts"]["validation"]
    if not isinstance(part.get(study.metric), int | float):
        known = [name for name, value in part.items() if isinstance(value, int | float)]
        raise ConfigError(f"--metric: a run has no {study.metric!r}; it has {', '.join(known)}")
    return float(part[study.metric]), ""


def _row(study: Study, trial: Any) -> dict[str, Any]:
    error = study.run(trial.number) / "error.txt"
    why = error.read_text().strip() if trial.value is None and error.exists() else ""
    return {
        "trial": trial.number,
        "value": trial.value,
        "run": str(study.run(trial.number)),
        "why": why,
        **trial.params,
    }


def _rank(study: Study, row: Mapping[str, Any]) -> tuple[bool, float]:
    value = row["value"]
    return value is None, 0.0 if value is None else value if study.direction == "minimize" else -value


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _page(study: Study, rows: Sequence[Mapping[str, Any]]) -> str:
    """The report: every trial, the best one first, with a link to its own report."""
    names = [one.option for one in study.searched]
    failed = any(row["why"] for row in rows)
    head = ("trial", f"validation {study.metric}", *names, *(("why it failed",) if failed else ()))
    body = "".join(
        _cells("td", (row["value"], *(row.get(name) for name in names), *((row["why"],) if failed else ())), _link(row))
        for row in rows
    )
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>study</title><style>{STYLE}</style><body>'
        f"<h1>Search by {escape(study.metric)}</h1><p>{len(rows)} trials, the best one first, of: "
        f"<code>train {escape(shlex.join(study.train))}</code></p>"
        f"<div><table>{_cells('th', head[1:], head[0])}{body}</table></div></body></html>\n"
    )


def _link(row: Mapping[str, Any]) -> str:
    number = row["trial"]
    return str(number) if row["value"] is None else f'<a href="trial_{number:03d}/report.html">{number}</a>'


def _cells(tag: str, values: Sequence[object], first: str) -> str:
    return "".join((f"<tr><{tag}>{first}</{tag}>", *(f"<{tag}>{escape(text(one))}</{tag}>" for one in values), "</tr>"))
