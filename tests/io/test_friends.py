"""Friend trees: their branches beside those of the files, aligned by entry or by identifiers, from scan to served."""

from typing import Any

import awkward as ak
import keras
import numpy as np
import pytest
import tensorflow as tf
import uproot
from helpers.streams import quiet_scan

from mlaas4hep_tf import ReadOptions, RootDataset, Specs, export, scan
from mlaas4hep_tf.errors import BranchError, ConfigError, FriendError, LostDataError, SpecsError
from mlaas4hep_tf.io.basket_index import FileIndex
from mlaas4hep_tf.io.branches import Selection
from mlaas4hep_tf.io.files import Source
from mlaas4hep_tf.io.friends import befriend
from mlaas4hep_tf.predict import predict_files
from mlaas4hep_tf.streaming.open_files import inspect_source
from mlaas4hep_tf.testing import make_events, write_tree

SIZES = [3000, 1500]
READ = ReadOptions(workers=2)


def friend_events(events, order=None):
    """Branches of a friend, of which each is a function of the event's own: what is delivered can be checked."""
    order = np.arange(len(events["x"])) if order is None else order
    return {
        "run": np.ones(len(order), np.int32),
        "event": events["event"][order],
        "nn": (2 * events["x"] + 1)[order],
        "Jet": events["Jet"][order],
    }


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    """Files; friends in their order, with other clusters; friends in blocks of another order; and in any order."""
    folder = tmp_path_factory.mktemp("friends")
    found = {"files": [], "same": [], "blocks": [], "mixed": []}
    for number, entries in enumerate(SIZES):
        events = make_events(entries, first_id=10_000 * number, seed=number)
        events = {"run": np.ones(entries, np.int32), "event": events["id"].astype(np.int64) + 2**40, **events}
        rng = np.random.default_rng(number)
        blocks = np.concatenate(rng.permutation(np.array_split(np.arange(entries), entries // 250)))
        found["files"].append(str(write_tree(folder / f"f{number}.root", events, basket=900)))
        for name, order in (("same", None), ("blocks", blocks), ("mixed", rng.permutation(entries))):
            path = folder / f"{name}{number}.root"
            found[name].append(str(write_tree(path, friend_events(events, order), tree="Friends", basket=700)))
    return found


def columns_of(ds):
    """Column -> values of all events, in the order of ``id``."""
    rows = np.concatenate([x.numpy() for x in ds])
    table = dict(zip(ds.specs.vector_names, rows.T, strict=True))
    order = np.argsort(table["id"])
    return {name: values[order] for name, values in table.items()}


@pytest.mark.parametrize("kind", ["same", "blocks", "mixed"])
def test_branches_of_friends_are_those_of_the_event(samples, kind):
    specs = quiet_scan(samples["files"], friends={"scores": samples[kind]}, read=READ)
    assert {"scores.nn", "scores.nJet", "scores.Jet_0"} < {*specs}
    assert not {"scores.run", "scores.event"} & {*specs}
    assert specs["scores.Jet_0"].group == specs["Jet_0"].group  # a friend's jets are the jets
    ds = RootDataset(samples["files"], specs, normalize=None, batch_size=256, chunk_size=1024, read=READ)
    table = columns_of(ds)
    assert len(table["id"]) == sum(SIZES)
    np.testing.assert_array_equal(table["scores.nn"], 2 * table["x"] + 1)
    np.testing.assert_array_equal(table["scores.nJet"], table["nJet"])
    for place in range(specs["Jet_0"].length):
        np.testing.assert_array_equal(table[f"scores.Jet_0_{place}"], table[f"Jet_0_{place}"])


def test_an_analysis_from_scan_to_the_served_model(samples, tmp_path):
    specs = quiet_scan(
        samples["files"], friends={"scores": samples["blocks"]}, exclude="scores.Jet_1",
        objects={"Jet": "scores.Jet_0 > 0.5"}, define={"best": "max(Jet_1)"}, select="scores.nn > 0 and nJet > 0",
        read=READ,
    )  # fmt: skip
    specs.save(tmp_path / "specs.json")
    specs = Specs.load(tmp_path / "specs.json")
    assert specs.friends == ("scores",)
    events = [uproot.open(f)["events"].arrays() for f in samples["files"]]
    jets = [e.Jet_0[e.Jet_0 > 0.5] for e in events]
    expected = sum(int(np.sum((2 * np.asarray(e.x) + 1 > 0) & (np.asarray([len(j) for j in own]) > 0)))
                   for e, own in zip(events, jets, strict=True))  # fmt: skip
    ds = RootDataset(samples["files"], specs, normalize=None, batch_size=256, read=READ)
    assert ds.entries == specs.entries == expected
    table = columns_of(ds)
    assert (table["scores.nn"] > 0).all()
    np.testing.assert_array_equal(table["Jet_0_0"], table["scores.Jet_0_0"])

    model = keras.Sequential([keras.layers.Input((len(specs.vector_names),)), keras.layers.Dense(1, "sigmoid")])
    out = tmp_path / "predicted.root"
    assert predict_files(model, samples["files"], ds, out, observe=["scores.nn", "best"], read=READ) == sum(SIZES)
    predicted = uproot.open(out)["events"].arrays(library="np")
    xs = np.concatenate([np.asarray(e.x) for e in events])
    np.testing.assert_array_equal(predicted["scores.nn"], 2 * xs + 1)
    assert predicted["selected"].sum() == expected

    served = tf.saved_model.load(str(export(model, ds, tmp_path / "served" / "1"))).signatures["ragged"]
    friends = [uproot.open(f)["Friends"].arrays() for f in samples["same"]]
    own, other = ak.concatenate(events), ak.concatenate(friends)
    flat = {"id": own.id, "x": own.x, "scores_nn": other.nn, "scores_nJet": other.nJet}
    lists = {"Jet_0": own.Jet_0, "Jet_1": own.Jet_1, "scores_Jet_0": other.Jet_0}
    answer = served(
        **{name: tf.constant(np.asarray(values, np.float32)) for name, values in flat.items()},
        **{name: tf.constant(np.asarray(ak.flatten(values), np.float32)) for name, values in lists.items()},
        Jet_row_splits=tf.constant(np.r_[0, np.cumsum(ak.num(own.Jet_0))], tf.int64),
    )
    np.testing.assert_allclose(answer["score"][:, 0], predicted["score"], atol=1e-6)
    np.testing.assert_array_equal(answer["selected"], predicted["selected"])


def test_new_files_need_their_friends(samples):
    specs = quiet_scan(samples["files"][:1], friends={"scores": samples["same"][:1]}, read=READ).unbound()
    with pytest.raises(FriendError, match=r"where that of file .*f1.root lies; say it by friends="):
        RootDataset(samples["files"][1], specs, read=READ)
    new = RootDataset(
        samples["files"][1], specs, friends={"scores": samples["mixed"][1]}, normalize=None, batch_size=500, read=READ
    )
    table = columns_of(new)
    np.testing.assert_array_equal(table["scores.nn"], 2 * table["x"] + 1)


def test_a_tree_of_the_same_file(tmp_path):
    for number in range(2):
        events = make_events(400, first_id=400 * number, seed=number)
        with uproot.recreate(tmp_path / f"f{number}.root") as file:
            file["events"] = {"id": events["id"], "x": events["x"]}
            file["more"] = {"half": events["x"] / 2}
    one, two = (str(tmp_path / f"f{number}.root") for number in range(2))
    specs = quiet_scan(one, tree="events", friends={"also": ":more"}, read=READ)
    assert specs.files[0].friends[0].url == ""
    table = columns_of(RootDataset(two, specs.unbound(), normalize=None, read=READ))  # found there again
    np.testing.assert_array_equal(table["also.half"], table["x"] / 2)


def test_labels_and_weights_in_a_friend(samples):
    specs = quiet_scan(samples["files"], branches="id,x", read=READ)
    with pytest.warns(match="do not know scores.nn"):
        ds = RootDataset(
            samples["files"], specs, friends={"scores": samples["mixed"]}, labels="scores.nn", normalize=None,
            batch_size=512, read=READ,
        )  # fmt: skip
    for x, y in ds:
        np.testing.assert_array_equal(y, 2 * x[:, specs.vector_names.index("x")] + 1)


def test_files_are_paired_by_name_or_else_in_order():
    first, second, other = map(Source, ("a/one.root", "a/two.root", "b/two.root"))
    by_name = befriend([first, second], "f", [other, Source("b/one.root")], ())
    assert [one.friends[0].source.url for one in by_name] == ["b/one.root", "b/two.root"]
    in_order = befriend([first, second], "f", [Source("y.root"), Source("x.root")], ())
    assert [one.friends[0].source.url for one in in_order] == ["y.root", "x.root"]


def test_friends_with_other_events_are_refused(samples, tmp_path):
    files, same = samples["files"], samples["same"]
    with pytest.raises(FriendError, match="'f' has 1 for 2"):
        scan(files, friends={"f": same[0]}, progress=False)
    with pytest.raises(FriendError, match=r"f1.root, tree events.* 1500|1500 entries"):
        scan(files, friends={"f": same[::-1]}, read=READ, progress=False)
    with pytest.raises(ConfigError, match="letters, digits"):
        scan(files, friends={"f.g": same}, progress=False)
    with pytest.raises(BranchError, match=r"'f.nx'.*did you mean 'f.nn'"):
        scan(files, friends={"f": same}, branches="x,f.nx", read=READ, progress=False)
    events = make_events(4, seed=1)
    main = write_tree(tmp_path / "main.root", {"event": np.array([3, 1, 2, 7], np.int32), "x": events["x"]})
    for values, what in (
        ([1, 2, 3, 8], r"event 7, entry 3 of file .*main.root.* is not in file .*other.root"),
        ([1, 2, 2, 7], r"event 2 is in entries 1 and 2 of file .*other.root"),
    ):
        other = write_tree(tmp_path / "other.root", {"event": np.array(values, np.int32), "y": events["x"]})
        with pytest.raises(FriendError, match=what):
            scan(str(main), friends={"o": str(other)}, progress=False, read=READ)
    named = write_tree(tmp_path / "named.root", {"o.x": events["x"], "x": events["x"]})
    with pytest.raises(FriendError, match=r"has a branch 'o.x'; call it another way"):
        scan(str(named), friends={"o": str(other)}, progress=False, read=READ)


def test_a_friend_that_was_replaced_is_another(samples, tmp_path):
    friend = tmp_path / "friend.root"
    write_tree(friend, {"y": np.arange(3000, dtype=np.float32)})
    specs = quiet_scan(samples["files"][0], friends={"f": str(friend)}, read=READ)
    write_tree(friend, {"y": np.arange(3000, dtype=np.float32)})
    with pytest.raises(SpecsError, match=r"friend 'f' of file .* has changed since it was scanned: .*friend.root"):
        list(RootDataset(samples["files"][0], specs, read=READ))


def test_a_friend_that_cannot_be_read_loses_the_events(samples, tmp_path):
    broken = tmp_path / "same1.root"
    data = bytearray(open(samples["same"][1], "rb").read())  # noqa: SIM115
    opened = inspect_source(Selection(("nn",)), (), Source(samples["same"][1]))
    assert isinstance(opened.index, FileIndex)
    seek, size = int(opened.index.seeks[1]), int(opened.index.sizes[1])
    data[seek + size // 2 : seek + size] = b"\xff" * (size - size // 2)
    broken.write_bytes(data)
    friends = {"scores": [samples["same"][0], str(broken)]}
    options: dict[str, Any] = {"branches": "id,scores.nn", "friends": friends}
    with pytest.raises(Exception, match=r"same1.root, tree Friends"):
        scan(samples["files"], **options, read=READ, progress=False)
    with pytest.warns(match=r"f1.root"):
        specs = scan(
            samples["files"], **options, progress=False,
            read=ReadOptions(workers=2, on_bad_file="skip", max_lost_fraction=0.9),
        )  # fmt: skip
    assert specs["scores.nn"].values < sum(SIZES)
    with pytest.raises(LostDataError):
        scan(samples["files"], **options, progress=False, read=ReadOptions(workers=2, on_bad_file="skip"))
