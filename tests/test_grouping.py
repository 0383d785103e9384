"""List branches of one multiplicity are one group, whatever their storage; near misses are told."""

import awkward as ak
import numpy as np
import pytest
import uproot

from mlaas4hep_tf import DataWarning, Specs, scan
from mlaas4hep_tf.errors import BranchError, InputFileError
from mlaas4hep_tf.grouping import agreement, candidates
from mlaas4hep_tf.io.branches import BranchInfo, Layout, Selection
from mlaas4hep_tf.io.files import Source
from mlaas4hep_tf.io.inspection import inspect
from mlaas4hep_tf.io.reader import read_packed

SIZES = np.arange(200) % 4


def lists(sizes):
    return ak.unflatten(np.arange(sum(sizes), dtype=np.float32), sizes)


def write(path, **branches):
    with uproot.recreate(path) as file:  # RNTuples: each list has an index of its own
        file.mkrntuple("events", branches)
    return str(path)


def groups_of(specs):
    return {group: [branch.name for branch in members] for group, members in specs.groups.items()}


def scanned(path, **options):
    return scan(path, progress=False, **options)


def test_lists_of_a_common_prefix_with_equal_multiplicities_are_one_group(tmp_path):
    path = write(tmp_path / "a.root", jet_pt=lists(SIZES), jet_eta=lists(SIZES), muon_pt=lists(SIZES), x=lists(SIZES))
    specs = scanned(path)
    assert groups_of(specs) == {"jet": ["jet_eta", "jet_pt"], "muon_pt": ["muon_pt"], "x": ["x"]}
    specs.save(tmp_path / "specs.json")
    assert Specs.load(tmp_path / "specs.json") == specs
    specs.check([inspect(Source(path), Selection())])


def test_multiplicities_that_differ_in_one_event_keep_groups_apart_and_are_told(tmp_path):
    other = SIZES.copy()
    other[[7, 8]] = other[[8, 7]]  # the same in total
    path = write(tmp_path / "a.root", jet_pt=lists(SIZES), jet_eta=lists(other), jet_m=lists(SIZES))
    with pytest.warns(DataWarning, match="differ in multiplicity: 'jet_m' from 'jet_eta' in 2 of 200 events"):
        specs = scanned(path)
    assert groups_of(specs) == {"jet": ["jet_m", "jet_pt"], "jet_eta": ["jet_eta"]}


def test_groups_that_are_asked_for(tmp_path):
    other = (SIZES + 1) % 3
    path = write(tmp_path / "a.root", a=lists(SIZES), b=lists(SIZES), c=lists(other), d=np.arange(200))
    assert groups_of(scanned(path, groups={"all": ["a", "b"]})) == {"all": ["a", "b"], "c": ["c"]}
    for wrong, says in (
        ({"all": "a,b,c"}, "'c' from 'a' in .* of 200 events; take what differs out of the group"),
        ({"all": ["jet*"]}, "no list branch matches 'jet\\*' of group 'all'"),
        ({"one": "a", "two": ["a", "b"]}, "branch 'a' is in two of them"),
        ({"d": ["a", "b"]}, "'d' is the name of a branch"),
    ):
        with pytest.raises(BranchError, match=says):
            scanned(path, groups=wrong)


def test_a_group_is_held_to_one_multiplicity_when_it_is_read(tmp_path):
    other = SIZES.copy()
    other[150] += 1
    path = write(tmp_path / "a.root", jet_pt=lists(SIZES), jet_eta=lists(other))
    file = inspect(Source(path), Selection())
    layout = Layout((), (("jet", ("jet_eta", "jet_pt")),))
    assert read_packed(file, 0, 100, layout).specs[2].shape == (int(SIZES[:100].sum()), 2)
    with pytest.raises(
        InputFileError, match="'jet_eta' and 'jet_pt' differ in multiplicity in 1 events, but group 'jet'"
    ):
        read_packed(file, 100, 200, layout)


def test_blocks_that_agree_are_not_taken_for_blocks_that_do_not():
    infos = [BranchInfo(f"jet_{n}", "", "jagged", "float32") for n in "ab"]
    (jet,) = candidates(infos)
    same = agreement(jet, {"jet_a": np.array([1, 2]), "jet_b": np.array([1, 2])})
    swapped = agreement(jet, {"jet_a": np.array([1, 2]), "jet_b": np.array([2, 1])})
    assert len(set(same.merge(same).digests)) == 1
    assert len(set(same.merge(swapped).digests)) == len(set(swapped.merge(same).digests)) == 2
    assert same.merge(swapped).differing == (0, 2)
