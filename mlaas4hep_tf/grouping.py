"""Which list branches have the same multiplicity in every event, and so belong to one group, whatever their storage."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from mlaas4hep_tf.errors import BranchError, near_misses, shorten
from mlaas4hep_tf.io.branches import BranchInfo, meant, parse_patterns

Array = npt.NDArray[Any]
Groups = Mapping[str, str | Iterable[str]]

NEAR_MISS = 0.05  # of the events in which multiplicities differ

_PREFIX = re.compile(r"_*[^._:\[]+(?=[._:\[])")


@dataclass(frozen=True)
class Candidate:
    """Groups of a file that may be one.

    Attributes:
        name: what the group is to be called: as asked for, or the common prefix of the branches.
        branches: its branches.
        members: the file's groups of these branches, in the order of their first branches.
        asked: whether the user says that they are one.
    """

    name: str
    branches: tuple[str, ...]
    members: tuple[str, ...]
    asked: bool


@dataclass(frozen=True)
class Agreement:
    """How the multiplicities of a candidate's members agree over some entries.

    Attributes:
        digests: of the counts of each member; equal if the counts are.
        differing: events in which each member differs from the first.
    """

    digests: tuple[int, ...]
    differing: tuple[int, ...]

    def merge(self, later: Agreement) -> Agreement:
        """That of these entries and the later ones."""
        both = zip(self.digests, later.digests, strict=True)
        return Agreement(
            tuple(xxhash.xxh3_64_intdigest(a.to_bytes(8, "little") + b.to_bytes(8, "little")) for a, b in both),
            tuple(a + b for a, b in zip(self.differing, later.differing, strict=True)),
        )


def candidates(infos: Sequence[BranchInfo], asked: Groups | None = None) -> tuple[Candidate, ...]:
    """Groups that the user names, then list branches of a common prefix (``jet_pt``, ``jet_eta``) in several groups.

    Raises:
        BranchError: a pattern that matches no list branch, a branch in two groups, or a group named like a branch.
    """
    jagged = [info for info in infos if info.kind == "jagged"]
    lists = {info.name: info for info in sorted(jagged, key=lambda info: bool(info.friend))}
    found, taken = [], set[str]()
    for name, patterns in (asked or {}).items():
        own = _asked_for(name, parse_patterns(patterns), lists)
        twice = sorted(taken.intersection(own))
        if twice or name in {info.name for info in infos}:
            what = f"branch {twice[0]!r} is in two of them" if twice else f"{name!r} is the name of a branch"
            raise BranchError(f"groups= need names and branches of their own: {what}; change that group")
        taken.update(own)
        found.append(_candidate(name, [lists[n] for n in own], asked=True))
    prefixes: dict[str, list[BranchInfo]] = {}
    for name, info in lists.items():
        prefix = _PREFIX.match(info.own_name.rpartition("/")[2])
        if prefix and name not in taken:
            prefixes.setdefault(prefix[0], []).append(info)
    alike = [_candidate(prefix, own, asked=False) for prefix, own in prefixes.items()]
    return (*found, *(candidate for candidate in alike if len(candidate.members) > 1))


def _asked_for(group: str, patterns: Sequence[str], lists: Mapping[str, BranchInfo]) -> list[str]:
    for pattern in patterns:
        if not meant(pattern, lists.keys()):
            raise BranchError(
                f"no list branch matches {pattern!r} of group {group!r}{near_misses(pattern, lists)}; "
                "groups= (--group) takes patterns of branches that hold lists"
            )
    wanted = frozenset[str]().union(*(meant(pattern, lists.keys()) for pattern in patterns))
    return [name for name in lists if name in wanted]


def _candidate(name: str, infos: Sequence[BranchInfo], *, asked: bool) -> Candidate:
    members = tuple(dict.fromkeys(info.group for info in infos))
    return Candidate(name, tuple(info.name for info in infos), members, asked)


def agreement(candidate: Candidate, counts: Mapping[str, Array]) -> Agreement:
    """Compare the counts of some entries, group -> values per event."""
    own = [np.ascontiguousarray(counts[member], np.int64) for member in candidate.members]
    return Agreement(
        tuple(xxhash.xxh3_64_intdigest(one.tobytes()) for one in own),
        tuple(int(np.count_nonzero(one != own[0])) for one in own),
    )


def differing(infos: Sequence[BranchInfo], counts: Mapping[str, Array]) -> Counter[str]:
    """In how many of some entries each list branch that has counts of its own differs from its counter's group."""
    own = [info for info in infos if info.counter and info.name in counts]
    return Counter({info.name: int(np.count_nonzero(counts[info.name] != counts[info.group])) for info in own})


def joined(
    infos: Sequence[BranchInfo], found: Sequence[tuple[Candidate, Agreement]], apart: Mapping[str, int], entries: int
) -> tuple[dict[str, str], list[str]]:
    """Branch -> the group that it joins, and what nearly agreed.

    Args:
        apart: branches that differ from their counter's group, and in how many events: each is a group of its own.

    Raises:
        BranchError: groups that the user says are one, and differ.
    """
    groups = {info.name: info.group for info in infos}
    names = {*groups, *groups.values()}
    joins: dict[str, str] = {}
    notes = []
    for candidate, seen in found:
        classes: dict[int, list[str]] = {}
        for member, digest in zip(candidate.members, seen.digests, strict=True):
            classes.setdefault(digest, []).append(member)
        if candidate.asked and len(classes) > 1:
            raise BranchError(_differ(candidate, seen, entries) + "; take what differs out of the group")
        odd = [branch for branch in candidate.branches if branch in apart]
        if candidate.asked and odd:
            raise BranchError(
                f"{_leaves(groups[odd[0]], odd, apart, entries)}; take it out of group {candidate.name!r}"
            )
        several = [members for members in classes.values() if len(members) > 1 or candidate.asked]
        for members in several:
            alone = len(several) == 1 and (candidate.asked or candidate.name not in names)
            name = candidate.name if alone else members[0]
            joins |= {
                branch: name for branch in candidate.branches if groups[branch] in members and branch not in apart
            }
        if any(0 < n <= NEAR_MISS * entries for n in seen.differing):
            notes.append(_differ(candidate, seen, entries) + ", so they are groups of their own")
    for group in sorted({groups[branch] for branch in apart}):
        odd = [branch for branch in apart if groups[branch] == group]
        notes.append(f"{_leaves(group, odd, apart, entries)}, so each is a group of its own")
    return joins | {branch: branch for branch in apart}, notes


def _leaves(group: str, branches: Sequence[str], apart: Mapping[str, int], entries: int) -> str:
    told = shorten(f"{branch!r} in {apart[branch]}" for branch in branches)
    return f"list branches of counter {group!r} differ from it in multiplicity: {told} of {entries} events"


def _differ(candidate: Candidate, seen: Agreement, entries: int) -> str:
    few = sorted((n, member) for n, member in zip(seen.differing, candidate.members, strict=True) if n)
    return (
        f"list branches of {candidate.name!r} differ in multiplicity: {few[0][1]!r} from {candidate.members[0]!r} in "
        f"{few[0][0]} of {entries} events" + (f" ({shorten(m for _, m in few[1:])} too)" if few[1:] else "")
    )
