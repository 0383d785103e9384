"""Random events and random expressions of them, which mean something."""

from __future__ import annotations

from random import Random
from typing import Any

import numpy as np
import numpy.typing as npt

from mlaas4hep_tf.expressions.meaning import Schema, Variable
from mlaas4hep_tf.expressions.tree import Group, Inner

JET, LEPTON = Group("Jet"), Group("Lepton")
TRACKS = Inner("tracks", JET)
VARIABLES = (
    Variable("met", "float"), Variable("ht", "float"), Variable("nJet", "int"), Variable("run", "int"),
    Variable("ok", "bool"), Variable("Jet_pt", "float", JET), Variable("Jet_eta", "float", JET),
    Variable("Jet_phi", "float", JET), Variable("Jet_mass", "float", JET), Variable("Jet_id", "int", JET),
    Variable("Jet_tight", "bool", JET), Variable("Lepton_pt", "float", LEPTON), Variable("Lepton_eta", "float", LEPTON),
    Variable("Lepton_phi", "float", LEPTON), Variable("Lepton_m", "float", LEPTON),
    Variable("Lepton_charge", "int", LEPTON), Variable("tracks_d0", "float", TRACKS),
)  # fmt: skip
SCHEMA = Schema({variable.name: variable for variable in VARIABLES}, {})

Array = npt.NDArray[Any]
_ODD = (0.0, -0.0, 1.0, -1.0, 1e-40, -3e-39, 3e38, 1e-20, np.nan, np.inf, -np.inf, 0.5, 100.0)
_ODD_INTEGERS = (0, 1, -1, 2, 2**53 + 1, -(2**62), 2**63 - 1, -(2**63), 7, 16_777_217)


def events(rng: Random, entries: int) -> tuple[dict[str, Array], dict[str, Array]]:
    """Values of all branches, some of them odd, and counts of the lists, some of them empty."""
    chance = np.random.default_rng(rng.getrandbits(32))
    counts = {name: chance.integers(0, 4, entries) for name in ("Jet", "Lepton")}
    counts["tracks"] = chance.integers(0, 3, int(counts["Jet"].sum()))
    values = {}
    for variable in VARIABLES:
        size = entries if variable.axis is None else int(counts[variable.axis.name].sum())
        values[variable.name] = _values(chance, variable, size)
    return values, counts


def _values(chance: np.random.Generator, variable: Variable, size: int) -> Array:
    odd = chance.random(size) < 0.1
    if variable.type == "bool":
        return chance.random(size) < 0.5
    if variable.type == "int":
        return np.where(odd, chance.choice(np.array(_ODD_INTEGERS), size), chance.integers(-9, 40, size))
    if variable.axis is None:
        return np.where(odd, chance.choice(_ODD, size), chance.normal(0, 60, size)).astype(np.float32)
    scale = 3.0 if variable.name.endswith(("eta", "phi")) else 60.0  # of a vector: its mass would be lost in rounding
    values = chance.normal(0, scale, size) if scale < 60 else chance.exponential(scale, size)
    return np.where(odd, chance.choice([np.nan, np.inf, 0.0], size), values).astype(np.float32)


def number(rng: Random, axis: object = None, depth: int = 3) -> str:
    """A float or an integer per event, or per object of `axis`."""
    if depth == 0 or rng.random() < 0.15:
        names = [v.name for v in VARIABLES if v.type != "bool" and v.axis in (axis, None)]
        return rng.choice([*names, *names, str(rng.randrange(0, 9)), f"{rng.uniform(-4, 90):.3g}"])
    ways = [_arithmetic, _arithmetic, _function, _where]
    if axis is None:
        ways += [_reduction, _reduction, _place, _pairs, _filtered]
    elif axis == JET:
        ways += [_each]
    return rng.choice(ways)(rng, axis, depth - 1)


def condition(rng: Random, axis: object = None, depth: int = 3) -> str:
    """A truth per event, or per object of `axis`."""
    if depth == 0 or rng.random() < 0.15:
        return rng.choice(["ok", "!ok"] + ["Jet_tight", "not Jet_tight"] * (axis == JET))
    one, two = number(rng, axis, depth - 1), number(rng, axis, depth - 1)
    compared = f"({one} {rng.choice(['<', '<=', '>', '>=', '==', '!='])} {two})"
    if rng.random() < 0.5:
        return compared
    sign = rng.choice(["and", "or", "&&", "||", "&", "|", "^"])
    return f"({compared} {sign} {condition(rng, axis, depth - 1)})"


def _arithmetic(rng: Random, axis: object, depth: int) -> str:
    sign = rng.choice(["+", "-", "*", "/", "%", "//"])
    return f"({number(rng, axis, depth)} {sign} {number(rng, axis, depth)})"


def _function(rng: Random, axis: object, depth: int) -> str:
    one = number(rng, axis, depth)
    if rng.random() < 0.3:
        return f"{rng.choice(['arctan2', 'hypot', 'minimum', 'maximum'])}({one}, {number(rng, axis, depth)})"
    return f"{rng.choice(['abs', 'sqrt', 'log', 'log10', 'exp', 'tanh', 'arctan', 'arcsinh', '-'])}({one})"


def _where(rng: Random, axis: object, depth: int) -> str:
    return f"where({condition(rng, axis, depth)}, {number(rng, axis, depth)}, {number(rng, axis, depth)})"


def _reduction(rng: Random, axis: object, depth: int) -> str:
    inside = _listed(rng, rng.choice([JET, LEPTON]), depth)
    if rng.random() < 0.3:
        return f"count({inside} > {rng.randrange(9)})"
    return f"{rng.choice(['sum', 'min', 'max', 'mean'])}({inside})"


def _listed(rng: Random, axis: Group, depth: int) -> str:
    """A number per object, which names at least one branch of it."""
    return f"({number(rng, axis, depth)} + 0 * {axis.name}_pt)"


def _place(rng: Random, axis: object, depth: int) -> str:
    return f"{_listed(rng, rng.choice([JET, LEPTON]), depth)}[{rng.randrange(3)}]"


def _pairs(rng: Random, axis: object, depth: int) -> str:
    both = rng.choice(
        ["pairs(Jet)", "pairs(Jet[Jet_pt > 30])", "Jet, Lepton", "Lepton, Jet", "Jet[Jet_id > 3], Lepton"]
    )
    return f"{rng.choice(['min', 'max'])}({rng.choice(['mass', 'delta_r', 'delta_phi'])}({both}))"


def _filtered(rng: Random, axis: object, depth: int) -> str:
    return f"sum(Jet_pt[{condition(rng, JET, depth)} & (Jet_id > {rng.randrange(9)})])"


def _each(rng: Random, axis: object, depth: int) -> str:
    return rng.choice(
        ["min(delta_r(Jet, Lepton), over=Lepton)", "max(mass(Lepton, Jet), over=Lepton)", "max(tracks_d0, axis=object)"]
    )
