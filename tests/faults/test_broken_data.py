"""Files that are broken: the error says where, or what is lost is counted exactly and the rest comes as it should."""

import itertools
import os
import shutil
import time
import warnings
from collections import Counter

import awkward as ak
import numpy as np
import pytest
from helpers.streams import QUICK, quiet_scan

from mlaas4hep_tf import DataWarning, ReadOptions, RootDataset, scan
from mlaas4hep_tf.errors import ConfigError, InputFileError, LostDataError, SpecsError
from mlaas4hep_tf.testing import has_xrootd, http_server, write_files, write_tree, xrootd_server

SIZES = [3000, 2000, 1000]
BASKET = 500


@pytest.fixture
def files(tmp_path):
    return write_files(tmp_path, SIZES, basket=BASKET)


def dataset(files, specs, **options):
    return RootDataset(
        files, specs, normalize=None, batch_size=100, chunk_size=1000, labels={"*f000*": 1, "*": 0}, **options
    )


def ids(ds):
    column = ds.specs.vector_names.index("id")
    return np.concatenate([x[:, column].numpy() for x, _ in ds]).astype(int)


def basket_of(path, branch, number):
    """Where the compressed bytes of a basket lie: (start, stop)."""
    import uproot

    with uproot.open(path) as file:
        found = file["events"][branch]
        seek, size = found.member("fBasketSeek")[number], found.member("fBasketBytes")[number]
        key = found.basket_key(number)
    return seek + key.fKeylen, seek + size


def flip(path, at, bits=0x04):
    with open(path, "r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ bits]))


def compressible(folder, entries, compression):
    """A file whose baskets are smaller when compressed: others are stored as they are, without a checksum."""
    rng = np.random.default_rng(0)
    counts = rng.poisson(3, entries)
    values = ak.unflatten(rng.integers(1, 9, counts.sum()).astype(np.float32), counts)
    return str(write_tree(folder / "f000.root", {"Jet_0": values}, compression=compression, basket=BASKET))


@pytest.mark.parametrize("compression", ["zlib", "lz4", "lzma"])
def test_a_flipped_bit_in_a_basket_is_an_error_that_says_where(tmp_path, compression):
    path = compressible(tmp_path, 2000, compression)
    specs = quiet_scan(path)
    start, stop = basket_of(path, "Jet_0", 2)
    flip(path, (start + stop) // 2, 0xFF)  # of single bits one in a hundred means nothing to zlib
    with pytest.raises(InputFileError, match=r"f000\.root, tree events, entries .*'Jet_0'"):
        quiet_scan(path)
    with pytest.raises(InputFileError, match=r"f000\.root, tree events, entries .*'Jet_0'"):
        list(RootDataset(path, specs.unbound()))


@pytest.mark.parametrize("compression", ["zlib", "lz4", "zstd", "lzma", "none"])
def test_every_flipped_bit_of_a_compressed_basket_is_noticed_or_harmless(tmp_path, compression):
    """Of zstd and uncompressed baskets no checksum is kept: there it is the values that may differ, nothing else."""
    path = compressible(tmp_path, BASKET, compression)
    want = quiet_scan(path)
    start, stop = basket_of(path, "Jet_0", 0)
    places = np.linspace(start, stop - 1, 25).astype(int)
    outcomes = Counter(outcome_with_a_flipped_bit(path, at, want) for at in places)
    if compression in ("zlib", "lz4", "lzma"):
        assert outcomes["other numbers"] == 0
        assert outcomes["error"] > 20


def outcome_with_a_flipped_bit(path, at, want):
    flip(path, at)
    try:
        same = quiet_scan(path).branches == want.branches
    except InputFileError:
        return "error"
    finally:
        flip(path, at)
    return "same" if same else "other numbers"


def test_what_is_lost_is_counted_exactly(files):
    specs = quiet_scan(files)
    start, stop = basket_of(files[1], "Jet_1", 1)
    flip(files[1], (start + stop) // 2)
    ds = dataset(files, specs, read=ReadOptions(on_bad_file="skip", max_lost_fraction=0.2))
    for _ in range(2):
        got = ids(ds)
        (lost,) = ds.skipped.now
        assert lost.start <= BASKET < lost.stop
        assert lost.label == 0
        gone = set(range(3000 + lost.start, 3000 + lost.stop))
        assert Counter(got) == dict.fromkeys(set(range(6000)) - gone, 1)
    assert ds.skipped.events == lost.events
    head, line = ds.skipped.report()
    assert head == f"lost {lost.events:,} events of 1 file, {lost.events:,} with label 0"
    assert f"f001.root (label 0): entries {lost.start} to {lost.stop}, 2 times: cannot read" in line


def test_chunks_behind_a_loss_are_whole_and_in_proportion(files):
    specs = quiet_scan(files)
    start, stop = basket_of(files[0], "Jet_1", 0)
    flip(files[0], (start + stop) // 2)
    ds = dataset(files, specs, read=ReadOptions(on_bad_file="skip", max_lost_fraction=0.6))
    batches = [y.numpy() for _, y in ds]
    left = 6000 - ds.skipped.events
    assert [len(y) for y in batches] == [100] * (left // 100) + [left % 100] * (left % 100 > 0)
    chunks = [np.concatenate(batches[i : i + 10]).mean() for i in range(0, len(batches) - 9, 10)]
    assert len(chunks) >= 4
    assert sum(abs(share - 0.5) > 0.01 for share in chunks) <= 1  # all but the one in which it was lost


def test_training_goes_on_after_a_loss(files):
    import keras

    specs = quiet_scan(files)
    start, stop = basket_of(files[2], "x", 0)
    flip(files[2], (start + stop) // 2)
    ds = RootDataset(
        files, specs, batch_size=100, labels=[1, 0, 0], read=ReadOptions(on_bad_file="skip", max_lost_fraction=0.5)
    )
    model = keras.Sequential([keras.layers.Dense(1, activation="sigmoid")])
    model.compile("adam", "binary_crossentropy")
    history = model.fit(ds, epochs=2, verbose=0)
    assert len(history.history["loss"]) == 2
    assert ds.skipped is not None and ds.skipped.now[0].file.endswith("f002.root")


def test_more_loss_than_allowed_ends_with_the_report(files):
    specs = quiet_scan(files)
    start, stop = basket_of(files[1], "Jet_1", 1)
    flip(files[1], (start + stop) // 2)
    with pytest.raises(LostDataError, match=r"max_lost_fraction=0 allows: .* with label 0: .*f001\.root"):
        ids(dataset(files, specs, read=ReadOptions(on_bad_file="skip")))
    with pytest.raises(LostDataError, match=r"max_lost_fraction=0.01 allows"):
        ids(dataset(files, specs, read=ReadOptions(on_bad_file="skip", max_lost_fraction=0.01)))


def test_of_a_truncated_file_what_is_left_is_read(files):
    specs = quiet_scan(files)
    with open(files[1], "r+b") as file:
        file.truncate(os.path.getsize(files[1]) * 3 // 4)
    with pytest.raises(InputFileError, match=r"f001\.root, tree events, entries"):
        ids(dataset(files, specs.unbound()))
    ds = dataset(files, specs, read=ReadOptions(on_bad_file="skip", max_lost_fraction=0.5))
    got = ids(ds)
    gone = {3000 + n for lost in ds.skipped.now for n in range(lost.start, lost.stop)}
    assert 0 < len(gone) < 2000
    assert Counter(got) == dict.fromkeys(set(range(6000)) - gone, 1)


@pytest.mark.slow
def test_files_that_cannot_be_opened_are_left_out_and_counted(files):
    specs = quiet_scan(files)
    with open(files[1], "r+b") as file:
        file.truncate(1000)
    ds = RootDataset(
        files, specs, labels=[1, 0, 1], read=ReadOptions(on_bad_file="skip", max_lost_fraction=0.5), normalize=None
    )
    assert sorted(ids(ds)) == [*range(3000), *range(5000, 6000)]
    assert ds.skipped is not None and ds.skipped.report()[0] == "lost 2,000 events of 1 file, 2,000 with label 0"
    assert ds.composition() == {1.0: 4000}
    with pytest.raises(LostDataError, match=r"2,000 of 6,000 events \(33.333%\).*all of some 2000 entries"):
        dataset(files, specs, read=ReadOptions(on_bad_file="skip", max_lost_fraction=0.3))
    with pytest.raises(InputFileError, match=r"f001\.root"):
        list(dataset(files, specs))


@pytest.mark.slow
def test_a_scan_leaves_broken_files_out_and_warns(files):
    want = quiet_scan([files[0], files[2]])
    with open(files[1], "r+b") as file:
        file.truncate(1000)
    with pytest.warns(DataWarning, match=r"lost 2,000 events of 1 file"):
        specs = scan(files, progress=False, read=ReadOptions(on_bad_file="skip", max_lost_fraction=0.5))
    assert specs.branches == want.branches
    with pytest.raises(LostDataError):
        quiet_scan(files, read=ReadOptions(on_bad_file="skip", max_lost_fraction=0.1))


def test_parts_of_a_split_keep_one_account(files):
    specs = quiet_scan(files)
    start, stop = basket_of(files[0], "Jet_1", 1)
    flip(files[0], (start + stop) // 2)
    ds = dataset(files, specs, read=ReadOptions(on_bad_file="skip", max_lost_fraction=0.6))
    train, test = ds.split(0.5, 0.5)
    got = [*ids(train), *ids(test)]
    assert len(set(got)) == len(got) == 6000 - ds.skipped.events
    assert len(train.skipped.now) + len(test.skipped.now) == len(ds.skipped.report()) - 1


@pytest.mark.parametrize(
    "options",
    [{"on_bad_file": "ignore"}, {"on_bad_file": "skip", "max_lost_fraction": 2}, {"max_lost_fraction": 0.1}],
)
def test_wrong_tolerance(files, options):
    with pytest.raises(ConfigError, match=r"on_bad_file|max_lost_fraction"):
        scan(files, progress=False, read=ReadOptions(**options))


def test_a_file_replaced_between_the_passes(files, tmp_path):
    specs = quiet_scan(files)
    (tmp_path / "other").mkdir()
    (other,) = write_files(tmp_path / "other", [2000], basket=BASKET)
    shutil.copy(other, files[1])
    with pytest.raises(SpecsError, match=r"f001\.root, tree events has changed since it was scanned"):
        list(dataset(files, specs))


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["local", "http", "root"])
def test_a_file_replaced_during_training(files, tmp_path, scheme, monkeypatch):
    if scheme == "root" and not has_xrootd():
        pytest.skip("no XRootD server on this machine (Debian: apt-get install xrootd-server)")
    (tmp_path / "other").mkdir()
    (other,) = write_files(tmp_path / "other", [2500], basket=300)
    if scheme == "local":
        _replaced_during(files, files[1], other)
        return
    slash = "//" if scheme == "root" else "/"
    with (http_server if scheme == "http" else xrootd_server)(tmp_path) as url:
        named = [f"{url.rstrip('/')}{slash}f00{n}.root" for n in range(3)]
        _replaced_during(named, files[1], other, read=ReadOptions(policy=QUICK))


def _replaced_during(named, victim, other, **options):
    specs = quiet_scan(named, **options)
    ds = dataset(named, specs, keep=False, **options)
    # what a reader still knows of the file, or else what the scan knew, is held to what is there now
    with pytest.raises((InputFileError, SpecsError), match=r"f001\.root"):
        _read_on(ds, lambda: os.replace(other, victim))


def _read_on(ds, interfere):
    """Epoch after epoch, at most half a minute; something happens in the first."""
    end = time.monotonic() + 30
    for number in itertools.count():
        for batch, _ in enumerate(ds):
            if (number, batch) == (0, 3):
                interfere()
        if time.monotonic() > end:
            return


@pytest.mark.parametrize("scheme", ["local", "http", "root"])
def test_files_without_permission(files, tmp_path, scheme):
    os.chmod(files[1], 0)
    if scheme == "root":
        if not has_xrootd():
            pytest.skip("no XRootD server on this machine (Debian: apt-get install xrootd-server)")
        with xrootd_server(tmp_path) as url, pytest.raises(InputFileError, match=r"f001\.root.*ermission"):
            quiet_scan([f"{url}/f00{n}.root" for n in range(3)], read=ReadOptions(policy=QUICK))
        return
    if os.geteuid() == 0:
        pytest.skip("root may read everything here")
    if scheme == "local":
        with pytest.raises(InputFileError, match=r"f001\.root: PermissionError"):
            quiet_scan(files)
    else:
        with http_server(tmp_path) as url, pytest.raises(InputFileError, match=r"f001\.root.*403"):
            quiet_scan([f"{url}/f00{n}.root" for n in range(3)], read=ReadOptions(policy=QUICK))


def test_a_report_of_skipped_events_is_in_the_run(files, tmp_path):
    from mlaas4hep_tf.runs import RunConfig, train_run

    specs = quiet_scan(files)
    start, stop = basket_of(files[2], "Jet_1", 1)
    flip(files[2], (start + stop) // 2)
    config = RunConfig(
        tuple(files),
        {"*f000*": 1, "*": 0},
        epochs=1,
        read=ReadOptions(on_bad_file="skip", max_lost_fraction=0.5),
        batch_size=500,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run = train_run(config, specs, tmp_path / "run")
    (lost, *_) = run.metrics["lost"]
    assert lost["file"].endswith("f002.root")
    assert "What could not be read" in (tmp_path / "run" / "report.html").read_text()
