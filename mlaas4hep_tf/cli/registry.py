"""The commands `models` and `runs`: what the registry holds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mlaas4hep_tf.cli.drift import drift
from mlaas4hep_tf.cli.options import Json, RunFolder
from mlaas4hep_tf.cli.output import import_tensorflow, new_table, out, print_json, print_models
from mlaas4hep_tf.cli.parsing import tags

if TYPE_CHECKING:
    from mlaas4hep_tf.registry.entries import RunEntry, VersionEntry
    from mlaas4hep_tf.registry.registry import Registry
    from mlaas4hep_tf.registry.targets import Traffic

Where = Annotated[
    str,
    typer.Option(
        "--registry", metavar="FOLDER|URI", envvar="MLFLOW_TRACKING_URI", help="Folder, or a URI as MLflow takes it."
    ),
]
DEFAULT = "registry"
Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of the model.")]
Version = Annotated[str, typer.Argument(metavar="VERSION", help="A number, or an alias such as champion.")]
Query = Annotated[str, typer.Argument(metavar="QUERY", help="\"auc > 0.9 and tag.analysis = 'ttH'\"; empty: all.")]
Most = Annotated[int, typer.Option("--most", min=1, help="So many at most.")]
By = Annotated[str, typer.Option("--by", metavar="METRIC", help="The largest first.")]

models = typer.Typer(
    invoke_without_command=True, help="Models that are built in; with a command, registered ones.",
    epilog="Example: mlaas4hep-tf models search 'auc > 0.9'",
)  # fmt: skip
runs = typer.Typer(
    no_args_is_help=True,
    help="Trainings that the registry keeps.",
    epilog="Example: mlaas4hep-tf runs list 'auc > 0.8'",
)


def open_registry(where: str) -> Registry:
    from mlaas4hep_tf.registry.registry import Registry

    return Registry(where)


@models.callback()
def _models(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        print_models()


@models.command(epilog="Example: mlaas4hep-tf models register --run runs/tth --name tth --tag analysis=ttH")
def register(
    run: RunFolder,
    name: Annotated[str, typer.Option("--name", help="Name of the model.")],
    tag: Annotated[list[str] | None, typer.Option("--tag", metavar="NAME=TEXT", help="By which it is found.")] = None,
    registry: Where = DEFAULT,
) -> None:
    """Keep a run and make it the next version of a model, with what is served of it."""
    from mlaas4hep_tf.runs.config import describe

    describe(run)
    opened, given = open_registry(registry), tags(tag)
    import_tensorflow()
    from mlaas4hep_tf.registry.registering import register_run
    from mlaas4hep_tf.runs.run import Run

    version = register_run(opened, Run.load(run), name)
    opened.tag(name, version, given)
    out.print(f"{name} version {version}", soft_wrap=True)


@models.command("list", epilog="Example: mlaas4hep-tf models list")
def list_models(registry: Where = DEFAULT, as_json: Json = False) -> None:
    """The registered models."""
    found = open_registry(registry).models()
    if as_json:
        print_json({"models": [asdict(one) for one in found]})
        return
    shown = new_table("model", "newest", "aliases", "tags")
    for one in found:
        shown.add_row(one.name, str(one.newest or ""), _pairs(one.aliases), _pairs(one.tags))
    out.print(shown)


@models.command(epilog="Example: mlaas4hep-tf models search \"auc > 0.9 and tag.analysis = 'ttH'\"")
def search(
    query: Query = "", registry: Where = DEFAULT, most: Most = 50, by: By = "test.auc", as_json: Json = False
) -> None:
    """Versions by metrics, tags, data, software and parameters: auc > 0.9 and data.file = 'a.root'."""
    _print_versions(open_registry(registry).search(query, most, by), as_json)


@models.command(epilog="Example: mlaas4hep-tf models show tth champion")
def show(
    name: Name, version: Annotated[str | None, typer.Argument(metavar="[VERSION]")] = None, registry: Where = DEFAULT,
    as_json: Json = False,
) -> None:  # fmt: skip
    """The versions of a model; of one version all that is known, down to the files it was trained on."""
    opened = open_registry(registry)
    if version is None:
        _print_versions(opened.versions(name), as_json)
        return
    one = opened.version(name, version)
    if as_json:
        print_json(asdict(one))
        return
    facts = {
        "model": f"{one.name} version {one.version}", "aliases": ", ".join(one.aliases), "created": when(one.created),
        "run": one.of.run, **dict(sorted(one.of.tags.items())),
    }  # fmt: skip
    for title, content in (("", facts), ("metric", one.of.metrics), ("parameter", one.of.params)):
        shown = new_table(title, "")
        for key, value in content.items():
            if not key.startswith("epoch."):
                shown.add_row(key, f"{value:.5g}" if isinstance(value, float) else str(value))
        out.print(shown)
    shown = new_table("file", "events", "label", "uuid")
    for file in one.of.files:
        shown.add_row(file.name, f"{file.events:,}", "" if file.label is None else f"{file.label:g}", file.uuid)
    out.print(shown)


@models.command(epilog="Example: mlaas4hep-tf models compare tth 3 4")
def compare(name: Name, versions: list[str], registry: Where = DEFAULT, as_json: Json = False) -> None:
    """Versions side by side: what differs in metrics, parameters, data and software."""
    opened = open_registry(registry)
    entries = [opened.version(name, one) for one in versions]
    print_sides([f"{name} {one.version}" for one in entries], [one.of for one in entries], as_json)


@models.command(epilog="Example: mlaas4hep-tf models tag tth champion analysis=ttH reviewed=")
def tag(
    name: Name, version: Version, given: Annotated[list[str], typer.Argument(metavar="NAME=TEXT...")],
    registry: Where = DEFAULT,
) -> None:  # fmt: skip
    """Tag a version; an empty text takes a tag away."""
    open_registry(registry).tag(name, version, {key: value or None for key, value in tags(given).items()})


Served = Annotated[
    str, typer.Option("--to", metavar="FOLDER|URL", envvar="MLAAS4HEP_SERVED", help="Folder, or server, of the models.")
]
AtServer = Annotated[
    str | None, typer.Option("--server", metavar="URL", help="Server of the folder: done when the version answers.")
]


@models.command(epilog="Example: mlaas4hep-tf models push tth 4 --to https://server:8501")
def push(name: Name, version: Version, to: Served = "served", registry: Where = DEFAULT) -> None:
    """Bring a version to where it is served, without sending it any requests."""
    from mlaas4hep_tf.registry.promotion import push as push_version
    from mlaas4hep_tf.registry.targets import target_of

    opened = open_registry(registry)
    one = opened.version(name, version)
    push_version(opened, target_of(to), one)
    out.print(f"{name} version {one.version} -> {to}", soft_wrap=True)


@models.command(epilog="Example: mlaas4hep-tf models promote tth 4 --to served --canary 0.1")
def promote(
    name: Name, version: Version, to: Served = "served", server: AtServer = None,
    canary: Annotated[
        float | None, typer.Option("--canary", metavar="SHARE", help="Of requests without version and label.")
    ] = None,
    registry: Where = DEFAULT,
) -> None:  # fmt: skip
    """Serve a version, to all or as a canary to some; it is the champion when it answers."""
    from mlaas4hep_tf.registry.promotion import promote as promote_version
    from mlaas4hep_tf.registry.targets import target_of

    _print_traffic(name, promote_version(open_registry(registry), target_of(to, server), name, version, canary=canary))


@models.command(epilog="Example: mlaas4hep-tf models rollback tth --to served")
def rollback(name: Name, to: Served = "served", server: AtServer = None, registry: Where = DEFAULT) -> None:
    """Back to the version that was served before, or to the stable one where a canary is tried."""
    from mlaas4hep_tf.registry.promotion import rollback as roll_back
    from mlaas4hep_tf.registry.targets import target_of

    _print_traffic(name, roll_back(open_registry(registry), target_of(to, server), name))


def _print_traffic(name: str, traffic: Traffic) -> None:
    canary = "" if traffic.canary is None else f", canary version {traffic.canary} ({traffic.share:.0%})"
    out.print(f"{name}: stable version {traffic.stable}{canary}", soft_wrap=True)


@models.command(epilog="Example: mlaas4hep-tf models delete tth 3")
def delete(
    name: Name, version: Annotated[int | None, typer.Argument(metavar="[VERSION]")] = None, registry: Where = DEFAULT
) -> None:
    """Take a version, or a whole model, out of the registry; what an alias means stays, and so do the runs."""
    open_registry(registry).delete(name, version)


@models.command(epilog="Example: mlaas4hep-tf models saw data/signal.root")
def saw(file: str, registry: Where = DEFAULT, as_json: Json = False) -> None:
    """The versions that were trained on a file: its path, URL or uuid."""
    opened = open_registry(registry)
    if Path(file).exists():
        from mlaas4hep_tf.registry.files import uuid_of

        file = uuid_of(file)
    _print_versions(opened.who_saw(file), as_json)


@models.command("export", epilog="Example: mlaas4hep-tf models export shared/ tth")
def export_models(
    to: Path, names: Annotated[list[str] | None, typer.Argument(metavar="[NAME]...")] = None, registry: Where = DEFAULT
) -> None:
    """Write models with runs and artifacts into a folder, from which another registry takes them."""
    from mlaas4hep_tf.registry.sharing import export_registry

    out.print(f"{export_registry(open_registry(registry), to, names or ())} versions -> {to}", soft_wrap=True)


@models.command("import", epilog="Example: mlaas4hep-tf models import shared/ --registry registry")
def import_models(source: Path, registry: Where = DEFAULT) -> None:
    """Take in the models of a folder that `export` wrote."""
    from mlaas4hep_tf.registry.sharing import import_registry

    out.print(f"{import_registry(open_registry(registry), source)} versions from {source}", soft_wrap=True)


models.command("drift", epilog="Example: mlaas4hep-tf models drift http://127.0.0.1:8501 --model tth")(drift)


@runs.command("list", epilog="Example: mlaas4hep-tf runs list 'auc > 0.8'")
def list_runs(
    query: Query = "", registry: Where = DEFAULT, most: Most = 50, by: By = "test.auc", as_json: Json = False
) -> None:
    """The runs that a search finds, the best first."""
    found = open_registry(registry).runs(query, most, by)
    if as_json:
        print_json({"runs": [asdict(one) for one in found]})
        return
    shown = new_table("run", "trained", "model", "AUC", "", "events")
    shown.columns[0].min_width = 32  # of a run, which is copied from here
    for one in found:
        shown.add_row(
            one.run, when(one.created)[:10], one.params.get("model", ""), *_auc(one), one.tags.get("data.entries", "")
        )
    out.print(shown)


@runs.command("show", epilog="Example: mlaas4hep-tf runs show RUN")
def show_run(run: str, registry: Where = DEFAULT) -> None:
    """All that is kept of a run, as JSON, with its curves."""
    opened = open_registry(registry)
    print_json(asdict(opened.run(run)) | {"curves": opened.curves(run)})


@runs.command("compare", epilog="Example: mlaas4hep-tf runs compare RUN RUN")
def compare_runs(run: list[str], registry: Where = DEFAULT, as_json: Json = False) -> None:
    """Runs side by side: what differs."""
    opened = open_registry(registry)
    print_sides([number[:8] for number in run], [opened.run(number) for number in run], as_json)


def when(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y-%m-%d %H:%M")


def print_sides(heads: list[str], entries: list[RunEntry], as_json: bool) -> None:
    """What differs between runs, a row each."""
    from mlaas4hep_tf.registry.comparison import differences

    found = differences(entries)
    if as_json:
        print_json({"of": heads, "differ": found})
        return
    shown = new_table("", *heads)
    for name, values in found.items():
        shown.add_row(name, *values)
    out.print(shown)


def _print_versions(found: Iterable[VersionEntry], as_json: bool) -> None:
    if as_json:
        print_json({"versions": [asdict(one) for one in found]})
        return
    shown = new_table("model", "version", "aliases", "AUC", "", "events", "created", "tags")
    for one in found:
        tagged = _pairs({k: v for k, v in one.of.tags.items() if k in one.tags and k != "gate"})
        shown.add_row(
            one.name, str(one.version), ", ".join(one.aliases), *_auc(one.of), one.of.tags.get("data.entries", ""),
            when(one.created), tagged,
        )  # fmt: skip
    out.print(shown)


def _auc(run: RunEntry) -> tuple[str, str]:
    value, error = run.metrics.get("test.auc"), run.metrics.get("test.auc_error")
    return "" if value is None else f"{value:.4f}", "" if error is None else f"± {error:.4f}"


def _pairs(content: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in content.items())
