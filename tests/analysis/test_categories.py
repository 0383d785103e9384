"""Kinds as one-hot branches or as an index, in training and when served, against NumPy's own comparison."""

from typing import Any

import awkward as ak
import keras
import numpy as np
import pytest
import tensorflow as tf

from mlaas4hep_tf import RootDataset, Specs, export, scan
from mlaas4hep_tf.categories import Index, kinds, values_of
from mlaas4hep_tf.cli.parsing import categories
from mlaas4hep_tf.errors import BranchError, ConfigError, PlanError
from mlaas4hep_tf.models import build
from mlaas4hep_tf.testing import write_tree


@pytest.fixture(scope="module")
def events():
    rng = np.random.default_rng(2)
    counts = rng.integers(0, 4, 200)
    jets = {"pt": rng.uniform(20, 90, counts.sum()).astype("f4"), "flavour": rng.choice([0, 4, 5, -1], counts.sum())}
    return {
        "channel": rng.choice([1, 2, 7], 200),
        "met": rng.uniform(0, 90, 200).astype("f4"),
        "Jet": ak.zip({name: ak.unflatten(values, counts) for name, values in jets.items()}),
    }


@pytest.fixture(scope="module")
def path(events, tmp_path_factory):
    return write_tree(tmp_path_factory.mktemp("kinds") / "t.root", events)


def batch_of(path, specs, **options):
    (batch,) = list(RootDataset(path, specs, layout="columns", mask=True, shuffle=False, batch_size=200, **options))
    return {name: values.numpy() for name, values in batch.items()}


def test_one_branch_for_each_kind_that_is_found(events, path):
    specs = scan(path, categories={"Jet_flavour": "auto", "channel": [1, 2]}, progress=False)
    assert [name for name in specs if "_is_" in name] == [
        "channel_is_1", "channel_is_2",
        "Jet_flavour_is_0", "Jet_flavour_is_4", "Jet_flavour_is_5", "Jet_flavour_is_m1",
    ]  # fmt: skip
    assert "Jet_flavour" not in specs and "channel" not in specs
    batch = batch_of(path, specs, normalize="standard")
    assert np.array_equal(batch["channel_is_2"], events["channel"] == 2)
    assert not batch["channel_is_1"][events["channel"] == 7].any()  # 7 is none of the kinds
    for value in (0, 4, 5, -1):
        name = f"Jet_flavour_is_{value}".replace("-", "m")
        wanted = ak.fill_none(ak.pad_none(events["Jet"]["flavour"] == value, 3, axis=1), False)
        assert np.array_equal(batch[name], wanted.to_numpy())
        assert np.array_equal(batch[f"{name}_mask"].sum(axis=1), ak.num(events["Jet"]))


def test_a_branch_of_kinds_named_among_others_stands_for_them(path):
    own: dict[str, Any] = {"categories": {"channel": [1, 2]}, "define": {"twice": "2 * met"}, "progress": False}
    assert [*scan(path, branches=["twice", "channel"], **own)] == ["channel_is_1", "channel_is_2", "twice"]
    assert [*scan(path, branches=["twice"], **own)] == ["twice"]
    assert [*scan(path, branches=["met", "channel"], **own)] == ["channel_is_1", "channel_is_2", "met"]


def test_an_index_for_an_embedding(events, path, tmp_path):
    specs = scan(path, categories={"Jet_flavour": Index([5, 0]), "channel": Index()}, progress=False)
    assert specs.kinds == {"Jet_flavour_kind": 3, "channel_kind": 4}
    specs.save(tmp_path / "s.json")
    assert Specs.load(tmp_path / "s.json") == specs
    batch = batch_of(path, specs)
    assert np.array_equal(batch["channel_kind"], np.searchsorted([1, 2, 7], events["channel"]) + 1)
    flavour = ak.fill_none(ak.pad_none(events["Jet"]["flavour"], 3, axis=1), 99).to_numpy()
    assert np.array_equal(batch["Jet_flavour_kind"], np.select([flavour == 5, flavour == 0], [1, 2], 0))


def test_the_exported_model_takes_the_branch_itself(events, path, tmp_path):
    keras.utils.set_random_seed(1)
    specs = scan(path, categories={"Jet_flavour": "auto", "channel": Index()}, progress=False)
    ds = RootDataset(path, specs, mask=True, shuffle=False, batch_size=200)
    model = build("set", specs)
    served = tf.saved_model.load(export(model, ds, tmp_path / "m" / "1")).signatures["serving_default"]
    jets = {name: ak.fill_none(ak.pad_none(events["Jet"][name], 3, axis=1), np.nan) for name in ("pt", "flavour")}
    request = {name: values.to_numpy() for name, values in jets.items()}
    request = {f"Jet_{name}": values for name, values in request.items()} | {n: events[n] for n in ("channel", "met")}
    request["nJet"] = ak.num(events["Jet"]).to_numpy()
    inputs = served.structured_input_signature[1]
    assert set(inputs) == {"nJet", "Jet_pt", "Jet_flavour", "channel", "met"}
    with np.errstate(invalid="ignore"):
        score = served(**{n: tf.constant(request[n].astype(spec.dtype.as_numpy_dtype)) for n, spec in inputs.items()})
    assert np.abs(score["score"] - model(next(iter(ds)), training=False)).max() < 1e-6


def test_what_cannot_be_kinds(path):
    with pytest.raises(PlanError, match="'met' has no whole numbers"):
        scan(path, categories={"met": "auto"}, progress=False)
    with pytest.raises(BranchError, match="categories: no branch 'flavour'"):
        scan(path, categories={"flavour": "auto"}, progress=False)
    with pytest.raises(PlanError, match="'n' has more than 64 values"):
        kinds("n", range(65), whole=True)
    with pytest.raises(PlanError, match="more than 64"):
        kinds("n", None, whole=True)
    wrong: list[Any] = [[1, 1], [], [1.5], "all"]
    for values in wrong:
        with pytest.raises(ConfigError, match="categories"):
            values_of(values)


def test_in_the_shell():
    assert categories(["a=auto", "b=0,-4", "c=index", "d=index:1,2"]) == {
        "a": "auto", "b": (0, -4), "c": Index("auto"), "d": Index((1, 2)),
    }  # fmt: skip
    for text in ("a", "a=", "=auto", "a=one:1", "a=index:x"):
        with pytest.raises(ConfigError, match="--category"):
            categories([text])
