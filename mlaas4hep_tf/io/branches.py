"""Branches: their kind and dtype, which are selected, and which share their multiplicity."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

from mlaas4hep_tf.errors import MOST_SHOWN, BranchError, near_misses, shorten

Kind = Literal["flat", "jagged", "array", "nested", "other"]

_WILD = re.compile(r"[*?[]")
_BOOKKEEPING = re.compile(r"(^|[./*])f(Bits|UniqueID|Name|Title)$")  # of TObject and TNamed: no physics
NESTED = "lists of lists"
NO_FEATURES = ("nested", "other")
_LEAVE_OUT = "exclude the branch or leave out the file"
OTHER_FILES = "take files of the same kind as those, or scan these and train on them"
_ALIKE = 0.9  # Jet_pt and jet_pt are, Jet_pt and Jet_px are not
PREDICTED = ("score", "score_*", "predicted_*")
IDENTIFIERS = ("run", "event", "luminosityBlock", "lumi")


@dataclass(frozen=True)
class BranchInfo:
    """One branch as a file has it.

    Attributes:
        name: name of the branch.
        typename: C++ type, as uproot prints it.
        kind: ``flat`` (a number per event), ``jagged`` (a list per event), ``array`` (a list of constant
            length), ``nested`` (a list of lists, which is no feature) or ``other`` (nothing that becomes numbers).
        dtype: NumPy dtype of the values in native byte order, empty for ``other``.
        counter: whole path of the leaf that holds the multiplicity, if the branch shares one.
        length: number of values per event of an ``array``, else 0.
        reason: why a branch is no feature.
        inner: of a ``nested`` one the name of its inner lists, which branches of one storage share.
        friend: name of the friend tree that it lies in, with which its own name begins; empty: in the tree itself.
    """

    name: str
    typename: str
    kind: Kind
    dtype: str = ""
    counter: str | None = None
    length: int = 0
    reason: str = ""
    inner: str = ""
    friend: str = ""

    @property
    def own_name(self) -> str:
        """Its name in the tree that it lies in."""
        return self.name.removeprefix(f"{self.friend}.")

    @property
    def group(self) -> str:
        """Branches of one group have the same multiplicity in every event."""
        return self.counter or self.name


@dataclass(frozen=True)
class Selection:
    """Patterns that choose feature branches (``fnmatch`` rules, case-sensitive); a name in full is just that branch.

    Attributes:
        branches: patterns of branches to take; empty takes all that are numeric.
        exclude: patterns of branches to leave out.
        identifiers: names of branches that identify the event and are never features.
    """

    branches: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    identifiers: tuple[str, ...] = IDENTIFIERS

    def may_mean(self, name: str, also: Iterable[str] = ()) -> bool:
        """Whether a branch of this name, or a member of its objects, may be among the features or those in `also`."""
        begins = [*(_WILD.split(pattern)[0] for pattern in self.branches or ("*",)), *also]
        stem = name.partition("[")[0]
        return any(name.startswith(text) or text.startswith(stem) for text in begins)

    def among(self, names: Iterable[str]) -> frozenset[str]:
        """Those of a tree's branches that are features, if they can become one."""
        every = frozenset(names)
        taken = frozenset[str]().union(*(_asked_for(p, every) for p in self.branches or ("*",)))
        return taken.difference(self.identifiers, *(meant(p, every) for p in self.exclude))


def _asked_for(pattern: str, names: frozenset[str]) -> frozenset[str]:
    """What a pattern means, without the bookkeeping of ROOT's objects unless the pattern names it."""
    found = meant(pattern, names)
    return found if _BOOKKEEPING.search(pattern) else frozenset(n for n in found if not _BOOKKEEPING.search(n))


def meant(pattern: str, names: Collection[str]) -> frozenset[str]:
    """The name that a pattern is, if there is one, although it may look like a pattern; else all that it matches."""
    return frozenset({pattern} if pattern in names else (name for name in names if fnmatchcase(name, pattern)))


def are_predictions(names: Collection[str]) -> bool:
    """Whether branches are those that `predict` writes."""
    return {"file", "entry"} <= {*names} and any(fnmatchcase(n, p) for n in names for p in PREDICTED)


@dataclass(frozen=True)
class Selected:
    """Outcome of `select`: feature branches sorted (flat first, then jagged), and what else there is.

    Attributes:
        features: the branches to learn from.
        identifiers: names of the event identifiers that the tree has.
        left_out: branch -> why it cannot become numbers.
    """

    features: tuple[BranchInfo, ...]
    identifiers: tuple[str, ...]
    left_out: Mapping[str, str]


@dataclass(frozen=True)
class Layout:
    """Which branches are packed into which float32 matrix, in this order.

    Attributes:
        flat: flat branches, columns of one matrix.
        groups: names of the groups and of their branches, a matrix each.
        targets: flat branches of labels and weights, an array each, and the dtypes in which they are delivered.
    """

    flat: tuple[str, ...]
    groups: tuple[tuple[str, tuple[str, ...]], ...]
    targets: tuple[tuple[str, str], ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        listed = [
            *self.flat,
            *(name for _, names in self.groups for name in names),
            *(name for name, _ in self.targets),
        ]
        return tuple(dict.fromkeys(listed))


def select(infos: Sequence[BranchInfo], selection: Selection, where: str) -> Selected:
    """Apply a selection to the branches of one tree.

    Raises:
        BranchError: a pattern that matches nothing, a branch asked for by name that cannot become numbers,
            or no numeric branch at all.
    """
    names = [info.name for info in infos]
    every = frozenset(names)
    for pattern in (*selection.branches, *selection.exclude):
        if not meant(pattern, every):
            raise BranchError(f"no branch matches {pattern!r}{near_misses(pattern, names)} in {where}")
    chosen = selection.among(names)
    wanted = [info for info in infos if info.name in chosen]
    for info in wanted:
        if info.kind in NO_FEATURES and info.name in selection.branches:
            raise BranchError(
                f"branch {info.name!r} cannot become a feature: it is {info.reason} ({info.typename}) in {where}; "
                "take it out of branches="
            )
    features = [info for info in wanted if info.kind not in NO_FEATURES]
    if not features:
        raise BranchError(
            f"no numeric branch is left to learn from in {where}, which has {len(infos)} branches "
            f"({shorten(names)}); widen branches= or exclude="
        )
    left_out = {i.name: f"{i.reason} ({i.typename})" for i in wanted if i.kind in NO_FEATURES}
    found = tuple(name for name in selection.identifiers if name in set(names))
    return Selected(tuple(sorted(features, key=_order)), found, left_out)


def _order(info: BranchInfo) -> tuple[bool, str]:
    return (info.kind != "flat", info.name)


def check_complete(needed: Collection[str], present: Collection[str], where: str) -> None:
    """Hold the branches of one file to those that specs read.

    Raises:
        BranchError: names those that are missing, and what there is beside the others.
    """
    there, read = frozenset(present), frozenset(needed)
    missing = [name for name in needed if name not in there]
    if missing:
        others = [name for name in present if name not in read]
        near = [f"{name!r}{near_misses(name, others, _ALIKE)}" for name in missing[:MOST_SHOWN]]
        told = shorten(near + missing[MOST_SHOWN:])
        remedy = "it holds scores that `predict` wrote: leave it out" if are_predictions(present) else OTHER_FILES
        raise BranchError(
            f"{where} lacks {len(missing)} of the {len(needed)} branches that the specs, and models trained with them, "
            f"read: {told}; what it has beside is {shorten(map(repr, others)) or 'nothing'}; {remedy}"
        )


def check_schema(
    expected: Iterable[BranchInfo], infos: Sequence[BranchInfo], where: str, reference: str, advice: str = _LEAVE_OUT
) -> None:
    """Hold the branches of one file to those expected: same names, kinds and dtypes.

    Raises:
        BranchError: names the first branch that is missing or of another type, and both places.
    """
    present = {info.name: info for info in infos}
    for want in expected:
        have = present.get(want.name)
        if have is None:
            raise BranchError(
                f"all files must have the same branches: {want.name!r} of {reference} is missing in "
                f"{where}{near_misses(want.name, present)}; {advice}"
            )
        if (have.kind, have.dtype, have.length) != (want.kind, want.dtype, want.length):
            raise BranchError(
                f"all files must agree on the type of a branch: {want.name!r} is {describe(have)} in {where} but "
                f"{describe(want)} in {reference}; {advice}"
            )
        if have.group != want.group:
            raise BranchError(
                f"all files must agree on the counter of a branch: {want.name!r} is counted by {have.group!r} in "
                f"{where} but by {want.group!r} in {reference}; {advice}"
            )


def describe(info: BranchInfo) -> str:
    """``jagged float32``, ``array[3] float64``, or why it is nothing of the kind."""
    if info.kind in NO_FEATURES:
        return info.reason
    return f"{info.kind}{f'[{info.length}]' if info.kind == 'array' else ''} {info.dtype}"


def parse_patterns(patterns: str | Iterable[str] | None) -> tuple[str, ...]:
    """``None``, one pattern, a comma list or several patterns, as a tuple."""
    if patterns is None:
        return ()
    listed = patterns.split(",") if isinstance(patterns, str) else list(patterns)
    return tuple(p.strip() for p in listed if p.strip())
