"""Files that other programs read wrongly or refuse (tests/data/odd): values by hand or by ROOT."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import uproot
from numpy.typing import NDArray

from mlaas4hep_tf import scan
from mlaas4hep_tf.errors import BranchError, DataWarning, InputFileError
from mlaas4hep_tf.io.branches import Layout, Selection
from mlaas4hep_tf.io.columns import Columns
from mlaas4hep_tf.io.files import RootFile, Source
from mlaas4hep_tf.io.inspection import inspect
from mlaas4hep_tf.io.reader import read, read_packed

ODD = Path(__file__).parents[1] / "data" / "odd"


def opened(name: str) -> RootFile:
    return inspect(Source(str(ODD / name)), Selection((), (), ()))


def values(columns: Columns, name: str) -> list[float]:
    return list(np.concatenate([np.empty(0), *columns.values[name]]).tolist())


def lists(columns: Columns, name: str, group: str) -> list[list[float]]:
    """The values of each event."""
    ends = np.cumsum(columns.counts[group])[:-1]
    split: Sequence[NDArray[np.float64]] = np.split(np.array(values(columns, name)), ends)
    return [part.tolist() for part in split]


def test_counters_of_one_name_make_groups_apart():
    file = opened("twins_same_total.root")
    assert {info.group for info in file.branches if info.kind == "jagged"} == {"reco/jets_", "gen/jets_"}
    columns = read(file, 0, 100, ["gen/jets/jets.pt", "reco/jets/jets.pt"], counters=["reco/jets_", "gen/jets_"])
    assert lists(columns, "reco/jets/jets.pt", "reco/jets_") == [[i + k for k in range(i % 4)] for i in range(100)]
    gen = [[1000 * i + k for k in range((i + 1) % 4)] for i in range(100)]
    assert lists(columns, "gen/jets/jets.pt", "gen/jets_") == gen


@pytest.mark.parametrize("names", [["a", "b"], ["b"]])
def test_a_group_agrees_in_every_event_not_in_the_total(names):
    with pytest.raises(InputFileError, match=r"entries 0 to 100, branch 'b': .*must agree in every event"):
        read(opened("shared_counter.root"), 0, 100, names, counters=["n"])


def test_branches_of_one_counter_that_differ_are_groups_apart():
    with pytest.warns(DataWarning, match=r"counter 'n' differ .*: 'b' in 98 of 100 events, so each is a group") as told:
        specs = scan(ODD / "shared_counter.root", progress=False)
    assert len(told) == 1
    groups = {group: [b.name for b in members] for group, members in specs.groups.items()}
    assert groups == {"n": ["a", "m[0]", "m[1]", "m[2]"], "b": ["b"]}
    assert specs["a"].multiplicities == (25, 25, 25, 25)
    file = opened("shared_counter.root")
    specs.check([file])
    layout = Layout((), tuple((group, tuple(names)) for group, names in groups.items()))
    packed = read_packed(file.part(layout.names, 10, 90), 10, 90, layout)
    assert packed.arrays is not None
    _, bounds, a_and_m, b = packed.arrays
    tree = uproot.open(ODD / "shared_counter.root")["Events"]  # which knows nothing of counters
    for found, rows, name in ((a_and_m, bounds[:, :2], "a"), (b, bounds[:, 2:], "b")):
        events = [found[first : first + count, 0].tolist() for first, count in rows.tolist()]
        assert events == tree[name].array(entry_start=10, entry_stop=90).tolist()


def test_a_group_that_is_asked_for_does_not_hold_what_differs():
    with pytest.raises(BranchError, match="'b' in 98 of 100 events; take it out of group 'all'"):
        scan(ODD / "shared_counter.root", groups={"all": ["a", "b"]}, progress=False)


def test_the_first_of_two_branches_of_one_name_is_read():
    with pytest.warns(DataWarning, match="several branches are named 'x', of which the first is read"):
        specs = scan(ODD / "duplicate_name.root", progress=False)
    (x,) = specs.branches
    assert (x.min, x.max, x.mean) == (0, 99, 49.5)
    assert values(read(opened("duplicate_name.root"), 0, 100, ["x"]), "x") == list(range(100))


@pytest.mark.parametrize(
    ("choice", "found"),
    [({"exclude": "truth[0]"}, ["x"]), ({"branches": "truth[0]"}, ["truth[0]"]), ({"exclude": "*[[]0]"}, ["x"])],
)
def test_a_name_in_full_is_that_branch(choice, found):
    assert [b.name for b in scan(ODD / "bracket.root", progress=False, **choice).branches] == found


def test_baskets_of_numbers_may_have_entry_offsets():
    for start, stop in ((0, 200), (30, 150), (199, 200)):
        columns = read(opened("flat_offsets.root"), start, stop, ["x", "s", "d"])
        assert values(columns, "x") == list(range(start, stop))
        assert values(columns, "s") == [i + k for i in range(start, stop) for k in range(10)]
        assert values(columns, "d") == [10 * i + k for i in range(start, stop) for k in range(4)]


@pytest.mark.parametrize("names", [["pt", "id"], ["id"], ["n", "pt"]])
def test_lists_without_entry_offsets_have_those_of_their_counter(names):
    file = opened("offset_map.root")
    expected = {"pt": lambda i, k: i + k / 8, "id": lambda _, k: k}
    for start, stop in ((0, 600), (50, 250), (97, 98), (300, 300)):
        columns = read(file.part(names, start, stop), start, stop, names)
        assert columns.counts["n"].tolist() == [i % 7 for i in range(start, stop)]
        for name in set(names) - {"n"}:
            assert values(columns, name) == [expected[name](i, k) for i in range(start, stop) for k in range(i % 7)]


def test_a_branch_with_another_number_of_entries_than_its_tree_is_left_out_alone():
    with pytest.warns(DataWarning) as caught:
        specs = scan(ODD / "unequal.root", progress=False)
    assert [(b.name, b.values) for b in specs.branches] == [("x", 100)]
    said = [str(w.message) for w in caught]
    for name, times in (("y", 50), ("z", 0), ("w", 120)):
        assert f"branch {name!r} is left out: filled {times} times in a tree of 100 entries (float)" in said
    with pytest.raises(
        BranchError, match=r"'y' cannot become a feature: it is filled 50 times in a tree of 100 entries"
    ):
        scan(ODD / "unequal.root", branches=["x", "y"], progress=False)


@pytest.mark.parametrize(
    "name", ["run:1.root:2.root", "root:::host:1094::a.root.1", "http:::x.root", "run[1].root", "a#b?c d ä.root"]
)
def test_any_name_of_a_local_file(name, tmp_path):
    shutil.copy(ODD / "bracket.root", tmp_path / name)
    for given in (tmp_path / name, f"{tmp_path / name}:/Events"):
        assert scan(given, exclude="truth[0]", progress=False).entries == 100


def test_a_branch_that_a_friend_may_have():
    assert scan(ODD / "with_friend.root", "/nominal/Events", progress=False).tree == "nominal/Events"
    with pytest.raises(BranchError, match=r"'extra' .*friends are not read: tree Extra in file extra.root"):
        scan(ODD / "with_friend.root", branches="extra", progress=False)


def test_what_a_job_saved_before_it_was_killed_is_read():
    with pytest.warns(
        DataWarning, match=r"ended before it closed it: recover it with ROOT.*: file .*killed_saved.root"
    ):
        specs = scan(ODD / "killed_saved.root", progress=False)
    assert (specs.entries, specs.branches[0].max) == (180, 179)
    with pytest.raises(InputFileError, match=r"killed_unsaved.root has no tree: .* ended before it closed it"):
        scan(ODD / "killed_unsaved.root", progress=False)


def test_what_only_root_can_recover_is_told_so():
    with pytest.raises(
        InputFileError, match="killed left its last baskets, with kGenerateOffsetMap, .*recover the file"
    ):
        scan(ODD / "killed_map.root", progress=False)
