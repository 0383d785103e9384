"""Servers for the cases: our own, one for each fixture, or the one at a URL."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from mlaas4hep_serving.conformance import fixtures
from mlaas4hep_serving.conformance.compare import NotRun, known
from mlaas4hep_serving.options import Options
from mlaas4hep_serving.server import Server

VERSION = "00000123"
MODELS: Mapping[str, Callable[..., Path]] = {
    function.__name__: function
    for function in (
        fixtures.half_plus_two,
        fixtures.half_plus_two_tf2,
        fixtures.half_plus_three,
        fixtures.matrix_half_plus_two,
        fixtures.saved_model_counter,
        fixtures.two_inputs,
        fixtures.scalar_out,
        fixtures.strings,
        fixtures.product,
        fixtures.identity,
        fixtures.slow,
    )
}


@dataclass(frozen=True)
class Endpoint:
    """Where a server listens, and the folder of its model (None for a server that is not ours)."""

    host: str
    rest_port: int
    grpc: str
    model: Path | None = None


def exporter(model: str) -> Callable[..., Path]:
    """The function that exports a model.

    Raises:
        NotRun: there is no such model.
    """
    if model not in MODELS:
        raise NotRun(f"there is no model {model!r}; there are {', '.join(MODELS)}")
    return MODELS[model]


class Own:
    """Servers of our own, started when first asked for.

    A fixture's model is served as ``half_plus_two``, ``default`` and under its own name.
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

    def __call__(self, fixture: Any) -> Endpoint:
        given = {"model": "half_plus_two"} if fixture is None else fixture
        if isinstance(given, str):
            raise NotRun(f"fixture is not understood: {given!r}")
        known(given, ("text", "versions", "labels", "policy", "monitoring_config", "flags"), "fixture", ("model",))
        key = json.dumps({name: value for name, value in given.items() if name != "text"}, sort_keys=True)
        if key not in self._running:
            self._running[key] = self._start(given)
        return self._running[key][1]

    def _start(self, fixture: Mapping[str, Any]) -> tuple[Server, Endpoint]:
        home = Path(self._folder.name) / str(len(self._running))
        base = home / "model"
        export = exporter(fixture["model"])
        folder, *_ = [export(base / version) for version in fixture.get("versions", [VERSION])]
        config = home / "models.config"
        config.write_text(_config(fixture, base))
        options: dict[str, Any] = {"model_config_file": str(config)}
        if "monitoring_config" in fixture:
            monitoring = home / "monitoring.config"
            monitoring.write_text(fixture["monitoring_config"])
            options["monitoring_config_file"] = str(monitoring)
        options |= {flag: typed(flag, value) for flag, value in fixture.get("flags", {}).items()}
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


def typed(flag: str, value: Any) -> Any:
    """A flag's value, of its type.

    Raises:
        NotRun: there is no such flag.
    """
    default = getattr(Options, flag, None)
    if default is None:
        raise NotRun(f"there is no flag --{flag}")
    if isinstance(default, bool):
        return str(value).lower() not in ("false", "0")
    return type(default)(value)


def _config(fixture: Mapping[str, Any], base: Path) -> str:
    labels = "".join(
        f'version_labels {{ key: "{label}" value: {version} }} ' for label, version in fixture.get("labels", {}).items()
    )
    policy = "model_version_policy { all {} }" if fixture.get("policy") == "all" else ""
    models = "".join(
        f'config {{ name: "{name}" base_path: "{base}" model_platform: "tensorflow" {labels} {policy} }}\n'
        for name in dict.fromkeys(["half_plus_two", "default", fixture["model"]])
    )
    return f"model_config_list {{\n{models}}}\n"


def remote(rest: str, grpc: str) -> Endpoint:
    """The server at a URL and a host:port."""
    parts = urlsplit(rest)
    return Endpoint(parts.hostname or "127.0.0.1", parts.port or 8501, grpc)
