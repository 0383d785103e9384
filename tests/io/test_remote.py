"""Files behind http:// and root://, from real servers on the loopback interface."""

import os
from typing import Any

import numpy as np
import pytest
import tensorflow  # noqa: F401 (loaded before the first root:// read: the combination that crashes in one process)
from helpers.layout import open_folder

from mlaas4hep_tf import ReadOptions, ReadPolicy, RootDataset, scan
from mlaas4hep_tf.errors import InputFileError
from mlaas4hep_tf.testing import free_port, has_xrootd, http_server, write_files, xrootd_server


@pytest.fixture(scope="module")
def folder():
    with open_folder() as path:
        write_files(path, [300, 200], basket=50)
        yield path


@pytest.fixture(scope="module")
def http_url(folder):
    with http_server(folder) as url:
        yield url


@pytest.fixture(scope="module")
def root_url(folder):
    if not has_xrootd():
        pytest.skip("no XRootD server on this machine (Debian: apt-get install xrootd-server)")
    with xrootd_server(folder) as url:
        yield url


@pytest.mark.parametrize("scheme", ["http_url", "root_url"])
def test_remote_files_are_the_same_as_local_ones(scheme, folder, request):
    base = request.getfixturevalue(scheme)
    names = ["f000.root", "f001.root"]
    remote, local = [f"{base}/{n}" for n in names], [str(folder / n) for n in names]
    specs = scan(remote, progress=False)
    assert specs.fingerprint == scan(local, progress=False).fingerprint
    options: dict[str, Any] = {"labels": {"*f000*": 1, "*": 0}, "seed": 2, "batch_size": 100}
    for (x, y), (want_x, want_y) in zip(
        RootDataset(remote, specs, **options), RootDataset(local, specs, **options), strict=True
    ):
        assert np.array_equal(x, want_x)
        assert np.array_equal(y, want_y)


@pytest.mark.parametrize("scheme", ["http_url", "root_url"])
@pytest.mark.parametrize("pattern", ["/f*.root", "/"])
def test_patterns_and_folders_of_a_server(scheme, pattern, folder, request):
    base = request.getfixturevalue(scheme)
    specs = scan(base + pattern, progress=False)
    assert specs.fingerprint == scan(str(folder), progress=False).fingerprint
    assert [file.url for file in specs.files] == [f"{base}/{name}" for name in ("f000.root", "f001.root")]
    assert sum(len(x) for x, _ in RootDataset(base + pattern, specs, labels={"*f000*": 1, "*": 0})) == 500


@pytest.mark.parametrize("scheme", ["http_url", "root_url"])
def test_a_pattern_that_matches_nothing_there(scheme, request):
    with pytest.raises(InputFileError, match=r"none\*.root matches no file on its server"):
        scan(f"{request.getfixturevalue(scheme)}/none*.root", progress=False)


@pytest.mark.parametrize("scheme", ["http_url", "root_url"])
def test_a_remote_file_that_is_not_there(scheme, request):
    base = request.getfixturevalue(scheme)
    with pytest.raises(InputFileError, match="cannot read file .*/none.root: ") as caught:
        scan(f"{base}/none.root", progress=False)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("name", "kind"), [("fifo.root", "other"), ("folder.root", "directory")])
def test_what_is_no_file_on_an_xrootd_server(name, kind, folder, root_url, request):
    make = os.mkfifo if name == "fifo.root" else os.mkdir
    make(folder / name)
    request.addfinalizer((folder / name).unlink if name == "fifo.root" else (folder / name).rmdir)
    with pytest.raises(InputFileError, match=rf"an ordinary file, which root://.*/{name} is not, but a {kind}"):
        scan(f"{root_url}/{name}", progress=False)


@pytest.mark.parametrize("scheme", ["http", "root"])
def test_a_folder_of_a_server_that_is_not_there(scheme):
    policy = ReadPolicy(request_timeout_s=2, retries=0)
    with pytest.raises(InputFileError, match=rf"cannot read file {scheme}://127\.0\.0\.1:\d+//data/"):
        scan(f"{scheme}://127.0.0.1:{free_port()}//data/", progress=False, read=ReadOptions(policy=policy))
