"""Opens ROOT files with uproot: which branches there are, where clusters begin and where the baskets lie.

It runs in reader processes, which never import TensorFlow: XRootD and TensorFlow cannot share a process
(both carry OpenSSL's symbols, and XRootD's TLS set-up binds to the wrong ones).
"""

from __future__ import annotations

import itertools
import logging
import re
from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import uproot

from mlaas4hep_tf.errors import InputFileError, MlaasError, TreeError, near_misses, shorten
from mlaas4hep_tf.io.basket_index import BranchBaskets, BranchIndex, FileIndex, build_index
from mlaas4hep_tf.io.baskets import plain_basket
from mlaas4hep_tf.io.branches import BranchInfo, Kind, Selection, meant
from mlaas4hep_tf.io.files import RootFile, Source, file_status
from mlaas4hep_tf.io.http import Busy
from mlaas4hep_tf.io.policy import conditions
from mlaas4hep_tf.io.remote import identity, place
from mlaas4hep_tf.io.sources import LocalSource, RemoteSource

_FINAL = re.compile("no such file|not found|permission denied|not authorized", re.IGNORECASE)  # no use to try again
_log = logging.getLogger(__name__)

_RNTUPLE_NUMBERS = {
    "bool": "bool", "float": "float32", "double": "float64", "char": "int8",
    **{f"std::{u}int{bits}_t": f"{u}int{bits}" for u in ("", "u") for bits in (8, 16, 32, 64)},
}  # fmt: skip
_COUNTERS = {"TLeafB": ">i1", "TLeafS": ">i2", "TLeafI": ">i4", "TLeafL": ">i8"}
_CLONES, _COLLECTION = 3, 4  # fType of a TBranchElement: a TClonesArray, an STL container
_INTS = (3, 6)  # fStreamerType: an int, and one that counts another member
_GENERATE_OFFSET_MAP = 1  # of TIOFeatures
_RNTUPLE_LISTS = ("std::vector<", "ROOT::VecOps::RVec<")
_MAX_DESCRIBED = 10_000
_NOT_CLOSED = "the job that wrote the file ended before it closed it: recover it with ROOT, which opens and mends it"


class OpenTree:
    """A tree opened by uproot."""

    def __init__(self, source: Source, **options: Any) -> None:
        with blame(source.url):
            handler = RemoteSource if source.remote else LocalSource
            options = {"object_cache": None, "array_cache": None, "handler": handler, **options}
            self._file = uproot.open({source.location: None}, **options)  # no part of its name is a tree's
            self.name = _find_tree(self._file, source)
            self.tree = self._file[self.name]
        self.uuid = str(self._file.file.uuid)
        self.closed = _was_closed(self._file)
        self.num_entries = int(self.tree.num_entries)
        self.is_rntuple = not isinstance(self.tree, uproot.TTree)

    def close(self) -> None:
        self._file.close()


def inspect(source: Source, selection: Selection, also: tuple[str, ...] = ()) -> RootFile:
    """Open a file once: entries, schema, cluster entry offsets, uuid, and where the baskets of selected branches lie.

    Args:
        also: branches to describe although they are not selected.

    The log says which branches our decoder does not read, and why.

    Raises:
        InputFileError: missing, unreadable, truncated or no ROOT file.
        TreeError: the tree is not there, or none was named and there are several.
    """
    stamp = file_stamp(source)
    opened = OpenTree(source)
    try:
        with blame(source.url, opened.name):
            survey = _survey_rntuple if opened.is_rntuple else _survey_ttree
            infos, entry_offsets, index, by_uproot, notes = survey(opened.tree, selection, also)
    finally:
        opened.close()
    for name, why in by_uproot.items():
        _log.info("branch %r of %s is read by uproot: %s", name, source.url, why)
    missing = [p for p in (*selection.branches, *selection.exclude, *also) if not meant(p, {i.name for i in infos})]
    if not opened.closed:
        notes += (f"{_NOT_CLOSED}; what was saved last is read",)
    return RootFile(
        source, opened.name, opened.uuid, opened.num_entries, entry_offsets, infos, index, stamp, notes,
        _friends(source) if missing else (),
    )  # fmt: skip


_Survey = tuple[tuple[BranchInfo, ...], tuple[int, ...], FileIndex, dict[str, str], tuple[str, ...]]


def _friends(source: Source) -> tuple[str, ...]:
    """The friends of a tree, which uproot reads only with all that describes it."""
    opened = OpenTree(source, minimal_ttree_metadata=False)
    try:
        friends = opened.tree.member("fFriends", none_if_missing=True) or ()
        return tuple(f"tree {friend.member('fTreeName')} in file {friend.member('fTitle')}" for friend in friends)
    finally:
        opened.close()


def file_stamp(source: Source) -> tuple[int, object]:
    """Size, and modification time of a local file or first bytes (with the uuid) of a remote one."""
    with blame(source.url):
        if source.remote:
            there = identity(source.url)
            return there.size, there.header
        status = file_status(source.location)
        return status.st_size, status.st_mtime_ns


@contextmanager
def blame(url: str, tree: str | None = None, what: str = "") -> Iterator[None]:
    """Turn whatever the ROOT layers raise into an `InputFileError` that says where, and if another try may help."""
    try:
        yield
    except InputFileError as error:
        error.passing = error.passing or len(conditions.get().policy.places(url)) > 1
        raise
    except (MlaasError, MemoryError):
        raise
    except Exception as error:
        where = f"file {place(url)}" + (f", tree {tree}" if tree else "") + (f", {what}" if what else "")
        notes = "".join(f", {note}" for note in getattr(error, "__notes__", ()))
        raised = InputFileError(
            f"cannot read {where}{notes}: {_first_line(error)}; check that it is a complete ROOT file"
        )
        raised.passing = _may_pass(url, error)
        raised.after_s = _wait_asked_for(url, error)
        raise raised from error


def _may_pass(url: str, error: Exception) -> bool:
    """Whether a fault may be gone at the next try: of a server or a disk, or of one replica."""
    if len(conditions.get().policy.places(url)) > 1:
        return True
    if isinstance(error, (FileNotFoundError, PermissionError, IsADirectoryError)) or _FINAL.search(str(error)):
        return False
    return "://" in url or (isinstance(error, OSError) and error.errno is not None)


def _wait_asked_for(url: str, error: Exception) -> float:
    """Seconds after which a server wants to be asked again, unless the next try goes to a replica."""
    return error.after_s if isinstance(error, Busy) and len(conditions.get().policy.places(url)) == 1 else 0.0


def _first_line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__


def _was_closed(file: Any) -> bool:
    """Whether the list of free space is there, which ROOT writes at the very end."""
    return int(file.file.fSeekFree) > int(file.file.fBEGIN)


def _find_tree(file: Any, source: Source) -> str:
    wanted = ("TTree", "TNtuple", "TNtupleD", "ROOT::RNTuple")
    classes = file.classnames(recursive=True)
    trees = sorted({key.split(";")[0] for key, name in classes.items() if name in wanted})
    if not trees and not _was_closed(file):
        raise InputFileError(f"file {source.url} has no tree: {_NOT_CLOSED}, or leave the file out")
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


def _survey_ttree(tree: Any, selection: Selection, also: tuple[str, ...]) -> _Survey:
    """Schema, cluster entry offsets, baskets, why uproot has to read a branch, and what to tell of them."""
    entries = int(tree.num_entries)
    infos, entry_offsets, by_uproot = [], [], {}
    parts: dict[str, BranchBaskets] = {}
    branches = list(tree.iteritems(recursive=True))
    first = dict(reversed(branches))  # of several branches of one name ROOT gives the first
    leaves = _leaves(branches)
    wanted = selection.among(first).union(also)
    for name, branch in branches:
        if len(branch.branches) or branch is not first[name]:
            continue
        if name not in wanted:
            infos.append(BranchInfo(name, "", "other", reason="not selected"))
            continue
        info, how = _describe(name, branch, _counter(branch, leaves))
        if info.kind != "other" and branch.num_entries != entries:
            why = f"filled {branch.num_entries} times in a tree of {entries} entries"
            info = BranchInfo(name, info.typename, "other", reason=why)
        infos.append(info)
        if info.kind == "other":
            continue
        entry_offsets.append(tuple(branch.entry_offsets))
        if isinstance(how, str):
            by_uproot[name] = how
        else:
            parts[name] = _baskets(how, branch, entry_offsets[-1], entries)
    parts |= _counters(leaves, {info.counter for info in infos if info.counter} - parts.keys(), entries)
    twice = [name for name, n in Counter(name for name, _ in branches).items() if n > 1 and name in wanted]
    notes = tuple(f"several branches are named {name!r}, of which the first is read, as in ROOT" for name in twice)
    return tuple(infos), _common_offsets(entry_offsets, entries), build_index(list(parts.values())), by_uproot, notes


@dataclass(frozen=True)
class _Counter:
    """The leaf that counts the lists of a branch.

    Attributes:
        path: where it lies in the tree; no other leaf has the same.
        readable: whether it is alone in its branch, as an integer.
        alone: whether baskets of the lists may be without entry offsets, since the counter says the same.
    """

    path: str
    readable: bool
    alone: bool


_Leaves = dict[int, tuple[str, Any]]


def _leaves(branches: Sequence[tuple[str, Any]]) -> _Leaves:
    """Path and branch of the leaves of a tree, by their identity in memory: what the pointer to a counter gives."""
    found, used, names = {}, set[str](), {name for name, _ in branches}
    for name, branch in branches:
        for leaf in branch.member("fLeaves"):
            plain = name.removesuffix(branch.name) + str(leaf.member("fName"))
            paths = itertools.chain([plain], (f"{plain};{n}" for n in itertools.count(2)))
            path = next(p for p in paths if p not in used and (p == name or p not in names))
            used.add(path)
            found[id(leaf)] = path, branch
    return found


def _counter(branch: Any, leaves: _Leaves) -> _Counter | None:
    """The leaf that counts the lists of a branch, if the tree has it."""
    own = branch.member("fLeaves")
    leaf = leaves.get(id(own[0].member("fLeafCount"))) if len(own) == 1 else None
    if leaf is None:
        return None
    features = branch.member("fIOFeatures", none_if_missing=True)
    alone = features is not None and bool(features.member("fIOBits") & _GENERATE_OFFSET_MAP)
    return _Counter(leaf[0], bool(_counter_dtype(leaf[1])), alone)


def _counters(leaves: _Leaves, paths: Collection[str], entries: int) -> dict[str, BranchBaskets]:
    """The baskets of counters that are no branch of their own name, or none that is selected."""
    found = {}
    for path, branch in leaves.values():
        dtype = _counter_dtype(branch) if path in paths else ""
        if dtype and branch.num_entries == entries:
            how = BranchIndex(path, dtype, jagged=False)
            found[path] = _baskets(how, branch, tuple(branch.entry_offsets), entries)
    return found


def _counter_dtype(branch: Any) -> str:
    """The dtype of a branch that has a counter and nothing else; empty if it has more, or no integer."""
    leaves = branch.member("fLeaves")
    if len(leaves) != 1 or branch.classname not in ("TBranch", "TBranchElement"):
        return ""
    if branch.classname == "TBranch":
        dtype = _COUNTERS.get(leaves[0].classname, "")
        return dtype.replace("i", "u") if leaves[0].member("fIsUnsigned") else dtype
    kind = branch.member("fType")
    if kind in (_CLONES, _COLLECTION):  # its baskets hold the number of objects
        return ">i4"
    return ">i4" if kind == 0 and branch.member("fStreamerType") in _INTS else ""


_described: dict[Hashable, tuple[BranchInfo, BranchIndex | str]] = {}


def _describe(name: str, branch: Any, counter: _Counter | None) -> tuple[BranchInfo, BranchIndex | str]:
    """What a TBranch is, and how our decoder reads it or why it does not.

    Descriptions of branches with one leaf are kept and used again for the same branch of other files: uproot's
    interpretation takes a third of the time of opening a file, and the files of a dataset are alike.
    """
    leaves = branch.member("fLeaves")
    if branch.classname != "TBranch" or len(leaves) != 1:
        return _describe_anew(name, branch, counter)
    leaf = leaves[0]
    facts = (leaf.member(m) for m in ("fTitle", "fLen", "fLenType", "fIsUnsigned"))
    key = (name, leaf.classname, str(branch.member("fTitle")), counter, *map(str, facts))
    if key not in _described:
        if len(_described) > _MAX_DESCRIBED:
            _described.clear()
        _described[key] = _describe_anew(name, branch, counter)
    return _described[key]


def _describe_anew(name: str, branch: Any, counter: _Counter | None) -> tuple[BranchInfo, BranchIndex | str]:
    try:
        interpretation = branch.interpretation
        typename = branch.typename
    except Exception as error:  # noqa: BLE001 (uproot raises many kinds for types that it cannot interpret)
        why = f"not interpretable: {_first_line(error)}"
        return BranchInfo(name, "unknown", "other", reason=why), why
    kind, dtype, length, reason = _classify(interpretation)
    counter = counter if kind == "jagged" else None
    path = counter.path if counter is not None else None
    info, how = BranchInfo(name, typename, kind, dtype, path, length, reason), _decoding(name, interpretation)
    if counter is None or not counter.alone:
        return info, how
    if isinstance(how, str) or not counter.readable:
        why = "lists without entry offsets (kGenerateOffsetMap) whose counter is no branch of integers"
        return BranchInfo(name, typename, "other", reason=why), why
    return info, replace(how, counter=counter.path)


def _decoding(name: str, interpretation: Any) -> BranchIndex | str:
    header, content = 0, interpretation
    jagged = isinstance(interpretation, uproot.interpretation.jagged.AsJagged)
    if jagged:
        header, content = interpretation.header_bytes, interpretation.content
    if type(content) is not uproot.interpretation.numerical.AsDtype or (jagged and header not in (0, 10)):
        return f"its interpretation is {interpretation}"
    base, shape = content.from_dtype.subdtype or (content.from_dtype, ())
    return BranchIndex(name, base.str, jagged, header, int(np.prod(shape, dtype=np.int64)))


def _baskets(how: BranchIndex, branch: Any, entry_offsets: Sequence[int], entries: int) -> BranchBaskets:
    """Where the baskets of a TBranch lie; those that lie in the tree's own header are copied."""
    recovered = branch.embedded_baskets
    count = len(entry_offsets) - 1 - len(recovered)
    seeks = np.asarray(branch.member("fBasketSeek")[:count], np.int64)
    sizes = np.asarray(branch.member("fBasketBytes")[:count], np.int64)
    bounds = np.asarray(entry_offsets, np.int64)
    if (np.diff(bounds) < 0).any() or bounds[0] != 0 or bounds[-1] != entries:
        raise ValueError(f"the baskets of branch {how.name!r} do not hold the {entries} entries of the tree in order")
    if len(seeks) != count or (seeks < 0).any() or (sizes <= 0).any():
        raise ValueError(f"the positions and sizes of the baskets of branch {how.name!r} make no sense")
    return BranchBaskets(
        how,
        seeks,
        sizes,
        bounds,
        tuple(plain_basket(b.data, b.byte_offsets, b.num_entries) for b in recovered),
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


def _common_offsets(per_branch: Iterable[tuple[int, ...]], entries: int) -> tuple[int, ...]:
    """Entries at which all numeric branches start a basket; if they share only the ends, the most frequent offsets."""
    use = Counter(per_branch)
    common: set[int] = set.intersection(*map(set, use)) if use else set()
    if use and len(common) <= 2:
        most_frequent = max(use, key=lambda offsets: (use[offsets] * (len(offsets) > 2), len(offsets), offsets))
        common = set(most_frequent)
    return tuple(sorted(common | {0, entries}))


def _survey_rntuple(ntuple: Any, *_: object) -> _Survey:
    infos = tuple(_rntuple_infos(ntuple))
    starts = {int(c.num_first_entry) for c in ntuple.cluster_summaries}
    entry_offsets = tuple(sorted(starts | {0, int(ntuple.num_entries)}))
    by_uproot = {info.name: "it is in an RNTuple" for info in infos if info.kind != "other"}
    return infos, entry_offsets, build_index([]), by_uproot, ()


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
