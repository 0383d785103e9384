"""A TCP proxy that misbehaves by script: it stands between the readers and a real server."""

import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

CHUNK = 1 << 14


@dataclass(frozen=True)
class Fault:
    """What happens to the bytes that come from the server, on each connection.

    Attributes:
        after: bytes that pass before it happens.
        reset: end the connection with RST.
        stall: say nothing for so many seconds, and keep the connection.
        delay: wait so long before each piece.
        flip: change one bit there.
        connections: how many connections it happens to; the others are served well.
    """

    after: int = 0
    reset: bool = False
    stall: float = 0.0
    delay: float = 0.0
    flip: bool = False
    connections: int = 1 << 30


class Proxy:
    """Listens on a port of its own; `refuse` and `accept` close and open it."""

    def __init__(self, upstream: int, fault: Fault) -> None:
        self.upstream, self.fault = upstream, fault
        self.harmed = self.bytes = 0
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._open: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._serve()

    def refuse(self) -> None:
        _reset(self._listener)
        self.cut()

    def accept(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self._serve()

    def cut(self) -> None:
        """End all connections."""
        for sock in self._open:
            _reset(sock)
        self._open.clear()

    def close(self) -> None:
        self._stop.set()
        self.refuse()

    def _serve(self) -> None:
        threading.Thread(target=self._listen, args=(self._listener,), daemon=True).start()

    def _listen(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self.upstream))
            self._open += [client, server]
            with self._lock:
                harm = self.fault if self.harmed < self.fault.connections else Fault()
                self.harmed += harm is self.fault
            threading.Thread(target=self._pump, args=(client, server, Fault()), daemon=True).start()
            threading.Thread(target=self._pump, args=(server, client, harm), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, fault: Fault) -> None:
        passed = 0
        try:
            while data := source.recv(CHUNK):
                time.sleep(fault.delay)
                if passed <= fault.after < passed + len(data):
                    if fault.stall:
                        self._stop.wait(fault.stall)
                    if fault.reset:
                        sink.sendall(data[: fault.after - passed])
                        _reset(sink)
                        _reset(source)
                        return
                    if fault.flip:
                        at = fault.after - passed
                        data = data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :]
                sink.sendall(data)
                passed += len(data)
                self.bytes += len(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            _reset(sink)
            _reset(source)


def _reset(sock: socket.socket) -> None:
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.shutdown(socket.SHUT_RDWR)
        sock.close()
    except OSError:
        sock.close()


@contextmanager
def proxy(upstream: int, fault: Fault = Fault()) -> Iterator[Proxy]:
    made = Proxy(upstream, fault)
    try:
        yield made
    finally:
        made.close()
