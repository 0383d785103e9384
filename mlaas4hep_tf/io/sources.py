"""uproot's way to the bytes of files: those of this machine by their descriptor, others by `remote`.

uproot's own way is fsspec, to which a name with ``::`` means a file within a file.
"""

from __future__ import annotations

import os
import queue
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any

import uproot

Range = tuple[int, int]  # seek, size
_HEADER = 100  # bytes in front of the first record (ROOT's TFile, fBEGIN)


class _Source(uproot.source.chunk.Source):  # type: ignore[misc]  # uproot has no type information
    """A file that is asked for several ranges at a time, and never for what is behind its end."""

    def __init__(self, file_path: str, size: int) -> None:
        super().__init__()
        if size < _HEADER:
            raise ValueError(f"not a ROOT file: it has {size} bytes, and the header of one alone takes {_HEADER}")
        self._file_path = file_path
        self._num_bytes = size
        self._closed = False

    @property
    def closed(self) -> bool:
        return self._closed

    def __enter__(self) -> _Source:
        return self

    def __exit__(self, *_: object) -> None:
        self._closed = True

    @abstractmethod
    def _read(self, ranges: Sequence[Range]) -> list[bytes]:
        """The bytes of each (seek, size)."""

    def chunk(self, start: int, stop: int) -> Any:
        return self._chunks([(start, stop)])[0]

    def chunks(self, ranges: Iterable[tuple[int, int]], notifications: queue.Queue[Any]) -> list[Any]:
        chunks = self._chunks(list(ranges))
        for chunk in chunks:
            notifications.put(chunk)
        return chunks

    def _chunks(self, ranges: Sequence[tuple[int, int]]) -> list[Any]:
        behind = next((start for start, _ in ranges if start > self._num_bytes), None)
        if behind is not None:
            raise ValueError(f"the file ends early: it has {self._num_bytes} bytes, and more lies at position {behind}")
        ends = [min(stop, self._num_bytes) for _, stop in ranges]
        spans = [(start, end - start) for (start, _), end in zip(ranges, ends, strict=True)]
        return [
            uproot.source.chunk.Chunk.wrap(self, raw, start)
            for (start, _), raw in zip(spans, self._read(spans), strict=True)
        ]


class RemoteSource(_Source):
    """A file of a server, read by `remote.read_ranges`; imported here alone, as its libraries take a while."""

    def __init__(self, file_path: str, **_: Any) -> None:
        from mlaas4hep_tf.io.remote import identity

        super().__init__(file_path, identity(file_path).size)

    def _read(self, ranges: Sequence[Range]) -> list[bytes]:
        from mlaas4hep_tf.io.remote import read_ranges

        return read_ranges(self._file_path, ranges)


class LocalSource(_Source):
    """A file of this machine, kept open, so that it stays the same if another one takes its name."""

    def __init__(self, file_path: str, **_: Any) -> None:
        self._file = open(file_path, "rb", buffering=0)  # noqa: SIM115 (closed by uproot, in __exit__)
        super().__init__(file_path, os.fstat(self._file.fileno()).st_size)

    def __exit__(self, *_: object) -> None:
        super().__exit__()
        self._file.close()

    def _read(self, ranges: Sequence[Range]) -> list[bytes]:
        return [os.pread(self._file.fileno(), size, seek) for seek, size in ranges]
