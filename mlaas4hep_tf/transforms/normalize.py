"""Normalisation per branch with constants from pass 1; all objects of a jagged branch share them."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from mlaas4hep_tf.errors import PlanError, SpecsError, shorten
from mlaas4hep_tf.specs import BranchSpec, Specs

Normalize = Literal["minmax", "standard"]


def check_normalize(normalize: str | None) -> None:
    if normalize not in (None, *get_args(Normalize)):
        raise PlanError(f"normalize must be 'minmax', 'standard' or None, not {normalize!r}")


def constants(specs: Specs, normalize: Normalize | None) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Offset and scale of every column of the vector, float32 [D] each; a value x becomes (x - offset) / scale.

    - ``minmax``: (x - min) / (max - min), in [0, 1] (paper, section 3.2);
    - ``standard``: (x - mean) / standard deviation;
    - None: x.

    A constant branch has scale 1, so that it becomes 0.  An empty one stays as it is.

    Raises:
        SpecsError: specs that lack the numbers (those of the paper have no mean).
    """
    pairs = [(_pair(branch, normalize), len(branch.columns)) for branch in specs.branches]
    unknown = [b.name for b, (pair, _) in zip(specs.branches, pairs, strict=True) if pair is None]
    if unknown:
        raise SpecsError(
            f"normalize={normalize!r} needs numbers that these specs lack for {shorten(unknown)}; scan again"
        )
    columns = [pair for pair, count in pairs if pair for _ in range(count)]
    table = np.array(columns, np.float64).reshape(-1, 2).astype(np.float32)
    scale = np.where(table[:, 1] > 0, table[:, 1], np.float32(1))
    return table[:, 0], scale


def _pair(branch: BranchSpec, normalize: Normalize | None) -> tuple[float, float] | None:
    if normalize is None or branch.empty:
        return 0.0, 1.0
    assert branch.min is not None and branch.max is not None  # not empty
    if normalize == "minmax":
        return branch.min, branch.max - branch.min
    if branch.mean is None or branch.variance is None:
        return None
    return branch.mean, branch.variance**0.5


def normalize_columns(vector: tf.Tensor, offset: npt.NDArray[np.float32], scale: npt.NDArray[np.float32]) -> tf.Tensor:
    """(x - offset) / scale; NaN stays NaN.  float32 [n, D] -> [n, D]."""
    return (vector - offset) / scale
