"""What is read here against what uproot reads."""

import awkward as ak
import numpy as np
import uproot

from mlaas4hep_tf.io.branches import Selection
from mlaas4hep_tf.io.files import Source
from mlaas4hep_tf.io.inspection import inspect
from mlaas4hep_tf.io.reader import read

EVERYTHING = Selection((), (), ())


def assert_like_uproot(path: object, tree: str, start: int, stop: int, expect_fast: bool = True) -> None:
    file = inspect(Source(str(path), tree), EVERYTHING)
    names = [b.name for b in file.branches if b.kind != "other"]
    if expect_fast:
        assert file.index.names == set(names)
    got = read(file, start, stop, names)
    want = uproot.open(path)[tree].arrays(names, entry_start=start, entry_stop=stop)
    for info in file.branches:
        if info.kind == "other":
            continue
        values = np.concatenate([np.empty(0, info.dtype), *got.values[info.name]])
        expected = ak.to_numpy(ak.flatten(want[info.name], axis=None))
        assert values.dtype == expected.dtype == np.dtype(info.dtype)
        assert values.tobytes() == expected.tobytes(), info.name
        if info.kind == "jagged":
            assert got.counts[info.group].tolist() == ak.num(want[info.name]).tolist(), info.name
