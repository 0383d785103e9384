"""Files behind http:// and root://, from real servers on the loopback interface."""

from typing import Any

import numpy as np
import pytest
import tensorflow  # noqa: F401 (loaded before the first root:// read: the combination that crashes in one process)

from mlaas4hep_tf import RootDataset, scan
from mlaas4hep_tf.errors import InputFileError
from mlaas4hep_tf.testing import has_xrootd, http_server, write_files, xrootd_server


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("remote")
    write_files(path, [300, 200], basket=50)
    path.chmod(0o755)
    return path


@pytest.fixture(scope="module")
def http_url(folder):
    with http_server(folder) as url:
        yield url


@pytest.fixture(scope="module")
def root_url(folder):
    if not has_xrootd():
        pytest.skip("no XRootD server on this machine (Debian: apt-get install xrootd-server)")
    for path in (p for p in folder.parents if "pytest" in str(p)):
        path.chmod(0o755)
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
