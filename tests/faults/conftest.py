"""Servers on the loopback interface, and policies that give up soon."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.layout import SIZES, open_folder

from mlaas4hep_tf.testing import has_xrootd, http_server, write_files, xrootd_server


@pytest.fixture(scope="session")
def folder() -> Iterator[Path]:
    with open_folder() as path:
        write_files(path, SIZES, basket=500)
        yield path


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    with open_folder() as path:
        yield path


@pytest.fixture(scope="session", params=["http", "root"])
def server(request: pytest.FixtureRequest, folder: Path) -> Iterator[tuple[str, int]]:
    """(scheme, port) of a server of each kind."""
    if request.param == "root" and not has_xrootd():
        pytest.skip("no XRootD server on this machine (Debian: apt-get install xrootd-server)")
    serve = http_server if request.param == "http" else xrootd_server
    with serve(folder) as url:
        yield request.param, int(url.rstrip("/").rpartition(":")[2])
