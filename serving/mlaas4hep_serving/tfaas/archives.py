"""Unpacking archives of strangers: plain files and folders only, inside the target, within caps."""

from __future__ import annotations

import os
import tarfile
import zlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from mlaas4hep_serving.errors import Code, ServingError, invalid_argument

_CHUNK = 1 << 16
_GZIP = b"\x1f\x8b"
_LONGEST = 255  # bytes of a part of a name
_DEEPEST = 16  # folders inside each other


@dataclass(frozen=True)
class Caps:
    """What an archive may become: files and folders, bytes, and bytes for each byte of the archive."""

    members: int = 1000
    size: int = 2 << 30
    ratio: int = 100


def unpack(archive: bytes, target: Path, caps: Caps) -> None:
    """Unpack a tar or tar.gz into the empty folder ``target``.

    Raises:
        ServingError: INVALID_ARGUMENT, no archive, or a member that is a link, a device, outside the target, or named
            twice; RESOURCE_EXHAUSTED, one that exceeds the caps.
    """
    limit = min(caps.size, len(archive) * caps.ratio + (1 << 20))
    reader = _Inflated(archive, limit) if archive.startswith(_GZIP) else _Plain(archive)
    left, seen = limit, set[PurePosixPath]()
    try:
        with tarfile.open(fileobj=reader, mode="r|", errorlevel=2) as tar:  # type: ignore[call-overload]
            for count, member in enumerate(tar, 1):
                if count > caps.members:
                    raise _exhausted(f"archive has more than {caps.members} members")
                name = _checked(member)
                if name in seen:
                    raise invalid_argument(f"archive has two members named {_shown(member.name)}")
                seen.add(name)
                left -= _write(tar, member, target / name, left)
    except (tarfile.TarError, zlib.error, EOFError, ValueError) as error:
        raise invalid_argument(f"archive is no tar or tar.gz, or is damaged: {error}") from None
    except OSError as error:  # a file where another member needs a folder, a full disk
        raise invalid_argument(f"archive cannot be unpacked: {error.strerror}") from None


def _checked(member: tarfile.TarInfo) -> PurePosixPath:
    """The name of a member that may be unpacked."""
    shown = _shown(member.name)
    if not (member.isdir() or member.isreg()) or member.issparse():
        raise invalid_argument(f"archive member {shown} is neither a plain file nor a folder")
    if not member.name.isprintable() or "\\" in member.name:
        raise invalid_argument(f"archive member {shown} has a name with odd characters")
    name = PurePosixPath(member.name)
    if name.is_absolute() or ".." in name.parts:
        raise invalid_argument(f"archive member {shown} lies outside the archive")
    if len(name.parts) > _DEEPEST or any(len(part.encode()) > _LONGEST for part in name.parts):
        raise invalid_argument(f"archive member {shown} has too long a name")
    return name


def _write(tar: tarfile.TarFile, member: tarfile.TarInfo, path: Path, left: int) -> int:
    if member.isdir():
        path.mkdir(parents=True, exist_ok=True)
        return 0
    if member.size > left:
        raise _exhausted("archive unpacks to more than the caps of size and ratio allow")
    path.parent.mkdir(parents=True, exist_ok=True)
    source = tar.extractfile(member)
    assert source is not None
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644), "wb") as file:
        _copy(source, file)
    return member.size


def _copy(source: IO[bytes], file: IO[bytes]) -> None:
    while chunk := source.read(_CHUNK):
        file.write(chunk)


class _Plain:
    """The bytes of a tar as a stream."""

    def __init__(self, archive: bytes) -> None:
        self._archive, self._at = memoryview(archive), 0

    def read(self, size: int) -> bytes:
        """The next bytes."""
        part = bytes(self._archive[self._at : self._at + size])
        self._at += len(part)
        return part


class _Inflated:
    """The bytes of a gzipped tar as a stream; more than ``limit`` of them are refused, headers included."""

    def __init__(self, archive: bytes, limit: int) -> None:
        self._source, self._inflater, self._limit = _Plain(archive), zlib.decompressobj(wbits=31), limit

    def read(self, size: int) -> bytes:
        """The next bytes."""
        parts, wanted = [], size
        while wanted and not self._inflater.eof:
            given = self._inflater.unconsumed_tail or self._source.read(_CHUNK)
            part = self._inflater.decompress(given, wanted)
            if not part and not given:
                raise EOFError("the gzip stream is cut off")
            parts.append(part)
            wanted -= len(part)
        self._limit -= size - wanted
        if self._limit < 0:
            raise _exhausted("archive unpacks to more than the caps of size and ratio allow")
        return b"".join(parts)


def _shown(name: str) -> str:
    return repr(name if len(name) <= 100 else name[:100] + "...")


def _exhausted(message: str) -> ServingError:
    return ServingError(Code.RESOURCE_EXHAUSTED, message)
