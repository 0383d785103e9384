"""The basket decoder against uproot: bit-exact for every dtype, compression and basket size."""

from itertools import pairwise

import awkward as ak
import numpy as np
import pytest
from helpers.agreement import assert_like_uproot
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlaas4hep_tf.io.basket_index import BranchBaskets, BranchIndex, build_index
from mlaas4hep_tf.io.baskets import coalesce, decompress, plain_basket, read_columns
from mlaas4hep_tf.io.branches import Selection
from mlaas4hep_tf.io.files import Source
from mlaas4hep_tf.io.inspection import inspect
from mlaas4hep_tf.io.reader import read
from mlaas4hep_tf.testing import COMPRESSIONS, write_tree

DTYPES = ["bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float32", "float64"]
EVERYTHING = Selection((), (), ())


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    counts=st.lists(st.integers(0, 6), min_size=1, max_size=60),
    compression=st.sampled_from(sorted(COMPRESSIONS)),
    basket=st.integers(1, 70),
    seed=st.integers(0, 99),
    data=st.data(),
)
def test_synthetic_trees(tmp_path, counts, compression, basket, seed, data):
    rng = np.random.default_rng(seed)
    entries, total = len(counts), sum(counts)
    branches = {f"flat_{d}": rng.integers(0, 256, entries * np.dtype(d).itemsize, np.uint8).view(d) for d in DTYPES[1:]}
    branches["flat_bool"] = rng.integers(0, 2, entries).astype(bool)
    branches["fixed"] = rng.normal(size=(entries, 3)).astype("float32")
    jagged = {d: ak.unflatten(rng.integers(0, 100, total).astype(d), counts) for d in DTYPES[1:]}
    branches["Obj"] = ak.zip(jagged)
    path = write_tree(tmp_path / "t.root", branches, compression=compression, basket=basket)
    start = data.draw(st.integers(0, entries))
    stop = data.draw(st.integers(start, entries))
    assert_like_uproot(path, "events", 0, entries)
    assert_like_uproot(path, "events", start, stop)


@pytest.mark.parametrize("compression", sorted(COMPRESSIONS))
def test_baskets_of_several_compression_blocks(tmp_path, compression):
    rng = np.random.default_rng(0)
    n = 4_500_000  # 18 MB of float32: more than the 16 MiB that one block holds
    values = rng.integers(0, 50, n).astype(np.float32)
    path = write_tree(tmp_path / "big.root", {"x": values}, compression=compression)
    file = inspect(Source(str(path)), EVERYTHING)
    got = read(file, 0, n, ["x"])
    assert np.array_equal(np.concatenate(got.values["x"]), values)


@pytest.mark.slow
def test_every_real_file_like_uproot(real_files):
    fast = {}
    for path in sorted(real_files.glob("*.root")):
        file = inspect(Source(str(path)), EVERYTHING)
        assert_like_uproot(path, file.tree, 0, file.num_entries, expect_fast=False)
        assert_like_uproot(path, file.tree, file.num_entries // 3, file.num_entries // 2, expect_fast=False)
        fast[path.name] = len(file.index.names)
    assert fast["uproot-HZZ.root"] == 51
    assert fast["uproot-HZZ-objects.root"] == 47  # std::vector branches, with headers, and members of objects
    assert fast["nanoAOD_2015_CMS_Open_Data_ttbar.root"] == 947  # each with a basket recovered from the header
    assert fast["uproot-double32-float16.root"] == 12


@given(stored=st.lists(st.integers(0, 4), min_size=1, max_size=8), recovered=st.lists(st.integers(0, 4), max_size=8),
       jagged=st.booleans(), data=st.data())  # fmt: skip
def test_recovered_baskets_follow_those_in_the_file(stored, recovered, jagged, data):
    counts = stored + recovered if jagged else [1] * len(stored + recovered)
    values = np.arange(sum(counts), dtype=">f4")
    ends = np.concatenate([[0], np.cumsum(counts)])

    def basket(start, stop):
        part = values[ends[start] : ends[stop]].view(np.uint8)
        offsets = 4 * (ends[start : stop + 1] - ends[start]).astype(np.int32)
        return plain_basket(part, offsets if jagged else None, stop - start)

    first, last = len(stored), len(counts)
    in_file = b"....." + basket(0, first)
    index = build_index([
        BranchBaskets(
            BranchIndex("x", ">f4", jagged), np.array([5]), np.array([len(in_file) - 5]), entry_offsets, inline
        )
        for entry_offsets, inline in [(np.array([0, first, last]), (basket(first, last),))] * 2
    ])  # fmt: skip
    start = data.draw(st.integers(0, last))
    stop = data.draw(st.integers(start, last))
    part = index.part(["x"], start, stop)
    decoded, groups = read_columns(
        lambda spans: [memoryview(in_file)[a : a + n] for a, n in spans],
        part,
        start,
        stop,
        {"x": "x"} if jagged else {},
    )
    columns = dict(decoded)
    assert np.concatenate([np.empty(0), *columns["x"]]).tolist() == values[ends[start] : ends[stop]].tolist()
    assert not jagged or groups["x"].counts.tolist() == counts[start:stop]


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=12), st.integers(0, 12), st.data()
)
def test_branches_of_a_group_are_told_apart_wherever_they_differ(counts, cut, data):
    last, cut = len(counts), min(cut, len(counts))
    start = data.draw(st.integers(0, last))
    stop = data.draw(st.integers(start, last))

    def baskets(name, dtype, own, edges):
        raw = []
        for begin, end in pairwise(edges):
            offsets = np.concatenate([[0], np.cumsum(own[begin:end])]).astype(np.int32) * np.dtype(dtype).itemsize
            raw.append(plain_basket(np.zeros(offsets[-1], np.uint8), offsets, end - begin))
        return BranchBaskets(BranchIndex(name, dtype, True), np.zeros(0), np.zeros(0), np.array(edges), tuple(raw))

    a, b = [first for first, _ in counts], [second for _, second in counts]
    index = build_index([baskets("a", ">f4", a, [0, cut, last]), baskets("b", ">i2", b, [0, last])])
    part = index.part(["a", "b"], start, stop)
    groups = {"a": "n", "b": "n"}
    if a[start:stop] == b[start:stop]:
        assert read_columns(lambda _: [], part, start, stop, groups)[1]["n"].counts.tolist() == a[start:stop]
    else:
        with pytest.raises(ValueError, match="must agree in every event"):
            dict(read_columns(lambda _: [], part, start, stop, groups)[0])


@pytest.mark.parametrize(
    ("blocks", "size", "says"),
    [
        (b"ZL\x08\x05\x00\x00\x09\x00\x00", 9, "ends too early"),
        (b"QQ\x00\x01\x00\x00\x01\x00\x00x", 1, "unknown compression"),
        (b"L4\x01\x09\x00\x00\x01\x00\x00" + bytes(8) + b"x", 1, "checksum"),
    ],
)
def test_damaged_blocks(blocks, size, says):
    with pytest.raises(ValueError, match=says):
        decompress(memoryview(blocks), size)


@given(st.lists(st.tuples(st.integers(0, 10**7), st.integers(0, 10**5)), max_size=30))
def test_every_span_lies_in_its_request(spans):
    requests = coalesce(spans)
    members = sorted(m for _, _, numbers in requests for m in numbers)
    assert members == list(range(len(spans)))
    for seek, size, numbers in requests:
        for number in numbers:
            assert seek <= spans[number][0]
            assert spans[number][0] + spans[number][1] <= seek + size
