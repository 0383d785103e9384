"""Transformations against their definition by hand."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from mlaas4hep_tf.errors import PlanError
from mlaas4hep_tf.transforms.mask import mask_missing
from mlaas4hep_tf.transforms.normalize import Normalize, by_branch, check_normalize, constants, normalize_columns
from mlaas4hep_tf.transforms.pad import pad, pad_by_value, resize, sentinel

NAN = float("nan")


def pad_lists(lists, length, pad=pad):
    """`pad` fed with lists of objects of two features each."""
    values = np.array([obj for event in lists for obj in event], np.float32).reshape(-1, 2)
    counts = np.array([len(event) for event in lists], np.int32)
    starts = np.concatenate([[1], 1 + np.cumsum(counts)[:-1]]).astype(np.int32)
    return pad(sentinel(tf.constant(values)), tf.constant(starts), tf.constant(counts), length).numpy()


def test_short_lists_are_filled_and_long_ones_cut():
    got = pad_lists([[], [(1, 2)], [(3, 4), (5, 6), (7, 8)]], 2)
    want = [[[NAN, NAN]] * 2, [[1, NAN], [2, NAN]], [[3, 5], [4, 6]]]
    assert np.array_equal(got, np.array(want, np.float32), equal_nan=True)


@given(st.lists(st.lists(st.tuples(st.floats(width=32), st.floats(width=32)), max_size=5), min_size=1),
       st.integers(0, 4))  # fmt: skip
def test_padding_for_a_compiler_gives_the_same_bits(lists, length):
    rows, values = (pad_lists(lists, length, how).view(np.int32) for how in (pad, pad_by_value))
    assert np.array_equal(rows, values)


@pytest.mark.parametrize("lists", [[[], []], [[(1, 2)]]])
def test_no_object_or_no_length(lists):
    assert np.isnan(pad_lists([[]] * len(lists), 3)).all()
    assert pad_lists(lists, 0).shape == (len(lists), 2, 0)


@given(st.lists(st.lists(st.tuples(st.floats(-9, 9, width=32), st.floats(-9, 9, width=32)), max_size=5), min_size=1),
       st.integers(0, 4), st.integers(0, 4))  # fmt: skip
def test_longer_padding_only_adds_nan(lists, length, more):
    short, long = pad_lists(lists, length), pad_lists(lists, length + more)
    assert np.array_equal(long[:, :, :length], short, equal_nan=True)
    for event, row in zip(lists, long[:, :, length:], strict=True):
        assert np.isnan(row[:, max(len(event) - length, 0) :]).all()


@pytest.mark.parametrize(("width", "length"), [(0, 2), (1, 2), (2, 2), (4, 2), (3, 0)])
def test_resize(width, length):
    given_rows = np.arange(2 * width, dtype=np.float32).reshape(2, width)
    got = resize(tf.constant(given_rows), length).numpy()
    assert got.shape == (2, length)
    assert np.array_equal(got[:, : min(width, length)], given_rows[:, :length])
    assert np.isnan(got[:, width:]).all()


def test_true_means_real():
    values, mask = mask_missing(tf.constant([0.0, NAN, np.inf, -np.inf, -3.0]))
    assert values.numpy().tolist() == [0, 0, 0, 0, -3]
    assert mask.numpy().tolist() == [True, False, False, False, True]


def test_normalisation_is_offset_and_scale():
    got = normalize_columns(
        tf.constant([[3.0, NAN]]), np.array([1, 1], np.float32), np.array([4, 4], np.float32)
    ).numpy()
    assert got[0, 0] == 0.5
    assert np.isnan(got[0, 1])


def test_a_method_for_each_branch(demo_specs):
    given: Normalize = {"*": "minmax", "n*": None, "Jet_pt": "standard"}  # a name before a pattern, else the first
    assert dict(zip(demo_specs, by_branch(demo_specs, given), strict=True)) == {
        name: "standard" if name == "Jet_pt" else "minmax" for name in demo_specs
    }
    methods = dict(zip(demo_specs, by_branch(demo_specs, {"n*": None, "*": "minmax"}), strict=True))
    assert {name for name, method in methods.items() if method is None} == {
        "nBJet", "nFatJet", "nJet", "nLepton", "nPair"
    }  # fmt: skip
    offset, scale = constants(demo_specs, given)
    first = demo_specs.vector_names.index("Jet_pt_0")
    pt = demo_specs["Jet_pt"]
    assert (offset[first], scale[first]) == pytest.approx((pt.mean, pt.variance**0.5))
    assert (offset[0], scale[0]) == pytest.approx((demo_specs["btag1"].min, 0.5), rel=1e-3)  # of 0.5 to 1


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"nJet": None}, "says nothing of btag1"),
        ({"njet": None, "*": "minmax"}, r"'njet' matches no branch of the specs \(did you mean 'nJet'"),
    ],
)
def test_methods_fit_the_branches(demo_specs, given, says):
    with pytest.raises(PlanError, match=says):
        by_branch(demo_specs, given)


@pytest.mark.parametrize("given", ["max", {"*": "max"}])
def test_methods_are_known(given):
    with pytest.raises(PlanError, match="'minmax', 'standard' or None"):
        check_normalize(given)
