"""Bytes of remote files in a local folder, as blocks with checksums; the blocks used longest ago are removed.

Each block is a file that is written under another name and renamed, so that any number of processes may use the
folder at a time without a lock.
"""

from __future__ import annotations

import itertools
import logging
import os
import time
from collections.abc import Iterator
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
        path = self._path(key)
        try:
            content = path.read_bytes()
            digest, block = content[:_DIGEST], content[_DIGEST:]
            if xxhash.xxh3_128_digest(block) != digest:
                _log.warning("a block of the cache is damaged and thrown away: %s", path)
                path.unlink(missing_ok=True)
                return None
            os.utime(path)
        except FileNotFoundError:
            return None
        except OSError as error:
            _log.warning("cannot read from the cache: %s", error)
            return None
        return block

    def put(self, key: str, block: bytes) -> None:
        """Keep a block; a disk that is full gives a warning."""
        path = self._path(key)
        beside = path.with_name(f".{os.getpid()}-{next(_numbers)}.part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            beside.write_bytes(xxhash.xxh3_128_digest(block) + block)
            beside.replace(path)
        except OSError as error:
            _log.warning("cannot write to the cache, so these bytes are read from the server each time: %s", error)
            _remove(beside)
        self._count(len(block))

    def _path(self, key: str) -> Path:
        name = xxhash.xxh3_128_hexdigest(key.encode())
        return Path(self.folder, name[:2], name)

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
        _log.warning("cannot remove a block of the cache: %s", error)


CacheFolder = Cache | str | os.PathLike[str] | None


def as_cache(given: CacheFolder) -> Cache | None:
    """A cache as users name it: a folder, a `Cache`, or None."""
    return given if given is None or isinstance(given, Cache) else Cache(os.path.abspath(os.path.expanduser(given)))
