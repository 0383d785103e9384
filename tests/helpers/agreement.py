"""What is read here against what uproot reads."""

import re
from typing import Any

import awkward as ak
import numpy as np
import uproot

from mlaas4hep_tf.io.branches import Selection
from mlaas4hep_tf.io.files import Source
from mlaas4hep_tf.io.inspection import inspect
from mlaas4hep_tf.io.reader import read

SIZES = re.compile(r"(\[\d+\])+$")
EVERYTHING = Selection((), (), ())


def uproot_array(tree: Any, name: str, start: int, stop: int) -> Any:
    """A branch of uproot's, or of one that holds objects the member that the name says: ``hit.x``, ``Tau[0]``."""
    names = tree.keys()
    keys = {SIZES.sub("", key): key for key in names}
    if name in names:
        return tree[name].array(entry_start=start, entry_stop=stop)
    parts, item = SIZES.sub("", name).split("."), SIZES.search(name)
    count = next(n for n in range(len(parts), 0, -1) if ".".join(parts[:n]) in keys)
    array = tree[keys[".".join(parts[:count])]].array(entry_start=start, entry_stop=stop)
    for member in parts[count:]:
        array = array[member]
    return array if item is None else array[:, :, int(item[0][1:-1])]


def assert_like_uproot(path: object, tree: str, start: int, stop: int, expect_fast: bool = True) -> None:
    file = inspect(Source(str(path), tree), EVERYTHING)
    names = [b.name for b in file.branches if b.kind != "other"]
    if expect_fast:
        assert file.index.names == set(names)
    got = read(file, start, stop, names)
    opened = uproot.open(path)[tree]
    want = {name: uproot_array(opened, name, start, stop) for name in names}
    for info in file.branches:
        if info.kind == "other":
            continue
        values = np.concatenate([np.empty(0, info.dtype), *got.values[info.name]])
        expected = ak.to_numpy(ak.flatten(want[info.name], axis=None))
        assert values.dtype == expected.dtype == np.dtype(info.dtype)
        if info.typename.startswith(("Double32_t", "Float16_t")):  # uproot rounds otherwise than ROOT
            assert np.allclose(values, expected, rtol=4 * np.finfo(info.dtype).eps, atol=1e-6), info.name
        else:
            assert values.tobytes() == expected.tobytes(), info.name
        if info.kind == "jagged":
            assert got.counts[info.group].tolist() == ak.num(want[info.name]).tolist(), info.name
