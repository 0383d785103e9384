"""What an analysis does with events, by both interpreters, against Awkward Array by hand; and what it cannot mean."""

import pickle

import awkward as ak
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from mlaas4hep_tf.analysis.applied import Applied
from mlaas4hep_tf.analysis.rules import analysis
from mlaas4hep_tf.analysis.steps import group_names, mentioned, steps_of
from mlaas4hep_tf.errors import ConfigError, ExpressionError
from mlaas4hep_tf.expressions.by_numpy import NumPy
from mlaas4hep_tf.expressions.by_tensorflow import TensorFlow
from mlaas4hep_tf.io.branches import BranchInfo

INFOS = (
    BranchInfo("nJet", "int32_t", "flat", "int32"),
    BranchInfo("met", "float", "flat", "float32"),
    BranchInfo("Jet_pt", "float[]", "jagged", "float32", "nJet"),
    BranchInfo("Jet_eta", "float[]", "jagged", "float32", "nJet"),
    BranchInfo("Lepton.pt", "float[]", "jagged", "float32", "Lepton"),
)
JETS = ak.Array([[10.0, 40.0, 50.0], [], [35.0, 70.0, np.nan, 35.0]])
ETAS = ak.Array([[1.0, 2.0, 3.0], [], [4.0, 5.0, 6.0, 7.0]])
LEPTONS = ak.Array([[5.0], [1.0, 2.0], []])
VALUES = {
    "nJet": np.array([3, 0, 4], np.int32),
    "met": np.array([1, 2, 3], np.float32),
    "Jet_pt": np.float32(ak.flatten(JETS)),
    "Jet_eta": np.float32(ak.flatten(ETAS)),
    "Lepton.pt": np.float32(ak.flatten(LEPTONS)),
}
COUNTS = {"Jet": np.array([3, 0, 4]), "Lepton": np.array([1, 2, 0])}


def applied(by, **said):
    steps = pickle.loads(pickle.dumps(steps_of(analysis(**said), INFOS)))  # as it comes to a reader process
    if by == "numpy":
        return steps, Applied(steps, NumPy(), VALUES, COUNTS, 3)
    counts = {name: tf.constant(n) for name, n in COUNTS.items()}
    return steps, Applied(steps, TensorFlow(), {n: tf.constant(v) for n, v in VALUES.items()}, counts, 3)


@pytest.fixture(params=["numpy", "tensorflow"])
def by(request):
    return request.param


def test_objects_are_cut_and_counters_follow(by):
    _, events = applied(by, objects={"nJet": "Jet_pt > 30"}, define={"kept": "nJet", "there": "raw(nJet)"})
    kept = JETS > 30
    np.testing.assert_array_equal(events["Jet_pt"], ak.flatten(JETS[kept]))
    np.testing.assert_array_equal(events["Jet_eta"], ak.flatten(ETAS[kept]))
    np.testing.assert_array_equal(events["kept"], ak.sum(kept, axis=1))
    np.testing.assert_array_equal(events["nJet"], [2, 0, 3])
    np.testing.assert_array_equal(events["there"], [3, 0, 4])
    np.testing.assert_array_equal(events["Lepton.pt"], VALUES["Lepton.pt"])


def test_each_cut_sees_the_groups_before_it_already_cut(by):
    cut = {"Lepton": "`Lepton.pt` < 2 and nJet < 3", "Jet": "Jet_pt > count(`Lepton.pt`) * 36"}
    _, events = applied(by, objects=cut)
    np.testing.assert_array_equal(events.counts["Lepton"], [0, 1, 0])  # nJet is not cut yet
    np.testing.assert_array_equal(events.counts["Jet"], [3, 0, 3])  # NaN is not greater than 0
    _, turned = applied(by, objects=dict(reversed(cut.items())))
    np.testing.assert_array_equal(turned.counts["Jet"], [2, 0, 3])
    np.testing.assert_array_equal(turned.counts["Lepton"], [0, 1, 0])


def test_order_is_stable_and_nan_comes_last(by):
    _, events = applied(by, order={"Jet": "-Jet_pt"})
    np.testing.assert_array_equal(events["Jet_eta"], [3, 2, 1, 5, 4, 7, 6])
    _, rising = applied(by, order={"Jet": "Jet_pt"}, objects={"Jet": "Jet_eta > 1"})
    np.testing.assert_array_equal(rising["Jet_eta"], [2, 3, 4, 7, 5, 6])


def test_derived_branches_use_those_before_them(by):
    said = {"ht": "sum(Jet_pt[Jet_pt > 0])", "share": "Jet_pt / ht", "twice": "2 * ht", "lead": "Jet_pt[0]"}
    steps, events = applied(by, define=said)
    ht = np.array([100, 0, 140], np.float32)
    np.testing.assert_array_equal(events["ht"], ht)
    np.testing.assert_array_equal(events["twice"], 2 * ht)
    np.testing.assert_array_equal(events["lead"], np.array([10, np.nan, 35], np.float32))
    np.testing.assert_array_equal(events["share"], np.float32(ak.flatten(JETS / ht)))
    described = {info.name: (info.kind, info.dtype, info.group) for info in steps.defined}
    assert described["share"] == ("jagged", "float32", "nJet")
    assert described["ht"] == ("flat", "float32", "ht")


def test_conditions_on_events(by):
    steps, events = applied(by, select=["nJet > 0", "met"], train_select="met < 3")
    held = [np.asarray(one).tolist() for one in events.truths((*steps.select, *steps.train_select))]
    assert held == [[True, False, True], [True, True, True], [True, True, False]]


def test_what_is_read_and_what_is_served():
    rules = analysis(objects={"Jet": "Jet_pt > 30"}, define={"x": "raw(nJet)"}, select="x > 1", train_select="met > 0")
    steps = steps_of(rules, INFOS)
    assert [info.name for info in steps.inputs] == ["met", "Jet_pt"]
    assert [info.name for info in steps.served] == ["Jet_pt"]
    assert steps.reads(["nJet", "Lepton.pt", "x"]) == ["met", "Jet_pt", "Lepton.pt"]
    assert mentioned(rules, ["nJet", "met", "Jet_pt", "Jet_eta", "Jets"]) == ("nJet", "met", "Jet_pt")
    assert steps_of(analysis(select="nJet % 2 == 0"), INFOS).integers == {"nJet"}


@pytest.mark.parametrize(
    ("names", "group"),
    [
        (["Jet_pt", "Jet_btag_x"], "Jet"), (["Jet_btag_x"], "Jet"), (["Jets.fCoordinates.fX", "Jets.fCoordinates.fY"],
        "Jets.fCoordinates"), (["pt"], "n"), (["a_x", "b_x"], "n"),
    ],
)  # fmt: skip
def test_a_group_is_called_by_the_common_prefix_of_its_branches(names, group):
    assert group_names([BranchInfo(name, "", "jagged", "float32", "n") for name in names]) == {"n": group}


@pytest.mark.parametrize(
    ("said", "error", "text"),
    [
        ({"objects": {"Jat": "Jet_pt > 3"}}, ConfigError, "no group 'Jat'.*'Jet'"),
        ({"objects": {"Jet": "met > 3"}}, ConfigError, "objects of 'Jet' need a value for each of its objects"),
        ({"order": {"Jet": "`Lepton.pt`"}}, ConfigError, "is of 'Lepton'"),
        ({"define": {"met": "1"}}, ConfigError, "'met' is the name of a branch"),
        ({"define": {"a b": "1"}}, ConfigError, "letters, digits and _"),
        ({"define": {"a": "b", "b": "1"}}, ExpressionError, "no branch 'b'"),
        ({"select": "Jet_pt > 3"}, ConfigError, "say any\\(...\\) or all\\(...\\)"),
        ({"select": "raw(met) > 3"}, ExpressionError, "raw takes the counter of a group, one of nJet"),
        ({"objects": {"Jet": "Jet_pt > `Lepton.pt`"}}, ExpressionError, "objects of 'Jet' and 'Lepton' meet"),
    ],
)  # fmt: skip
def test_what_it_cannot_mean(said, error, text):
    with pytest.raises(error, match=text):
        steps_of(analysis(**said), INFOS)


@given(st.lists(st.lists(st.sampled_from([1.0, 2.0, np.nan, np.inf, -np.inf, 0.0, -0.0]), max_size=5), max_size=6))
def test_both_interpreters_order_alike(lists):
    keys, counts = (
        np.array([key for own in lists for key in own], np.float64),
        np.array([len(own) for own in lists], np.int64),
    )
    found = NumPy().sorted(keys, counts)
    np.testing.assert_array_equal(TensorFlow().sorted(tf.constant(keys), tf.constant(counts)), found)
    ends = np.cumsum([0, *counts])
    want = [start + np.argsort(own, kind="stable") for start, own in zip(ends, map(np.float64, lists), strict=False)]
    np.testing.assert_array_equal(found, np.concatenate([np.zeros(0, int), *want]))
