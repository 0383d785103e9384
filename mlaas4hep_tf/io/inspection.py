"""Opens ROOT files with uproot: which branches there are, where clusters begin and where the baskets lie.

It runs in reader processes, which never import TensorFlow: XRootD and TensorFlow cannot share a process
(both carry OpenSSL's symbols, and XRootD's TLS set-up binds to the wrong ones).
"""

from __future__ import annotations

import logging
import os
import re
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import uproot

from mlaas4hep_tf.errors import InputFileError, MlaasError, TreeError, near_misses, shorten
from mlaas4hep_tf.io import fields
from mlaas4hep_tf.io.basket_index import BranchBaskets, BranchIndex, FileIndex, build_index
from mlaas4hep_tf.io.baskets import plain_basket
from mlaas4hep_tf.io.branches import BranchInfo, Kind, Selection
from mlaas4hep_tf.io.files import RootFile, Source
from mlaas4hep_tf.io.page_index import PageIndex
from mlaas4hep_tf.io.policy import conditions
from mlaas4hep_tf.io.remote import RemoteSource, identity, place

_FINAL = re.compile("no such file|not found|permission denied|not authorized", re.IGNORECASE)  # no use to try again
_log = logging.getLogger(__name__)

_MAX_DESCRIBED = 10_000


class OpenTree:
    """A tree opened by uproot."""

    def __init__(self, source: Source) -> None:
        with blame(source.url):
            handler = {"handler": RemoteSource} if source.remote else {}
            self._file = uproot.open(source.location, object_cache=None, array_cache=None, **handler)
            self.name = _find_tree(self._file, source)
            self.tree = self._file[self.name]
        self.uuid = str(self._file.file.uuid)
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
            by_uproot: dict[str, str] = {}
            index: FileIndex | PageIndex
            if opened.is_rntuple:
                infos, entry_offsets, index = fields.survey(opened.tree, selection, also)
            else:
                infos, entry_offsets, index, by_uproot = _survey_ttree(opened.tree, selection, also)
    finally:
        opened.close()
    for name, why in by_uproot.items():
        _log.info("branch %r of %s is read by uproot: %s", name, source.url, why)
    return RootFile(source, opened.name, opened.uuid, opened.num_entries, entry_offsets, infos, index, stamp)


def file_stamp(source: Source) -> tuple[int, object]:
    """Size, and modification time of a local file or first bytes (with the uuid) of a remote one."""
    with blame(source.url):
        if source.remote:
            there = identity(source.url)
            return there.size, there.header
        status = os.stat(source.location)
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
        raise raised from error


def _may_pass(url: str, error: Exception) -> bool:
    """Whether a fault may be gone at the next try: of a server or a disk, or of one replica."""
    if len(conditions.get().policy.places(url)) > 1:
        return True
    if isinstance(error, (FileNotFoundError, PermissionError, IsADirectoryError)) or _FINAL.search(str(error)):
        return False
    return "://" in url or (isinstance(error, OSError) and error.errno is not None)


def _first_line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__


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


def _survey_ttree(
    tree: Any, selection: Selection, also: tuple[str, ...]
) -> tuple[tuple[BranchInfo, ...], tuple[int, ...], FileIndex, dict[str, str]]:
    """Schema, cluster entry offsets, baskets, and why uproot has to read a branch."""
    infos, entry_offsets, parts, by_uproot = [], [], [], {}
    for name, branch in tree.iteritems(recursive=True):
        if len(branch.branches):
            continue
        if name not in also and not selection.wants(name):
            infos.append(BranchInfo(name, "", "other", reason="not selected"))
            continue
        info, how = _describe(name, branch)
        infos.append(info)
        if info.kind == "other":
            continue
        entry_offsets.append(tuple(branch.entry_offsets))
        if isinstance(how, str):
            by_uproot[name] = how
        else:
            parts.append(_baskets(how, branch, entry_offsets[-1], int(tree.num_entries)))
    return tuple(infos), _common_offsets(entry_offsets, int(tree.num_entries)), build_index(parts), by_uproot


_described: dict[Hashable, tuple[BranchInfo, BranchIndex | str]] = {}


def _describe(name: str, branch: Any) -> tuple[BranchInfo, BranchIndex | str]:
    """What a TBranch is, and how our decoder reads it or why it does not.

    Descriptions of branches with one leaf are kept and used again for the same branch of other files: uproot's
    interpretation takes a third of the time of opening a file, and the files of a dataset are alike.
    """
    leaves = branch.member("fLeaves")
    if branch.classname != "TBranch" or len(leaves) != 1:
        return _describe_anew(name, branch)
    leaf = leaves[0]
    counter = leaf.member("fLeafCount")
    count = None if counter is None else str(counter.member("fName"))
    facts = (leaf.member(m) for m in ("fTitle", "fLen", "fLenType", "fIsUnsigned"))
    key = (name, leaf.classname, str(branch.member("fTitle")), count, *map(str, facts))
    if key not in _described:
        if len(_described) > _MAX_DESCRIBED:
            _described.clear()
        _described[key] = _describe_anew(name, branch)
    return _described[key]


def _describe_anew(name: str, branch: Any) -> tuple[BranchInfo, BranchIndex | str]:
    try:
        interpretation = branch.interpretation
        typename = branch.typename
    except Exception as error:  # noqa: BLE001 (uproot raises many kinds for types that it cannot interpret)
        why = f"not interpretable: {_first_line(error)}"
        return BranchInfo(name, "unknown", "other", reason=why), why
    kind, dtype, length, reason = _classify(interpretation)
    leaf = branch.member("fLeaves")[0].member("fLeafCount") if kind == "jagged" else None
    counter = None if leaf is None else str(leaf.member("fName"))
    return BranchInfo(name, typename, kind, dtype, counter, length, reason), _decoding(name, interpretation)


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
