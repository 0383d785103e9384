"""An `Analysis` understood for the branches of a tree: the same steps in the readers and in the exported graph."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any

from mlaas4hep_tf.analysis.rules import Analysis
from mlaas4hep_tf.errors import ConfigError, near_misses, shorten
from mlaas4hep_tf.expressions.meaning import Schema, Variable, raw, understand
from mlaas4hep_tf.expressions.syntax import words_of
from mlaas4hep_tf.expressions.tree import Group, Inner, Node, Type, branches_of, integer_branches
from mlaas4hep_tf.io.branches import BranchInfo

LISTS = ("jagged", "array", "nested")  # kinds of branches with a list per event
_SEPARATORS = "._:/"
_TYPES: Mapping[str, Type] = {"b": "bool", "i": "int", "u": "int", "f": "float"}
_DTYPES: Mapping[Type, str] = {"bool": "bool", "int": "int64", "float": "float32"}


@dataclass(frozen=True)
class Steps:
    """What is done with the events, in this order.

    Made by `steps_of`; it travels to other processes as the text that it is made of.

    Attributes:
        analysis: what the user said.
        infos: the branches that there are, with the groups of the specs.
        objects: (group, condition on its objects).
        order: (group, key of its objects).
        define: (name, value), in stages, of which none uses what it defines itself.
        select, train_select: conditions on events.
    """

    analysis: Analysis
    infos: tuple[BranchInfo, ...]
    objects: tuple[tuple[str, Node], ...]
    order: tuple[tuple[str, Node], ...]
    define: tuple[tuple[tuple[str, Node], ...], ...]
    select: tuple[Node, ...]
    train_select: tuple[Node, ...]

    def __reduce__(self) -> tuple[Any, ...]:
        return steps_of, (self.analysis, self.infos)

    @cached_property
    def groups(self) -> dict[str, str]:
        """Name of a group in expressions -> the group."""
        return {name: group for group, name in self.name_of.items()}

    @cached_property
    def name_of(self) -> dict[str, str]:
        """Group -> its name in expressions."""
        return group_names(self.infos)

    @cached_property
    def changed(self) -> frozenset[str]:
        """Groups (as expressions name them) whose objects are cut."""
        return frozenset(group for group, _ in self.objects)

    @cached_property
    def group_of(self) -> dict[str, str]:
        """List branch of the files -> its group, as expressions name it."""
        lists = [info for info in self.infos if info.kind in LISTS]
        return {info.name: self.name_of[info.group] for info in lists}

    @cached_property
    def inner(self) -> dict[str, str]:
        """Name of the lists in the objects of a group -> the group, as expressions name it."""
        return {info.inner: self.group_of[info.name] for info in self.infos if info.kind == "nested"}

    @cached_property
    def inner_of(self) -> dict[str, str]:
        """Branch of lists in lists -> the name of the inner ones."""
        return {info.name: info.inner for info in self.infos if info.kind == "nested"}

    @cached_property
    def counters(self) -> dict[str, str]:
        """Counter -> name of its group in expressions, where that is cut, so that it means the objects kept."""
        return {c: group for c, group in _counters(self.infos).items() if group in self.changed}

    @cached_property
    def raw_counters(self) -> dict[str, str]:
        """``raw(counter)`` -> counter."""
        return {raw(counter): counter for counter in _counters(self.infos)}

    @cached_property
    def inputs(self) -> tuple[BranchInfo, ...]:
        """Branches of the files that the expressions read."""
        return self.read_by(self._nodes(self.select + self.train_select))

    @cached_property
    def served(self) -> tuple[BranchInfo, ...]:
        """Those of them that the exported model needs too."""
        return self.read_by(self._nodes(self.select))

    def reads(self, names: Iterable[str]) -> list[str]:
        """Branches of the files that are read to have these; derived ones and counters of cut groups are not."""
        made = {*self.analysis.defined, *self.counters}
        return list(dict.fromkeys([*(i.name for i in self.inputs), *(name for name in names if name not in made)]))

    def read_by(self, nodes: Iterable[Node]) -> tuple[BranchInfo, ...]:
        """Branches of the files that values depend on."""
        names = {self.raw_counters.get(name, name) for name in branches_of(*nodes)}
        names -= {*self.counters, *self.analysis.defined}
        return tuple(info for info in self.infos if info.name in names)

    @cached_property
    def integers(self) -> frozenset[str]:
        """Branches of integers of which every bit counts: they meet ``% // & | ^ ~ << >>``."""
        return integer_branches(*self._nodes(self.select))

    def _nodes(self, cuts: Sequence[Node]) -> Iterator[Node]:
        yield from (node for _, node in (*self.objects, *self.order))
        yield from (node for stage in self.define for _, node in stage)
        yield from cuts

    @cached_property
    def defined(self) -> tuple[BranchInfo, ...]:
        """The derived branches, as they would be described in a file."""
        return tuple(_described(name, node, self.groups) for stage in self.define for name, node in stage)

    def after(self, infos: Iterable[BranchInfo]) -> tuple[BranchInfo, ...]:
        """Branches as they are behind the cuts: arrays of constant length whose objects are cut become lists."""
        cut = {self.groups[name] for name in self.changed}
        return tuple(
            replace(i, kind="jagged", length=0, counter=i.group) if i.kind == "array" and i.group in cut else i
            for i in infos
        )


def _described(name: str, node: Node, groups: Mapping[str, str]) -> BranchInfo:
    dtype = _DTYPES[node.type]
    if not isinstance(node.axis, Group):
        return BranchInfo(name, "derived", "flat", dtype)
    return BranchInfo(name, "derived", "jagged", dtype, groups[node.axis.name])


def mentioned(analysis: Analysis, names: Iterable[str]) -> tuple[str, ...]:
    """Which of a tree's branches the expressions may mean: those they name, and the vectors' of the groups they name.

    Raises:
        ExpressionError: text that is no expression.
    """
    words = {word for text in analysis.texts for word in words_of(text)} | {n for n, _ in analysis.vectors}
    words |= {member for _, members in analysis.vectors for member in members}
    begins = tuple(word + separator for word in words for separator in _SEPARATORS)
    return tuple(name for name in names if name in words or name.startswith(begins))


def group_names(infos: Iterable[BranchInfo]) -> dict[str, str]:
    """Group -> its name in expressions: the common prefix of its branches (``Jet``) where it is no other's."""
    members: dict[str, list[BranchInfo]] = {}
    for info in infos:
        if info.kind in LISTS:
            members.setdefault(info.group, []).append(info)
    prefixes = {group: _common_name(own) or group for group, own in members.items()}
    times = list(prefixes.values())
    return {group: name if times.count(name) == 1 else group for group, name in prefixes.items()}


def _common_name(infos: Sequence[BranchInfo]) -> str:
    """What the branches of a group have in common; those of a friend count only where there are no others."""
    friend = min(info.friend for info in infos)
    prefix = _prefix([info.own_name for info in infos if info.friend == friend])
    return f"{friend}.{prefix}" if friend and prefix else prefix


def _prefix(names: Sequence[str]) -> str:
    """What names have in common up to a separator; of a single one its first part."""
    pattern = f"(.*)[{_SEPARATORS}]" if len(names) > 1 else f"(_*[^{_SEPARATORS}]+)[{_SEPARATORS}]"
    found = re.match(pattern, os.path.commonprefix(names))  # noqa: RUF071 (of names, not of paths)
    return found[1].rstrip(_SEPARATORS) if found else ""


def _counters(infos: Sequence[BranchInfo]) -> dict[str, str]:
    """Flat branch that counts a group -> the group's name in expressions."""
    names = group_names(infos)
    flat = {info.name for info in infos if info.kind == "flat"}
    counted = {group: name for group, name in names.items() if group in flat}
    by_name = {f"n{name}": name for name in names.values() if f"n{name}" in flat}
    return by_name | counted


@lru_cache(maxsize=8)
def steps_of(analysis: Analysis, infos: tuple[BranchInfo, ...]) -> Steps:
    """Understand an analysis.

    Args:
        infos: the branches that there are, with the groups that expressions may rely on.

    Raises:
        ExpressionError: an expression that is none, or not for these branches.
        ConfigError: a group or name that cannot be.
    """
    counters = _counters(infos)
    names = group_names(infos)
    variables = {i.name: _variable(i, names) for i in infos if i.kind in ("flat", *LISTS)}
    variables |= {raw(counter): Variable(raw(counter), "int") for counter in counters}
    schema = Schema(variables, dict(analysis.vectors), tuple(counters))
    called = {name: name for name in names.values()} | counters | names
    objects = tuple(_of_group("objects", given, text, called, schema) for given, text in analysis.objects)
    order = tuple(_of_group("order", given, text, called, schema) for given, text in analysis.order)
    stages: list[dict[str, Node]] = [{}]
    for name, text in analysis.define:
        _check_name(name, schema)
        found = understand(text, schema)
        if branches_of(found) & stages[-1].keys():
            stages.append({})
        stages[-1][name] = found
        schema = replace(schema, variables={**schema.variables, name: Variable(name, found.type, _axis(found))})
    select = tuple(_condition(text, schema) for text in analysis.select)
    train_select = tuple(_condition(text, schema) for text in analysis.train_select)
    return Steps(
        analysis, infos, objects, order, tuple(tuple(stage.items()) for stage in stages if stage), select, train_select
    )


def _variable(info: BranchInfo, names: Mapping[str, str]) -> Variable:
    kind = _TYPES[info.dtype.lstrip("<>=|")[0]]
    if info.kind == "flat":
        return Variable(info.name, kind)
    group = Group(names[info.group])
    return Variable(info.name, kind, Inner(info.inner, group) if info.kind == "nested" else group)


def _axis(node: Node) -> Group | None:
    return node.axis if isinstance(node.axis, Group) else None


def _check_name(name: str, schema: Schema) -> None:
    if name in schema.variables or name in schema.groups:
        what = "a branch" if name in schema.variables else "a group"
        raise ConfigError(f"a derived branch needs a name of its own: {name!r} is the name of {what}; take another")
    if not re.fullmatch(r"[^\W\d]\w*", name):
        raise ConfigError(f"a derived branch has a name of letters, digits and _, not {name!r}")


def _of_group(what: str, given: str, text: str, called: Mapping[str, str], schema: Schema) -> tuple[str, Node]:
    """A value for each object of a group."""
    group = called.get(given)
    if group is None:
        groups = sorted({*called.values()})
        raise ConfigError(
            f"{what} are of groups, and there is no group {given!r}{near_misses(given, called)}; "
            f"there are {shorten(groups) or 'none'}"
        )
    found = understand(text, schema)
    if found.axis != Group(group):
        axis = f"of {found.axis.name!r}" if isinstance(found.axis, Group) else "one value per event"
        raise ConfigError(f"{what} of {given!r} need a value for each of its objects; {text!r} is {axis}")
    return group, found


def _condition(text: str, schema: Schema) -> Node:
    found = understand(text, schema)
    if found.axis is not None:
        raise ConfigError(
            f"a selection is a condition on the event; {text!r} has a value for each object: say any(...) or all(...)"
        )
    return found
