"""From the vector back to events (paper, section 3.2): the inverse of `Preprocessor`, guided by the mask."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import awkward as ak
import numpy as np
import numpy.typing as npt

from mlaas4hep_tf.errors import PlanError
from mlaas4hep_tf.specs import BranchSpec, Specs
from mlaas4hep_tf.transforms.normalize import scaling
from mlaas4hep_tf.transforms.vector import Preprocessor

Matrix = npt.NDArray[np.generic]


def decode(vector: npt.ArrayLike, mask: npt.ArrayLike, preprocessor: Preprocessor) -> ak.Array:
    """Events with jagged branches from vectors: those of a dataset, or what an autoencoder makes of them.

    - Flat branches become numbers, jagged ones lists, fixed-size arrays lists of their length.
    - A list ends behind its last object of which any branch of the group is real.  A missing value before that
      (it was NaN or infinite) comes back as NaN; objects that are missing altogether at the end are padding.
    - Numbers come back in the branch's own unit.  Floats are float32: the same bits with ``normalize=None``, and
      otherwise to a few units in the last place of the largest of value, offset and scale.  Integers are rounded
      and kept within their dtype.
    - Constant branches have their constant again, empty ones only NaN.  What was truncated or clipped stays so.

    Args:
        vector: float [n, D], as delivered by ``RootDataset(layout="vector")``.
        mask: bool [n, D], True = real value.
        preprocessor: that of the dataset, `RootDataset.preprocessor`.

    Returns:
        A record array of n events with a field per branch.

    Raises:
        PlanError: shapes that are not [n, D], or an integer that the mask calls missing.
    """
    values, real = np.asarray(vector), np.asarray(mask, bool)
    if values.ndim != 2 or values.shape[1] != preprocessor.width or real.shape != values.shape:
        raise PlanError(
            f"decode needs vector and mask of shape [n, {preprocessor.width}], as the specs say, "
            f"not {list(values.shape)} and {list(real.shape)}"
        )
    raw = denormalize(values, real, preprocessor)
    columns, fields = preprocessor.columns, {}
    for branch in preprocessor.specs.flat:
        fields[branch.name] = _typed(raw[:, columns[branch.name].start], branch)
    for members in preprocessor.specs.groups.values():
        objects = _objects([real[:, columns[b.name]] for b in members], members[0])
        counts = objects.sum(axis=1)
        for branch in members:
            kept = _typed(raw[:, columns[branch.name]][objects], branch)
            fields[branch.name] = ak.unflatten(kept, counts)
    return ak.zip({b.name: fields[b.name] for b in preprocessor.specs.branches}, depth_limit=1)


def denormalize(vector: Matrix, mask: Matrix, preprocessor: Preprocessor) -> npt.NDArray[np.float64]:
    """Values in the unit of each branch, NaN where there is no value: [n, D] -> float64 [n, D]."""
    how = scaling(preprocessor.specs, preprocessor.normalize)
    return np.where(mask, how.undone(vector.astype(np.float64)), np.nan)


def _objects(masks: list[Matrix], branch: BranchSpec) -> npt.NDArray[np.bool_]:
    """Which places of the rectangle hold an object, bool [n, L]: all up to the last real one."""
    if branch.kind == "array":
        return np.ones_like(masks[0], bool)
    real = np.any(masks, axis=0)
    return np.logical_or.accumulate(real[:, ::-1], axis=1)[:, ::-1]


def _typed(values: npt.NDArray[np.float64], branch: BranchSpec) -> Matrix:
    dtype = np.dtype(branch.dtype or "float32")  # specs of the paper's programs do not know it
    if dtype.kind == "f":
        return values.astype(np.float32)
    if np.isnan(values).any():
        raise PlanError(
            f"integers are never missing, but the mask says so for {np.isnan(values).sum()} values of "
            f"{branch.name!r} ({dtype}); decode with the mask that came with the vector"
        )
    if dtype.kind == "b":
        return values > 0.5
    limits = np.iinfo(dtype)
    nearest = np.rint(values)
    safe = nearest.clip(float(limits.min), np.nextafter(float(limits.max) + 1, 0))  # float(2**63 - 1) is 2**63
    return safe.astype(dtype)


def tree_of(events: ak.Array, specs: Specs) -> dict[str, Any]:
    """The branches of a ROOT tree for `writer.TreeWriter`, whose counters come from the lists.

    Branches ``Jet_*`` counted by ``nJet`` become one record ``Jet``, so that they share that counter again; it takes
    the place of a flat branch of the same name.  Other lists, and those of which a branch ``Jet`` has the name, get a
    counter of their own.
    """
    together = {group[1:]: _shared(group, members) for group, members in specs.groups.items()}
    names = {b.name for b in specs.branches}
    records = {name: short for name, short in together.items() if short and name not in names}
    grouped = {branch for short in records.values() for branch in short.values()}
    counters = {f"n{name}" for name in records}
    alone = [b.name for b in specs.branches if b.name not in grouped | counters]
    tree: dict[str, Any] = {name: events[name] for name in alone}
    for name, short in records.items():
        tree[name] = ak.zip({key: events[branch] for key, branch in short.items()})
    return tree


def _shared(group: str, members: Iterable[BranchSpec]) -> Mapping[str, str]:
    """Short names of branches counted by ``n<prefix>``: ``{"pt": "Jet_pt"}`` for nJet; empty for any other group."""
    prefix = f"{group[1:]}_"
    short = {b.name.removeprefix(prefix): b.name for b in members}
    fits = group.startswith("n") and all(b.kind == "jagged" and b.name.startswith(prefix) for b in members)
    return short if fits else {}
