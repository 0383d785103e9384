"""`RootDataset`: every event once, in its order, with the right numbers."""

import contextlib
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
import warnings
import xml.etree.ElementTree as ET
from collections import Counter
from typing import Any

import awkward as ak
import numpy as np
import psutil
import pytest
import tensorflow as tf
import uproot
from helpers import probe

from mlaas4hep_tf import ReadOptions, RootDataset, scan
from mlaas4hep_tf.errors import (
    BranchError,
    DataWarning,
    InputFileError,
    LabelError,
    MlaasError,
    PlanError,
    SpecsError,
)
from mlaas4hep_tf.io.workers import WorkerPool
from mlaas4hep_tf.models import build
from mlaas4hep_tf.specs import from_paper
from mlaas4hep_tf.streaming.pipeline import build_pipeline
from mlaas4hep_tf.testing import make_events, write_files, write_tree


def quiet(*args, **kwargs):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        return scan(*args, progress=False, **kwargs)


def ids(ds):
    """Event numbers in the order in which a dataset of `write_files` delivers them."""
    column = ds.specs.vector_names.index("id")
    batches = [(x[0] if isinstance(x, tuple) else x).numpy()[:, column] for x in ds]
    return np.concatenate(batches).astype(int).tolist()


def plain(files, specs, **options):
    return RootDataset(files, specs, **({"normalize": None} | options))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sizes", "chunk", "batch"),
    [
        ([1000] * 30, 1000, 100),  # the paper's code loses up to a fifth of these
        ([7, 1, 0, 250, 3, 0, 90], 64, 10),
        ([1], 100_000, 256),
        ([5, 5], 3, 4),  # chunks smaller than batches
        ([2000, 10], 300, 1),
        ([997, 1003], 1_000_000, 1500),
    ],
)
@pytest.mark.parametrize("shuffle", [True, False])
def test_every_event_exactly_once(tmp_path, sizes, chunk, batch, shuffle):
    files = write_files(tmp_path, sizes, basket=100)
    ds = plain(files, quiet(files), chunk_size=chunk, batch_size=batch, shuffle=shuffle, read=ReadOptions(workers=2))
    total = sum(sizes)
    assert ds.cardinality() == len(list(ds)) == -(-total // batch)
    delivered = ids(ds)
    assert sorted(delivered) == list(range(total))
    if not shuffle:
        assert delivered == list(range(total))


@pytest.mark.slow
def test_more_files_than_events_in_a_chunk(tmp_path):
    files = write_files(tmp_path, [2] * 1500, groups={})
    ds = plain(files, quiet(files), chunk_size=1000, batch_size=100, read=ReadOptions(workers=2))
    assert sorted(ids(ds)) == list(range(3000))


def test_is_a_dataset_with_static_spec(tmp_path):
    files = write_files(tmp_path, [100, 50])
    ds = plain(files, quiet(files), labels=[1, 0], batch_size=30)
    assert isinstance(ds, tf.data.Dataset)
    width = len(ds.specs.vector_names)
    assert ds.element_spec == (tf.TensorSpec((30, width), tf.float32), tf.TensorSpec((30,), tf.float32))
    assert [len(y) for _, y in ds.take(2)] == [30, 30]
    assert ds.map(lambda x, y: y).reduce(0.0, lambda total, y: total + tf.reduce_sum(y)).numpy() == 100
    uneven = plain(files, quiet(files), labels=[1, 0], batch_size=40)
    assert uneven.element_spec[0].shape == (None, width)


def test_a_graph_is_built_for_what_is_iterated_and_outlives_the_function_that_asks_first(tmp_path, monkeypatch):
    built = []

    def counted(*given):
        built.append(given)
        return build_pipeline(*given)

    monkeypatch.setattr("mlaas4hep_tf.dataset.build_pipeline", counted)
    files = write_files(tmp_path, [60, 40])
    first, second = plain(files, quiet(files), batch_size=10, keep=False).split(0.7, 0.3)
    assert (first.entries, second.entries, built) == (70, 30, [])

    @tf.function
    def events():
        return first.reduce(0, lambda total, batch: total + tf.shape(batch)[0])

    assert events() == 70
    assert sorted(ids(first)) == sorted(ids(first))
    assert len(built) == 1
    with pytest.raises(AttributeError, match="no attribute 'shufle'"):
        first.shufle(10)


def test_the_order_depends_on_the_seed_and_not_on_the_workers(tmp_path):
    files = write_files(tmp_path, [500, 300, 200], basket=50)
    specs = quiet(files)
    options = {"chunk_size": 250, "batch_size": 50}
    one, two, other = (
        plain(files, specs, seed=s, read=ReadOptions(workers=w), **options) for s, w in ((3, 1), (3, 2), (4, 2))
    )
    first = ids(one)
    assert first == ids(two)
    assert first != ids(other)
    second = ids(one)
    assert second != first
    assert second == ids(two)


def test_chunks_mix_the_files_in_proportion(tmp_path):
    files = write_files(tmp_path, [600, 300, 100], basket=50)
    ds = plain(files, quiet(files), chunk_size=100, batch_size=100)
    for batch in ds:
        numbers = batch[:, ds.specs.vector_names.index("id")].numpy()
        counts = [((numbers >= lo) & (numbers < hi)).sum() for lo, hi in ((0, 600), (600, 900), (900, 1000))]
        assert counts == [60, 30, 10]


def test_equal_mixing_gives_every_file_the_same_part_of_every_batch(tmp_path):
    files = write_files(tmp_path, [600, 300, 100], basket=50)
    ds = plain(files, quiet(files), labels=[0, 0, 1], chunk_size=300, batch_size=30).mixed("equal")
    seen = Counter()
    for _ in range(3):
        epoch = np.array(ids(ds))
        assert len(epoch) == ds.entries == 1000
        file_of = np.digitize(epoch, [600, 900])
        for chunk in range(3):
            assert np.bincount(file_of[300 * chunk : 300 * chunk + 300]).tolist() == [100, 100, 100]
        assert np.bincount(file_of).tolist() == list(ds.delivered.values()) == [334, 333, 333]
        seen.update(epoch.tolist())
    times = [Counter(seen[i] for i in part) for part in (range(600), range(600, 900), range(900, 1000))]
    assert times == [{1: 198, 2: 402}, {3: 201, 4: 99}, {9: 1, 10: 99}]  # 1002, 999 and 999 events of each file
    assert ds.composition() == {0.0: 667, 1.0: 333}


def test_shares_by_pattern_and_back_to_each_event_once(tmp_path):
    files = write_files(tmp_path, [900, 80, 20], basket=50)
    train, test = plain(files, quiet(files), labels=[0, 0, 1], batch_size=10).split(0.5, 0.5)
    half = train.mixed({"*f002*": 2, "*": 1})
    assert half.composition() == {0.0: 250, 1.0: 250}
    held_out = set(ids(test))
    for _ in range(2):
        assert not held_out & set(ids(half))
    for back in (half.mixed("proportional"), half.in_order()):
        assert sorted(ids(back)) == sorted(ids(train))
        assert back.delivered == {f.url: n for f, n in zip(train.files, (450, 40, 10), strict=True)}


@pytest.mark.parametrize(
    ("law", "error", "says"),
    [
        ("fair", PlanError, "must be 'proportional', 'equal' or shares of the files, not 'fair'"),
        ({"*f000*": 1}, LabelError, "no pattern of mixing shares matches file .*f001.root"),
        ([1, 2, 3], LabelError, "a list of mixing shares needs one number per file: 3 for 2 files"),
        ([1, -2], PlanError, "must be positive numbers, not -2"),
    ],
)
def test_mixing_laws_that_make_no_sense(tmp_path, law, error, says):
    files = write_files(tmp_path, [30, 20])
    with pytest.raises(error, match=says):
        plain(files, quiet(files)).mixed(law)


def test_split_is_disjoint_and_complete_and_stable(tmp_path):
    files = write_files(tmp_path, [640, 160, 200], basket=20)
    ds = plain(files, quiet(files), batch_size=50)
    parts = [ids(part) for part in ds.split(0.64, 0.16, 0.20)]
    assert [len(p) for p in parts] == [640, 160, 200]
    assert sorted(sum(parts, [])) == list(range(1000))
    assert [sorted(ids(p)) for p in ds.split(0.64, 0.16, 0.20)] == [sorted(p) for p in parts]
    assert set(ids(ds.split(0.5, seed=9)[0])) != set(ids(ds.split(0.5, seed=8)[0]))
    for part, fraction in zip(parts, (0.64, 0.16, 0.20), strict=True):
        assert abs(sum(i < 640 for i in part) - 640 * fraction) < 2


def test_take_and_skip_of_a_shuffled_dataset_name_split(tmp_path):
    files = write_files(tmp_path, [200], basket=20)
    ds = plain(files, quiet(files), batch_size=50)
    with pytest.warns(DataWarning, match=r"take and skip of a shuffled dataset overlap.*ds\.split") as caught:
        train, rest = ds.take(3), ds.skip(3)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert [len(list(part)) for part in (train, rest)] == [3, 1]
    in_order = ds.in_order()
    events = [part.unbatch().batch(200).get_single_element().numpy() for part in (in_order.take(3), in_order.skip(3))]
    column = ds.specs.vector_names.index("id")
    assert np.concatenate(events)[:, column].tolist() == list(range(200))


def test_shards_read_disjoint_parts(tmp_path):
    files = write_files(tmp_path, [301, 200], basket=20)
    ds = plain(files, quiet(files), batch_size=50)
    shards = [ids(ds.shard(3, i)) for i in range(3)]
    assert sorted(sum(shards, [])) == list(range(501))
    assert [len(s) for s in shards] == [167, 167, 167]


def expected_vector(events, specs):
    """The raw vector of every event by awkward alone, NaN where there is no value."""
    columns = []
    for branch in specs.branches:
        values = events[branch.name]
        if branch.kind == "flat":
            columns.append(ak.to_numpy(values).astype(np.float32)[:, None])
        else:
            padded = ak.fill_none(ak.pad_none(values, branch.length, clip=True), np.nan)
            columns.append(ak.to_numpy(padded).astype(np.float32).reshape(len(events), branch.length))
    return np.concatenate(columns, axis=1)


def normalized(raw, specs, how):
    """Normalisation by its definition, in float64; padding 0."""
    out = np.zeros(raw.shape)
    column = 0
    for branch in specs.branches:
        for _ in branch.columns:
            x = raw[:, column].astype(np.float64)
            if how == "minmax":
                x = (x - branch.min) / ((branch.max - branch.min) or 1)
            elif how == "standard":
                x = (x - branch.mean) / (np.sqrt(branch.variance) or 1)
            out[:, column] = np.where(np.isfinite(x), x, 0)
            column += 1
    return out


@pytest.mark.parametrize("how", ["minmax", "standard", None])
def test_the_vector_of_every_demo_event(demo_files, demo_specs, how):
    events = uproot.concatenate([f + ":events" for f in demo_files])
    ds = RootDataset(demo_files, demo_specs, normalize=how, mask=True, shuffle=False, batch_size=500)
    raw = expected_vector(events, demo_specs)
    batches = list(ds)
    vector = np.concatenate([b["vector"].numpy() for b in batches])
    mask = np.concatenate([b["mask"].numpy() for b in batches])
    assert np.array_equal(mask, np.isfinite(raw))
    expected = normalized(raw, demo_specs, how)
    assert np.abs(vector - expected).max() <= 2e-6 * max(1, np.abs(expected).max())


def test_the_vector_of_every_hzz_event(real_files):
    path = real_files / "uproot-HZZ.root"
    specs = quiet(path)
    events = uproot.open(path)["events"].arrays()
    vector = np.concatenate([b.numpy() for b in RootDataset(path, specs, shuffle=False, batch_size=100)])
    expected = normalized(expected_vector(events, specs), specs, "minmax")
    assert vector.shape == (2421, len(specs.vector_names))
    assert np.abs(vector - expected).max() < 2e-6


def by_uproot(tree, names):
    """Branches, and members of objects as ``muonp4.fP.fX``, which uproot gives as records."""
    found = {}
    for name in names:
        owner, *members = [name] if name in tree else name.split(".")
        found[name] = tree[owner].array()[tuple(members)] if members else tree[owner].array()
    return ak.zip(found, depth_limit=1)


@pytest.mark.slow
def test_every_real_file_gives_batches(real_files):
    seen = []
    for path in sorted(real_files.glob("*.root")):
        if path.name == "uproot-empty.root":
            continue
        specs = quiet(path)
        ds = RootDataset(path, specs, batch_size=64, shuffle=False, normalize=None, mask=True)
        events = by_uproot(uproot.open(path)[specs.tree], [b.name for b in specs.branches])
        mask = np.concatenate([b["mask"].numpy() for b in ds])
        assert np.array_equal(mask, np.isfinite(expected_vector(events, specs))), path.name
        seen.append(path.name)
    assert len(seen) == 12


def test_layouts_hold_the_same_values(tmp_path):
    files = write_files(tmp_path, [70, 30], groups={"Jet": 2, "Mu": 1}, basket=20)
    specs = quiet(files)
    options: dict[str, Any] = {"batch_size": 40, "seed": 5, "labels": [1, 0]}
    vector = [x for x, _ in RootDataset(files, specs, mask=True, **options)]
    columns = [x for x, _ in RootDataset(files, specs, mask=True, layout="columns", **options)]
    ragged = [x for x, _ in RootDataset(files, specs, layout="ragged", **options)]
    assert [len(x["x"]) for x in columns] == [40, 40, 20]
    for v, c, r in zip(vector, columns, ragged, strict=True):
        names = [b.name for b in specs.branches]
        flat = [c[n][:, None] if len(c[n].shape) == 1 else c[n] for n in names]
        assert np.array_equal(np.concatenate(flat, axis=1), v["vector"])
        masks = [c[n + "_mask"][:, None] if len(c[n].shape) == 1 else c[n + "_mask"] for n in names]
        assert np.array_equal(np.concatenate(masks, axis=1), v["mask"])
        for name in ("Jet_0", "Jet_1", "Mu_0"):
            assert isinstance(r[name], tf.RaggedTensor)
            assert r[name].row_lengths().numpy().tolist() == c[name + "_mask"].numpy().sum(axis=1).tolist()
            length = c[name].shape[1]
            assert np.array_equal(r[name].to_tensor(shape=(None, length)), c[name])


def test_columns_of_one_name_are_kept_apart(tmp_path):
    lists = ak.values_astype(ak.Array([[1, 2], [], [3]]), "float32")
    flat = {"J_0": np.array([7, 8, 9], "f4"), "J_1": np.array([4, 5, 6], "f4")}
    path = write_tree(tmp_path / "t.root", {"J": lists, **flat})
    specs = quiet(path)
    assert specs.vector_names == ("J_0", "J_1", "nJ", "J[0]", "J[1]")
    (batch,) = RootDataset(path, specs, mask=True, shuffle=False, normalize=None)
    events = dict(zip(specs.vector_names, batch["vector"].numpy().T.tolist(), strict=True))
    assert events == {"J_0": [7, 8, 9], "J_1": [4, 5, 6], "nJ": [2, 0, 1], "J[0]": [1, 0, 3], "J[1]": [2, 0, 0]}
    assert build("set", specs).get_layer("objects_0").columns.tolist() == [[3], [4]]
    path = write_tree(tmp_path / "u.root", {"J": lists, "J[0]": np.zeros(3, "f4"), **flat})
    with pytest.raises(SpecsError, match=r"column 'J\[0\]' of the vector would be of branches 'J\[0\]' and 'J'"):
        quiet(path)


def test_a_branch_that_is_called_like_a_mask(tmp_path):
    path = write_tree(tmp_path / "t.root", {"x": np.arange(3, dtype="f4"), "x_mask": np.arange(3, dtype="f4")})
    specs = quiet(path)
    with pytest.raises(PlanError, match="'x_mask' for the mask of 'x', but there is a branch of that name too"):
        RootDataset(path, specs, mask=True, layout="columns")
    (batch,) = RootDataset(path, specs, layout="columns", shuffle=False, normalize=None)
    assert batch["x_mask"].numpy().tolist() == [0, 1, 2]


def test_fixed_size_arrays_are_lists_that_never_end_early(tmp_path):
    values = np.arange(12, dtype="f4").reshape(4, 3)
    path = write_tree(tmp_path / "t.root", {"a": values, "b": np.arange(4, dtype="f4")})
    specs = quiet(path)
    assert specs.vector_names == ("b", "a_0", "a_1", "a_2")
    (batch,) = RootDataset(path, specs, normalize=None, shuffle=False)
    assert np.array_equal(batch, np.c_[np.arange(4), values])


def test_missing_values_are_masked_and_never_minima(tmp_path):
    path = write_tree(tmp_path / "t.root", {
        "x": np.array([2, np.nan, np.inf, 4], "f4"), "Obj": ak.zip({"a": ak.Array([[], [5.0, -np.inf], [7.0], [9.0]])}),
    })  # fmt: skip
    specs = quiet(path)
    (batch,) = RootDataset(path, specs, shuffle=False, mask=True)
    at = {name: number for number, name in enumerate(specs.vector_names)}
    assert batch["mask"][:, at["x"]].numpy().tolist() == [True, False, False, True]
    assert batch["vector"][:, at["x"]].numpy().tolist() == [0, 0, 0, 1]
    objects = [at["Obj_a_0"], at["Obj_a_1"]]
    assert batch["mask"].numpy()[:, objects].tolist() == [[False] * 2, [True, False], [True, False], [True, False]]
    assert batch["vector"].numpy()[:, objects].tolist() == [[0, 0], [0, 0], [0.5, 0], [1, 0]]


def test_truncation_is_counted(tmp_path):
    counts = [1] * 90 + [5] * 10
    path = write_tree(tmp_path / "t.root", {"Obj": ak.zip({"a": ak.unflatten(np.ones(140, "f4"), counts)})})
    specs = quiet(path).with_lengths(quantile=0.9)
    ds = RootDataset(path, specs, batch_size=10)
    for _ in range(2):
        list(ds)
        assert ds.truncated == {"nObj events": 10, "nObj objects": 40}


def test_labels_and_weights(tmp_path):
    files = write_files(tmp_path, [30, 20, 10])
    specs = quiet(files)

    def targets(**options):
        ds = plain(files, specs, shuffle=False, batch_size=60, **options)
        return [part.numpy().tolist() for part in next(iter(ds))[1:]]

    per_file = [[1.0] * 30 + [0.0] * 20 + [0.0] * 10]
    assert targets(labels={"*f000*": 1, "*": 0}) == targets(labels=[1, 0, 0]) == per_file
    specs = quiet(files, labels="id")
    assert targets(labels="id") == [list(map(float, range(60)))]
    assert targets(labels=[1, 0, 0], weights="id") == [*per_file, list(map(float, range(60)))]
    assert targets(labels=[1, 0, 0], weights={"*f002*": 2.5, "*": 1})[1] == [1.0] * 50 + [2.5] * 10


LABELS = {
    "event": np.array([2**31 + 1, 2**53 + 1, 7, 2**63 - 1], "i8"),
    "wide": np.array([2**63 + 5, 0, 1, 2], "u8"),
    "kind": np.array([2, 0, 1, 2], "i4"),
    "truth": np.array([True, False, False, True]),
    "side": np.array([-1, 1, 1, -1], "i2"),
    "mass": np.array([125.1, 0.1, 1e-3, 3.25], "f8"),
    "huge": np.array([1e300, 0, 0, 0], "f8"),
    "void": np.array([1, np.nan, 0, 0], "f4"),
}


def labels_of(tmp_path, name, **options):
    path = write_tree(tmp_path / "t.root", {"x": np.arange(4.0), **LABELS})
    specs = quiet(path, branches="x", labels=name)
    ds = RootDataset(path, specs, labels=name, shuffle=False, batch_size=4, **options)
    ((_, y),) = ds
    return y.numpy()


@pytest.mark.parametrize(
    ("name", "options", "dtype"),
    [
        ("event", {}, "int64"),  # float32 would round it, and its parity with it
        ("kind", {}, "int32"),  # three classes
        ("truth", {}, "float32"),
        ("side", {}, "float32"),
        ("mass", {}, "float32"),
        ("kind", {"label_dtype": "float32"}, "float32"),
        ("truth", {"label_dtype": "int64"}, "int64"),
    ],
)
def test_labels_come_in_a_dtype_that_holds_them(tmp_path, name, options, dtype):
    got = labels_of(tmp_path, name, **options)
    assert got.dtype == dtype
    assert got.tolist() == LABELS[name].astype(dtype).tolist()


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        (
            "event",
            {"label_dtype": "float32"},
            "'event' .*2147483649 does not fit in file .*entries 0 to 4.*label_dtype",
        ),
        ("event", {"label_dtype": "int32"}, "must keep its values in int32"),
        ("wide", {}, "must keep its values in int64: 9223372036854775813 does not fit"),
        ("mass", {"label_dtype": "int32"}, "must keep its values in int32: 125.1"),
        ("huge", {}, "'huge' must be finite in every event"),
        ("void", {}, "'void' must be finite in every event"),
    ],
)
def test_a_label_that_its_dtype_does_not_hold_is_an_error(tmp_path, name, options, says):
    with pytest.raises(LabelError, match=says):
        labels_of(tmp_path, name, **options)


def test_an_integer_weight_that_float32_rounds_is_an_error(tmp_path):
    path = write_tree(tmp_path / "t.root", {"x": np.arange(4.0), **LABELS})
    specs = quiet(path, branches="x", labels="kind", weights="event")
    assert [target.name for target in specs.targets] == ["kind", "event"]
    with pytest.raises(LabelError, match="'event' as label or weight must keep its values in float32"):
        list(RootDataset(path, specs, labels="kind", weights="event"))


def test_several_classes_by_file_are_integers(tmp_path):
    files = write_files(tmp_path, [3, 3, 3])
    ds = RootDataset(files, quiet(files), labels=[2, 0, 1], shuffle=False, batch_size=9)
    assert ds.element_spec[1].dtype == tf.int32
    assert next(iter(ds))[1].numpy().tolist() == [2, 2, 2, 0, 0, 0, 1, 1, 1]


def test_a_label_branch_that_the_specs_lack_is_scanned_alone_and_told(tmp_path):
    files = write_files(tmp_path, [30, 20])
    specs = quiet(files, exclude="id")
    with pytest.warns(DataWarning, match=r"the specs do not know id: read now .*scan\(\.\.\., labels="):
        ds = RootDataset(files, specs, labels="id")
    (target,) = ds.specs.targets
    assert (target.name, target.dtype, target.values, target.min, target.max) == ("id", "int32", 50, 0, 49)
    assert target.found == tuple((n, 1) for n in range(50))
    assert ds.element_spec[1].dtype == tf.int32  # 0 to 49, each


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"labels": {"*f000*": 1}}, LabelError, "no pattern of labels matches file .*f001.root"),
        ({"labels": {"*f000*": 1, "*.rot": 2, "*": 0}}, LabelError, r"'\*.rot' of labels matches none of the 2 files"),
        ({"labels": [1]}, LabelError, "one number per file: 1 for 2 files"),
        ({"labels": "idd"}, BranchError, r"no branch 'idd' \(did you mean 'id'\?\) for the labels"),
        ({"labels": "x"}, LabelError, "branch 'x' cannot be label or weight and a feature too"),
        ({"labels": "Jet_1"}, BranchError, "need one number per event: 'Jet_1' is jagged"),
        ({"weights": [1, 2]}, LabelError, "give labels= as well"),
        ({"batch_size": 0}, PlanError, "batch_size must be at least 1"),
        ({"chunk_size": -1}, PlanError, "chunk_size must be at least 1"),
        ({"normalize": "max"}, PlanError, "normalize must be"),
        ({"layout": "matrix"}, PlanError, "layout must be"),
        ({"layout": "ragged", "mask": True}, PlanError, "no padding to mask"),
    ],
)
def test_options_that_make_no_sense(tmp_path, options, error, says):
    files = write_files(tmp_path, [30, 20])
    with pytest.raises(error, match=says):
        RootDataset(files, quiet(files, exclude="Jet_1"), **options)


def test_specs_of_other_data_are_refused(tmp_path):
    (mine,) = write_files(tmp_path, [30])
    specs = quiet(mine)
    other = write_tree(tmp_path / "other.root", make_events(31, seed=9))
    with pytest.raises(SpecsError, match="belong to other data than file .*other.root.*scan these files"):
        RootDataset(other, specs)
    assert len(ids(plain(other, specs.unbound()))) == 31
    less = write_tree(tmp_path / "less.root", {name: np.arange(3, dtype="i4") for name in ("id", "NJet", "Jet_2")})
    says = (
        r"file .*less\.root, tree events lacks 4 of the 5 branches that the specs, and models trained with them, read: "
        r"'nJet' \(did you mean 'NJet'\?\), 'x', 'Jet_0', 'Jet_1'; what it has beside is 'NJet', 'Jet_2'; take files"
    )
    with pytest.raises(BranchError, match=says):
        RootDataset(less, specs.unbound())


def test_a_file_replaced_between_the_passes(tmp_path):
    (path,) = write_files(tmp_path, [30])
    specs = quiet(path)
    write_tree(path, make_events(30, seed=3))
    with pytest.raises(SpecsError, match="has changed since it was scanned"):
        list(RootDataset(path, specs))


def test_a_file_replaced_after_opening(tmp_path):
    (path,) = write_files(tmp_path, [30])
    ds = plain(path, quiet(path).unbound())
    write_tree(path, make_events(40, seed=3))
    with pytest.raises(InputFileError, match="was replaced, or written to, since it was first opened"):
        list(ds)


def test_a_file_that_ends_early_while_training(tmp_path):
    (path,) = write_files(tmp_path, [3000], basket=300)
    ds = plain(path, quiet(path).unbound(), batch_size=10)
    size = os.path.getsize(path)
    stamp = os.stat(path).st_mtime_ns
    with open(path, "r+b") as file:
        file.seek(size // 2)
        file.write(bytes(2000))
    os.utime(path, ns=(stamp, stamp))
    says = "cannot read file .*f000.root, tree events, entries"
    with pytest.raises(InputFileError, match=says) as caught:
        list(ds)
    assert "\n" not in str(caught.value)
    with pytest.raises(InputFileError, match=says):
        list(iter(iter(ds).get_next, None))


def test_an_iterator_is_tensorflows_own(tmp_path):
    """Keras hands iterators to a tf.function, which takes them apart and puts them together again."""
    (path,) = write_files(tmp_path, [30])
    iterator = iter(plain(path, quiet(path), batch_size=10))

    @tf.function
    def events(iterator):
        return tf.shape(next(iterator)) + tf.shape(iterator.get_next())

    assert isinstance(iterator, tf.data.Iterator)
    assert events(iterator)[0] == 20
    assert len(next(iterator)) == 10
    assert not iterator.get_next_as_optional().has_value()
    with pytest.raises(tf.errors.OutOfRangeError):
        iterator.get_next()
    with pytest.raises(StopIteration):
        next(iterator)


def test_specs_of_the_paper_apply(tmp_path):
    (path,) = write_files(tmp_path, [50])
    own = quiet(path, branches=["x", "Jet_0"])
    low = {b.name: b.min for b in own.branches}
    high = {b.name: b.max for b in own.branches}
    paper = from_paper(
        {"jdim": {"Jet_0": own.branches[1].length}, "minv": low, "maxv": high, "fkeys": ["x"], "jkeys": ["Jet_0"]}
    )
    ours = np.concatenate([x.numpy() for x in RootDataset(path, own, shuffle=False)])
    theirs = np.concatenate([x.numpy() for x in RootDataset(path, paper, shuffle=False)])
    assert np.array_equal(ours, theirs)
    with pytest.raises(SpecsError, match="normalize='standard' needs numbers that these specs lack for x, Jet_0"):
        list(RootDataset(path, paper, normalize="standard"))


def test_reader_processes_never_import_tensorflow(tmp_path):
    files = write_files(tmp_path, [100])
    list(plain(files, quiet(files), read=ReadOptions(workers=1)))
    modules = WorkerPool(ReadOptions(workers=1)).run(probe.loaded_modules)
    assert "mlaas4hep_tf.io.baskets" in modules  # it has read
    assert not [m for m in modules if m.split(".")[0] in ("tensorflow", "keras")]


def test_a_killed_reader_is_replaced_and_its_work_redone(tmp_path):
    files = write_files(tmp_path, [4000] * 5, basket=50)
    ds = plain(files, quiet(files), read=ReadOptions(workers=2), batch_size=100, chunk_size=1000)
    worker_pool = WorkerPool(ReadOptions(workers=2))
    stop = threading.Event()
    killed = []

    def kill():
        while not stop.is_set() and len(killed) < 3:
            time.sleep(0.2)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                pid = worker_pool.run(probe.pid)
            os.kill(pid, signal.SIGKILL)
            killed.append(pid)

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        delivered = [ids(ds) for _ in range(3)]
    finally:
        stop.set()
        thread.join()
    assert killed
    assert all(sorted(d) == list(range(20_000)) for d in delivered)


def test_user_executors_fit(tmp_path):
    from concurrent.futures import ThreadPoolExecutor

    files = write_files(tmp_path, [100, 50])
    with ThreadPoolExecutor(2) as executor:
        specs = scan(files, read=ReadOptions(executor=executor), progress=False)
        assert specs == quiet(files)
        assert sorted(ids(plain(files, specs, read=ReadOptions(executor=executor)))) == list(range(150))


def test_readers_find_files_after_a_change_of_folder(tmp_path, monkeypatch):
    write_files(tmp_path, [20])
    monkeypatch.chdir(tmp_path)
    ds = plain("f000.root", quiet("f000.root"))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert sorted(ids(ds)) == list(range(20))
    assert ds.files[0].url == "f000.root"


@pytest.mark.slow
def test_a_script_needs_no_main_guard(tmp_path):
    files = write_files(tmp_path, [100, 50])
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(f"""
        from mlaas4hep_tf import RootDataset, scan
        files = {files!r}
        ds = RootDataset(files, scan(files), labels=[1, 0])
        print("events", sum(len(y) for _, y in ds))
    """)
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.count("events 150") == 1, done.stderr
    assert done.returncode == 0


ENDLESS = """
import signal
from mlaas4hep_tf import RootDataset, scan
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a test in the background would not have
files = {files!r}
ds = RootDataset(files, scan(files, progress=False), batch_size=10)
print("reading", flush=True)
while True:
    for _ in ds:
        pass
"""


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT])
def test_no_process_and_no_memory_is_left_behind(tmp_path, sent):
    files = write_files(tmp_path, [2000, 1000], basket=100)
    script = subprocess.Popen(
        [sys.executable, "-c", ENDLESS.format(files=files)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert script.stdout is not None and script.stdout.readline() == b"reading\n"
    time.sleep(1)
    readers = psutil.Process(script.pid).children(recursive=True)
    assert readers
    pids = [script.pid, *(reader.pid for reader in readers)]
    end(script, sent)
    _, alive = psutil.wait_procs(readers, timeout=20)
    assert not alive
    assert not shared_memory_of(pids)


def end(script, sent):
    """Send it until the script ends: where Ctrl-C finds TensorFlow asking for the rank of a shape, TensorFlow drops it."""
    for _ in range(10):
        script.send_signal(sent)
        with contextlib.suppress(subprocess.TimeoutExpired):
            script.wait(5)
            return
    script.kill()
    pytest.fail("it does not end")


def shared_memory_of(pids):
    """What lies in /dev/shm under a name with the number of one of the processes; others use it as they like."""
    return [name for name in os.listdir("/dev/shm") if {int(number) for number in re.findall(r"\d+", name)} & {*pids}]


def test_errors_are_ours_also_inside_keras(tmp_path):
    import keras

    from mlaas4hep_tf.train import fit

    (path,) = write_files(tmp_path, [100])
    ds = RootDataset(path, quiet(path), labels=[1])
    os.remove(path)
    model = keras.Sequential([keras.layers.Dense(1, activation="sigmoid")])
    model.compile(loss="binary_crossentropy")
    with pytest.raises(MlaasError, match="cannot read file .*FileNotFoundError"):
        fit(model, ds, epochs=1)


def test_many_files_are_not_open_at_once(tmp_path):
    files = write_files(tmp_path, [20] * 70, basket=20)
    for number in range(70, 90):  # files that uproot reads
        path = tmp_path / f"f{number:03d}.root"
        with uproot.recreate(path) as file:
            file.mkrntuple("events", {"x": np.arange(20.0, dtype="f4"), "id": np.arange(20, dtype="i4")})
        files.append(str(path))
    seen, done = [0], threading.Event()

    def look():
        own = psutil.Process()
        while not done.wait(0.005):
            paths = (f.path for p in (own, *own.children(recursive=True)) for f in open_files(p))
            seen.append(sum(path.startswith(str(tmp_path)) for path in paths))

    def open_files(process):
        try:
            return process.open_files()
        except psutil.NoSuchProcess:
            return []

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        specs = scan(files, branches="x,id", progress=False, read=ReadOptions(workers=2))
        assert sum(len(batch) for batch in RootDataset(files, specs, read=ReadOptions(workers=2))) == 90 * 20
    finally:
        done.set()
        watcher.join()
    assert len(seen) > 3
    assert max(seen) <= 64


def read_all(files, specs):
    return sum(len(batch) for batch in RootDataset(files, specs, read=ReadOptions(workers=1)))


@pytest.mark.slow
def test_a_process_of_multiprocessing_ends_with_its_work(tmp_path):
    files = write_files(tmp_path, [30])
    specs = scan(files, progress=False)
    process = multiprocessing.get_context("spawn").Process(target=read_all, args=(files, specs))
    process.start()
    process.join(60)  # readers are kept for two minutes of idleness
    assert process.exitcode == 0


def test_a_dataset_introduces_itself_in_one_line_and_in_a_table(demo_files, demo_specs):
    ds = RootDataset(demo_files, demo_specs, labels={"*signal*": 1, "*": 0}, batch_size=100)
    train, _ = ds.split(0.5, 0.5)
    assert repr(ds) == (
        "<RootDataset 8,522 events of 9 files in batches of 100: vector (any, 508) float32, label (any,) float32>"
    )
    assert "4,261 events" in repr(train)
    assert "and 67 more" in repr(RootDataset(demo_files, demo_specs, labels=[0] * 9, layout="columns"))
    table = ET.fromstring(f"<body>{train._repr_html_()}</body>")  # well-formed
    rows = [["".join(cell.itertext()) for cell in row] for row in table.iter("tr")]
    of_files = {row[0]: row[1:] for row in rows if row[0].endswith(".root")}
    assert list(of_files) == demo_files
    assert sum(int(events.replace(",", "")) for events, _ in of_files.values()) == 4261
    assert of_files[next(f for f in demo_files if "signal" in f)][1] == "1"
    assert ["vector", "(any, 508)", "float32"] in rows


def test_a_cut_on_a_count_in_its_own_unit(demo_files, demo_specs):
    counts = np.concatenate([uproot.open(f"{file}:events")["nLepton"].array(library="np") for file in demo_files])
    ds = RootDataset(
        demo_files, demo_specs, labels=[0] * 9, layout="columns", normalize={"nLepton": None, "*": "minmax"},
    )  # fmt: skip
    chosen = [float(x["ht"]) for x, _ in ds.unbatch().filter(lambda x, y: x["nLepton"] >= 2)]
    assert len(chosen) == (counts >= 2).sum() > 0
    assert 0 <= min(chosen) < max(chosen) <= 1


@pytest.mark.slow
def test_keras_does_not_complain_of_shuffle(tmp_path):
    code = """
        import sys, warnings
        import keras
        from mlaas4hep_tf import RootDataset, models, scan

        specs = scan(sys.argv[1], progress=False)
        with warnings.catch_warnings(record=True) as said:
            models.build("mlp", specs).fit(RootDataset(sys.argv[1], specs, labels=[1]), verbose=0)
        assert not [str(one.message) for one in said if "shuffle" in str(one.message)]
    """
    (file,) = write_files(tmp_path, [64])
    subprocess.run([sys.executable, "-c", textwrap.dedent(code), file], check=True, timeout=120)


def test_even_shards_have_the_same_number_of_events_and_share_none(demo_files, demo_specs):
    ds = RootDataset(demo_files, demo_specs, batch_size=64)
    shards = [ds.shard(5, index, even=True) for index in range(5)]
    assert [shard.entries for shard in shards] == [ds.entries // 5] * 5
    seen = [
        {(block.file, entry) for block in s.plan.in_order() for entry in range(block.start, block.stop)} for s in shards
    ]
    assert sum(map(len, seen)) == len(set().union(*seen)) == ds.entries // 5 * 5


def test_even_shards_where_blocks_may_be_skipped_are_refused(demo_files, demo_specs):
    ds = RootDataset(demo_files, demo_specs, read=ReadOptions(on_bad_file="skip"))
    with pytest.raises(PlanError, match="even shards"):
        ds.shard(2, 0, even=True)


def test_objects_by_group_against_awkward(tmp_path):
    path = write_tree(tmp_path / "t.root", make_events(250, groups={"Jet": 3, "Mu": 1}))
    specs = quiet(str(path)).with_lengths(quantile=0.9)
    ds = RootDataset(str(path), specs, layout="objects", normalize=None, shuffle=False, batch_size=100)
    arrays = uproot.open(path)["events"].arrays()
    got = [{name: part.numpy() for name, part in x.items()} for x in ds]
    assert set(got[0]) == {"Jet", "Jet_mask", "Mu", "Mu_mask", "flat"}
    for group, branches in (("Jet", ("Jet_0", "Jet_1", "Jet_2")), ("Mu", ("Mu_0",))):
        length = specs[branches[0]].length
        padded = [ak.to_numpy(ak.fill_none(ak.pad_none(arrays[b], length, clip=True), 0)) for b in branches]
        np.testing.assert_array_equal(np.concatenate([x[group] for x in got]), np.stack(padded, axis=2))
        there = np.arange(length) < np.minimum(ak.num(arrays[branches[0]]), length).to_numpy()[:, np.newaxis]
        np.testing.assert_array_equal(np.concatenate([x[f"{group}_mask"] for x in got]), there)
    flat = np.stack([arrays[b.name].to_numpy() for b in specs.flat], axis=1)
    np.testing.assert_array_equal(np.concatenate([x["flat"] for x in got]), flat.astype(np.float32))


@pytest.mark.parametrize("layout", ["vector", "objects", "ragged"])
def test_batches_of_one_shape_leave_out_the_remainder(tmp_path, layout):
    path = write_tree(tmp_path / "t.root", make_events(250))
    specs = quiet(str(path))
    ds = RootDataset(str(path), specs, layout=layout, normalize=None, batch_size=100, drop_remainder=True)
    assert (len(ds), ds.dropped, ds.entries) == (2, 50, 250)
    rows = [
        [len(part) if layout == "vector" else part["flat" if layout == "objects" else "x"].shape[0] for part in ds]
        for _ in range(2)
    ]
    assert rows == [[100, 100]] * 2
    if layout == "vector":
        assert ds.element_spec.shape[0] == 100
    assert len(ds.in_order()) == 3
    with pytest.raises(PlanError, match="fill no batch"):
        RootDataset(str(path), specs, batch_size=300, drop_remainder=True)
