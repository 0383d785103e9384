"""The registry: runs, and the models that they are versions of, in MLflow's store.

MLflow keeps a run's parameters, metrics, tags, files (as its "datasets") and artifacts, and for a registered model its
versions, each of one run, with aliases.  `CHAMPION` is the alias of the version that is served.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import sys
import tempfile
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlaas4hep_tf.errors import RegistryError, near_misses, need
from mlaas4hep_tf.registry.entries import (
    ModelEntry,
    RunEntry,
    VersionEntry,
    aliases_of,
    model_entry,
    profile,
    run_entry,
)
from mlaas4hep_tf.registry.place import Place, client_of, told
from mlaas4hep_tf.registry.queries import Query, parse
from mlaas4hep_tf.registry.records import LEFT_OUT, Record, record_of
from mlaas4hep_tf.runs.config import Described, describe

if TYPE_CHECKING:
    from mlflow.entities import Run as MlflowRun
    from mlflow.entities.model_registry import ModelVersion

CHAMPION, PREVIOUS = "champion", "previous"  # the version that is served, and the one before it
RUN, SAVEDMODEL = "run", "savedmodel"  # artifacts
KEY = "mlaas4hep.key"  # tag of a run, by which a run folder that is kept twice is known
PLACE = "registry.json"  # in a run folder: its key
DEFAULT = "registry"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}", re.ASCII)  # as of what is uploaded to the server
_EXPERIMENT = "mlaas4hep"
_BATCH = {"metrics": 1000, "params": 100, "tags": 100}  # that MLflow takes at a time
_JOINED = 500  # runs or versions that are asked for at a time


class Registry:
    """The registry at a place.

    Args:
        where: as for `Place`.

    Raises:
        MissingExtra: MLflow is not installed.
    """

    def __init__(self, where: str | os.PathLike[str] = DEFAULT) -> None:
        need("registry", "mlflow", purpose="a registry of runs and models does")
        self.where = os.fspath(where)
        self._place = Place(self.where)
        with self._place.alone():
            self._client = client_of(self._place.uri)
            self._experiment = self._own_experiment()

    def _own_experiment(self) -> str:
        known = self._client.get_experiment_by_name(_EXPERIMENT)
        if known is not None:
            return str(known.experiment_id)
        return str(self._client.create_experiment(_EXPERIMENT, artifact_location=self._place.artifacts))

    @staticmethod
    def check_name(name: str) -> None:
        """Raise RegistryError for a name that can be no folder and no part of a URL."""
        if not _NAME.fullmatch(name):
            raise RegistryError(
                "a model's name is 1 to 100 letters, digits, dots, dashes and underscores, not a dot first; "
                f"not {name!r}"
            )

    # runs

    def keep(self, folder: str | os.PathLike[str]) -> str:
        """Keep a run folder; one that is kept already, even by halves, is not kept twice.  Returns the run.

        Raises:
            ConfigError: no complete run.
        """
        run = describe(folder)
        return self.keep_record(_key(run), record_of(run), run.folder)

    def keep_record(self, key: str, record: Record, folder: Path) -> str:
        """`keep` of what is known already; a key is kept once."""
        with self._place.alone():
            found = self._by_key(key)
            if found is not None and found.info.status == "FINISHED":
                return str(found.info.run_id)
            new = found or self._client.create_run(self._experiment, tags={KEY: key}, run_name=folder.name)
            number = str(new.info.run_id)
            self._log(number, record)
            self._log_folder(number, folder)
            self._client.set_terminated(number)
            self._place.count_rows()
        return number

    def _by_key(self, key: str) -> MlflowRun | None:
        found = self._client.search_runs([self._experiment], f"tags.`{KEY}` = '{key}'", max_results=1)
        return found[0] if found else None

    def _log(self, number: str, record: Record) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag

        final = [Metric(name, value, 0, 0) for name, value in record.metrics.items()]
        curves = [Metric(name, value, 0, epoch) for name, value, epoch in record.curves]
        for kind, all_of in {
            "metrics": final + curves,
            "params": [Param(name, value) for name, value in record.params.items()],
            "tags": [RunTag(name, value) for name, value in record.tags.items()],
        }.items():
            for some in _in_batches(all_of, _BATCH[kind]):
                self._client.log_batch(number, **{kind: some})
        seen = [
            DatasetInput(
                Dataset(one.name[-500:], one.uuid[:36], "root", one.name, "", profile(one)),
                [InputTag("mlflow.data.context", "training")],
            )
            for one in record.files
        ]
        for some in _in_batches(seen, 1000):
            self._client.log_inputs(number, some)

    def _log_folder(self, number: str, folder: Path) -> None:
        with tempfile.TemporaryDirectory() as scratch:
            copy = shutil.copytree(folder, Path(scratch) / RUN, ignore=shutil.ignore_patterns(*LEFT_OUT))
            self._client.log_artifacts(number, str(copy), RUN)

    def runs(self, query: str = "", most: int = 100, by: str = "test.auc") -> list[RunEntry]:
        """Runs that a search finds (`queries.parse`), the best first."""
        return [run_entry(run) for run in self._found(parse(query).runs, most, by)]

    def _found(self, wanted: str, most: int, by: str) -> Sequence[MlflowRun]:
        order = [f"metrics.`{by}` DESC", "attributes.start_time DESC"]
        with told():
            return list(self._client.search_runs([self._experiment], wanted, order_by=order, max_results=most))

    def run(self, number: str) -> RunEntry:
        """One run.

        Raises:
            RegistryError: there is none.
        """
        with told():
            return run_entry(self._client.get_run(number))

    def curves(self, number: str) -> dict[str, list[float]]:
        """Loss or metric -> its value after each epoch."""
        names = [name for name in self.run(number).metrics if name.startswith("epoch.")]
        histories = {name: self._client.get_metric_history(number, name) for name in names}
        return {
            name.removeprefix("epoch."): [m.value for m in sorted(history, key=lambda m: m.step)]
            for name, history in histories.items()
        }

    def artifacts(self, number: str) -> list[str]:
        """What is kept of a run besides its figures: `RUN`, and where it was registered `SAVEDMODEL`."""
        return sorted(one.path for one in self._client.list_artifacts(number))

    def fetch(self, number: str, artifact: str, to: str | os.PathLike[str]) -> Path:
        """Copy an artifact of a run, `RUN` or `SAVEDMODEL`, into a folder; returns where it is.

        Raises:
            RegistryError: the run has no such artifact.
        """
        if artifact not in self.artifacts(number):
            raise RegistryError(f"run {number} of {self.where} has no {artifact}: it was kept without it")
        Path(to).mkdir(parents=True, exist_ok=True)
        return Path(self._client.download_artifacts(number, artifact, str(to)))

    # models

    def register(
        self, name: str, number: str, savedmodel: Path | None = None, tags: Mapping[str, str] | None = None,
        version: int | None = None,
    ) -> int:  # fmt: skip
        """Make a run the next version of a model, once; returns the version.

        Args:
            savedmodel: what is served, kept beside the run.
            tags: of the version.
            version: its number, which must be a later one than all there; None: the next.

        Raises:
            RegistryError: a name that cannot be one, or a version that is there.
        """
        self.check_name(name)
        with self._place.alone(), told():
            known = self.version_of(name, number)
            if known is not None:
                return known
            for key, text in (tags or {}).items():  # of the run, too, by which it is found
                self._client.set_tag(number, key, text)
            if savedmodel is not None:
                self._client.log_artifacts(number, str(savedmodel), SAVEDMODEL)
            if not self._client.search_registered_models(f"name = '{name}'"):
                self._client.create_registered_model(name)
            source = f"runs:/{number}/{SAVEDMODEL if savedmodel is not None else RUN}"
            made = int(self._client.create_model_version(name, source, number, tags=dict(tags or {})).version)
            while version is not None and made < version:  # numbers that were deleted where it comes from
                self._client.delete_model_version(name, str(made))
                made = int(self._client.create_model_version(name, source, number, tags=dict(tags or {})).version)
            return made

    def version_of(self, name: str, number: str) -> int | None:
        """The version of a model that a run is, if it is one."""
        self.check_name(name)
        known = self._client.search_model_versions(f"name = '{name}' and run_id = '{number}'")
        return int(known[0].version) if known else None

    def models(self, most: int = 1000) -> list[ModelEntry]:
        """All registered models, by name."""
        found: list[ModelEntry] = []
        token = None
        while len(found) < most:
            page = self._client.search_registered_models(
                max_results=min(1000, most - len(found)), order_by=["name"], page_token=token
            )
            found += map(model_entry, page)
            token = page.token
            if not token:
                break
        return found

    def model(self, name: str) -> ModelEntry:
        """One model.

        Raises:
            RegistryError: there is none of that name.
        """
        self.check_name(name)
        found = self._client.search_registered_models(f"name = '{name}'")
        if not found:
            known = [one.name for one in self.models()]
            raise RegistryError(f"{self.where} has no model {name!r}{near_misses(name, known)}; see `models list`")
        return model_entry(found[0])

    def versions(self, name: str) -> list[VersionEntry]:
        """All versions of a model, the newest first.

        Raises:
            RegistryError: no such model.
        """
        aliases = self.model(name).aliases
        found = self._versions_where(f"name = '{name}'")
        return sorted(self._joined(found, {name: aliases}), key=lambda one: -one.version)

    def version(self, name: str, which: int | str = CHAMPION) -> VersionEntry:
        """One version, by its number or by an alias.

        Raises:
            RegistryError: no such model, version or alias.
        """
        aliases = self.model(name).aliases
        number = aliases.get(str(which)) or (int(which) if str(which).isdecimal() else None)
        found = [] if number is None else self._versions_of(name, number)
        if not found:
            listed = ", ".join(f"{alias} ({version})" for alias, version in aliases.items()) or "none"
            raise RegistryError(f"model {name!r} has no version or alias {which!r}; its aliases are {listed}")
        return self._joined(found, {name: aliases})[0]

    def _versions_of(self, name: str, number: int) -> list[ModelVersion]:
        return self._versions_where(f"name = '{name}' and version_number = {number}")

    def search(self, query: str = "", most: int = 100, by: str = "test.auc") -> list[VersionEntry]:
        """Versions that a search finds (`queries.parse`), the best first."""
        wanted = parse(query)
        found, runs = self._of_names(wanted, most, by) if wanted.models else self._of_runs(wanted.runs, most, by)
        order = {number: place for place, number in enumerate(runs)}
        found = sorted((one for one in found if one.run_id in order), key=lambda one: order[one.run_id])[:most]
        return self._joined(found, self._aliases({one.name for one in found}), runs)

    def _of_runs(self, wanted: str, most: int, by: str) -> tuple[list[ModelVersion], dict[str, MlflowRun]]:
        """The versions that the best runs are."""
        runs = {run.info.run_id: run for run in self._found(wanted, most, by)}
        found: list[ModelVersion] = []
        for some in _in_batches(list(runs), _JOINED):
            found += self._versions_where(f"run_id IN {_listed(some)}")
            if len(found) >= most:
                break
        return found, runs

    def _of_names(self, wanted: Query, most: int, by: str) -> tuple[list[ModelVersion], dict[str, MlflowRun]]:
        """The versions of models by their names, and those of their runs that are wanted, the best first."""
        found = self._versions_where(" and ".join(f"name {op} '{text}'" for op, text in wanted.models))
        runs: list[MlflowRun] = []
        for some in _in_batches(sorted({one.run_id for one in found}), _JOINED):
            conditions = [f"attributes.run_id IN {_listed(some)}", *filter(None, [wanted.runs])]
            runs += self._found(" and ".join(conditions), min(len(some), most), by)
        runs.sort(key=lambda run: run.data.metrics.get(by, -math.inf), reverse=True)
        return found, {run.info.run_id: run for run in runs}

    def _versions_where(self, condition: str) -> list[ModelVersion]:
        with told():
            return _pages(lambda token: self._client.search_model_versions(condition, page_token=token))

    def _aliases(self, names: Set[str]) -> Mapping[str, Mapping[str, int]]:
        """Of many models in one question."""
        known = self._place.aliases(names)
        if known is not None:
            return known
        return {one.name: one.aliases for one in self.models(most=sys.maxsize) if one.name in names}

    def _joined(
        self, found: Iterable[ModelVersion], aliases: Mapping[str, Mapping[str, int]],
        runs: Mapping[str, MlflowRun] | None = None,
    ) -> list[VersionEntry]:  # fmt: skip
        """Versions with their runs."""
        found = list(found)
        known = dict(runs or {})
        for number in {one.run_id for one in found} - set(known):
            known[number] = self._client.get_run(number)
        entries = {number: run_entry(known[number]) for number in {one.run_id for one in found}}
        return [
            VersionEntry(
                one.name, int(one.version), aliases_of(aliases[one.name], int(one.version)), dict(one.tags),
                entries[one.run_id], one.creation_timestamp,
            )
            for one in found
        ]  # fmt: skip

    def tag(self, name: str, which: int | str, tags: Mapping[str, str | None]) -> None:
        """Tag a version and its run, by which it is found; None takes a tag away."""
        one = self.version(name, which)
        with self._place.alone(), told():
            for key, value in tags.items():
                if value is not None:
                    self._client.set_tag(one.of.run, key, value)
                    self._client.set_model_version_tag(name, str(one.version), key, value)
                elif key in one.tags:
                    self._client.delete_tag(one.of.run, key)
                    self._client.delete_model_version_tag(name, str(one.version), key)

    def point(self, name: str, alias: str, version: int) -> None:
        """Let an alias mean a version."""
        with self._place.alone(), told():
            self._client.set_registered_model_alias(name, alias, str(version))

    def delete(self, name: str, version: int | None = None) -> None:
        """Take a version, or a model with all of its versions, out of the registry; their runs stay.

        Raises:
            RegistryError: no such version, or one that an alias means.
        """
        aliases = self.model(name).aliases
        if version is not None:
            held = self.version(name, version).aliases
            if held:
                raise RegistryError(
                    f"version {version} of {name!r} is its {', '.join(held)}: promote another one first"
                )
        elif CHAMPION in aliases:
            raise RegistryError(
                f"model {name!r} is served (champion {aliases[CHAMPION]}): unalias it, or name a version"
            )
        with self._place.alone(), told():
            if version is None:
                self._client.delete_registered_model(name)
            else:
                self._client.delete_model_version(name, str(version))

    def who_saw(self, file: str) -> list[VersionEntry]:
        """The versions that were trained on a file, by its uuid or URL."""
        return self.search(f"data.file = '{file}'", most=10_000)


def _key(run: Described) -> str:
    """What identifies a run folder for good, written there before anything is kept."""
    place = run.folder / PLACE
    told = run.metrics.get("date"), run.metrics.get("seconds")
    known = json.loads(place.read_text()) if place.exists() else {}
    if known.get("of") != list(told):
        known = {"key": uuid.uuid4().hex, "of": told}
        scratch = place.with_suffix(".part")
        scratch.write_text(json.dumps(known))
        scratch.replace(place)
    return str(known["key"])


def _in_batches(all_of: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    return (all_of[start : start + size] for start in range(0, len(all_of), size))


def _listed(texts: Iterable[str]) -> str:
    return "(" + ", ".join(f"'{text}'" for text in texts) + ")"


def _pages(ask: Any) -> list[Any]:
    """All pages of what MLflow lists."""
    page = ask(None)
    found = list(page)
    while page.token:
        page = ask(page.token)
        found += page
    return found
