"""uvicorn's HTTP/1.1 protocol with limits: bytes of the headers, seconds until a request has come in whole.

uvicorn itself bounds neither, so one client could fill the memory with headers or keep connections open for ever.  An
answer leaves in one piece: uvicorn writes head and body apart, each of which wakes the client up.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

LARGEST_HEAD = 64 << 10  # bytes of request line and headers, and of what is no body in a row: trailers
SECONDS = 60.0  # from the first byte of a request to its last


class OneWrite:
    """A transport that sends what is written in one turn of the loop as one call of the system: head and body."""

    def __init__(self, transport: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._transport, self._loop = transport, loop
        self._held: list[bytes] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Send before the loop's next turn."""
        if not self._held:
            self._loop.call_soon(self._send)
        self._held.append(data)

    def close(self) -> None:
        """Send what is held, and close."""
        self._send()
        self._transport.close()

    def _send(self) -> None:
        held, self._held = self._held, []
        if held and not self._transport.is_closing():
            self._transport.write(held[0] if len(held) == 1 else b"".join(held))


class LimitedProtocol(HttpToolsProtocol):
    """Answers 431 or 408 and closes."""

    _late: asyncio.TimerHandle | None = None
    _in_head = True
    _seen = 0
    _sends_no_more = False

    def connection_made(self, transport: Any) -> None:
        """A connection: its first request is due."""
        super().connection_made(OneWrite(transport, self.loop))  # type: ignore[arg-type]  # what uvicorn uses of one
        self._due()

    def data_received(self, data: bytes) -> None:
        """Bytes of a request."""
        if self._late is None:
            self._due()
        self._seen += len(data)
        super().data_received(data)
        if self._seen > LARGEST_HEAD:
            self._refuse(b"431 Request Header Fields Too Large")

    def on_header(self, name: bytes, value: bytes) -> None:
        """A line of the head; those of trailers, which nobody asks for, are not kept."""
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The body begins."""
        if sum(name == b"transfer-encoding" for name, _ in self.headers) > 1:
            raise ValueError("Transfer-Encoding is given twice")  # answered with 400
        self._in_head, self._seen = False, 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A part of the body; what goes around it, sizes of chunks and trailers, counts like a head."""
        self._seen = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is in."""
        self._in_head, self._seen = True, 0
        self._cancel()
        super().on_message_complete()

    def eof_received(self) -> bool:  # type: ignore[override]  # uvicorn closes here
        """The client sends no more; True keeps the connection until what it has asked for is answered."""
        self._sends_no_more = True
        asked = self.cycle is not None and not self.cycle.response_complete and not self.cycle.more_body
        return asked and self.scheme == "http"  # TLS has no half of a connection

    def on_response_complete(self) -> None:
        """The answer is out."""
        last = not self.pipeline
        super().on_response_complete()
        if self._sends_no_more and last:
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """The end of the connection."""
        self._cancel()
        super().connection_lost(exc)

    def _due(self) -> None:
        self._cancel()
        self._late = self.loop.call_later(SECONDS, self._refuse, b"408 Request Timeout")

    def _cancel(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _refuse(self, status: bytes) -> None:
        if self.transport.is_closing():
            return
        self.transport.write(b"HTTP/1.1 " + status + b"\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
        self.transport.close()
