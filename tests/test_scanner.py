"""Statistics that merge, and Specs of known data."""

import hashlib
import json
import re
import warnings
import xml.etree.ElementTree as ET
from collections import Counter

import awkward as ak
import numpy as np
import pytest
import uproot
from hypothesis import given
from hypothesis import strategies as st

from mlaas4hep_tf import MlaasError, ReadOptions, RootDataset, Specs, scan
from mlaas4hep_tf.errors import BranchError, DataWarning, InputFileError, PlanError, SpecsError
from mlaas4hep_tf.remarks import identifies, is_truth
from mlaas4hep_tf.specs import TargetSpec
from mlaas4hep_tf.statistics import NOTHING, statistics, target_statistics
from mlaas4hep_tf.testing import make_events, write_files, write_tree

FLOATS = st.lists(st.floats(width=32, allow_nan=True, allow_infinity=True), max_size=30)
NO_COUNTS = np.zeros(0, np.int64)


def quiet(*args, **kwargs):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        return scan(*args, progress=False, **kwargs)


def of(values, counts=()):
    return statistics([np.array(values, np.float32)], np.array(counts, np.int64))


@given(FLOATS, FLOATS, FLOATS)
def test_merging_is_associative_and_equals_numpy(a, b, c):
    left, right = of(a).merge(of(b)).merge(of(c)), of(a).merge(of(b).merge(of(c)))
    whole = np.array(a + b + c, np.float32).astype(np.float64)
    finite = whole[np.isfinite(whole)]
    for got in (left, right, of(a + b + c)):
        assert got.values == len(whole)
        assert got.nan == np.isnan(whole).sum()
        assert (got.posinf, got.neginf) == (np.isposinf(whole).sum(), np.isneginf(whole).sum())
        assert (got.min, got.max) == (min(finite, default=np.inf), max(finite, default=-np.inf))
        if len(finite):
            scale = max(abs(finite).max(), 1e-300)
            assert got.mean == pytest.approx(finite.mean(), abs=1e-12 * scale)
            assert got.m2 == pytest.approx(((finite - finite.mean()) ** 2).sum(), rel=1e-9, abs=1e-12 * scale**2)


@given(st.lists(st.integers(0, 5), min_size=1), st.lists(st.integers(0, 9), min_size=1))
def test_multiplicities_add_up(a, b):
    merged = of([], np.bincount(a)).merge(of([], np.bincount(b)))
    assert merged.multiplicities.tolist() == np.bincount(a + b).tolist()


def test_nothing_is_neutral():
    some = of([1, 2, 3], [0, 1])
    for got in (NOTHING.merge(some), some.merge(NOTHING)):
        assert (got.min, got.max, got.mean, got.m2) == (1, 3, 2, 2)
        assert got.multiplicities.tolist() == [0, 1]


def test_specs_of_the_demo_files_equal_awkward(demo_specs, demo_files):
    events = uproot.concatenate([f + ":events" for f in demo_files])
    assert demo_specs.entries == len(events) == 8522
    assert {f.entries for f in demo_specs.files} == {500, 700, 800, 900, 1000, 1100, 1222, 1300}
    assert demo_specs.identifiers == ("run", "event", "lumi")
    for branch in demo_specs.branches:
        values = ak.to_numpy(ak.flatten(events[branch.name], axis=None)).astype(np.float64)
        assert (branch.min, branch.max) == (values.min(), values.max())
        assert branch.mean == pytest.approx(values.mean(), rel=1e-12, abs=1e-12 * abs(values).max())
        assert branch.variance == pytest.approx(values.var(), rel=1e-10)
        if branch.kind == "jagged":
            counts = ak.to_numpy(ak.num(events[branch.name]))
            assert branch.multiplicities == tuple(np.bincount(counts))
            assert branch.length == counts.max()


def test_a_branch_by_its_name(demo_specs):
    assert demo_specs["Jet_pt"] == next(b for b in demo_specs.branches if b.name == "Jet_pt")
    assert "Jet_pt" in demo_specs
    assert "isSignal" not in demo_specs
    assert list(demo_specs) == [b.name for b in demo_specs.branches]
    with pytest.raises(BranchError, match=r"no feature branch 'jet_pt' \(did you mean 'Jet_pt'"):
        demo_specs["jet_pt"]
    with pytest.raises(BranchError, match="no feature branch 'run': it identifies events"):
        demo_specs["run"]


def test_specs_introduce_themselves_in_one_line_and_in_a_table(demo_specs):
    assert re.fullmatch(
        r"Specs\(tree 'events', 8,522 events of 9 files: 18 flat branches and 52 in 4 groups, 508 columns, .*\)",
        repr(demo_specs),
    )
    assert len(repr(demo_specs["Jet_pt"])) < 100
    table = ET.fromstring(f"<body>{demo_specs._repr_html_()}</body>")  # well-formed
    rows = [["".join(cell.itertext()) for cell in row] for row in table.iter("tr")]
    assert [row[0] for row in rows[1:]] == list(demo_specs)
    row = dict(zip(rows[0], rows[1 + list(demo_specs).index("Jet_pt")], strict=True))
    assert (row["type"], row["group"], row["largest"]) == ("float32", "nJet", "14")
    assert float(row["max"]) == pytest.approx(demo_specs["Jet_pt"].max, rel=1e-3)


def test_column_names_as_in_the_paper(demo_specs):
    columns = demo_specs.vector_names
    flat = [b.name for b in demo_specs.flat]
    assert list(columns[: len(flat)]) == sorted(flat)
    assert columns[len(flat) : len(flat) + 5] == tuple(f"FatJet_btag_{i}" for i in range(5))
    assert columns[-1] == "Pair_tag_11"
    assert [b.name for b in demo_specs.jagged] == sorted(b.name for b in demo_specs.jagged)
    assert not {"run", "event", "lumi", "isSignal"} & set(columns)


def test_the_same_specs_whatever_the_workers(tmp_path):
    files = write_files(tmp_path, [1000, 3, 0, 500], basket=100)
    assert quiet(files, read=ReadOptions(workers=1)) == quiet(files, read=ReadOptions(workers=2))


def test_rules_for_values_that_are_no_numbers(tmp_path):
    counts = [1, 0, 2, 1]
    path = write_tree(tmp_path / "t.root", {
        "constant": np.full(4, 7.5, "f4"), "hollow": np.full(4, np.nan, "f4"),
        "holes": np.array([1, np.nan, np.inf, -np.inf], "f4"), "big": np.array([0, 1, 2, 2**24 + 1], "i4"),
        "Obj": ak.zip({"a": ak.unflatten(np.array([1, 2, np.nan, 4], "f4"), counts)}),
        "Gone": ak.zip({"a": ak.unflatten(np.zeros(0, "f4"), [0, 0, 0, 0])}),
    })  # fmt: skip
    with pytest.warns(DataWarning) as caught:
        specs = scan(path, progress=False)
    said = " | ".join(str(w.message) for w in caught)
    assert "without a finite value (all columns masked): hollow, Gone_a" in said
    assert "one constant value (tells nothing): constant" in said
    assert "integers beyond 2^24 (float32 rounds them): big" in said
    assert "NaN or infinite values (masked): holes, hollow, Obj_a" in said
    by = {b.name: b for b in specs.branches}
    assert by["constant"].constant
    assert by["hollow"].empty
    assert (by["holes"].nan, by["holes"].posinf, by["holes"].neginf) == (1, 1, 1)
    assert (by["holes"].min, by["holes"].max, by["holes"].variance) == (1, 1, 0)
    assert (by["Obj_a"].values, by["Obj_a"].nan) == (4, 1)
    assert by["Obj_a"].mean == pytest.approx(7 / 3)
    assert (by["Gone_a"].length, by["Gone_a"].columns) == (0, ())


def test_labels_of_one_class_are_told(tmp_path):
    one = write_tree(
        tmp_path / "one.root", {"x": np.arange(4, dtype="f4"), "y": np.ones(4, "i4"), "w": np.ones(4, "f4")}
    )
    write_tree(tmp_path / "other.root", {"x": np.arange(4, dtype="f4"), "y": np.zeros(4, "i4"), "w": np.ones(4, "f4")})
    with pytest.warns(DataWarning, match="all events have label 1 in 'y': a classifier needs events of two classes"):
        scan(one, labels="y", weights="w", progress=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scan(str(tmp_path / "*.root"), labels="y", weights="w", progress=False)


def test_lengths_at_a_quantile(tmp_path):
    counts = [1] * 98 + [5, 40]
    path = write_tree(tmp_path / "t.root", {"Obj": ak.zip({"a": ak.unflatten(np.ones(143, "f4"), counts)})})
    specs = quiet(path)
    lengths = {q: specs.with_lengths(quantile=q).groups["nObj"][0].length for q in (0.5, 0.98, 0.99, 0.995, 1)}
    assert lengths == {0.5: 1, 0.98: 1, 0.99: 5, 0.995: 40, 1: 40}
    assert specs.with_lengths(quantile=0.99).groups["nObj"][0].truncated == (1, 35)
    with pytest.raises(PlanError, match=r"must lie in \(0, 1\], not 1.5"):
        specs.with_lengths(quantile=1.5)


def test_a_group_that_few_events_make_wide_is_told_with_the_quantile_that_would_do(tmp_path):
    counts = [5] * 4000 + [3000]
    path = write_tree(tmp_path / "t.root", {"Hit": ak.zip({"e": ak.unflatten(np.arange(23000, dtype="f4"), counts)})})
    says = r"3000 objects of 'nHit', .*; 5 hold 99.9% of the events: .*with_lengths\(quantile=0.999\)"
    with pytest.warns(DataWarning, match=says):
        specs = scan(path, progress=False)
    assert specs.with_lengths(quantile=0.999).vector_names == ("nHit", *(f"Hit_e_{i}" for i in range(5)))


@pytest.mark.parametrize(
    ("name", "truth"),
    [
        ("MCParticles/MCParticles.PDG", True), ("GenJet_pt", True), ("nGenPart", True), ("genWeight", True),
        ("truth_pt", True), ("isSignal", True), ("mcEventWeight", True), ("Jet_pt", False), ("nMuon", False),
        ("Emc_energy", False), ("hits/hits.e", False), ("Jet_hadronFlavour", True), ("Jet_genJetIdx", True),
        ("LHE_HT", True), ("HTXS_stage_0", True), ("nlhe", False), ("Jets_generic", False),
        ("MET_fiducialGenPt", True), ("Particle/Particle.PID", True), ("Event.Info.genWeight", True),
    ],
)  # fmt: skip
def test_names_of_truth(name, truth):
    assert is_truth(name) == truth


def test_scores_among_the_files_of_a_folder_are_told(tmp_path):
    n = np.arange(3)
    write_tree(tmp_path / "a.root", {"x": n})
    write_tree(tmp_path / "scores.root", {"file": n, "entry": n, "score": n.astype("f4")})
    with pytest.raises(InputFileError, match=r"scores.root holds scores that `predict` wrote"):
        scan(tmp_path, progress=False)
    specs = quiet(tmp_path / "a.root").unbound()
    with pytest.raises(BranchError, match=r"scores.root.* it holds scores that `predict` wrote: leave it out"):
        RootDataset(str(tmp_path / "scores.root"), specs)
    with pytest.warns(DataWarning, match="the files hold scores that `predict` wrote, and no events"):
        scan(tmp_path / "scores.root", progress=False)


def test_truth_is_pointed_out_unless_it_is_asked_for(tmp_path):
    x = np.arange(3, dtype="f4")
    path = write_tree(tmp_path / "t.root", {"x": x, "isSignal": x, "genWeight": x})
    with pytest.warns(DataWarning, match="named like truth or weights, and yet to learn from: genWeight, isSignal;"):
        scan(path, progress=False)
    scan(path, branches=["x", "isSignal", "genWeight"], progress=False)
    scan(path, labels="isSignal", weights="genWeight", progress=False)


@pytest.mark.parametrize(
    ("name", "tells"),
    [
        ("Event/Event.Number", True), ("EventInfoAuxDyn.eventNumber", True), ("EventHeader.eventNumber", True),
        ("run_number", True), ("mcChannelNumber", True), ("lumiBlock", True), ("evt", True), ("Number", False),
        ("Event/Event.Weight", False), ("Jet/Jet.Number", False), ("nEvents", False), ("rungs", False),
        ("trunk.runs", False),
    ],
)  # fmt: skip
def test_names_of_what_tells_events_apart(name, tells):
    assert identifies(name) == tells


def test_numbers_of_events_are_pointed_out_unless_they_are_identifiers(tmp_path):
    path = write_tree(tmp_path / "t.root", {"x": np.arange(3, dtype="f4"), "eventNumber": np.arange(3)})
    with pytest.warns(DataWarning, match="tells events, runs or samples apart, and yet to learn from: eventNumber;"):
        scan(path, progress=False)
    assert scan(path, identifiers=["eventNumber"], progress=False).vector_names == ("x",)
    scan(path, branches=["x", "eventNumber"], progress=False)


def test_what_tells_nothing_can_be_left_out(tmp_path):
    n = np.full(3, np.nan, "f4")
    path = write_tree(tmp_path / "t.root", {"x": np.arange(3, dtype="f4"), "one": np.ones(3, "f4"), "none": n})
    specs = quiet(path).without_constant()
    assert specs.vector_names == ("x",)
    assert specs.left_out == {"none": "no finite value", "one": "one value"}
    with pytest.raises(SpecsError, match="all branches have one value or none"):
        quiet(path, branches=["one", "none"]).without_constant()


def test_identifiers_that_are_not_there_are_told(tmp_path):
    path = write_tree(tmp_path / "t.root", {"x": np.arange(3, dtype="f4"), "evt": np.arange(3)})
    with pytest.warns(DataWarning, match="no branch is called 'evnt', which should identify events"):
        assert scan(path, identifiers=["evt", "evnt"], progress=False).identifiers == ("evt",)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"labels": "X"}, r"no branch 'X' \(did you mean 'x'\?\) for the labels in file"),
        ({"labels": "x", "weights": "y"}, "no branch 'y' .*for the weights in file"),
        ({"labels": "x", "targets": ["z"]}, "no branch 'z' .*for the targets in file"),
    ],
)
def test_labels_and_weights_that_are_not_there_are_told_as_such(tmp_path, given, says):
    path = write_tree(tmp_path / "t.root", {"x": np.arange(3, dtype="f4"), "evt": np.arange(3)})
    with pytest.raises(BranchError, match=says):
        scan(path, progress=False, **given)


def test_save_and_load(demo_specs, tmp_path):
    demo_specs.save(tmp_path / "deep" / "specs.json")
    assert Specs.load(tmp_path / "deep" / "specs.json") == demo_specs
    assert {p.name for p in (tmp_path / "deep").iterdir()} == {"specs.json", "specs.files.parquet"}


@given(st.lists(st.lists(st.integers(-(2**63), 2**63 - 1)), max_size=4))
def test_statistics_of_targets_keep_integers_exactly(pieces):
    together = [value for piece in pieces for value in piece]
    got = target_statistics([np.array(piece, np.int64) for piece in pieces])
    assert (got.values, got.not_finite, got.found) == (len(together), 0, Counter(together))
    if together:
        assert (got.min, got.max) == (min(together), max(together))


def test_labels_and_weights_are_described_and_are_no_features(tmp_path):
    events = make_events(600) | {
        "truth.kind": (np.arange(600) % 3).astype("u1"),
        "w": np.array([np.nan, np.inf] + [2] * 598, np.float32),
    }
    path = write_tree(tmp_path / "t.root", events)
    specs = scan(path, exclude="truth*", labels="truth.kind", weights="w", progress=False)
    assert {"truth.kind", "w"}.isdisjoint(b.name for b in specs.branches)
    kind, weight = specs.targets
    found = ((0, 200), (1, 200), (2, 200))
    assert kind == TargetSpec("truth.kind", "uint8", 600, 0, 0, 2, found, mean=1.0, variance=kind.variance)
    assert kind.variance == pytest.approx(2 / 3)
    assert weight == TargetSpec("w", "float32", 600, 2, 2.0, 2.0, ((2.0, 598),), mean=2.0, variance=0.0)
    many = scan(path, exclude=["truth*", "w"], labels="id", progress=False).targets[0]
    assert (many.min, many.max, many.found) == (0, 599, ())  # too many values to keep
    specs.save(tmp_path / "s.json")
    assert Specs.load(tmp_path / "s.json") == specs
    with pytest.raises(BranchError, match=r"no branch 'truth.kin' \(did you mean 'truth.kind'"):
        scan(path, labels="truth.kin", progress=False)
    with pytest.raises(BranchError, match="need one number per event: 'Jet_0' is jagged"):
        scan(path, labels="Jet_0", progress=False)


def test_fields_that_came_later_do_not_shut_out_older_specs(demo_specs, tmp_path):
    demo_specs.save(tmp_path / "s.json")
    old = json.loads((tmp_path / "s.json").read_text())
    del old["targets"], old["checksum"], old["version"], old["fingerprint"]
    checksum = hashlib.sha256(json.dumps(old, sort_keys=True).encode()).hexdigest()[:16]
    (tmp_path / "s.json").write_text(json.dumps({"version": 2, "fingerprint": "", "checksum": checksum, **old}))
    assert Specs.load(tmp_path / "s.json") == demo_specs


def test_damaged_specs_say_so(demo_specs, tmp_path):
    path = tmp_path / "specs.json"
    for content, says in (
        ("{", "cannot read specs"),
        ("[]", "a JSON object is expected"),
        ('{"version": 99}', "no specs of version 1"),
        (json.dumps(demo_specs.to_json() | {"branches": 3}), "damaged"),
        (json.dumps(demo_specs.to_json() | {"tree": "other"}), "changed by hand"),
        (json.dumps(demo_specs.to_json()).replace('"max": 14.0', '"max": 15.0'), "changed by hand"),
    ):
        path.write_text(content)
        with pytest.raises(SpecsError, match=says):
            Specs.load(path)
    with pytest.raises(SpecsError, match="no specs file .*; make one with"):
        Specs.load(tmp_path / "none.json")


def test_the_fingerprint_is_of_the_data_not_of_their_place(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    path = write_tree(tmp_path / "a" / "t.root", make_events(20))
    moved = tmp_path / "b" / "u.root"
    moved.write_bytes(path.read_bytes())
    other = write_tree(tmp_path / "other.root", make_events(20))
    assert quiet(path).fingerprint == quiet(moved).fingerprint
    assert quiet(path).fingerprint != quiet(other).fingerprint
    assert quiet(path).fingerprint != quiet(path, exclude="x").fingerprint


def test_bad_input_is_one_clear_line(tmp_path, demo_files):
    good = write_tree(tmp_path / "good.root", make_events(100))
    (tmp_path / "text.root").write_text("no ROOT file at all " * 50)
    (tmp_path / "short.root").write_bytes(good.read_bytes()[:3000])
    write_tree(tmp_path / "empty.root", make_events(0))
    write_tree(tmp_path / "less.root", {"id": np.arange(3, dtype="i4")})
    for files, tree, error, says in (
        ("text.root", None, InputFileError, "cannot read file .*text.root.*check that it is a complete ROOT file"),
        ("short.root", None, InputFileError, "cannot read file .*short.root"),
        ("empty.root", None, InputFileError, "no event in .*empty.root"),
        (["good.root", "less.root"], None, BranchError, "'nJet' of .*good.root, tree events is missing in .*less.root"),
        ("good.root", "event", MlaasError, r"no tree 'event' \(did you mean 'events'\?\)"),
    ):
        paths = [str(tmp_path / f) for f in ([files] if isinstance(files, str) else files)]
        with pytest.raises(error, match=says) as caught:
            quiet(paths, tree)
        assert "\n" not in str(caught.value)


def test_a_truncated_file_names_branch_and_entries(tmp_path):
    path = write_tree(tmp_path / "t.root", make_events(5000), basket=500)
    raw = bytearray(path.read_bytes())
    with uproot.open(path) as file:
        seek = int(file["events"]["Jet_0"].member("fBasketSeek")[3])
    raw[seek + 80 : seek + 90] = bytes(10)
    path.write_bytes(raw)
    with pytest.raises(InputFileError, match=r"t.root, tree events, entries 0 to 5000, branch 'Jet_0'"):
        quiet(path)


def test_specs_of_the_paper(tmp_path):
    path = tmp_path / "specs.json"
    path.write_text(json.dumps({
        "jdim": {"Jet_0": 4}, "minv": {"x": -1.0, "Jet_0": 0.0}, "maxv": {"x": 2.0, "Jet_0": 9.0},
        "fkeys": ["run", "x"], "jkeys": ["Jet_0"], "nans": {"x": 0.33}, "events": {"total": 10, "f.root": 10},
    }))  # fmt: skip
    specs = Specs.load(path)
    assert specs.vector_names == ("x", "Jet_0_0", "Jet_0_1", "Jet_0_2", "Jet_0_3")
    assert (specs.branches[0].min, specs.branches[1].max) == (-1, 9)
    assert not specs.bound
    assert specs.identifiers == ("run",)
    with pytest.raises(SpecsError, match="do not say how multiplicities are distributed"):
        specs.with_lengths(quantile=0.9)


def test_more_branches_in_one_file_are_not_dropped_silently(tmp_path):
    less = write_tree(tmp_path / "less.root", {"x": np.zeros(3, "f4")})
    more = write_tree(tmp_path / "more.root", {"x": np.zeros(3, "f4"), "y": np.zeros(3, "f4")})
    for files in ([less, more], [more, less]):
        with pytest.raises(BranchError, match="'y' of file .*more.root, tree events is missing in file .*less.root"):
            quiet(files)
    assert quiet([less, more], branches="x").entries == 6


def test_one_file_under_two_names(tmp_path):
    path = write_tree(tmp_path / "t.root", make_events(5))
    with pytest.raises(InputFileError, match="named again as"):
        quiet([str(path), f"{path}:events"])
    copy = tmp_path / "copy.root"
    copy.write_bytes(path.read_bytes())
    with pytest.warns(DataWarning, match="copy.root, tree events seems to be a copy of"):
        scan([path, copy], progress=False)


def test_trees_of_different_names_need_a_word(tmp_path):
    files = [write_tree(tmp_path / f"{name}.root", make_events(5), tree=name) for name in ("a", "b")]
    with pytest.raises(MlaasError, match="files have different trees"):
        quiet(files)


def test_what_float32_cannot_hold_counts_as_infinite(tmp_path):
    path = write_tree(tmp_path / "t.root", {"x": np.array([-1.7e308, 1, 2, 3]), "y": np.arange(4.0)})
    by = {b.name: b for b in quiet(path).branches}
    assert (by["x"].neginf, by["x"].min, by["x"].max, by["x"].mean) == (1, 1, 3, 2)
