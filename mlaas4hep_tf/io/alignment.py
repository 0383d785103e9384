"""Opens a file with its friends: their branches beside its own, their entries found by identifiers where these differ.

It runs in reader processes, which never import TensorFlow (see `inspection`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from mlaas4hep_tf.errors import FriendError
from mlaas4hep_tf.io.basket_index import Array
from mlaas4hep_tf.io.baskets import joined
from mlaas4hep_tf.io.branches import Selection
from mlaas4hep_tf.io.files import Friend, FriendFile, RootFile, Source
from mlaas4hep_tf.io.friends import renamed, selection_of
from mlaas4hep_tf.io.inspection import inspect
from mlaas4hep_tf.io.reader import read


def open_with_friends(source: Source, selection: Selection, also: tuple[str, ...] = ()) -> RootFile:
    """`inspect` a file, and its friends as a part of it.

    Raises:
        FriendError: one with other events, or with the name of a branch.
        InputFileError, TreeError: as `inspect`, of a friend too.
    """
    identifiers = tuple(dict.fromkeys(name for friend in source.friends for name in friend.identifiers))
    file = inspect(source, selection, also, identifiers)
    for friend in source.friends:
        file = _with_friend(file, friend, selection, also)
    return file


def _with_friend(file: RootFile, friend: Friend, selection: Selection, also: tuple[str, ...]) -> RootFile:
    own = tuple(name.removeprefix(friend.prefix) for name in also if name.startswith(friend.prefix))
    opened = inspect(friend.source, selection_of(friend, selection), (), own + friend.identifiers)
    met = next((info.name for info in file.branches if info.name.startswith(friend.prefix)), None)
    if met is not None:
        raise FriendError(f"a friend needs a name of its own: {file.where} has a branch {met!r}; call it another way")
    if opened.num_entries != file.num_entries:
        raise FriendError(
            f"a friend has the same events: {opened.where} has {opened.num_entries} entries, and {file.where}, which "
            f"it is {friend.name!r} of, has {file.num_entries}; name the file that belongs to it"
        )
    found, rows = _rows(file, opened, friend)
    infos = tuple(renamed(friend, info) for info in opened.branches if info.name not in friend.identifiers)
    known = FriendFile(replace(friend, identifiers=found), opened, rows)
    return replace(
        file, branches=file.branches + infos, friends=(*file.friends, known), notes=file.notes + opened.notes
    )


def _rows(file: RootFile, other: RootFile, friend: Friend) -> tuple[tuple[str, ...], Array | None]:
    """By which identifiers entries are found, and the friend's for each of the file's; none if they are in one order.

    Raises:
        FriendError: an identifier that is missing in one of the trees, or doubled where the order differs.
    """
    names = [name for name in friend.identifiers if all(_identifies(name, one) for one in (file, other))]
    if not names:
        return (), None
    keys = [_keys(one, names) for one in (file, other)]
    if np.array_equal(keys[0], keys[1]):
        return (), None
    orders = [np.lexsort(own[::-1]) for own in keys]
    in_order = [own[:, order] for own, order in zip(keys, orders, strict=True)]
    for one, own, order in zip((file, other), in_order, orders, strict=True):
        _check_distinct(one, names, own, order)
    differing = np.flatnonzero((in_order[0] != in_order[1]).any(axis=0))
    if len(differing):
        at = differing[0]
        has, lacks = sorted(range(2), key=lambda n: in_order[n][:, at].tolist())  # the smaller comes later in none
        raise FriendError(
            f"a friend has the same events: {_told(names, in_order[has][:, at].tolist())}, entry {orders[has][at]} of "
            f"{(file, other)[has].where}, is not in {(file, other)[lacks].where}; name the file that belongs to it"
        )
    rows = np.empty(file.num_entries, np.int64)
    rows[orders[0]] = orders[1]
    return tuple(names), rows


def _identifies(name: str, file: RootFile) -> bool:
    return any(b.name == name and b.kind == "flat" and b.dtype.lstrip("u").startswith("int") for b in file.branches)


def _keys(file: RootFile, names: Sequence[str]) -> Array:
    """The identifiers of all entries, int64 [identifiers, entries]."""
    columns = read(file, 0, file.num_entries, names)
    return np.stack([joined(columns.values[name]).astype(np.int64) for name in names])


def _check_distinct(file: RootFile, names: Sequence[str], keys: Array, order: Array) -> None:
    twice = np.flatnonzero((keys[:, 1:] == keys[:, :-1]).all(axis=0))
    if len(twice):
        entries = sorted(order[twice[0] : twice[0] + 2].tolist())
        raise FriendError(
            f"entries of friends in another order are found by identifiers that tell all events apart: "
            f"{_told(names, keys[:, twice[0]].tolist())} is in entries {entries[0]} and {entries[1]} of {file.where}; "
            "name others with identifiers= (--identifier), or put both trees in one order"
        )


def _told(names: Sequence[str], key: Sequence[int]) -> str:
    return ", ".join(f"{name} {value}" for name, value in zip(names, key, strict=True))
