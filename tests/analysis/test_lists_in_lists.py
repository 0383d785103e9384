"""Lists in the objects of a group, such as the constituents of jets, from expressions to the served model."""

import awkward as ak
import keras
import numpy as np
import pytest
import tensorflow as tf
import uproot
from helpers.streams import quiet_scan

from mlaas4hep_tf import RootDataset, export

ENTRIES = 400
ANALYSIS = {
    "objects": {"jets": "`jets.pt` > 0.5 and count(`jets.trk`, axis=object) > 1"},
    "order": {"jets": "-`jets.pt`"},
    "define": {"inside": "sum(`jets.trk`, axis=object)", "total": "sum(`jets.trk`)"},
    "select": "total > 1",
}


@pytest.fixture(scope="module")
def jets():
    rng = np.random.default_rng(1)
    counts = rng.poisson(2, ENTRIES)
    inner = rng.poisson(3, counts.sum())
    tracks = ak.unflatten(ak.unflatten(rng.exponential(size=inner.sum()).astype("f4"), inner), counts)
    return ak.zip(
        {"pt": ak.unflatten(rng.exponential(size=counts.sum()).astype("f4"), counts), "trk": tracks}, depth_limit=2
    )


@pytest.fixture(scope="module")
def file(jets, tmp_path_factory):
    path = tmp_path_factory.mktemp("lists") / "jets.root"
    with uproot.recreate(path) as out:
        out.mkrntuple("events", {"jets": jets, "x": np.arange(ENTRIES, dtype=np.float32)})
    return str(path)


@pytest.fixture(scope="module")
def kept(jets):
    """The jets that are kept, by rising pt, and which events pass."""
    own = jets[(jets.pt > 0.5) & (ak.num(jets.trk, axis=2) > 1)]
    own = own[ak.argsort(own.pt, axis=1, ascending=False, stable=True)]
    return own, ak.sum(ak.sum(own.trk, axis=2), axis=1) > 1


def test_reduced_per_object_and_per_event(file, kept):
    specs = quiet_scan(file, **ANALYSIS)
    (x,) = RootDataset(file, specs, normalize=None, layout="ragged", shuffle=False, batch_size=ENTRIES)
    own, passing = kept
    sums = ak.sum(own.trk, axis=2)[passing]
    assert x["inside"].row_lengths().numpy().tolist() == ak.num(sums).to_list()
    np.testing.assert_allclose(x["inside"].flat_values, ak.flatten(sums), rtol=1e-6)
    np.testing.assert_allclose(x["total"], ak.sum(sums, axis=1), rtol=1e-6)
    np.testing.assert_array_equal(x["jets.pt"].flat_values, ak.flatten(own.pt[passing]))
    assert "jets.trk" not in specs


@pytest.mark.slow
def test_served_padded_and_ragged(file, jets, kept, tmp_path):
    specs = quiet_scan(file, **ANALYSIS)
    ds = RootDataset(file, specs, shuffle=False, batch_size=ENTRIES)
    model = keras.Sequential([keras.layers.Input((len(specs.vector_names),)), keras.layers.Dense(3, activation="tanh")])
    (want,) = (model(x).numpy() for x in ds)
    signatures = tf.saved_model.load(str(export(model, ds, tmp_path / "m" / "1"))).signatures
    wide, deep = int(ak.max(ak.num(jets))), int(ak.max(ak.num(jets.trk, axis=2)))
    tracks = np.full((ENTRIES, wide, deep), np.nan, np.float32)
    pts = np.full((ENTRIES, wide), np.nan, np.float32)
    for i, event in enumerate(jets.to_list()):
        for j, jet in enumerate(event):
            pts[i, j], tracks[i, j, : len(jet["trk"])] = jet["pt"], jet["trk"]
    x = tf.range(ENTRIES, dtype=tf.float32)
    padded = signatures["serving_default"](jets_pt=tf.constant(pts), jets_trk=tf.constant(tracks), x=x)
    ragged = signatures["ragged"](
        jets_pt=tf.constant(ak.flatten(jets.pt).to_numpy()),
        jets_trk=tf.constant(ak.flatten(jets.trk, axis=None).to_numpy()),
        jets_row_splits=tf.constant(np.cumsum([0, *ak.num(jets)]), tf.int64),
        jets_trk_row_splits=tf.constant(np.cumsum([0, *ak.flatten(ak.num(jets.trk, axis=2))]), tf.int64), x=x,
    )  # fmt: skip
    passing = np.asarray(kept[1])
    for answer in (padded, ragged):
        np.testing.assert_array_equal(answer["selected"].numpy(), passing)
        np.testing.assert_allclose(answer["score"].numpy()[passing], want, atol=1e-6)
