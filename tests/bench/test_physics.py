"""The study of the physics case on the small sample: the three ways of the paper's section 4.2 agree."""

import json
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from helpers.soak import cases

pytest.importorskip("sklearn", reason="the study needs scikit-learn: pip install -e .[physics]")

import inside
import outside
import study
import tables
from features import EPOCHS, FIRST, FLAT, PARTS

from mlaas4hep_tf import RootDataset

pytestmark = pytest.mark.slow  # it trains dozens of models

THREE = tables.THREE_WAYS
SEEDS = cases(3, 5)


@pytest.fixture(scope="module")
def sample(demo_files):
    return inside.Sample(demo_files)


@pytest.fixture(scope="module")
def folder(sample, tmp_path_factory):
    """A study of some of the rows."""
    out = tmp_path_factory.mktemp("study")
    assert study.run(sample, out, SEEDS, EPOCHS, 10, THREE)
    assert study.run(sample, out, 1, EPOCHS, 10, ["HistGradientBoosting", "mixing: half signal"])
    return out


def results(folder):
    return json.loads((folder / "results.json").read_text())


def test_27_features_the_same_inside_and_outside(sample):
    """Column by column: our vector, unnormalised, against awkward and NumPy."""
    options: dict[str, Any] = {"normalize": None, "shuffle": False, "mask": True}
    ds = RootDataset(sample.files, sample.specs("flat27"), labels=inside.LABELS, **options)
    x = np.concatenate([np.where(x["mask"], x["vector"], np.nan) for x, _ in ds])
    y = np.concatenate([y.numpy() for _, y in ds])
    theirs, labels = outside.read(sample.files)
    assert np.array_equal(y, labels)
    assert x.shape == theirs.shape == (8522, 27)
    names = [*FLAT, *(f"{name}_0" for name in FIRST)]
    assert sorted(names) == sorted(ds.specs.vector_names)
    for column, name in enumerate(names):
        ours = x[:, ds.specs.vector_names.index(name)]
        low, high = np.nanmin(ours), np.nanmax(ours)
        assert np.abs(np.nan_to_num((ours - low) / (high - low)) - theirs[:, column]).max() < 1e-5, name


def test_the_three_ways_agree_within_the_spread_between_seeds(folder):
    found = results(folder)
    for part in PARTS:
        auc = {way: tables.aucs(found, way, part) for way in THREE}
        assert min(v.min() for v in auc.values()) > 0.8
        for one, other in combinations(THREE, 2):
            allowed = np.hypot(tables.spread(auc[one]), tables.spread(auc[other]))
            assert abs(auc[one].mean() - auc[other].mean()) < allowed, (part, one, other)


def test_boosted_trees_are_a_reference_worth_the_name(folder):
    assert tables.aucs(results(folder), "HistGradientBoosting", "test").mean() > 0.9


def test_half_signal_moves_the_scores_to_where_signal_passes(folder):
    found = results(folder)
    plain, half = (found[row]["0"] for row in ("(i) framework", "mixing: half signal"))
    assert plain["signal_fraction"] == pytest.approx([576 / 5454] * 5, abs=1e-3)
    assert half["signal_fraction"] == pytest.approx([0.5] * 5, abs=1e-3)
    assert half["passed"][0] > plain["passed"][0] + 0.2


def test_a_study_goes_on_where_it_stopped_and_says_so(sample, tmp_path, monkeypatch):
    trained = []

    def quick(seed):
        trained.append(seed)
        return study.summary({part: (np.array([0, 1, 1]), np.array([0.1, 0.4, 0.9])) for part in PARTS}, 1.0, 7)

    monkeypatch.setattr(study, "trainings", lambda sample, epochs: {"one": quick, "two": quick})
    assert not study.run(sample, tmp_path, 2, 1, 0)
    assert study.run(sample, tmp_path, 2, 1, 10, ["one"])
    assert study.run(sample, tmp_path, 2, 1, 10)
    assert trained == [0, 1, 0, 1]
    assert results(tmp_path)["two"]["1"]["auc"]["test"] == 1.0
    assert results(tmp_path)["two"]["1"]["passed"] == [0.5, 0.0]


@pytest.mark.parametrize("row", ["image", "mixing: equal"])
def test_the_other_rows_train(sample, row):
    found = study.trainings(sample, 1)[row](0)
    assert set(found["auc"]) == set(PARTS)
    assert found["parameters"] > 1000
    assert found["signal_fraction"] == pytest.approx([1 / 9 if "equal" in row else 576 / 5454], abs=1e-3)


def test_tables_and_figures(folder, sample):
    tables.write(folder, tables.describe(sample))
    text = (folder / "tables.md").read_text()
    assert "8,522 events in 9 files; 17 flat branches, 27 flat features, 52 jagged branches" in text
    for row in (*THREE, "HistGradientBoosting", "mixing: half signal"):
        assert f"| {row} | " in text
    test = tables.aucs(results(folder), "(i) framework", "test")
    assert f"| {test.mean():.4f} ± {test.std(ddof=1):.4f} | {SEEDS} |" in text
    assert all((folder / f"{name}.png").stat().st_size > 5000 for name in ("three_ways", "representations", "balance"))
