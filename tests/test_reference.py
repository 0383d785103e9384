"""Reference histograms of the inputs, against NumPy and awkward."""

import awkward as ak
import numpy as np
import pytest
import uproot
from helpers.streams import quiet_scan

from mlaas4hep_tf import scan
from mlaas4hep_tf.errors import MlaasError
from mlaas4hep_tf.reference import cells, reference
from mlaas4hep_tf.testing import make_events, write_tree


def expected(values, low, high):
    flat = ak.to_numpy(ak.flatten(values, axis=None)).astype(np.float64)
    finite = flat[np.isfinite(flat)]
    inside = np.histogram(finite, 50, (low, high))[0]
    return [int((finite < low).sum()), *inside.tolist(), int((finite > high).sum()), len(flat) - len(finite)]


def test_histograms_of_all_events(demo_files, demo_specs):
    events = uproot.concatenate([f"{file}:events" for file in demo_files], list(demo_specs))
    found = reference(demo_files, demo_specs)
    assert (found["events"], set(found["inputs"])) == (len(events), set(demo_specs))
    for name, one in found["inputs"].items():
        assert one["range"] == [demo_specs[name].min, demo_specs[name].max]
        if not demo_specs[name].constant:  # which NumPy puts in the middle
            assert one["all"] == expected(events[name], *one["range"])


def test_histograms_of_the_events_that_pass(demo_files):
    specs = scan(demo_files, "events", branches=["met", "Jet_pt"], select=["ht > 300"], progress=False)
    events = uproot.concatenate([f"{file}:events" for file in demo_files], ["met", "Jet_pt", "ht"])
    found = reference(demo_files, specs)["inputs"]
    assert 0 < sum(found["met"]["passing"]) == ak.sum(events.ht > 300) < len(events)
    for name, one in found.items():
        assert one["all"] == expected(events[name], *one["range"])
        assert one["passing"] == expected(events[name][events.ht > 300], *one["range"])


def test_branches_of_friends(tmp_path):
    events = make_events(500)
    file = str(write_tree(tmp_path / "f.root", events))
    friend = str(write_tree(tmp_path / "scores.root", {"nn": 2 * events["x"] + 1}, tree="Friends"))
    specs = quiet_scan([file], friends={"scores": [friend]})
    found = reference([file], specs)["inputs"]["scores.nn"]
    assert found["all"] == expected(uproot.open(f"{friend}:Friends")["nn"].array(), *found["range"])


def test_some_of_many_events(demo_files, demo_specs):
    some = reference(demo_files, demo_specs, events=500)["events"]
    assert 0 < some < demo_specs.entries


def test_beyond_the_range_and_missing():
    values = np.array([-2, 0, 1, 2, 3, np.nan, -np.inf], np.float32)
    assert cells(values, 0, 2).tolist() == expected(values, 0, 2)
    assert cells(np.ones(3), 1, 1)[:2].tolist() == [0, 0] and cells(np.ones(3), 1, 1).sum() == 3  # a constant


def test_files_that_are_not_there(demo_specs):
    with pytest.raises(MlaasError, match=r"gone\.root"):
        reference("gone.root", demo_specs)
