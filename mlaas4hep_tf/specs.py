"""`Specs`, the result of pass 1: frozen, saved as JSON and bound to the data."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from mlaas4hep_tf.analysis.cutflow import CutFlow
from mlaas4hep_tf.analysis.rules import NO_ANALYSIS, Analysis
from mlaas4hep_tf.analysis.steps import Steps, steps_of
from mlaas4hep_tf.distributions import Distribution
from mlaas4hep_tf.errors import BranchError, DataWarning, FriendError, PlanError, SpecsError, near_misses, shorten
from mlaas4hep_tf.expressions.syntax import words_of
from mlaas4hep_tf.files_table import NO_FILES, FileSpec, FilesTable, Summary, listed_files
from mlaas4hep_tf.htmltable import table, text
from mlaas4hep_tf.io.branches import IDENTIFIERS, OTHER_FILES, BranchInfo, Kind, Selection, check_complete, check_schema
from mlaas4hep_tf.io.files import Friend, RootFile, Source, place_of
from mlaas4hep_tf.table_store import read_table, table_name, write_table

VERSION = 2  # 1 had a list of the files instead of a table beside it
_HEADER = ("version", "fingerprint", "checksum")  # of the file, beside the content


@dataclass(frozen=True, repr=False)
class BranchSpec:
    """One feature branch over the whole dataset.

    NaN and +-inf are counted, and left out of all other numbers.  A branch without a finite value is *empty*:
    `min`, `max`, `mean` and `variance` are None.  One with `min == max` is *constant*.

    Attributes:
        name, kind, dtype: as in `BranchInfo`.
        group: branches of one group share their multiplicity.
        length: values per event kept in the vector; 1 for flat branches.
        multiplicities: how many events have 0, 1, 2 ... values; empty for flat branches.
        values: number of values, finite or not.
        nan, posinf, neginf: how many of them are not finite.
        min, max, mean, variance: of the finite values (population variance), in the branch's own unit.
        distribution: of the finite values, where scan was asked for it.
    """

    name: str
    kind: Kind
    dtype: str
    group: str
    length: int
    multiplicities: tuple[int, ...]
    values: int
    nan: int
    posinf: int
    neginf: int
    min: float | None
    max: float | None
    mean: float | None
    variance: float | None
    distribution: Distribution | None = None

    def __repr__(self) -> str:
        lists = "" if self.kind == "flat" else f" of {self.group}, {self.length} of up to {self.largest} values kept"
        span = "no finite value" if self.empty else f"{text(self.min)} to {text(self.max)}"
        return f"BranchSpec({self.name}: {self.kind} {self.dtype}{lists}, {span})"

    @property
    def largest(self) -> int:
        """Largest multiplicity seen; 1 for flat branches."""
        return 1 if self.kind == "flat" else max(len(self.multiplicities) - 1, 0)

    @property
    def empty(self) -> bool:
        return self.min is None

    @property
    def constant(self) -> bool:
        return self.min is not None and self.min == self.max

    @property
    def truncated(self) -> tuple[int, int]:
        """Events with more values than `length`, and the values beyond it."""
        beyond = list(enumerate(self.multiplicities))[self.length + 1 :] if self.kind != "flat" else []
        return sum(n for _, n in beyond), sum(n * (size - self.length) for size, n in beyond)

    @property
    def columns(self) -> tuple[str, ...]:
        if self.kind == "flat":
            return (self.name,)
        return tuple(f"{self.name}_{i}" for i in range(self.length))


@dataclass(frozen=True)
class TargetSpec:
    """A branch of labels or weights over the whole dataset: what training must know of it, and no feature.

    Attributes:
        name, dtype: as in `BranchInfo`; there is a number per event.
        values: number of events.
        not_finite: how many of them are NaN or infinite.
        min, max: of the finite values, integers exactly; None without any.
        found: each finite value and how often it comes, by value; empty where there are more than `FOUND`.
        mean, variance: of the finite values (population variance); None without any, and in specs of before.
    """

    name: str
    dtype: str
    values: int
    not_finite: int
    min: float | None
    max: float | None
    found: tuple[tuple[float, int], ...]
    mean: float | None = None
    variance: float | None = None


FOUND = 256  # values of a target that are kept apart: classes, not measurements


@dataclass(frozen=True)
class InputSpec:
    """A branch of the files that an analysis reads, as a feature or for its expressions.

    Attributes:
        name, kind, dtype, group, length, inner, friend: as in `BranchInfo`, with the group that scan found.
        feature: whether it is a feature too.
        served: whether the exported model needs it: a feature, or one that more than `train_select` uses.
        integer: whether the exported model takes it as int64, since every digit counts or float32 does not hold it.
    """

    name: str
    kind: Kind
    dtype: str
    group: str
    length: int = 0
    feature: bool = True
    served: bool = True
    integer: bool = False
    inner: str = ""
    friend: str = ""

    @property
    def info(self) -> BranchInfo:
        shared = _shared(self.name, self.group)
        return BranchInfo(
            self.name, "", self.kind, self.dtype, shared, self.length, inner=self.inner, friend=self.friend
        )


@dataclass(frozen=True, repr=False)
class Specs:
    """Everything that padding, normalisation and the model's shape need, from one pass over the data.

    ``specs["Jet_pt"]`` is one branch; notebooks show all of them as a table.

    Attributes:
        tree: name of the tree.
        branches: feature branches, flat ones by name, then jagged ones by name.
        files: the files that were read; `RootDataset` takes it too, as what it is to read.
        selection: the patterns that chose the branches.
        identifiers: identifier branches that the tree has.
        left_out: branch -> why it could not become a feature.
        bound: whether these specs hold for `files` only (`unbound` lifts that).
        targets: branches of labels and weights, by name.
        stored_groups: branches that scan joined in a group -> their group in the files.
        example: input of the model -> its number or list in one event of the data, None for what is not finite; empty
            in specs that were made before there was one.
        analysis: selections, object cuts and derived branches.
        inputs: branches of the files that are read, where there is an analysis; else the feature branches are.
        cutflow: what the selection left, where there is one.
        kinds: derived branches that tell kinds -> how many values each has; they are never normalised.
        identified: whether the identifiers tell all events apart; None where that is not known.
    """

    tree: str
    branches: tuple[BranchSpec, ...]
    files: FilesTable
    selection: Selection
    identifiers: tuple[str, ...]
    left_out: Mapping[str, str]
    bound: bool = True
    targets: tuple[TargetSpec, ...] = ()
    stored_groups: Mapping[str, str] = field(default_factory=dict)
    example: Mapping[str, Any] = field(default_factory=dict)
    analysis: Analysis = NO_ANALYSIS
    inputs: tuple[InputSpec, ...] = ()
    cutflow: CutFlow | None = None
    kinds: Mapping[str, int] = field(default_factory=dict)
    identified: bool | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "files", FilesTable.of(self.files))
        if not self.branches:
            raise SpecsError("specs need at least one branch")
        met = next((name for name, times in Counter(self.vector_names).items() if times > 1), None)
        if met is not None:
            owners = [repr(branch) for branch, own in self.columns.items() if met in own]
            raise SpecsError(f"column {met!r} of the vector would be of branches {' and '.join(owners)}; exclude one")

    def __getitem__(self, name: str) -> BranchSpec:
        """The branch of this name.

        Raises:
            BranchError: no such feature branch.
        """
        found = next((branch for branch in self.branches if branch.name == name), None)
        if found is None:
            raise BranchError(f"the specs have no feature branch {name!r}{self._why_not(name)}")
        return found

    def _why_not(self, name: str) -> str:
        if name in self.left_out:
            return f": it was left out, {self.left_out[name]}"
        if name in (target.name for target in self.targets):
            return ": it is a label or weight, in specs.targets"
        return ": it identifies events" if name in self.identifiers else near_misses(str(name), self)

    def __contains__(self, name: object) -> bool:
        return any(branch.name == name for branch in self.branches)

    def __iter__(self) -> Iterator[str]:
        """Names of the feature branches."""
        return (branch.name for branch in self.branches)

    def __repr__(self) -> str:
        return f"Specs({self._summary()})"

    def _summary(self) -> str:
        return (
            f"tree {self.tree!r}, {self.entries:,} events of {self.files.summary.count:,} files: "
            f"{len(self.flat)} flat branches and {len(self.jagged)} in {len(self.groups)} "
            f"group{'s' * (len(self.groups) != 1)}, "
            f"{len(self.vector_names)} columns, fingerprint {self.fingerprint}"
        )

    def _repr_html_(self) -> str:
        head = ("branch", "kind", "type", "group", "kept", "largest", "min", "max", "mean", "std", "missing")
        targets = ((t.name, t.dtype, t.min, t.max, len(t.found) or None, t.not_finite or None) for t in self.targets)
        about_targets = ("label or weight", "type", "min", "max", "values", "missing")
        return (
            table(f"Specs of {self._summary()}", head, map(_row, self.branches))
            + (table("Targets:", about_targets, targets) if self.targets else "")
            + (self.cutflow._repr_html_() if self.cutflow is not None else "")
        )

    @property
    def entries(self) -> int:
        """Events that are used: those that pass, where there is a selection."""
        return self.files.summary.entries

    @property
    def friends(self) -> tuple[str, ...]:
        """Names of the friends, which every file has."""
        return tuple(friend.name for friend in self.files.friends)

    def with_friends(self, sources: Sequence[Source]) -> tuple[Source, ...]:
        """Files with the friends that they had when they were scanned, unless they have others of these names.

        Raises:
            FriendError: files that were not scanned, of which nobody said where their friends lie.
        """
        known = {place_of(file.url): file for file in self.files} if self.friends else {}
        return tuple(
            replace(source, friends=(*source.friends, *self._friends_of(source, known.get(place_of(source.url)))))
            for source in sources
        )

    def _friends_of(self, source: Source, known: FileSpec | None) -> Iterator[Friend]:
        given = {friend.name for friend in source.friends}
        for friend in known.friends if known is not None else self.files.friends:
            if friend.name in given:
                continue
            if friend.url and known is None:
                raise FriendError(
                    f"the features come from a friend, {friend.name!r}, too, and it is not known where that of file "
                    f"{source.url} lies; say it by friends={{{friend.name!r}: files}} (--friend {friend.name}=FILES)"
                )
            lies = Source(friend.url, friend.tree) if friend.url else replace(source, tree=friend.tree, friends=())
            same = known is not None and self.bound
            yield Friend(friend.name, lies, friend.identifiers if same else self.identifiers)

    @cached_property
    def steps(self) -> Steps | None:
        """What the analysis does with the inputs; None where there is no analysis."""
        return steps_of(self.analysis, tuple(one.info for one in self.inputs)) if self.analysis else None

    @property
    def flat(self) -> tuple[BranchSpec, ...]:
        return tuple(b for b in self.branches if b.kind == "flat")

    @property
    def jagged(self) -> tuple[BranchSpec, ...]:
        """Jagged branches and arrays of constant length."""
        return tuple(b for b in self.branches if b.kind != "flat")

    @property
    def groups(self) -> dict[str, tuple[BranchSpec, ...]]:
        """Group name -> its branches by name."""
        found: dict[str, tuple[BranchSpec, ...]] = {}
        for branch in self.jagged:
            found[branch.group] = (*found.get(branch.group, ()), branch)
        return found

    @property
    def columns(self) -> dict[str, tuple[str, ...]]:
        """Branch -> names of its columns, `<branch>_<i>` for lists, `<branch>[<i>]` where a flat one has that name."""
        flat = {b.name for b in self.flat}
        return {
            b.name: tuple(f"{b.name}[{i}]" for i in range(b.length)) if flat & {*b.columns} - {b.name} else b.columns
            for b in self.branches
        }

    @property
    def vector_names(self) -> tuple[str, ...]:
        """Columns of the vector (paper, figure 3): sorted flat branches, then sorted jagged ones."""
        return tuple(itertools.chain(*self.columns.values()))

    @property
    def fingerprint(self) -> str:
        """Identity of the data and the selection: uuids, entries and schema, not where the files lie."""
        parts: list[Any] = [self.files.summary.identity, self.tree, asdict(self.selection)]
        parts += [[b.name, b.kind, b.dtype, b.group] for b in self.branches]
        if self.analysis:
            parts.append(self.analysis.to_json())
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]

    def with_lengths(self, *, quantile: float) -> Specs:
        """Cut every jagged branch at a quantile of its multiplicity (paper, footnote 8).

        The new length is the smallest that holds the multiplicity of at least this fraction of the events;
        all branches of a group get the same.  What is beyond is truncated when the data are read.

        Raises:
            PlanError: a quantile outside (0, 1].
            SpecsError: specs of the paper's programs, which know only the largest multiplicity.
        """
        check_quantile(quantile)
        unknown = [b.name for b in self.branches if b.kind == "jagged" and b.length and not sum(b.multiplicities)]
        if unknown:
            raise SpecsError(
                f"these specs do not say how multiplicities are distributed ({shorten(unknown)}); scan again"
            )
        return replace(self, branches=tuple(replace(b, length=at_quantile(b, quantile)) for b in self.branches))

    def without_constant(self) -> Specs:
        """Leave out the branches that tell nothing: those with one value, or none.

        Raises:
            SpecsError: there is no other.
        """
        told = tuple(b for b in self.branches if not (b.constant or b.empty))
        if not told:
            raise SpecsError(
                f"all branches have one value or none, so there is nothing to learn: {shorten(self.columns)}"
            )
        left_out = {b.name: "one value" if b.constant else "no finite value" for b in self.branches if b not in told}
        return replace(self, branches=told, left_out={**self.left_out, **left_out})

    def to_fileset(self) -> dict[str, dict[str, Any]]:
        """The files as a fileset of coffea; those of no dataset are one that is called as the tree."""
        found: dict[str, dict[str, Any]] = {}
        for file in self.files:
            files = found.setdefault(file.dataset or self.tree, {"files": {}, "metadata": {}})["files"]
            files[file.url] = {
                "object_path": self.tree, "steps": [[0, file.entries]], "num_entries": file.entries, "uuid": file.uuid,
            }  # fmt: skip
        return found

    def unbound(self) -> Specs:
        """The same specs for any files of the same schema: new data to predict, or more of the same simulation."""
        return replace(self, bound=False)

    def all_events(self) -> Specs:
        """The same specs without the selection: objects are cut and branches derived in every event."""
        rules = replace(self.analysis, select=(), train_select=())
        return replace(self, analysis=rules, cutflow=None, files=self.files.without_selection())

    def resolve(self, file: RootFile) -> Specs:
        """Fill in kind, dtype and group, which the paper's specs lack, from a file of the dataset."""
        known = {info.name: info for info in file.branches}
        found = [
            replace(b, kind=known[b.name].kind, dtype=known[b.name].dtype, group=known[b.name].group)
            if not b.dtype and b.name in known and (b.kind == "flat") == (known[b.name].kind == "flat") else b
            for b in self.branches
        ]  # fmt: skip
        return replace(self, tree=self.tree or file.tree, branches=tuple(found))

    def check(self, files: Sequence[RootFile]) -> None:
        """Hold files to these specs: same schema, and, while bound, files that were scanned.

        Raises:
            SpecsError: files that were not scanned, or that changed since.
            BranchError: a branch that is missing or of another type.
        """
        expected = [self._stored(info) for info in self.read_infos]
        for file in files:
            check_complete([b.name for b in expected], [b.name for b in file.branches], file.where)
            check_schema(expected, file.branches, file.where, "the specs", OTHER_FILES)
        if not self.bound:
            return
        known = {(f.uuid, f.entries): f for f in self.files}
        urls = {f.url: f for f in self.files}
        for file in files:
            if (file.uuid, file.num_entries) in known:
                _check_friends(file, known[file.uuid, file.num_entries])
                continue
            was = urls.get(file.url)
            what = (
                f"it has uuid {file.uuid} and {file.num_entries} entries, the specs say {was.uuid} and {was.entries}"
                if was
                else f"they were made from {len(self.files)} other files ({shorten((f.url for f in self.files), 2)})"
            )
            raise SpecsError(
                f"the specs belong to other data than {file.where}: {what}; scan these files, "
                "or use specs.unbound() to apply the specs to new data of the same kind"
            )

    @cached_property
    def served_steps(self) -> Steps | None:
        """What of the analysis the exported model does; None where it does nothing."""
        rules = self.analysis.serving(words_of, self)
        return steps_of(rules, tuple(one.info for one in self.inputs)) if rules else None

    def steps_beside(self, names: Sequence[str] = ()) -> Steps:
        """What it takes to say whether the exported model would select an event, and what some derived branches are."""
        rules = self.analysis.serving(words_of, names)
        needed = rules.select or rules.define
        return steps_of(rules if needed else NO_ANALYSIS, tuple(one.info for one in self.inputs))

    @property
    def served_inputs(self) -> tuple[InputSpec, ...]:
        """What the exported model takes of an event."""
        if self.analysis:
            return tuple(one for one in self.inputs if one.served)
        return tuple(InputSpec(b.name, b.kind, b.dtype, b.group) for b in self.branches)

    def info_of(self, branch: BranchSpec) -> BranchInfo:
        """A feature branch as the readers know it."""
        return BranchInfo(branch.name, "", branch.kind, branch.dtype, *_counter(branch))

    @property
    def read_infos(self) -> tuple[BranchInfo, ...]:
        """The branches of the files that are read, in the groups of the specs."""
        if self.analysis:
            return tuple(one.info for one in self.inputs)
        return tuple(map(self.info_of, self.branches))

    def _stored(self, info: BranchInfo) -> BranchInfo:
        """The same with the group that it has in the files."""
        stored = self.stored_groups.get(info.name)
        return info if stored is None else replace(info, counter=_shared(info.name, stored))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write JSON, and the files table beside it, ``<name>.files.parquet`` (without pyarrow ``.npz``).

        The table is written first; each appears under its name only when it is complete.
        """
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        name = table_name(target) if len(self.files) else ""
        if name:
            write_table(self.files, target.with_name(name))
        partial = target.with_name(target.name + ".part")
        partial.write_text(json.dumps(self.to_json(name), indent=1) + "\n")
        partial.replace(target)

    def to_json(self, table: str = "") -> dict[str, Any]:
        """All but the files, of which there is what `Summary` says, and the name of the table that has them."""
        bare = asdict(replace(self, files=NO_FILES))
        content = bare | {"analysis": self.analysis.to_json(), "files": {"table": table} | asdict(self.files.summary)}
        return {"version": VERSION, "fingerprint": self.fingerprint, "checksum": _checksum(content), **content}

    @staticmethod
    def load(path: str | os.PathLike[str]) -> Specs:
        """Read specs, ours or those of the paper's programs.

        Warns:
            DataWarning: the files table that belongs to them is not there; then they are unbound.

        Raises:
            SpecsError: no such file, no specs, a newer version, a checksum that does not fit the content, or the files
                table of other specs.
        """
        try:
            content = json.loads(Path(path).read_text())
        except FileNotFoundError:
            raise SpecsError(f"no specs file {os.fspath(path)}; make one with `mlaas4hep-tf scan`") from None
        except (OSError, ValueError) as error:
            raise SpecsError(f"cannot read specs {os.fspath(path)}: {error}") from error
        if not isinstance(content, dict):
            raise SpecsError(f"{os.fspath(path)} holds no specs: a JSON object is expected")
        if {"jdim", "minv", "maxv"} <= content.keys():
            return from_paper(content)
        return _from_json(content, os.fspath(path))


def _row(b: BranchSpec) -> tuple[object, ...]:
    """A branch in the table of a notebook."""
    lists = (None, None, None) if b.kind == "flat" else (b.group, b.length, b.largest)
    std = None if b.variance is None else b.variance**0.5
    return b.name, b.kind, b.dtype, *lists, b.min, b.max, b.mean, std, b.nan + b.posinf + b.neginf or None


def _check_friends(file: RootFile, spec: FileSpec) -> None:
    """Raise SpecsError for friends that changed since they were scanned."""
    scanned = {friend.name: friend.uuid for friend in spec.friends}
    for one in file.friends:
        if scanned.get(one.friend.name, one.file.uuid) != one.file.uuid:
            raise SpecsError(
                f"the specs belong to another friend {one.friend.name!r} of {file.where} than {one.file.where}: it has "
                f"uuid {one.file.uuid}, the specs say {scanned[one.friend.name]}; scan these files, or use "
                "specs.unbound()"
            )


def check_quantile(quantile: float) -> None:
    """Raise PlanError unless the quantile lies in (0, 1]."""
    if not 0 < quantile <= 1:
        raise PlanError(f"a quantile of the multiplicity must lie in (0, 1], not {quantile:g}")


def _counter(branch: BranchSpec) -> tuple[str | None, int]:
    return _shared(branch.name, branch.group), branch.largest if branch.kind == "array" else 0


def _shared(name: str, group: str) -> str | None:
    """The counter of a branch, if its group is not it alone."""
    return group if group != name else None


def at_quantile(branch: BranchSpec, quantile: float) -> int:
    """The smallest length that holds the multiplicity of at least this fraction of the events."""
    if branch.kind != "jagged":
        return branch.length
    needed = quantile * sum(branch.multiplicities)
    seen = 0
    for size, events in enumerate(branch.multiplicities):
        seen += events
        if seen >= needed:
            return size
    return branch.length


def _from_json(content: dict[str, Any], path: str) -> Specs:
    if content.get("version") not in (1, VERSION):
        raise SpecsError(
            f"{path} holds no specs of version 1 or {VERSION}: version is {content.get('version')!r}; scan again"
        )
    try:
        specs = Specs(
            tree=content["tree"],
            branches=tuple(_branch(b) for b in content["branches"]),
            files=_files(content["files"], Path(path)),
            selection=Selection(**{k: tuple(v) for k, v in content["selection"].items()}),
            identifiers=tuple(content["identifiers"]),
            left_out=content["left_out"],
            bound=False,
            targets=tuple(_target(t) for t in content.get("targets", ())),
            stored_groups=content.get("stored_groups", {}),
            example=content.get("example", {}),
            analysis=Analysis.from_json(content.get("analysis", {})),
            inputs=tuple(InputSpec(**one) for one in content.get("inputs", ())),
            cutflow=CutFlow.from_json(content["cutflow"]) if content.get("cutflow") else None,
            kinds=content.get("kinds", {}),
            identified=content.get("identified"),
        )
    except (KeyError, TypeError) as error:
        raise SpecsError(f"the specs {path} are damaged ({type(error).__name__}: {error}); scan again") from error
    if _checksum({name: value for name, value in content.items() if name not in _HEADER}) != content.get("checksum"):
        raise SpecsError(f"the specs {path} were changed by hand: their checksum does not fit; scan again")
    return _bound(specs, content, path)


def _files(content: Any, specs: Path) -> FilesTable:
    """The files table of specs; of specs of before, their list of files."""
    if isinstance(content, list):
        return listed_files(content)
    summary = Summary(**{name: content[name] for name in ("count", "entries", "identity", "checksum")})
    try:
        return read_table(specs.with_name(content["table"]), summary) if content["table"] else FilesTable.lost(summary)
    except FileNotFoundError:
        return FilesTable.lost(summary)


def _bound(specs: Specs, content: Mapping[str, Any], path: str) -> Specs:
    """The specs bound to their files, if they were and these are known."""
    lost = specs.files.summary.count and not len(specs.files)
    if lost and content["bound"]:
        warnings.warn(
            f"the files table {content['files']['table']} is not beside {path}, so these specs do not know their files "
            "and hold for any (unbound); copy it there, or scan again",
            DataWarning, stacklevel=4,
        )  # fmt: skip
    return replace(specs, bound=content["bound"] and not lost)


def _checksum(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _branch(content: dict[str, Any]) -> BranchSpec:
    known: dict[str, Any] = {f.name: content[f.name] for f in fields(BranchSpec) if f.name in content}
    binned = known.get("distribution")
    return BranchSpec(
        **known | {
            "multiplicities": tuple(known["multiplicities"]),
            "distribution": Distribution(tuple(binned["values"]), tuple(binned["counts"])) if binned else None,
        }
    )  # fmt: skip


def _target(content: dict[str, Any]) -> TargetSpec:
    return TargetSpec(**content | {"found": tuple((value, count) for value, count in content["found"])})


def from_paper(content: Mapping[str, Any]) -> Specs:
    """Specs of the paper's programs: ``jdim``, ``minv``, ``maxv``, ``fkeys``, ``jkeys`` (and ``events``).

    They know neither dtypes, counters nor files, so the result is unbound, each jagged branch is a group of
    its own until data are seen, and mean and variance are unknown (only ``normalize="minmax"`` works).
    """
    missing = [key for key in ("fkeys", "jkeys") if key not in content]
    if missing:
        raise SpecsError(f"specs of the paper's programs need the key {missing[0]!r}")
    identifiers = tuple(name for name in content["fkeys"] if name in IDENTIFIERS)
    branches = []
    for name in (*sorted(set(content["fkeys"]) - set(identifiers)), *sorted(content["jkeys"])):
        jagged = name in content["jdim"]
        low, high = content["minv"].get(name), content["maxv"].get(name)
        length = int(content["jdim"][name]) if jagged else 1
        branches.append(
            BranchSpec(name, "jagged" if jagged else "flat", "", name, length, (0,) * (length + 1) if jagged else (),
                       0, 0, 0, 0, low, high, None, None)
        )  # fmt: skip
    files = FilesTable.of(
        FileSpec(name, "", int(n)) for name, n in content.get("events", {}).items() if name != "total"
    )
    names = tuple(b.name for b in branches)
    return Specs("", tuple(branches), files, Selection(names, (), IDENTIFIERS), identifiers, {}, bound=False)
