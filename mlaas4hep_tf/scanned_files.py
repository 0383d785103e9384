"""The files of a dataset that were scanned: none is opened before a reader needs it, and what that finds is kept."""

from __future__ import annotations

import os
import pickle
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256
from typing import overload

import numpy as np

from mlaas4hep_tf.files_table import FileSpec, FilesTable, FriendSpec
from mlaas4hep_tf.io.basket_index import BranchIndex, FileIndex
from mlaas4hep_tf.io.basket_text import coded
from mlaas4hep_tf.io.branches import BranchInfo, Selection
from mlaas4hep_tf.io.files import Alike, RootFile, Source, Unopened, names_of
from mlaas4hep_tf.io.lists import IntArray, IntLists, Texts

KEPT_BYTES = 1 << 28  # of what opening files told, in the training process


class ScannedFiles(Sequence[RootFile]):
    """Files of a table, each made when it is asked for: with what opening it told, if that is kept, or unopened.

    Args:
        table: a row for each file.
        sources: of each, where the user named them; else where they lay when they were scanned.
        selection, also: what to look at when a file is opened.

    Attributes:
        alike: what they have in common.
    """

    def __init__(
        self, table: FilesTable, sources: Sequence[Source] | None, selection: Selection, also: tuple[str, ...] = ()
    ) -> None:
        self.table = table
        self.alike = Alike.of(selection, also, table.branches, table.indexed)
        self._sources = sources
        self._known: OrderedDict[int, tuple[RootFile, int]] = OrderedDict()
        self._nbytes = 0
        self._branches: tuple[BranchInfo, ...] = ()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.table)

    @overload
    def __getitem__(self, number: int) -> RootFile: ...
    @overload
    def __getitem__(self, number: slice) -> tuple[RootFile, ...]: ...
    def __getitem__(self, number: int | slice) -> RootFile | tuple[RootFile, ...]:
        if isinstance(number, slice):
            return tuple(self[n] for n in range(*number.indices(len(self))))
        number = range(len(self))[number]
        with self._lock:
            if number in self._known:
                self._known.move_to_end(number)
                return self._known[number][0]
        return self._unopened(number)

    def _unopened(self, number: int) -> RootFile:
        spec = self.table[number]
        friends = tuple((friend.name, friend.uuid) for friend in spec.friends)
        expected = Unopened(self.alike, spec.size, spec.stamp, friends, spec.baskets)
        return RootFile(
            self.source(number), spec.tree, spec.uuid, spec.entries, spec.offsets, self.table.branches,
            stamp=(spec.size, None), unopened=expected,
        )  # fmt: skip

    def source(self, number: int) -> Source:
        """Where a file lies."""
        return self._sources[number] if self._sources is not None else source_of(self.table, number)

    def learn(self, number: int, file: RootFile) -> None:
        """Keep what a reader found when it opened a file; what was used least goes where that is too much."""
        size = len(pickle.dumps(file, pickle.HIGHEST_PROTOCOL))
        with self._lock:
            if number in self._known:
                return
            self._branches = file.branches if file.branches != self._branches else self._branches
            own = replace(
                file, branches=self._branches, source=self.source(number),
                entry_offsets=self.table.lists("offsets")[number],
            )  # fmt: skip
            self._known[number] = own, size
            self._nbytes += size
            while self._nbytes > KEPT_BYTES and len(self._known) > 1:
                self._nbytes -= self._known.popitem(last=False)[1][1]


def table_of(files: Sequence[RootFile]) -> FilesTable:
    """What is kept of opened files; where their baskets lie too, up to a limit."""
    indexed = _indexed(files[0])
    specs = [
        replace(_file_spec(file), baskets=coded(file.index) if indexed and _indexed(file) == indexed else "")
        for file in files
    ]
    return FilesTable.of(specs, files[0].branches, indexed).limited()


def _indexed(file: RootFile) -> tuple[BranchIndex, ...]:
    """How the branches are stored of which `FileSpec.baskets` can tell."""
    return file.index.branches if isinstance(file.index, FileIndex) and not file.friends else ()


def _file_spec(file: RootFile) -> FileSpec:
    """What is kept of an opened file."""
    source = file.source
    named_from = "" if source.remote or os.path.isabs(source.url) else source.folder
    return FileSpec(
        file.url, file.uuid, file.num_entries, friends=_friend_specs(file), dataset=source.dataset, tree=file.tree,
        folder=named_from, size=file.stamp[0], stamp=file.stamp_text, offsets=file.entry_offsets,
    )  # fmt: skip


def _friend_specs(file: RootFile) -> tuple[FriendSpec, ...]:
    """The friends of an opened file."""
    return tuple(
        FriendSpec(
            one.friend.name, "" if one.file.source.location == file.source.location else one.file.source.location,
            one.file.tree, one.file.uuid, one.friend.identifiers,
        )
        for one in file.friends
    )  # fmt: skip


def entries_of(files: Sequence[RootFile]) -> IntArray:
    """Entries of each file, int64 [files]."""
    if isinstance(files, ScannedFiles):
        return files.table.numbers("entries")
    return np.array([file.num_entries for file in files], np.int64)


def offsets_of(files: Sequence[RootFile]) -> IntLists:
    """For each file the entries at which its clusters begin, and its end."""
    if isinstance(files, ScannedFiles):
        return files.table.lists("offsets")
    return IntLists.of((file.entry_offsets for file in files), rising=True)


def data_of(files: Sequence[RootFile]) -> str:
    """A digest of which data these are in this order: uuids, entries and trees, not where they lie."""
    if isinstance(files, ScannedFiles):
        uuids, trees = files.table.texts("uuid"), files.table.texts("tree")
    else:
        uuids, trees = Texts.of(file.uuid for file in files), Texts.of(file.tree for file in files)
    found = sha256()
    for array in (uuids.values, uuids.ends, trees.values, trees.ends, entries_of(files)):
        found.update(np.ascontiguousarray(array).data)
    return found.hexdigest()[:16]


def kinds_of(files: Sequence[RootFile]) -> Sequence[RootFile]:
    """Those of which the branches are to be looked at: of scanned ones the first, which all were held to then."""
    return files[:1] if isinstance(files, ScannedFiles) else files


def names_in(files: Sequence[RootFile]) -> Sequence[tuple[str, ...]]:
    """What each file may be called in labels."""
    return Names(files) if isinstance(files, ScannedFiles) else [file.names for file in files]


class Names(Sequence[tuple[str, ...]]):
    """`RootFile.names` of scanned files, made when they are asked for."""

    def __init__(self, files: ScannedFiles) -> None:
        self._files, self._trees = files, files.table.texts("tree")

    def __len__(self) -> int:
        return len(self._trees)

    @overload
    def __getitem__(self, number: int) -> tuple[str, ...]: ...
    @overload
    def __getitem__(self, number: slice) -> list[tuple[str, ...]]: ...
    def __getitem__(self, number: int | slice) -> tuple[str, ...] | list[tuple[str, ...]]:
        if isinstance(number, slice):
            return [self[n] for n in range(*number.indices(len(self)))]
        source = self._files.source(number)
        return names_of(source.url, self._trees[number], source.dataset)


def source_of(table: FilesTable, number: int) -> Source:
    """Where a file lay when it was scanned, without its friends."""
    url, tree, dataset, folder = (table.texts(name)[number] for name in ("url", "tree", "dataset", "folder"))
    return Source(url, tree, dataset, folder)


def sources_in(table: FilesTable) -> list[Source]:
    """Where all files lay."""
    return [source_of(table, number) for number in range(len(table))]


def scanned(
    table: FilesTable, sources: Sequence[Source] | None, selection: Selection, also: tuple[str, ...] = ()
) -> ScannedFiles | None:
    """These files, if all were scanned where they lie, and what is asked for was looked at; else None.

    Args:
        sources: the files; None: all of the table.
    """
    if not len(table) or not _looked_at(table, selection, also) or not table.lists("offsets").lengths.all():
        return None
    if sources is None:
        return ScannedFiles(table, None, selection, also)
    if len(sources) == len(table) and all(_place(s) == _place(source_of(table, n)) for n, s in enumerate(sources)):
        return ScannedFiles(table, sources, selection, also)
    rows = {_place(source_of(table, number)): number for number in range(len(table))}
    numbers = [rows.get(_place(source), -1) for source in sources]
    if -1 in numbers:
        return None
    return ScannedFiles(table.take(np.array(numbers)), sources, selection, also)


def _looked_at(table: FilesTable, selection: Selection, also: tuple[str, ...]) -> bool:
    known = {info.name for info in table.branches if info.kind != "other"}
    return known.issuperset((*selection.branches, *also))


def _place(source: Source) -> tuple[str, str | None]:
    return source.location, source.tree
