"""Labels and weights as the user gives them: a number per file, by pattern or as a list, or a branch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from mlaas4hep_tf.errors import BranchError, LabelError, PlanError, near_misses, shorten
from mlaas4hep_tf.io.files import RootFile, matches
from mlaas4hep_tf.streaming.skipped import SkippedRange

PerFile = Mapping[str, float] | Sequence[float] | str


@dataclass(frozen=True)
class Target:
    """Labels or weights: one number per file, or a branch.

    Attributes:
        per_file: a number for each file, or empty.
        branch: name of the branch that has it per event, or empty.
    """

    per_file: tuple[float, ...] = ()
    branch: str = ""


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
        return Target(branch=_flat_branch(what, given, files))
    return Target(per_file(what, given, [file.url for file in files], failed))


def per_file(
    what: str, given: Mapping[str, float] | Sequence[float], urls: Sequence[str], failed: Sequence[SkippedRange] = ()
) -> tuple[float, ...]:
    """The number of each file, from patterns or a list; see `resolve_target`.

    Raises:
        LabelError: patterns that match no file, files that no pattern matches, or a list of another length.
    """
    if isinstance(given, Mapping):
        return tuple(_by_pattern(what, given, urls, failed))
    values = [float(v) for v in given]
    count = len(urls) + len(failed)
    if len(values) != count:
        raise LabelError(f"a list of {what} needs one number per file: {len(values)} for {count} files")
    gone = {lost.number for lost in failed}
    return tuple(value for number, value in enumerate(values) if number not in gone)


def check_binary(labels: Sequence[float]) -> None:
    """Raise LabelError unless all labels are 0 or 1."""
    if not set(labels) <= {0.0, 1.0}:
        raise LabelError(
            f"two classes are expected, label 0 for background and 1 for signal; there are {sorted(set(labels))}"
        )


def check_law(law: object) -> None:
    """Raise PlanError for a word that is no mixing law."""
    if isinstance(law, str) and law not in ("proportional", "equal"):
        raise PlanError(f"a mixing law must be 'proportional', 'equal' or shares of the files, not {law!r}")


def label_of(labels: PerFile | None, lost: SkippedRange) -> float | None:
    """The label of a file that could not be opened, where labels are given per file."""
    if isinstance(labels, Mapping):
        return next((float(value) for pattern, value in labels.items() if matches(lost.file, pattern)), None)
    return None if labels is None or isinstance(labels, str) else float(labels[lost.number])


def _by_pattern(
    what: str, patterns: Mapping[str, float], opened: Sequence[str], failed: Sequence[SkippedRange]
) -> Iterator[float]:
    used = Counter[str]()
    for file in opened:
        pattern = next((p for p in patterns if matches(file, p)), None)
        if pattern is None:
            raise LabelError(
                f"no pattern of {what} matches file {file}: there are {shorten(map(repr, patterns))}; "
                "add one, for example '*'"
            )
        used[pattern] += 1
        yield float(patterns[pattern])
    urls = [*opened, *(lost.file for lost in failed)]
    idle = [p for p in patterns if not used[p] and not any(matches(url, p) for url in urls)]
    if idle:
        raise LabelError(
            f"pattern {idle[0]!r} of {what} matches none of the {len(opened)} files "
            f"({shorten(opened, 3)}); correct it or take it out"
        )


def _flat_branch(what: str, name: str, files: Sequence[RootFile]) -> str:
    for file in files:
        info = next((b for b in file.branches if b.name == name), None)
        if info is None:
            close = near_misses(name, [b.name for b in file.branches])
            raise BranchError(f"no branch {name!r}{close} for the {what} in {file.where}")
        if info.kind != "flat":
            raise BranchError(f"{what} need one number per event: {name!r} is {info.kind} in {file.where}")
    return name
