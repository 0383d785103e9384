"""Derived branches as labels, weights and sole features; the cut flow by names of classes."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import uproot
from helpers.streams import quiet_scan

from mlaas4hep_tf import RootDataset, Specs, export
from mlaas4hep_tf.errors import LabelError
from mlaas4hep_tf.testing import write_files

DEFINE = {"ht": "sum(Jet_0)", "late": "id > 2500", "heavy": "abs(x) + 0.5"}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return write_files(tmp_path_factory.mktemp("files"), [3000, 1000], basket=900)


def test_derived_labels_and_weights_are_no_features_and_are_not_served(files, tmp_path):
    specs = quiet_scan(
        files, define=DEFINE, exclude="id", labels="late", weights="heavy", select="ht > 1", train_select="id != 7"
    )
    specs.save(tmp_path / "specs.json")
    specs = Specs.load(tmp_path / "specs.json")
    assert [target.name for target in specs.targets] == ["late", "heavy"]
    assert "ht" in specs and not {"late", "heavy"} & {*specs}
    assert specs.cutflow is not None
    flow = specs.cutflow.by_label()
    found = {label: own.events[0] for label, own in flow.items()}
    assert found == {False: 2501, True: 1499}
    ds = RootDataset(files, specs, labels="late", weights="heavy", normalize=None, shuffle=False, batch_size=500)
    events = [uproot.open(file)["events"].arrays(["id", "x", "Jet_0"], library="np") for file in files]
    number, x = (np.concatenate([one[name] for one in events]) for name in ("id", "x"))
    kept = np.array([np.sum(jets, dtype=np.float64) > 1 for one in events for jets in one["Jet_0"]]) & (number != 7)
    xs, labels, weights = (np.concatenate(parts) for parts in zip(*ds, strict=True))
    np.testing.assert_array_equal(xs[:, specs.vector_names.index("x")], x[kept])
    np.testing.assert_array_equal(labels, (number > 2500)[kept])
    np.testing.assert_array_equal(weights, np.abs(x[kept]) + np.float32(0.5))

    model = keras.Sequential([keras.layers.Input((len(specs.vector_names),)), keras.layers.Dense(1, "sigmoid")])
    served = tf.saved_model.load(str(export(model, ds, tmp_path / "model" / "1"))).signatures["serving_default"]
    assert {*served.structured_input_signature[1]} == {"x", "nJet", "Jet_0", "Jet_1"}


def test_derived_branches_alone_are_the_features(files):
    specs = quiet_scan(files, define=DEFINE, branches="ht,heavy")
    assert [*specs] == ["heavy", "ht"]
    (x,) = next(iter(RootDataset(files, specs, normalize=None, shuffle=False, batch_size=2).map(lambda x: (x,))))
    jets = uproot.open(files[0])["events"]["Jet_0"].array(library="np", entry_stop=2)
    np.testing.assert_allclose(x[:, 1], [np.sum(jets[0]), np.sum(jets[1])], rtol=1e-6)
    assert {*quiet_scan(files, define=DEFINE, branches="ht,x")} == {"ht", "x"}
    assert {*quiet_scan(files, define=DEFINE, branches="x")} == {"x", "ht", "late", "heavy"}


def test_the_cut_flow_tells_classes_by_name(files):
    labels = {"*f000*": "ttH", "*": "QCD"}
    flow = quiet_scan(files, select="x > 0", labels=labels).cutflow
    assert flow is not None
    assert {name: own.events[0] for name, own in flow.by_label().items()} == {"ttH": 3000, "QCD": 1000}
    with pytest.raises(LabelError, match="all names or all numbers"):
        quiet_scan(files, select="x > 0", labels={"*f000*": "ttH", "*": 0})
