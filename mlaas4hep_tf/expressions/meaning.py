"""A tree of what was written -> a tree of what it means: names found, types and axes checked, functions spelled out.

Operands on different axes meet where one is the event (its value is repeated for each object) or a side of the other
(`Cross`); anything else mixes two lists and is refused.  Four-vectors are no values: each function of them is written
out in their transverse momenta, pseudorapidities, azimuths and masses, in the unit that the file has.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NoReturn

from mlaas4hep_tf.errors import ExpressionError, near_misses, shorten
from mlaas4hep_tf.expressions.syntax import Written, parse
from mlaas4hep_tf.expressions.tree import REDUCTIONS, Axis, Cross, Group, Inner, Kept, Node, Pairs, Type, constant, node
from mlaas4hep_tf.expressions.vectors import delta_phi, delta_r, mass

ONE = (
    "abs", "sqrt", "exp", "log", "log10", "sin", "cos", "tan", "arcsin", "arccos", "arctan", "sinh", "cosh", "tanh",
    "arcsinh", "arccosh", "arctanh",
)  # fmt: skip
TWO = ("arctan2", "hypot", "minimum", "maximum")
VECTORS = ("delta_phi", "delta_r", "mass")
FUNCTIONS = (*ONE, *TWO, "where", *REDUCTIONS, *VECTORS, "pairs", "raw")

_ARITHMETIC = {"+": "add", "-": "subtract", "*": "multiply", "//": "floor_divide", "%": "remainder"}
_BITS = {"&": "bit_and", "|": "bit_or", "^": "bit_xor"}
_LOGIC = {"&": "and", "|": "or", "^": "xor"}
_COMPARE = {"<": "less", "<=": "less_equal", ">": "greater", ">=": "greater_equal", "==": "equal", "!=": "not_equal"}
_MEMBERS = {"pt": "pt", "eta": "eta", "phi": "phi", "mass": "mass|m"}


@dataclass(frozen=True)
class Variable:
    """A branch that expressions may name: the type of its values, and whose they are (None: the event's)."""

    name: str
    type: Type
    axis: Group | Inner | None = None


@dataclass(frozen=True)
class Schema:
    """What there is to name.

    Attributes:
        variables: by name.
        vectors: group -> the branches of its pt, eta, phi and mass, where their names do not tell.
        counters: branches that hold the multiplicity of a group, for ``raw(...)``.
    """

    variables: Mapping[str, Variable]
    vectors: Mapping[str, Sequence[str]]
    counters: tuple[str, ...] = ()

    @property
    def groups(self) -> tuple[str, ...]:
        return tuple(sorted({v.axis.name for v in self.variables.values() if isinstance(v.axis, Group)}))


@dataclass(frozen=True)
class _Vector:
    """A four-vector per event or per object: pt, eta, phi and mass, None where the file has no such branch."""

    members: tuple[Node | None, ...]
    axis: Axis | None
    name: str


_Value = Node | _Vector | tuple[_Vector, _Vector]


def raw(counter: str) -> str:
    """The name among values of a group's multiplicity in the file, which the branch itself loses with an object cut."""
    return f"raw({counter})"


def understand(text: str, schema: Schema) -> Node:
    """What an expression means for these branches.

    Returns:
        A value per event, or per object of a group (or per list in an object).

    Raises:
        ExpressionError: it is no expression, names no branch, mixes lists, or gives what is no value of a branch.
    """
    written = parse(text)
    checker = _Checker(text, schema)
    found = checker.number(written)
    if isinstance(found.axis, Cross | Pairs | Kept):
        checker.fail(written, "a list of pairs or of chosen objects is no branch: reduce it, with min(...) for example")
    return found


class _Checker:
    def __init__(self, text: str, schema: Schema) -> None:
        self._text, self._schema = text, schema

    def fail(self, written: Written, why: str) -> NoReturn:
        raise ExpressionError(why, self._text, written.at)

    def number(self, written: Written) -> Node:
        """A value, which four-vectors are not."""
        found = self._value(written)
        if not isinstance(found, Node):
            self.fail(written, f"objects are no value: take a branch of them, or one of {shorten(VECTORS)}")
        return found

    def _value(self, written: Written) -> _Value:
        return getattr(self, f"_{written.form}")(written)  # type: ignore[no-any-return]  # one method for each form

    def _number(self, written: Written) -> Node:
        value = int(written.text) if written.text.isdigit() else float(written.text)
        if not math.isfinite(value) or (isinstance(value, int) and value >= 2**63):
            self.fail(written, "the number is out of range")
        return constant(value)

    def _name(self, written: Written) -> _Value:  # noqa: RET503  # `fail` never returns
        name = written.text
        if name in ("True", "False"):
            return constant(name == "True")
        if variable := self._schema.variables.get(name):
            return node("branch", (), variable.type, variable.axis, name)
        if name in self._schema.groups:
            return self._object(written, name)
        known = [*self._schema.variables, *self._schema.groups]
        self.fail(written, f"there is no branch {name!r}{near_misses(name, known)}")

    def _object(self, written: Written, group: str) -> _Vector:
        mine = {n: v for n, v in self._schema.variables.items() if v.axis == Group(group)}
        given = self._schema.vectors.get(group)
        if given is None:
            named = {
                member: [name for name in mine if re.search(rf"(^|[._])({ending})$", name, re.IGNORECASE)]
                for member, ending in _MEMBERS.items()
            }
            many = next((found for found in named.values() if len(found) > 1), None)
            if many:
                self.fail(written, f"which of {shorten(many)} counts? say it with vectors={{{group!r}: (...)}}")
            given = [(found or [""])[0] for found in named.values()]
        members = tuple(self._member(written, mine, name) if name else None for name in given)
        return _Vector(members, Group(group), group)

    def _member(self, written: Written, mine: Mapping[str, Variable], name: str) -> Node:
        if name not in mine:
            self.fail(written, f"the vector's branch {name!r} is not one of the group{near_misses(name, mine)}")
        return node("branch", (), mine[name].type, mine[name].axis, name)

    def _unary(self, written: Written) -> Node:
        arg = self.number(written.parts[0])
        if written.text == "-":
            return self._apply(written, "negative", [arg], "int" if arg.type == "bool" else arg.type)
        if written.text == "not" or arg.type == "bool":
            return self._apply(written, "not", [arg], "bool")
        if arg.type == "float":
            self.fail(written, "~ works on integers and on booleans, not on floats")
        return self._apply(written, "bit_not", [arg], "int")

    def _binary(self, written: Written) -> Node:
        left, right = (self.number(part) for part in written.parts)
        return self._operate(written, written.text, left, right)

    def _operate(self, written: Written, sign: str, left: Node, right: Node) -> Node:
        floats = "float" in (left.type, right.type)
        if sign in ("and", "or"):
            return self._apply(written, sign, [left, right], "bool")
        if sign in _BITS and left.type == right.type == "bool":
            return self._apply(written, _LOGIC[sign], [left, right], "bool")
        if sign in _BITS or sign in ("<<", ">>"):
            if floats:
                self.fail(written, f"{sign} works on integers and on booleans, not on floats")
            op = _BITS.get(sign) or {"<<": "shift_left", ">>": "shift_right"}[sign]
            return self._apply(written, op, [left, right], "int")
        if sign in _ARITHMETIC:
            return self._apply(written, _ARITHMETIC[sign], [left, right], "float" if floats else "int")
        return self._apply(written, {"/": "divide", "**": "power"}[sign], [left, right], "float")

    def _chain(self, written: Written) -> Node:
        sides = [self.number(part) for part in written.parts]
        found: Node | None = None
        for sign, left, right in zip(written.text.split(), sides, sides[1:], strict=False):
            one = self._apply(written, _COMPARE[sign], [left, right], "bool")
            found = one if found is None else self._apply(written, "and", [found, one], "bool")
        assert found is not None
        return found

    def _option(self, written: Written) -> NoReturn:
        self.fail(written, f"no function here takes {written.text}=")

    def _index(self, written: Written) -> _Value:
        of, index = written.parts
        value = self._value(of)
        if isinstance(value, tuple):
            self.fail(written, "pairs have no index")
        pick = self._picker(written, index, value.axis)
        if isinstance(value, Node):
            return pick(value)
        members = tuple(None if member is None else pick(member) for member in value.members)
        return _Vector(members, next((member.axis for member in members if member is not None), None), value.name)

    def _picker(self, written: Written, index: Written, axis: Axis | None) -> Callable[[Node], Node]:
        if axis is None:
            self.fail(written, "one value per event has no index")
        if index.form == "number" and index.text.isdigit():
            place, outer = int(index.text), _outer(axis, "object" if isinstance(axis, Inner) else "event")
            return lambda value: node("at", (value,), "float", outer, place)
        mask = self.number(index)
        if mask.type != "bool":
            self.fail(index, "an index is a place (0, 1, ...) or a condition on the objects")
        mask = self._onto(index, mask, axis)
        return lambda value: node("keep", (value, mask), value.type, Kept(axis, mask))

    def _call(self, written: Written) -> _Value:
        name = written.text
        options = {part.text: part for part in written.parts if part.form == "option"}
        parts = [part for part in written.parts if part.form != "option"]
        if name in REDUCTIONS:
            return self._reduce(written, parts, options)
        if options:
            self._option(next(iter(options.values())))
        if name == "pairs":
            return self._pairs(written, parts)
        if name in VECTORS:
            return self._of_vectors(written, parts)
        if name == "raw":
            return self._raw(written, parts)
        if name not in FUNCTIONS:
            self.fail(written, f"there is no function {name!r}{near_misses(name, FUNCTIONS)}")
        wanted = 1 if name in ONE else 2 if name in TWO else 3
        if len(parts) != wanted:
            self.fail(written, f"{name} takes {wanted} argument{'s' * (wanted > 1)}, not {len(parts)}")
        args = [self.number(part) for part in parts]
        return self._apply(written, name, args, _type_of(name, [arg.type for arg in args]))

    def _reduce(self, written: Written, parts: Sequence[Written], options: Mapping[str, Written]) -> Node:
        name, what = written.text, "event"
        if len(parts) != 1:
            self.fail(written, f"{name} takes 1 argument, not {len(parts)}")
        value = self.number(parts[0])
        if value.axis is None:
            self.fail(written, f"{name} goes over a list; this is one value per event")
        for option, given in options.items():
            (target,) = given.parts
            if option == "axis" and isinstance(value.axis, Inner) and target.text == "object":
                what = "object"
            elif option == "over" and isinstance(value.axis, Cross):
                value, what = self._over(target, value), "object"
            else:
                self.fail(given, "axis=object is for lists in objects, over=GROUP for objects of two groups")
        kind: Type = {"any": "bool", "all": "bool", "count": "int"}.get(name, "float")  # type: ignore[assignment]
        if name == "sum" and value.type != "float":
            kind = "int"
        return node(name, (value,), kind, _outer(value.axis, what), what)

    def _over(self, target: Written, value: Node) -> Node:
        """The value with the axis that is gone over as the second side."""
        assert isinstance(value.axis, Cross)
        first, second = (_group_of(side) for side in (value.axis.first, value.axis.second))
        if target.text not in (first, second) or first == second:
            self.fail(target, f"over= names one of the two groups, {first!r} or {second!r}")
        return value if target.text == second else _turned(value)

    def _pairs(self, written: Written, parts: Sequence[Written]) -> tuple[_Vector, _Vector]:
        found = self._value(parts[0]) if len(parts) == 1 else None
        if not isinstance(found, _Vector) or found.axis is None:
            self.fail(written, "pairs takes the objects of a group, as in pairs(Jet) or pairs(Jet[Jet_pt > 30])")
        axis = Pairs(found.axis)
        first, second = (_spread_vector(found, axis, side) for side in ("first", "second"))
        return first, second

    def _raw(self, written: Written, parts: Sequence[Written]) -> Node:
        """The counter of a group as the file has it, whatever is cut."""
        counted = self._schema.counters
        if len(parts) != 1 or parts[0].form != "name" or parts[0].text not in counted:
            self.fail(written, f"raw takes the counter of a group, one of {shorten(counted) or 'which there is none'}")
        return node("branch", (), "int", None, raw(parts[0].text))

    def _of_vectors(self, written: Written, parts: Sequence[Written]) -> Node:
        values: list[Node | _Vector] = []
        for part in parts:
            found = self._value(part)
            values += found if isinstance(found, tuple) else [found]
        numbers = [value for value in values if isinstance(value, Node)]
        vectors = [value for value in values if isinstance(value, _Vector)]
        wanted = {"delta_phi": (2, 2), "delta_r": (4, 2), "mass": (4, 1)}[written.text]
        if numbers and (vectors or len(numbers) != wanted[0]):
            self.fail(written, f"{written.text} takes objects, or {wanted[0]} numbers: {_NUMBERS[written.text]}")
        if not numbers and (len(vectors) < wanted[1] or (written.text != "mass" and len(vectors) != 2)):
            self.fail(written, f"{written.text} takes {'objects' if written.text == 'mass' else 'two objects'}")
        if written.text != "mass" and vectors and vectors[0] == vectors[1]:
            self.fail(
                written, f"each object with itself tells nothing; of two: {written.text}(pairs({vectors[0].name}))"
            )
        pt, eta, phi, m = (partial(self._members, written, vectors, number) for number in range(4))
        do = partial(self._do, written)
        if written.text == "delta_phi":
            return delta_phi(do, *(numbers or phi()))
        if written.text == "delta_r":
            return delta_r(do, *(numbers or itertools.chain(*zip(eta(), phi(), strict=True))))
        return mass(do, [tuple(numbers)] if numbers else list(zip(pt(), eta(), phi(), m(), strict=True)))  # type: ignore[list-item]  # four

    def _do(self, written: Written, op: str, *args: Node) -> Node:
        return self._apply(written, op, args, "float")

    def _members(self, written: Written, vectors: Sequence[_Vector], number: int) -> list[Node]:
        """One member of each vector, on one axis."""
        found = []
        for vector in vectors:
            member = vector.members[number]
            if member is None:
                what = [*_MEMBERS][number]
                self.fail(written, f"{vector.name!r} has no branch that ends in {what}; say which with vectors={{...}}")
            found.append(member)
        return self._meet(written, found, cross=True)

    def _apply(self, written: Written, op: str, args: Sequence[Node], kind: Type) -> Node:
        args = self._meet(written, args)
        spread = {(arg.axis, arg.value) for arg in args if arg.op == "spread"}
        if len(spread) == 1 and all(arg.op in ("spread", "const") for arg in args):  # once for each object is enough
            ((axis, side),) = spread
            inner = self._apply(written, op, [arg.args[0] if arg.op == "spread" else arg for arg in args], kind)
            return node("spread", (inner,), kind, axis, side)
        return node(op, tuple(args), kind, next((arg.axis for arg in args if arg.axis is not None), None))

    def _meet(self, written: Written, args: Sequence[Node], cross: bool = False) -> list[Node]:
        """The arguments on one axis; with `cross` those of two groups on each pair of their objects."""
        axis: Axis | None = None
        for arg in args:
            if arg.axis is None or arg.axis == axis or _side(arg.axis, axis):
                continue
            if axis is None or _side(axis, arg.axis):
                axis = arg.axis
            elif cross and not isinstance(axis, Cross | Pairs) and not isinstance(arg.axis, Cross | Pairs):
                axis = Cross(axis, arg.axis)
            else:
                names = sorted({_group_of(axis), _group_of(arg.axis)})
                two = " and ".join(map(repr, names)) if len(names) == 2 else f"different choices of {names[0]!r}"
                self.fail(
                    written, f"objects of {two} meet here: reduce one of them first, or take delta_r or mass of both"
                )
        return [arg if axis is None else self._onto(written, arg, axis) for arg in args]

    def _onto(self, written: Written, arg: Node, axis: Axis) -> Node:
        if arg.axis == axis or arg.op == "const":
            return arg
        side = "event" if arg.axis is None else _side(arg.axis, axis)
        if not side:
            self.fail(
                written, f"the condition is on {_group_of(arg.axis)!r}, not on the {_group_of(axis)!r} that it chooses"
            )
        return _spread(arg, axis, side)


_NUMBERS = {"delta_phi": "phi, phi", "delta_r": "eta, phi, eta, phi", "mass": "pt, eta, phi, mass"}


def _type_of(function: str, types: Sequence[Type]) -> Type:
    if function == "where":
        types = types[1:]
        if set(types) == {"bool"}:
            return "bool"
    elif function not in ("abs", "minimum", "maximum"):
        return "float"
    return "float" if "float" in types else "int"


def _outer(axis: Axis | None, what: str) -> Axis | None:
    """The axis that a reduction leaves."""
    if what == "object" and isinstance(axis, Inner):
        return axis.of
    if what == "object" and isinstance(axis, Cross):
        return axis.first
    return None


def _side(axis: Axis, of: Axis | None) -> str:
    """Which side of another axis an axis is, or the objects that hold its lists; nothing if neither."""
    if isinstance(of, Inner) and of.of == axis:
        return "first"
    if isinstance(of, Cross) and of.first != of.second:
        return "first" if of.first == axis else "second" if of.second == axis else ""
    return ""


def _group_of(axis: Axis | None) -> str:
    while not isinstance(axis, Group | Inner | None):
        axis = axis.first if isinstance(axis, Cross) else axis.of
    return axis.name if axis is not None else ""


def _spread(value: Node, axis: Axis, side: str) -> Node:
    return node("spread", (value,), value.type, axis, side)


def _spread_vector(vector: _Vector, axis: Axis, side: str) -> _Vector:
    members = (None if member is None else _spread(member, axis, side) for member in vector.members)
    return _Vector(tuple(members), axis, vector.name)


def _turned(value: Node) -> Node:
    """The same value on the pairs taken the other way round."""
    known: dict[Node, Node] = {}

    def turn(one: Node) -> Node:
        if not isinstance(one.axis, Cross):
            return one
        if one not in known:
            axis = Cross(one.axis.second, one.axis.first)
            side = {"first": "second", "second": "first"}.get(str(one.value), one.value)
            args = one.args if one.op == "spread" else tuple(turn(arg) for arg in one.args)
            known[one] = node(one.op, args, one.type, axis, side)
        return known[one]

    return turn(value)
