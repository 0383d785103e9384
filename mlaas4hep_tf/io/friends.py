"""Friends: which file of them belongs to which, and what their branches are called."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from mlaas4hep_tf.errors import ConfigError, FriendError
from mlaas4hep_tf.io.branches import BranchInfo, Selection
from mlaas4hep_tf.io.files import FileArgument, Friend, Source, expand

Friends = Mapping[str, FileArgument]  # name of a friend -> its files; ":tree" is a tree in the files themselves


@dataclass(frozen=True)
class SelectionOfFriend(Selection):
    """What is selected of a friend's tree, where its branches have their own names."""

    prefix: str = ""

    def may_mean(self, name: str, also: Iterable[str] = ()) -> bool:
        return super().may_mean(self.prefix + name, [self.prefix + one for one in also])

    def among(self, names: Iterable[str]) -> frozenset[str]:
        chosen = super().among([self.prefix + name for name in names])
        return frozenset(name.removeprefix(self.prefix) for name in chosen)


def selection_of(friend: Friend, selection: Selection) -> Selection:
    """What a selection of all branches means for a friend's."""
    return SelectionOfFriend(selection.branches, selection.exclude, selection.identifiers, friend.prefix)


def renamed(friend: Friend, info: BranchInfo) -> BranchInfo:
    """A branch of a friend as it is called beside the other tree: ``<friend>.<branch>``, its lists too."""
    prefix = friend.prefix
    return replace(
        info, name=prefix + info.name, counter=prefix + info.counter if info.counter else None,
        inner=prefix + info.inner if info.inner else "", friend=friend.name,
    )  # fmt: skip


def sources_of(files: FileArgument, sources: Sequence[Source]) -> tuple[Source, ...]:
    """The files of a friend (`expand`); ``:tree`` is a tree in each of the files that it is a friend of."""
    given = [files] if isinstance(files, str | os.PathLike) else list(files)
    if len(given) == 1 and (tree := os.fspath(given[0])).startswith(":"):
        return tuple(replace(source, tree=tree.lstrip(":/"), friends=()) for source in sources)
    return expand(given)


def befriend(
    sources: Sequence[Source], name: str, friends: Sequence[Source], identifiers: tuple[str, ...]
) -> tuple[Source, ...]:
    """Sources with one more friend each: the file of its own name, if all have one, or else the one in its place.

    Args:
        identifiers: branches that tell which entries belong together, where both trees have them.

    Raises:
        ConfigError: a name that cannot be one.
        FriendError: more files than there are, or fewer.
    """
    if not re.fullmatch(r"[^\W\d]\w*", name):
        raise ConfigError(
            f"a friend has a name of letters, digits and _, not {name!r}: its branches are <name>.<branch>"
        )
    if len(friends) != len(sources):
        raise FriendError(
            f"a friend has a file for each file: {name!r} has {len(friends)} for {len(sources)}; name as many, in the "
            "same order or each with the name of the file that it belongs to"
        )
    named = {_last(friend): friend for friend in friends}
    own = [_last(source) for source in sources]
    ordered = [named[last] for last in own] if {*own} == {*named} and len(named) == len(friends) else friends
    return tuple(
        replace(source, friends=(*source.friends, Friend(name, friend, identifiers)))
        for source, friend in zip(sources, ordered, strict=True)
    )


def _last(source: Source) -> str:
    return source.url.partition("?")[0].rsplit("/", 1)[-1]
