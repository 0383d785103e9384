"""The baselines do the same work as we do: the same specs and the same vectors."""

import warnings

import numpy as np

from mlaas4hep_tf import DataWarning, RootDataset, scan
from mlaas4hep_tf.bench import paper, user
from mlaas4hep_tf.testing import make_events, write_tree
from mlaas4hep_tf.transforms.normalize import constants


def test_the_baselines_give_our_vectors(tmp_path):
    path = write_tree(tmp_path / "t.root", make_events(200, groups={"Jet": 2, "Mu": 1}))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        specs = scan(path, progress=False)
    names = [b.name for b in specs.branches]
    arrays = paper.events_of(str(path), "events", names, 200)
    found = paper.make_specs(arrays)
    assert found == {b.name: (b.length if b.kind != "flat" else 0, b.min, b.max) for b in specs.branches}
    batches = list(RootDataset(path, specs, mask=True, shuffle=False, batch_size=200))
    vectors, masks = paper.make_chunk(arrays, found, 200)
    assert np.abs(vectors - batches[0]["vector"]).max() < 1e-6
    assert np.array_equal(masks == 0, batches[0]["mask"])  # theirs is 1 where a value is padded
    lengths = {b.name: b.length if b.kind != "flat" else 0 for b in specs.branches}
    by_hand = list(user.padded_batches([f"{path}:events"], lengths, *constants(specs, "minmax"), 64, 100))
    assert np.abs(np.concatenate(by_hand) - batches[0]["vector"]).max() < 1e-6
    assert user.iterate([f"{path}:events"], names, 50) == 200
