"""Bytes of remote files, and packed events, in a local folder: blocks with checksums; those used longest ago go.

Each block is a file that is written under another name and renamed, so that any number of processes may use the
folder at a time without a lock.
"""

from __future__ import annotations

import errno
import itertools
import logging
import mmap
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

import xxhash

from mlaas4hep_tf.errors import ConfigError

DEFAULT_LIMIT = 20 << 30
KEPT = 0.9  # of the limit is left when old blocks are removed
_DIGEST = 16  # bytes of the checksum in front of a block
_FORGOTTEN_S = 3600.0  # age of a half-written block whose writer is dead
_log = logging.getLogger(__name__)
_numbers = itertools.count()
_written: dict[str, int] = {}  # bytes that this process wrote since it last checked the size of a folder
_told: dict[str, socket.socket] = {}  # faults of folders that this process has told, or leaves to another one
_used: ContextVar[list[Path] | None] = ContextVar("_used", default=None)


@contextmanager
def removed_on_error() -> Iterator[None]:
    """Remove the blocks that are used inside if it raises.

    What is wrong with them may have come over the line, before their checksum was taken; the next try, or the next
    run, asks the server for them.
    """
    used: list[Path] = []
    before = _used.set(used)
    try:
        yield
    except BaseException:
        for path in used:
            _remove(path)
        raise
    finally:
        _used.reset(before)


@dataclass(frozen=True)
class Cache:
    """A folder of blocks.

    Attributes:
        folder: where they lie; made if it is not there.
        limit_bytes: the blocks that were used longest ago go when all together are larger.

    Raises:
        ConfigError: a limit that is not positive, or a path that is no folder.
    """

    folder: str
    limit_bytes: int = DEFAULT_LIMIT

    def __post_init__(self) -> None:
        if self.limit_bytes <= 0:
            raise ConfigError(f"the limit of a cache must be more than 0 bytes, not {self.limit_bytes}")
        if os.path.exists(self.folder) and not os.path.isdir(self.folder):
            raise ConfigError(f"the cache must be a folder; {self.folder} is a file")

    def get(self, key: str) -> bytes | None:
        """The block of a key, or None where there is none, or one that is not what was written."""
        block = self._get(key, Path.read_bytes)
        return None if block is None else bytes(block)

    def mapped(self, key: str) -> memoryview | None:
        """The same as pages of its file, which are not copied."""
        return self._get(key, _mapped)

    def _get(self, key: str, read: Callable[[Path], bytes | mmap.mmap]) -> memoryview | None:
        path = self._use(key)
        try:
            content = memoryview(read(path))
            digest, block = content[:_DIGEST], content[_DIGEST:]
            if xxhash.xxh3_128_digest(block) != digest:
                self._tell("damaged", f"blocks of the cache {self.folder} are damaged, so they are read anew: {path}")
                path.unlink(missing_ok=True)
                return None
            os.utime(path)
        except FileNotFoundError:
            return None
        except OSError as error:
            self._tell_unusable(error)
            return None
        return block

    def put(self, key: str, block: bytes) -> None:
        """Keep a block; a disk that is full gives one warning."""
        path = self._use(key)
        beside = path.with_name(f".{os.getpid()}-{next(_numbers)}.part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            beside.write_bytes(xxhash.xxh3_128_digest(block) + block)
            beside.replace(path)
        except OSError as error:
            self._tell_unusable(error)
            _remove(beside)
        self._count(len(block))

    def _use(self, key: str) -> Path:
        path = self._path(key)
        if (used := _used.get()) is not None:
            used.append(path)
        return path

    def _path(self, key: str) -> Path:
        name = xxhash.xxh3_128_hexdigest(key.encode())
        return Path(self.folder, name[:2], name)

    def _tell_unusable(self, error: OSError) -> None:
        self._tell(
            "unusable",
            f"cannot use the cache {self.folder}, so what it lacks is read from the server each time: {error}; "
            "make room there, or take another folder",
        )

    def _tell(self, kind: str, text: str) -> None:
        """Log a fault of the folder, such as a full disk: one line, however often and in however many processes."""
        if _first_to_tell(f"{kind} {self.folder}"):
            _log.warning("%s", text)

    def _count(self, size: int) -> None:
        """Check the folder's size at the first block and after every 1/32 of the limit that this process writes."""
        written = _written.get(self.folder, self.limit_bytes) + size
        if written > self.limit_bytes // 32:
            self.evict()
            written = 0
        _written[self.folder] = written

    def evict(self) -> None:
        """Remove half-written blocks of dead processes and, over the limit, the blocks used longest ago."""
        blocks = sorted(_blocks(self.folder))
        total = sum(size for _, size, _ in blocks)
        if total > self.limit_bytes:
            for _, size, path in blocks:
                if total <= KEPT * self.limit_bytes:
                    break
                _remove(path)
                total -= size


def _mapped(path: Path) -> bytes | mmap.mmap:
    with path.open("rb") as file:
        empty = not os.fstat(file.fileno()).st_size
        return b"" if empty else mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _first_to_tell(fault: str) -> bool:
    """Whether nobody told of this fault of a folder: neither this process nor another one that still runs."""
    if fault in _told:
        return False
    teller = _told[fault] = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)  # open until this process ends
    name = f"\0mlaas4hep-cache-{os.getuid()}-{xxhash.xxh3_128_hexdigest(os.fsencode(fault))}"
    try:
        teller.bind(name)  # a name that is no file, and that one process has at a time
    except OSError as error:
        return error.errno != errno.EADDRINUSE
    return True


def _blocks(folder: str) -> Iterator[tuple[float, int, Path]]:
    """Time of last use, size and path of every block."""
    for path in Path(folder).glob("??/*"):
        try:
            status = path.stat()
        except FileNotFoundError:
            continue  # another process threw it out
        if path.name.endswith(".part"):
            if time.time() - status.st_mtime > _FORGOTTEN_S:
                _remove(path)
        else:
            yield status.st_mtime, status.st_size, path


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        _log.info("cannot remove a block of the cache: %s", error)


CacheFolder = Cache | str | os.PathLike[str] | None


def as_cache(given: CacheFolder) -> Cache | None:
    """A cache as users name it: a folder, a `Cache`, or None."""
    return given if given is None or isinstance(given, Cache) else Cache(os.path.abspath(os.path.expanduser(given)))
