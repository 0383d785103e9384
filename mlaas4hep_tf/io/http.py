"""Parts of files behind http:// and https://: what a server answers is held to what it was asked.

fsspec lists folders and keeps the connections; what it reads it takes as it comes.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

from fsspec.asyn import sync
from fsspec.implementations.http import HTTPFileSystem

from mlaas4hep_tf.errors import InputFileError
from mlaas4hep_tf.io.faults import Busy

_BUSY = (429, 503)
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")


@dataclass(frozen=True)
class Part:
    """Some bytes of a file.

    Attributes:
        content: the bytes; fewer than asked for if the file ends there.
        size: of the whole file, in bytes; None if the server does not tell.
        version: the server's tag for the content, or the time of its last change, or nothing.
    """

    content: bytes
    size: int | None
    version: str


class HttpFiles(HTTPFileSystem):  # type: ignore[misc]  # fsspec has no type information
    """fsspec's file system, in which every read is a `Part`."""

    def part(self, url: str, start: int, stop: int, timeout: float) -> Part:
        """Bytes [start, stop) of a file.

        Raises:
            OSError: the server does not answer in `timeout` seconds, refuses, or sends other bytes.
            InputFileError: it sends whole files only.
        """
        found: Part = sync(self.loop, self._part, url, start, stop, timeout=timeout)
        return found

    async def _cat_file(self, url: str, start: int = 0, end: int = 0, **_: Any) -> bytes:
        return (await self._part(url, start, end)).content if start < end else b""

    async def _part(self, url: str, start: int, stop: int) -> Part:
        session = await self.set_session()
        headers = {"Range": f"bytes={start}-{stop - 1}", "Accept-Encoding": "identity"}
        async with session.get(self.encode_url(url), headers=headers) as response:
            self._raise_not_found_for_status(response, url)
            if response.status != 206:
                response.close()  # without what it sends
                raise _no_parts(url, response.status, response.content_type)
            size = _check_range(response.headers.get("Content-Range", ""), start, stop)
            version = response.headers.get("ETag") or response.headers.get("Last-Modified") or ""
            return Part(await response.read(), size, version)

    def _raise_not_found_for_status(self, response: Any, _url: str) -> None:
        """Raise for an answer that is an error; fsspec's name, as it does so before it lists."""
        if response.status >= 400:
            raise _refusal(response.status, response.reason, response.headers.get("Retry-After", ""))


def _no_parts(url: str, status: int, content_type: str) -> InputFileError:
    if content_type.startswith("text/"):
        return InputFileError(
            f"cannot read file {url}: its server sends a page to read ({content_type}), as for a folder or to log in: "
            "check the path and your token"
        )
    return InputFileError(
        f"cannot read file {url}: its server sends whole files only, without regard to the range of bytes that it is "
        f"asked for (status {status} instead of 206): copy the file here, or read it from another server"
    )


def _check_range(told: str, start: int, stop: int) -> int | None:
    """The size of the file, from the ``Content-Range`` of an answer to a request for [start, stop).

    Raises:
        OSError: the answer is another range; one that the end of the file cuts short is not.
    """
    match = _CONTENT_RANGE.fullmatch(told.strip())
    first, last, size = match.groups() if match else ("", "", "")
    end = min(stop, int(size)) if size.isdigit() else stop
    if (first, last) != (str(start), str(end - 1)):
        raise OSError(f"the server sent {told or 'an unknown range'!r} where bytes {start}-{stop - 1} were asked for")
    return int(size) if size.isdigit() else None


def _refusal(status: int, reason: str, retry_after: str) -> OSError:
    """The error for a status from 400 on."""
    told = f"the server answers {status} {reason}"
    if status in (404, 410):
        return FileNotFoundError(told)
    if status in (401, 403):
        return PermissionError(told)
    if status == 416:
        return OSError(f"{told}: the file is cut short")
    if status in _BUSY and (seconds := seconds_until(retry_after, time.time())):
        busy = Busy(f"{told}, and asks to come back in {seconds:.0f} s")
        busy.after_s = seconds
        return busy
    return OSError(told)


def seconds_until(retry_after: str, now: float) -> float:
    """What ``Retry-After`` says, seconds or a date, in seconds from now; 0 if it says nothing."""
    if retry_after.strip().isdigit():
        return float(retry_after)
    try:
        return max(0.0, parsedate_to_datetime(retry_after).timestamp() - now)
    except ValueError:
        return 0.0
