"""Which files: paths, patterns, folders, lists of names and URLs become `Source`s, one per file."""

from __future__ import annotations

import glob
import json
import os
import re
import stat
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from hashlib import sha256
from pathlib import Path
from typing import Any

from mlaas4hep_tf.errors import InputFileError, near_misses
from mlaas4hep_tf.io.basket_index import NO_INDEX, Array, BranchIndex, FileIndex
from mlaas4hep_tf.io.branches import BranchInfo, Selection
from mlaas4hep_tf.io.page_index import PageIndex

FileArgument = str | os.PathLike[str] | Iterable[str | os.PathLike[str]] | Mapping[str, Any]

_LISTS = (".txt", ".list")
_URL = re.compile(r"^[a-z][a-z0-9+.-]*://", re.IGNORECASE)
_WITH_TREE = re.compile(r"^(?P<path>.*\.root(?:\.\d+)?):/?(?P<tree>[^/\\].*)$", re.IGNORECASE)
_NO_FILES = {
    stat.S_ISFIFO: "FIFO", stat.S_ISDIR: "folder", stat.S_ISSOCK: "socket", stat.S_ISCHR: "device",
    stat.S_ISBLK: "device",
}  # fmt: skip


@dataclass(frozen=True)
class Source:
    """A file by its local path or URL, and the tree that was named with it (``file.root:tree``).

    A relative path is relative to `folder`, the working directory when it was named; reader processes may have
    another one.  `dataset` is the name that a fileset gives to files that belong together, and `friends` are the trees
    that have more branches of the same events.
    """

    url: str
    tree: str | None = None
    dataset: str = ""
    folder: str = field(default_factory=os.getcwd, compare=False)
    friends: tuple[Friend, ...] = ()

    @property
    def remote(self) -> bool:
        return bool(_URL.match(self.url))

    @property
    def listing(self) -> bool:
        """Whether a server has to say which files it stands for: a URL with a pattern, or of a folder (``.../``)."""
        path = self.url.partition("?")[0]
        return self.remote and (path.endswith("/") or any(c in path for c in "*["))

    @property
    def location(self) -> str:
        """URL or absolute path."""
        return self.url if self.remote else os.path.join(self.folder, self.url)


@dataclass(frozen=True)
class Friend:
    """A tree beside another, with more branches of the same events; here they are called ``<name>.<branch>``.

    Attributes:
        name: what it is called.
        source: where it lies.
        identifiers: branches that tell which entries belong together, where both trees have them; else the n-th do.
    """

    name: str
    source: Source
    identifiers: tuple[str, ...] = ()

    @property
    def prefix(self) -> str:
        """What the names of its branches begin with."""
        return f"{self.name}."


@dataclass(frozen=True)
class Alike:
    """What the files of a table have in common.

    Attributes:
        name: a digest of it.
        selection, also: what to look at (`inspection.inspect`).
        branches: those of the first file, of which others have the features too.
        indexed: those of which `Unopened.baskets` tells, as they are stored.
    """

    name: str
    selection: Selection = field(compare=False)
    also: tuple[str, ...] = field(compare=False)
    branches: tuple[BranchInfo, ...] = field(compare=False)
    indexed: tuple[BranchIndex, ...] = field(compare=False)

    @classmethod
    def of(cls, *facts: Any) -> Alike:
        return cls(sha256(repr(facts).encode()).hexdigest()[:16], *facts)


NOTHING_ALIKE = Alike("", Selection(), (), (), ())


@dataclass(frozen=True)
class Unopened:
    """How to open a file that was scanned, and what to find there.

    Attributes:
        alike: what it has in common with others.
        size, stamp: as they were, with the uuid and entries of the `RootFile`; ``stamp`` is `RootFile.stamp_text`.
        friends: name -> uuid.
        baskets: where its baskets lie (`basket_text`): then the tree need not be parsed; else empty.
    """

    alike: Alike
    size: int
    stamp: str
    friends: tuple[tuple[str, str], ...] = ()
    baskets: str = ""


@dataclass(frozen=True)
class RootFile:
    """What one opening of a file tells: all that planning needs, before any event is read.

    Attributes:
        source: where it lies.
        tree: name of the TTree or RNTuple.
        uuid: the file's own UUID, as text.
        num_entries: of the tree, one an event.
        entry_offsets: entries at which all branches, or else most, start a new basket: the bounds of the clusters,
            from 0 to `num_entries`.
        branches: every branch with its kind, those of friends too; those that were not selected are of kind ``other``.
        index: where the baskets or pages of the selected branches lie.
        stamp: size, and modification time or first bytes, to notice that it was replaced (`inspection.file_stamp`).
        notes: what a user should be told of the file.
        unread: friends that nobody asked to read, which may have what was asked for and is not in this tree.
        friends: the trees beside it that are read as a part of it.
        unopened: where it was not opened since it was scanned: then there is no index, and the reader that first needs
            it opens it.
    """

    source: Source
    tree: str
    uuid: str
    num_entries: int
    entry_offsets: tuple[int, ...]
    branches: tuple[BranchInfo, ...]
    index: FileIndex | PageIndex = NO_INDEX
    stamp: tuple[int, object] = (0, None)
    notes: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()
    friends: tuple[FriendFile, ...] = ()
    unopened: Unopened | None = None

    @property
    def url(self) -> str:
        """The path or URL as the user named it."""
        return self.source.url

    @property
    def stamp_text(self) -> str:
        """What tells besides the size that it was replaced, as text."""
        return stamp_text(self.stamp[1])

    @property
    def names(self) -> tuple[str, ...]:
        """What it may be called in labels (`names_of`)."""
        return names_of(self.url, self.tree, self.source.dataset)

    @property
    def where(self) -> str:
        unread = f" (its friends are not read: {', '.join(self.unread)})" if self.unread else ""
        return f"file {self.url}, tree {self.tree}{unread}"

    def part(self, names: Iterable[str], start: int, stop: int) -> RootFile:
        """What a reader process needs to be told to read these branches and entries."""
        wanted = set(names)
        branches = tuple(info for info in self.branches if info.name in wanted)
        friends = tuple(friend.part(wanted, start, stop) for friend in self.friends)
        index = self.index.part(wanted, start, stop)
        return replace(self, entry_offsets=(), branches=branches, index=index, friends=friends)

    def bare(self, unopened: Unopened) -> RootFile:
        """The same without what it has in common with others, which a reader process is told once (`with_alike`)."""
        return replace(self, entry_offsets=(), branches=(), unopened=replace(unopened, alike=NOTHING_ALIKE))

    def with_alike(self, alike: Alike) -> RootFile:
        """The whole of what was `bare`; itself if it is open."""
        if self.unopened is None:
            return self
        return replace(self, branches=alike.branches, unopened=replace(self.unopened, alike=alike))


def stamp_text(what: object) -> str:
    """A modification time in ns, or a digest of a file's first bytes."""
    return sha256(what).hexdigest()[:16] if isinstance(what, bytes) else str(what)


@dataclass(frozen=True, eq=False)
class FriendFile:
    """An opened friend, whose entries are events of the tree beside it.

    Attributes:
        friend: which one it is.
        file: what opening it told, with the names that its branches have there.
        rows: its entry for each entry of the other tree from `first` on, int64; None: the n-th ones belong together.
        first: entry of the other tree.
    """

    friend: Friend
    file: RootFile
    rows: Array | None = None
    first: int = 0

    def own(self, names: Iterable[str]) -> list[str]:
        """Those of some branches that lie in it, as they are called there."""
        prefix = self.friend.prefix
        return [name.removeprefix(prefix) for name in names if name.startswith(prefix)]

    def part(self, names: Iterable[str], start: int, stop: int) -> FriendFile:
        """What a reader process needs to be told to read these branches of these entries of the other tree."""
        own = self.own(names)
        if self.rows is None:
            return replace(self, file=self.file.part(own, start, stop))
        rows = self.rows[start - self.first : stop - self.first]
        low, high = (int(rows.min()), int(rows.max()) + 1) if len(rows) and own else (0, 0)
        return replace(self, file=self.file.part(own, low, high), rows=rows, first=start)


def expand(files: FileArgument, tree: str | None = None) -> tuple[Source, ...]:
    """Resolve what the user named to single files, in the order given (patterns and folders sorted by name).

    Args:
        files: one or several of: a path, a glob pattern, a folder (its ``*.root`` files), a text file of
            names (``.txt`` or ``.list``: one a line or separated by commas, ``#`` comments; or what Rucio and DAS
            print), a fileset of coffea (``.json``, or the dict itself), ``file.root:tree``,
            ``root://`` and ``http(s)://`` URLs; those with a pattern, or of a folder and with ``/`` at the end, are
            left as they are for the server to say what is there (`Source.listing`).
        tree: the tree of files that name none themselves.

    Raises:
        InputFileError: a path or pattern that matches nothing, or a file that is named twice.
    """
    given: list[Any] = [files] if isinstance(files, str | os.PathLike | Mapping) else list(files)
    if not given:
        raise InputFileError("no input files: the list of files is empty; name at least one ROOT file")
    origin: dict[str, Any] = {}
    sources = []
    for text in [path if isinstance(path, Mapping) else os.fspath(path) for path in given]:
        for source in from_fileset(text) if isinstance(text, Mapping) else _expand_one(text):
            source = replace(source, tree=source.tree or (tree and tree.lstrip("/")))
            identity = source.url if source.remote else os.path.realpath(source.url)
            identity += f":{source.tree}"
            if identity in origin:
                raise InputFileError(
                    f"a file may be named once only, or its events would be read twice: {source.url} "
                    f"comes from {origin[identity]!r} and from {text!r}; take it out of one of them"
                )
            origin[identity] = text
            sources.append(source)
    return tuple(sources)


def _expand_one(text: str) -> list[Source]:
    path, tree = (text, None) if os.path.exists(os.path.expanduser(text)) else _split_tree(text)
    if _URL.match(path):
        return [Source(path, tree)]
    path = os.path.expanduser(path)
    if os.path.isdir(path):
        _check_listing(path)
        found = sorted(glob.glob(os.path.join(glob.escape(path), "*.root")))
        return _found(found, tree, f"folder {path} holds no *.root file")
    if Path(path).suffix in _LISTS and os.path.isfile(path):
        return _from_list(path)
    if Path(path).suffix == ".json" and os.path.isfile(path):
        return _from_json(path)
    if _is_there(path):
        return [Source(path, tree)]
    if glob.has_magic(path):
        _check_listing(os.path.dirname(path.partition("*")[0].partition("?")[0].partition("[")[0]))
        return _found(sorted(glob.glob(path, recursive=True)), tree, f"pattern {path!r} matches no file")
    raise InputFileError(f"no such file: {path}{_similar_files(path)}; check the path")


def _check_listing(folder: str) -> None:
    """Raise InputFileError if there is no permission to list a folder: `glob` would say that nothing is in there."""
    try:
        os.scandir(folder or ".").close()
    except PermissionError as error:
        raise InputFileError(f"no permission to list folder {folder} ({error.strerror}); ask its owner") from error
    except OSError:
        return  # nothing matches, which the caller says


def _is_there(path: str) -> bool:
    """Whether there is such a file; raises InputFileError for what cannot be one, or cannot be looked for."""
    try:
        file_status(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise InputFileError(f"cannot look for file {path}: {error.strerror}; check the path") from error
    return True


def file_status(path: str) -> os.stat_result:
    """What the system says of a file on this machine.

    Raises:
        InputFileError: it is a FIFO, a device or a folder, from which nobody reads parts, or a link to nothing.
        OSError: there is none, or no permission to look for it.
    """
    try:
        status = os.stat(path)
    except FileNotFoundError:
        if not os.path.islink(path):
            raise
        raise InputFileError(
            f"{path} is a symbolic link to {os.readlink(path)}, which is not there; restore that or remove the link"
        ) from None
    if not stat.S_ISREG(status.st_mode):
        kind = next(kind for is_kind, kind in _NO_FILES.items() if is_kind(status.st_mode))
        raise InputFileError(f"a ROOT file is an ordinary file, from which parts can be read; {path} is a {kind}")
    return status


def _found(paths: Sequence[str], tree: str | None, nothing: str) -> list[Source]:
    if not paths:
        raise InputFileError(f"{nothing} (working directory {os.getcwd()}); check the path")
    return [Source(p, tree) for p in paths]


def _from_list(path: str) -> list[Source]:
    names = names_in([path])
    if not names:
        raise InputFileError(f"the list of files {path} names no file")
    return [source for name in names for source in _expand_one(name)]


def _from_json(path: str) -> list[Source]:
    try:
        content = json.loads(Path(path).read_text())
    except ValueError as error:
        raise InputFileError(f"{path} is no fileset, which is JSON: {error}") from error
    if not isinstance(content, dict):
        raise InputFileError(f"a fileset is an object {{dataset: {{files: ...}}}}, and {path} holds another thing")
    return from_fileset(content)


def from_fileset(fileset: Mapping[str, Any]) -> list[Source]:
    """The files of a fileset as coffea has them: ``{dataset: {"files": {url: tree, ...}, "metadata": ...}}``.

    Instead of the name of a tree there may be what coffea's ``preprocess`` found of the file (``object_path`` and
    others), and ``files`` may be a list.  The name of a dataset is one that labels may be given for.

    Raises:
        InputFileError: something else, or steps that leave entries out.
    """
    found: list[Source] = []
    for dataset, content in fileset.items():
        files = content.get("files") if isinstance(content, Mapping) else content
        if not isinstance(files, Mapping | Sequence) or isinstance(files, str) or not files:
            raise InputFileError(
                f"a fileset is {{dataset: {{'files': {{url: tree}}}}}}; dataset {dataset!r} has no files"
            )
        trees = files.items() if isinstance(files, Mapping) else ((url, None) for url in files)
        for url, told in trees:
            tree = _fileset_tree(url, told) if isinstance(told, Mapping) else told
            found += (replace(one, tree=one.tree or tree, dataset=dataset) for one in _expand_one(url))
    return found


def _fileset_tree(url: str, told: Mapping[str, Any]) -> str | None:
    steps, entries = told.get("steps"), told.get("num_entries")
    if steps and entries is not None and sum(stop - start for start, stop in steps) < entries:
        raise InputFileError(
            f"files are read as a whole, and the steps of {url} in this fileset leave entries out: take the fileset "
            "before its chunks were chosen"
        )
    return told.get("object_path")


def names_in(files: Iterable[str]) -> list[str]:
    """The names given, with the content of text files in their place."""
    names = []
    for file in files:
        if Path(file).suffix not in _LISTS or not os.path.isfile(file):
            names.append(file)
            continue
        names += listed_names(Path(file).read_text())
    return names


def listed_names(text: str) -> list[str]:
    """The names in a list of files: one a line or separated by commas, or a table that Rucio prints.

    Of a table the first URL of each file counts; the others are replicas of it.
    """
    lines = text.splitlines()
    if any(line.startswith("+--") for line in lines):
        rows = [[cell.strip() for cell in line.strip("| ").split("|")] for line in lines if line.startswith("|")]
        urls = [(tuple(row[:2]), word) for row in rows for cell in row for word in cell.split() if _URL.match(word)]
        return list(dict(reversed(urls)).values())[::-1]
    plain = (line.partition("#")[0] for line in lines)
    return [name.strip() for line in plain for name in line.split(",") if name.strip()]


def locate(files: Iterable[str], redirector: str) -> list[str]:
    """The redirector (``root://host``) in front of logical file names, ``/store/...``; others as they are.

    Raises:
        InputFileError: a redirector that is no URL.
    """
    if not redirector:
        return list(files)
    if not _URL.match(redirector):
        raise InputFileError(f"a redirector is a URL such as root://xrootd.example.org, not {redirector!r}")
    return [f"{redirector.rstrip('/')}/{name}" if name.startswith("/store/") else name for name in names_in(files)]


def _split_tree(text: str) -> tuple[str, str | None]:
    match = _WITH_TREE.match(text)
    return (match["path"], match["tree"]) if match else (text, None)


def _similar_files(path: str) -> str:
    folder = os.path.dirname(path) or "."
    if not os.path.isdir(folder):
        return f" (there is no folder {folder})"
    return near_misses(os.path.basename(path), os.listdir(folder))


def place_of(url: str) -> str:
    """A URL, or the path of a local file without links: equal for two names of one file."""
    return url if _URL.match(url) else os.path.realpath(os.path.expanduser(url))


def names_of(url: str, tree: str | None = None, dataset: str = "") -> tuple[str, ...]:
    """What a file may be called (as in ``labels={"*signal*": 1}``), each with and without ``:tree``.

    These are its path or URL, the same without a query, the last part of that, and the dataset of its fileset.
    """
    plain = url.partition("?")[0] if _URL.match(url) else url
    names = tuple(dict.fromkeys([url, plain, plain.rsplit("/", 1)[-1], *filter(None, [dataset])]))
    return names + (tuple(f"{name}:{tree}" for name in names) if tree else ())


def meant_files(pattern: str, names: Sequence[tuple[str, ...]]) -> frozenset[int]:
    """Which files a pattern means, given the `names_of` each: those called so, or else those it matches."""
    called = frozenset(number for number, own in enumerate(names) if pattern in own)
    return called or frozenset(n for n, own in enumerate(names) if any(fnmatchcase(name, pattern) for name in own))
