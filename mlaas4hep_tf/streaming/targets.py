"""Labels and weights as the user gives them: a number per file, by pattern or as a list, or a branch."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from mlaas4hep_tf.errors import BranchError, LabelError, PlanError, near_misses, shorten
from mlaas4hep_tf.io.branches import BranchInfo, describe
from mlaas4hep_tf.io.files import RootFile, meant_files, names_of
from mlaas4hep_tf.scanned_files import kinds_of, names_in
from mlaas4hep_tf.streaming.skipped import SkippedRange

PerFile = Mapping[str, float] | Sequence[float] | str
Labels = Mapping[str, float] | Mapping[str, str] | Sequence[float] | Sequence[str] | str  # as users give them


LabelDtype = Literal["float32", "int32", "int64"]
_OTHERWISE = {
    "labels": "; --labels names a branch, and files of one class each need none: train --label '*ttH*=ttH' --label "
    "'*=rest', or labels={'*ttH*': 1, '*': 0}",
    "weights": "; --weights names a branch with a number per event",
}
_SHARED = 256
FLOAT32_INTEGERS = 2**24  # up to it float32 holds every integer


def described(given: Labels) -> str:
    """What a user gave, in words: a branch, or what each pattern or file has."""
    if isinstance(given, str):
        return f"branch {given}"
    if isinstance(given, Mapping):
        return "by file: " + shorten(f"{pattern}={value}" for pattern, value in given.items())
    return "by file: " + shorten(given)


@dataclass(frozen=True)
class Target:
    """Labels or weights: one number per file, or a branch.

    Attributes:
        per_file: a number for each file, or empty.
        branch: name of the branch that has it per event, or empty.
        dtype: in which it is delivered.
        names: of the classes 0, 1 ..., where labels were given by name.
    """

    per_file: tuple[float, ...] = ()
    branch: str = ""
    dtype: str = "float32"
    names: tuple[str, ...] = ()


def resolve_target(
    what: str, given: PerFile | None, files: Sequence[RootFile], failed: Sequence[SkippedRange] = ()
) -> Target | None:
    """Labels or weights as the user gave them -> a number per file or a flat branch.

    Args:
        failed: files that could not be opened; a list has a number for them too, and a pattern may match no other.

    Raises:
        LabelError: patterns that match no file, files that no pattern matches, or a list of another length.
        BranchError: no such flat branch.
    """
    if given is None:
        return None
    if isinstance(given, str):
        return Target(branch=flat_branch(what, given, kinds_of(files)).name)
    return Target(per_file(what, given, names_in(files), failed))


def per_file(
    what: str, given: Mapping[str, float] | Sequence[float], files: Sequence[tuple[str, ...]],
    failed: Sequence[SkippedRange] = (),
) -> tuple[float, ...]:  # fmt: skip
    """The number of each file, from patterns or a list; see `resolve_target`.

    Args:
        files: the names of each (`names_of`).

    Raises:
        LabelError: patterns that match no file, files that no pattern matches, or a list of another length.
    """
    if isinstance(given, Mapping):
        return tuple(_shared(_by_pattern(what, given, files, failed)))
    values = [*_shared(given)]
    count = len(files) + len(failed)
    if len(values) != count:
        raise LabelError(f"a list of {what} needs one number per file: {len(values)} for {count} files")
    gone = {lost.number for lost in failed}
    return tuple(value for number, value in enumerate(values) if number not in gone)


def _shared(numbers: Iterable[float]) -> Iterator[float]:
    """The same as floats, of which the first distinct ones are an object each: a million labels have few values."""
    known: dict[str, float] = {}
    for number in map(float, numbers):
        yield known.setdefault(number.hex(), number) if len(known) < _SHARED else number


def check_law(law: object) -> None:
    """Raise PlanError for a word that is no mixing law."""
    if isinstance(law, str) and law not in ("proportional", "equal"):
        raise PlanError(f"a mixing law must be 'proportional', 'equal' or shares of the files, not {law!r}")


def label_dtype(values: Collection[float], low: float | None, high: float | None) -> LabelDtype:
    """In which dtype labels are delivered: int32 for K > 2 classes 0 to K - 1, int64 for large integers, else float32.

    Args:
        values: the distinct labels, where they are few enough to be known; of floats none.
        low, high: the smallest and the largest label.
    """
    whole = all(isinstance(value, int) or value.is_integer() for value in values)
    if whole and max(abs(low or 0), abs(high or 0)) > FLOAT32_INTEGERS:
        return "int64"
    if len(values) > 2 and sorted(values) == list(range(len(values))):
        return "int32"
    return "float32"


def label_of(labels: PerFile | None, lost: SkippedRange) -> float | None:
    """The label of a file that could not be opened, where labels are given per file."""
    if isinstance(labels, Mapping):
        own = [names_of(lost.file, lost.tree)]
        return next((float(value) for pattern, value in labels.items() if meant_files(pattern, own)), None)
    return None if labels is None or isinstance(labels, str) else float(labels[lost.number])


def _by_pattern(
    what: str, patterns: Mapping[str, float], opened: Sequence[tuple[str, ...]], failed: Sequence[SkippedRange]
) -> Iterator[float]:
    names = [*opened, *(names_of(lost.file, lost.tree) for lost in failed)]
    meant = {pattern: meant_files(pattern, names) for pattern in patterns}
    for number, (file, *_) in enumerate(names[: len(opened)]):
        pattern = next((p for p in patterns if number in meant[p]), None)
        if pattern is None:
            raise LabelError(
                f"no pattern of {what} matches file {file}: there are {shorten(map(repr, patterns))}; "
                "add one, for example '*'"
            )
        yield float(patterns[pattern])
    idle = [pattern for pattern in patterns if not meant[pattern]]
    if idle:
        raise LabelError(
            f"pattern {idle[0]!r} of {what} matches none of the {len(opened)} files "
            f"({shorten((file for file, *_ in opened), 3)}); correct it or take it out"
        )


def flat_branch(what: str, name: str, files: Sequence[RootFile]) -> BranchInfo:
    """The branch of labels or weights, which every file must have with a number per event."""
    for file in files:
        info = next((b for b in file.branches if b.name == name), None)
        if info is None:
            close = near_misses(name, [b.name for b in file.branches])
            raise BranchError(f"no branch {name!r}{close} for the {what} in {file.where}{_OTHERWISE.get(what, '')}")
        if info.kind != "flat":
            raise BranchError(f"{what} need one number per event: {name!r} is {describe(info)} in {file.where}")
    return next(b for b in files[0].branches if b.name == name)
