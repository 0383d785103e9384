"""Reads entry ranges of ROOT trees: by our decoder where it can, by uproot where it must.

It runs in reader processes, which never import TensorFlow (see `inspection`).
"""

from __future__ import annotations

import itertools
import os
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from mlaas4hep_tf.errors import BranchError, InputFileError, LabelError, near_misses
from mlaas4hep_tf.io import baskets, pages
from mlaas4hep_tf.io.basket_index import Array, FileIndex
from mlaas4hep_tf.io.baskets import Disagreement, Multiplicities, Pieces
from mlaas4hep_tf.io.branches import BranchInfo, Layout
from mlaas4hep_tf.io.buffers import ArraySpec, BufferRef, allocate
from mlaas4hep_tf.io.columns import Columns, ColumnStream, behind_each_other
from mlaas4hep_tf.io.faults import blame
from mlaas4hep_tf.io.files import FriendFile, RootFile
from mlaas4hep_tf.io.page_index import PageIndex
from mlaas4hep_tf.io.policy import place
from mlaas4hep_tf.io.stamps import file_stamp

if TYPE_CHECKING:
    from mlaas4hep_tf.io.inspection import OpenTree

Groups = Sequence[tuple[str, Sequence[str]]]  # names, and the branches of each
_LISTS = ("jagged", "nested")
_PAGE_CACHE = 1 << 27  # bytes of decoded pages that a thread keeps, where nobody says how many
_FRIEND_GAP = 4096  # entries of a friend that are read in vain rather than in two reads


@dataclass(frozen=True)
class Packed:
    """Shapes and dtypes of packed arrays, and the arrays themselves unless they lie in a shared buffer.

    The arrays in order: flat float32 [n, flat]; bounds int32 [n, 2 groups], of each group the row of an event's first
    object and how many it has; for each group values float32 [m, branches]; for each target its values [n].
    `opened` is what opening the file told, where it was opened for this block.
    """

    specs: tuple[ArraySpec, ...]
    arrays: tuple[Array, ...] | None
    opened: RootFile | None = None


class _OpenTrees:
    """The files that a thread keeps open in uproot, the one used last at the end."""

    def __init__(self) -> None:
        self.limit = 16
        self._trees: OrderedDict[tuple[str, str], OpenTree] = OrderedDict()

    def get(self, file: RootFile) -> OpenTree:
        from mlaas4hep_tf.io.inspection import OpenTree  # here: few files need uproot, which takes a while to import

        key = (place(file.source.location), file.tree)
        tree = self._trees.pop(key, None)
        if tree is not None and tree.uuid != file.uuid:
            tree.close()
            tree = None
        self.close_all_but(self.limit - 1)
        tree = self._trees[key] = tree or OpenTree(replace(file.source, tree=file.tree))
        return tree

    def close_all_but(self, files: int) -> None:
        while len(self._trees) > files:
            self._trees.popitem(last=False)[1].close()


class _Own(threading.local):
    """What each thread has for itself: uproot's files cannot be used by two, as those of a cluster's worker."""

    def __init__(self) -> None:
        self.trees = _OpenTrees()
        self.pages = pages.PageCache(_PAGE_CACHE)  # of all files, as those of a dataset are read in turn


_own = _Own()


def keep(files: int, pages_bytes: int) -> None:
    """Let this thread keep up to `files` files open in uproot, and so many bytes of decoded pages."""
    _own.trees.limit = files
    _own.trees.close_all_but(files)
    _own.pages = pages.PageCache(pages_bytes)


def _opened(file: RootFile) -> OpenTree:
    """The file opened by uproot, for what our decoder does not read."""
    tree = _own.trees.get(file)
    if (tree.uuid, tree.num_entries) != (file.uuid, file.num_entries):
        raise _replaced(file)
    return tree


def _replaced(file: RootFile) -> InputFileError:
    return InputFileError(f"{file.where} was replaced, or written to, since it was first opened; start again")


def fetch(file: RootFile, spans: Sequence[tuple[int, int]]) -> list[memoryview]:
    """The bytes of each (seek, size), read in few requests.

    Raises:
        InputFileError: the file was replaced since it was opened.
        OSError, ValueError: it cannot be read, or ends early.
    """
    requests = baskets.coalesce(spans)
    if file_stamp(file.source) != file.stamp:
        raise _replaced(file)
    if file.source.remote:
        from mlaas4hep_tf.io.remote import read_ranges

        chunks = read_ranges(file.source.url, [(seek, size) for seek, size, _ in requests])
    else:
        chunks = _fetch_local(file.source.location, requests)
    out: list[memoryview] = [memoryview(b"")] * len(spans)
    for (seek, size, members), raw in zip(requests, chunks, strict=True):
        if len(raw) != size:
            raise ValueError(f"the file ends early: {len(raw)} of {size} bytes at position {seek}")
        for number in members:
            at = spans[number][0] - seek
            out[number] = memoryview(raw)[at : at + spans[number][1]]
    return out


def _fetch_local(path: str, requests: Sequence[baskets.Request]) -> list[bytes]:
    fd = os.open(path, os.O_RDONLY)
    try:
        return [os.pread(fd, size, seek) for seek, size, _ in requests]
    finally:
        os.close(fd)


def read(
    file: RootFile, start: int, stop: int, names: Sequence[str], *, counters: Iterable[str] = (),
    groups: Mapping[str, str] | None = None, hold: bool = True,
) -> Columns:  # fmt: skip
    """`stream`, with all branches at once."""
    return stream(file, start, stop, names, counters=counters, groups=groups, hold=hold).collected(names)


def stream(
    file: RootFile, start: int, stop: int, names: Sequence[str], *, counters: Iterable[str] = (),
    groups: Mapping[str, str] | None = None, hold: bool = True,
) -> ColumnStream:  # fmt: skip
    """Read entries [start, stop) of some branches of one file, and hold those of a group to one multiplicity per event.

    Args:
        file: what `inspect` said of the file, at least of these branches and entries (`RootFile.part`).
        counters: counters to which groups are held too, where their branch can be read.
        groups: branch -> its group, where that is not the one that the file says.
        hold: if not, a branch that differs from its group has counts of its own, under its name.

    Raises:
        InputFileError: bytes that cannot be read or decoded, at once or when the branch is asked for; names file,
            tree, branch and entries.
        BranchError: a branch that is not in the tree.
    """
    known = {info.name: info for info in file.branches}
    missing = [name for name in names if name not in known]
    if missing:
        raise BranchError(f"no branch {missing[0]!r}{near_misses(missing[0], known)} in {file.where}")
    if not file.friends:
        return _stream_tree(file, start, stop, names, counters, groups or {}, hold)
    prefixes = tuple(friend.friend.prefix for friend in file.friends)
    own, needed = ([name for name in given if not name.startswith(prefixes)] for given in (names, counters))
    columns = _read_tree(file, start, stop, own, needed, groups or {}, hold) if own else Columns(stop - start, {}, {})
    with blame(file.url, file.tree, f"entries {start} to {stop}"):
        for friend in file.friends:
            more = _read_friend(friend, start, stop, names, list(counters), groups or {}, hold)
            columns = columns.beside(more) if more is not None else columns
    return columns.stream()


def _read_tree(
    file: RootFile, start: int, stop: int, names: Sequence[str], counters: Iterable[str], groups: Mapping[str, str],
    hold: bool,
) -> Columns:  # fmt: skip
    return _stream_tree(file, start, stop, names, counters, groups, hold).collected(names)


def _stream_tree(
    file: RootFile, start: int, stop: int, names: Sequence[str], counters: Iterable[str], groups: Mapping[str, str],
    hold: bool,
) -> ColumnStream:  # fmt: skip
    """`stream` the tree itself, without its friends."""
    known = {info.name: info for info in file.branches}
    infos = [known[name] for name in names]
    with blame(file.url, file.tree, f"entries {start} to {stop}"):
        index = file.index.part((*names, *counters), start, stop)
        groups = {info.name: groups.get(info.name, info.group) for info in infos if info.kind in _LISTS}
        decoded, held = _decode(file, index, start, stop, groups, hold)
        fast = index.names
        slow_infos = [info for info in (*infos, *_flat(known, counters)) if info.name not in fast]
        slow, slow_counts, slow_inner = _read_by_uproot(file, slow_infos, start, stop)
        counted = {name: baskets.joined(slow[name]) for name in groups.values() if name in slow and name not in groups}
        _hold(held, counted | slow_counts, groups, hold)
        inner = slow_inner | {i.inner: held.pop(i.inner).counts for i in infos if i.inner in held}
    arrays = {i.group: np.full(stop - start, i.length, np.int64) for i in infos if i.kind == "array"}
    counts = {group: own.counts for group, own in held.items()} | arrays
    values = itertools.chain(slow.items(), decoded)
    columns = ColumnStream(stop - start, values, counts, inner)
    return replace(columns, values=_checked(file, start, columns, held, infos, groups))


def _checked(
    file: RootFile, start: int, columns: ColumnStream, held: Mapping[str, Multiplicities],
    infos: Sequence[BranchInfo], groups: Mapping[str, str],
) -> Iterator[tuple[str, Pieces]]:  # fmt: skip
    """The branches that are asked for, each with as many values as its counts say."""
    asked, totals = {info.name: info for info in infos}, {g: int(own.sum()) for g, own in columns.counts.items()}
    with blame(file.url, file.tree, f"entries {start} to {start + columns.num_entries}"):
        for name, pieces in columns.values:
            if name in held and name not in totals:
                columns.counts[name], totals[name] = held[name].counts, int(held[name].counts.sum())
            if name in asked:
                _check_length(columns, asked[name], pieces, groups, totals)
                yield name, pieces


def _read_friend(
    friend: FriendFile, start: int, stop: int, names: Sequence[str], counters: Sequence[str],
    groups: Mapping[str, str], hold: bool,
) -> Columns | None:  # fmt: skip
    """The branches of a friend beside some entries, by the names that they have there; None if none is asked for."""
    own, needed, file, prefix = friend.own(names), friend.own(counters), friend.file, friend.friend.prefix
    if not own:
        return None
    asked = {name: groups[prefix + name] for name in own if prefix + name in groups}
    called = {group.removeprefix(prefix): group for group in asked.values()}
    bare = {name: group.removeprefix(prefix) for name, group in asked.items()}
    if friend.rows is None:
        return _read_tree(file, start, stop, own, needed, bare, hold).renamed(prefix, called)
    rows = friend.rows[start - friend.first : stop - friend.first]
    spans, places = _spans(rows)
    parts = [_read_tree(file, *span, own, needed, bare, hold=True) for span in spans]
    infos = [info for info in file.branches if info.name in own]
    held = {info.name: bare.get(info.name, info.group) for info in infos}
    return behind_each_other(parts).at(places, infos, held).renamed(prefix, called)


def _spans(rows: Array) -> tuple[list[tuple[int, int]], Array]:
    """Entry ranges that hold these entries, and where each of them lies if the ranges are read behind each other."""
    if not len(rows):
        return [(0, 0)], rows
    ordered = np.unique(rows)
    breaks = np.flatnonzero(np.diff(ordered) > _FRIEND_GAP)
    starts, stops = ordered[np.r_[0, breaks + 1]], ordered[np.r_[breaks, -1]] + 1
    before = np.cumsum(stops - starts) - (stops - starts)
    span = np.searchsorted(starts, rows, "right") - 1
    return list(zip(starts.tolist(), stops.tolist(), strict=True)), rows - starts[span] + before[span]


def _flat(known: Mapping[str, BranchInfo], names: Iterable[str]) -> list[BranchInfo]:
    return [known[name] for name in names if name in known and known[name].kind == "flat"]


def _hold(held: dict[str, Multiplicities], found: Mapping[str, Array], groups: Mapping[str, str], hold: bool) -> None:
    """Hold branches that uproot read to the multiplicities of their group, as `read_columns` does."""
    for name, counts in found.items():
        try:
            held.setdefault(groups.get(name, name), Multiplicities(name, counts)).hold(0, counts)
        except Disagreement as error:
            if not hold:
                held[name] = Multiplicities(name, counts)
                continue
            error.add_note(f"branch {name!r}")
            raise


def _decode(
    file: RootFile, index: FileIndex | PageIndex, start: int, stop: int, groups: Mapping[str, str], hold: bool
) -> tuple[Iterator[tuple[str, Pieces]], dict[str, Multiplicities]]:
    if isinstance(index, PageIndex):  # a group's multiplicities are in one column
        cache = _own.pages.of((file.source.location, file.stamp))
        values, held = pages.read_columns(partial(fetch, file), index, start, stop, groups, cache)
        return iter(values.items()), held
    return baskets.read_columns(partial(fetch, file), index, start, stop, groups, hold=hold)


def _check_length(
    columns: ColumnStream, info: BranchInfo, pieces: Pieces, groups: Mapping[str, str], totals: Mapping[str, int]
) -> None:
    group = info.name if info.name in totals else groups.get(info.name, info.group)
    expected = columns.num_entries if info.kind == "flat" else totals[group]
    if info.kind == "nested":
        if len(columns.inner[info.inner]) != expected:
            raise ValueError(f"branch {info.name!r} has {len(columns.inner[info.inner])} lists, not {expected}")
        expected = int(columns.inner[info.inner].sum())
    have = sum(map(len, pieces))
    if have != expected:
        raise ValueError(f"branch {info.name!r} has {have} values in {columns.num_entries} events, not {expected}")


def _read_by_uproot(
    file: RootFile, infos: Sequence[BranchInfo], start: int, stop: int
) -> tuple[dict[str, Pieces], dict[str, Array], dict[str, Array]]:
    """Values, counts by branch, and counts of inner lists by their name."""
    if not infos:
        return {}, {}, {}
    import awkward as ak

    names = [info.name for info in infos]
    values: dict[str, Pieces]
    if start == stop:  # of lists of lists uproot cannot read none
        nothing = np.zeros(0, np.int64)
        lists = [info for info in infos if info.kind in _LISTS]
        values = {info.name: (np.empty(0, info.dtype),) for info in infos}
        return values, {i.name: nothing for i in lists}, {i.inner: nothing for i in lists if i.inner}
    record = _opened(file).tree.arrays(names, entry_start=start, entry_stop=stop, library="ak")
    values = {}
    counts, inner = {}, {}
    for info in infos:
        array = record[info.name] if info.name in record.fields else record[tuple(info.name.split("."))]
        numbers = np.asarray(ak.to_numpy(ak.flatten(array, axis=None))).reshape(-1)
        if numbers.dtype != info.dtype:
            raise ValueError(f"branch {info.name!r} is {numbers.dtype} where its type says {info.dtype}; exclude it")
        values[info.name] = (numbers,)
        if info.kind in _LISTS:
            counts[info.name] = np.asarray(ak.to_numpy(ak.num(array)), np.int64)
        if info.kind == "nested":
            inner[info.inner] = np.asarray(ak.to_numpy(ak.flatten(ak.num(array, axis=2))), np.int64)
    return values, counts, inner


def pack(columns: ColumnStream, layout: Layout, ref: BufferRef | None = None) -> Packed:
    """Copy columns into float32 matrices, one for the flat branches and one per group, and targets beside them.

    Features of float64 and integers are rounded to the nearest float32; what lies beyond its range becomes infinite.
    """
    n, groups = columns.num_entries, layout.groups
    ends = [np.cumsum(columns.counts[group], dtype=np.int64) for group, _ in groups]
    specs = [ArraySpec((n, len(layout.flat)), "float32"), ArraySpec((n, 2 * len(ends)), "int32")]
    specs += [
        ArraySpec((int(own[-1]) if n else 0, len(names)), "float32")
        for own, (_, names) in zip(ends, groups, strict=True)
    ]
    specs += [ArraySpec((n,), dtype) for _, dtype in layout.targets]
    flat, bounds, *rest = arrays = allocate(ref, specs)
    for number, (group, _) in enumerate(groups):
        bounds[:, 2 * number] = ends[number] - columns.counts[group]
        bounds[:, 2 * number + 1] = columns.counts[group]
    places = [(name, flat[:, at]) for at, name in enumerate(layout.flat)]
    for (_, names), matrix in zip(groups, rest[: len(groups)], strict=True):
        places += [(name, matrix[:, at]) for at, name in enumerate(names)]
    places += [(name, array) for (name, _), array in zip(layout.targets, rest[len(groups) :], strict=True)]
    _fill(places, columns.values)
    return Packed(tuple(specs), tuple(arrays) if ref is None else None)


def _fill(places: Iterable[tuple[str, Array]], values: Iterable[tuple[str, Pieces]]) -> None:
    """Copy each branch to its places, while what was decoded last is in the processor's cache."""
    wanted = dict[str, list[Array]]()
    for name, column in places:
        wanted.setdefault(name, []).append(column)
    with np.errstate(over="ignore"):
        for name, pieces in values:
            for column in wanted.get(name, ()):
                at = 0
                for piece in pieces:
                    column[at : at + len(piece)] = piece
                    at += len(piece)


def read_packed(file: RootFile, start: int, stop: int, layout: Layout, ref: BufferRef | None = None) -> Packed:
    """`read` and `pack` in one call, for reader processes.

    Raises:
        InputFileError: also where branches that are one group by the layout differ in multiplicity.
        LabelError: a target that is not finite, or that its delivered dtype does not hold.
    """
    where = f"{file.where}, entries {start} to {stop}"
    return pack_checked(stream_grouped(file, start, stop, layout.names, layout.groups), layout, where, ref)


def pack_checked(columns: ColumnStream, layout: Layout, where: str, ref: BufferRef | None) -> Packed:
    """`pack`, where the targets must be what can be delivered; raises LabelError if not."""

    def checked() -> Iterator[tuple[str, Pieces]]:
        for name, pieces in columns.values:
            for target, dtype in layout.targets:
                for piece in pieces if target == name else ():
                    check_target(name, piece, dtype, where)
            yield name, pieces

    return pack(replace(columns, values=checked()), layout, ref)


def read_grouped(
    file: RootFile, start: int, stop: int, names: Sequence[str], groups: Groups, *, counters: Iterable[str] = ()
) -> Columns:
    """`stream_grouped`, with all branches at once."""
    return stream_grouped(file, start, stop, names, groups, counters=counters).collected(names)


def stream_grouped(
    file: RootFile, start: int, stop: int, names: Sequence[str], groups: Groups, *, counters: Iterable[str] = ()
) -> ColumnStream:
    """`stream`, with the counts of these groups of branches, which may be others than those of the file.

    Raises:
        InputFileError: also where branches that are one group differ in multiplicity.
    """
    own = _groups_apart({info.name: info.group for info in file.branches}, groups)
    columns = stream(file, start, stop, names, counters=counters, groups=own)
    with blame(file.url, file.tree, f"entries {start} to {stop}"):
        columns.counts.update(_joined(columns.counts, groups, own))
    return columns


def _groups_apart(stored: Mapping[str, str], groups: Groups) -> Mapping[str, str]:
    """Branch -> the file's group, or the one asked for where a group of the file is in several of those."""
    homes: dict[str, set[str]] = {}
    for group, names in groups:
        for name in names:
            homes.setdefault(stored[name], set()).add(group)
    if all(len(own) == 1 for own in homes.values()):
        return stored
    apart = {n: group for group, names in groups for n in names if len(homes[stored[n]]) > 1}
    return {**stored, **apart}


def _joined(held: Mapping[str, Array], groups: Groups, own: Mapping[str, str]) -> dict[str, Array]:
    """The counts of these groups; those that several of the file's groups make up must agree."""
    counts = {}
    for group, names in groups:
        first, *others = dict.fromkeys(own[name] for name in names)
        for other in others:
            differing = int(np.count_nonzero(held[first] != held[other]))
            if differing:
                raise ValueError(
                    f"{first!r} and {other!r} differ in multiplicity in {differing} events, but group {group!r} "
                    "joins them: scan these files too"
                )
        counts[group] = held[first]
    return counts


def check_target(name: str, values: Array, dtype: str, where: str) -> None:
    """Raise LabelError for values that are not finite, or integers that the delivered dtype does not hold exactly.

    Floats become float32 by rounding, which is no fault.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        delivered = values.astype(dtype)
        lost = (delivered.astype(values.dtype) != values) | ((delivered < 0) != (values < 0))
    if not (np.isfinite(values) & np.isfinite(delivered)).all():
        raise LabelError(f"branch {name!r} must be finite in every event to be label or weight; it is not in {where}")
    if lost.any() and not (values.dtype.kind == "f" and dtype == "float32"):
        raise LabelError(
            f"branch {name!r} as label or weight must keep its values in {dtype}: {values[lost][0]} does not fit in "
            f"{where}; choose the type of labels with label_dtype, for example 'int64'"
        )
