"""Files that ROOT wrote (tests/data/root640): every number as ROOT reads it, and what is left out by name."""

import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from mlaas4hep_client import ServingError
from mlaas4hep_client.files import read_events

from mlaas4hep_tf import scan
from mlaas4hep_tf.errors import BranchError, DataWarning
from mlaas4hep_tf.io.branches import NO_FEATURES, Selection
from mlaas4hep_tf.io.files import Source
from mlaas4hep_tf.io.inspection import inspect
from mlaas4hep_tf.io.reader import read

FOLDER = Path(__file__).parents[1] / "data" / "root640"
VALUES = json.loads((FOLDER / "values.json").read_text())
LEFT_OUT = {
    "delphes.root": {"Jet/Jet.Constituents": "objects"},
    "objects.root": {
        "polars_whole": "objects stored member by member",
        "derived": "objects stored otherwise than uproot thinks",  # its base class has a header
    },
    "reals.root": {"member./member.list": "objects"},
    "vectors.root": {"text": "text"},
    "objects_rntuple.root": {"variant": "variants", "text": "text"},
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


NESTED = {
    "nested.root": {*(f"hits_{kind}" for kind in ("float", "double", "short", "long", "unsigned", "bool"))},
    "physlite.root": {"AnalysisJetsAuxDyn.constituentPt"},
    "physlite_rntuple.root": {"AnalysisJetsAuxDyn:constituentPt"},
    "vectors.root": {"nested"},
    "objects_rntuple.root": {"nested"},
    "nested_rntuple.root": {
        *(f"hits_{kind}" for kind in ("float", "double", "short", "char", "long", "unsigned", "bool")),
        "electrons.pt", "electrons.eta", "electrons.charge", "links.m_persKey", "links.m_persIndex",
    },
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(VALUES))
@pytest.mark.parametrize(("start", "stop"), [(0, None), (3, 11), (4, 5), (5, 5)])
def test_lists_of_lists_come_with_two_levels_of_counts(name, start, stop):
    file = opened(name)
    infos = [info for info in file.branches if info.kind == "nested"]
    assert {info.name for info in infos} == NESTED.get(name, set())
    stop = stop or file.num_entries
    names = [info.name for info in infos]
    columns = read(file.part(names, start, stop), start, stop, names)
    for info in infos:
        values = np.concatenate([np.empty(0, info.dtype), *columns.values[info.name]])
        lists = split(split(values.tolist(), columns.inner[info.inner]), columns.counts[info.group])
        key = info.name if info.name in VALUES[name] else info.name.partition(".")[0]
        members = info.name[len(key) + 1 :].split(".") if key != info.name else []
        expected = [[member(one, members) for one in event] for event in VALUES[name][key][start:stop]]
        assert lists == expected, info


def split(items, sizes):
    ends = np.cumsum(sizes).tolist()
    return [items[end - size : end] for end, size in zip(ends, sizes.tolist(), strict=True)]


def test_inner_lists_of_one_storage_share_their_counts():
    inner = {info.name: info.inner for info in opened("nested_rntuple.root").branches}
    assert inner["links.m_persKey"] == inner["links.m_persIndex"]
    assert inner["electrons.pt"] != inner["electrons.eta"]  # each is a vector of its own
    groups = {info.name: info.group for info in opened("nested_rntuple.root").branches}
    assert groups["electrons.pt"] == groups["electrons.eta"] == "electrons"


def test_lists_of_lists_are_no_features():
    with pytest.warns(DataWarning, match="branch 'nested' is left out: lists of lists"):
        specs = scan(FOLDER / "vectors.root", exclude="text", progress=False)
    assert "nested" not in specs
    with pytest.raises(BranchError, match="'nested' cannot become a feature: it is lists of lists"):
        scan(FOLDER / "vectors.root", branches=["nested", "jet_f"], progress=False)


def per_event(columns, info):
    values = np.concatenate([np.empty(0, info.dtype), *columns.values[info.name]])
    assert all(piece.dtype.newbyteorder("=") == info.dtype for piece in columns.values[info.name])
    counts = [1] * columns.num_entries if info.kind == "flat" else columns.counts[info.group].tolist()
    return np.split(values, np.cumsum(counts)[:-1])


@pytest.mark.parametrize("name", sorted(VALUES))
@pytest.mark.parametrize(("start", "stop"), [(0, None), (3, 11), (4, 5)])
def test_every_number_is_that_of_root(name, start, stop):
    file = opened(name)
    infos = [info for info in file.branches if info.kind not in NO_FEATURES]
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


MISREAD = {  # by uproot, with which the client reads
    "late_merged_rntuple.root": {"late", "late_list", "last"},
    "numbers_rntuple.root": {"char", "char_list", "char_fixed"},
    "objects.root": {
        *(f"polar_whole.fCoordinates.f{member}" for member in ("Pt", "Eta", "Phi", "M")),
        *(f"direction.fCoordinates.f{member}" for member in "XYZ"),
    },
    "objects_rntuple.root": {"pointer"},
    "reals.root": {
        "vector", "f_plain_fixed", "f_plain_list",
        *(f"{kind}_{how}_{form}" for kind in "df" for how in ("range", "bits", "mantissa") for form in ("fixed", "list")),
    },
}  # fmt: skip


def served(branch):
    name = re.sub(r"\W", "_", branch)
    return f"x{name}" if name.startswith("_") else name


@pytest.mark.parametrize("name", sorted(VALUES))
def test_the_client_has_the_numbers_of_root_by_the_names_of_the_inputs(name):
    infos = {served(i.name): i for i in opened(name).branches if i.kind != "other"}
    right = {key: info for key, info in infos.items() if info.name not in MISREAD.get(name, set())}
    items = Counter(SPREAD.sub("", info.name) for info in infos.values())
    (events,) = read_events(str(FOLDER / name), lambda: sorted(right)).steps if right else ({},)
    assert events.keys() == right.keys()
    for key, info in right.items():
        expected = by_root(name, info.name, items[SPREAD.sub("", info.name)])
        if info.kind == "flat":
            assert not any(isinstance(value, list) for value in events[key])
        elif info.kind != "nested":  # an array is one list, of however many dimensions
            assert [len(value) for value in events[key]] == [len(value) for value in expected]
        for found, wanted in zip(events[key], expected, strict=True):
            np.testing.assert_allclose(flat(found), np.array(wanted, info.dtype), rtol=2e-7)  # uproot's Float16_t


@pytest.mark.parametrize("name", sorted(MISREAD))
def test_the_client_names_all_inputs_that_uproot_reads_wrong(name):
    names = sorted(map(served, MISREAD[name]))
    with pytest.raises(ServingError) as caught:
        list(read_events(str(FOLDER / name), lambda: names).steps)
    for key in names:
        assert f"{key} (uproot " in str(caught.value)
    assert "`mlaas4hep-tf predict FILES --run RUN -o scores.root`" in str(caught.value)
