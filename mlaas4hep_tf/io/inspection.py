"""Opens ROOT files with uproot: which branches there are, where clusters begin and where the baskets lie.

It runs in reader processes, which never import TensorFlow: XRootD and TensorFlow cannot share a process
(both carry OpenSSL's symbols, and XRootD's TLS set-up binds to the wrong ones).
"""

from __future__ import annotations

import itertools
import logging
from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import uproot

from mlaas4hep_tf.errors import InputFileError, TreeError, near_misses, shorten
from mlaas4hep_tf.io import fields
from mlaas4hep_tf.io.basket_index import BranchBaskets, BranchIndex, FileIndex, build_index
from mlaas4hep_tf.io.baskets import plain_basket
from mlaas4hep_tf.io.branches import NO_FEATURES, BranchInfo, Selection, meant
from mlaas4hep_tf.io.faults import blame
from mlaas4hep_tf.io.files import RootFile, Source
from mlaas4hep_tf.io.interpretations import Described, describe
from mlaas4hep_tf.io.page_index import PageIndex
from mlaas4hep_tf.io.sources import LocalSource, RemoteSource
from mlaas4hep_tf.io.stamps import file_stamp

_log = logging.getLogger(__name__)

_COUNTERS = {"TLeafB": ">i1", "TLeafS": ">i2", "TLeafI": ">i4", "TLeafL": ">i8"}
_CLONES, _COLLECTION = 3, 4  # fType of a TBranchElement: a TClonesArray, an STL container
_INTS = (3, 6)  # fStreamerType: an int, and one that counts another member
_GENERATE_OFFSET_MAP = 1  # of TIOFeatures
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


def inspect(
    source: Source, selection: Selection, also: tuple[str, ...] = (), perhaps: tuple[str, ...] = ()
) -> RootFile:
    """Open a file once: entries, schema, cluster entry offsets, uuid, and where the baskets of selected branches lie.

    Args:
        also: branches to describe although they are not selected.
        perhaps: the same, where the tree has them.

    The log says which branches our decoder does not read, and why.

    Raises:
        InputFileError: missing, unreadable, truncated or no ROOT file.
        TreeError: the tree is not there, or none was named and there are several.
    """
    stamp = file_stamp(source)
    opened = OpenTree(source)
    try:
        with blame(source.url, opened.name):
            by_uproot: dict[str, str] = {}
            notes: tuple[str, ...] = ()
            index: FileIndex | PageIndex
            if opened.is_rntuple:
                infos, entry_offsets, index = fields.survey(opened.tree, selection, also + perhaps)
            else:
                survey = _survey_ttree(opened.tree, selection, also + perhaps)
                infos, entry_offsets, index, by_uproot, notes = survey
    finally:
        opened.close()
    for name, why in by_uproot.items():
        _log.info("branch %r of %s is read by uproot: %s", name, source.url, why)
    names = {info.name for info in infos}
    elsewhere = tuple(friend.prefix for friend in source.friends)
    needed = {*selection.branches, *selection.exclude, *also}.difference(selection.identifiers)
    missing = [given for given in needed if not given.startswith(elsewhere) and not meant(given, names)]
    if not opened.closed:
        notes += (f"{_NOT_CLOSED}; what was saved last is read",)
    return RootFile(
        source, opened.name, opened.uuid, opened.num_entries, entry_offsets, infos, index, stamp, notes,
        _unread_friends(source) if missing else (),
    )  # fmt: skip


_Survey = tuple[tuple[BranchInfo, ...], tuple[int, ...], FileIndex, dict[str, str], tuple[str, ...]]


def _unread_friends(source: Source) -> tuple[str, ...]:
    """The friends of a tree, which uproot reads only with all that describes it."""
    opened = OpenTree(source, minimal_ttree_metadata=False)
    try:
        friends = opened.tree.member("fFriends", none_if_missing=True) or ()
        return tuple(f"tree {friend.member('fTreeName')} in file {friend.member('fTitle')}" for friend in friends)
    finally:
        opened.close()


def _was_closed(file: Any) -> bool:
    """Whether the list of free space is there, which ROOT writes at the very end."""
    return int(file.file.fSeekFree) > int(file.file.fBEGIN)


def _find_tree(file: Any, source: Source) -> str:
    wanted = ("TTree", "TNtuple", "TNtupleD", "ROOT::RNTuple")
    classes = file.classnames(recursive=True)
    trees = sorted({key.split(";")[0] for key, name in classes.items() if name in wanted})
    if not trees and not _was_closed(file):
        raise InputFileError(f"file {source.url} has no tree: {_NOT_CLOSED}, or leave the file out")
    if source.tree in trees or classes.get(source.tree) in wanted:  # the newest cycle, or the one named
        return str(source.tree)
    if source.tree is not None:
        have = f"{shorten(trees)}; file.root:tree names one" if trees else "no tree at all"
        raise TreeError(
            f"no tree {source.tree!r}{near_misses(source.tree, trees)} in file {source.url}, which has {have}"
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
    leaves = _counting_leaves(branches)
    described = {
        name: _describe(name, branch, _counter(branch, leaves))
        for name, branch in first.items()
        if not len(branch.branches) and selection.may_mean(name, also)
    }
    every = [info.name for held in described.values() for info, _ in held]
    wanted = selection.among([*every, *(first.keys() - described.keys())]).union(also)
    for name, branch in branches:
        if len(branch.branches) or branch is not first[name]:
            continue
        for info, how in described.get(name, [(BranchInfo(name, "", "other"), "")]):
            if info.name not in wanted or name not in described:
                infos.append(BranchInfo(info.name, "", "other", reason="not selected"))
                continue
            if info.kind != "other" and branch.num_entries != entries:
                why = f"filled {branch.num_entries} times in a tree of {entries} entries"
                info = BranchInfo(info.name, info.typename, "other", reason=why)
            infos.append(info)
            if info.kind == "other":
                continue
            if info.kind not in NO_FEATURES:
                entry_offsets.append(_entry_offsets(branch))
            if isinstance(how, str):
                by_uproot[info.name] = how
            else:
                parts[info.name] = _baskets(how, branch, entry_offsets[-1], entries)
    parts |= _counters(leaves, {info.counter for info in infos if info.counter} - parts.keys(), entries)
    twice = [name for name, n in Counter(name for name, _ in branches).items() if n > 1 and name in wanted]
    notes = tuple(f"several branches are named {name!r}, of which the first is read, as in ROOT" for name in twice)
    return tuple(infos), _common_offsets(entry_offsets, entries), build_index(list(parts.values())), by_uproot, notes


class _Leaf(NamedTuple):
    """A leaf that counts lists: its path, which no other has, its branch, and their dtype if the branch has no more."""

    path: str
    branch: Any
    dtype: str


class _Counter(NamedTuple):
    """What counts the lists of a branch.

    Attributes:
        path: of the leaf.
        readable: whether it is alone in its branch, as an integer.
        alone: whether baskets of the lists may be without entry offsets, since the counter says the same.
    """

    path: str
    readable: bool
    alone: bool


def _counting_leaves(branches: Sequence[tuple[str, Any]]) -> dict[int, _Leaf]:
    """The leaves that count lists, by their identity in memory: that is what the lists' own leaves point to."""
    counting = {id(leaf.member("fLeafCount")) for _, branch in branches for leaf in branch.member("fLeaves")}
    names, found = {name for name, _ in branches}, dict[int, _Leaf]()
    used = set[str]()
    for name, branch in branches:
        for leaf in branch.member("fLeaves"):
            if id(leaf) in counting:
                plain = name.removesuffix(branch.name) + str(leaf.member("fName"))
                paths = itertools.chain([plain], (f"{plain};{n}" for n in itertools.count(2)))
                path = next(p for p in paths if p not in used and (p == name or p not in names))
                used.add(path)
                found[id(leaf)] = _Leaf(path, branch, _counter_dtype(branch))
    return found


def _counter(branch: Any, leaves: Mapping[int, _Leaf]) -> _Counter | None:
    """What counts the lists of a branch, if the tree has it."""
    own = branch.member("fLeaves")
    leaf = leaves.get(id(own[0].member("fLeafCount"))) if len(own) == 1 else None
    if leaf is None:
        return None
    features = branch.member("fIOFeatures", none_if_missing=True)
    alone = features is not None and bool(features.member("fIOBits") & _GENERATE_OFFSET_MAP)
    return _Counter(leaf.path, bool(leaf.dtype), alone)


def _counters(leaves: Mapping[int, _Leaf], paths: Collection[str], entries: int) -> dict[str, BranchBaskets]:
    """The baskets of counters that are no branch of their own name, or none that is selected."""
    return {
        path: _baskets(BranchIndex(path, dtype, jagged=False), branch, _entry_offsets(branch), entries)
        for path, branch, dtype in leaves.values()
        if dtype and path in paths and branch.num_entries == entries
    }


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


_described: dict[Hashable, tuple[Described, ...]] = {}


def _describe(name: str, branch: Any, counter: _Counter | None) -> tuple[Described, ...]:
    """The branches of numbers that a TBranch holds, and how our decoder reads each or why it does not.

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


def _describe_anew(name: str, branch: Any, counter: _Counter | None) -> tuple[Described, ...]:
    return tuple(_counted(described, counter) for described in describe(name, branch))


def _counted(described: Described, counter: _Counter | None) -> Described:
    """A branch with its counter, which also says where entries begin if its baskets do not."""
    info, how = described
    if counter is None or info.kind != "jagged":
        return described
    if not counter.alone:
        return replace(info, counter=counter.path), how
    if isinstance(how, str) or not counter.readable:
        why = "lists without entry offsets (kGenerateOffsetMap) whose counter is no branch of integers"
        return BranchInfo(info.name, info.typename, "other", reason=why), why
    return replace(info, counter=counter.path), replace(how, counter=counter.path)


def _entry_offsets(branch: Any) -> tuple[int, ...]:
    """The first entry of each basket, and the end."""
    try:
        return tuple(branch.entry_offsets)
    except uproot.deserialization.DeserializationError as error:
        features = branch.member("fIOFeatures", none_if_missing=True)
        if features is None or not features.member("fIOBits") & _GENERATE_OFFSET_MAP:
            raise
        raise ValueError(
            "a job that was killed left its last baskets, with kGenerateOffsetMap, in the tree's own header, where "
            "only ROOT can read them; recover the file with ROOT"
        ) from error


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


def _common_offsets(per_branch: Iterable[tuple[int, ...]], entries: int) -> tuple[int, ...]:
    """Entries at which all numeric branches start a basket; if they share only the ends, the most frequent offsets."""
    use = Counter(per_branch)
    common: set[int] = set.intersection(*map(set, use)) if use else set()
    if use and len(common) <= 2:
        most_frequent = max(use, key=lambda offsets: (use[offsets] * (len(offsets) > 2), len(offsets), offsets))
        common = set(most_frequent)
    return tuple(sorted(common | {0, entries}))
