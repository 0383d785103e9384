"""NumPy and TensorFlow give the same for random expressions of random events, with everything odd in them."""

from random import Random

import numpy as np
import pytest
import tensorflow as tf
from helpers.expressions import JET, SCHEMA, condition, events, number
from helpers.soak import cases, report

from mlaas4hep_tf.expressions import parts
from mlaas4hep_tf.expressions.by_numpy import NumPy
from mlaas4hep_tf.expressions.by_tensorflow import TensorFlow
from mlaas4hep_tf.expressions.evaluation import evaluate
from mlaas4hep_tf.expressions.meaning import understand

ENTRIES = 20
CANCELLED = 1e-11  # what rounding of float64 leaves where numbers of order one cancel


def both(text, values, counts):
    node = understand(text, SCHEMA)
    (one,) = evaluate([node], NumPy(), values, counts, ENTRIES)
    (two,) = evaluate([node], TensorFlow(), values, {name: tf.constant(n) for name, n in counts.items()}, ENTRIES)
    return one, two.numpy()


def differences(one, two):
    """Values that are not the same, and those of them that differ by more than one unit of float32."""
    assert (one.dtype, one.shape) == (two.dtype, two.shape)
    differ = (one != two) & ~((one != one) & (two != two))
    with np.errstate(invalid="ignore", over="ignore"):
        unit = np.spacing(np.maximum(np.abs(one), np.abs(two))) if one.dtype == np.float32 else 0
        far = differ & ~(np.abs(one.astype("f8") - two.astype("f8")) <= np.maximum(unit, CANCELLED * (unit > 0)))
    return int(differ.sum()), int(far.sum())


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_two_interpreters_one_meaning():
    asked, values_compared, differ = cases(300, 10_000), 0, 0
    for seed in range(asked):
        rng = Random(seed)
        write = number if rng.random() < 0.7 else condition
        text = write(rng, rng.choice([None, None, JET]), rng.randrange(1, 5))
        values, counts = events(rng, ENTRIES)
        one, two = both(text, values, counts)
        some, far = differences(one, two)
        assert not far, (seed, text, one, two)
        values_compared, differ = values_compared + len(one), differ + some
    report("expressions", expressions=asked, values=values_compared, one_unit_apart=differ, further_apart=0)


def test_events_in_parts_have_the_same_values(monkeypatch):
    monkeypatch.setattr(parts, "EVENTS", 3)
    for seed in range(cases(100, 1000)):
        rng = Random(seed)
        text = number(rng, rng.choice([None, JET]), rng.randrange(1, 5))
        values, counts = events(rng, ENTRIES)
        (whole,) = evaluate([understand(text, SCHEMA)], NumPy(), values, counts, ENTRIES)
        (apart,) = NumPy().work_out([understand(text, SCHEMA)], values, counts, ENTRIES)
        np.testing.assert_array_equal(apart, whole, text, strict=True)


@pytest.mark.parametrize(
    "text",
    [
        "nJet // (run - run)", "nJet % (run - run)", "run // (0 - 1)", "run % (0 - 1)", "run << 70", "run >> (0 - 3)",
        "run + run", "-run", "abs(run)", "minimum(met, ht)", "min(Jet_pt)", "all(Jet_pt)", "met ** 0.5", "1 << 3",
        "arctan2(met % abs(met), -1)", "arctan2(-abs(met) % abs(met), -1)", "arctan2(met % -abs(met), -1)", "arctan2(0.0 * met % ht, -1)",
    ],
)  # fmt: skip
def test_where_interpreters_would_differ_by_themselves(text):
    """Divisions that trap, shifts beyond 63, NaN in minima, lists of nothing but infinity."""
    values, counts = events(Random(7), ENTRIES)
    values["run"][:4] = [-(2**63), 2**63 - 1, 0, -1]
    values["Jet_pt"][:] = np.inf
    one, two = both(text, values, counts)
    assert differences(one, two) == (0, 0)


def test_in_a_graph_whose_lists_have_any_length():
    texts = ["max(mass(pairs(Jet)))", "min(delta_r(Jet, Lepton), over=Lepton)", "sum(Jet_pt[Jet_tight])", "2"]
    nodes = [understand(text, SCHEMA) for text in texts]

    @tf.function
    def graph(values, counts):
        return evaluate(nodes, TensorFlow(), values, counts, tf.size(counts["Jet"], tf.int64))

    specs = {n: tf.TensorSpec([None], tf.as_dtype(v.dtype)) for n, v in events(Random(1), 1)[0].items()}
    concrete = graph.get_concrete_function(
        specs, {n: tf.TensorSpec([None], tf.int64) for n in ("Jet", "Lepton", "tracks")}
    )
    for entries in (0, 1, 30):
        values, counts = events(Random(entries), entries)
        got = concrete({n: tf.constant(v) for n, v in values.items()}, {n: tf.constant(v) for n, v in counts.items()})
        for one, two in zip(evaluate(nodes, NumPy(), values, counts, entries), got, strict=True):
            assert differences(one, two.numpy())[1] == 0
