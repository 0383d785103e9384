"""Which web layer carries an ASGI application best: 100 clients, one small JSON body, one process, the same load.

python benchmarks/weblayers.py      # needs granian, which the server itself does not
"""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from mlaas4hep_serving.frontends import grpc_later

import serving

BODY = b'{"predictions": [1.0]}'
CHOICES = {
    "uvicorn, uvloop, httptools": ["-m", "uvicorn", "--loop", "uvloop", "--http", "httptools"],
    "uvicorn, asyncio, h11": ["-m", "uvicorn", "--loop", "asyncio", "--http", "h11"],
    "granian, uvloop": ["-m", "granian", "--interface", "asgi", "--loop", "uvloop"],
}
QUIET = {"-m uvicorn": ["--no-access-log", "--log-level", "error"], "-m granian": ["--no-access-log", "--no-ws"]}


async def application(scope: dict[str, Any], receive: Any, send: Callable[[dict[str, Any]], Awaitable[None]]) -> None:
    if scope["type"] == "http":
        await receive()
        length = (b"content-length", str(len(BODY)).encode())
        await send({"type": "http.response.start", "status": 200, "headers": [length]})
        await send({"type": "http.response.body", "body": BODY})


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def http(choice: str) -> dict[str, Any]:
    port = free_port()
    words = CHOICES[choice]
    command = [sys.executable, *words, *QUIET[" ".join(words[:2])], "--port", str(port), "weblayers:application"]
    process = subprocess.Popen(command, cwd="benchmarks")
    try:
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        return serving.measure(serving.http_load, port, 1, 100, 6000)
    finally:
        process.terminate()
        process.wait(20)


class Message(bytes):
    """Bytes that know how to be sent."""

    def SerializeToString(self) -> bytes:  # noqa: N802  # protobuf's name
        return bytes(self)


def grpc_server(kind: str) -> None:
    """Run an echo server in this process until it is ended: prints its port."""
    unary = grpc.unary_unary_rpc_method_handler

    def services(handler: Any) -> Any:
        return grpc.method_handlers_generic_handler("tensorflow.serving.PredictionService", {"Predict": handler})

    if kind != "aio":
        handlers = {
            "a thread per request": lambda: unary(lambda request, _: request),
            "no thread that waits": lambda: grpc_later.method_handler(
                lambda request, call: call.send(request), Message
            ),
        }
        server = grpc.server(ThreadPoolExecutor(128))
        server.add_generic_rpc_handlers((services(handlers[kind]()),))
        print(server.add_insecure_port("127.0.0.1:0"), flush=True)
        server.start()
        server.wait_for_termination()
        return

    async def serve() -> None:
        async def echo(request: bytes, _: Any) -> bytes:
            return request

        running = grpc.aio.server()
        running.add_generic_rpc_handlers((services(unary(echo)),))
        print(running.add_insecure_port("127.0.0.1:0"), flush=True)
        await running.start()
        await running.wait_for_termination()

    asyncio.run(serve())


def over_grpc(kind: str) -> dict[str, Any]:
    process = subprocess.Popen([sys.executable, __file__, kind], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        return serving.measure(serving.grpc_load, int(process.stdout.readline()), 1, 100, 6000)
    finally:
        process.terminate()
        process.wait(20)


def main() -> None:
    for choice in CHOICES:
        print(json.dumps({"layer": choice, **http(choice)}), flush=True)
    for kind in ("a thread per request", "aio", "no thread that waits"):
        print(json.dumps({"layer": f"grpcio, {kind}", **over_grpc(kind)}), flush=True)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        grpc_server(sys.argv[1])
    else:
        main()
