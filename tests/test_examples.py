"""The event that specs keep of the data."""

import json
import warnings

import numpy as np
import uproot

from mlaas4hep_tf import Specs, scan
from mlaas4hep_tf.examples import example_event
from mlaas4hep_tf.io.branches import BranchInfo

INFOS = [
    BranchInfo("met", "", "flat", "float32"),
    BranchInfo("n", "", "flat", "int32"),
    BranchInfo("Jet_pt", "", "jagged", "float32", "nJet"),
    BranchInfo("Mu_pt", "", "jagged", "float32", "nMu"),
]


def event_of(jets, muons):
    counts = {"nJet": np.array([len(j) for j in jets]), "nMu": np.array([len(m) for m in muons])}
    values = {
        "met": [np.array([0.1, np.nan], ">f4"), np.array([0.3, np.inf], ">f4")],
        "n": [np.arange(4, dtype="i4")],
        "Jet_pt": [np.array([x for j in jets for x in j], "f4")],
        "Mu_pt": [np.array([x for m in muons for x in m], "f4")],
    }
    return example_event(INFOS, values, counts)


def test_the_smallest_event_of_those_with_the_most_objects_of_every_kind():
    got = event_of([[1.5], [1, 2], [3.1], []], [[], [4], [5], [6]])
    assert got == {"met": 0.3, "n": 2, "Jet_pt": [3.1], "Mu_pt": [5.0]}
    assert json.dumps(got["met"]) == "0.3"  # the digits of float32


def test_what_is_not_finite_is_none():
    assert event_of([[], [np.nan], [], []], [[], [4], [], []]) == {"met": None, "n": 1, "Jet_pt": [None], "Mu_pt": [4]}


def test_specs_keep_an_event_of_the_data(demo_files, demo_specs, tmp_path):
    events = uproot.concatenate([f"{file}:events" for file in demo_files]).to_list()
    example = demo_specs.example
    assert list(example) == list(demo_specs)
    alike = [e for e in events if np.float32(example["ht"]) == np.float32(e["ht"])]
    assert any(all(np.array_equal(np.float32(example[name]), np.float32(e[name])) for name in example) for e in alike)
    demo_specs.save(tmp_path / "specs.json")
    assert Specs.load(tmp_path / "specs.json") == demo_specs


def test_the_event_is_the_same_whatever_the_number_of_workers(demo_files, demo_specs):
    from mlaas4hep_tf import DataWarning, ReadOptions

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        alone = scan(demo_files, "events", exclude="isSignal", progress=False, read=ReadOptions(workers=1))
    assert alone.example == demo_specs.example
