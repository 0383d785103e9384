"""Normalisation per branch with constants from pass 1; all objects of a jagged branch share them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import numpy.typing as npt

from mlaas4hep_tf.errors import PlanError, SpecsError, near_misses, shorten
from mlaas4hep_tf.io.branches import meant
from mlaas4hep_tf.specs import BranchSpec, Specs

if TYPE_CHECKING:
    import tensorflow as tf

Method = Literal["minmax", "standard"]
Normalize = Method | Mapping[str, Method | None]


def check_normalize(normalize: Normalize | None) -> None:
    """Raise PlanError unless each method is one that there is."""
    methods = list(normalize.values()) if isinstance(normalize, Mapping) else [normalize]
    for method in methods:
        if method not in (None, *get_args(Method)):
            raise PlanError(f"normalize must be 'minmax', 'standard' or None, or those by branch, not {method!r}")


def by_branch(specs: Specs, normalize: Normalize | None) -> tuple[Method | None, ...]:
    """The method of each branch of the specs: that of its name, else of the first pattern that matches it.

    Raises:
        PlanError: a branch that no pattern matches, or a pattern that matches no branch.
    """
    if not isinstance(normalize, Mapping):
        return (normalize,) * len(specs.branches)
    chosen = {pattern: meant(pattern, tuple(specs)) for pattern in normalize}
    idle = next((pattern for pattern, names in chosen.items() if not names), None)
    if idle is not None:
        raise PlanError(f"normalize: {idle!r} matches no branch of the specs{near_misses(idle, specs)}")
    first = {name: next((p for p in (name, *normalize) if name in chosen.get(p, ())), None) for name in specs}
    missing = [name for name, pattern in first.items() if pattern is None]
    if missing:
        raise PlanError(f"normalize says nothing of {shorten(missing)}; add a pattern for all others, '*': 'minmax'")
    return tuple(normalize[pattern] for pattern in first.values() if pattern is not None)


def constants(specs: Specs, normalize: Normalize | None) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Offset and scale of every column of the vector, float32 [D] each; a value x becomes (x - offset) / scale.

    - ``minmax``: (x - min) / (max - min), in [0, 1] (paper, section 3.2);
    - ``standard``: (x - mean) / standard deviation;
    - None: x;
    - by branch: ``{"nMuon": None, "*": "minmax"}``, a name before a pattern, and the first pattern that matches.

    A constant branch has scale 1, so that it becomes 0.  An empty one stays as it is.

    Raises:
        SpecsError: specs that lack the numbers (those of the paper have no mean).
        PlanError: patterns that do not fit the branches.
    """
    methods = by_branch(specs, normalize)
    pairs = [(_pair(b, method), len(b.columns)) for b, method in zip(specs.branches, methods, strict=True)]
    unknown = [b.name for b, (pair, _) in zip(specs.branches, pairs, strict=True) if pair is None]
    if unknown:
        raise SpecsError(
            f"normalize={normalize!r} needs numbers that these specs lack for {shorten(unknown)}; scan again"
        )
    columns = [pair for pair, count in pairs if pair for _ in range(count)]
    table = np.array(columns, np.float64).reshape(-1, 2).astype(np.float32)
    scale = np.where(table[:, 1] > 0, table[:, 1], np.float32(1))
    return table[:, 0], scale


def _pair(branch: BranchSpec, method: Method | None) -> tuple[float, float] | None:
    if method is None or branch.empty:
        return 0.0, 1.0
    assert branch.min is not None and branch.max is not None  # not empty
    if method == "minmax":
        return branch.min, branch.max - branch.min
    if branch.mean is None or branch.variance is None:
        return None
    return branch.mean, branch.variance**0.5


def normalize_columns(vector: tf.Tensor, offset: npt.NDArray[np.float32], scale: npt.NDArray[np.float32]) -> tf.Tensor:
    """(x - offset) / scale; NaN stays NaN.  float32 [n, D] -> [n, D]."""
    return (vector - offset) / scale
