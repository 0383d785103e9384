"""Files of this machine with odd names are read; what is no file, or closed to us, is told in one line and at once."""

import os
import re
import shutil
import socket
from contextlib import contextmanager

import pytest
from helpers.layout import open_folder
from helpers.streams import quiet_scan

from mlaas4hep_tf import RootDataset, scan
from mlaas4hep_tf.errors import InputFileError
from mlaas4hep_tf.io.files import expand
from mlaas4hep_tf.testing import http_server, write_files

EVENTS = 200
NOBODY = 65534
ODD_NAMES = [
    "a#b.root", "a?b.root", "a b.root", " a.root", "Zähler_ß_日本.root", "a%20b.root", "a[1].root", "a*b.root", "a,b.root",
    "q'uo\"te.root", "-dash.root", "no_ending", "new\nline.root", "a;1.root", "a.root.1", "run:1.root",
    "run:1.root:2.root", "root:::host:1094::a.root.1", "::a.root", "latin\udcff.root",
]  # fmt: skip


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return write_files(tmp_path_factory.mktemp("sources"), [EVENTS], basket=50)[0]


@pytest.fixture(scope="module")
def odd_names(file, tmp_path_factory):
    folder = tmp_path_factory.mktemp("odd")
    for name in ODD_NAMES:
        os.link(file, folder / name)
    return folder


@pytest.mark.parametrize("name", ODD_NAMES)
def test_any_name_that_a_file_may_have(odd_names, name):
    path = str(odd_names / name)
    assert quiet_scan(path).entries == EVENTS


def test_a_file_is_meant_before_a_tree_of_another_one(odd_names):
    (as_file,) = expand(odd_names / "run:1.root:2.root")
    (as_tree,) = expand(f"{odd_names}/run:1.root:events")
    assert (as_file.tree, as_tree.tree) == (None, "events")


@pytest.mark.parametrize(
    "name",
    ["a%23b.root", "a%3Fb.root", "a b.root", "Zähler_ß_日本.root", "a%2520b.root", "::a.root", "a;1.root?x=[1]*/"],
)
def test_names_in_urls(odd_names, name):
    with http_server(odd_names) as url:
        assert quiet_scan(f"{url}/{name}").entries == EVENTS


def no_files(folder):
    os.mkfifo(folder / "fifo.root")
    (folder / "folder.root").mkdir()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(folder / "socket.root"))
    (folder / "device.root").symlink_to("/dev/zero")
    (folder / "dead.root").symlink_to("nowhere.root")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("fifo.root", "a ROOT file is an ordinary file, from which parts can be read; {} is a FIFO"),
        ("socket.root", "a ROOT file is an ordinary file, from which parts can be read; {} is a socket"),
        ("device.root", "a ROOT file is an ordinary file, from which parts can be read; {} is a device"),
        ("folder.root", "folder {} holds no"),
        ("dead.root", "{} is a symbolic link to nowhere.root, which is not there"),
    ],
)
def test_what_is_no_file(tmp_path, monkeypatch, name, says):
    monkeypatch.chdir(tmp_path)
    no_files(tmp_path)
    with pytest.raises(InputFileError, match=re.escape(says.format(name))) as caught:
        scan(name, progress=False)
    assert "\n" not in str(caught.value)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", ["fifo.root", "socket.root", "device.root", "folder.root", "dead.root"])
def test_what_is_no_file_among_others(tmp_path, name):
    """A pattern finds it, and a reader process is the first to look."""
    no_files(tmp_path)
    with pytest.raises(InputFileError, match=f"{name} is a "):
        scan(f"{tmp_path}/{name[:-1]}?", progress=False)


@pytest.mark.parametrize("content", [b"", b"hello\n"])
def test_what_is_too_short_to_be_a_root_file(tmp_path, content):
    (tmp_path / "short.root").write_bytes(content)
    with pytest.raises(InputFileError, match=rf"short\.root: .*not a ROOT file: it has {len(content)} bytes"):
        scan(tmp_path / "short.root", progress=False)


@contextmanager
def nobody():
    """Somebody to whom permissions apply."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(user)


@pytest.mark.parametrize("named", ["closed", "closed/f.root", "closed/*.root", "closed/f.root:events"])
def test_a_folder_without_permission_is_told_from_an_empty_one(file, monkeypatch, named):
    with open_folder() as path:
        closed = path / "closed"
        closed.mkdir()
        shutil.copy(file, closed / "f.root")
        closed.chmod(0)
        monkeypatch.chdir(path)
        with nobody(), pytest.raises(InputFileError, match=r"closed.*Permission denied") as caught:
            expand(named)
        closed.chmod(0o755)
        monkeypatch.undo()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("written", [0, 1])
def test_a_file_that_grows_while_it_is_read(file, tmp_path, written):
    path = shutil.copy(file, tmp_path / "grows.root")
    specs = quiet_scan(path).unbound()
    ds = RootDataset(path, specs, batch_size=50, keep=False)
    if written:
        next(iter(ds))
    with open(path, "ab") as end:
        end.write(b"more")
    with pytest.raises(InputFileError, match=r"grows\.root, tree events was replaced, or written to, since"):
        list(ds)


def test_a_cut_file_is_told_at_once(file, tmp_path):
    with open(file, "rb") as whole:
        start = whole.read(os.path.getsize(file) // 3)
    cut = tmp_path / "cut.root"
    cut.write_bytes(start)
    with pytest.raises(InputFileError, match=r"cut.root.*the file ends early: .* bytes") as caught:
        scan(str(cut), progress=False)
    assert not caught.value.passing  # no use to try again
