"""What an expression means: a tree of typed nodes, each a number per event or per object of an axis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal
from weakref import WeakValueDictionary

Type = Literal["bool", "int", "float"]


@dataclass(frozen=True)
class Group:
    """The objects of an event: branches of one multiplicity."""

    name: str


@dataclass(frozen=True)
class Inner:
    """Lists in the objects of a group, such as the constituents of jets."""

    name: str
    of: Group


@dataclass(frozen=True)
class Kept:
    """The objects of an axis for which a mask is true."""

    of: Axis
    mask: Node


@dataclass(frozen=True)
class Pairs:
    """Two different objects of an axis, each two of them once, the earlier one first."""

    of: Axis


@dataclass(frozen=True)
class Cross:
    """An object of one axis with an object of another, for each of the first all of the second."""

    first: Axis
    second: Axis


Axis = Group | Inner | Kept | Pairs | Cross


@dataclass(frozen=True, eq=False)
class Node:
    """A value; made by `node`, so that equal values are one object.

    Attributes:
        op: ``const``, ``branch``; ``spread`` (a value of an event, or of one side of `Pairs` or `Cross`, repeated
            along `axis`); ``keep`` (of the objects for which the second argument is true); ``at`` (an object of
            each event by its place, NaN where it is missing); ``sum``, ``min``, ``max``, ``mean``, ``any``, ``all``,
            ``count`` over the axis of the argument; or an elementwise operation.
        args: values it is made of; those of an elementwise operation have its axis or are constants.
        type: of the value; int is int64, float is float64 while it is worked out and float32 at the end.
        axis: None: one value per event.
        value: the constant; the name of the branch; of ``spread`` ``event``, ``first`` or ``second``; of ``at`` the
            place; of a reduction ``event``, or ``object`` where it stops at the objects that hold the lists, or at
            the first side of a `Cross`.
    """

    op: str
    args: tuple[Node, ...]
    type: Type
    axis: Axis | None
    value: float | int | bool | str | None = None


EXACT = ("bit_and", "bit_or", "bit_xor", "bit_not", "shift_left", "shift_right", "floor_divide", "remainder")
REDUCTIONS = ("sum", "min", "max", "mean", "any", "all", "count")

_made: WeakValueDictionary[tuple[object, ...], Node] = WeakValueDictionary()


def node(
    op: str, args: tuple[Node, ...], kind: Type, axis: Axis | None, value: float | int | bool | str | None = None
) -> Node:
    """The one node that says this; comparing and looking up need not go into its parts."""
    key = (op, args, kind, axis, value)
    found = _made.get(key)
    if found is None:
        found = _made[key] = Node(op, args, kind, axis, value)
    return found


def constant(value: float | int | bool) -> Node:
    kind: Type = "bool" if isinstance(value, bool) else "int" if isinstance(value, int) else "float"
    return node("const", (), kind, None, value)


def branches_of(*nodes: Node) -> frozenset[str]:
    """Names of the branches that values depend on, those in masks included."""
    return frozenset(str(one.value) for one in _parts(nodes) if one.op == "branch")


def branch_axes(*nodes: Node) -> dict[str, Axis | None]:
    """Branches that values depend on -> whose values they are: None for those of the event."""
    return {str(one.value): one.axis for one in _parts(nodes) if one.op == "branch"}


def integer_branches(*nodes: Node) -> frozenset[str]:
    """Names of integer branches that meet an operation for which every digit counts."""
    exact = [one for one in _parts(nodes) if one.op in EXACT and one.type == "int"]
    return frozenset(str(one.value) for one in _parts(exact) if one.op == "branch" and one.type == "int")


def _parts(nodes: Sequence[Node]) -> set[Node]:
    todo, seen = list(nodes), set(nodes)
    while todo:
        one = todo.pop()
        parts = {*one.args, *_masks(one.axis)} - seen
        seen |= parts
        todo += parts
    return seen


def _masks(axis: Axis | None) -> list[Node]:
    if isinstance(axis, Kept):
        return [axis.mask, *_masks(axis.of)]
    if isinstance(axis, Pairs):
        return _masks(axis.of)
    return _masks(axis.first) + _masks(axis.second) if isinstance(axis, Cross) else []
