"""Logarithms, quantiles and scales of the inputs, against NumPy on the values themselves."""

import json

import awkward as ak
import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from mlaas4hep_tf import RootDataset, Specs, export, scan
from mlaas4hep_tf.distributions import Distribution, binned, distribution
from mlaas4hep_tf.errors import BranchError, DataWarning, PlanError, SpecsError
from mlaas4hep_tf.models import build
from mlaas4hep_tf.onnx_files import session
from mlaas4hep_tf.testing import write_tree
from mlaas4hep_tf.transforms.decode import decode
from mlaas4hep_tf.transforms.normalize import Method, check_normalize, constants, method
from mlaas4hep_tf.transforms.vector import Preprocessor

pytestmark = pytest.mark.filterwarnings("ignore:branch with NaN:mlaas4hep_tf.errors.DataWarning")

HOW = {
    "Jet_pt": "log standard",
    "Jet_btag": "clip(0.01, 0.99) logit minmax",
    "met": "clip(0.05, 0.95) standard",
    "ht": "log minmax",
    "raw": "log",
    "*": None,
}


@pytest.fixture(scope="module")
def events():
    rng = np.random.default_rng(5)
    counts = rng.integers(0, 5, 4000)
    pt = rng.lognormal(4, 1, counts.sum()).astype("f4")
    btag = rng.beta(0.5, 0.5, counts.sum()).astype("f4")
    met = rng.exponential(60, 4000).astype("f4")
    met[:3] = np.nan, np.inf, -np.inf
    ht = rng.lognormal(6, 0.5, 4000).astype("f4")
    ht[:2] = 0, -999  # without a logarithm
    jets = {"pt": ak.unflatten(pt, counts), "btag": ak.unflatten(btag, counts)}
    return {"met": met, "ht": ht, "raw": ht + 2000, "Jet": ak.zip(jets)}


@pytest.fixture(scope="module")
def path(events, tmp_path_factory):
    return write_tree(tmp_path_factory.mktemp("normalise") / "t.root", events)


@pytest.fixture(scope="module")
def specs(path):
    return scan(path, distributions="*", progress=False)


def wanted(values, how):
    """The same in NumPy's float64, with quantiles and moments of the values themselves."""
    x = np.asarray(values, np.float64)
    finite = x[np.isfinite(x)]
    if how.clip:
        low, high = np.quantile(finite, how.clip)
        x, finite = np.where(np.isfinite(x), np.clip(x, low, high), x), np.clip(finite, low, high)
    with np.errstate(all="ignore"):
        if how.function:
            x, finite = (np.log(v) if how.function == "log" else np.log(v / (1 - v)) for v in (x, finite))
    finite = finite[np.isfinite(finite)]
    if how.scale == "minmax":
        return (x - finite.min()) / (finite.max() - finite.min())
    return (x - finite.mean()) / finite.std() if how.scale else x


def test_the_inputs_are_what_numpy_makes_of_the_values(events, path, specs):
    ds = RootDataset(path, specs, normalize=HOW, mask=True, shuffle=False, batch_size=4000)
    (batch,) = list(ds)
    names, vector, mask = specs.vector_names, batch["vector"].numpy(), batch["mask"].numpy()
    for name in ("met", "ht", "raw"):
        column, expected = names.index(name), wanted(events[name], method(HOW[name]))
        assert np.array_equal(mask[:, column], np.isfinite(expected))
        assert np.allclose(vector[:, column], np.where(np.isfinite(expected), expected, 0), atol=0.01)
    for name in ("pt", "btag"):
        expected = wanted(ak.flatten(events["Jet"][name]), method(HOW[f"Jet_{name}"]))
        firsts = ak.fill_none(ak.firsts(ak.unflatten(expected, ak.num(events["Jet"]))), np.nan).to_numpy()
        column = names.index(f"Jet_{name}_0")
        assert np.allclose(vector[:, column], np.where(np.isfinite(firsts), firsts, 0), atol=0.03)


def rectangle(lists):
    return ak.to_numpy(ak.fill_none(ak.pad_none(lists, 6, axis=1), np.nan)).astype("f4")


def test_minmax_of_a_logarithm_ends_at_0_and_1(path, specs):
    vector = Preprocessor(specs, {"raw": "log minmax", "*": None}).finish(raw_vector(path, specs))[0].numpy()
    own = vector[:, specs.vector_names.index("raw")]
    assert abs(own.min()) < 1e-6
    assert abs(own.max() - 1) < 1e-6


def raw_vector(path, specs):
    return tf.concat([*RootDataset(path, specs, normalize=None, shuffle=False)], axis=0)


def test_decoding_undoes_it(events, path, specs):
    preprocessor = Preprocessor(specs, {"Jet_pt": "log standard", "Jet_btag": "logit minmax", "*": "minmax"})
    ds = RootDataset(path, specs, normalize=preprocessor.normalize, mask=True, shuffle=False, batch_size=4000)
    (batch,) = list(ds)
    back = decode(batch["vector"], batch["mask"], preprocessor)
    assert ak.all(np.isclose(back["Jet_pt"], events["Jet"]["pt"], rtol=1e-5))
    got, btag = ak.flatten(back["Jet_btag"]), ak.flatten(events["Jet"]["btag"])
    assert np.allclose(got, np.where((btag > 0) & (btag < 1), btag, np.nan), atol=1e-5, equal_nan=True)


@pytest.mark.parametrize("layout", ["columns", "ragged"])
def test_every_layout_has_the_same_values(layout, path, specs):
    (vector,) = list(RootDataset(path, specs, normalize=HOW, shuffle=False, batch_size=4000))
    (other,) = list(RootDataset(path, specs, normalize=HOW, shuffle=False, batch_size=4000, layout=layout))
    jets = other["Jet_pt"].to_tensor(shape=(None, specs["Jet_pt"].length)) if layout == "ragged" else other["Jet_pt"]
    columns = [specs.vector_names.index(name) for name in specs["Jet_pt"].columns]
    assert np.array_equal(jets, tf.gather(vector, columns, axis=1))
    assert np.array_equal(other["met"], vector[:, specs.vector_names.index("met")])


def test_exported_models_do_the_same(events, path, specs, tmp_path):
    keras.utils.set_random_seed(1)
    model, ds = build("set", specs), RootDataset(path, specs, normalize=HOW, mask=True, shuffle=False, batch_size=500)
    trained = model(next(iter(ds)), training=False).numpy()
    request = {
        "nJet": ak.num(events["Jet"][:500]).to_numpy().astype("f4"),
        **{name: events[name][:500].astype("f4") for name in ("met", "ht", "raw")},
        **{f"Jet_{name}": rectangle(events["Jet"][name][:500]) for name in ("pt", "btag")},
    }
    served = tf.saved_model.load(export(model, ds, tmp_path / "m" / "1")).signatures["serving_default"]
    score = served(**{name: tf.constant(values) for name, values in request.items()})["score"].numpy()
    assert np.abs(score - trained).max() < 1e-6
    folder = export(model, ds, tmp_path / "onnx", format="onnx")
    (got,) = session(str(folder / "model.onnx")).run(["score"], request)
    assert np.abs(got - trained).max() < 1e-5


def test_specs_without_distributions_are_completed_with_a_warning(path, specs):
    bare = scan(path, progress=False)
    with pytest.warns(DataWarning, match=r"do not know the distribution of Jet_pt, .*scan\(..., distributions=\)"):
        ds = RootDataset(path, bare, normalize={"Jet_pt": "log standard", "*": None})
    assert ds.specs["Jet_pt"] == specs["Jet_pt"]
    assert ds.specs["met"].distribution is None
    with pytest.raises(SpecsError, match=r"lack for Jet_pt; scan again, with distributions="):
        constants(bare, {"Jet_pt": "log standard", "*": None})
    with pytest.raises(SpecsError, match="scan again"):  # of other data there is nothing to be learnt
        RootDataset(path, bare.unbound(), normalize="log standard").preprocessor.scaling


def test_distributions_are_saved_and_do_not_depend_on_blocks(path, specs, tmp_path):
    specs.save(tmp_path / "s.json")
    assert Specs.load(tmp_path / "s.json") == specs
    assert json.loads((tmp_path / "s.json").read_text())["branches"][0]["distribution"]
    with pytest.raises(BranchError, match="'jet_pt' matches no feature .did you mean 'Jet_pt'"):
        scan(path, distributions="jet_pt", progress=False)


def test_selected_events_alone_count(path):
    cut = scan(path, select="ht > 400", distributions="ht", progress=False)
    known = cut["ht"].distribution
    assert known is not None and known.values[0] > 400
    late = scan(path, select="ht > 400", progress=False)
    with pytest.warns(DataWarning, match="distribution"):
        assert RootDataset(path, late, normalize={"ht": "log standard", "*": None}).specs["ht"] == cut["ht"]


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=60), st.floats(0, 1))
def test_quantiles_are_right_to_the_width_of_a_bin(values, share):
    halves = np.array(values[::2]), np.array(values[1::2])
    counts, sums = (np.sum(parts, axis=0) for parts in zip(*map(binned, halves), strict=True))
    known = distribution(counts, sums)
    assert known is not None
    found = known.quantile(share)
    exact = np.quantile(np.array(values, "f4").astype("f8"), share, method="inverted_cdf")
    assert abs(found - exact) <= 0.016 * abs(exact) + 1e-30


def test_whole_numbers_keep_their_values():
    assert distribution(*binned(np.array([4.0, -3.0, 4.0, 0.0, -0.0]))) == Distribution((-3.0, 0.0, 4.0), (1, 2, 2))
    assert distribution(*binned(np.zeros(0))) is None


@pytest.mark.parametrize(
    "text", ["max", "", "minmax log", "clip(0.1) log", "clip(a, b)", "clip(0.9, 0.1)", "clip(0, 2)", 3]
)
def test_what_is_no_method(text):
    with pytest.raises(PlanError, match="normalize"):
        check_normalize(text)


def test_methods():
    assert method(" clip(0.01,0.99)  log standard ") == Method((0.01, 0.99), "log", "standard")
    assert method("log") == Method(function="log")
    assert method(None) == Method()
