"""Folds and held-out events: disjoint, together all, moved by no cut and no other file."""

import warnings

import numpy as np
import pytest
import uproot
from helpers.streams import quiet_scan

from mlaas4hep_tf import RootDataset
from mlaas4hep_tf.cli.parsing import held_out
from mlaas4hep_tf.drawing import HoldOut
from mlaas4hep_tf.errors import ConfigError, ExpressionError, PlanError
from mlaas4hep_tf.testing import make_events, write_tree

SIZES = (3000, 5000, 700)


def write(folder, sizes=SIZES, start=0):
    """Files whose events have `id` and, as ROOT files of experiments have, run and event."""
    made, first = [], start
    for number, size in enumerate(sizes):
        events = make_events(size, first_id=first, seed=first)
        numbers = {"run": np.full(size, 7, np.int32), "event": np.arange(first, first + size, dtype=np.uint64)}
        made.append(str(write_tree(folder / f"{start}_{number}.root", {**events, **numbers}, basket=900)))
        first += size
    return made


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return write(tmp_path_factory.mktemp("files"))


@pytest.fixture(scope="module")
def specs(files):
    return quiet_scan(files)


def dataset(files, specs, **options):
    return RootDataset(files, specs, normalize=None, batch_size=100, chunk_size=1000, **options)


def ids(ds):
    column = ds.specs.vector_names.index("id")
    return [int(i) for x in ds for i in x[:, column].numpy()]


def test_scan_finds_out_whether_identifiers_tell_events_apart(files, specs, tmp_path):
    assert specs.identified is True
    assert specs.identifiers == ("run", "event")
    same = write(tmp_path, (50,))
    assert quiet_scan([files[0], *same]).identified is False
    bare = str(write_tree(tmp_path / "bare.root", make_events(20)))
    assert quiet_scan(bare).identified is None


@pytest.mark.parametrize("by", [None, "entries", "identifiers", "id % 4"])
def test_every_event_is_in_one_test_one_validation_and_else_trained_on(files, specs, by):
    ds = dataset(files, specs)
    folds = ds.folds(4, by=by)
    every = list(range(sum(SIZES)))
    tests = [sorted(ids(fold.test)) for fold in folds]
    assert sorted(i for own in tests for i in own) == every
    for number, fold in enumerate(folds):
        assert sorted(ids(fold.validation)) == tests[(number + 1) % 4]
        assert sorted(ids(fold.train) + tests[number] + tests[(number + 1) % 4]) == every
        assert fold.train.entries == len(every) - fold.test.entries - fold.validation.entries
    if by == "id % 4":
        assert all(i % 4 == number for number, own in enumerate(tests) for i in own)
    else:  # binomial: five standard deviations
        assert max(abs(len(own) - len(every) / 4) for own in tests) < 5 * np.sqrt(len(every) * 3 / 16)


def test_a_fold_is_split_sharded_and_read_on_as_any_dataset(files, specs):
    train = dataset(files, specs).folds(3)[0].train
    first, second = ids(train), ids(train)
    assert sorted(first) == sorted(second)
    assert first != second
    parts = [*train.split(0.7, 0.3)]
    assert sorted(i for part in parts for i in ids(part)) == sorted(first)
    assert sorted(i for n in range(3) for i in ids(train.shard(3, n))) == sorted(first)
    train.set_epoch(0)
    state = train.state(0, 5)
    assert ids(train.starting_at(state)) == first[500:]
    other = dataset(files, specs).folds(3)[1].train
    with pytest.raises(Exception, match="folds"):
        other.starting_at(state)


@pytest.mark.parametrize("by", ["entries", "identifiers"])
def test_no_cut_and_no_other_file_moves_an_event(files, specs, by, tmp_path):
    held = set(ids(dataset(files, specs).hold_out(0.2, by=by)[1]))
    cut = quiet_scan(files, select="x > 0", objects={"Jet": "Jet_0 > 1"})
    rest, fewer = dataset(files, cut).hold_out(0.2, by=by)
    passing = {int(i) for file in files for i in selected(file)}
    assert set(ids(fewer)) == held & passing
    assert set(ids(rest)) == passing - held
    more = [*write(tmp_path, (400,), start=50_000), *files]
    assert {i for i in ids(dataset(more, quiet_scan(more)).hold_out(0.2, by=by)[1]) if i < 50_000} == held
    larger = dataset(files, specs).hold_out(0.3, by=by)[1]
    assert held < set(ids(larger))


def selected(file):
    arrays = uproot.open(file)["events"].arrays(["id", "x"], library="np")
    return arrays["id"][arrays["x"] > 0]


def test_folds_are_drawn_from_what_is_not_held_out_and_know_nothing_of_it(files, specs):
    rest, held = dataset(files, specs).hold_out(0.25)
    folds = rest.folds(3)
    tests = [set(ids(fold.test)) for fold in folds]
    assert sorted(i for own in tests for i in own) == sorted(ids(rest))
    assert not set(ids(rest)) & set(ids(held))
    whole = [set(ids(fold.test)) for fold in dataset(files, specs).folds(3)]
    assert all(own == of - set(ids(held)) for own, of in zip(tests, whole, strict=True))
    shares = [len(of & set(ids(held))) / len(of) for of in whole]  # independent: a quarter of each
    assert max(abs(share - 0.25) for share in shares) < 5 * np.sqrt(0.25 * 0.75 / min(map(len, whole)))


def test_a_condition_holds_out_what_it_is_true_for(files, specs):
    rest, held = dataset(files, specs).hold_out(by="event % 5 == 0")
    assert sorted(ids(held)) == [i for i in range(sum(SIZES)) if i % 5 == 0]
    assert sorted(ids(rest)) == [i for i in range(sum(SIZES)) if i % 5]


def test_labels_by_branch_stay_with_their_events(files):
    specs = quiet_scan(files, labels="run")
    fold = dataset(files, specs, labels="run").folds(3)[2]
    assert {float(y) for _, labels in fold.test for y in labels.numpy()} == {7.0}


def test_what_cannot_be_is_told(files, specs):
    ds = dataset(files, specs)
    for wrong, why in (("id % 7", "gives"), ("x", "whole number"), ("nothing % 3", "no branch 'nothing'")):
        with pytest.raises((ConfigError, PlanError, ExpressionError), match=why):
            ds.folds(3, by=wrong)
    with pytest.raises(ConfigError, match="3 folds"):
        ds.folds(2)
    with pytest.raises(ConfigError, match="share"):
        ds.hold_out(1.5)
    with pytest.raises(ConfigError, match="give one"):
        ds.hold_out()
    with pytest.raises(PlanError, match="draw first"):
        ds.split(0.5, 0.5)[0].folds(3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        bare = quiet_scan(files, identifiers=())
    with pytest.raises(ConfigError, match="have none"):
        dataset(files, bare).folds(3, by="identifiers")


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("0.2", HoldOut(0.2)),
        ("0.2:entries", HoldOut(0.2, "entries")),
        ("0.2:identifiers", HoldOut(0.2, "identifiers")),
        ("event % 5 == 0", HoldOut(by="event % 5 == 0")),
    ],
)
def test_what_is_held_out_as_a_shell_says_it(text, meant):
    assert held_out(text) == meant
