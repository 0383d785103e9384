"""A selection from scan to the served model, against Awkward Array by hand on the same files."""

import warnings
from collections import Counter
from dataclasses import replace

import awkward as ak
import keras
import numpy as np
import pytest
import tensorflow as tf
import uproot
from helpers.streams import quiet_scan

from mlaas4hep_tf import DataWarning, ReadOptions, RootDataset, Specs, export
from mlaas4hep_tf.errors import (
    BranchError,
    ConfigError,
    ExpressionError,
    LostDataError,
    ModelError,
    PlanError,
    SpecsError,
)
from mlaas4hep_tf.predict import predict_files
from mlaas4hep_tf.testing import make_events, write_files, write_tree

SIZES = [3000, 5000, 0, 1, 700]
ANALYSIS = {
    "objects": {"Jet": "Jet_0 > 0.5"},
    "order": {"Jet": "-Jet_0"},
    "define": {"ht": "sum(Jet_0)", "share": "Jet_0 / ht", "odd": "id % 2", "before": "raw(nJet)"},
    "select": ["nJet > 0", "ht > 2"],
}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return write_files(tmp_path_factory.mktemp("files"), SIZES, basket=900)


@pytest.fixture(scope="module")
def events(files):
    arrays = ak.concatenate([uproot.open(file)["events"].arrays() for file in files])
    kept = arrays.Jet_0 > 0.5
    order = ak.argsort(arrays.Jet_0[kept], axis=1, ascending=False, stable=True)
    jets = arrays.Jet_0[kept][order]
    ht = ak.sum(ak.values_astype(jets, np.float64), axis=1)
    return ak.zip(
        {"id": arrays.id, "x": arrays.x, "jets": jets, "others": arrays.Jet_1[kept][order], "ht": ht,
         "before": ak.num(arrays.Jet_0)}, depth_limit=1,
    )  # fmt: skip


@pytest.fixture(scope="module")
def passing(events):
    return (ak.num(events.jets) > 0) & (np.float32(events.ht) > 2)


@pytest.fixture(scope="module")
def specs(files):
    return quiet_scan(files, **ANALYSIS)


def ids(ds, specs):
    column = specs.vector_names.index("id")
    return [int(i) for x in ds for i in x[:, column].numpy()]


def test_specs_describe_what_passes(specs, events, passing):
    alive = events[passing]
    assert specs.entries == len(alive)
    assert specs.cutflow.events == (len(events), ak.sum(ak.num(events.jets) > 0), len(alive))
    assert specs["nJet"].max == ak.max(ak.num(alive.jets)) == specs["Jet_0"].length
    assert specs["share"].multiplicities == tuple(np.bincount(ak.num(alive.jets)))
    assert specs["ht"].min == pytest.approx(ak.min(alive.ht), rel=1e-7)
    assert specs["ht"].mean == pytest.approx(ak.mean(alive.ht), rel=1e-6)
    assert specs["Jet_0"].min == ak.min(alive.jets)
    assert specs["before"].max == ak.max(alive.before)
    assert (specs["odd"].dtype, specs["ht"].dtype) == ("int64", "float32")
    assert [one.name for one in specs.inputs if one.integer] == ["id"]


def test_specs_are_the_same_from_their_file_and_other_with_another_selection(specs, files, tmp_path):
    specs.save(tmp_path / "specs.json")
    assert Specs.load(tmp_path / "specs.json") == specs
    other = quiet_scan(files, **{**ANALYSIS, "select": ["nJet > 0", "ht > 2.0"]})
    assert other.fingerprint != specs.fingerprint


def test_each_passing_event_comes_once_in_every_epoch(files, specs, events, passing):
    want = sorted(ak.to_list(events.id[passing]))
    ds = RootDataset(files, specs, normalize=None, batch_size=64, chunk_size=500)
    assert len(ds) == -(-len(want) // 64)
    first, second = ids(ds, specs), ids(ds, specs)
    assert sorted(first) == sorted(second) == want
    assert first != second
    assert sum(ds.delivered.values()) == len(want)
    parts = ds.split(0.6, 0.3, 0.1)
    assert sorted(i for part in parts for i in ids(part, specs)) == want
    shards = [ds.shard(3, n) for n in range(3)]
    assert [part.entries for part in shards] == [len(want) * (n + 1) // 3 - len(want) * n // 3 for n in range(3)]
    assert sorted(i for part in shards for i in ids(part, specs)) == want
    assert ids(ds.in_order(), specs) == want  # ids count up in the order of the files


def test_values_are_those_of_the_cut_and_ordered_objects(files, specs, events, passing):
    ds = RootDataset(files, specs, normalize=None, layout="ragged", shuffle=False, batch_size=500)
    parts = list(ds)
    got = {name: [jets for x in parts for jets in x[name].to_list()] for name in ("Jet_0", "Jet_1", "share")}
    alive = events[passing]
    assert got["Jet_0"] == ak.to_list(alive.jets)
    assert got["Jet_1"] == ak.to_list(alive.others)
    np.testing.assert_allclose(np.concatenate([x["ht"] for x in parts]), alive.ht, rtol=1e-7)
    np.testing.assert_allclose(np.concatenate(got["share"]), ak.flatten(alive.jets / alive.ht), rtol=2e-7)


def test_new_files_are_counted_when_the_dataset_is_made(specs, events, passing, tmp_path):
    new = write_tree(tmp_path / "new.root", make_events(800, first_id=50_000, seed=9))
    arrays = uproot.open(new)["events"].arrays()
    jets = arrays.Jet_0[arrays.Jet_0 > 0.5]
    ht = ak.sum(ak.values_astype(jets, np.float64), axis=1)
    want = ak.to_list(arrays.id[(ak.num(jets) > 0) & (np.float32(ht) > 2)])
    ds = RootDataset(str(new), specs.unbound(), normalize=None, shuffle=False)
    assert ds.entries == len(want)
    assert ids(ds, specs) == want


def test_training_alone_may_cut_on_the_truth(files, specs, events):
    rules = {**ANALYSIS, "select": "x > 0", "train_select": "ht > 2"}
    found = quiet_scan(files, **rules)
    x, ht = np.asarray(events.x), np.float32(events.ht)
    assert found.cutflow is not None and found.served_steps is not None
    assert found.cutflow.events == (len(x), (x > 0).sum(), ((x > 0) & (ht > 2)).sum())
    assert found.served_steps.select and not found.served_steps.train_select


def test_labels_and_weights_in_the_cut_flow(files, events):
    flow = quiet_scan(files, labels={"*f000*": 1, "*": 0}, weights="x", select="id >= 100").cutflow
    assert flow is not None
    (alone,) = flow.by_label()[1].rows
    weights = np.asarray(events.x, np.float64)
    assert (alone.events, alone.file) == ((3000, 2900), files[0])
    assert alone.weighted == pytest.approx([weights[:3000].sum(), weights[100:3000].sum()])
    assert flow.by_label()[0].events == (5701, 5701)
    branch = quiet_scan(files, labels="nJet", select="id >= 100").cutflow
    assert branch is not None
    assert {label: own.events[0] for label, own in branch.by_label().items()} == dict(
        Counter(ak.to_list(events.before))
    )


def test_a_branch_that_only_a_cut_needs_is_an_input_and_no_feature(files):
    specs = quiet_scan(files, exclude=["x", "nJet"], select="x > 0 and nJet > 1")
    assert "x" not in specs and "nJet" not in specs
    assert {one.name for one in specs.served_inputs if not one.feature} == {"x", "nJet"}
    assert quiet_scan(files, exclude=["y"], define={"y": "x + 1"}, select="y > 1").entries < sum(SIZES)


def test_predictions_have_every_event_and_say_which_is_selected(files, specs, events, passing, tmp_path):
    model = constant_model(len(specs.vector_names))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        ds = RootDataset(files, specs)
        observe = ["x", "ht", "nJet", "odd"]
        assert predict_files(model, files, ds, tmp_path / "out.root", observe=observe) == sum(SIZES)
    out = uproot.open(tmp_path / "out.root")["events"].arrays()
    assert ak.all(out.selected == passing)
    np.testing.assert_array_equal(out.x, events.x)
    np.testing.assert_array_equal(out.nJet, ak.num(events.jets))
    np.testing.assert_array_equal(out.odd, events.id % 2)
    np.testing.assert_allclose(out.ht, events.ht, rtol=1e-7)
    for name, why in (("nothing", "no such branch 'nothing'"), ("Jet_0", "jagged float32"), ("entry", "called so too")):
        with pytest.raises(BranchError, match=why):
            predict_files(model, files, ds, tmp_path / "not.root", observe=[name])


def constant_model(width):
    return keras.Sequential([keras.layers.Input((width,)), keras.layers.Dense(3, activation="tanh")])


def request(specs, files):
    """The events of files as `serving_default` and `ragged` take them, by Awkward Array."""
    arrays = ak.concatenate([uproot.open(file)["events"].arrays() for file in files])
    padded, ragged = {}, {}
    for one in specs.served_inputs:
        dtype, own = np.int64 if one.integer else np.float32, arrays[one.name]
        if one.kind == "flat":
            padded[one.name] = ragged[one.name] = tf.constant(np.asarray(own, dtype))
            continue
        wide = ak.fill_none(ak.pad_none(own, int(ak.max(ak.num(own))) + 2, clip=True), np.nan)
        padded[one.name] = tf.constant(np.asarray(ak.to_numpy(wide), dtype))
        ragged[one.name] = tf.constant(np.asarray(ak.flatten(own), dtype))
        ragged[f"{one.group}_row_splits"] = tf.constant(np.cumsum([0, *ak.num(own)]), tf.int64)
    return {"serving_default": padded, "ragged": ragged}


@pytest.mark.slow
def test_the_served_model_scores_as_training_did_and_says_what_it_selects(files, specs, passing, tmp_path):
    cut = specs.with_lengths(quantile=0.9)
    ds = RootDataset(files, cut, shuffle=False)
    model = constant_model(len(cut.vector_names))
    want = np.concatenate([model(x, training=False).numpy() for x in ds])
    loaded = tf.saved_model.load(str(export(model, ds, tmp_path / "m" / "1")))
    for signature, inputs in request(cut, files).items():
        answer = loaded.signatures[signature](**inputs)
        np.testing.assert_array_equal(answer["selected"].numpy(), passing)
        np.testing.assert_allclose(answer["score"].numpy()[np.asarray(passing)], want, atol=1e-6)


def test_truth_in_what_is_served_is_an_error_at_export(files, tmp_path):
    specs = quiet_scan(files, exclude="x", labels="x", define={"y": "x + 1"})
    ds = RootDataset(files, specs)
    with pytest.raises(ModelError, match="would need 'x', which only simulation knows"):
        export(constant_model(len(specs.vector_names)), ds, tmp_path / "m" / "1")


def test_what_cannot_be(files, specs):
    with pytest.raises(PlanError, match="no event passes the selection x > 100"):
        quiet_scan(files, select="x > 100")
    with pytest.raises(ConfigError, match="give it or the parts"):
        quiet_scan(files, select="x > 0", analysis=specs.analysis)
    with pytest.raises(ExpressionError, match="no branch 'y'.*'x'|no branch 'y'"):
        quiet_scan(files, select="y > 0")
    with pytest.raises(SpecsError, match="other data"):
        RootDataset(files[0], quiet_scan(files[1], select="x > 0"))


def test_what_the_scan_could_not_read_is_accounted_for_with_an_estimate(files, specs):
    lost = [replace(file, passing=(-1, *file.passing[1:])) if n == 1 else file for n, file in enumerate(specs.files)]
    broken = replace(specs, files=tuple(lost))
    with pytest.raises(SpecsError, match="scan again"):
        RootDataset(files, broken)
    ds = RootDataset(files, broken, read=ReadOptions(on_bad_file="skip", max_lost_fraction=0.9))
    assert ds.skipped is not None
    (one,) = ds.skipped.ever.values()
    edge, known = specs.files[1].edges[1], sum(specs.files[1].passing[1:])
    assert (one.start, one.stop, one.estimated) == (0, edge, True)
    assert one.events == round(edge * known / (specs.files[1].entries - edge))
    assert ds.entries == specs.entries - specs.files[1].passing[0]
    with pytest.raises(LostDataError, match="of which some"):
        RootDataset(files, broken, read=ReadOptions(on_bad_file="skip", max_lost_fraction=0.01))
