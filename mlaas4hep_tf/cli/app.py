"""The commands: each says what it does, and leaves options, parsing and printing to the modules above.

What can be wrong is looked for before `import_tensorflow`, which takes seconds.
"""

from __future__ import annotations

import os
import shlex
import signal
import sys
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, cast

import typer

from mlaas4hep_tf import __version__
from mlaas4hep_tf.cli.drift import drift
from mlaas4hep_tf.cli.grouped import grouped
from mlaas4hep_tf.cli.options import (
    Apart,
    Choice,
    Cuts,
    Drawing,
    ExportSource,
    Files,
    Friend,
    Json,
    KnownOrChosen,
    Labels,
    Learnt,
    OptionalFiles,
    Reading,
    RunFolder,
    Several,
    TolerantReading,
    Training,
    data,
    load_run,
    opened,
    output,
)
from mlaas4hep_tf.cli.output import (
    be_quiet,
    err,
    import_tensorflow,
    note,
    out,
    print_bench,
    print_error,
    print_json,
    print_looked,
    print_parts,
    print_rate,
    print_run,
    print_specs,
    show_warning,
    specs_figures,
    talks,
)
from mlaas4hep_tf.cli.parsing import friends, groups, patterns, tags
from mlaas4hep_tf.cli.registry import models, open_registry, runs
from mlaas4hep_tf.errors import ConfigError, shorten
from mlaas4hep_tf.io.branches import IDENTIFIERS
from mlaas4hep_tf.io.formats import FORMATS, check_format

if TYPE_CHECKING:
    from mlaas4hep_tf.exporter import FoldChoice, Format
    from mlaas4hep_tf.registry.registry import Registry
    from mlaas4hep_tf.runs.config import RunConfig
    from mlaas4hep_tf.runs.folds import FoldedRun
    from mlaas4hep_tf.runs.params import PaperParams
    from mlaas4hep_tf.runs.run import Run
    from mlaas4hep_tf.specs import Specs

app = typer.Typer(
    no_args_is_help=True, rich_markup_mode="markdown", pretty_exceptions_enable=False,
    help="Train TensorFlow models on ROOT files and export them for serving.",
)  # fmt: skip


app.add_typer(models, name="models")
app.add_typer(runs, name="runs")


def _print_version(asked: bool) -> None:
    if asked:
        print(f"mlaas4hep-tf {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and end.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print nothing but errors.")] = False,
) -> None:
    """Options of every command; they may stand anywhere."""


@app.command(epilog="Example: mlaas4hep-tf scan data/*.root --tree events --exclude isSignal -o specs.json")
@grouped
def scan(
    *,
    files: Files,
    choice: Choice,
    cuts: Cuts,
    identifier: Annotated[
        list[str] | None,
        data("--identifier", help=f"Branches that identify an event; default {','.join(IDENTIFIERS)}."),
    ] = None,
    labels: Annotated[str | None, data("--labels", help="Branch of labels: described, and no feature.")] = None,
    target: Annotated[
        list[str] | None, data("--target", metavar="BRANCH", help="Branches of numbers to tell: like --labels.")
    ] = None,
    weights: Annotated[str | None, data("--weights", help="Branch of event weights: like --labels.")] = None,
    group: Annotated[
        list[str] | None, data("--group", help="List branches that are one group: NAME=PATTERN,PATTERN.")
    ] = None,
    quantile: Annotated[
        float | None, data("--quantile", help="Cut multiplicities at this quantile, such as 0.999.")
    ] = None,
    distribution: Annotated[
        list[str] | None,
        data("--distribution", help="Patterns of branches to normalise by log, logit or clip: keep what that needs."),
    ] = None,
    drop_constant: Annotated[
        bool, data("--drop-constant", help="Leave out branches with one value, or none: they tell nothing.")
    ] = False,
    reading: TolerantReading,
    to: Annotated[Path, output("-o", "--output", help="Where the specs go.")] = Path("specs.json"),
    update: Annotated[
        bool,
        output("--update", help="Read only files that the specs there do not know; give the same options."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Pass 1: read all files once and write the specs."""
    from mlaas4hep_tf.scanner import scan as scan_files
    from mlaas4hep_tf.specs import Specs, check_quantile
    from mlaas4hep_tf.updating import update as update_specs

    if quantile is not None:
        check_quantile(quantile)
    loaded = cuts.load()
    start = perf_counter()
    if update and to.exists():
        scan_files = partial(update_specs, Specs.load(to))
    specs = scan_files(
        reading.locate(files), choice.tree, friends=friends(choice.friend), branches=patterns(choice.branches),
        exclude=(*patterns(choice.exclude), *loaded.exclude),
        identifiers=tuple(patterns(identifier)) or IDENTIFIERS, labels=labels, targets=patterns(target),
        weights=weights, groups=groups(group), analysis=loaded.analysis, distributions=patterns(distribution),
        categories=loaded.categories,
        read=reading.options(), progress=talks(),
    )  # fmt: skip
    if quantile is not None:
        specs = specs.with_lengths(quantile=quantile)
    if drop_constant:
        before, specs = specs, specs.without_constant()
        dropped = sorted(specs.left_out.keys() - before.left_out.keys())
        note(f"left out, as they tell nothing: {shorten(dropped) or 'none'}")
    specs.save(to)
    seconds = perf_counter() - start
    if as_json:
        print_json({**specs_figures(specs), **_rate(specs.entries, seconds), "specs": str(to)})
        return
    print_specs(specs)
    print_rate(specs.entries, seconds, to)


def _rate(events: int, seconds: float) -> dict[str, Any]:
    return {"events": events, "seconds": seconds, "events_per_s": events / seconds}


@app.command(epilog="Example: mlaas4hep-tf train data/*.root --specs specs.json --labels labels.txt --out runs/tth")
@grouped
def train(
    *,
    choice: KnownOrChosen,
    cuts: Cuts,
    labels: Labels,
    learnt: Learnt,
    apart: Apart,
    training: Training,
    several: Several,
    drawing: Drawing,
    reading: TolerantReading,
    files: OptionalFiles = None,
    folder: Annotated[Path, output("--out", help="Run folder to make.")] = Path("runs/latest"),
    overwrite: Annotated[bool, output("--overwrite", help="Replace a run that is there.")] = False,
    resume: Annotated[
        bool, output("--resume", help="Go on with a training that was begun there, to the same model.")
    ] = False,
    checkpoint_every: Annotated[
        str, output("--checkpoint-every", metavar="STEPS|SECONDSs", help="As 500 or 60s: how much a crash may cost.")
    ] = "60s",
    io_test: Annotated[
        bool, output("--io-test", help="Read two batches, show what the model would get, and stop.")
    ] = False,
    registry: Annotated[
        str | None, output("--registry", metavar="FOLDER|URI", help="Keep the run there, to be found again.")
    ] = None,
    register: Annotated[
        str | None, output("--register", metavar="NAME", help="Make it the next version of that model there.")
    ] = None,
    tag: Annotated[list[str] | None, output("--tag", metavar="NAME=TEXT", help="Of the version.")] = None,
    against: Annotated[
        Path | None,
        output("--against", metavar="RUN", help="Compare with that run on the held-out events: judgement.json."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Pass 2: train a model and leave a run folder with metrics, plots and report.

    Ctrl-C ends it with a checkpoint; the same command with --resume goes on.
    """
    from mlaas4hep_tf.checkpoints import Every
    from mlaas4hep_tf.runs.config import check_new, describe
    from mlaas4hep_tf.runs.launch import typed
    from mlaas4hep_tf.transforms.normalize import distributed_patterns

    Every.parse(checkpoint_every)
    processes = several.this()
    opening = _opening(registry, register)
    if against is not None:
        describe(against)

    paper = _paper(training.params)
    named = reading.locate(files, paper.redirector)
    if not named:
        raise ConfigError("no input files: name at least one, for example mlaas4hep-tf train data/*.root ...")
    read = reading.options()
    config = training.config(named, labels, learnt, paper, read)
    config = replace(config, image=drawing.image(), friends=friends(choice.friend) or None, **apart.options())
    if config.folds and (registry or register or against or several.to_launch or processes.count > 1):
        raise ConfigError(
            "a run of folds has several models: --registry, --register, --against and several processes are for one"
        )
    if not io_test:
        check_new(folder, overwrite=overwrite, resume=resume)
    if resume and not config.folds:
        _note_where(folder)
    config.check(choice.tree or paper.tree)
    _launch(several.to_launch)
    specs = choice.known(cuts, training.continue_from)
    if specs is None:
        specs = choice.scan(
            named, paper, labels, training.weights, cuts.load(), read, distributed_patterns(config.normalize)
        )
    config.check(specs.tree, specs)
    kept = opening.result() if opening is not None else None
    import_tensorflow()
    if io_test:
        _look(config, specs, as_json)
        return
    from mlaas4hep_tf.runs.folds import train_folds
    from mlaas4hep_tf.runs.run import train_run

    verbose = 0 if as_json or not talks() else 1 if out.is_terminal else 2
    command = shlex.join(("mlaas4hep-tf", *typed(sys.argv[1:])))
    work = partial(
        train_folds if config.folds else partial(train_run, processes=processes), config, specs, folder,
        overwrite=overwrite, verbose=verbose, command=command, resume=resume, checkpoint_every=checkpoint_every,
    )  # fmt: skip
    run = _interruptible(work, command) if processes.writes else _with_others(work)
    _judge(run, against)
    _tell_run(run.metrics, folder, _keep(kept, run, register, tags(tag)), as_json)


def _tell_run(metrics: Mapping[str, Any], folder: Path, told: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        print_json({**metrics, "run": str(folder), **told})
        return
    print_run(metrics)
    report = folder / "report.html"
    out.print(f"report: {report}" if report.exists() else f"run folder: {folder}", soft_wrap=True)
    for what, value in told.items():
        out.print(f"{what}: {value}", soft_wrap=True)


def _opening(where: str | None, name: str | None) -> Future[Registry] | None:
    """The registry that a run is to be kept in, opened before anything is trained, and while files are scanned."""
    if where is None:
        if name is not None:
            raise ConfigError(f"--register {name} needs a registry to do so: --registry FOLDER")
        return None
    from mlaas4hep_tf.registry.registry import Registry

    if name is not None:
        Registry.check_name(name)
    return ThreadPoolExecutor(1, "registry").submit(open_registry, where)


def _look(config: RunConfig, specs: Specs, as_json: bool) -> None:
    """Show what the model would get."""
    from mlaas4hep_tf.runs.io_test import look

    looked = look(config, specs)
    if as_json:
        print_json(asdict(looked))
    else:
        print_looked(looked)


def _judge(run: Any, against: Path | None) -> None:
    """Leave in a run folder how it compares with another one."""
    if against is None:
        return
    from mlaas4hep_tf.runs.judging import judge_run

    judge_run(run, against)


def _keep(registry: Registry | None, run: Any, name: str | None, tagged: Mapping[str, str]) -> dict[str, str]:
    """What a run is in the registry, once it is kept there."""
    if registry is None:
        return {}
    if name is None:
        return {"registered run": registry.keep(run.folder)}
    from mlaas4hep_tf.registry.registering import register_run

    return {"model": f"{name} version {register_run(registry, run, name, tagged)}"}


def _note_where(folder: Path) -> None:
    """Tell where a training that is to go on stands, if that is no checkpoint."""
    from mlaas4hep_tf.runs.config import CHECKPOINT, METRICS

    if (folder / METRICS).exists():
        note(f"{folder} was trained to its end already")
    elif not (folder / CHECKPOINT).exists():
        note(f"{folder} has no checkpoint yet: training begins at the beginning")


def _launch(processes: int) -> None:
    """Run this command in several processes, and end as they do; nothing for none."""
    from mlaas4hep_tf.runs.launch import launch

    if processes:
        raise typer.Exit(launch(sys.argv[1:], processes))


def _interruptible(work: Callable[..., Run | FoldedRun], command: str) -> Run | FoldedRun:
    """Train; Ctrl-C ends the process within two seconds and says how to go on."""
    from mlaas4hep_tf.runs.interrupt import within_two_seconds

    with within_two_seconds(f"interrupted; to go on: {_with_resume(command)}") as interrupt:
        try:
            return work(interrupt=interrupt)
        except KeyboardInterrupt:
            interrupt.leave()


def _with_others(work: Callable[..., Run | FoldedRun]) -> NoReturn:
    """Train beside the first process, which Ctrl-C ends, and tells and keeps what came out."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    work()
    raise typer.Exit


def _with_resume(command: str) -> str:
    return f"{command.replace(' --overwrite', '').replace(' --resume', '')} --resume"


def _paper(params: Path | None) -> PaperParams:
    """The paper's parameters, with a note for each key that has no effect; without a file our defaults."""
    from mlaas4hep_tf.runs.params import PaperParams

    if params is None:
        return PaperParams()
    paper = PaperParams.load(params)
    for key, why in paper.dead.items():
        note(f"{params}: {key!r} has no effect: {why}")
    return paper


@app.command(epilog="Example: mlaas4hep-tf evaluate --run runs/tth")
@grouped
def evaluate(
    run: RunFolder,
    labels: Labels,
    reading: Reading,
    files: OptionalFiles = None,
    friend: Friend = None,
    as_json: Json = False,
) -> None:
    """Evaluate a run on its own three parts, or on all events of other files."""
    from mlaas4hep_tf.runs.config import describe, first_run, folds_of

    read, given, named = reading.options(describe(first_run(run)).config.read), labels.if_given(), reading.found(files)
    if folds_of(run) and named:
        raise ConfigError("a run of folds is evaluated on its own events; `predict` scores those of other files")
    import_tensorflow()
    from mlaas4hep_tf.runs.folds import FoldedRun, evaluate_folds
    from mlaas4hep_tf.runs.run import evaluate_run

    loaded = load_run(run)
    if isinstance(loaded, FoldedRun):
        found = evaluate_folds(loaded, read=read)
    else:
        found = evaluate_run(loaded, named, given, friends=friends(friend) or None, read=read)
    parts = {name: one.summary() for name, one in found.items()}
    if as_json:
        print_json(parts)
    else:
        print_parts(parts)


@app.command(epilog="Example: mlaas4hep-tf predict data/*.root --run runs/tth -o scores.root")
@grouped
def predict(
    files: Files,
    run: RunFolder,
    reading: Reading,
    friend: Friend = None,
    to: Annotated[str, output("-o", "--output", help=f"File, {FORMATS}, or folder/ for the scores.")] = "scores.root",
    observe: Annotated[
        list[str] | None, output("--observe", help="Branches, of the files or derived, to write as well.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write scores and identifiers of every event, in the order of the input, as ROOT, CSV or Parquet.

    Beside them `file` is the number of the event's file in the order of the input, from 0, and `entry` its entry there.

    To a folder (scores/) each worker of --dask or --mpi predicts a part of the files.
    """
    from mlaas4hep_tf.runs.config import describe, first_run, folds_of

    folder = to.endswith("/") or os.path.isdir(to)
    if folder and (friend or folds_of(run)):
        what = "a run of folds has several models" if folds_of(run) else "--friend names files beside all others"
        raise ConfigError(f"{what}, which parts do not have: write one file, -o scores.root")
    if not folder:
        check_format(to)
    describe(first_run(run))
    named, read = reading.found(files), reading.options()
    import_tensorflow()
    from mlaas4hep_tf.predict import predict_files
    from mlaas4hep_tf.runs.parts import predict_parts
    from mlaas4hep_tf.runs.run import Run

    trained = load_run(run)
    start = perf_counter()
    options: dict[str, Any] = {"observe": patterns(observe), "read": read, "progress": talks()}
    if folder and isinstance(trained, Run):
        events = predict_parts(trained, named, Path(to), **options)
    else:
        events = predict_files(trained.model, named, trained, to, friends=friends(friend) or None, **options)
    seconds = perf_counter() - start
    if as_json:
        print_json({**_rate(events, seconds), "scores": to})
    else:
        print_rate(events, seconds, to)


@app.command(epilog="Example: mlaas4hep-tf export --run runs/tth --to models/tth")
@grouped
def export(
    *,
    source: ExportSource,
    to: Annotated[Path, output("--to", help="Model folder; a SavedModel becomes the next free version in it.")],
    form: Annotated[
        str, output("--format", metavar="savedmodel|onnx", help="For TF-Serving, or files for onnxruntime.")
    ] = "savedmodel",
    folds: Annotated[
        str,
        typer.Option(
            "--folds",
            metavar="own|mean",
            help="Of a run of folds: the model of the event's own fold, or the mean of all.",
        ),
    ] = "own",
) -> None:
    """Export a run, or a network that comes as ONNX, for TF-Serving or onnxruntime: raw branches in, score out."""
    if form not in ("savedmodel", "onnx"):
        raise ConfigError(f"--format must be savedmodel or onnx, not {form!r}")
    if folds not in ("own", "mean"):
        raise ConfigError(f"--folds must be own or mean, not {folds!r}")
    source.check()
    import_tensorflow()
    from mlaas4hep_tf.exporter import export as export_model
    from mlaas4hep_tf.exporter import next_version
    from mlaas4hep_tf.reference import card_entry

    model, trained, card = source.load()
    target = next_version(to) if form == "savedmodel" else to
    if source.run is not None:
        card |= card_entry(trained.config.files, trained.specs)
    made = export_model(model, trained, target, format=cast("Format", form), card=card, folds=cast("FoldChoice", folds))
    out.print(f"exported -> {made}", soft_wrap=True)


@app.command(
    epilog="Example: mlaas4hep-tf tune data/*.root --labels labels.txt --search lr=1e-4:1e-2:log",
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)
def tune(
    context: typer.Context,
    search: Annotated[
        list[str] | None,
        typer.Option(
            "--search", metavar="OPTION=VALUES", help="An option of train: lr=1e-4:1e-2:log, epochs=2:9, model=mlp,set."
        ),
    ] = None,
    folder: Annotated[Path, typer.Option("--out", help="Folder of the study; trials are run folders in it.")] = Path(
        "runs/study"
    ),
    trials: Annotated[int, typer.Option("--trials", min=1, help="Trials there are to be, earlier ones included.")] = 20,
    processes: Annotated[int, typer.Option("--processes", min=1, help="Trials at a time.")] = 1,
    metric: Annotated[
        str, typer.Option("--metric", help="Of the validation part, as in metrics.json, such as auc or rmse.")
    ] = "auc",
    search_seed: Annotated[int, typer.Option("--search-seed", help="Of what is tried.")] = 0,
    as_json: Json = False,
) -> None:
    """Search options of `train` by Optuna; all else that is said is for `train`.

    Ctrl-C or a crash costs nothing but time: the same command goes on.
    """
    from mlaas4hep_tf.runs.search_space import searched
    from mlaas4hep_tf.runs.study import Study, run_study

    study = Study(
        folder, tuple(map(searched, search or ())), tuple(context.args), metric, trials, processes, search_seed
    )
    rows = run_study(study, lambda line: None if as_json or not talks() else out.print(line, soft_wrap=True))
    if as_json:
        print_json({"metric": metric, "trials": rows})
        return
    out.print(
        f"best: {rows[0]['run']}, {metric} {rows[0]['value']:.4g}; report: {folder / 'study.html'}", soft_wrap=True
    )


@app.command(epilog="Example: mlaas4hep-tf bench data/*.root --tree events --exclude isSignal")
@grouped
def bench(
    *,
    files: Files,
    tree: Annotated[str | None, data("--tree", help="As for scan.")] = None,
    exclude: Annotated[list[str] | None, data("--exclude", help="As for scan.")] = None,
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="Rounds after the warm-up.")] = 3,
    reading: Reading,
    as_json: Json = False,
) -> None:
    """Time the stream on your files against what you would use instead, all in one run."""
    named = reading.found(files)
    import_tensorflow()
    from mlaas4hep_tf.bench.compare import environment, run_bench

    with err.status("starting") as status:
        result = run_bench(
            named, tree, exclude=patterns(exclude), rounds=rounds, tell=status.update,
            read=reading.options(),
        )  # fmt: skip
    if as_json:
        print_json(result.to_json())
    else:
        print_bench(result, rounds, environment())


for place in (app, models):
    place.command(epilog="Example: mlaas4hep-tf drift http://localhost:8501 --model tth")(drift)


@app.command(epilog="Example: mlaas4hep-tf service --config service.toml")
def service(
    config: Annotated[Path, typer.Option("--config", help="service.toml; where there is none, one is begun.")] = Path(
        "service.toml"
    ),
) -> None:
    """Hear of new data, train, judge and publish, until it is ended; a page shows it all."""
    from mlaas4hep_tf.errors import need

    need("service", "mlflow", "fastapi", "uvicorn", "jinja2", "jwt", purpose="a training service does")
    from mlaas4hep_tf.service.config import load
    from mlaas4hep_tf.service.main import run

    loaded = load(config)
    out.print(f"{', '.join(loaded.projects) or 'no projects yet'}: http://{loaded.host}:{loaded.port}/", soft_wrap=True)
    run(loaded)


def main() -> None:
    """Entry point: 0, or 1 and one line for what can go wrong (``--debug``: the traceback as well)."""
    debug, quiet = "--debug" in sys.argv, "--quiet" in sys.argv
    warnings.showwarning = partial(show_warning, debug)
    sys.argv = [arg for arg in sys.argv if arg not in ("--debug", "--quiet")]  # they may stand anywhere
    if quiet:
        be_quiet()
    with opened:
        if debug:
            app()
        try:
            app()
        except Exception as error:  # noqa: BLE001 (a shell user sees one line, whatever went wrong)
            print_error(error)
            sys.exit(1)
