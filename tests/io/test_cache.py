"""Blocks of remote files: those of a bad transfer do not stay, copies share them, a full disk is told once."""

import subprocess
import sys

import numpy as np
import pytest
from helpers.proxy import Fault, proxy
from helpers.streams import quiet_scan

from mlaas4hep_tf import ReadOptions, ReadPolicy
from mlaas4hep_tf.errors import InputFileError
from mlaas4hep_tf.testing import http_server, write_files, write_tree

UUID = slice(47, 63)  # of the header of a small ROOT file


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("cached")
    write_files(path, [3000], basket=500)
    return path


@pytest.fixture(scope="module")
def port(folder):
    with http_server(folder) as url:
        yield int(url.rpartition(":")[2])


def middle_of_a_basket(path):
    import uproot

    with uproot.open(path) as file:
        key = file["events"]["Jet_1"].basket_key(2)
    return key.data_cursor.index + key.fNbytes // 2


def read(cache, retries):
    return ReadOptions(cache=cache, policy=ReadPolicy(request_timeout_s=5, retries=retries, backoff_s=0.1))


@pytest.mark.parametrize("retries", [0, 2])
def test_a_bad_transfer_does_not_stay_in_the_cache(folder, port, tmp_path, retries):
    """The line damages a basket, before the cache takes the block's checksum; what the server has is right."""
    want = quiet_scan(str(folder))
    fault = Fault(after=middle_of_a_basket(folder / "f000.root"), flip=True, connections=1)
    with proxy(port, fault) as between:
        url = f"http://127.0.0.1:{between.port}/f000.root"
        if not retries:
            with pytest.raises(InputFileError, match=r"f000\.root"):
                quiet_scan(url, read=read(tmp_path, retries))
        assert quiet_scan(url, read=read(tmp_path, retries)).branches == want.branches
        assert between.harmed


def test_copies_of_a_file_share_their_blocks(folder, port, tmp_path):
    size = (folder / "f000.root").stat().st_size
    with proxy(port) as first, proxy(port) as second:
        for between in (first, second):
            quiet_scan(f"http://127.0.0.1:{between.port}/f000.root", read=read(tmp_path, 0))
        assert first.bytes > size
        assert second.bytes < size / 4  # who the file is


def test_files_without_a_uuid_do_not(tmp_path):
    """As ROOT writes them where they shall be the same each time."""
    for number, name in enumerate("ab"):
        (tmp_path / name).mkdir()
        values = np.full(1000, number, np.float32)
        path = write_tree(tmp_path / name / "f.root", {"x": values}, compression="none")
        content = bytearray(path.read_bytes())
        content[UUID] = bytes(16)
        path.write_bytes(content)
    (a, b) = ((tmp_path / name / "f.root").read_bytes() for name in "ab")
    assert (len(a), a[:100]) == (len(b), b[:100])
    with http_server(tmp_path) as url:
        for number, name in enumerate("ab"):
            specs = quiet_scan(f"{url}/{name}/f.root", read=read(tmp_path / "cache", 0))
            assert specs.branches[0].mean == number


def test_a_folder_that_takes_nothing_is_told_once_by_all_processes(port, tmp_path):
    names = "".join(f"http://127.0.0.1:{port}/f000.root?copy={n}\n" for n in range(6))
    (tmp_path / "files.txt").write_text(names)
    cache = tmp_path / "cache"
    cache.mkdir()
    for number in range(256):  # where the folders of blocks would be
        cache.joinpath(f"{number:02x}").touch()
    command = [sys.executable, "-m", "mlaas4hep_tf.cli", "scan", str(tmp_path / "files.txt"), "--cache", str(cache)]
    done = subprocess.run(
        [*command, "--workers", "3", "-o", str(tmp_path / "specs.json")],
        capture_output=True, text=True, timeout=100, check=True,
    )  # fmt: skip
    lines = [line for line in done.stderr.splitlines() if "cache" in line]
    assert len(lines) == 1, done.stderr
    assert f"cannot use the cache {cache}, so what it lacks is read from the server each time" in lines[0]


def test_damaged_blocks_are_told_once_by_all_processes(tmp_path):
    """As after a fault of the disk; every block is asked for again, and then they are whole."""
    write_files(tmp_path / "served", [80_000], basket=4000, compression="none")
    cache = tmp_path / "cache"
    with http_server(tmp_path / "served") as url:
        scan = [sys.executable, "-m", "mlaas4hep_tf.cli", "scan", f"{url}/f000.root", "--cache", str(cache)]
        scan += ["--workers", "3", "-o", str(tmp_path / "specs.json")]
        subprocess.run(scan, capture_output=True, timeout=100, check=True)
        blocks = [path for path in cache.glob("??/*") if path.stat().st_size > 1000]
        assert len(blocks) > 10
        for path in blocks:
            content = bytearray(path.read_bytes())
            content[-1] ^= 1
            path.write_bytes(content)
        told = [subprocess.run(scan, capture_output=True, text=True, timeout=100, check=True).stderr for _ in "12"]
    assert [sum("cache" in line for line in text.splitlines()) for text in told] == [1, 0]
    assert f"blocks of the cache {cache} are damaged, so they are read anew" in told[0]
