"""`Analysis`: the selections, object cuts, orders and definitions of a user, as text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from mlaas4hep_tf.errors import ConfigError

Named = tuple[tuple[str, str], ...]
Cuts = str | Sequence[str] | None


@dataclass(frozen=True)
class Analysis:
    """What is made of the events of a file before they are features; all of it expressions (`expressions`).

    It is applied in this sequence: objects, order, define, select.

    Attributes:
        objects: (group, condition): which of its objects a group keeps; each sees the groups before it already cut.
        order: (group, key): its objects by rising key, stable, NaN last.
        define: (name, expression): branches that are derived, each of those before it as well.
        select: conditions that an event must pass, in training and when served.
        train_select: conditions for training, validation and test alone; they may use the truth.
        vectors: (group, branches): its pt, eta, phi and mass, where the names of its branches do not tell.
    """

    objects: Named = ()
    order: Named = ()
    define: Named = ()
    select: tuple[str, ...] = ()
    train_select: tuple[str, ...] = ()
    vectors: tuple[tuple[str, tuple[str, ...]], ...] = ()

    def __post_init__(self) -> None:
        twice = [name for name, times in Counter(self.defined).items() if times > 1]
        if twice:
            raise ConfigError(f"a derived branch is defined once: {twice[0]!r} is defined twice; take another name")
        for group, members in self.vectors:
            if len(members) != 4:
                raise ConfigError(
                    f"vectors= of a group names four branches, its pt, eta, phi and mass: {group!r} has {members}"
                )

    def __bool__(self) -> bool:
        return self != NO_ANALYSIS

    @property
    def defined(self) -> tuple[str, ...]:
        """Names of the derived branches."""
        return tuple(name for name, _ in self.define)

    @property
    def selects(self) -> bool:
        """Whether events may be left out."""
        return bool(self.select or self.train_select)

    def serving(self, words_of: Callable[[str], frozenset[str]], features: Iterable[str]) -> Analysis:
        """The part of it that the exported model applies: what only training and its labels need is left out."""
        return replace(self, train_select=()).for_selection(words_of, features)

    def for_selection(self, words_of: Callable[[str], frozenset[str]], also: Iterable[str] = ()) -> Analysis:
        """The part of it that says which events pass, and what some derived branches are.

        Args:
            words_of: the names in an expression.
            also: names of these branches; others are not minded.
        """
        needed = frozenset(also).union(*map(words_of, (*self.select, *self.train_select)))
        kept: list[tuple[str, str]] = []
        for name, text in reversed(self.define):
            if name in needed:
                kept.insert(0, (name, text))
                needed |= words_of(text)
        return replace(self, define=tuple(kept))

    @property
    def texts(self) -> tuple[str, ...]:
        """All its expressions."""
        named = (*self.objects, *self.order, *self.define)
        return (*(text for _, text in named), *self.select, *self.train_select)

    def extended(self, other: Analysis, where: str) -> Analysis:
        """This, and behind it what another adds.

        Args:
            where: what this comes from, for the error.

        Raises:
            ConfigError: a group or name that both have.
        """
        for name in ("objects", "order", "define", "vectors"):
            both = dict(getattr(self, name)).keys() & dict(getattr(other, name)).keys()
            if both:
                raise ConfigError(f"{name} of {min(both)!r} is given twice: {where} says it already")
        names = [field.name for field in fields(self)]
        return Analysis(**{name: getattr(self, name) + getattr(other, name) for name in names})

    def to_json(self) -> dict[str, Any]:
        """What `from_json` reads: mappings in their order, and lists of conditions; what is empty is left out."""
        content: dict[str, Any] = {name: dict(getattr(self, name)) for name in ("objects", "order", "define")}
        content |= {"select": list(self.select), "train_select": list(self.train_select)}
        content |= {"vectors": {group: list(members) for group, members in self.vectors}}
        return {name: value for name, value in content.items() if value}

    @staticmethod
    def from_json(content: Mapping[str, Any]) -> Analysis:
        return analysis(**content)


NO_ANALYSIS = Analysis()


def analysis(
    objects: Mapping[str, str] | None = None,
    order: Mapping[str, str] | None = None,
    define: Mapping[str, str] | None = None,
    select: Cuts = None,
    train_select: Cuts = None,
    vectors: Mapping[str, Iterable[str]] | None = None,
) -> Analysis:
    """An `Analysis` of mappings whose order counts; of conditions one, or several that must all hold."""
    return Analysis(
        tuple((objects or {}).items()), tuple((order or {}).items()), tuple((define or {}).items()),
        _listed(select), _listed(train_select),
        tuple((group, tuple(members)) for group, members in (vectors or {}).items()),
    )  # fmt: skip


def _listed(cuts: Cuts) -> tuple[str, ...]:
    if cuts is None:
        return ()
    return (cuts,) if isinstance(cuts, str) else tuple(cuts)
