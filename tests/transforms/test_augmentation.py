"""Augmentation by hand and by symmetry, and that a training which goes on sees the same events."""

from typing import Any

import awkward as ak
import numpy as np
import pytest
import tensorflow as tf

from mlaas4hep_tf import RootDataset, scan
from mlaas4hep_tf.cli.parsing import augmentation
from mlaas4hep_tf.errors import ConfigError, PlanError, ResumeError
from mlaas4hep_tf.testing import write_tree
from mlaas4hep_tf.transforms.augment import normal, uniform
from mlaas4hep_tf.transforms.augmentation import Augmentation

EVERYTHING = Augmentation(("*_phi", "metphi"), ("*_eta",), {"Jet": 0.3}, {"*_pt": 0.1})


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    rng = np.random.default_rng(7)
    events = {"metphi": rng.uniform(-np.pi, np.pi, 900).astype("f4"), "number": np.arange(900, dtype="f4")}
    for group in ("Jet", "Mu"):
        counts = rng.integers(0, 5, 900)
        ranges = {"pt": (20, 200), "eta": (-2.5, 2.5), "phi": (-np.pi, np.pi)}
        events[group] = ak.zip(
            {n: ak.unflatten(rng.uniform(*r, counts.sum()).astype("f4"), counts) for n, r in ranges.items()}
        )
    return write_tree(tmp_path_factory.mktemp("augment") / "t.root", events)


@pytest.fixture(scope="module")
def specs(path):
    return scan(path, progress=False)


def dataset(path, specs, **options):
    return RootDataset(
        path,
        specs,
        **{"normalize": None, "mask": True, "layout": "columns", "batch_size": 100, "chunk_size": 300, "seed": 5}
        | options,
    )


def columns(ds):
    """An epoch, in the order of the events' numbers."""
    batches = list(ds)
    joined = {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
    order = np.argsort(joined["number"])
    return {name: values[order] for name, values in joined.items()}


def test_all_objects_turn_by_one_angle_and_change_sides_together(path, specs):
    ds = dataset(path, specs)
    before, after = columns(ds), columns(ds.augmented(Augmentation(rotate=("*_phi", "metphi"), flip=("*_eta",))))
    real = {group: before[f"{group}_phi_mask"] for group in ("Jet", "Mu")}
    angle = np.exp(1j * (after["metphi"] - before["metphi"]))
    sides = np.where(before["Jet_eta"][:, 0] * after["Jet_eta"][:, 0] < 0, -1, 1)
    for group in ("Jet", "Mu"):
        turned = np.exp(1j * (after[f"{group}_phi"] - before[f"{group}_phi"])) / angle[:, None]
        assert np.abs(turned - 1)[real[group]].max() < 1e-5
        assert (np.abs(after[f"{group}_phi"]) <= np.float32(np.pi)).all()
        assert np.array_equal(after[f"{group}_phi_mask"], real[group])
        assert np.array_equal(after[f"{group}_pt"], before[f"{group}_pt"])
    has = real["Jet"][:, 0]
    assert np.array_equal(after["Mu_eta"][has], (before["Mu_eta"] * sides[:, None])[has])
    assert 0.4 < np.mean(sides[has] < 0) < 0.6
    assert np.abs(np.mean(angle)) < 0.15  # the angles are uniform


def test_objects_are_dropped_as_a_whole_and_momenta_smeared(path, specs):
    ds = dataset(path, specs)
    before, after = columns(ds), columns(ds.augmented(Augmentation(drop={"Jet": 0.3}, smear={"*_pt": 0.1})))
    had, has = before["Jet_pt_mask"], after["Jet_pt_mask"]
    assert not (has & ~had).any()
    assert abs(1 - has.sum() / had.sum() - 0.3) < 0.05
    assert np.array_equal(after["Jet_eta_mask"], has)
    assert not after["Jet_eta"][~has].any()
    assert np.array_equal(after["Mu_pt_mask"], before["Mu_pt_mask"])
    width = (after["Jet_pt"] / np.where(has, before["Jet_pt"], 1))[has] - 1
    assert abs(width.mean()) < 0.01
    assert abs(width.std() - 0.1) < 0.01
    assert np.array_equal(after["Mu_eta"], before["Mu_eta"])


def test_a_network_of_invariants_does_not_change(path, specs):
    def invariant(x):
        turn = x["Jet_phi"][:, :, None] - x["Mu_phi"][:, None, :]
        apart = x["Jet_eta"][:, :, None] - x["Mu_eta"][:, None, :]
        both = x["Jet_phi_mask"][:, :, None] & x["Mu_phi_mask"][:, None, :]
        return np.where(both, np.cos(turn) + np.abs(apart), 0).sum(axis=(1, 2))

    ds = dataset(path, specs)
    turned = ds.augmented(Augmentation(rotate=("*_phi",), flip=("*_eta",)))
    assert np.allclose(invariant(columns(ds)), invariant(columns(turned)), atol=1e-4)


def test_epochs_differ_and_a_training_that_goes_on_has_the_same_bits(path, specs):
    ds = dataset(path, specs, layout="vector").augmented(EVERYTHING)
    epochs = [[batch["vector"].numpy() for batch in ds] for _ in range(2)]
    again = dataset(path, specs, layout="vector", chunk_size=300).augmented(EVERYTHING)
    for batch in (0, 1, 4, 8):
        rest = [one["vector"].numpy() for one in again.starting_at(again.state(1, batch))]
        assert len(rest) == 9 - batch
        assert all(map(np.array_equal, rest, epochs[1][batch:]))
    first, second = (columns(dataset(path, specs).augmented(EVERYTHING)) for _ in range(2))
    assert np.array_equal(first["Jet_phi"], second["Jet_phi"])
    ds = dataset(path, specs).augmented(EVERYTHING)
    one, two = columns(ds), columns(ds)
    assert not np.array_equal(one["metphi"], two["metphi"])
    other = columns(dataset(path, specs, seed=6).augmented(EVERYTHING))
    assert not np.array_equal(one["metphi"], other["metphi"])
    with pytest.raises(ResumeError, match="other augmentation"):
        dataset(path, specs, layout="vector").starting_at(again.state(1, 2))


def test_evaluation_sees_the_events_as_they_are(path, specs):
    ds = dataset(path, specs)
    assert np.array_equal(columns(ds.augmented(EVERYTHING).in_order())["Jet_phi"], columns(ds)["Jet_phi"])


def test_random_numbers():
    key = tf.cast(tf.range(20_000), tf.uint32)
    numbers = uniform(key, [0, 1, 2]).numpy()
    assert numbers.min() > 0 and numbers.max() < 1
    assert np.abs(np.histogram(numbers, 20, (0, 1))[0] / 3000 - 1).max() < 0.08
    assert np.abs(np.corrcoef(numbers.T) - np.eye(3)).max() < 0.03
    assert abs(np.corrcoef(numbers[:-1, 0], numbers[1:, 0])[0, 1]) < 0.03
    drawn = normal(key, np.array([0, 2])).numpy()
    assert np.abs(drawn.mean(axis=0)).max() < 0.03
    assert np.abs(drawn.std(axis=0) - 1).max() < 0.03


def test_what_cannot_be_augmented(path, specs):
    ds = dataset(path, specs)
    with pytest.raises(PlanError, match="rotate='phi' is no feature"):
        ds.augmented(Augmentation(rotate=("phi",)))
    with pytest.raises(PlanError, match="drop is of objects, and 'metphi' is of the event"):
        ds.augmented(Augmentation(drop={"metphi": 0.1}))
    with pytest.raises(PlanError, match="another layout than 'ragged'"):
        dataset(path, specs, layout="ragged", mask=False).augmented(EVERYTHING)
    cases: list[Any] = [{}, {"drop": {"Jet": 1.0}}, {"smear": {"*": -0.1}}]
    for wrong in cases:
        with pytest.raises(PlanError, match="augmentation"):
            Augmentation(**wrong)


def test_in_the_shell():
    given = ["rotate=*_phi", "rotate=metphi", "flip=*_eta", "drop=Jet:0.3", "smear=*_pt:0.1"]
    assert augmentation(given) == EVERYTHING
    assert augmentation(None) is None
    for text in ("rotate=", "turn=*_phi", "drop=Jet", "smear=*_pt:much"):
        with pytest.raises(ConfigError, match="--augment"):
            augmentation([text])
