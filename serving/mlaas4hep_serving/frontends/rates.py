"""Rates of clients: `Rates`, token buckets, which the processes of one server share."""

from __future__ import annotations

import fcntl
import hashlib
import mmap
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_WAYS, _SETS = 8, 2048  # places that a client's bucket may have, and how many such sets there are
_BUCKET = struct.Struct("=16sdd")  # digest of the client, level, when


class Rates:
    """A token bucket per client: ``rate`` requests (or bytes) a second, twice as many at once.

    The buckets of some 16 000 clients are remembered; of those that share a set the one longest unused is forgotten.

    Args:
        file: where the buckets are, for all processes of one server; None keeps them in this process.
        clock: seconds, the same in all processes.
    """

    def __init__(self, rate: float, file: Path | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._clock = rate, clock
        self._lock, self._file = threading.Lock(), file.open("a+b") if file else None
        size = _BUCKET.size * _WAYS * _SETS
        if self._file is not None:
            self._file.truncate(size)
        self._buckets = mmap.mmap(self._file.fileno() if self._file else -1, size)

    def take(self, client: str, cost: float = 1) -> float:
        """Take one, and owe what it costs beyond; 0.0, or the seconds to wait until there is one."""
        digest = hashlib.blake2b(client.encode("utf-8", "replace"), digest_size=16).digest()
        with self._alone():
            now, most = self._clock(), max(1.0, 2 * self._rate)
            at, level, when = self._bucket(digest, most, now)
            level = min(most, level + (now - when) * self._rate)
            wait = 0.0 if level >= 1 else (1 - level) / self._rate
            _BUCKET.pack_into(self._buckets, at, digest, level if wait else level - cost, now)
            return wait

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """No other thread, and no other process, looks at the buckets."""
        with self._lock:
            if self._file is not None:
                fcntl.flock(self._file, fcntl.LOCK_EX)
            try:
                yield
            finally:
                if self._file is not None:
                    fcntl.flock(self._file, fcntl.LOCK_UN)

    def _bucket(self, digest: bytes, most: float, now: float) -> tuple[int, float, float]:
        """Where a client's bucket is, its level and since when; of a new one, the place longest unused."""
        first = int.from_bytes(digest[:2], "little") % _SETS * _WAYS * _BUCKET.size
        ways = list(_BUCKET.iter_unpack(self._buckets[first : first + _WAYS * _BUCKET.size]))
        for way, (known, level, when) in enumerate(ways):
            if known == digest:
                return first + way * _BUCKET.size, level, when
        oldest = min(range(_WAYS), key=lambda way: ways[way][2])
        return first + oldest * _BUCKET.size, most, now
