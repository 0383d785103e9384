"""The options of the commands, each declared once, in the groups in which ``--help`` shows them."""

from __future__ import annotations

import os
from collections.abc import Iterable
from concurrent.futures import Executor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast, get_args

import typer

from mlaas4hep_tf.analysis.rules import analysis
from mlaas4hep_tf.cli.output import talks
from mlaas4hep_tf.cli.parsing import (
    augmentation,
    bins,
    branch_name,
    categories,
    class_weights,
    fractions,
    friends,
    held_out,
    label_values,
    losses,
    mixing_law,
    named,
    normalization,
    numbers,
    patterns,
    replicas,
)
from mlaas4hep_tf.errors import ConfigError
from mlaas4hep_tf.io.policy import DEFAULT_POLICY, ReadPolicy
from mlaas4hep_tf.io.read_options import DEFAULT_READ, OnBadFile, ReadOptions
from mlaas4hep_tf.model_names import KNOWN
from mlaas4hep_tf.recipe import Optimizer, Precision, Recipe, Schedule
from mlaas4hep_tf.runs.processes import ALONE, STEP_TIMEOUT_S, Processes, this_process
from mlaas4hep_tf.streaming.defaults import BATCH_SIZE, CHUNK_SIZE

if TYPE_CHECKING:
    from mlaas4hep_tf.analysis.files import Loaded
    from mlaas4hep_tf.runs.config import RunConfig
    from mlaas4hep_tf.runs.folds import FoldedRun
    from mlaas4hep_tf.runs.params import PaperParams
    from mlaas4hep_tf.runs.run import Run
    from mlaas4hep_tf.specs import Specs
    from mlaas4hep_tf.transforms.image_axes import Image

data, cuts, reading, training, output = (
    partial(typer.Option, rich_help_panel=panel) for panel in ("Data", "Analysis", "Reading", "Training", "Output")
)

opened = ExitStack()  # what a command opens and `main` closes

Files = Annotated[list[str], typer.Argument(metavar="FILE...", help="Paths, patterns, folders, lists (.txt), URLs.")]
OptionalFiles = Annotated[list[str] | None, typer.Argument(metavar="[FILE]...", help="As for scan.")]
Friend = Annotated[
    list[str] | None,
    data(
        "--friend",
        metavar="NAME=FILES",
        help="Trees with more branches of the same events, NAME.branch: a file for each file; :TREE is in the files.",
    ),
]
Json = Annotated[bool, output("--json", help="Print one JSON object instead of tables.")]
RunFolder = Annotated[Path, typer.Option("--run", help="Run folder that `train` left.")]


@dataclass(frozen=True)
class Choice:
    """What of the files is taken."""

    tree: Annotated[str | None, data("--tree", help="Name of the tree; not needed if a file has one only.")] = None
    branches: Annotated[
        list[str] | None, data("--branches", help="Patterns of branches to take, comma-separated or repeated.")
    ] = None
    exclude: Annotated[
        list[str] | None, data("--exclude", help="Patterns of branches to leave out, such as the truth.")
    ] = None
    friend: Friend = None


@dataclass(frozen=True)
class KnownOrChosen(Choice):
    """Specs that are there already, or what to scan."""

    specs: Annotated[
        Path | None, data("--specs", help="Specs from `scan`; without them the files are scanned first.")
    ] = None

    def known(self, cuts: Cuts, continued: str | Path | None) -> Specs | None:
        """The specs that are there already, in a file or those of a run that is trained on, and so have chosen."""
        from mlaas4hep_tf.runs.config import describe
        from mlaas4hep_tf.specs import Specs

        if not self.specs and not continued:
            return None
        options = {"--tree": self.tree, "--branches": self.branches, "--exclude": self.exclude, **cuts.given}
        given = [name for name, value in options.items() if value]
        if given:
            raise ConfigError(
                f"{given[0]} chooses what is scanned, and {self.specs or continued} has chosen already; "
                "use one of the two"
            )
        return Specs.load(self.specs) if self.specs else describe(str(continued)).specs.unbound()

    def scan(
        self, files: tuple[str, ...], paper: PaperParams, labels: Labels, weights: str | None, loaded: Loaded,
        read: ReadOptions, distributions: tuple[str, ...],
    ) -> Specs:  # fmt: skip
        """Scan; options count before the paper's keys."""
        from mlaas4hep_tf.scanner import scan

        return scan(
            files, self.tree or paper.tree, friends=friends(self.friend),
            branches=patterns(self.branches) or paper.branches,
            exclude=(*(patterns(self.exclude) or paper.exclude), *loaded.exclude), identifiers=paper.identifiers,
            labels=labels.branch(), targets=labels.targets, weights=weights, analysis=loaded.analysis,
            distributions=distributions, categories=loaded.categories, read=read, progress=talks(),
        )  # fmt: skip


@dataclass(frozen=True)
class Cuts:
    """What is made of the events: a file, and what options add behind it."""

    file: Annotated[
        Path | None,
        cuts(
            "--analysis", metavar="FILE", help="analysis.yaml, or preproc.json of the paper; other options add to it."
        ),
    ] = None
    objects: Annotated[
        list[str] | None, cuts("--objects", metavar="GROUP=EXPR", help="Objects to keep: 'Jet=Jet_pt > 30'.")
    ] = None
    order: Annotated[
        list[str] | None, cuts("--order", metavar="GROUP=EXPR", help="Objects by rising key: 'Jet=-Jet_pt'.")
    ] = None
    define: Annotated[
        list[str] | None, cuts("--define", metavar="NAME=EXPR", help="A branch to derive: 'ht=sum(Jet_pt)'.")
    ] = None
    select: Annotated[
        list[str] | None, cuts("--select", metavar="EXPR", help="Events to keep, in training and when served.")
    ] = None
    train_select: Annotated[
        list[str] | None, cuts("--train-select", metavar="EXPR", help="Events to train and test on; not served.")
    ] = None
    category: Annotated[
        list[str] | None,
        cuts(
            "--category",
            metavar="BRANCH=KINDS",
            help="Integers that are kinds: 'Jet_flavour=auto' or '=0,4,5' (one-hot), '=index' or '=index:0,4,5'.",
        ),
    ] = None

    @property
    def given(self) -> dict[str, Any]:
        """Options of the shell -> what they were given."""
        named = ("objects", "order", "define", "select")
        options = {f"--{name}": getattr(self, name) for name in named}
        return {
            "--analysis": self.file, **options, "--train-select": self.train_select, "--category": self.category
        }  # fmt: skip

    def load(self) -> Loaded:
        """The analysis, and branches that it wants no features to be.

        Raises:
            ConfigError: a file that cannot be read, or a name that is given twice.
        """
        from mlaas4hep_tf.analysis.files import Loaded, load

        base = load(self.file) if self.file else Loaded()
        given = {name: named(f"--{name}", getattr(self, name)) for name in ("objects", "order", "define")}
        more = analysis(**given, select=self.select, train_select=self.train_select)
        kinds = categories(self.category)
        return replace(base, analysis=base.analysis.extended(more, str(self.file)), categories=kinds)


@dataclass(frozen=True)
class Labels:
    """The labels of files, or the branch that has them."""

    label: Annotated[
        list[str] | None,
        data(
            "--label",
            metavar="PATTERN=NAME",
            help="Class of files, by name or as a number; the first match counts. Of two names the first is signal.",
        ),
    ] = None
    labels: Annotated[
        str | None,
        data(
            "--labels",
            help="Instead: a number per file (comma list, or a file with one per line), or the name of a branch.",
        ),
    ] = None

    target: Annotated[
        list[str] | None,
        data("--target", metavar="BRANCH", help="Instead or as well: a branch of a number that is to be told."),
    ] = None

    @property
    def regression(self) -> bool:
        """Whether numbers alone are told."""
        return bool(self.target) and not (self.label or self.labels)

    @property
    def targets(self) -> tuple[str, ...]:
        """The numbers that are told."""
        return tuple(patterns(self.target))

    def values(self) -> Any:
        """Labels as for `RunConfig`."""
        return self.targets[0] if self.regression else label_values(self.label, self.labels)

    def if_given(self) -> Any:
        return self.values() if self.label or self.labels or self.target else None

    def branch(self) -> str | None:
        """The branch that ``--labels`` names, if it is one."""
        return branch_name(self.labels)


@dataclass(frozen=True)
class Learnt:
    """What the model is to tell."""

    signal: Annotated[str | None, data("--signal", metavar="NAME", help="The class that is looked for.")] = None
    classes: Annotated[
        list[str] | None,
        data("--classes", metavar="NAMES", help="Names of the labels 0, 1 ..., where they are numbers or a branch."),
    ] = None
    one_against_rest: Annotated[
        bool,
        training("--one-against-rest", help="Each of several classes by itself (sigmoid), not together 1 (softmax)."),
    ] = False
    loss: Annotated[
        list[str] | None,
        training(
            "--loss",
            metavar="[BRANCH=]LOSS",
            help="Of classes crossentropy [default], focal; of targets mse [default], mae, huber, quantile.",
        ),
    ] = None
    quantiles: Annotated[
        list[float] | None, training("--quantile-of-target", help="For --loss quantile [default: 0.16 0.5 0.84].")
    ] = None

    def options(self) -> dict[str, Any]:
        """These options as those of a `RunConfig`."""
        return {
            "signal": self.signal, "classes": tuple(patterns(self.classes)),
            "one_against_rest": self.one_against_rest, "loss": losses(self.loss),
            "quantiles": tuple(self.quantiles or ()),
        }  # fmt: skip


@dataclass(frozen=True)
class Training:
    """The model and how it is trained."""

    model: Annotated[str, training("--model", help=f"{KNOWN} with def model(idim); see mlaas4hep-tf models.")] = "mlp"
    layout: Annotated[
        str, training("--layout", metavar="vector|objects|columns|ragged", help="What the model takes, by name.")
    ] = "vector"
    epochs: Annotated[int | None, training("--epochs", help="Passes over the whole data [default: 5].")] = None
    batch_size: Annotated[int | None, training("--batch-size", help=f"Events per batch [default: {BATCH_SIZE}].")] = (
        None
    )
    chunk_size: Annotated[
        int | None, training("--chunk-size", help=f"Events mixed at a time [default: {CHUNK_SIZE}].")
    ] = None
    split: Annotated[
        str | None,
        training(
            "--split",
            help="Fractions for training, validation and test [default: 0.64,0.16,0.20], with --hold-out for the first "
            "two [default: 0.8,0.2].",
        ),
    ] = None
    seed: Annotated[int, training("--seed", help="Of weights, split and order.")] = 0
    normalize: Annotated[
        list[str] | None,
        training(
            "--normalize",
            metavar="[BRANCH=]METHOD",
            help="minmax, standard or none, behind log, logit or clip(LOW,HIGH); of all branches or, "
            "repeated, by name and pattern: '*_pt=log standard' '*=minmax' [default: minmax].",
        ),
    ] = None
    weights: Annotated[str | None, training("--weights", help="Branch of event weights for the loss.")] = None
    mix: Annotated[
        list[str] | None,
        training("--mix", metavar="PATTERN=NUMBER", help="Shares of files in every batch, or: equal."),
    ] = None
    balanced: Annotated[
        bool, training("--balanced", help="Weigh classes so that each has the same total weight in the loss.")
    ] = False
    patience: Annotated[
        int | None, training("--patience", help="Stop after so many epochs without a better validation loss.")
    ] = None
    class_weight: Annotated[
        list[str] | None,
        training("--class-weight", metavar="NAME=NUMBER", help="Factor of the weight of a class; others have 1."),
    ] = None
    reweight: Annotated[
        list[str] | None,
        training(
            "--reweight",
            metavar="BRANCH=BINS:LOW:HIGH",
            help="Weigh training events so that classes have one distribution of these branches: met=10:0:300.",
        ),
    ] = None
    reweight_to: Annotated[
        str, training("--reweight-to", metavar="flat|CLASS", help="Flat, or the distribution of a class.")
    ] = "flat"
    reweight_cap: Annotated[float, training("--reweight-cap", help="Largest factor of such a weight.")] = 10.0
    xsec: Annotated[
        list[str] | None,
        training(
            "--xsec",
            metavar="PATTERN=PB",
            help="Cross section of files: weights are scaled by it x luminosity / sum of weights.",
        ),
    ] = None
    luminosity: Annotated[float, training("--luminosity", help="In 1/fb, for --xsec.")] = 1.0
    sumw: Annotated[
        list[str] | None,
        training("--sumw", metavar="PATTERN=NUMBER", help="Sum of weights [default: of Runs, or all entries]."),
    ] = None
    optimizer: Annotated[str, training("--optimizer", help=f"{', '.join(get_args(Optimizer))}.")] = "adam"
    lr: Annotated[float, training("--lr", help="Learning rate; the largest one of a schedule.")] = 1e-3
    schedule: Annotated[str, training("--schedule", help=f"{', '.join(get_args(Schedule))}.")] = "constant"
    warmup: Annotated[float, training("--warmup", help="Epochs, or a part of one, in which the rate grows.")] = 0.0
    clip: Annotated[float | None, training("--clip", help="Largest norm of the gradient.")] = None
    monitor: Annotated[
        str, training("--monitor", help="Loss or metric of validation that chooses the best epoch, such as auc.")
    ] = "loss"
    precision: Annotated[str, training("--precision", help=f"{', '.join(get_args(Precision))}.")] = "float32"
    continue_from: Annotated[
        Path | None, training("--continue-from", metavar="RUN", help="Train the model of that run on, with its specs.")
    ] = None
    augment: Annotated[
        list[str] | None,
        training(
            "--augment",
            metavar="WHAT=BRANCHES[:NUMBER]",
            help="Change training events at random: rotate=*_phi, flip=*_eta, drop=Jet:0.1, smear=*_pt:0.05.",
        ),
    ] = None
    params: Annotated[Path | None, training("--params", help="params.json of the paper's programs.")] = None

    def weighing(self) -> dict[str, Any]:
        """How events are weighed, as options of a `RunConfig`."""
        from mlaas4hep_tf.cross_sections import CrossSections
        from mlaas4hep_tf.reweighting import Reweight

        if self.sumw and not self.xsec:
            raise ConfigError("--sumw is for weights that are scaled: give cross sections as well (--xsec)")
        axes = bins("--reweight", self.reweight or [])
        reweight = Reweight(axes, self.reweight_to, self.reweight_cap) if axes else None
        sums = numbers("--sumw", self.sumw) if self.sumw else None
        expected = CrossSections(numbers("--xsec", self.xsec), self.luminosity, sums) if self.xsec else None
        return {"reweight": reweight, "expected": expected}

    def recipe(self) -> Recipe:
        """How the weights are found."""
        return Recipe(self.optimizer, self.lr, self.schedule, self.warmup, self.clip, self.monitor, self.precision)

    def config(
        self, files: tuple[str, ...], labels: Labels, learnt: Learnt, paper: PaperParams, read: ReadOptions
    ) -> RunConfig:
        """The run that is asked for; options count before the paper's keys."""
        from mlaas4hep_tf.runs.config import RunConfig

        return RunConfig(
            files=files, labels=labels.values(), regression=labels.regression,
            targets=labels.targets[1:] if labels.regression else labels.targets,
            model=self.model, layout=self.layout, epochs=_first(self.epochs, paper.epochs),
            batch_size=_first(self.batch_size, paper.batch_size), seed=self.seed,
            split=fractions(self.split) if self.split else (),
            normalize=normalization(self.normalize),
            chunk_size=_first(self.chunk_size, paper.chunk_size), weights=self.weights, patience=self.patience,
            max_events=paper.events, mixing=mixing_law(self.mix), balanced=self.balanced, read=read,
            **learnt.options(), **self.weighing(), recipe=self.recipe(), class_weights=class_weights(self.class_weight),
            augmentation=augmentation(self.augment),
            continue_from=os.path.abspath(self.continue_from) if self.continue_from else None,
        )  # fmt: skip


@dataclass(frozen=True)
class Several:
    """Processes that train one model, on Keras with JAX."""

    processes: Annotated[
        int | None, training("--processes", min=1, help="Train with so many processes, started here (JAX).")
    ] = None
    coordinator: Annotated[
        str | None,
        training("--coordinator", metavar="HOST:PORT|env", help="This is one of them; where the first listens."),
    ] = None
    process_id: Annotated[
        int | None, training("--process-id", help="Which one; by default as Slurm, MPI or TF_CONFIG say.")
    ] = None
    step_timeout: Annotated[
        float, training("--step-timeout", help="Seconds without a step after which such a process ends.")
    ] = STEP_TIMEOUT_S

    @property
    def to_launch(self) -> int:
        """How many processes this command is to start; 0 if none."""
        return self.processes if self.processes and self.processes > 1 and self.coordinator is None else 0

    def this(self) -> Processes:
        """Which one this is.

        Raises:
            ConfigError: that is not known, or said by half.
        """
        if self.coordinator is None:
            if self.process_id is not None:
                raise ConfigError("--process-id is for a process that meets others: give --coordinator HOST:PORT too")
            return ALONE
        os.environ.setdefault("KERAS_BACKEND", "jax")
        return this_process(self.processes, self.process_id, self.coordinator, self.step_timeout, os.environ)


@dataclass(frozen=True)
class Apart:
    """Events that are kept from a model, by what does not change as files are added."""

    hold_out: Annotated[
        str | None,
        data(
            "--hold-out",
            metavar="SHARE[:BY]|EXPR",
            help="The test: 0.2, or 0.2:entries or :identifiers, of the events, or those with 'event % 5 == 0'.",
        ),
    ] = None
    folds: Annotated[
        int | None, data("--folds", metavar="K", help="Train K models, each tested on a fold that it has not seen.")
    ] = None
    fold_by: Annotated[
        str | None,
        data(
            "--fold-by",
            metavar="EXPR",
            help="The fold's number, such as 'event % 5', or: identifiers, entries [default: a hash].",
        ),
    ] = None

    def options(self) -> dict[str, Any]:
        """These options as those of a `RunConfig`."""
        from mlaas4hep_tf.drawing import Folds

        if self.fold_by and self.folds is None:
            raise ConfigError("--fold-by says how folds are told, so it needs --folds")
        folds = Folds(self.folds, self.fold_by) if self.folds is not None else None
        return {"hold_out": held_out(self.hold_out), "folds": folds}


@dataclass(frozen=True)
class ExportSource:
    """What is exported: the model of a run, or an ONNX network behind the preprocessing of a run or of specs."""

    run: Annotated[Path | None, typer.Option("--run", help="Run folder that `train` left.")] = None
    onnx: Annotated[
        Path | None, typer.Option("--onnx", metavar="FILE", help="Instead of the run's model: a network on its vector.")
    ] = None
    specs: Annotated[
        Path | None, typer.Option("--specs", help="For --onnx without a run: specs of what it was trained on.")
    ] = None
    normalize: Annotated[
        list[str] | None, typer.Option("--normalize", metavar="[BRANCH=]METHOD", help="And how, as for train.")
    ] = None

    def check(self) -> None:
        """Say what is missing, before TensorFlow is imported."""
        from mlaas4hep_tf.runs.config import describe, first_run, folds_of
        from mlaas4hep_tf.specs import Specs

        if self.run is not None and (self.specs or self.normalize):
            raise ConfigError("a run knows its specs and normalisation: leave --specs and --normalize out")
        if self.run is not None:
            describe(first_run(self.run))
            if self.onnx is not None and folds_of(self.run):
                raise ConfigError("a network takes the place of a run's one model, and a run of folds has several")
        elif self.onnx is None or self.specs is None:
            raise ConfigError("name what is exported: --run RUN, --onnx FILE --run RUN, or --onnx FILE --specs FILE")
        else:
            Specs.load(self.specs)

    def load(self) -> tuple[Any, Any, dict[str, Any]]:
        """The model, what knows its preprocessing, and what the card says besides."""
        from mlaas4hep_tf.heads import check as check_outputs
        from mlaas4hep_tf.onnx_networks import from_onnx
        from mlaas4hep_tf.specs import Specs
        from mlaas4hep_tf.transforms.vector import Preprocessor

        if self.run is None:
            assert self.onnx is not None and self.specs is not None  # by check
            preprocessor = Preprocessor(Specs.load(self.specs), normalization(self.normalize))
            return from_onnx(self.onnx, preprocessor), preprocessor, {"network": self.onnx.name}
        trained = load_run(self.run)
        if self.onnx is None:
            told = trained.metrics
            return trained.model, trained, {
                "metrics": told["parts"], "seed": trained.config.seed, "trained": told["date"]
            }  # fmt: skip
        model = from_onnx(self.onnx, trained.preprocessor)
        check_outputs(model, trained.task)
        return model, trained, {"network": self.onnx.name}


@dataclass(frozen=True)
class Drawing:
    """The image that a model takes rather than the vector."""

    axes: Annotated[
        list[str] | None,
        training("--image", metavar="BRANCH=BINS:LOW:HIGH", help="An axis of the image for --model cnn: one to three."),
    ] = None
    channels: Annotated[
        list[str] | None, training("--channels", help="Branches that fill the image: 'Jet_pt,Jet_btag'.")
    ] = None
    cells: Annotated[
        str | None, training("--cells", metavar="sum|max|last", help="Of several objects in a cell [default: sum].")
    ] = None

    def image(self) -> Image | None:
        """The image, if there is to be one.

        Raises:
            ConfigError: options that say only half of it.
            PlanError: axes, channels or a rule that there cannot be.
        """
        from mlaas4hep_tf.transforms.image_axes import CellRule, Image

        if not self.axes:
            given = [name for name in ("channels", "cells") if getattr(self, name)]
            if given:
                raise ConfigError(f"--{given[0]} is for an image, which needs an axis: --image 'Jet_eta=16:-2.5:2.5'")
            return None
        return Image(bins("--image", self.axes), tuple(patterns(self.channels)), cast("CellRule", self.cells or "sum"))


def _first(given: int | None, default: int) -> int:
    return default if given is None else given


@dataclass(frozen=True)
class Reading:
    """How files are read; the one place where options of the shell become `ReadOptions`."""

    workers: Annotated[int | None, reading("--workers", min=1, help="Reader processes; by default one per core.")] = (
        None
    )
    redirector: Annotated[
        str, reading("--redirector", metavar="root://HOST", help="Put in front of logical file names, /store/...")
    ] = ""
    cache: Annotated[
        str | None, reading("--cache", metavar="FOLDER", help="Keep what was read and packed there for the next time.")
    ] = None
    replica: Annotated[
        list[str] | None,
        reading("--replica", metavar="URL=URL", help="Start of URLs, and what may stand there if that fails."),
    ] = None
    dask: Annotated[
        str | None,
        reading("--dask", metavar="ADDRESS|local:N", help="Read on the workers of this Dask scheduler, or of N here."),
    ] = None
    mpi: Annotated[bool, reading("--mpi", help="Read on the other processes of `mpiexec -n N mlaas4hep-tf ...`.")] = (
        False
    )
    timeout: Annotated[float, reading("--timeout", help="Seconds for one request to a server.")] = (
        DEFAULT_POLICY.request_timeout_s
    )
    retries: Annotated[int, reading("--retries", help="How often reading is tried again.")] = DEFAULT_POLICY.retries

    def locate(self, files: Iterable[str] | None, redirector: str = "") -> tuple[str, ...]:
        """The files, logical names behind the redirector; `redirector` is that of the paper's parameters."""
        from mlaas4hep_tf.io.files import locate

        return tuple(locate(files or (), self.redirector or redirector))

    def found(self, files: Iterable[str] | None) -> tuple[str, ...]:
        """As `locate`; local files must be there, so that a wrong name is told at once."""
        from mlaas4hep_tf.io.files import expand

        located = self.locate(files)
        if located:
            expand(located)
        return located

    def options(self, base: ReadOptions = DEFAULT_READ) -> ReadOptions:
        """What the shell says, and where it says nothing of workers and cache, what `base` does."""
        policy = ReadPolicy(self.timeout, retries=self.retries, replicas=replicas(self.replica))
        return replace(
            base, workers=self.workers or base.workers, policy=policy, cache=self.cache or base.cache,
            executor=self._executor(),
        )  # fmt: skip

    def _executor(self) -> Executor | None:
        """Where to read instead of local processes, until the command ends; an MPI process that reads ends here."""
        from mlaas4hep_tf.io.clusters import on_dask, on_mpi

        if self.dask is not None and self.mpi:
            raise ConfigError("events are read on a Dask cluster or by MPI: take one of --dask and --mpi")
        if self.dask is not None:
            return opened.enter_context(on_dask(self.dask))
        executor = opened.enter_context(on_mpi()) if self.mpi else None
        if self.mpi and executor is None:
            raise typer.Exit
        return executor


@dataclass(frozen=True)
class TolerantReading(Reading):
    """Reading that may go on without what is broken."""

    on_bad_file: Annotated[
        str, reading("--on-bad-file", metavar="raise|skip", help="What to do about data that cannot be read.")
    ] = "raise"
    max_lost_fraction: Annotated[
        float, reading("--max-lost-fraction", help="Of the events, that `skip` may lose; more is an error.")
    ] = 0.0

    def options(self, base: ReadOptions = DEFAULT_READ) -> ReadOptions:
        return replace(
            super().options(base), on_bad_file=cast("OnBadFile", self.on_bad_file),
            max_lost_fraction=self.max_lost_fraction,
        )  # fmt: skip


def load_run(folder: Path) -> Run | FoldedRun:
    """A run, or one of folds."""
    from mlaas4hep_tf.runs.config import folds_of
    from mlaas4hep_tf.runs.folds import FoldedRun
    from mlaas4hep_tf.runs.run import Run

    return FoldedRun.load(folder) if folds_of(folder) else Run.load(folder)
