"""Files that ROOT wrote (tests/data/root640): every number as ROOT reads it, and what is left out by name."""

import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from mlaas4hep_tf.io.branches import Selection
from mlaas4hep_tf.io.files import Source
from mlaas4hep_tf.io.inspection import inspect
from mlaas4hep_tf.io.reader import read

FOLDER = Path(__file__).parents[1] / "data" / "root640"
VALUES = json.loads((FOLDER / "values.json").read_text())
LEFT_OUT = {
    "delphes.root": {"Jet/Jet.Constituents": "objects"},
    "objects.root": {
        "whole": "objects",  # a TBranchObject, of which each entry has its class's name
        "polars_whole": "objects stored member by member",
        "derived": "objects stored otherwise than uproot thinks",  # its base class has a header
    },
    "physlite.root": {"AnalysisJetsAuxDyn.constituentPt": "lists of lists"},
    "reals.root": {"member./member.list": "objects"},
    "vectors.root": {"nested": "lists of lists", "text": "text"},
    "physlite_rntuple.root": {"AnalysisJetsAuxDyn:constituentPt": "lists of lists"},
    "objects_rntuple.root": {"nested": "lists of lists", "variant": "variants", "text": "text"},
}
SPREAD = re.compile(r"(\[\d+\])+$")  # of an array in a list: the element, or in ROOT's names the size


def opened(name):
    return inspect(Source(str(FOLDER / name)), Selection((), (), ()))


def by_root(file, name, items):
    """The values of every event, as one list of numbers an event; `items`: how many numbers the arrays in a list have."""
    stem, item = (SPREAD.sub("", name), int(name.rsplit("[", 1)[1][:-1])) if name.endswith("]") else (name, None)
    keys = {SPREAD.sub("", key): key for key in VALUES[file]}
    key = name if name in VALUES[file] else max((k for k in keys if stem == k or stem.startswith(f"{k}.")), key=len)
    members = [f"_{m}" if m.isdigit() else m for m in stem[len(key) :].split(".") if m] if key != name else []
    events = VALUES[file][keys.get(key, key)]
    numbers = [flat(member(event, members)) for event in events]
    return numbers if item is None or key == name else [event[item::items] for event in numbers]


def member(value, names):
    if not names:
        return value
    return [member(v, names) for v in value] if isinstance(value, list) else member(value[names[0]], names[1:])


def flat(value):
    if isinstance(value, str):  # a bitset, its last bit first
        return [int(bit) for bit in reversed(value)]
    if not isinstance(value, list):
        return [np.nan if value is None else value]
    return [number for one in value for number in flat(one)]


def per_event(columns, info):
    values = np.concatenate([np.empty(0, info.dtype), *columns.values[info.name]])
    assert all(piece.dtype.newbyteorder("=") == info.dtype for piece in columns.values[info.name])
    counts = [1] * columns.num_entries if info.kind == "flat" else columns.counts[info.group].tolist()
    return np.split(values, np.cumsum(counts)[:-1])


@pytest.mark.parametrize("name", sorted(VALUES))
@pytest.mark.parametrize(("start", "stop"), [(0, None), (3, 11), (4, 5)])
def test_every_number_is_that_of_root(name, start, stop):
    file = opened(name)
    infos = [info for info in file.branches if info.kind != "other"]
    stop = stop or file.num_entries
    items = Counter(SPREAD.sub("", info.name) for info in infos)
    columns = read(file, start, stop, [info.name for info in infos])
    for info in infos:
        expected = by_root(name, info.name, items[SPREAD.sub("", info.name)])[start:stop]
        for found, right in zip(per_event(columns, info), expected, strict=True):
            assert np.array_equal(found, np.array(right, info.dtype), equal_nan=info.dtype.startswith("float")), info


@pytest.mark.parametrize("name", sorted(VALUES))
def test_what_holds_no_numbers_is_named(name):
    found = {i.name: i.reason for i in opened(name).branches if i.kind == "other" and i.reason != "not selected"}
    assert found == LEFT_OUT.get(name, {})
