"""Packed events in the cache's folder: the same batches without the files, for every run that wants the same."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf
from helpers.streams import quiet_scan

from mlaas4hep_tf import Cache, ReadOptions, RootDataset
from mlaas4hep_tf.errors import SpecsError
from mlaas4hep_tf.io import reader
from mlaas4hep_tf.testing import make_events, write_files, write_tree

SIZES = [700, 430, 101]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return write_files(tmp_path_factory.mktemp("files"), SIZES, basket=90)


@pytest.fixture(scope="module", params=[{}, {"select": "x > 0", "define": {"twice": "2 * x"}}], ids=["all", "selected"])
def specs(request, files):
    return quiet_scan(files, **request.param)


@pytest.fixture
def here():
    """A reader in a thread of this process, which can be watched."""
    with ThreadPoolExecutor(1) as executor:
        yield executor


def dataset(files, specs, cache=None, executor=None, **options):
    read = ReadOptions(cache=cache, executor=executor)
    given: dict[str, Any] = {"labels": [1, 0, 1], "batch_size": 50, "chunk_size": 300, "keep": False}
    return RootDataset(files, specs, read=read, **given | options)


def bits(ds):
    return [[part.numpy().tobytes() for part in tf.nest.flatten(element)] for element in ds]


def blocks(folder):
    return [path for path in Path(folder).glob("??/*") if path.is_file()]


def test_a_second_run_reads_no_file_and_has_the_same_batches(files, specs, here, tmp_path, monkeypatch):
    plain = dataset(files, specs)
    epochs = bits(plain), bits(plain)
    assert bits(dataset(files, specs, tmp_path, here)) == epochs[0]
    monkeypatch.setattr(reader, "fetch", None)
    ds = dataset(files, specs, tmp_path, here)
    assert (bits(ds), bits(ds)) == epochs


def test_reader_processes_share_the_folder_with_another_run(files, specs, tmp_path):
    one, other = zip(*zip(dataset(files, specs, tmp_path), dataset(files, specs, tmp_path), strict=True), strict=True)
    assert bits(one) == bits(other) == bits(dataset(files, specs))


def test_another_selection_or_label_is_another_content(files, here, tmp_path):
    specs = quiet_scan(files, labels="id")
    for options in ({"labels": "id"}, {"labels": None}, {"labels": "id", "label_dtype": "int64"}):
        assert bits(dataset(files, specs, tmp_path, here, **options)) == bits(dataset(files, specs, **options))


@pytest.mark.parametrize("harm", [lambda b: b[:-1], lambda b: b[:40] + b"x" + b[41:], lambda b: b""])
def test_a_damaged_block_is_read_from_its_file_again(files, specs, here, tmp_path, harm):
    expected = bits(dataset(files, specs, tmp_path, here))
    whole = {path: path.read_bytes() for path in blocks(tmp_path)}
    for path, content in whole.items():
        path.write_bytes(harm(content))
    assert bits(dataset(files, specs, tmp_path, here)) == expected
    assert {path: path.read_bytes() for path in blocks(tmp_path)} == whole


def test_a_file_that_changed_is_not_served(here, tmp_path):
    paths = write_files(tmp_path, [200, 150], basket=90)
    specs, cache = quiet_scan(paths), tmp_path / "cache"
    labels: dict[str, Any] = {"labels": [0, 1]}
    opened = dataset(paths, specs.unbound(), cache, here, **labels)
    before = bits(opened)
    bits(dataset(paths, specs, cache, here, **labels))
    write_tree(paths[1], make_events(150, seed=9))
    with pytest.raises(SpecsError, match="has changed since it was scanned"):
        bits(dataset(paths, specs, cache, here, **labels))
    with pytest.raises(Exception, match="was replaced, or written to"):
        bits(opened)
    after = bits(dataset(paths, specs.unbound(), cache, here, **labels))
    assert after == bits(dataset(paths, specs.unbound(), **labels)) != before
    os.remove(paths[0])
    with pytest.raises(Exception, match=os.path.basename(paths[0])):
        bits(dataset(paths, specs, cache, here, **labels))


def test_the_limit_of_the_folder_is_held(files, specs, here, tmp_path):
    bits(dataset(files, specs, tmp_path / "free", here))
    size = sum(path.stat().st_size for path in blocks(tmp_path / "free"))
    small = Cache(str(tmp_path / "small"), size)
    assert bits(dataset(files, specs, small, here)) == bits(dataset(files, specs))
    assert not blocks(small.folder)
    enough = Cache(str(tmp_path / "enough"), 3 * size)
    for seed in range(2):  # each splits the files in another way
        bits(dataset(files, specs, enough, here).split(0.5, 0.5, seed=seed)[0])
    bits(dataset(files, specs, enough, here))
    assert blocks(enough.folder)
    assert sum(path.stat().st_size for path in blocks(enough.folder)) <= 3 * size * (1 + 1 / 32)
