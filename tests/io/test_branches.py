"""Which branches become features, on trees of every kind."""

import warnings

import awkward as ak
import numpy as np
import pytest
import uproot

from mlaas4hep_tf.errors import BranchError, TreeError
from mlaas4hep_tf.io.branches import BranchInfo, Selection, check_complete, check_schema, parse_patterns, select
from mlaas4hep_tf.io.files import Source
from mlaas4hep_tf.io.inspection import inspect
from mlaas4hep_tf.io.reader import read
from mlaas4hep_tf.testing import make_events, write_tree

TREE = [
    BranchInfo("run", "int32_t", "flat", "int32"),
    BranchInfo("met", "float", "flat", "float32"),
    BranchInfo("Jet_pt", "float[]", "jagged", "float32", "nJet"),
    BranchInfo("Jet_eta", "float[]", "jagged", "float32", "nJet"),
    BranchInfo("name", "char*", "other", reason="text"),
]


def names(selected):
    return [info.name for info in selected.features]


def test_identifiers_and_text_are_never_features():
    chosen = select(TREE, Selection(), "here")
    assert names(chosen) == ["met", "Jet_eta", "Jet_pt"]  # flat first, then jagged, each by name
    assert chosen.identifiers == ("run",)
    assert chosen.left_out == {"name": "text (char*)"}


@pytest.mark.parametrize(
    ("selection", "found"),
    [
        (Selection(("Jet_*",)), ["Jet_eta", "Jet_pt"]),
        (Selection((), ("Jet_*",)), ["met"]),
        (Selection(("met", "Jet_*"), ("*_eta",)), ["met", "Jet_pt"]),
        (Selection(identifiers=("met",)), ["run", "Jet_eta", "Jet_pt"]),
    ],
)
def test_patterns(selection, found):
    assert names(select(TREE, selection, "here")) == found


@pytest.mark.parametrize(
    ("selection", "says"),
    [
        (Selection(("jet_pt",)), r"no branch matches 'jet_pt' \(did you mean 'Jet_pt'"),
        (Selection((), ("isSignal",)), "no branch matches 'isSignal'"),
        (Selection(("name",)), "'name' cannot become a feature: it is text"),
        (Selection(("na*",)), "no numeric branch is left"),
    ],
)
def test_selections_that_cannot_be(selection, says):
    with pytest.raises(BranchError, match=says):
        select(TREE, selection, "file f.root, tree t")


def test_a_name_is_itself_though_it_looks_like_a_pattern():
    tree = [BranchInfo("x[0]", "float", "flat", "float32"), *TREE]
    assert names(select(tree, Selection(("x[0]",)), "here")) == ["x[0]"]


def test_the_bookkeeping_of_objects_is_a_feature_only_if_named():
    tree = [BranchInfo(f"Jet/Jet.{name}", "uint32_t[]", "jagged", "uint32", "Jet_") for name in ("fBits", "PT")]
    assert (
        names(select(tree, Selection(), "here")) == names(select(tree, Selection(("Jet/*",)), "here")) == ["Jet/Jet.PT"]
    )
    assert names(select(tree, Selection(("*.fBits",)), "here")) == ["Jet/Jet.fBits"]


def test_text_is_left_out_by_pattern_but_refused_by_name():
    assert names(select(TREE, Selection(("*e*",)), "here")) == ["met", "Jet_eta", "Jet_pt"]


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ([b for b in TREE if b.name != "met"], "'met' of a.root is missing in b.root"),
        ([*TREE[:1], BranchInfo("met", "double", "flat", "float64"), *TREE[2:]], "flat float64 in b.root but flat float32"),
        ([*TREE[:2], BranchInfo("Jet_pt", "float[]", "jagged", "float32", "n"), *TREE[3:]], "counted by 'n' in b.root"),
    ],
)  # fmt: skip
def test_schemas_that_differ(changed, says):
    with pytest.raises(BranchError, match=says):
        check_schema(TREE[:4], changed, "b.root", "a.root")


def test_pattern_lists():
    assert parse_patterns("a, b_*") == parse_patterns(["a", "b_*"]) == ("a", "b_*")
    assert parse_patterns(None) == ()


def test_kinds_of_real_branches(real_files):
    def kinds(name):
        file = inspect(Source(str(real_files / name)), Selection((), (), ()))
        return {b.name: (b.kind, b.dtype, b.length, b.group) for b in file.branches}

    hzz = kinds("uproot-HZZ.root")
    assert hzz["Jet_Px"] == ("jagged", "float32", 0, "NJet")
    assert hzz["Jet_ID"] == ("jagged", "bool", 0, "NJet")
    assert hzz["NJet"] == ("flat", "int32", 0, "NJet")
    objects = kinds("uproot-HZZ-objects.root")
    assert objects["jetbtag"] == ("jagged", "float32", 0, "jetbtag")
    assert objects["jetp4.fP.fX"] == ("jagged", "float64", 0, "jetp4")
    double = kinds("uproot-double32-float16.root")
    assert double["double32_32"] == ("flat", "float64", 0, "double32_32")
    assert double["float16_16"] == ("flat", "float32", 0, "float16_16")
    assert double["array_30"] == ("array", "float64", 3, "array_30")
    assert kinds("uproot-Zmumu.root")["Type"][0] == "other"
    ntuple = kinds("Run2012BC_DoubleMuParked_Muons_1000evts_rntuple_v1-0-0-0.root")
    assert ntuple["Muon_pt"] == ("jagged", "float32", 0, "nMuon")
    assert ntuple["nMuon"] == ("flat", "int64", 0, "nMuon")
    assert kinds("test_1jag_int_float_rntuple_v1-0-0-0.root")["two_v_floats"][0] == "jagged"


def test_an_rntuple_of_records_reads_like_a_tree(tmp_path):
    events = make_events(50, groups={"Jet": 2})
    path = tmp_path / "n.root"
    with uproot.recreate(path) as file:
        file.mkrntuple("events", events)
    opened = inspect(Source(str(path)), Selection((), (), ()))
    kinds = {b.name: (b.kind, b.group) for b in opened.branches}
    assert kinds["Jet.0"] == ("jagged", "Jet")
    assert kinds["id"] == ("flat", "id")
    columns = read(opened, 10, 40, ["id", "Jet.0", "Jet.1"])
    assert columns.values["id"][0].tolist() == list(range(10, 40))
    assert np.array_equal(columns.values["Jet.1"][0], ak.to_numpy(ak.flatten(events["Jet"]["1"][10:40])))
    assert columns.counts["Jet"].tolist() == ak.num(events["Jet"]["0"][10:40]).tolist()


def test_the_tree_may_be_left_out_if_there_is_one(tmp_path):
    path = write_tree(tmp_path / "one.root", make_events(3), tree="only")
    assert inspect(Source(str(path)), Selection()).tree == "only"
    with pytest.raises(TreeError, match=r"no tree 'onyl' \(did you mean 'only'\?\) in file .*one.root"):
        inspect(Source(str(path), "onyl"), Selection())
    with uproot.recreate(tmp_path / "cycles.root") as file:
        for length in (2, 5):
            file["tree"] = {"x": np.zeros(length, "f4")}
    for tree, length in ((None, 5), ("tree", 5), ("tree;1", 2), ("tree;2", 5)):
        assert inspect(Source(str(tmp_path / "cycles.root"), tree), Selection()).num_entries == length
    with uproot.recreate(tmp_path / "two.root") as file:
        for name in ("a", "b"):
            file.mktree(name, {"x": "f4"}).extend({"x": np.zeros(2, "f4")})
    with pytest.raises(TreeError, match=r"has 2 trees \(a, b\); name one with tree="):
        inspect(Source(str(tmp_path / "two.root")), Selection())
    with uproot.recreate(tmp_path / "none.root") as file:
        file["h"] = np.histogram([1.0])
    with pytest.raises(TreeError, match="has no tree"):
        inspect(Source(str(tmp_path / "none.root")), Selection())


def test_reading_says_what_it_leaves_out(real_files):
    from mlaas4hep_tf import DataWarning, scan

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        specs = scan(real_files / "uproot-Zmumu.root", identifiers=["Run", "Event"], progress=False)
    assert any(issubclass(w.category, DataWarning) and "'Type' is left out: text" in str(w.message) for w in caught)
    assert "Type" in specs.left_out


def test_near_names_are_looked_for_only_for_what_is_told(monkeypatch):
    asked = []

    def near(name, *_):
        asked.append(name)
        return ""

    monkeypatch.setattr("mlaas4hep_tf.io.branches.near_misses", near)
    needed = [f"x{n}" for n in range(1600)]
    with pytest.raises(BranchError, match="lacks 1600 of the 1600 branches .*'x7' and 1592 more"):
        check_complete(needed, ["y"], "file t.root")
    assert asked == needed[:8]
