"""What expressions of branches mean, against Awkward Array by hand, and what means nothing."""

from typing import Any

import awkward as ak
import numpy as np
import pytest
from helpers.expressions import SCHEMA

from mlaas4hep_tf.errors import ExpressionError
from mlaas4hep_tf.expressions.by_numpy import NumPy
from mlaas4hep_tf.expressions.evaluation import evaluate
from mlaas4hep_tf.expressions.meaning import Schema, Variable, understand
from mlaas4hep_tf.expressions.tree import Group, Inner, branches_of

SIZES = {"Jet": [3, 0, 2, 1, 4], "Lepton": [1, 2, 0, 1, 3]}
chance = np.random.default_rng(3)


def drawn(variable):
    size = 5 if variable.axis is None else sum(SIZES[variable.axis.name])
    if variable.type == "int":
        return chance.integers(-5, 6, size)
    if variable.type == "bool":
        return chance.random(size) < 0.5
    return chance.normal(0, 2, size).astype(np.float32) if "_e" in variable.name else chance.exponential(40, size)


FLAT_OR_LISTS = {n: v for n, v in SCHEMA.variables.items() if not isinstance(v.axis, Inner)}
VALUES: dict[str, Any] = {
    n: np.asarray(drawn(v), {"float": "f4", "int": "i8", "bool": "?"}[v.type]) for n, v in FLAT_OR_LISTS.items()
}
TRACKS = np.array([2, 0, 1, 3, 1, 1, 0, 2, 1, 1])  # of each jet
VALUES["tracks_d0"] = chance.normal(0, 1, int(TRACKS.sum())).astype(np.float32)
COUNTS = {name: np.array(sizes) for name, sizes in SIZES.items()} | {"tracks": TRACKS}


def events():
    """The same in Awkward Array, floats as float64 of what float32 holds."""
    made = {}
    for name, variable in FLAT_OR_LISTS.items():
        values = VALUES[name].astype("f8") if variable.type == "float" else VALUES[name]
        made[name] = ak.unflatten(values, SIZES[variable.axis.name]) if variable.axis else values
    made["tracks_d0"] = ak.unflatten(ak.unflatten(VALUES["tracks_d0"].astype("f8"), TRACKS), SIZES["Jet"])
    return made


E = events()


def vectors(group, mass="mass"):
    return ak.zip(
        {m: E[f"{group}_{name}"] for m, name in zip(("pt", "eta", "phi", "m"), ("pt", "eta", "phi", mass), strict=True)}
    )


def invariant_mass(a, b):
    total = [0, 0, 0, 0]
    for v in (a, b):
        momentum = (v.pt * np.cos(v.phi), v.pt * np.sin(v.phi), v.pt * np.sinh(v.eta))
        energy = np.sqrt(v.m**2 + sum(p**2 for p in momentum))
        total = [t + p for t, p in zip(total, (energy, *momentum), strict=True)]
    return np.sqrt(total[0] ** 2 - total[1] ** 2 - total[2] ** 2 - total[3] ** 2)


def angle(a, b):
    return np.arctan2(np.sin(a - b), np.cos(a - b))


def apart(a, b):
    return np.sqrt((a.eta - b.eta) ** 2 + angle(a.phi, b.phi) ** 2)


def by_numpy(text, schema=SCHEMA):
    return evaluate([understand(text, schema)], NumPy(), VALUES, COUNTS, 5)[0]


JETS, LEPTONS = vectors("Jet"), vectors("Lepton", "m")
BOTH = ak.cartesian([JETS, LEPTONS], nested=True)
PAIRS = ak.combinations(JETS, 2, fields=["a", "b"])
TIGHT = ak.combinations(JETS[E["Jet_tight"]], 2, fields=["a", "b"])
JET_0, JET_1 = (ak.pad_none(JETS, 2)[:, i] for i in (0, 1))

MEANINGS = {
    "sum(Jet_pt)": ak.sum(E["Jet_pt"], axis=1),
    "count(Jet_pt > 30)": ak.sum(E["Jet_pt"] > 30, axis=1),
    "count(Jet_pt)": ak.num(E["Jet_pt"]),
    "max(Jet_pt)": ak.max(E["Jet_pt"], axis=1),
    "min(abs(Jet_eta))": ak.min(abs(E["Jet_eta"]), axis=1),
    "mean(Lepton_pt)": ak.mean(E["Lepton_pt"], axis=1),
    "any(Jet_tight)": ak.any(E["Jet_tight"], axis=1),
    "all(Jet_id > 0)": ak.all(E["Jet_id"] > 0, axis=1),
    "sum(Jet_id)": ak.sum(E["Jet_id"], axis=1),
    "Jet_pt / ht": E["Jet_pt"] / E["ht"],
    "Jet_pt[0]": JET_0.pt,
    "met + Jet_pt[1]": E["met"] + JET_1.pt,
    "sum(Jet_pt[Jet_tight])": ak.sum(E["Jet_pt"][E["Jet_tight"]], axis=1),
    "Jet_pt[Jet_tight][0]": ak.pad_none(E["Jet_pt"][E["Jet_tight"]], 1)[:, 0],
    "where(nJet > 0, met, -ht)": np.where(E["nJet"] > 0, E["met"], -E["ht"]),
    "nJet % 4": E["nJet"] % 4,
    "nJet // 4": E["nJet"] // 4,
    "-7 // 2": np.full(5, -4),
    "nJet % 0": np.zeros(5),
    "(run & 6) == 2": (E["run"] & 6) == 2,
    "run << 2 | 1": E["run"] << 2 | 1,
    "~run": ~E["run"],
    "ok ^ (met > 40)": E["ok"] ^ (np.float32(E["met"]) > 40),
    "10 < met <= 60 and not ok": (E["met"] > 10) & (E["met"] <= 60) & ~E["ok"],
    "hypot(met, ht)": np.hypot(E["met"], E["ht"]),
    "mass(Jet[0], Jet[1])": invariant_mass(JET_0, JET_1),
    "max(mass(pairs(Jet)))": ak.max(invariant_mass(PAIRS.a, PAIRS.b), axis=1),
    "max(mass(pairs(Jet[Jet_tight])))": ak.max(invariant_mass(TIGHT.a, TIGHT.b), axis=1),
    "min(delta_r(Lepton, Jet))": ak.min(ak.min(apart(BOTH["0"], BOTH["1"]), axis=2), axis=1),
    "min(delta_r(Jet, Lepton), over=Lepton)": ak.min(apart(BOTH["0"], BOTH["1"]), axis=2),
    "max(mass(Lepton, Jet), over=Lepton)": ak.max(invariant_mass(BOTH["0"], BOTH["1"]), axis=2),
    "sum(delta_phi(Lepton, Jet), over=Jet)": ak.sum(
        (lambda both: angle(both["0"].phi, both["1"].phi))(ak.cartesian([LEPTONS, JETS], nested=True)), axis=2
    ),
    "delta_phi(Jet_phi, met)": angle(E["Jet_phi"], E["met"]),
    "delta_r(1, 2, 4, 6)": np.full(5, np.hypot(3, 2 * np.pi - 4)),
    "mass(Jet_pt, Jet_eta, Jet_phi, Jet_mass)": E["Jet_mass"],
    "sum(tracks_d0, axis=object)": ak.sum(E["tracks_d0"], axis=2),
    "max(tracks_d0 * Jet_pt)": ak.max(ak.max(E["tracks_d0"] * E["Jet_pt"], axis=2), axis=1),
    "tracks_d0[0]": ak.pad_none(E["tracks_d0"], 1, axis=2)[:, :, 0],
}  # fmt: skip


@pytest.mark.parametrize("text", MEANINGS)
def test_values_by_hand(text):
    got = by_numpy(text)
    want = flat(MEANINGS[text])
    assert got.shape == want.shape
    np.testing.assert_allclose(got.astype("f8"), want.astype("f8"), rtol=2e-5, atol=1e-5)


def flat(values):
    """All values, event after event; those that are missing are NaN."""
    filled = ak.fill_none(ak.Array(values), np.nan, axis=-1)
    return ak.to_numpy(ak.flatten(filled, axis=None))


def test_integers_stay_integers():
    schema = Schema({"event": Variable("event", "int")}, {})
    values = {"event": np.array([2**53 + 1, 2**63 - 1])}
    parity, same, next_one = evaluate(
        [understand(t, schema) for t in ("event % 2", "event == 9007199254740993", "event + 1")], NumPy(), values, {}, 2
    )
    assert parity.tolist() == [1, 1] and same.tolist() == [True, False]
    assert next_one.dtype == np.int64 and next_one.tolist() == [2**53 + 2, -(2**63)]


def test_floats_are_compared_as_the_file_has_them():
    schema = Schema({"pt": Variable("pt", "float")}, {})
    values = {"pt": np.array([30.1], np.float32)}
    assert evaluate([understand("pt >= 30.1", schema)], NumPy(), values, {}, 1)[0].tolist() == [True]


def test_missing_values_fail_every_comparison():
    schema = Schema({"pt": Variable("pt", "float")}, {})
    values = {"pt": np.array([np.nan], np.float32)}
    texts = ["pt > 1", "pt <= 1", "pt == pt", "pt && True"]
    assert [one.tolist() for one in evaluate([understand(t, schema) for t in texts], NumPy(), values, {}, 1)] == [
        [False]
    ] * 4


def test_vectors_whose_names_do_not_tell():
    names = ("a", "b", "c", "d")
    variables = {n: Variable(n, "float", Group("Tau")) for n in names}
    with pytest.raises(ExpressionError, match=r"'Tau' has no branch that ends in pt; say which with vectors="):
        understand("mass(Tau[0], Tau[1])", Schema(variables, {}))
    node = understand("mass(Tau[0], Tau[1])", Schema(variables, {"Tau": names}))
    assert branches_of(node) == set(names)


def test_branches_of_masks_count_too():
    assert branches_of(understand("sum(Jet_pt[Jet_id > 3]) + max(mass(pairs(Lepton[Lepton_charge > 0])))", SCHEMA)) == {
        "Jet_pt", "Jet_id", "Lepton_pt", "Lepton_eta", "Lepton_phi", "Lepton_m", "Lepton_charge",
    }  # fmt: skip


def test_equal_parts_are_one():
    assert understand("sum(Jet_pt) * met", SCHEMA) is understand("sum( Jet_pt )*met", SCHEMA)


def test_deep_trees_are_worked_out():
    text = "delta_phi(" * 29 + "met" + ", ht)" * 29
    assert by_numpy(text).shape == (5,)
    assert by_numpy("+".join(["met"] * 190)).shape == (5,)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("Jet_ptt", r"there is no branch 'Jet_ptt' \(did you mean 'Jet_pt'"),
        ("summ(Jet_pt)", r"there is no function 'summ' \(did you mean 'sum'"),
        ("sqrt(met, ht)", "sqrt takes 1 argument, not 2"),
        ("where(ok, 1)", "where takes 3 arguments, not 2"),
        ("Jet_pt + Lepton_pt", "objects of 'Jet' and 'Lepton' meet here"),
        ("Jet_pt + Jet_pt[Jet_tight]", "different choices of 'Jet' meet here"),
        ("Jet_pt[Lepton_pt > 3]", "the condition is on 'Lepton', not on the 'Jet'"),
        ("Jet_pt[Jet_pt]", "a condition on the objects"),
        ("Jet_pt[-1]", "an index is a place"),
        ("met[0]", "one value per event has no index"),
        ("sum(met)", "sum goes over a list; this is one value per event"),
        ("sum(Jet_pt, Jet_pt)", "sum takes 1 argument, not 2"),
        ("sum(Jet_pt, over=Jet)", "over=GROUP for objects of two groups"),
        ("sum(Jet_pt, axis=object)", "axis=object is for lists in objects"),
        ("min(delta_r(Jet, Lepton), over=Tau)", "over= names one of the two groups, 'Jet' or 'Lepton'"),
        ("sqrt(met, over=Jet)", "no function here takes over="),
        ("met & 1", "& works on integers and on booleans, not on floats"),
        ("~met", "~ works on integers and on booleans"),
        ("Jet", "objects are no value"),
        ("pairs(Jet)", "objects are no value"),
        ("pairs(met)", "pairs takes the objects of a group"),
        ("pairs(Jet)[0]", "pairs have no index"),
        ("mass(pairs(Jet))", "reduce it, with min"),
        ("Jet_pt[Jet_tight]", "reduce it, with min"),
        ("delta_r(Jet, Jet)", r"each object with itself tells nothing; of two: delta_r\(pairs\(Jet\)\)"),
        ("delta_r(Jet)", "delta_r takes two objects"),
        ("delta_r(met, ht)", "delta_r takes objects, or 4 numbers: eta, phi, eta, phi"),
        ("mass(Jet, met)", "mass takes objects, or 4 numbers"),
        ("1e400", "out of range"),
        ("99999999999999999999", "out of range"),
    ],
)  # fmt: skip
def test_what_means_nothing_says_where(text, says):
    with pytest.raises(ExpressionError, match=says):
        understand(text, SCHEMA)
