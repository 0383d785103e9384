"""Networks on particles: their physics by hand, whatever normalises the inputs, and the laws that they obey."""

from dataclasses import replace

import awkward as ak
import keras
import numpy as np
import pytest
import tensorflow as tf

from mlaas4hep_tf import RootDataset, export, models, particle_models, scan
from mlaas4hep_tf.errors import ModelError
from mlaas4hep_tf.onnx_files import session
from mlaas4hep_tf.onnx_networks import from_onnx
from mlaas4hep_tf.particles import Attend, MeanOfNeighbours, Nearest, PairFeatures, kinematics, particles_of
from mlaas4hep_tf.tasks import SIGNAL_OR_NOT, Classes, Task
from mlaas4hep_tf.testing import write_tree
from mlaas4hep_tf.transforms.vector import Preprocessor
from mlaas4hep_tf.trial_events import trial_events

MODELS = ["particle_transformer", "particle_net"]
NORMALIZE = ["minmax", "standard", None, {"*_pt": "log standard", "*": "minmax"}]


@pytest.fixture(scope="module")
def events():
    """Jets with a mass, muons without one, and hits that have no direction."""
    rng = np.random.default_rng(4)
    found = {"met": rng.exponential(50, 60).astype("f4")}
    ranges = {"pt": (20, 200), "eta": (-2.5, 2.5), "phi": (-np.pi, np.pi), "mass": (1, 40)}
    for group, most, names in (("Jet", 5, ranges), ("Mu", 2, ("pt", "eta", "phi")), ("Hit", 3, ("mass",))):
        counts = rng.integers(0, most, 60)
        lists = {n: ak.unflatten(rng.uniform(*ranges[n], counts.sum()).astype("f4"), counts) for n in names}
        found[group] = ak.zip(lists)
    return found


@pytest.fixture(scope="module")
def path(events, tmp_path_factory):
    return write_tree(tmp_path_factory.mktemp("particles") / "t.root", events)


@pytest.fixture(scope="module")
def specs(path):
    return scan(path, distributions="*", progress=False)


def batch_of(path, specs, normalize="minmax"):
    ds = RootDataset(path, specs, normalize=normalize, mask=True, shuffle=False, batch_size=60)
    return ds, next(iter(ds))


def built(name, preprocessor, task=SIGNAL_OR_NOT):
    keras.utils.set_random_seed(3)
    return models.build(name, preprocessor.specs, preprocessor=preprocessor, task=task)


def physics(preprocessor):
    """The part of the networks that works in the unit of the branches: kinematics, and features of the pairs."""
    inputs = {name: keras.Input((preprocessor.width,), name=name, dtype=dtype) for name, dtype in
              (("vector", "float32"), ("mask", "bool"))}  # fmt: skip
    values, real = kinematics(preprocessor, particles_of(preprocessor.specs), inputs["vector"], inputs["mask"])
    return keras.Model(inputs, [values, PairFeatures()([values, real])])


def particles_by_hand(events, event):
    """Pt, eta, phi and mass in float64 of the four jets and the muon that an event may have; None where it has not."""
    for group, length in (("Jet", 4), ("Mu", 1)):
        one = events[group][event]
        for i in range(length):
            names = ("pt", "eta", "phi", "mass")
            yield [float(one[n][i]) if n in one.fields else 0.0 for n in names] if i < len(one) else None


def pair_by_hand(a, b):
    """Delta R, kT, z and squared mass."""
    turn = np.angle(np.exp(1j * (a[2] - b[2])))
    apart, soft = np.hypot(a[1] - b[1], turn), min(a[0], b[0])
    p = np.array([[pt * np.cos(phi), pt * np.sin(phi), pt * np.sinh(eta)] for pt, eta, phi, _ in (a, b)])
    energy = np.sqrt((p**2).sum(axis=1) + np.array([a[3], b[3]]) ** 2)
    return apart, soft * apart, soft / (a[0] + b[0]), energy.sum() ** 2 - (p.sum(axis=0) ** 2).sum()


def by_hand(events):
    for event in range(60):
        found, parts = np.zeros((5, 5, 4)), list(particles_by_hand(events, event))
        for i, j in np.ndindex(5, 5):
            if parts[i] and parts[j]:
                found[i, j] = pair_by_hand(parts[i], parts[j])
        yield found


@pytest.mark.parametrize("normalize", NORMALIZE, ids=str)
def test_pairs_are_of_values_in_their_own_unit(normalize, events, path, specs):
    ds, batch = batch_of(path, specs, normalize)
    values, pairs = (part.numpy() for part in physics(ds.preprocessor)(batch))
    for n, name in enumerate(("pt", "eta", "phi", "mass")):
        wanted = ak.fill_none(ak.pad_none(events["Jet"][name], 4, axis=1), 0).to_numpy()
        assert np.allclose(values[:, :4, n], wanted, rtol=1e-5, atol=1e-5)
    assert not values[:, 4, 3].any()  # muons have no mass here
    for got, wanted in zip(pairs, by_hand(events), strict=True):
        apart = wanted[..., 0] > 1e-3  # of a particle with itself rounding is left
        assert np.allclose(np.exp(got)[apart], wanted[apart], rtol=2e-3)
        assert not got[wanted[..., 2] == 0].any()


@pytest.mark.parametrize("name", MODELS)
def test_what_is_masked_and_the_order_make_no_difference(name, path, specs):
    ds, batch = batch_of(path, specs)
    model, x = built(name, ds.preprocessor), {key: part.numpy() for key, part in batch.items()}
    score = np.asarray(model(x))
    noise = x | {"vector": np.where(x["mask"], x["vector"], 0.7).astype("f4")}
    assert np.abs(np.asarray(model(noise)) - score).max() < 1e-6
    order = np.arange(len(specs.vector_names))
    for branch in specs.groups["nJet"]:
        own = ds.preprocessor.columns[branch.name]
        order[own] = order[own][::-1]
    turned = {key: part[:, order] for key, part in x.items()}
    assert np.abs(np.asarray(model(turned)) - score).max() < 1e-5


@pytest.mark.parametrize("name", MODELS)
def test_longer_padding_makes_no_difference(name, path, specs):
    ds, batch = batch_of(path, specs)
    longer = replace(specs, branches=tuple(
        replace(b, length=b.length + 3) if b.group == "nJet" else b for b in specs.branches
    ))  # fmt: skip
    wide, wider = batch_of(path, longer)
    model, other = built(name, ds.preprocessor), built(name, wide.preprocessor)
    other.set_weights(model.get_weights())
    assert np.abs(np.asarray(model(batch)) - np.asarray(other(wider))).max() < 1e-5


def test_events_turned_in_phi_keep_their_pairs(events, path, specs, tmp_path):
    """Nothing but phi itself among the inputs knows the direction of an event."""
    turned = {group: events[group] for group in events}
    for group in ("Jet", "Mu"):
        turned[group] = ak.with_field(events[group], (events[group]["phi"] + 5.5) % (2 * np.pi) - np.pi, "phi")
    other = write_tree(tmp_path / "turned.root", turned)
    _, batch = batch_of(path, specs, None)
    ds, again = batch_of(other, specs.unbound(), None)
    a, b = (np.asarray(physics(ds.preprocessor)(one)[1]) for one in (batch, again))
    assert np.abs(a - b)[:, ~np.eye(5, dtype=bool)].max() < 2e-3


@pytest.mark.parametrize("name", MODELS)
def test_saved_exported_and_onnx_give_the_same_scores(name, path, specs, tmp_path):
    task = Task(Classes(("a", "b", "c")))
    preprocessor = Preprocessor(specs, "standard")
    keras.utils.set_random_seed(3)
    small = {"particle_transformer": {"width": 8, "blocks": 1, "attention_heads": 2}, "particle_net": {"width": 8}}
    model = getattr(particle_models, name)(preprocessor, task, **small[name])  # all its layers, and quick to convert
    model.save(tmp_path / "m.keras")
    again = keras.models.load_model(tmp_path / "m.keras")
    events = trial_events(specs, 100, seed=8)
    raw = preprocessor.from_branches({key: tf.constant(v) for key, v in events.padded().items()})
    score = np.asarray(model(preprocessor.model_input(raw, mask=True), training=False))
    assert np.isfinite(score).all()
    assert score.shape == (100, 3)
    assert np.abs(np.asarray(again(preprocessor.model_input(raw, mask=True))) - score).max() < 1e-6
    served = tf.saved_model.load(export(model, preprocessor, tmp_path / "m" / "1")).signatures
    for signature, request in (("serving_default", events.padded()), ("ragged", events.ragged())):
        got = served[signature](**{key: tf.constant(value) for key, value in request.items()})
        assert np.abs(got["score"] - score).max() < 1e-6
    folder = export(model, preprocessor, tmp_path / "onnx", format="onnx")
    for file, request in (("model.onnx", events.padded()), ("model_ragged.onnx", events.ragged())):
        runtime = session(str(folder / file))
        (got,) = runtime.run(["score"], {one.name: request[one.name] for one in runtime.get_inputs()})
        assert np.abs(got - score).max() < 1e-5
    back = from_onnx(folder / "network.onnx", preprocessor)
    assert np.abs(np.asarray(back(preprocessor.model_input(raw, mask=True))) - score).max() < 1e-5


def test_what_the_layers_do_by_hand():
    places = np.array([[[0, 0.0, 3.1], [0, 0.0, -3.1], [0, 2.0, 0.0], [0, 9, 9]]], "f4")
    real = np.array([[True, True, True, False]])
    near = np.asarray(Nearest(1, angles=True)([places, real]))[0]
    assert near.tolist() == [[0, 1, 0, 0], [1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0]]  # phi goes round; a tie counts
    messages = np.arange(16, dtype="f4").reshape(1, 4, 4, 1)
    assert np.asarray(MeanOfNeighbours()([messages, near[None]]))[0, :, 0].tolist() == [1, 4, 8.5, 0]
    rng = np.random.default_rng(0)
    q, k, v = (rng.normal(size=(1, n, 4)).astype("f4") for n in (2, 3, 3))
    got = np.asarray(Attend(2)([q, k, v, np.array([[True, True, False]])]))[0]
    for head in range(2):
        own = slice(2 * head, 2 * head + 2)
        weights = np.exp(q[0][:, own] @ k[0][:2, own].T / np.sqrt(2))
        assert np.allclose(got[:, own], weights / weights.sum(axis=1, keepdims=True) @ v[0][:2, own], atol=1e-5)


def test_which_groups_are_particles(path, specs):
    assert {p.group: p.vector for p in particles_of(specs)} == {
        "nJet": ("Jet_pt", "Jet_eta", "Jet_phi", "Jet_mass"), "nMu": ("Mu_pt", "Mu_eta", "Mu_phi", None),
    }  # fmt: skip
    named = scan(path, vectors={"Hit": ["Hit_mass"] * 4}, progress=False)
    assert "nHit" in {p.group for p in particles_of(named)}
    bare = scan(path, branches="met", progress=False)
    with pytest.raises(ModelError, match="particle_net needs objects with pt, eta and phi"):
        built("particle_net", Preprocessor(bare, "minmax"))
    with pytest.raises(ModelError, match=r"build\('particle_net', specs, preprocessor=ds.preprocessor\)"):
        models.build("particle_net", specs)
