"""Integers that are kinds and not amounts, such as a flavour: a branch for each kind, or an index for an embedding."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from mlaas4hep_tf.errors import ConfigError, PlanError

Values = Literal["auto"] | Sequence[int]
MOST = 64  # kinds of a branch
_WORD = re.compile(r"[A-Za-z_]\w*", re.ASCII)


@dataclass(frozen=True)
class Index:
    """Kinds as an index for an embedding: 1, 2 ... in the order of the values, 0 for any other.

    Attributes:
        values: the kinds; ``auto``: those that scan finds.
    """

    values: Values = "auto"


Category = Values | Index


def values_of(category: Category) -> Values:
    """The kinds that are asked for.

    Raises:
        ConfigError: they are no whole numbers, none at all, or one of them twice.
    """
    values = category.values if isinstance(category, Index) else category
    if isinstance(values, str):
        if values != "auto":
            raise ConfigError(
                f"categories: the kinds of a branch are 'auto' or a list of whole numbers, not {values!r}"
            )
        return "auto"
    if not values or any(isinstance(v, bool) or not isinstance(v, int) for v in values):
        raise ConfigError(f"categories: the kinds of a branch are 'auto' or a list of whole numbers, not {values!r}")
    if len(set(values)) < len(values):
        raise ConfigError(f"categories: each kind is named once, not as in {values!r}")
    return tuple(values)


def kinds(branch: str, found: Iterable[float] | None, *, whole: bool) -> tuple[int, ...]:
    """The kinds of a branch, rising, from its distinct values; None: they are too many to keep.

    Raises:
        PlanError: values that are not whole, or too many of them.
    """
    values = sorted(found) if found is not None else range(MOST + 1)
    if not whole or not values:
        raise PlanError(f"categories: {branch!r} has no whole numbers, so it has no kinds; take it out")
    if len(values) > MOST:
        raise PlanError(f"categories: {branch!r} has more than {MOST} values: name those that are kinds in a list")
    return tuple(int(value) for value in values)


def definitions(branch: str, category: Category, values: Sequence[int]) -> dict[str, str]:
    """Names and expressions of the branches that tell the kinds.

    One-hot: ``Jet_flavour_is_5`` is true for 5; for a value that is not among the kinds all are false.  With `Index`
    one branch, ``Jet_flavour_kind``.
    """
    name = branch if _WORD.fullmatch(branch) else f"`{branch}`"
    plain = re.sub(r"\W", "_", branch)
    if isinstance(category, Index):
        terms = [f"{number} * ({name} == {value})" for number, value in enumerate(values, 1)]
        return {f"{plain}_kind": " + ".join(terms)}
    return {f"{plain}_is_{str(value).replace('-', 'm')}": f"{name} == {value}" for value in values}


def in_place_of(branches: Iterable[str], categories: Mapping[str, tuple[Category, Sequence[int]]]) -> tuple[str, ...]:
    """Branches to take, in which one that has kinds stands for those that tell them."""
    return tuple(
        name for own in branches for name in (definitions(own, *categories[own]) if own in categories else (own,))
    )


def sizes(categories: Mapping[str, tuple[Category, Sequence[int]]]) -> dict[str, int]:
    """Derived branch -> how many values it has: 2 of one-hot, and of an index one more than there are kinds."""
    return {
        name: len(values) + 1 if isinstance(category, Index) else 2
        for branch, (category, values) in categories.items()
        for name in definitions(branch, category, values)
    }
