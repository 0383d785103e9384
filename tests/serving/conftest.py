"""Models exported once, and a server on them in this process."""

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from mlaas4hep_serving.conformance import fixtures
from mlaas4hep_serving.options import Options
from mlaas4hep_serving.server import Server
from tensorflow_serving.apis import model_service_pb2_grpc, prediction_service_pb2_grpc


@pytest.fixture(scope="session")
def half_plus_two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fixtures.half_plus_two(tmp_path_factory.mktemp("models") / "half_plus_two" / "00000123")


@pytest.fixture(scope="session")
def server(half_plus_two: Path) -> Iterator[Server]:
    running = Server(Options(port=-1, rest_api_port=-1, model_base_path=str(half_plus_two.parent)))
    yield running
    running.stop()


@pytest.fixture(scope="session")
def channel(server: Server) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as opened:
        yield opened


@pytest.fixture(scope="session")
def prediction(channel: grpc.Channel) -> prediction_service_pb2_grpc.PredictionServiceStub:
    return prediction_service_pb2_grpc.PredictionServiceStub(channel)


@pytest.fixture(scope="session")
def models(channel: grpc.Channel) -> model_service_pb2_grpc.ModelServiceStub:
    return model_service_pb2_grpc.ModelServiceStub(channel)


@pytest.fixture(scope="session")
def environment() -> dict[str, str]:
    """For server processes: the same modules as here."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


@pytest.fixture
def start_server() -> Iterator[Callable[..., Server]]:
    """A function that starts a server with flags on free ports; stopped after the test."""
    running: list[Server] = []

    def start(**flags: Any) -> Server:
        running.append(Server(Options(port=-1, rest_api_port=-1, **flags)))
        return running[-1]

    yield start
    for server in running:
        server.stop()
