"""What is known of the files of a dataset since they were scanned: a table with a row for each, kept as columns."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from hashlib import sha256
from importlib.util import find_spec
from typing import Any

import numpy as np

from mlaas4hep_tf.io.basket_index import BranchIndex
from mlaas4hep_tf.io.branches import BranchInfo
from mlaas4hep_tf.io.lists import DistantTexts, IntArray, IntLists, Made, Texts

Column = IntArray | Texts | DistantTexts | IntLists
TEXTS = ("url", "tree", "uuid", "folder", "stamp", "dataset", "baskets", "friends")
NUMBERS = ("entries", "size")
LISTS = ("offsets", "edges", "passing")
RISING = ("offsets", "edges")
BASKETS_HELD = 1 << 26  # bytes of `FileSpec.baskets` in memory; more are read from Parquet when they are asked for
BASKETS_KEPT = 1 << 30  # in a table


@dataclass(frozen=True)
class FriendSpec:
    """A friend of a file of the dataset.

    Attributes:
        name: what it is called.
        url: its absolute path or URL when it was scanned; empty: it lies in the file itself.
        tree, uuid: as they were then.
        identifiers: branches by which its entries are found; none: the n-th entries belong together.
    """

    name: str
    url: str
    tree: str
    uuid: str
    identifiers: tuple[str, ...] = ()


@dataclass(frozen=True)
class FileSpec:
    """One file of the dataset, as it was when it was scanned.

    Attributes:
        url: its path or URL.
        uuid, entries: of the tree.
        edges: where there is a selection, entries between which events were counted, from 0 to `entries`.
        passing: how many events pass between an edge and the next; -1 where that could not be read.
        friends: trees that were read as a part of it.
        dataset: what a fileset calls the files that it belongs to.
        tree: its name.
        folder: from which `url` is named where that is a relative path.
        size, stamp: bytes, and what else tells that the file was replaced (`inspection.stamp_text`).
        offsets: entries at which its clusters begin, and its end; none in specs that were made before they were kept.
        baskets: where those of the table's `indexed` branches lie (`io.basket_text`); empty: whoever reads it looks.
    """

    url: str
    uuid: str
    entries: int
    edges: tuple[int, ...] = ()
    passing: tuple[int, ...] = ()
    friends: tuple[FriendSpec, ...] = ()
    dataset: str = ""
    tree: str = ""
    folder: str = ""
    size: int = 0
    stamp: str = ""
    offsets: tuple[int, ...] = ()
    baskets: str = ""

    @property
    def events(self) -> int:
        """Events that are used: those that pass, where there is a selection."""
        return sum(max(n, 0) for n in self.passing) if self.edges else self.entries


@dataclass(frozen=True)
class Summary:
    """What the specs say of the table, beside it.

    Attributes:
        count: files.
        entries: events that are used.
        identity: of the data: uuids and entries of files and friends, not where they lie.
        checksum: of all that the table holds.
    """

    count: int
    entries: int
    identity: str
    checksum: str


class FilesTable(Made[FileSpec]):
    """Files as columns: a `FileSpec` is made when it is asked for.

    Attributes:
        columns: name of a field of `FileSpec` -> its values; friends are JSON.
        branches: those of the first file, of which others have the features too.
        indexed: how those of its branches are stored that our decoder reads, for `FileSpec.baskets`.
        summary: of these files, or, where the table is lost, what is still known of it.
    """

    def __init__(
        self, columns: dict[str, Column], branches: tuple[BranchInfo, ...] = (),
        indexed: tuple[BranchIndex, ...] = (), summary: Summary | None = None,
    ) -> None:  # fmt: skip
        self.columns, self.branches, self.indexed = columns, branches, indexed
        if summary is not None:
            self.summary = summary

    @classmethod
    def of(
        cls, files: Iterable[FileSpec], branches: tuple[BranchInfo, ...] = (), indexed: tuple[BranchIndex, ...] = ()
    ) -> FilesTable:
        """A table of these files; the same one if it is one."""
        if isinstance(files, FilesTable):
            return files
        files = list(files)
        columns: dict[str, Column] = {name: Texts.of(getattr(f, name) for f in files) for name in TEXTS[:-1]}
        columns["friends"] = Texts.of(json.dumps(list(map(asdict, f.friends))) if f.friends else "" for f in files)
        columns |= {name: np.array([getattr(f, name) for f in files], np.int64) for name in NUMBERS}
        columns |= {name: IntLists.of((getattr(f, name) for f in files), rising=name in RISING) for name in LISTS}
        return cls(columns, branches, indexed)

    @classmethod
    def lost(cls, summary: Summary) -> FilesTable:
        """No file, and what is known of a table that is not there."""
        return cls(cls.of(()).columns, summary=summary)

    def __len__(self) -> int:
        return len(self.columns["entries"])

    def _one(self, number: int) -> FileSpec:
        row: dict[str, Any] = {name: column[number] for name, column in self.columns.items()}
        row |= {name: int(row[name]) for name in NUMBERS}
        return FileSpec(**row | {"friends": _friends(row["friends"])})

    def __eq__(self, other: object) -> bool:
        return isinstance(other, FilesTable) and self.summary == other.summary

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"FilesTable({len(self):,} files, {self.summary.entries:,} events)"

    @property
    def friends(self) -> tuple[FriendSpec, ...]:
        """Those of the first file, whose names all have."""
        return _friends(self.texts("friends")[0]) if len(self) else ()

    def texts(self, name: str) -> Texts:
        column = self.columns[name]
        assert isinstance(column, Texts)
        return column

    def lists(self, name: str) -> IntLists:
        column = self.columns[name]
        assert isinstance(column, IntLists)
        return column

    def numbers(self, name: str) -> IntArray:
        column = self.columns[name]
        assert isinstance(column, np.ndarray)
        return column

    @cached_property
    def events(self) -> IntArray:
        """Events that are used of each file, int64 [files]: those that pass, where there is a selection."""
        passing, edges = self.lists("passing"), self.lists("edges")
        if not len(edges.values):
            return self.numbers("entries")
        sums = IntLists(np.maximum(passing.values, 0), passing.ends).sums()
        return np.where(edges.lengths > 0, sums, self.numbers("entries"))

    @cached_property
    def summary(self) -> Summary:
        return Summary(len(self), int(self.events.sum()), self._identity(), self.checksum())

    def _identity(self) -> str:
        friends = self.texts("friends")
        known = zip(self.texts("uuid"), self.numbers("entries").tolist(), friends, strict=True)
        lines = sorted(f"{uuid} {entries} {_uuids(own)}" for uuid, entries, own in known)
        return sha256("\n".join(lines).encode()).hexdigest()[:16]

    def checksum(self) -> str:
        """Of all that the table holds, but for `baskets` that are not held in memory."""
        found = sha256(json.dumps([asdict(info) for info in self.branches]).encode())
        if self.indexed:
            found.update(json.dumps([asdict(how) for how in self.indexed]).encode())
        for name in sorted(self.columns):
            if name == "baskets" and (self.apart or not self.indexed):
                continue  # not indexed: as in tables that were written before there was this column
            column = self.columns[name]
            assert not isinstance(column, DistantTexts)
            arrays = [column] if isinstance(column, np.ndarray) else [column.values, column.ends.astype(np.int64)]
            for array in arrays:
                found.update(f"{name} {len(array)} ".encode())
                found.update(np.ascontiguousarray(array, array.dtype.newbyteorder("<")).data)
        return found.hexdigest()[:16]

    @property
    def apart(self) -> bool:
        """Whether `baskets` are too long for the memory."""
        texts = self.columns["baskets"]
        return isinstance(texts, DistantTexts) or self.texts("baskets").values.nbytes > BASKETS_HELD

    def take(self, numbers: IntArray) -> FilesTable:
        """Some of the files, in this order."""
        return FilesTable(
            {n: c[numbers] if isinstance(c, np.ndarray) else c.take(numbers) for n, c in self.columns.items()},
            self.branches, self.indexed,
        )  # fmt: skip

    def joined(self, other: FilesTable) -> FilesTable:
        """The files of both; where those of the other lie is forgotten if their branches are stored in another way."""
        alike = other.indexed == self.indexed
        files = [*self, *(file if alike else replace(file, baskets="") for file in other)]
        return FilesTable.of(files, self.branches, self.indexed).limited()

    def limited(self) -> FilesTable:
        """The same table; where baskets lie is told of as many files as the limit allows, from the first on.

        It is `BASKETS_KEPT`, without Parquet `BASKETS_HELD`.
        """
        texts, most = self.texts("baskets"), BASKETS_KEPT if find_spec("pyarrow") else BASKETS_HELD
        end = max(texts.ends[texts.ends <= most], default=0)
        kept: dict[str, Column] = {"baskets": Texts(texts.values[:end], np.minimum(texts.ends, end))}
        return FilesTable(self.columns | kept, self.branches, self.indexed)

    def without_selection(self) -> FilesTable:
        """The same files with all their events."""
        nothing = np.zeros(0, np.int64), np.zeros(len(self), np.int64)
        empty: dict[str, Column] = {"edges": IntLists(*nothing, rising=True), "passing": IntLists(*nothing)}
        return FilesTable(self.columns | empty, self.branches, self.indexed)


NO_FILES = FilesTable.of(())


def listed_files(files: Iterable[dict[str, Any]]) -> FilesTable:
    """The files that specs of version 1 list."""
    lists = dict.fromkeys(("edges", "passing"), ())
    return FilesTable.of(
        FileSpec(**lists | one | {"friends": tuple(map(_friend, one.get("friends", ())))}) for one in files
    )


def _friends(text: str) -> tuple[FriendSpec, ...]:
    return tuple(map(_friend, json.loads(text))) if text else ()


def _friend(content: dict[str, Any]) -> FriendSpec:
    return FriendSpec(**content | {"identifiers": tuple(content["identifiers"])})


def _uuids(friends: str) -> str:
    return " ".join(f"{friend.name} {friend.uuid}" for friend in _friends(friends))
