"""From events to the vector and back, and an autoencoder in between."""

import warnings

import awkward as ak
import keras
import numpy as np
import pytest
import uproot
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mlaas4hep_tf import ReadOptions, RootDataset, models, scan
from mlaas4hep_tf.errors import DataWarning, PlanError
from mlaas4hep_tf.io.writer import tree_writer
from mlaas4hep_tf.testing import make_events, write_tree
from mlaas4hep_tf.transforms.decode import decode, tree_of

EPS = float(np.finfo(np.float32).eps)
NAN = float("nan")


def vectors(files, specs, **options):
    """Vector and mask of all events, in the order of the files."""
    ds = RootDataset(files, specs, mask=True, shuffle=False, batch_size=512, **options)
    parts = list(ds.as_numpy_iterator())
    return *(np.concatenate([part[name] for part in parts]) for name in ("vector", "mask")), ds.preprocessor


def largest(branch, values):
    """What float32 resolves in (x - offset) / scale: the largest of value, offset and scale."""
    sizes = [abs(branch.min), abs(branch.max), branch.max - branch.min, abs(branch.mean), branch.variance**0.5]
    return np.maximum(np.abs(values), max(sizes))


@pytest.mark.parametrize("normalize", [None, "minmax", "standard"])
def test_every_demo_event_comes_back(demo_files, demo_specs, normalize):
    events = decode(*vectors(demo_files, demo_specs, normalize=normalize))
    truth = uproot.concatenate([f"{name}:events" for name in demo_files], list(events.fields))
    for branch in demo_specs.branches:
        got, want = events[branch.name], truth[branch.name]
        if branch.kind != "flat":
            assert ak.all(ak.num(got) == ak.num(want))
            got, want = ak.flatten(got), ak.flatten(want)
        got, want = ak.to_numpy(got), ak.to_numpy(want)
        assert got.dtype == want.dtype
        if normalize is None or got.dtype.kind == "i":
            assert np.array_equal(got, want)
        else:
            assert (np.abs(got.astype("f8") - want) <= 4 * EPS * largest(branch, want)).all()


@settings(max_examples=15, deadline=None)
@given(
    counts=hnp.arrays(np.int64, st.integers(1, 12), elements=st.integers(0, 4)),
    seed=st.integers(0, 9999),
    size=st.sampled_from([1e-3, 1, 1e6]),
    normalize=st.sampled_from([None, "minmax", "standard"]),
)
def test_any_events_survive_the_round_trip_through_a_tree(tmp_path_factory, counts, seed, size, normalize):
    folder = tmp_path_factory.mktemp("trip")
    rng = np.random.default_rng(seed)
    n, m = len(counts), int(counts.sum())
    jets = {"pt": rng.normal(size=m).astype("f4") * np.float32(size), "n": rng.integers(-9, 9, m).astype("i4")}
    x = rng.normal(size=n).astype("f4")
    branches = {
        "x": x, "one": np.full(n, 7.25, "f4"),
        "Jet": ak.zip({name: ak.unflatten(values, counts) for name, values in jets.items()}),
    }  # fmt: skip
    path = write_tree(folder / "a.root", branches)
    specs = _quiet(path)
    vector, mask, preprocessor = vectors(path, specs, normalize=normalize, read=ReadOptions(workers=1))
    with tree_writer(folder / "b.root", "events") as tree:
        tree.extend(tree_of(decode(vector, mask, preprocessor), specs))
    again = uproot.open(f"{folder}/b.root:events")
    assert again["Jet_pt"].typename == "float[]"
    assert again["nJet"].array(library="np").tolist() == counts.tolist()
    assert again["one"].array(library="np").tolist() == [7.25] * n
    assert ak.flatten(again["Jet_n"].array()).tolist() == jets["n"].tolist()
    for name, want in (("x", x), ("Jet_pt", jets["pt"])):
        got = ak.to_numpy(ak.flatten(again[name].array(), axis=None))
        branch = next(b for b in specs.branches if b.name == name)
        allowed = 0 if normalize is None or branch.empty else 4 * EPS * largest(branch, want.astype("f8"))
        assert (np.abs(got.astype("f8") - want) <= allowed).all()


def test_missing_values_follow_the_rules_of_the_specs(tmp_path):
    lists = ak.Array([[1.0, NAN, 3.0], [2.0, NAN], [np.inf], []])
    path = write_tree(
        tmp_path / "a.root",
        {
            "x": np.array([1, NAN, -np.inf, 2], "f4"),
            "gone": np.full(4, NAN, "f4"),
            "five": np.full(4, 5, "f4"),
            "v": ak.values_astype(lists, "float32"),
        },
    )
    specs = _quiet(path)
    events = decode(*vectors(path, specs))
    assert same(events["x"], [1, NAN, NAN, 2])  # infinite is missing
    assert np.isnan(events["gone"]).tolist() == [True] * 4
    assert events["five"].tolist() == [5] * 4
    assert ak.num(events["v"]).tolist() == [3, 1, 0, 0]  # missing at the end is padding, in between NaN
    assert same(events["v"][0], [1, NAN, 3])


def test_truncated_lists_come_back_cut(tmp_path):
    path = write_tree(tmp_path / "a.root", make_events(200))
    specs = scan(path, progress=False).with_lengths(quantile=0.5)
    events = decode(*vectors(path, specs))
    length = specs.groups["nJet"][0].length
    truth = uproot.open(path)["events/Jet_0"].array()
    assert ak.num(events["Jet_0"]).tolist() == np.minimum(ak.num(truth), length).tolist()


def test_fixed_size_arrays_keep_their_length(tmp_path):
    path = tmp_path / "a.root"
    with uproot.recreate(path) as file:
        file.mktree("events", {"x": "f4", "p4": "4f4"})
        file["events"].extend({"x": np.ones(2, "f4"), "p4": np.array([[1, 2, 3, 4], [NAN, 6, 7, NAN]], "f4")})
    events = decode(*vectors(path, _quiet(path)))
    assert ak.num(events["p4"]).tolist() == [4, 4]
    assert same(events["p4"][1], [NAN, 6, 7, NAN])


def test_what_cannot_be_decoded(tmp_path):
    path = write_tree(tmp_path / "a.root", make_events(5))
    vector, mask, preprocessor = vectors(path, scan(path, progress=False))
    with pytest.raises(PlanError, match=r"shape \[n, \d+\], as the specs say, not \[5, 1\] and"):
        decode(vector[:, :1], mask, preprocessor)
    with pytest.raises(PlanError, match=r"integers are never missing.* 5 values of 'id'"):
        decode(vector, np.zeros_like(mask), preprocessor)


def test_integers_stay_within_their_type(tmp_path):
    path = write_tree(tmp_path / "a.root", {"u": np.array([0, 255], "u1"), "b": np.array([False, True])})
    vector, mask, preprocessor = vectors(path, scan(path, progress=False))
    events = decode(vector * 1.4 - 0.2, mask, preprocessor)  # as a model may overshoot
    assert events["u"].tolist() == [0, 255]
    assert events["b"].tolist() == [False, True]


def test_an_autoencoder_learns_real_values_only(tmp_path):
    path = write_tree(tmp_path / "a.root", make_events(600))
    specs = scan(path, progress=False)
    ds = RootDataset(path, specs, mask=True, batch_size=50, labels=[1])  # labels make no difference
    keras.utils.set_random_seed(1)
    model = models.autoencoder(specs)
    losses = model.fit(ds, epochs=8, verbose=0, shuffle=False).history["loss"]
    assert losses[-1] < 0.5 * losses[0]
    x = next(iter(ds))[0]
    decoded = np.asarray(model(x))
    real = x["mask"].numpy()
    by_hand = ((decoded - x["vector"].numpy())[real] ** 2).mean()
    assert model.evaluate(x, batch_size=50, verbose=0) == pytest.approx(by_hand, rel=1e-4)
    assert model.get_layer("code").output.shape == (None, 16)
    events = decode(decoded, real, ds.preprocessor)
    truth = decode(x["vector"], real, ds.preprocessor)
    assert ak.num(events["Jet_0"]).tolist() == ak.num(truth["Jet_0"]).tolist()
    model.save(tmp_path / "m.keras")
    assert np.allclose(keras.models.load_model(tmp_path / "m.keras")(x), decoded)


def same(array, want):
    return np.array_equal(ak.to_numpy(array), np.array(want), equal_nan=True)


def _quiet(path):
    """Specs without the notes on branches that tell nothing."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        return scan(path, progress=False)
