"""What the commands print: tables on stdout, notes and errors on stderr."""

from __future__ import annotations

import json
import math
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from mlaas4hep_tf.errors import DataWarning, MissingExtraWarning, MlaasError, shorten
from mlaas4hep_tf.model_names import BUILT_IN, OWN

if TYPE_CHECKING:
    from mlaas4hep_tf.analysis.cutflow import CutFlow
    from mlaas4hep_tf.bench.compare import Bench
    from mlaas4hep_tf.runs.io_test import Looked
    from mlaas4hep_tf.specs import BranchSpec, Specs, TargetSpec

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)
MOST_GROUPS = 12  # that a table of specs has
MOST_VALUES = 8  # of a label that are listed
MOST_NAMES = 6  # of the branches of a group that are listed


def be_quiet() -> None:
    """From now on print errors alone, and what `print_json` prints."""
    out.quiet = True


def talks() -> bool:
    """Whether notes and progress are wanted."""
    return not out.quiet


def print_json(content: Mapping[str, Any]) -> None:
    """One object on stdout, and nothing else there."""
    print(json.dumps(content))


def print_models() -> None:
    table = new_table("model", "takes", "from", "what it is")
    for one in BUILT_IN:
        table.add_row(one.name, one.inputs, "shell" if one.shell else "Python", _escape(one.what))
    out.print(table)
    out.print(f"or {OWN}: it takes the length of the vector and returns a Keras model", soft_wrap=True)


def specs_figures(specs: Specs) -> dict[str, Any]:
    """What `print_specs` prints."""
    groups = {
        name: {
            "branches": len(members),
            "largest": members[0].largest,
            "kept": members[0].length,
            "mean": _mean_multiplicity(members[0]),
            "names": [b.name for b in members],
        }
        for name, members in specs.groups.items()
    }
    cuts = {} if specs.cutflow is None else {"cutflow": [list(step) for step in specs.cutflow.steps()]}
    return cuts | {
        "events": specs.entries,
        "files": specs.files.summary.count,
        "branches": len(specs.branches),
        "flat": len(specs.flat),
        "flat_names": [b.name for b in specs.flat],
        "groups": groups,
        "columns": len(specs.vector_names),
        "targets": {
            target.name: {
                "dtype": target.dtype, "min": target.min, "max": target.max, "mean": target.mean,
                "not_finite": target.not_finite, "found": [list(one) for one in target.found],
            }
            for target in specs.targets
        },
        "left_out": dict(specs.left_out),
        "fingerprint": specs.fingerprint,
    }  # fmt: skip


def _mean_multiplicity(branch: BranchSpec) -> float:
    return sum(i * n for i, n in enumerate(branch.multiplicities)) / max(sum(branch.multiplicities), 1)


def print_specs(specs: Specs) -> None:
    table = new_table("group", "branches", "largest", "kept", "mean", "names (all with --json)")
    table.add_row("(flat)", str(len(specs.flat)), "", "", "", shorten((b.name for b in specs.flat), MOST_NAMES))
    for group, members in specs.groups.items():
        first = members[0]
        mean = f"{_mean_multiplicity(first):.2f}"
        table.add_row(group, str(len(members)), str(first.largest), str(first.length), mean, _names(group, members))
    short = f"{len(specs.flat)} flat branches, {len(specs.groups)} groups"
    out.print(table if len(specs.groups) <= MOST_GROUPS else short)
    for target in specs.targets:
        held = ", ".join(f"{value:g} in {count:,}" for value, count in target.found[:MOST_VALUES])
        more = ", ..." if len(target.found) > MOST_VALUES else ""
        out.print(f"label or weight {target.name} ({target.dtype}): {held + more or _range(target)}")
    if specs.cutflow is not None:
        out.print(_cut_flow(specs.cutflow))
    out.print(f"{len(specs.branches)} branches, {len(specs.vector_names)} columns, fingerprint {specs.fingerprint}")


def _range(target: TargetSpec) -> str:
    """From the smallest to the largest value, integers with all their digits."""
    if target.min is None or target.max is None:
        return "no finite value"
    low, high = (f"{value:,}" if isinstance(value, int) else f"{value:.6g}" for value in (target.min, target.max))
    return f"{low} to {high}"


def _names(group: str, members: Sequence[BranchSpec]) -> str:
    """Names of a group's branches, without the prefix that they share."""
    found = re.match(r".*[._:/]", members[0].name)
    shared = found is not None and len(members) > 1 and all(b.name.startswith(found[0]) for b in members)
    prefix = found[0] if found is not None and shared else ""
    names = shorten((b.name.removeprefix(prefix) for b in members), MOST_NAMES)
    return f"{prefix}: {names}" if prefix else names if members[0].name != group else ""


def _cut_flow(flow: CutFlow) -> Table:
    labels = flow.by_label() if len(flow.by_label()) > 1 else {}
    heads = (flow.told(label) for label in labels if label is not None)
    table = new_table("condition", "events", "of those before", *heads)
    per_label = [own.events for label, own in labels.items() if label is not None]
    for number, (name, events, share, _) in enumerate(flow.steps()):
        table.add_row(name, f"{events:,}", f"{share:.1%}" if number else "", *(f"{own[number]:,}" for own in per_label))
    return table


def print_run(metrics: Mapping[str, Any]) -> None:
    """What came out of a training."""
    if metrics["mixing"] != "proportional":
        print_composition(metrics["composition"])
    print_parts(metrics["parts"])
    if "labels" in metrics:  # runs of before do not tell
        out.print(_escape(f"labels: {metrics['labels']}; weights: {metrics['weights'] or 'none'}"), soft_wrap=True)
    for line in metrics["loss_report"]:
        note(line)
    out.print(
        f"trained at {metrics['events_per_s']:,.0f} events/s, reading included; "
        f"the trainer waited for input {metrics['input_wait']:.0%} of the time",
        soft_wrap=True,
    )


def print_composition(epochs: Sequence[Mapping[str, int]]) -> None:
    """What each epoch of a mixing law was made of."""
    table = new_table("events of", *(f"epoch {n}" for n in range(1, len(epochs) + 1)))
    for url in sorted({url for epoch in epochs for url in epoch}):
        table.add_row(os.path.basename(url), *(f"{epoch.get(url, 0):,}" for epoch in epochs))
    out.print(table)


def print_parts(parts: Mapping[str, Mapping[str, Any]]) -> None:
    """Figures of each part, of several outputs one by one; of many classes the AUC is the mean against the rest."""
    outputs = [*next(iter(parts.values())).get("outputs", ())]
    for output in outputs:
        out.print(f"[bold]{_escape(output)}[/bold]")
        print_parts({name: part["outputs"][output] for name, part in parts.items()})
    if outputs:
        return
    if any("rmse" in part for part in parts.values()):
        _print_residuals(parts)
        return
    several = any("pairs" in part for part in parts.values())
    counted = _counted(parts)
    table = new_table("part", *counted, "mean AUC" if several else "AUC", "", "accuracy", "")
    for number, (name, part) in enumerate(parts.items()):
        table.add_row(
            name, *(own[number] for own in counted.values()), *_with_error(part["auc"], part["auc_error"]),
            *_with_error(part["accuracy"], part["accuracy_error"]),
        )  # fmt: skip
    out.print(table)
    alone = [name for name, part in parts.items() if part["auc"] is None or math.isnan(part["auc"])]
    if alone:
        note(f"no AUC where all events are of one class: {', '.join(alone)}")
    if several:
        _print_separations(*list(parts.items())[-1])


def _counted(parts: Mapping[str, Mapping[str, Any]]) -> dict[str, list[str]]:
    """Heading -> number of events of each part; with weights also how many without would tell as much."""
    found = {"events": [f"{part['events']:,}" for part in parts.values()]}
    if any(part.get("sum_of_weights", part["events"]) != part["events"] for part in parts.values()):
        found["effective"] = [f"{part['effective_events']:,.0f}" for part in parts.values()]
    return found


def _print_residuals(parts: Mapping[str, Mapping[str, Any]]) -> None:
    counted = _counted(parts)
    table = new_table("part", *counted, "bias", "", "resolution", "RMSE")
    for number, (name, part) in enumerate(parts.items()):
        bias = _with_error(part["bias"], part["bias_error"], ".4g", ".2g")
        counts = (own[number] for own in counted.values())
        table.add_row(name, *counts, *bias, f"{part['resolution']:.4g}", f"{part['rmse']:.4g}")
    out.print(table)


def _print_separations(name: str, part: Mapping[str, Any]) -> None:
    """Each class against the rest and each pair, with the rejection of background at some efficiencies."""
    rows = {f"{one} / rest": found for one, found in part["classes"].items()} | part["pairs"]
    efficiencies = [*next(iter(rows.values()))["rejection"]]
    table = new_table(f"{name}, rejection at", "AUC", "", *(f"{float(e):.0%}" for e in efficiencies))
    for what, found in rows.items():
        rejected = [found["rejection"].get(e, {"value": None, "error": None}) for e in efficiencies]
        told = [
            " ".join(_with_error(one["value"], one["error"], _digits(one["value"]), _digits(one["value"]))).strip()
            for one in rejected
        ]
        table.add_row(_escape(what), *_with_error(found["auc"], found["auc_error"]), *told)
    out.print(table)


def _digits(value: float | None) -> str:
    return ",.0f" if value is None or value >= 100 else ".1f"


def _with_error(value: float | None, error: float | None, form: str = ".4f", of_error: str = ".4f") -> tuple[str, str]:
    return "-" if value is None else f"{value:{form}}", "" if error is None else f"± {error:{of_error}}"


def print_looked(looked: Looked) -> None:
    """What the model would get: shapes, ranges, and a histogram of each input by class."""
    for name, shape, dtype in looked.elements:
        out.print(_escape(f"{name} {shape} {dtype}"))
    counts = ", ".join(f"{n} {name}" for name, n in zip(looked.classes, looked.events, strict=True))
    out.print(_escape(f"{sum(looked.events)} events: {counts}"))
    rows = [("input", "shape", "real", "min", "max", "mean", *looked.classes)]
    for one in looked.inputs:
        numbers = ("-" if v is None else f"{v:.3g}" for v in (one.min, one.max, one.mean))
        drawn = [_bars(histogram) for histogram in one.histograms] or [""] * len(looked.classes)
        rows.append((one.name, "x".join(map(str, one.shape)), f"{one.real:.0%}", *numbers, *drawn))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:  # histograms are not wrapped, however narrow the terminal is
        out.print(_escape("  ".join(map(str.ljust, row, widths)).rstrip()), soft_wrap=True)


def _bars(shares: Sequence[float]) -> str:
    """A histogram in one line of text."""
    highest = max(shares, default=0) or 1.0
    return "".join(" ▁▂▃▄▅▆▇█"[math.ceil(8 * share / highest)] for share in shares)


def print_bench(result: Bench, rounds: int, environment: str) -> None:
    table = new_table("way", "events/s", "least", "most", "MB/s", "of dataset_1024")
    for name in result.rates:
        rate = result.rate(name)
        share = f"{rate / result.rate('dataset_1024'):.3g}"
        spread = [f"{bound(result.rates[name]):,.0f}" for bound in (min, max)]
        table.add_row(name, f"{rate:,.0f}", *spread, f"{rate * result.bytes_per_event / 1e6:.1f}", share)
    out.print(table)
    for name, ratio in result.to_json()["ratios"].items():
        out.print(f"{name:32} {ratio:8.2f}")
    out.print(f"peak memory of all processes: {result.peak_rss_mb:,.0f} MB; median of {rounds} rounds")
    if result.disturbed:
        out.print(
            f"{result.disturbed} of {rounds * len(result.rates)} rounds were disturbed by other processes, though they "
            "were repeated: read the figures with care"
        )
    out.print(environment)


def print_rate(events: int, seconds: float, target: object) -> None:
    out.print(f"{events:,} events in {seconds:.1f} s ({events / seconds:,.0f} events/s) -> {target}", soft_wrap=True)


def new_table(*columns: str) -> Table:
    return Table(*columns, box=None, pad_edge=False)


def print_error(error: Exception) -> None:
    """One line, whatever went wrong."""
    ours = isinstance(error, MlaasError)
    text = str(error) if ours else f"{type(error).__name__}: {_first_line(error)} (--debug shows where)"
    err.print(f"[red]error:[/red] {_escape(text)}", soft_wrap=True)


def note(text: str) -> None:
    """Something to know, unless quiet is wanted."""
    if talks():
        err.print(f"[yellow]note:[/yellow] {_escape(text)}", soft_wrap=True)


def show_warning(debug: bool, message: Warning | str, category: type[Warning], *_: Any) -> None:
    """Print a note for the package's own warnings; others are for developers (``--debug``)."""
    if issubclass(category, DataWarning | MissingExtraWarning):
        note(str(message))
    elif debug:
        err.print(f"{category.__name__}: {message}", markup=False, soft_wrap=True)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), "no message")


def _escape(text: str) -> str:
    return text.replace("[", r"\[")


def import_tensorflow() -> None:
    """Import TensorFlow (not needed for `scan` and ``--help``) without its start-up chatter on stderr."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with tempfile.TemporaryFile() as chatter:
        stderr = os.dup(2)
        try:
            os.dup2(chatter.fileno(), 2)
            import tensorflow as tf

            tf.config.list_physical_devices()
        except ImportError:
            chatter.seek(0)
            os.write(stderr, chatter.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
