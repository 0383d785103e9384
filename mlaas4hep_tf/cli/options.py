"""The options of the commands, each declared once, in the groups in which ``--help`` shows them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from mlaas4hep_tf.cli.output import talks
from mlaas4hep_tf.cli.parsing import branch_name, fractions, label_values, mixing_law, normalization, patterns, replicas
from mlaas4hep_tf.errors import ConfigError
from mlaas4hep_tf.io.policy import DEFAULT_POLICY, ReadPolicy
from mlaas4hep_tf.io.read_options import DEFAULT_READ, OnBadFile, ReadOptions
from mlaas4hep_tf.model_names import KNOWN
from mlaas4hep_tf.streaming.defaults import BATCH_SIZE, CHUNK_SIZE

if TYPE_CHECKING:
    from mlaas4hep_tf.runs.config import RunConfig
    from mlaas4hep_tf.runs.params import PaperParams
    from mlaas4hep_tf.specs import Specs

data, reading, training, output = (
    partial(typer.Option, rich_help_panel=panel) for panel in ("Data", "Reading", "Training", "Output")
)

Files = Annotated[list[str], typer.Argument(metavar="FILE...", help="Paths, patterns, folders, lists (.txt), URLs.")]
OptionalFiles = Annotated[list[str] | None, typer.Argument(metavar="[FILE]...", help="As for scan.")]
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


@dataclass(frozen=True)
class KnownOrChosen(Choice):
    """Specs that are there already, or what to scan."""

    specs: Annotated[
        Path | None, data("--specs", help="Specs from `scan`; without them the files are scanned first.")
    ] = None

    def load(self, specs: Path) -> Specs:
        """Read specs, which have chosen already."""
        from mlaas4hep_tf.specs import Specs

        options = {"--tree": self.tree, "--branches": self.branches, "--exclude": self.exclude}
        given = [name for name, value in options.items() if value]
        if given:
            raise ConfigError(f"{given[0]} chooses what is scanned, and {specs} has chosen already; use one of the two")
        return Specs.load(specs)

    def scan(
        self, files: tuple[str, ...], paper: PaperParams, labels: str | None, weights: str | None, read: ReadOptions
    ) -> Specs:
        """Scan; options count before the paper's keys."""
        from mlaas4hep_tf.scanner import scan

        return scan(
            files, self.tree or paper.tree, branches=patterns(self.branches) or paper.branches,
            exclude=patterns(self.exclude) or paper.exclude, identifiers=paper.identifiers,
            labels=labels, weights=weights, read=read, progress=talks(),
        )  # fmt: skip


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

    def values(self) -> Any:
        """Labels as for `RootDataset`."""
        return label_values(self.label, self.labels)

    def if_given(self) -> Any:
        return self.values() if self.label or self.labels else None

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
    loss: Annotated[str | None, training("--loss", help="crossentropy or focal [default: crossentropy].")] = None

    def options(self) -> dict[str, Any]:
        """These options as those of a `RunConfig`."""
        return {
            "signal": self.signal, "classes": tuple(patterns(self.classes)),
            "one_against_rest": self.one_against_rest, "loss": self.loss,
        }  # fmt: skip


@dataclass(frozen=True)
class Training:
    """The model and how it is trained."""

    model: Annotated[str, training("--model", help=f"{KNOWN} with def model(idim); see mlaas4hep-tf models.")] = "mlp"
    epochs: Annotated[int | None, training("--epochs", help="Passes over the whole data [default: 5].")] = None
    batch_size: Annotated[int | None, training("--batch-size", help=f"Events per batch [default: {BATCH_SIZE}].")] = (
        None
    )
    chunk_size: Annotated[
        int | None, training("--chunk-size", help=f"Events mixed at a time [default: {CHUNK_SIZE}].")
    ] = None
    split: Annotated[str, training("--split", help="Fractions for training, validation and test.")] = "0.64,0.16,0.20"
    seed: Annotated[int, training("--seed", help="Of weights, split and order.")] = 0
    normalize: Annotated[
        list[str] | None,
        training(
            "--normalize",
            metavar="[BRANCH=]METHOD",
            help="minmax, standard or none, of all branches or, "
            "repeated, by name and pattern: 'nJet=none' '*=minmax' [default: minmax].",
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
    params: Annotated[Path | None, training("--params", help="params.json of the paper's programs.")] = None

    def config(
        self, files: tuple[str, ...], labels: Any, learnt: Learnt, paper: PaperParams, read: ReadOptions
    ) -> RunConfig:
        """The run that is asked for; options count before the paper's keys."""
        from mlaas4hep_tf.runs.config import RunConfig

        return RunConfig(
            files=files, labels=labels, model=self.model, epochs=_first(self.epochs, paper.epochs),
            batch_size=_first(self.batch_size, paper.batch_size), split=fractions(self.split), seed=self.seed,
            normalize=normalization(self.normalize),
            chunk_size=_first(self.chunk_size, paper.chunk_size), weights=self.weights, patience=self.patience,
            max_events=paper.events, mixing=mixing_law(self.mix), balanced=self.balanced, read=read,
            **learnt.options(),
        )  # fmt: skip


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
        str | None, reading("--cache", metavar="FOLDER", help="Keep bytes of remote files there for the next time.")
    ] = None
    replica: Annotated[
        list[str] | None,
        reading("--replica", metavar="URL=URL", help="Start of URLs, and what may stand there if that fails."),
    ] = None
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
        return replace(base, workers=self.workers or base.workers, policy=policy, cache=self.cache or base.cache)


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
