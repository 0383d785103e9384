"""The matrix representation: images against NumPy's histogram and a count by hand; what is trained is what is served."""

import math
import warnings
from dataclasses import replace

import awkward as ak
import keras
import numpy as np
import pytest
import tensorflow as tf
import uproot
from hypothesis import assume, given
from hypothesis import strategies as st

from mlaas4hep_tf import RootDataset, export
from mlaas4hep_tf.errors import DataWarning, ModelError, PlanError
from mlaas4hep_tf.models import build
from mlaas4hep_tf.predict import predict_files
from mlaas4hep_tf.train import predict_batch
from mlaas4hep_tf.transforms.image import Axis, EtaPhiImage, Image, sparse_cells, to_image
from mlaas4hep_tf.transforms.vector import Preprocessor

NAN = float("nan")
IMAGE = EtaPhiImage("Jet_eta", "Jet_phi", ("Jet_pt", "Jet_btag"), bins=(5, 8))
OBJECT = st.tuples(
    st.floats(-3, 3, width=32), st.floats(-3.5, 3.5, width=32), st.floats(-2, 2, width=32), st.floats(-2, 2, width=32)
)
EVENTS = st.lists(st.lists(OBJECT, max_size=6), min_size=1, max_size=6)


def padded(events, length=6):
    table = np.full((len(events), length, 4), NAN, np.float32)
    for n, event in enumerate(events):
        for i, obj in enumerate(event):
            table[n, i] = obj
    return table


def drawn(events, image=IMAGE):
    table = padded(events)
    eta, phi = (tf.constant(table[..., i]) for i in (0, 1))
    return to_image(image, (eta, phi), tf.constant(table[..., 2:])).numpy()


@given(EVENTS)
def test_the_sum_is_numpys_histogram(events):
    got = drawn(events)
    for event, pixels in zip(events, got, strict=True):
        eta, phi, *channels = np.array(event, np.float64).reshape(-1, 4).T
        entry_offsets = [np.linspace(-2.5, 2.5, 6).astype("f4"), np.linspace(-math.pi, math.pi, 9).astype("f4")]
        for channel, weights in enumerate([None, *channels]):
            want = np.histogram2d(eta, phi, entry_offsets, weights=weights)[0]
            if not near_an_edge(eta, entry_offsets[0]) and not near_an_edge(phi, entry_offsets[1]):
                assert np.abs(pixels[..., channel] - want).max() < 1e-5


def near_an_edge(values, entry_offsets):
    """Where the last bit of float32 decides about the bin."""
    inner = entry_offsets[1:-1]
    return bool(len(values) and len(inner) and np.abs(values[:, None] - inner).min() < 1e-5)


RULES = {
    "sum": lambda objects: objects.sum(axis=0),
    "max": lambda objects: objects.max(axis=0),
    "last": lambda objects: objects[-1],
}


@given(EVENTS, st.sampled_from(sorted(RULES)))
def test_the_rule_for_two_in_one_cell(events, rule):
    """Against a loop over objects, on a grid so coarse that cells are shared."""
    image = EtaPhiImage("Jet_eta", "Jet_phi", ("Jet_pt", "Jet_btag"), bins=(1, 2), rule=rule)
    got = drawn(events, image)
    for event, pixels in zip(events, got, strict=True):
        cells = {0: [], 1: []}
        for eta, phi, *values in event:
            assume(not -1e-5 < phi < 0)  # where the last bit of float32 decides
            if abs(eta) <= 2.5 and abs(phi) <= np.float32(math.pi):
                cells[int(phi >= 0)].append(values)
        for column, inside in cells.items():
            want = RULES[rule](np.array(inside)) if inside else 0
            assert pixels[0, column, 0] == len(inside)
            assert np.allclose(pixels[0, column, 1:], want, atol=1e-5)


def test_edges_belong_to_the_image_and_what_lies_beyond_does_not():
    pi = float(np.float32(math.pi))  # a little more than pi, as it is in files
    beyond = float(np.nextafter(np.float32(2.5), np.float32(3)))
    events = [[(2.5, pi, 1, 1)], [(-2.5, -pi, 1, 1)], [(beyond, 0, 1, 1)], [(NAN, 0, 1, 1)], [], [(0, 0, NAN, 2)]]
    got = drawn(events)
    assert got.shape == (6, 5, 8, 3)
    assert got.sum(axis=(1, 2)).tolist() == [[1, 1, 1], [1, 1, 1], [0] * 3, [0] * 3, [0] * 3, [1, 0, 2]]
    assert got[0, 4, 7, 0] == got[1, 0, 0, 0] == got[5, 2, 4, 0] == 1


def test_only_cells_with_an_object_are_kept():
    table = padded([[(0, 0, 1, 2), (0.1, 0.1, 3, 4)], [], [(2, 1, 5, 6)]])
    eta, phi, channels = (tf.constant(part) for part in (table[..., 0], table[..., 1], table[..., 2:]))
    cells, values = sparse_cells(IMAGE, (eta, phi), channels)
    assert cells.numpy().tolist() == [0 * 40 + 2 * 8 + 4, 2 * 40 + 4 * 8 + 5]
    assert values.numpy().tolist() == [[2, 4, 6], [1, 5, 6]]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"channels": ()}, "at least one branch as a channel"),
        ({"rule": "mean"}, "must be 'sum', 'max' or 'last', not 'mean'"),
        ({"axes": ()}, "an image has one to 3 axes, not 0"),
        ({"axes": IMAGE.axes * 2}, "an image has one to 3 axes, not 4"),
        ({"axes": (Axis("a", 1 << 13, 0, 1), Axis("b", 1 << 13, 0, 1))}, "at most 16,777,216 cells, not 67,108,864"),
    ],
)
def test_images_that_make_no_sense(change, says):
    with pytest.raises(PlanError, match=says):
        replace(IMAGE, **change)


@pytest.mark.parametrize(
    ("axis", "says"),
    [
        (("x", 0, 0, 1), "a whole number of bins, at least 1: 'x' 0"),
        (("x", 2.5, 0, 1), "a whole number of bins, at least 1: 'x' 2.5"),
        (("x", 3, 1, -1), "must be finite and rise: those of 'x' are 1, -1"),
        (("x", 3, 0, math.inf), "must be finite"),
    ],
)
def test_axes_that_make_no_sense(axis, says):
    with pytest.raises(PlanError, match=says):
        Axis(*axis)


@given(EVENTS, st.integers(1, 3))
def test_one_to_three_axes_are_numpys_histogram(events, dimensions):
    axes = (Axis("Jet_eta", 3, -2, 3), Axis("Jet_phi", 4, -3, 1), Axis("Jet_pt", 2, -2, 2))[:dimensions]
    table = padded(events)
    assume(
        all(near_an_edge(table[..., i][np.isfinite(table[..., i])], edges_of(a)) is False for i, a in enumerate(axes))
    )
    positions = [tf.constant(table[..., i]) for i in range(dimensions)]
    got = to_image(Image(axes, ("Jet_btag",)), positions, tf.constant(table[..., 3:])).numpy()
    assert got.shape == (len(events), *(axis.bins for axis in axes), 2)
    for event, pixels in zip(events, got, strict=True):
        values = np.array(event, np.float64).reshape(-1, 4)
        for channel, weights in enumerate((None, values[:, 3])):
            want = np.histogramdd(values[:, :dimensions], [edges_of(a) for a in axes], weights=weights)[0]
            assert np.abs(pixels[..., channel] - want).max() < 1e-5


def edges_of(axis):
    return np.linspace(axis.low, axis.high, axis.bins + 1)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"layout": "image"}, "belong together"),
        ({"image": IMAGE}, "belong together"),
        ({"layout": "image", "image": IMAGE, "mask": True}, "first channel is its mask"),
        ({"layout": "image", "image": EtaPhiImage("Jet_etta", "Jet_phi", ("Jet_pt",))}, "none called Jet_etta"),
        ({"layout": "image", "image": EtaPhiImage("ht", "Jet_phi", ("Jet_pt",))}, "none called ht"),
        ({"layout": "image", "image": replace(IMAGE, channels=("FatJet_pt",))}, r"one group: .*FatJet_pt \(nFatJet\)"),
    ],
)
def test_images_that_do_not_fit_the_data(demo_files, demo_specs, options, says):
    with pytest.raises(PlanError, match=says):
        RootDataset(demo_files, demo_specs, **options)


IN_THREE = (*IMAGE.axes, Axis("Jet_btag", 3, 0, 1))
IMAGES = {
    "sum": IMAGE, "max": replace(IMAGE, rule="max"), "one axis": replace(IMAGE, axes=IMAGE.axes[:1]),
    "three axes": replace(IMAGE, axes=IN_THREE, rule="last"),
}  # fmt: skip


@pytest.fixture(scope="module", params=IMAGES)
def exported(request, demo_files, demo_specs, tmp_path_factory):
    specs = demo_specs.with_lengths(quantile=0.9)  # so that there is something to cut
    image = IMAGES[request.param]
    ds = RootDataset(demo_files[:1], specs, layout="image", image=image, shuffle=False, batch_size=300)
    keras.utils.set_random_seed(1)
    model = build("cnn", specs, image=image)
    path = export(model, ds, tmp_path_factory.mktemp("models") / "cnn" / "1")
    events = uproot.concatenate([f.url + ":events" for f in ds.files])
    return model, ds, tf.saved_model.load(str(path)).signatures, events


@pytest.mark.slow
def test_the_images_of_a_file(exported):
    """Pixels against awkward and NumPy alone."""
    _, ds, _, events = exported
    (images,) = [x.numpy() for x in ds.take(1)]
    length, image = ds.specs.groups["nJet"][0].length, ds.preprocessor.image
    spec = ds.specs["Jet_pt"]
    for pixels, event in zip(images, events[:300], strict=True):
        *places, pt = (ak.to_numpy(event[name][:length]) for name in (*(a.branch for a in image.axes), "Jet_pt"))
        bins = [edges_of(axis) for axis in image.axes]
        assert np.array_equal(pixels[..., 0], np.histogramdd(places, bins)[0])
        if image.rule == "sum":
            want = np.histogramdd(places, bins, weights=(pt - spec.min) / (spec.max - spec.min))[0]
            assert np.abs(pixels[..., 1] - want).max() < 1e-5


def test_raw_branches_give_the_scores_of_training(exported):
    model, ds, signatures, events = exported
    trained = np.concatenate([predict_batch(model, x) for x in ds])
    assert trained.std() > 0
    request, ragged = {}, {}
    for b in ds.specs.branches:
        values = events[b.name]
        ragged[b.name] = tf.constant(ak.to_numpy(ak.flatten(values, axis=None)).astype("f4"))
        if b.kind != "flat":
            width = int(ak.max(ak.num(values)))
            values = ak.fill_none(ak.pad_none(values, width), np.nan)
        request[b.name] = tf.constant(ak.to_numpy(values).astype("f4"))
    for group, members in ds.specs.groups.items():
        splits = np.concatenate([[0], np.cumsum(ak.num(events[members[0].name]))])
        ragged[group + "_row_splits"] = tf.constant(splits, tf.int64)
    x = next(iter(ds))
    assert np.abs(signatures["serving_default"](**request)["score"].numpy() - trained).max() < 1e-6
    assert np.abs(signatures["ragged"](**ragged)["score"].numpy() - trained).max() < 1e-6
    assert np.abs(signatures["image"](image=x)["score"].numpy() - trained[:300]).max() < 1e-6
    assert "vector" not in signatures


def test_scores_of_files(exported, tmp_path):
    model, ds, _, _ = exported
    trained = np.concatenate([predict_batch(model, x) for x in ds])[:, 0]
    files = [f.url for f in ds.files]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)  # lists are cut
        assert predict_files(model, files, ds, tmp_path / "scores.root") == ds.entries
    written = uproot.open(tmp_path / "scores.root")["events"]["score"].array(library="np")
    assert np.abs(written - trained).max() < 1e-6


def test_models_and_images_that_do_not_fit(demo_specs, tmp_path):
    with pytest.raises(ModelError, match="'cnn' takes an image: give --image, or in Python image="):
        build("cnn", demo_specs)
    with pytest.raises(ModelError, match="'mlp' takes no image"):
        build("mlp", demo_specs, image=IMAGE)
    with pytest.raises(ModelError, match="the data give a vector of"):
        export(build("cnn", demo_specs, image=IMAGE), Preprocessor(demo_specs, "minmax"), tmp_path / "1")
    path = tmp_path / "model.py"
    path.write_text(
        "import keras\ndef model(shape):\n    return keras.Sequential([keras.Input(shape[1:]), keras.layers.Flatten()])\n"
    )
    with pytest.raises(ModelError, match=r"the data give an image \(5, 8, 3\) alone"):
        build(str(path), demo_specs, image=IMAGE)
