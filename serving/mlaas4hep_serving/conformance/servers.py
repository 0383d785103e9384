"""Servers for the cases: our own, one per fixture, or the one at a URL."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from mlaas4hep_serving.conformance import fixtures
from mlaas4hep_serving.conformance.compare import Failed
from mlaas4hep_serving.options import Options
from mlaas4hep_serving.server import Server

VERSION = "00000123"
# what a fixture's description begins with or contains -> exporter; the first that fits
_EXPORTERS: tuple[tuple[str, Callable[..., Path]], ...] = (
    (r"hp2_tf2", fixtures.half_plus_two_tf2),
    (r"two_inputs", fixtures.two_inputs),
    (r"matrix_half_plus_two", fixtures.matrix_half_plus_two),
    (r"half_plus_three", fixtures.half_plus_three),
    (r"saved_model_counter", fixtures.saved_model_counter),
    (r"scalar_out", fixtures.scalar_out),
    (r"y ?= ?3 ?\* ?2 ?\* ?x", fixtures.product),
    (r"identity", fixtures.identity),
    (r"slow", fixtures.slow),
    (r"hp2|half_plus_two|^--", fixtures.half_plus_two),
)
_OWN_NAMES = ("two_inputs", "matrix_half_plus_two", "half_plus_three", "saved_model_counter", "scalar_out")


@dataclass(frozen=True)
class Endpoint:
    """Where a server listens, and the folder of its model (None for a server that is not ours)."""

    host: str
    rest_port: int
    grpc: str
    model: Path | None = None


def exporter(fixture: str) -> Callable[..., Path]:
    """The function that exports the model of a fixture's description."""
    for pattern, export in _EXPORTERS:
        if re.search(pattern, fixture):
            return export
    raise Failed(f"fixture is not understood: {fixture!r}")


class Own:
    """Servers of our own, started when first asked for.

    A fixture is served as ``half_plus_two``, ``default`` and under its own name, so a case finds it whichever it uses.
    """

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="conformance-")
        self._running: dict[str, tuple[Server, Endpoint]] = {}

    def __enter__(self) -> Own:
        return self

    def __exit__(self, *_: object) -> None:
        with ThreadPoolExecutor(16) as pool:
            list(pool.map(lambda running: running[0].stop(), self._running.values()))
        self._folder.cleanup()

    def __call__(self, fixture: str | None) -> Endpoint:
        key = re.sub(r"\s*\(model name .*?\)", "", fixture or "hp2")
        if key not in self._running:
            self._running[key] = self._start(key)
        return self._running[key][1]

    def _start(self, fixture: str) -> tuple[Server, Endpoint]:
        home = Path(self._folder.name) / str(len(self._running))
        base = home / "model"
        export = exporter(fixture)
        folder = export(base / VERSION)
        if "2_versions" in fixture:
            export(base / "124")
        config = home / "models.config"
        config.write_text(_config(fixture, base))
        options: dict[str, Any] = {"model_config_file": str(config)}
        if "monitoring_config" in fixture:
            monitoring = home / "monitoring.config"
            monitoring.write_text(_braces(fixture, "monitoring_config"))
            options["monitoring_config_file"] = str(monitoring)
        for flag, value in re.findall(r"--(\w+)(?:=(\S+))?", fixture):
            options[flag] = _typed(flag, value)
        server, endpoint = start(**options)
        return server, Endpoint(endpoint.host, endpoint.rest_port, endpoint.grpc, folder)


def start(**flags: Any) -> tuple[Server, Endpoint]:
    """A server in this process on free ports."""
    server = Server(Options(port=-1, rest_api_port=-1, **flags))
    return server, Endpoint("127.0.0.1", server.rest_port, f"127.0.0.1:{server.grpc_port}")


@contextmanager
def started(**flags: Any) -> Iterator[tuple[Server, Endpoint]]:
    """`start`, and stop."""
    server, endpoint = start(**flags)
    try:
        yield server, endpoint
    finally:
        server.stop()


def _typed(flag: str, value: str) -> Any:
    default = getattr(Options, flag, None)
    if default is None:
        raise Failed(f"flag is not known: --{flag}")
    if isinstance(default, bool):
        return value.lower() not in ("false", "0")
    return type(default)(value)


def _config(fixture: str, base: Path) -> str:
    own = [name for name in _OWN_NAMES if re.search(rf"\b{name}\b", fixture)]
    labels = "".join(
        f'version_labels {{ key: "{label}" value: {version} }} '
        for label, version in re.findall(r"label (\w+) ?-> ?(\d+)", fixture)
    )
    policy = "model_version_policy { all {} }" if "policy all" in fixture else ""
    models = "".join(
        f'config {{ name: "{name}" base_path: "{base}" model_platform: "tensorflow" {labels} {policy} }}\n'
        for name in dict.fromkeys(["half_plus_two", "default", *own])
    )
    return f"model_config_list {{\n{models}}}\n"


def _braces(text: str, name: str) -> str:
    """What stands in the braces behind ``name``."""
    start = text.index("{", text.index(name)) + 1
    depth = 1
    for i, mark in enumerate(text[start:], start):
        depth += (mark == "{") - (mark == "}")
        if not depth:
            return text[start:i]
    raise Failed(f"braces do not close: {text!r}")


def remote(rest: str, grpc: str) -> Endpoint:
    """The server at a URL and a host:port."""
    parts = urlsplit(rest)
    return Endpoint(parts.hostname or "127.0.0.1", parts.port or 8501, grpc)
