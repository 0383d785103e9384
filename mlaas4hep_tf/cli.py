"""``mlaas4hep-tf scan | train | evaluate | predict | export | bench``: every step from the shell."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer
from rich.console import Console
from rich.table import Table

from mlaas4hep_tf.errors import ConfigError, DataWarning, LabelError, MissingExtraWarning, MlaasError
from mlaas4hep_tf.io.branches import IDENTIFIERS
from mlaas4hep_tf.io.files import locate
from mlaas4hep_tf.io.policy import DEFAULT_POLICY, ReadPolicy
from mlaas4hep_tf.runs.params import PaperParams
from mlaas4hep_tf.scanner import scan as scan_files
from mlaas4hep_tf.specs import Specs, check_quantile
from mlaas4hep_tf.streaming.skipped import OnBadFile

if TYPE_CHECKING:
    from mlaas4hep_tf.train import Evaluation

app = typer.Typer(
    no_args_is_help=True, add_completion=False, rich_markup_mode="markdown", pretty_exceptions_enable=False,
    help="Train TensorFlow models on ROOT files and export them for serving.",
)  # fmt: skip
_out = Console(highlight=False)
_err = Console(stderr=True, highlight=False)

Files = Annotated[list[str], typer.Argument(metavar="FILE...", help="Paths, patterns, folders, lists (.txt), URLs.")]
OptionalFiles = Annotated[list[str] | None, typer.Argument(metavar="[FILE]...", help="As for scan.")]
Tree = Annotated[str | None, typer.Option("--tree", help="Name of the tree; not needed if a file has one only.")]
Branches = Annotated[
    list[str] | None, typer.Option("--branches", help="Patterns of branches to take, comma-separated or repeated.")
]
Exclude = Annotated[
    list[str] | None, typer.Option("--exclude", help="Patterns of branches to leave out, such as the truth.")
]
Workers = Annotated[int | None, typer.Option("--workers", min=1, help="Reader processes; by default one per core.")]
Redirector = Annotated[
    str, typer.Option("--redirector", metavar="root://HOST", help="Put in front of logical file names, /store/...")
]
CacheOption = Annotated[
    str | None, typer.Option("--cache", metavar="FOLDER", help="Keep bytes of remote files there for the next time.")
]
ReplicaOption = Annotated[
    list[str] | None,
    typer.Option("--replica", metavar="URL=URL", help="Start of URLs, and what may stand there if that fails."),
]
TimeoutOption = Annotated[float, typer.Option("--timeout", help="Seconds for one request to a server.")]
RetriesOption = Annotated[int, typer.Option("--retries", help="How often reading is tried again.")]
OnBadFileOption = Annotated[
    str, typer.Option("--on-bad-file", metavar="raise|skip", help="What to do about data that cannot be read.")
]
LostOption = Annotated[
    float, typer.Option("--max-lost-fraction", help="Of the events, that `skip` may lose; more is an error.")
]
RunFolder = Annotated[Path, typer.Option("--run", help="Run folder that `train` left.")]
LabelOption = Annotated[
    list[str] | None,
    typer.Option("--label", metavar="PATTERN=NUMBER", help="Label of files; the first match counts."),
]
LabelsOption = Annotated[
    str | None,
    typer.Option(
        "--labels",
        help="Instead: a number per file (comma list, or a file with one per line), or the name of a branch.",
    ),
]


@app.callback()
def _main(debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False) -> None:
    """Options in front of the command."""


@app.command(epilog="Example: mlaas4hep-tf scan data/*.root --tree events --exclude isSignal -o specs.json")
def scan(
    files: Files,
    output: Annotated[Path, typer.Option("-o", "--output", help="Where the specs go.")] = Path("specs.json"),
    tree: Tree = None,
    branches: Branches = None,
    exclude: Exclude = None,
    identifier: Annotated[
        list[str] | None,
        typer.Option("--identifier", help=f"Branches that identify an event; default {','.join(IDENTIFIERS)}."),
    ] = None,
    quantile: Annotated[
        float | None, typer.Option("--quantile", help="Cut multiplicities at this quantile, such as 0.999.")
    ] = None,
    workers: Workers = None,
    redirector: Redirector = "",
    cache: CacheOption = None,
    replica: ReplicaOption = None,
    timeout: TimeoutOption = DEFAULT_POLICY.request_timeout_s,
    retries: RetriesOption = DEFAULT_POLICY.retries,
    on_bad_file: OnBadFileOption = "raise",
    max_lost_fraction: LostOption = 0.0,
) -> None:
    """Pass 1: read all files once and write the specs."""
    if quantile is not None:
        check_quantile(quantile)
    start = perf_counter()
    specs = scan_files(
        locate(files, redirector), tree, branches=_patterns(branches), exclude=_patterns(exclude),
        identifiers=tuple(_patterns(identifier)) or IDENTIFIERS, workers=workers,
        policy=_policy(replica, timeout, retries), cache=cache, on_bad_file=cast("OnBadFile", on_bad_file),
        max_lost_fraction=max_lost_fraction,
    )  # fmt: skip
    if quantile is not None:
        specs = specs.with_lengths(quantile=quantile)
    specs.save(output)
    seconds = perf_counter() - start
    _print_specs(specs)
    _out.print(f"{specs.entries:,} events in {seconds:.1f} s ({specs.entries / seconds:,.0f} events/s) -> {output}")


@app.command(epilog="Example: mlaas4hep-tf train data/*.root --specs specs.json --labels labels.txt --out runs/tth")
def train(
    files: OptionalFiles = None,
    out: Annotated[Path, typer.Option("--out", help="Run folder to make.")] = Path("runs/latest"),
    specs: Annotated[
        Path | None, typer.Option("--specs", help="Specs from `scan`; without them the files are scanned first.")
    ] = None,
    label: LabelOption = None,
    labels: LabelsOption = None,
    model: Annotated[
        str, typer.Option("--model", help="mlp, set, module:function, or a model.py with def model(idim).")
    ] = "mlp",
    epochs: Annotated[int | None, typer.Option("--epochs", help="Passes over the whole data [default: 5].")] = None,
    batch_size: Annotated[int | None, typer.Option("--batch-size", help="Events per batch [default: 100].")] = None,
    split: Annotated[
        str, typer.Option("--split", help="Fractions for training, validation and test.")
    ] = "0.64,0.16,0.20",
    seed: Annotated[int, typer.Option("--seed", help="Of weights, split and order.")] = 0,
    normalize: Annotated[str, typer.Option("--normalize", help="minmax, standard or none.")] = "minmax",
    chunk_size: Annotated[
        int | None, typer.Option("--chunk-size", help="Events mixed at a time [default: 100000].")
    ] = None,
    weights: Annotated[str | None, typer.Option("--weights", help="Branch of event weights for the loss.")] = None,
    mix: Annotated[
        list[str] | None,
        typer.Option("--mix", metavar="PATTERN=NUMBER", help="Shares of files in every batch, or: equal."),
    ] = None,
    balanced: Annotated[
        bool, typer.Option("--balanced", help="Weigh classes so that each has the same total weight in the loss.")
    ] = False,
    patience: Annotated[
        int | None, typer.Option("--patience", help="Stop after so many epochs without a better validation loss.")
    ] = None,
    params: Annotated[Path | None, typer.Option("--params", help="params.json of the paper's programs.")] = None,
    tree: Tree = None,
    branches: Branches = None,
    exclude: Exclude = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a run that is there.")] = False,
    workers: Workers = None,
    redirector: Redirector = "",
    cache: CacheOption = None,
    replica: ReplicaOption = None,
    timeout: TimeoutOption = DEFAULT_POLICY.request_timeout_s,
    retries: RetriesOption = DEFAULT_POLICY.retries,
    on_bad_file: OnBadFileOption = "raise",
    max_lost_fraction: LostOption = 0.0,
) -> None:
    """Pass 2: train a model and leave a run folder with metrics, plots and report."""
    paper = _paper(params)
    named = tuple(locate(files or (), redirector or paper.redirector))
    if not named:
        raise ConfigError("no input files: name at least one, for example mlaas4hep-tf train data/*.root ...")
    targets = [name for name in (_branch_name(labels), weights) if name]
    chosen = _Choice(tree, _patterns(branches), _patterns(exclude))
    reading: dict[str, Any] = {
        "workers": workers, "policy": _policy(replica, timeout, retries), "cache": cache,
        "on_bad_file": cast("OnBadFile", on_bad_file), "max_lost_fraction": max_lost_fraction,
    }  # fmt: skip
    known = chosen.load(specs) if specs else chosen.scan(named, paper, targets, reading)
    _import_tensorflow()
    from mlaas4hep_tf.runs.run import RunConfig, train_run

    config = RunConfig(
        files=named, labels=_labels(label, labels), model=model, epochs=_first(epochs, paper.epochs),
        batch_size=_first(batch_size, paper.batch_size), split=_fractions(split), seed=seed,
        normalize=_normalize(normalize), chunk_size=_first(chunk_size, paper.chunk_size), weights=weights,
        patience=patience, max_events=paper.events, mixing=_mixing(mix), balanced=balanced, **reading,
    )  # fmt: skip
    run = train_run(config, known, out, overwrite=overwrite, verbose=1 if _out.is_terminal else 2)
    if config.mixing != "proportional":
        _print_composition(run.metrics["composition"])
    _print_parts(run.metrics["parts"])
    for line in run.metrics["loss_report"]:
        _err.print(_escape(line))
    _out.print(
        f"trained at {run.metrics['events_per_s']:,.0f} events/s, reading included; "
        f"the trainer waited for input {run.metrics['input_wait']:.0%} of the time"
    )
    report = out / "report.html"
    _out.print(f"report: {report}" if report.exists() else f"run folder: {out}")


@app.command(epilog="Example: mlaas4hep-tf evaluate --run runs/tth")
def evaluate(
    run: RunFolder,
    files: OptionalFiles = None,
    label: LabelOption = None,
    labels: LabelsOption = None,
    redirector: Redirector = "",
    cache: CacheOption = None,
    replica: ReplicaOption = None,
    timeout: TimeoutOption = DEFAULT_POLICY.request_timeout_s,
    retries: RetriesOption = DEFAULT_POLICY.retries,
) -> None:
    """Evaluate a run on its own three parts, or on all events of other files."""
    _import_tensorflow()
    from mlaas4hep_tf.runs.run import Run, evaluate_run

    given = _labels(label, labels) if label or labels else None
    trained = Run.load(run)
    reading = replace(trained.config, policy=_policy(replica, timeout, retries), cache=cache or trained.config.cache)
    trained = replace(trained, config=reading)
    _print_evaluations(evaluate_run(trained, tuple(locate(files or (), redirector)), given))


@app.command(epilog="Example: mlaas4hep-tf predict data/*.root --run runs/tth -o scores.root")
def predict(
    files: Files,
    run: RunFolder,
    output: Annotated[Path, typer.Option("-o", "--output", help="ROOT file for the scores.")] = Path("scores.root"),
    workers: Workers = None,
    redirector: Redirector = "",
    cache: CacheOption = None,
    replica: ReplicaOption = None,
    timeout: TimeoutOption = DEFAULT_POLICY.request_timeout_s,
    retries: RetriesOption = DEFAULT_POLICY.retries,
) -> None:
    """Write scores and identifiers of every event as a ROOT file, in the order of the input."""
    _import_tensorflow()
    from mlaas4hep_tf.predict import predict_files
    from mlaas4hep_tf.runs.run import Run

    trained = Run.load(run)
    start = perf_counter()
    events = predict_files(
        trained.model,
        locate(files, redirector),
        trained.specs,
        output,
        normalize=trained.config.normalize,
        workers=workers,
        progress=True,
        policy=_policy(replica, timeout, retries),
        cache=cache,
    )
    seconds = perf_counter() - start
    _out.print(f"{events:,} events in {seconds:.1f} s ({events / seconds:,.0f} events/s) -> {output}")


@app.command(epilog="Example: mlaas4hep-tf export --run runs/tth --to models/tth")
def export(
    run: RunFolder,
    to: Annotated[Path, typer.Option("--to", help="Model folder; the next free version is made in it.")],
) -> None:
    """Export a run as a SavedModel for TF-Serving: raw branches in, score out."""
    _import_tensorflow()
    from mlaas4hep_tf.exporter import export as export_model
    from mlaas4hep_tf.exporter import next_version
    from mlaas4hep_tf.runs.run import Run

    trained = Run.load(run)
    card = {"metrics": trained.metrics["parts"], "seed": trained.config.seed, "trained": trained.metrics["date"]}
    path = export_model(trained.model, trained.specs, next_version(to), normalize=trained.config.normalize, card=card)
    _out.print(f"exported -> {path}")


@app.command(epilog="Example: mlaas4hep-tf bench data/*.root --tree events --exclude isSignal")
def bench(
    files: Files,
    tree: Tree = None,
    exclude: Exclude = None,
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="Rounds after the warm-up.")] = 3,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of a table.")] = False,
    redirector: Redirector = "",
    cache: CacheOption = None,
    replica: ReplicaOption = None,
    timeout: TimeoutOption = DEFAULT_POLICY.request_timeout_s,
    retries: RetriesOption = DEFAULT_POLICY.retries,
) -> None:
    """Time the stream on your files against what you would use instead, all in one run."""
    _import_tensorflow()
    from mlaas4hep_tf.bench.compare import environment, run_bench

    with _err.status("starting") as status:
        result = run_bench(
            locate(files, redirector),
            tree,
            exclude=_patterns(exclude),
            rounds=rounds,
            tell=status.update,
            policy=_policy(replica, timeout, retries),
            cache=cache,
        )
    content = result.to_json()
    if as_json:
        print(json.dumps(content))
        return
    table = Table("way", "events/s", "MB/s", "of dataset_1024", box=None, pad_edge=False)
    for name in result.rates:
        rate = result.rate(name)
        share = f"{rate / result.rate('dataset_1024'):.3g}"
        table.add_row(name, f"{rate:,.0f}", f"{rate * result.bytes_per_event / 1e6:.1f}", share)
    _out.print(table)
    for name, ratio in content["ratios"].items():
        _out.print(f"{name:32} {ratio:8.2f}")
    _out.print(f"peak memory of all processes: {content['peak_rss_mb']:,.0f} MB; median of {rounds} rounds")
    _out.print(environment())


@dataclass(frozen=True)
class _Choice:
    """What of the files is to be scanned, as the options say."""

    tree: str | None
    branches: list[str]
    exclude: list[str]

    def load(self, specs: Path) -> Specs:
        """Read specs, which have chosen already."""
        options = {"--tree": self.tree, "--branches": self.branches, "--exclude": self.exclude}
        given = [name for name, value in options.items() if value]
        if given:
            raise ConfigError(f"{given[0]} chooses what is scanned, and {specs} has chosen already; use one of the two")
        return Specs.load(specs)

    def scan(self, files: tuple[str, ...], paper: PaperParams, targets: list[str], reading: dict[str, Any]) -> Specs:
        """Scan; options count before the paper's keys, and labels and weights are never features."""
        return scan_files(
            files, self.tree or paper.tree, branches=self.branches or paper.branches,
            exclude=[*(self.exclude or paper.exclude), *targets], identifiers=paper.identifiers, **reading,
        )  # fmt: skip


def _paper(params: Path | None) -> PaperParams:
    """The paper's parameters, with a note for each key that has no effect; without a file our defaults."""
    if params is None:
        return PaperParams()
    paper = PaperParams.load(params)
    for key, why in paper.dead.items():
        _err.print(f"note: {params}: {key!r} has no effect: {why}")
    return paper


def _policy(replicas: list[str] | None, timeout: float, retries: int) -> ReadPolicy:
    found: dict[str, list[str]] = {}
    for text in replicas or ():
        start, equals, other = text.partition("=")
        if not equals:
            raise ConfigError(f"--replica needs URL=URL, such as root://a//=root://b//, not {text!r}")
        found.setdefault(start, []).append(other)
    return ReadPolicy(timeout, retries=retries, replicas=found)


def _patterns(given: list[str] | None) -> list[str]:
    return [p.strip() for text in given or () for p in text.split(",") if p.strip()]


def _first(given: int | None, default: int) -> int:
    return default if given is None else given


def _fractions(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(f"--split needs three fractions such as 0.64,0.16,0.20, not {text!r}") from None


def _mixing(given: list[str] | None) -> Any:
    """A mixing law as for `RootDataset.mixed`."""
    if not given:
        return "proportional"
    return given[0] if len(given) == 1 and "=" not in given[0] else dict(_pattern_number("--mix", g) for g in given)


def _normalize(text: str) -> Any:
    return None if text == "none" else text


def _labels(patterns: list[str] | None, labels: str | None) -> Any:
    """Labels as for `RootDataset`, from ``--label PATTERN=NUMBER`` or ``--labels``."""
    if bool(patterns) == bool(labels):
        raise LabelError("labels are needed once: --label '*signal*=1' --label '*=0', or --labels")
    if patterns:
        return dict(_pattern_number("--label", text) for text in patterns)
    assert labels is not None
    text = Path(labels).read_text() if os.path.isfile(labels) else labels
    numbers = [part for line in text.splitlines() for part in line.partition("#")[0].replace(",", " ").split()]
    try:
        return tuple(float(number) for number in numbers)
    except ValueError:
        if len(numbers) == 1:
            return numbers[0]
        raise LabelError(f"--labels must be a number per file or the name of one branch, not {labels!r}") from None


def _branch_name(labels: str | None) -> str | None:
    """The branch that ``--labels`` names, if it is one."""
    parsed = _labels(None, labels) if labels else None
    return parsed if isinstance(parsed, str) else None


def _pattern_number(option: str, text: str) -> tuple[str, float]:
    pattern, _, number = text.rpartition("=")
    try:
        return pattern, float(number)
    except ValueError:
        raise LabelError(f"{option} must be PATTERN=NUMBER, such as '*signal*=1', not {text!r}") from None


def _print_specs(specs: Specs) -> None:
    table = Table("group", "branches", "largest", "kept", "mean", box=None, pad_edge=False)
    table.add_row("(flat)", str(len(specs.flat)), "", "", "")
    for group, members in specs.groups.items():
        first = members[0]
        mean = sum(i * n for i, n in enumerate(first.multiplicities)) / max(sum(first.multiplicities), 1)
        table.add_row(group, str(len(members)), str(first.largest), str(first.length), f"{mean:.2f}")
    shown = 12
    _out.print(table if len(specs.groups) <= shown else f"{len(specs.flat)} flat branches, {len(specs.groups)} groups")
    _out.print(f"{len(specs.branches)} branches, {len(specs.vector_names)} columns, fingerprint {specs.fingerprint}")


def _print_composition(epochs: list[dict[str, int]]) -> None:
    """What each epoch of a mixing law was made of."""
    table = Table("events of", *(f"epoch {n}" for n in range(1, len(epochs) + 1)), box=None, pad_edge=False)
    for url in sorted({url for epoch in epochs for url in epoch}):
        table.add_row(os.path.basename(url), *(f"{epoch.get(url, 0):,}" for epoch in epochs))
    _out.print(table)


def _print_evaluations(results: dict[str, Evaluation]) -> None:
    _print_parts({name: result.summary() for name, result in results.items()})


def _print_parts(parts: dict[str, Any]) -> None:
    table = Table("part", "events", "AUC", "", "accuracy", box=None, pad_edge=False)
    for name, part in parts.items():
        auc = ("-", "") if part["auc"] is None else (f"{part['auc']:.4f}", f"± {part['auc_error']:.4f}")
        table.add_row(name, f"{part['events']:,}", *auc, f"{part['accuracy']:.4f}")
    _out.print(table)


def _import_tensorflow() -> None:
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


def main() -> None:
    """Entry point: 0, or 1 and one line for what can go wrong (``--debug``: the traceback as well)."""
    warnings.showwarning = _show_warning  # type: ignore[assignment]  # the other arguments are not used
    debug = "--debug" in sys.argv
    sys.argv = [arg for arg in sys.argv if arg != "--debug"]  # it may stand anywhere
    if debug:
        app()
    try:
        app()
    except Exception as error:  # noqa: BLE001 (a shell user sees one line, whatever went wrong)
        text = str(error) if isinstance(error, MlaasError) else f"{type(error).__name__}: {_first_line(error)}"
        hint = "" if isinstance(error, MlaasError) else " (--debug shows where)"
        _err.print(f"[red]error:[/red] {_escape(text)}{hint}", soft_wrap=True)
        sys.exit(1)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), "no message")


def _escape(text: str) -> str:
    return text.replace("[", r"\[")


def _show_warning(message: Warning | str, category: type[Warning], *_: Any) -> None:
    """Print a note for the package's own warnings; others are for developers (``--debug``)."""
    if issubclass(category, DataWarning | MissingExtraWarning):
        _err.print(f"[yellow]note:[/yellow] {_escape(str(message))}", soft_wrap=True)
    elif "--debug" in sys.argv:
        _err.print(f"{category.__name__}: {message}", markup=False, soft_wrap=True)


if __name__ == "__main__":
    main()
