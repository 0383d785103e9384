"""A file that was scanned and not opened since is opened by the reader process that first needs it.

It runs in reader processes, which never import TensorFlow (see `inspection`).
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import replace
from datetime import UTC, datetime

from mlaas4hep_tf.errors import SpecsError
from mlaas4hep_tf.io.basket_text import decoded
from mlaas4hep_tf.io.files import RootFile, Source, Unopened
from mlaas4hep_tf.io.stamps import file_stamp, file_uuid

_KEPT = 64  # files of which a thread remembers what it found


class _Own(threading.local):
    def __init__(self) -> None:
        self.files: OrderedDict[tuple[str, Source, Unopened], RootFile] = OrderedDict()


_own = _Own()


def opened(file: RootFile) -> RootFile:
    """The same file with what opening it tells, of the branches that are read; itself if it is open.

    Raises:
        SpecsError: it is not the file that was scanned; says what differs.
        InputFileError, TreeError, FriendError: as `open_with_friends`.
    """
    if file.unopened is None:
        return file
    key = (file.source.location, file.source, file.unopened)
    found = _own.files.pop(key, None) or _open(file, file.unopened)
    _own.files[key] = found
    if len(_own.files) > _KEPT:
        _own.files.popitem(last=False)
    return found


def opened_whole(file: RootFile) -> RootFile:
    """As `opened`, with all branches, also those that are not read."""
    return file if file.unopened is None else _open_whole(file, file.unopened)


def _open(file: RootFile, expected: Unopened) -> RootFile:
    found = _recalled(file, expected) if expected.baskets else _open_whole(file, expected)
    return replace(found, branches=tuple(info for info in found.branches if info.kind != "other"))


def _recalled(file: RootFile, expected: Unopened) -> RootFile:
    """What the scan learnt, if it is still the same file."""
    found = replace(
        file, uuid=file_uuid(file.source), stamp=file_stamp(file.source),
        index=decoded(expected.baskets, expected.alike.indexed), unopened=None,
    )  # fmt: skip
    try:
        _check(file, expected, found)
    except SpecsError:  # another file, or a damaged one, which opening tells
        return _open_whole(file, expected)
    return found


def _open_whole(file: RootFile, expected: Unopened) -> RootFile:
    from mlaas4hep_tf.io.alignment import open_with_friends  # here, since what it imports takes a while

    source = replace(file.source, tree=file.tree)
    found = open_with_friends(source, expected.alike.selection, expected.alike.also)
    _check(file, expected, found)
    return replace(found, notes=())


def _check(file: RootFile, expected: Unopened, found: RootFile) -> None:
    then = {"size": expected.size, "uuid": file.uuid, "entries": file.num_entries, "stamp": expected.stamp}
    now = {"size": found.stamp[0], "uuid": found.uuid, "entries": found.num_entries, "stamp": found.stamp_text}
    differing = [name for name in then if then[name] != now[name]]
    if differing:
        name = differing[0]
        what = f"its {name} is {now[name]}, and was {then[name]}"
        if name == "stamp":
            what = f"it was written to {_when(now[name])}, and before that {_when(then[name])}"
        raise SpecsError(
            f"{file.where} has changed since it was scanned: {what}; scan what is new or changed (scan --update)"
        )
    known = dict(expected.friends)
    for one in found.friends:
        if known.get(one.friend.name, one.file.uuid) != one.file.uuid:
            raise SpecsError(
                f"friend {one.friend.name!r} of {file.where} has changed since it was scanned: {one.file.where} has "
                f"uuid {one.file.uuid}, and had {known[one.friend.name]}; scan again, or use specs.unbound()"
            )


def _when(stamp: object) -> str:
    """A modification time in ns as people write it; of a remote file, which has first bytes instead, those."""
    text = str(stamp)
    return (
        f"at {datetime.fromtimestamp(int(text) / 1e9, UTC):%Y-%m-%d %H:%M:%S} UTC" if text.isdigit() else f"as {text}"
    )
