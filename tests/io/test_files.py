"""What users may name as input, and what they are told when it is wrong."""

import os
from pathlib import Path

import pytest

from mlaas4hep_tf.errors import InputFileError
from mlaas4hep_tf.io.files import Source, expand, locate, meant_files, names_of


@pytest.fixture
def folder(tmp_path, monkeypatch):
    for name in ("b.root", "a.root", "other.txt", "notes.md"):
        (tmp_path / name).touch()
    (tmp_path / "other.txt").write_text("# two files\na.root, b.root:tree  # the second with its tree\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("files", "found"),
    [
        ("a.root", [Source("a.root")]),
        ("*.root", [Source("a.root"), Source("b.root")]),
        (["b.root", "a.root"], [Source("b.root"), Source("a.root")]),
        ("a.root:Events", [Source("a.root", "Events")]),
        ("a.root:/nominal/Events", [Source("a.root", "nominal/Events")]),
        ("*.root:dir/Events", [Source("a.root", "dir/Events"), Source("b.root", "dir/Events")]),
        ("other.txt", [Source("a.root"), Source("b.root", "tree")]),
        ("root://host//store/x.root", [Source("root://host//store/x.root")]),
        ("https://host/x.root:Events", [Source("https://host/x.root", "Events")]),
    ],
)
def test_names_of_files(folder, files, found):
    assert list(expand(files)) == found


@pytest.mark.parametrize("name", ["run:1.root:2.root", "root:::host:1094::a.root.1", "run[1].root"])
def test_a_name_that_a_file_has_is_that_file(folder, name):
    Path(name).touch()
    assert list(expand(name)) == [Source(name)]
    assert list(expand(f"{name}:t")) == [Source(name, "t")]


@pytest.mark.parametrize(
    ("url", "listing"),
    [
        ("https://host/a.root?token=x*[1]/", False),
        ("https://host/*.root?token=x", True),
        ("https://host/run[12].root", True),
        ("root://host//data/", True),
        ("root://host//data/a.root", False),
    ],
)
def test_patterns_are_in_the_path_of_a_url_not_in_its_query(url, listing):
    assert Source(url).listing == listing


def test_a_folder_stands_for_its_root_files(folder):
    assert [os.path.basename(s.url) for s in expand(folder)] == ["a.root", "b.root"]


def test_the_tree_of_files_that_name_none(folder):
    assert [s.tree for s in expand(["a.root:t", "b.root"], "u")] == ["t", "u"]


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ([], "list of files is empty"),
        ("c.root", r"no such file: c.root \(did you mean '.\.root'"),
        ("nowhere/c.root", "there is no folder nowhere"),
        ("x*.root", r"pattern 'x\*.root' matches no file"),
        (["a.root", "*.root"], "a.root comes from 'a.root' and from '\\*.root'"),
        (["a.root", "./a.root"], "named once only"),
    ],
)
def test_wrong_names(folder, files, says):
    with pytest.raises(InputFileError, match=says):
        expand(files)


def test_an_empty_folder_and_an_empty_list(tmp_path):
    with pytest.raises(InputFileError, match=r"holds no \*.root file"):
        expand(tmp_path)
    (tmp_path / "none.txt").write_text("# nothing\n")
    with pytest.raises(InputFileError, match="names no file"):
        expand(tmp_path / "none.txt")


URLS = ["/data/signal_1.root", "https://host/run[1].root?token=a*", "https://host/run1.root", "/data/two.root"]
TREES = ["t", "t", "t", "a"]


@pytest.mark.parametrize(
    ("pattern", "files"),
    [
        ("*signal*", [0]),
        ("signal_?.root", [0]),
        ("/data/*", [0, 3]),
        ("run[1].root", [1]),  # a file is called so, and it is not run1.root
        ("run?.root", [2]),
        ("https://host/run[1].root?token=a*", [1]),
        ("*.root", [0, 1, 2, 3]),
        ("two.root:a", [3]),
        ("/data/two.root:b", []),
        ("*:t", [0, 1, 2]),
        ("*bkg*", []),
    ],
)
def test_a_file_is_meant_by_its_name_or_by_a_pattern(pattern, files):
    named = [names_of(url, tree) for url, tree in zip(URLS, TREES, strict=True)]
    assert sorted(meant_files(pattern, named)) == files


def test_a_redirector_goes_in_front_of_logical_names_only(folder):
    Path("names.txt").write_text("/store/b.root\nroot://other//store/c.root\n")
    got = locate(["/store/a.root", "a.root", "names.txt"], "root://xrootd.example/")
    assert got == ["root://xrootd.example//store/a.root", "a.root",
                   "root://xrootd.example//store/b.root", "root://other//store/c.root"]  # fmt: skip
    assert locate(["/store/a.root"], "") == ["/store/a.root"]
    with pytest.raises(InputFileError, match="a redirector is a URL"):
        locate(["/store/a.root"], "xrootd.example")


@pytest.mark.parametrize(
    ("url", "listing"), [("root://h//s/*.root", True), ("http://h/s/", True), ("http://h/a.root", False)]
)
def test_servers_list_patterns_and_folders(url, listing):
    (source,) = expand(url)
    assert source.listing == listing
