"""Weights by cross section and weights that balance distributions, against numbers by hand."""

import numpy as np
import pytest
import tensorflow as tf
import uproot
from helpers.streams import quiet_scan

from mlaas4hep_tf import RootDataset
from mlaas4hep_tf.errors import ConfigError, LabelError
from mlaas4hep_tf.reweight import balanced_factors, fitted
from mlaas4hep_tf.reweighting import Reweight
from mlaas4hep_tf.testing import make_events
from mlaas4hep_tf.transforms.image_axes import Axis

SIZES = {"a_1": 400, "a_2": 200, "b": 600}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Files with weights of both signs; that of sample b also has the sum before a skim."""
    folder, made = tmp_path_factory.mktemp("files"), []
    for number, (name, size) in enumerate(SIZES.items()):
        events = make_events(size, first_id=1000 * number, seed=number)
        rng = np.random.default_rng(number)
        events["w"] = np.where(rng.random(size) < 0.2, -1.5, 1.5).astype(np.float32)
        events["met"] = rng.exponential(50 if name == "b" else 100, size).astype(np.float32)
        path = folder / f"{name}.root"
        with uproot.recreate(path) as file:
            file.mktree("events", {k: np.asarray(v).dtype for k, v in events.items() if k != "Jet"})
            file["events"].extend({k: v for k, v in events.items() if k != "Jet"})
            if name == "b":
                file.mktree("Runs", {"genEventSumw": np.float64})
                file["Runs"].extend({"genEventSumw": np.array([900.0, 100.0])})
        made.append(str(path))
    return made


@pytest.fixture(scope="module")
def ds(files):
    specs = quiet_scan([f"{file}:events" for file in files], labels=None, weights="w")
    return RootDataset(
        [f"{file}:events" for file in files], specs, labels={"*a_*": 0, "*b*": 1}, weights="w", batch_size=100,
        chunk_size=300,
    )  # fmt: skip


def sums(ds):
    """Sum of weights by label."""
    found = {0.0: 0.0, 1.0: 0.0}
    for _, y, w in ds:
        for label in found:
            found[label] += float(w.numpy()[y.numpy() == label].sum(dtype=np.float64))
    return found


def test_weights_sum_to_what_is_expected_in_the_whole_and_in_parts(files, ds):
    stored = [uproot.open(file)["events"]["w"].array(library="np").astype(float) for file in files]
    all_a = stored[0].sum() + stored[1].sum()
    scaled = ds.scaled({"*a_*": 2.0, "*b*": 0.5}, luminosity=3.0)
    want = {0.0: 6000.0, 1.0: 1500.0 * stored[2].sum() / 1000.0}
    assert sums(scaled) == pytest.approx(want, rel=1e-5)
    assert "of all entries" in scaled.sums_of_weights[0]
    assert "1000 of Runs" in scaled.sums_of_weights[1]
    train, test = scaled.split(0.75, 0.25)
    fold, held = scaled.folds(3, by="entries")[0].train, scaled.hold_out(0.2, by="entries")[1]
    for part in (train, test, scaled.sample(500), scaled.shard(3, 1), fold, held):
        number = {url.split("/")[-1]: n for url, n in zip((f.url for f in part.files), part_counts(part), strict=True)}
        first = next(iter(number))
        one = next((y, w) for _, y, w in part.in_order())
        share = SIZES["a_1"] / number[first]
        assert abs(one[1].numpy()[0]) == pytest.approx(1.5 * 6000 / all_a * share, rel=1e-5)
    given = ds.scaled({"*a_*": 2.0, "*b*": 0.5}, luminosity=3.0, sumw={"*a_*": 100.0, "*b*": 50.0})
    assert sums(given)[0.0] == pytest.approx(60.0 * all_a, rel=1e-5)
    assert sums(ds) == pytest.approx({0.0: all_a, 1.0: stored[2].sum()}, rel=1e-5)


def part_counts(part):
    return [events for _, events, _ in part.files_and_labels()]


def test_factors_by_hand():
    histograms = np.array([[1.0, 3.0, 0.0, -1.0], [2.0, 2.0, 4.0, 0.0]])
    flat = balanced_factors(histograms, None, 100.0)
    np.testing.assert_allclose(flat, np.array([[2.0, 2 / 3, 1, 1], [8 / 6, 8 / 6, 2 / 3, 1]]))
    to_second = balanced_factors(histograms, 1, 100.0)
    np.testing.assert_allclose(to_second, np.array([[2.0, 2 / 3, 1, 1], [1, 1, 1, 1]]))
    capped = balanced_factors(np.array([[1.0, 9.0]]), None, 2.0)  # 5 and 5/9, of which the first is 2: times 10 / 7
    np.testing.assert_allclose(capped, [[20 / 7, 50 / 63]])


@pytest.mark.parametrize("to", ["flat", "b"])
@pytest.mark.parametrize("normalize", ["minmax", "standard", None])
def test_training_batches_have_the_distribution_that_was_asked_for(files, to, normalize):
    names = [f"{file}:events" for file in files]
    specs = quiet_scan(names, weights="w")
    ds = RootDataset(names, specs, labels=[0, 0, 1], weights="w", normalize=normalize, batch_size=100)
    reweight = Reweight((Axis("met", 4, 0, 100), Axis("x", 2, -4, 4)), to, cap=50.0)
    found = fitted(reweight, ds, ("a", "b"))
    stored = [uproot.open(file)["events"].arrays(["met", "x", "w"], library="np") for file in files]
    joined = {name: np.concatenate([one[name] for one in stored[:2]]) for name in ("met", "x", "w")}
    edges = [np.linspace(0, 100, 5), np.linspace(-4, 4, 3)]
    hand, _, _ = np.histogram2d(np.clip(joined["met"], 0, 99.9), joined["x"], edges, weights=joined["w"])
    np.testing.assert_allclose(found.histograms[0], hand, rtol=1e-5)
    after = np.zeros((2, 4))
    for x, y, w in ds.map(found.weigh):
        column = specs.vector_names.index("met")
        offset, scale = ds.preprocessor.constants
        met = np.clip(x.numpy()[:, column] * scale[column] + offset[column], 0, 99.9)
        for label in (0, 1):
            own = y.numpy() == label
            after[label] += np.histogram(met[own], edges[0], weights=w.numpy()[own])[0]
    shares = after / after.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(shares[0], np.full(4, 0.25) if to == "flat" else shares[1], rtol=1e-4)
    np.testing.assert_allclose(after.sum(axis=1), found.histograms.sum(axis=(1, 2)), rtol=1e-4)


def test_what_cannot_be_is_told(ds):
    with pytest.raises(LabelError, match="no pattern of cross sections"):
        ds.scaled({"*a_*": 1.0}, 1.0)
    with pytest.raises(LabelError, match="no cross section of this pattern"):
        ds.scaled({"*": 1.0}, 1.0, {"*b": 3.0})
    with pytest.raises(LabelError, match="positive"):
        ds.scaled({"*": -1.0}, 1.0)
    with pytest.raises(ConfigError, match="cap"):
        Reweight((Axis("met", 4, 0, 100),), cap=0.5)
    with pytest.raises(LabelError, match="classes are"):
        fitted(Reweight((Axis("met", 4, 0, 100),), "c"), ds, ("a", "b"))
    assert isinstance(ds.element_spec[2], tf.TensorSpec)
