"""Normalisation per branch with constants from pass 1; all objects of a jagged branch share them."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from mlaas4hep_tf.distributions import Distribution
from mlaas4hep_tf.errors import PlanError, SpecsError, near_misses, shorten
from mlaas4hep_tf.io.branches import meant
from mlaas4hep_tf.specs import BranchSpec, Specs

Normalize = str | Mapping[str, str | None]
Array = npt.NDArray[Any]

_METHOD = re.compile(
    r"(?:clip\(\s*(?P<low>[^,()]+?)\s*,\s*(?P<high>[^,()]+?)\s*\))?\s*(?P<function>log|logit)?\s*(?P<scale>minmax|standard)?"
)
_WORDS = "'minmax', 'standard' or None, with 'log' or 'logit' and 'clip(0.01, 0.99)' before it"


@dataclass(frozen=True)
class Method:
    """What becomes of the values of a branch, in this order.

    Attributes:
        clip: quantiles between which they are brought, or None; what is missing stays missing.
        function: ``log`` or ``logit``, of which what is not finite is missing; or None.
        scale: by smallest and largest, by mean and standard deviation, or not at all.
    """

    clip: tuple[float, float] | None = None
    function: Literal["log", "logit"] | None = None
    scale: Literal["minmax", "standard"] | None = None

    @property
    def distributed(self) -> bool:
        """Whether its constants are those of a distribution."""
        return self.clip is not None or (self.function is not None and self.scale is not None)


@cache
def method(text: str | None) -> Method:
    """A method as users write it, such as ``clip(0.001, 0.999) log standard``.

    Raises:
        PlanError: text that is none.
    """
    found = _METHOD.fullmatch(text.strip()) if isinstance(text, str) and text.strip() else None
    if text is None:
        return Method()
    if found is None:
        raise PlanError(f"normalize must be {_WORDS}, or those by branch, not {text!r}")
    clip = _quantiles(found["low"], found["high"], text) if found["low"] else None
    return Method(clip, found["function"], found["scale"])  # type: ignore[arg-type]  # the pattern has no others


def _quantiles(low: str, high: str, text: str) -> tuple[float, float]:
    try:
        found = float(low), float(high)
    except ValueError:
        raise PlanError(f"normalize: clip takes two numbers, the quantiles, not {text!r}") from None
    if not 0 <= found[0] < found[1] <= 1:
        raise PlanError(f"normalize: the quantiles of clip rise from 0 to 1, not {text!r}")
    return found


def check_normalize(normalize: Normalize | None) -> None:
    """Raise PlanError unless each method is one that there is."""
    for text in normalize.values() if isinstance(normalize, Mapping) else [normalize]:
        method(text)


def by_branch(specs: Specs, normalize: Normalize | None) -> tuple[str | None, ...]:
    """The method of each branch of the specs: that of its name, else of the first pattern that matches it.

    Branches that tell kinds stay as they are.

    Raises:
        PlanError: a branch that no pattern matches, or a pattern that matches no branch.
    """
    if not isinstance(normalize, Mapping):
        return tuple(None if name in specs.kinds else normalize for name in specs)
    chosen = {pattern: meant(pattern, tuple(specs)) for pattern in normalize}
    idle = next((pattern for pattern, names in chosen.items() if not names), None)
    if idle is not None:
        raise PlanError(f"normalize: {idle!r} matches no branch of the specs{near_misses(idle, specs)}")
    first = {name: next((p for p in (name, *normalize) if name in chosen.get(p, ())), None) for name in specs}
    missing = [name for name, pattern in first.items() if pattern is None and name not in specs.kinds]
    if missing:
        raise PlanError(f"normalize says nothing of {shorten(missing)}; add a pattern for all others, '*': 'minmax'")
    return tuple(None if name in specs.kinds else normalize[pattern or ""] for name, pattern in first.items())


def distributed_patterns(normalize: Normalize | None) -> tuple[str, ...]:
    """Patterns of the branches whose distribution the normalisation needs."""
    by_pattern = normalize if isinstance(normalize, Mapping) else {"*": normalize}
    return tuple(pattern for pattern, text in by_pattern.items() if method(text).distributed)


def lacking_distribution(specs: Specs, normalize: Normalize | None) -> tuple[str, ...]:
    """Branches whose distribution the normalisation needs and the specs do not know."""
    chosen = zip(specs.branches, map(method, by_branch(specs, normalize)), strict=True)
    return tuple(b.name for b, how in chosen if how.distributed and not b.empty and b.distribution is None)


@dataclass(frozen=True, eq=False)
class Scaling:
    """What becomes of each column of the vector: the values within `low` and `high`, their logarithm, scaled.

    Attributes:
        offset, scale: float32 [D]; a value x becomes (x - offset) / scale.
        low, high: float32 [D], infinite where nothing is clipped.
        log, logit: bool [D], where x is replaced by log(x) or log(x / (1 - x)) before that.
    """

    offset: Array
    scale: Array
    low: Array
    high: Array
    log: Array
    logit: Array

    @property
    def clips(self) -> bool:
        return bool(np.isfinite(self.low).any() or np.isfinite(self.high).any())

    @property
    def has_logarithms(self) -> bool:
        return bool(self.log.any() or self.logit.any())

    def of_column(self, number: int) -> Scaling:
        """That of one column alone; its arrays have no axis."""
        return Scaling(*(getattr(self, field.name)[number] for field in fields(self)))

    def same_as(self, other: Scaling) -> bool:
        """Whether a value becomes the same."""
        return all(np.array_equal(getattr(self, field.name), getattr(other, field.name)) for field in fields(self))

    def undone(self, values: Array) -> Array:
        """Normalised values in the unit of their branches again, float64 [n, D]; what was clipped stays so."""
        found = values * self.scale + self.offset
        with np.errstate(over="ignore"):
            found = np.where(self.log, np.exp(np.where(self.log, found, 0)), found)
            return np.where(self.logit, 1 / (1 + np.exp(-np.where(self.logit, found, 0))), found)


def scaling(specs: Specs, normalize: Normalize | None) -> Scaling:
    """What becomes of every column of the vector, with constants of the data.

    - ``minmax``: (x - min) / (max - min), in [0, 1] (paper, section 3.2);
    - ``standard``: (x - mean) / standard deviation;
    - ``log`` or ``logit`` before either: of the logarithm, log(x), or of log(x / (1 - x)); what has none is missing;
    - ``clip(0.01, 0.99)`` before that: values beyond these quantiles become the quantile;
    - None: x;
    - by branch: ``{"nMuon": None, "*": "minmax"}``, a name before a pattern, and the first pattern that matches.

    Constants behind ``log``, ``logit`` and ``clip`` come from `BranchSpec.distribution`, so they are right to the width
    of its bins, 1.6 % of a value.  A constant branch has scale 1, so that it becomes 0.  An empty one stays as it is.

    Raises:
        SpecsError: specs that lack the numbers (those of the paper have no mean).
        PlanError: patterns that do not fit the branches.
    """
    methods = by_branch(specs, normalize)
    rows = [_constants(b, method(text)) for b, text in zip(specs.branches, methods, strict=True)]
    unknown = [b.name for b, row in zip(specs.branches, rows, strict=True) if row is None]
    if unknown:
        raise SpecsError(
            f"normalize={normalize!r} needs numbers that these specs lack for {shorten(unknown)}; scan again"
            + (", with distributions=" if lacking_distribution(specs, normalize) else "")
        )
    columns = [row for b, row in zip(specs.branches, rows, strict=True) if row for _ in b.columns]
    functions = [method(text).function for b, text in zip(specs.branches, methods, strict=True) for _ in b.columns]
    offset, scale, low, high = np.array(columns, np.float64).reshape(-1, 4).astype(np.float32).T
    return Scaling(
        offset, np.where(scale > 0, scale, np.float32(1)), low, high,
        *(np.array([function == name for function in functions], bool) for name in ("log", "logit")),
    )  # fmt: skip


def constants(specs: Specs, normalize: Normalize | None) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Offset and scale of every column of the vector, float32 [D] each: of `scaling`."""
    found = scaling(specs, normalize)
    return found.offset, found.scale


def _constants(branch: BranchSpec, how: Method) -> tuple[float, float, float, float] | None:
    """Offset, scale and the limits of a branch; None where the specs do not know them."""
    if branch.empty or (how.scale is None and how.clip is None):
        return 0.0, 1.0, -math.inf, math.inf
    if not how.distributed:
        return _scaled(how, (branch.min, branch.max, branch.mean, branch.variance), -math.inf, math.inf)
    known = branch.distribution
    if known is None:
        return None
    low, high = map(known.quantile, how.clip) if how.clip else (-math.inf, math.inf)
    return _scaled(how, _numbers(branch, known, lambda x: _FUNCTIONS[how.function](np.clip(x, low, high))), low, high)


def _numbers(branch: BranchSpec, known: Distribution, function: Callable[[Array], Array]) -> Sequence[float] | None:
    """Smallest, largest, mean and variance of a rising function of the values; the first two exactly where they can."""
    found = known.moments(function)
    if found is None:
        return None
    with np.errstate(divide="ignore", invalid="ignore"):
        ends = function(np.array([branch.min, branch.max], np.float64))
    return (*(float(end) if np.isfinite(end) else own for end, own in zip(ends, found, strict=False)), *found[2:])


_FUNCTIONS: Mapping[str | None, Callable[[Array], Array]] = {
    None: lambda x: x,
    "log": np.log,
    "logit": lambda x: np.log(x / (1 - x)),
}


def _scaled(
    how: Method, numbers: Sequence[float | None] | None, low: float, high: float
) -> tuple[float, float, float, float] | None:
    """Offset, scale and limits from smallest, largest, mean and variance; nothing has none if all became missing."""
    if how.scale is None or numbers is None:
        return 0.0, 1.0, low, high
    smallest, largest, mean, variance = numbers
    assert smallest is not None and largest is not None  # not empty
    if how.scale == "minmax":
        return smallest, largest - smallest, low, high
    return None if mean is None or variance is None else (mean, variance**0.5, low, high)


def prepared(values: Any, how: Scaling) -> Any:
    """Values as tensors, clipped, and their logarithms where there are to be: float32 [..., D] -> [..., D].

    What is missing stays so, and what has no logarithm is missing; nothing is done where nothing is to be.
    """
    import tensorflow as tf  # here, so that a run can be checked without it

    if how.clips:
        values = tf.where(tf.math.is_finite(values), tf.minimum(tf.maximum(values, how.low), how.high), values)
    if how.log.any():
        values = tf.where(how.log, tf.math.log(tf.where(how.log, values, 1)), values)
    if how.logit.any():
        share = tf.where(how.logit, values, 0.5)
        values = tf.where(how.logit, tf.math.log(share / (1 - share)), values)
    return values


def normalize_columns(vector: Any, offset: Array, scale: Array) -> Any:
    """(x - offset) / scale; NaN stays NaN.  float32 tensor [n, D] -> [n, D]."""
    return (vector - offset) / scale
