"""Inputs by class in the report, against numbers by hand."""

import awkward as ak
import numpy as np
import pytest
import uproot
from helpers.streams import quiet_scan

from mlaas4hep_tf.runs import RunConfig
from mlaas4hep_tf.runs.inputs import distributions, histograms
from mlaas4hep_tf.testing import make_events, write_tree

NAN = np.nan


def test_objects_count_with_the_weight_of_their_event():
    values = np.array([[1.0, 2, NAN], [2, 2, 4], [NAN, NAN, NAN], [3, NAN, NAN]])
    found = histograms(values, np.array([0.0, 1, 1, 0]), np.array([1.0, 2, 5, -1]), 2)
    assert found["edges"] == [0.5, 1.5, 2.5, 3.5, 4.5]  # whole numbers have a bin each
    assert found["content"] == [[1, 1, -1, 0], [0, 4, 0, 2]]


def test_other_numbers_have_equal_bins_without_the_ends_of_the_tails():
    values = np.r_[np.linspace(0, 1, 1001), 1e6][:, None]
    found = histograms(values, np.zeros(1002), np.ones(1002), 1)
    edges = np.array(found["edges"])
    assert edges[[0, -1]] == pytest.approx(np.quantile(values, [0.005, 0.995]))
    assert np.ptp(np.diff(edges)) < 1e-9
    assert sum(found["content"][0]) == 990  # 0.006 ... 0.995
    same = histograms(np.full((4, 1), 0.25), np.zeros(4), np.ones(4), 1)
    assert sum(same["content"][0]) == 4


@pytest.mark.parametrize("layout", ["vector", "objects"])
def test_values_are_those_of_the_files(layout, tmp_path):
    files = []
    for n, name in enumerate(("background", "signal")):
        events = make_events(300, seed=n)
        events["x"] = events["x"] + np.float32(5 * n)
        files.append(str(write_tree(tmp_path / f"{name}.root", events)))
    specs = quiet_scan(files, exclude="id")
    config = RunConfig(tuple(files), [0, 1], model="set", layout=layout, normalize="standard", split=(0.01, 0.01, 0.98))
    x, jets, counts = distributions(config, specs, ("background", "signal"), ["x", "none", "Jet_0", "nJet"])
    assert {edge % 1 for edge in counts["edges"]} == {0.5}
    assert (x["branch"], jets["branch"]) == ("x", "Jet_0")
    for label, file in enumerate(files):
        tree = uproot.open(file)["events"]
        for found, values in (
            (x, tree["x"].array(library="np")),
            (jets, np.asarray(ak.flatten(tree["Jet_0"].array()))),
        ):
            wanted = np.histogram(values, found["edges"])[0]  # of all events, of which 2 % are not in the test
            assert np.abs(np.array(found["content"][label]) - wanted).sum() < 0.06 * wanted.sum()
