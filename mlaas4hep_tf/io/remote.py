"""The bytes of remote files: many ranges in one request, each with a deadline, from the cache where there is one.

It runs in reader processes.  Deadlines, replicas, credentials and the cache come from `policy.conditions`.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import fsspec

from mlaas4hep_tf.errors import InputFileError
from mlaas4hep_tf.io.cache import Cache
from mlaas4hep_tf.io.header import HEADER, uuid_in
from mlaas4hep_tf.io.http import HttpFiles
from mlaas4hep_tf.io.policy import conditions, place

Range = tuple[int, int]  # seek, size

BLOCK = 1 << 18  # bytes of a block of the cache
TRUST_S = 10.0  # seconds until it is asked again whether a file is still the same
_AT_A_TIME = 16  # requests under way to a server that takes one range per request


@dataclass(frozen=True)
class Identity:
    """What differs if a file is replaced by another one of the same name.

    Attributes:
        size: in bytes.
        version: time of the last change, or the server's tag for the content; empty if the server has neither.
        header: the first bytes, which hold the uuid.
    """

    size: int
    version: str
    header: bytes

    @property
    def name(self) -> str:
        """The same for all copies of a file and no other; empty where it has no uuid, as reproducible ones."""
        return f"{self.size} {self.header.hex()}" if any(uuid_in(self.header)) else ""


_filesystems: dict[tuple[str, ...], Any] = {}
_identities: dict[str, tuple[float, Identity]] = {}
_failures: Counter[str] = Counter()  # of requests to a server


def forget(url: str) -> None:
    """Close what is open to the server of a URL, so that the next attempt begins anew."""
    _failures[_server(place(url))] += 1
    for key in [key for key in _filesystems if key[0] == _server(place(url))]:
        del _filesystems[key]
    _identities.pop(place(url), None)


def filesystem(url: str) -> tuple[Any, str]:
    """The file system of a URL's server, and the path in it."""
    timeout = conditions.get().policy.request_timeout_s
    options, token = _options(url, timeout)
    key = (_server(url), str(timeout), token)
    if url.startswith("http"):
        if key not in _filesystems:
            _filesystems[key] = HttpFiles(skip_instance_cache=True, **options)
        return _filesystems[key], url
    if key not in _filesystems:
        address = _on_a_new_connection(url, _failures[_server(url)])
        _filesystems[key] = fsspec.core.url_to_fs(address, skip_instance_cache=True, **options)[0]
    return _filesystems[key], str(fsspec.core.strip_protocol(url))


def _on_a_new_connection(url: str, failures: int) -> str:
    """The URL with a user of its own after a failure, where it names none.

    XRootD's client shares one connection between all requests of a user to a server and keeps one that has stalled for
    longer than the requests on it last; who the user is, is told by credentials and not by this name.
    """
    scheme, rest = url.split("://", 1)
    return f"{scheme}://again{failures % 1000}@{rest}" if failures and "@" not in rest.split("/")[0] else url


def _server(url: str) -> str:
    return "/".join(url.split("/")[:3])


def _options(url: str, timeout: float) -> tuple[dict[str, Any], str]:
    """What fsspec needs to know besides the address, and the bearer token in it."""
    if url.startswith("root"):
        return {"timeout": max(1, round(timeout))}, ""
    client: dict[str, Any] = {"timeout": aiohttp.ClientTimeout(total=None, sock_connect=timeout, sock_read=timeout)}
    token = bearer_token(os.environ) if url.startswith("https") or urlsplit(url).hostname == "127.0.0.1" else ""
    if token:
        client["headers"] = {"Authorization": f"Bearer {token}"}
    return {"client_kwargs": client}, token


def bearer_token(environment: Any) -> str:
    """The token of ``BEARER_TOKEN`` or of the file ``BEARER_TOKEN_FILE`` (WLCG bearer token discovery), or nothing."""
    token = environment.get("BEARER_TOKEN", "")
    if not token and (path := environment.get("BEARER_TOKEN_FILE", "")):
        token = Path(path).read_text()
    return str(token).strip()


def identity(url: str) -> Identity:
    """Which file there is now; asked again when the answer is older than `TRUST_S`.

    Raises:
        OSError: there is none, or the server does not answer.
        InputFileError: it is a folder or the like, or its server gives no parts of it.
    """
    known = _identities.get(place(url))
    if known is None or time.monotonic() - known[0] > TRUST_S:
        try:
            known = _identities[place(url)] = (time.monotonic(), _ask_identity(place(url)))
        except BaseException:
            forget(url)
            raise
    return known[1]


def _ask_identity(address: str) -> Identity:
    fs, path = filesystem(address)
    seconds = 2 * conditions.get().policy.request_timeout_s
    if isinstance(fs, HttpFiles):
        start = fs.part(path, 0, HEADER, seconds)
        return Identity(_known(start.size), start.version, start.content)
    fs.invalidate_cache()
    info = fs.info(path, timeout=seconds)
    if info.get("type", "file") != "file":  # XRootD's word for FIFOs and devices is "other"
        raise InputFileError(f"a ROOT file is an ordinary file, which {address} is not, but a {info['type']}")
    size = _known(info.get("size"))
    return Identity(size, str(info.get("mtime") or ""), _request(address, [(0, min(HEADER, size))])[0])


def _known(size: int | None) -> int:
    if size is None:
        raise OSError("the server does not tell the size of the file, so parts of it cannot be read")
    return int(size)


def read_ranges(url: str, ranges: Sequence[Range]) -> list[bytes]:
    """The bytes of each (seek, size), in as few requests as possible.

    Raises:
        OSError: the server does not answer in time, refuses, or has fewer bytes than that.
    """
    cache = conditions.get().cache
    try:
        if cache is None:
            return _request(place(url), ranges)
        return _through_cache(cache, url, ranges)
    except BaseException:
        forget(url)
        raise


def list_files(url: str) -> list[str]:
    """URLs of the files behind a URL with a pattern, or of the ``*.root`` files of a folder, sorted by name.

    Raises:
        OSError: the server does not answer, or cannot list.
    """
    address = place(url)
    fs, path = filesystem(address)
    fs.invalidate_cache()
    if "*" not in path and not url.endswith("/") and fs.exists(path):
        return [url]  # a file with brackets in its name
    pattern = f"{path.rstrip('/')}/*.root" if url.endswith("/") else path
    if "://" not in pattern:
        pattern = f"//{pattern.lstrip('/')}"  # an XRootD server's top folder is listed as "//" only
    seconds = conditions.get().policy.work_timeout_s
    found = sorted(fs.glob(pattern, on_error="raise", timeout=seconds))
    return [name if "://" in name else f"{_server(address)}//{name.lstrip('/')}" for name in found]


def _request(address: str, ranges: Sequence[Range]) -> list[bytes]:
    fs, path = filesystem(address)
    starts, stops = [seek for seek, _ in ranges], [seek + size for seek, size in ranges]
    timeout = conditions.get().policy.request_timeout_s * (1 + len(ranges) // _AT_A_TIME)
    got = fs.cat_ranges([path] * len(ranges), starts, stops, on_error="raise", batch_size=_AT_A_TIME, timeout=timeout)
    for (seek, size), raw in zip(ranges, got, strict=True):
        if len(raw) != size:
            raise OSError(f"{len(raw)} bytes instead of {size} came from position {seek}: the file is cut short")
    return [bytes(raw) for raw in got]


def _through_cache(cache: Cache, url: str, ranges: Sequence[Range]) -> list[bytes]:
    """As `read_ranges`: in whole blocks, from the cache or else from the server."""
    file = identity(url)
    stem = file.name or f"{url} {file.size} {file.version} {file.header.hex()}"
    wanted = sorted({n for seek, size in ranges for n in range(seek // BLOCK, -(-(seek + size) // BLOCK))})
    blocks = {n: block for n in wanted if (block := cache.get(f"{stem} {n}")) is not None}
    missing = [n for n in wanted if n not in blocks]
    runs = [(run[0] * BLOCK, min((run[-1] + 1) * BLOCK, file.size)) for run in _runs(missing)]
    fetched = _request(place(url), [(start, stop - start) for start, stop in runs]) if runs else []
    for (start, stop), raw in zip(runs, fetched, strict=True):
        for seek in range(start, stop, BLOCK):
            block = raw[seek - start : seek - start + BLOCK]
            cache.put(f"{stem} {seek // BLOCK}", block)
            blocks[seek // BLOCK] = block
    return [_assemble(blocks, seek, size) for seek, size in ranges]


def _runs(numbers: Sequence[int]) -> list[list[int]]:
    """Runs of consecutive numbers: 1 2 5 -> [1 2], [5]."""
    cuts = [0, *(i + 1 for i, (a, b) in enumerate(pairwise(numbers)) if b != a + 1), len(numbers)]
    return [list(numbers[a:b]) for a, b in pairwise(cuts) if a < b]


def _assemble(blocks: dict[int, bytes], seek: int, size: int) -> bytes:
    first, last = seek // BLOCK, -(-(seek + size) // BLOCK)
    joined = b"".join(blocks.get(n, b"") for n in range(first, last))
    part = joined[seek - first * BLOCK : seek - first * BLOCK + size]
    if len(part) != size:
        raise OSError(f"{len(part)} bytes instead of {size} are at position {seek}: the file is cut short")
    return part
