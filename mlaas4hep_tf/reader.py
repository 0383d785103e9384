"""Reads entry ranges of ROOT trees; with `baskets` and `writer` the only ones of the product that touch ROOT files.

It runs in reader processes, which never import TensorFlow: XRootD and TensorFlow cannot share a process
(both carry OpenSSL's symbols, and XRootD's TLS set-up binds to the wrong ones).
"""

from __future__ import annotations

import logging
import os
from collections import Counter, OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import awkward as ak
import fsspec
import numpy as np
import uproot

from mlaas4hep_tf import baskets
from mlaas4hep_tf.branches import BranchInfo, Kind, Layout, Selection
from mlaas4hep_tf.buffers import ArraySpec, BufferRef, allocate
from mlaas4hep_tf.errors import BranchError, InputFileError, MlaasError, TreeError, near_misses, shorten
from mlaas4hep_tf.files import RootFile, Source
from mlaas4hep_tf.index import Array, BranchIndex, FileIndex, build_index

OPEN_FILES = 16  # kept open by one reader process
TIMEOUT_S = 60  # for one request to a remote server
_log = logging.getLogger(__name__)

_RNTUPLE_NUMBERS = {
    "bool": "bool", "float": "float32", "double": "float64", "char": "int8",
    **{f"std::{u}int{bits}_t": f"{u}int{bits}" for u in ("", "u") for bits in (8, 16, 32, 64)},
}  # fmt: skip
_RNTUPLE_LISTS = ("std::vector<", "ROOT::VecOps::RVec<")


@dataclass(frozen=True)
class Columns:
    """Entries of some branches as they come out of the file.

    Attributes:
        entries: number of events.
        values: branch -> 1-D arrays of any byte order which together are its values, event after event.
        counts: group -> values per event, int64 [entries].
    """

    entries: int
    values: dict[str, tuple[Array, ...]]
    counts: dict[str, Array]


@dataclass(frozen=True)
class Packed:
    """Shapes of packed arrays, and the arrays themselves unless they lie in a shared buffer.

    In order: flat float32 [n, flat]; for each group values float32 [m, branches] and counts int32 [n].
    """

    specs: tuple[ArraySpec, ...]
    arrays: tuple[Array, ...] | None


class OpenTree:
    """A tree opened by uproot."""

    def __init__(self, source: Source) -> None:
        with _blame(source.url):
            self._file = uproot.open(source.location, object_cache=None, array_cache=None, **_options(source))
            self.name = _find_tree(self._file, source)
            self.tree = self._file[self.name]
        self.uuid = str(self._file.file.uuid)
        self.entries = int(self.tree.num_entries)
        self.is_rntuple = not isinstance(self.tree, uproot.TTree)

    def close(self) -> None:
        self._file.close()

    def infos(self, selection: Selection) -> tuple[BranchInfo, ...]:
        return tuple(_rntuple_infos(self.tree) if self.is_rntuple else _ttree_infos(self.tree, selection))

    def index(self, infos: Sequence[BranchInfo]) -> FileIndex:
        """The baskets of the branches that our decoder reads; the log says which it does not, and why."""
        parts = []
        for info in infos:
            if info.kind == "other":
                continue
            found = "it is in an RNTuple" if self.is_rntuple else _index_branch(info.name, self.tree[info.name])
            if isinstance(found, str):
                _log.info("branch %r of %s is read by uproot: %s", info.name, self._file.file_path, found)
            else:
                parts.append(found)
        return build_index(parts)


def inspect(source: Source, selection: Selection) -> RootFile:
    """Open a file once: entries, schema, cluster edges, uuid, and where the baskets of selected branches lie.

    Raises:
        InputFileError: missing, unreadable, truncated or no ROOT file.
        TreeError: the tree is not there, or none was named and there are several.
    """
    stamp = file_stamp(source)
    tree = OpenTree(source)
    try:
        with _blame(source.url, tree.name):
            infos = tree.infos(selection)
            edges = _rntuple_edges(tree.tree) if tree.is_rntuple else _ttree_edges(tree.tree, infos)
            index = tree.index(infos)
            return RootFile(source, tree.name, tree.uuid, tree.entries, edges, infos, index, stamp)
    finally:
        tree.close()


_open_trees: OrderedDict[tuple[str, str], OpenTree] = OrderedDict()


def _cached_tree(file: RootFile) -> OpenTree:
    """The file opened by uproot, for what our decoder does not read."""
    key = (file.source.location, file.tree)
    tree = _open_trees.pop(key, None)
    if tree is not None and tree.uuid != file.uuid:
        tree.close()
        tree = None
    tree = _open_trees[key] = tree or OpenTree(replace(file.source, tree=file.tree))
    while len(_open_trees) > OPEN_FILES:
        _open_trees.popitem(last=False)[1].close()
    if (tree.uuid, tree.entries) != (file.uuid, file.entries):
        raise _replaced(file)
    return tree


def _replaced(file: RootFile) -> InputFileError:
    return InputFileError(f"{file.where} was replaced since it was first opened; start again")


def fetch(file: RootFile, spans: Sequence[tuple[int, int]]) -> list[memoryview]:
    """The bytes of each (seek, size), read in few requests.

    Raises:
        InputFileError: the file was replaced since it was opened.
        OSError, ValueError: it cannot be read, or ends early.
    """
    requests = baskets.coalesce(spans)
    if file_stamp(file.source) != file.stamp:
        raise _replaced(file)
    fetch_all = _fetch_remote if file.source.remote else _fetch_local
    chunks = fetch_all(file.source.location, requests)
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


def _fetch_remote(url: str, requests: Sequence[baskets.Request]) -> list[bytes]:
    filesystem, path = fsspec.core.url_to_fs(url, **_storage_options(url))
    starts = [seek for seek, _, _ in requests]
    stops = [seek + size for seek, size, _ in requests]
    return list(filesystem.cat_ranges([path] * len(requests), starts, stops, on_error="raise"))


def file_stamp(source: Source) -> tuple[int, int] | None:
    """Size and modification time of a local file; None for a remote one."""
    if source.remote:
        return None
    with _blame(source.url):
        status = os.stat(source.location)
    return status.st_size, status.st_mtime_ns


def read(file: RootFile, start: int, stop: int, names: Sequence[str]) -> Columns:
    """Read entries [start, stop) of some branches of one file.

    Args:
        file: what `inspect` said of the file, at least of these branches and entries (`RootFile.part`).

    Raises:
        InputFileError: bytes that cannot be read or decoded; names file, tree, branch and entries.
        BranchError: a branch that is not in the tree.
    """
    known = {info.name: info for info in file.branches}
    missing = [name for name in names if name not in known]
    if missing:
        raise BranchError(f"no branch {missing[0]!r}{near_misses(missing[0], known)} in {file.where}")
    infos = [known[name] for name in names]
    with _blame(file.url, file.tree, f"entries {start} to {stop}"):
        index = file.index.part(names, start, stop)
        fast_names = index.names
        first = {info.group: info.name for info in reversed(infos) if info.kind == "jagged" and info.name in fast_names}
        fast = baskets.read_columns(partial(fetch, file), index, start, stop, frozenset(first.values()))
        counts = {group: counts for group, name in first.items() if (counts := fast[name].counts) is not None}
        slow, slow_counts = _read_by_uproot(file, [i for i in infos if i.name not in fast_names], start, stop)
        for name, found in slow_counts.items():
            if not np.array_equal(counts.setdefault(known[name].group, found), found):
                raise ValueError(f"branch {name!r} differs in multiplicity from its group")
        columns = Columns(stop - start, {name: column.pieces for name, column in fast.items()} | slow, counts)
        _check_lengths(columns, infos)
    return columns


def _check_lengths(columns: Columns, infos: Sequence[BranchInfo]) -> None:
    for info in infos:
        if info.kind == "array":
            columns.counts[info.group] = np.full(columns.entries, info.length, np.int64)
        expected = columns.entries if info.kind == "flat" else int(columns.counts[info.group].sum())
        have = sum(map(len, columns.values[info.name]))
        if have != expected:
            raise ValueError(f"branch {info.name!r} has {have} values where its counter says {expected}")


def _read_by_uproot(
    file: RootFile, infos: Sequence[BranchInfo], start: int, stop: int
) -> tuple[dict[str, tuple[Array, ...]], dict[str, Array]]:
    if not infos:
        return {}, {}
    names = [info.name for info in infos]
    record = _cached_tree(file).tree.arrays(names, entry_start=start, entry_stop=stop, library="ak")
    values: dict[str, tuple[Array, ...]] = {}
    counts = {}
    for info in infos:
        array = record[info.name] if info.name in record.fields else record[tuple(info.name.split("."))]
        values[info.name] = (np.asarray(ak.to_numpy(ak.flatten(array, axis=None))).reshape(-1),)
        if info.kind == "jagged":
            counts[info.name] = np.asarray(ak.to_numpy(ak.num(array)), np.int64)
    return values, counts


def pack(columns: Columns, layout: Layout, ref: BufferRef | None = None) -> Packed:
    """Copy columns into float32 matrices, one for the flat branches and one per group.

    float64 and integers are rounded to the nearest float32; what lies beyond its range becomes infinite.
    """
    n = columns.entries
    specs = [ArraySpec((n, len(layout.flat)), "float32")]
    for group, names in layout.groups:
        specs.append(ArraySpec((int(columns.counts[group].sum()), len(names)), "float32"))
        specs.append(ArraySpec((n,), "int32"))
    arrays = allocate(ref, specs)
    with np.errstate(over="ignore"):
        _fill(arrays[0], layout.flat, columns)
        for number, (group, names) in enumerate(layout.groups):
            _fill(arrays[1 + 2 * number], names, columns)
            arrays[2 + 2 * number][:] = columns.counts[group]
    return Packed(tuple(specs), tuple(arrays) if ref is None else None)


def _fill(matrix: Array, names: Sequence[str], columns: Columns) -> None:
    for number, name in enumerate(names):
        at = 0
        for piece in columns.values[name]:
            matrix[at : at + len(piece), number] = piece
            at += len(piece)


def read_packed(file: RootFile, start: int, stop: int, layout: Layout, ref: BufferRef | None = None) -> Packed:
    """`read` and `pack` in one call, for reader processes."""
    return pack(read(file, start, stop, layout.names), layout, ref)


@contextmanager
def _blame(url: str, tree: str | None = None, what: str = "") -> Iterator[None]:
    """Turn whatever the ROOT layers raise into an `InputFileError` that says where."""
    try:
        yield
    except (MlaasError, MemoryError):
        raise
    except Exception as error:
        where = f"file {url}" + (f", tree {tree}" if tree else "") + (f", {what}" if what else "")
        notes = "".join(f", {note}" for note in getattr(error, "__notes__", ()))
        raise InputFileError(
            f"cannot read {where}{notes}: {_first_line(error)}; check that it is a complete ROOT file"
        ) from error


def _first_line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__


def _options(source: Source) -> dict[str, Any]:
    return {"timeout": TIMEOUT_S} if source.remote else {}


def _storage_options(url: str) -> dict[str, Any]:
    return {"timeout": TIMEOUT_S} if url.startswith("root") else {}


def _find_tree(file: Any, source: Source) -> str:
    wanted = ("TTree", "TNtuple", "TNtupleD", "ROOT::RNTuple")
    classes = file.classnames(recursive=True)
    trees = sorted({key.split(";")[0] for key, name in classes.items() if name in wanted})
    if source.tree in trees:
        return str(source.tree)
    if source.tree is not None:
        raise TreeError(
            f"no tree {source.tree!r}{near_misses(source.tree, trees)} in file {source.url}, "
            f"which has {shorten(trees) or 'no tree at all'}"
        )
    if len(trees) != 1:
        have = f"has {len(trees)} trees ({shorten(trees)})" if trees else "has no tree"
        raise TreeError(f"file {source.url} {have}; name one with tree= (--tree) or as file.root:tree")
    return str(trees[0])


def _ttree_infos(tree: Any, selection: Selection) -> Iterator[BranchInfo]:
    for name, branch in tree.iteritems(recursive=True):
        if len(branch.branches) == 0:
            if selection.wants(name):
                yield _ttree_info(name, branch)
            else:
                yield BranchInfo(name, "", "other", reason="not selected")


def _ttree_info(name: str, branch: Any) -> BranchInfo:
    try:
        interpretation = branch.interpretation
        typename = branch.typename
    except Exception as error:  # noqa: BLE001 (uproot raises many kinds for types that it cannot interpret)
        return BranchInfo(name, "unknown", "other", reason=f"not interpretable: {_first_line(error)}")
    kind, dtype, length, reason = _classify(interpretation)
    leaf = branch.member("fLeaves")[0].member("fLeafCount") if kind == "jagged" else None
    counter = None if leaf is None else str(leaf.member("fName"))
    return BranchInfo(name, typename, kind, dtype, counter, length, reason)


def _index_branch(name: str, branch: Any) -> tuple[BranchIndex, Array, Array, Array] | str:
    """Where a TBranch's baskets lie and how they are read, or the reason why uproot has to."""
    interpretation = branch.interpretation
    header, content = 0, interpretation
    jagged = isinstance(interpretation, uproot.interpretation.jagged.AsJagged)
    if jagged:
        header, content = interpretation.header_bytes, interpretation.content
    if type(content) is not uproot.interpretation.numerical.AsDtype or (jagged and header not in (0, 10)):
        return f"its interpretation is {interpretation}"
    if branch.embedded_baskets:
        return "it has baskets that were recovered from the tree's header"
    base, shape = content.from_dtype.subdtype or (content.from_dtype, ())
    count = branch.num_baskets
    return (
        BranchIndex(name, base.str, jagged, header, int(np.prod(shape, dtype=np.int64))),
        np.asarray(branch.member("fBasketSeek")[:count]),
        np.asarray(branch.member("fBasketBytes")[:count]),
        np.asarray(branch.entry_offsets),
    )


def _classify(interpretation: Any) -> tuple[Kind, str, int, str]:
    """Kind, dtype, length and reason of what uproot makes of a TBranch."""
    numerical = uproot.interpretation.numerical
    if isinstance(interpretation, uproot.interpretation.jagged.AsJagged):
        kind, dtype, _, reason = _classify(interpretation.content)
        return ("jagged", dtype, 0, "") if kind == "flat" else ("other", "", 0, reason or "lists of arrays")
    if isinstance(interpretation, numerical.TruncatedNumerical):  # Double32_t, Float16_t
        dtype = "float64" if isinstance(interpretation, numerical.AsDouble32) else "float32"
        return (*_dimensions(interpretation.to_dims, dtype), "")
    if type(interpretation) is numerical.AsDtype and interpretation.to_dtype.fields is None:
        base, shape = interpretation.to_dtype.subdtype or (interpretation.to_dtype, ())
        if base.kind in "biuf":
            return (*_dimensions(shape, base.newbyteorder("=").name), "")
    if isinstance(interpretation, uproot.interpretation.strings.AsStrings):
        return "other", "", 0, "text"
    lists = isinstance(interpretation, uproot.interpretation.objects.AsObjects)
    return "other", "", 0, "objects or lists of lists" if lists else "objects"


def _dimensions(shape: tuple[int, ...], dtype: str) -> tuple[Kind, str, int]:
    return ("array", dtype, int(np.prod(shape, dtype=np.int64))) if shape else ("flat", dtype, 0)


def _ttree_edges(tree: Any, infos: Sequence[BranchInfo]) -> tuple[int, ...]:
    """Entries at which every numeric branch starts a basket; if there are none inside, where most do."""
    per_branch: Counter[tuple[int, ...]] = Counter(
        tuple(tree[info.name].entry_offsets) for info in infos if info.kind != "other"
    )
    if not per_branch:
        return (0, int(tree.num_entries))
    common = set.intersection(*map(set, per_branch))
    if len(common) <= 2:
        by_use = sorted(per_branch, key=lambda edges: (per_branch[edges] * (len(edges) > 2), len(edges)))
        common = set(by_use[-1])
    return tuple(sorted(common | {0, int(tree.num_entries)}))


def _rntuple_infos(ntuple: Any) -> Iterator[BranchInfo]:
    """Fields of an RNTuple; members of a collection of records are jagged branches ``Jet.pt`` of the group ``Jet``."""
    fields = {name: ntuple[name].typename for name in ntuple.keys(recursive=True) if not name.startswith("_")}
    counters = {name for name, typename in fields.items() if "RNTupleCardinality" in typename}
    for name, typename in fields.items():
        kind, dtype, length = _rntuple_kind(typename)
        owner, _, _ = name.rpartition(".")
        if owner:
            jagged = kind == "flat" and fields.get(owner) == ""
            kind, dtype, length = ("jagged" if jagged else "other", dtype if jagged else "", 0)
            counter = owner
        elif typename == "":
            continue  # the collection itself: its members follow
        else:
            counter = f"n{name.split('_')[0]}"
            counter = counter if counter in counters else name
        reason = "" if kind != "other" else "text, objects, optional values or lists of lists"
        yield BranchInfo(
            name, typename, kind, dtype, counter if kind == "jagged" and counter != name else None, length, reason
        )


def _rntuple_kind(typename: str) -> tuple[Kind, str, int]:
    typename = typename.replace(" ", "")
    if typename in _RNTUPLE_NUMBERS:
        return "flat", _RNTUPLE_NUMBERS[typename], 0
    if typename.startswith("ROOT::RNTupleCardinality<"):
        return "flat", "int64", 0
    for prefix in _RNTUPLE_LISTS:
        if typename.startswith(prefix) and typename[len(prefix) : -1] in _RNTUPLE_NUMBERS:
            return "jagged", _RNTUPLE_NUMBERS[typename[len(prefix) : -1]], 0
    if typename.startswith("std::array<"):
        inner, _, size = typename[len("std::array<") : -1].rpartition(",")
        if inner in _RNTUPLE_NUMBERS and size.isdigit():
            return "array", _RNTUPLE_NUMBERS[inner], int(size)
    return "other", "", 0


def _rntuple_edges(ntuple: Any) -> tuple[int, ...]:
    starts = {int(c.num_first_entry) for c in ntuple.cluster_summaries}
    return tuple(sorted(starts | {0, int(ntuple.num_entries)}))
