"""Works expressions out over the events of a block; what an array is, NumPy's or TensorFlow's, the operations know.

Branches of floats count as float32, steps are float64, and what comes out is rounded to float32 once.  What jumps, a
comparison or a remainder, sees float32 on both sides.  Integers are int64 and wrap around.  What is below the smallest
normal float32 is zero, because TensorFlow has no denormals.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from mlaas4hep_tf.expressions.tree import REDUCTIONS, Axis, Cross, Group, Inner, Kept, Node, Pairs, Type

JUMPING = ("less", "less_equal", "greater", "greater_equal", "equal", "not_equal", "floor_divide", "remainder")
_LOGIC = ("and", "or", "xor", "not")


class Operations(Protocol):
    """What an interpreter has to know of arrays; all of them are one-dimensional."""

    def array(self, values: Any, kind: Type) -> Any:
        """Values of a branch: bool, int64, or float64 of what float32 holds."""

    def constant(self, value: Any, kind: Type) -> Any: ...
    def convert(self, x: Any, kind: Type) -> Any:
        """From bool to int64 to float64, or to a truth: not zero, and not NaN."""

    def rounded(self, x: Any) -> Any:
        """float64 values that float32 holds, none of them denormal."""

    def result(self, x: Any, kind: Type, entries: Any) -> Any:
        """bool, int64 or float32; a constant as often as there are entries."""

    def apply(self, op: str, args: Sequence[Any]) -> Any:
        """An elementwise operation on arguments of one type."""

    def reduce(self, op: str, x: Any, counts: Any) -> Any:
        """``sum``, ``min``, ``max`` (NaN left out), ``any``, ``all`` of each list; 0, NaN, NaN, false, true of none."""

    def size(self, x: Any) -> Any: ...
    def range(self, size: Any) -> Any: ...
    def before(self, counts: Any) -> Any:
        """Sum of all counts in front of each."""

    def repeat(self, x: Any, counts: Any) -> Any:
        """Each value, or the one constant, as often as its count says."""

    def gather(self, x: Any, places: Any) -> Any: ...
    def keep(self, x: Any, mask: Any) -> Any: ...
    def at(self, x: Any, counts: Any, place: int) -> Any:
        """One value of each list, NaN where the list is shorter."""

    def sorted(self, keys: Any, counts: Any) -> Any:
        """The places of the values in each list by rising key: equal ones as they are, NaN last."""

    def work_out(
        self, nodes: Sequence[Node], values: Mapping[str, Any], counts: Mapping[str, Any], entries: Any
    ) -> list[Any]:
        """What `evaluate` gives of these arrays."""


def evaluate(
    nodes: Sequence[Node], operations: Operations, values: Mapping[str, Any], counts: Mapping[str, Any], entries: Any
) -> list[Any]:
    """The values of expressions, each bool, int64 or float32.

    Args:
        values: branch -> its values, event after event.
        counts: group -> objects of each event, int64 [entries]; and inner list -> values of each object.
        entries: number of events.

    Returns:
        For a value per event [entries], else one value per object, event after event.
    """
    evaluation = _Evaluation(operations, values, counts)
    return [operations.result(evaluation.value(node), node.type, entries) for node in nodes]


class _Evaluation:
    """Remembers what it has worked out, so that equal parts cost once."""

    def __init__(self, operations: Operations, values: Mapping[str, Any], counts: Mapping[str, Any]) -> None:
        self._do, self._values, self._given = operations, values, counts
        self._known: dict[Node, Any] = {}
        self._counts: dict[Axis, Any] = {}
        self._places: dict[tuple[Axis, str], Any] = {}

    def value(self, node: Node) -> Any:
        todo = [node]
        while todo:  # no recursion: an expression may be deeper than Python's stack
            unknown = [arg for arg in todo[-1].args if arg not in self._known]
            if not unknown and todo[-1] not in self._known:
                self._known[todo[-1]] = self._work_out(todo[-1])
            todo = todo + unknown if unknown else todo[:-1]
        return self._known[node]

    def _work_out(self, node: Node) -> Any:
        do, args = self._do, node.args
        if node.op == "const":
            return do.constant(node.value, node.type)
        if node.op == "branch":
            return do.array(self._values[str(node.value)], node.type)
        if node.op == "spread":
            return self._spread(self.value(args[0]), node.axis, str(node.value))
        if node.op == "keep":
            return do.keep(self.value(args[0]), self.value(args[1]))
        if node.op == "at":
            lists = self._lists(args[0].axis, "object" if node.axis is not None else "event")
            return do.at(do.convert(self.value(args[0]), "float"), lists, int(node.value or 0))
        if node.op in REDUCTIONS:
            return self._reduce(node)
        return self._elementwise(node)

    def _elementwise(self, node: Node) -> Any:
        do, kinds = self._do, [arg.type for arg in node.args]
        args = [self.value(arg) for arg in node.args]
        if node.op in _LOGIC:
            return do.apply(node.op, [do.convert(arg, "bool") for arg in args])
        if node.op == "where":
            return do.apply("where", [do.convert(args[0], "bool"), *(do.convert(arg, node.type) for arg in args[1:])])
        if node.op not in JUMPING:
            return do.apply(node.op, [do.convert(arg, node.type) for arg in args])
        if "float" not in kinds:
            return do.apply(node.op, [do.convert(arg, "int") for arg in args])
        sides = zip(args, kinds, strict=True)
        return do.apply(node.op, [do.rounded(a) if kind == "float" else do.convert(a, "float") for a, kind in sides])

    def _reduce(self, node: Node) -> Any:
        do, (arg,) = self._do, node.args
        lists = self._lists(arg.axis, str(node.value))
        if node.op == "count" and arg.type != "bool":
            return lists
        x = self.value(arg)
        if node.op in ("any", "all"):
            return do.reduce(node.op, do.convert(x, "bool"), lists)
        if node.op == "count":
            return do.reduce("sum", do.convert(x, "int"), lists)
        if node.op != "mean":
            return do.reduce(node.op, do.convert(x, node.type), lists)
        total = do.reduce("sum", do.convert(x, "float"), lists)
        return do.apply("divide", [total, do.convert(lists, "float")])

    def _spread(self, x: Any, axis: Axis | None, side: str) -> Any:
        if side == "event":
            return self._do.repeat(x, self._counts_of(axis))
        if isinstance(axis, Inner):
            return self._do.repeat(x, self._given[axis.name])
        assert isinstance(axis, Pairs | Cross)
        return self._do.gather(x, self._place(axis, side))

    def _lists(self, axis: Axis | None, what: str) -> Any:
        """Lengths of the lists that a reduction goes over."""
        if what == "object" and isinstance(axis, Inner):
            return self._given[axis.name]
        if what == "object" and isinstance(axis, Cross):
            return self._do.repeat(self._counts_of(axis.second), self._counts_of(axis.first))
        return self._counts_of(axis)

    def _counts_of(self, axis: Axis | None) -> Any:
        """How many values of the axis each event has."""
        assert axis is not None
        if axis not in self._counts:
            self._counts[axis] = self._count(axis)
        return self._counts[axis]

    def _count(self, axis: Axis) -> Any:
        do = self._do
        if isinstance(axis, Group):
            return self._given[axis.name]
        if isinstance(axis, Inner):
            return do.reduce("sum", self._given[axis.name], self._counts_of(axis.of))
        if isinstance(axis, Kept):
            return do.reduce("sum", do.convert(self.value(axis.mask), "int"), self._counts_of(axis.of))
        if isinstance(axis, Cross):
            return do.apply("multiply", [self._counts_of(axis.first), self._counts_of(axis.second)])
        n, two = self._counts_of(axis.of), do.constant(2, "int")
        less = do.apply("subtract", [n, do.constant(1, "int")])
        return do.apply("floor_divide", [do.apply("multiply", [n, less]), two])

    def _place(self, axis: Pairs | Cross, side: str) -> Any:
        """Where the value of one side of each pair stands among those of its own axis."""
        if (axis, side) not in self._places:
            first, second = self._in_pairs(axis) if isinstance(axis, Pairs) else self._in_cross(axis)
            self._places[axis, "first"], self._places[axis, "second"] = first, second
        return self._places[axis, side]

    def _in_cross(self, axis: Cross) -> tuple[Any, Any]:
        do, own, other = self._do, self._counts_of(axis.first), self._counts_of(axis.second)
        partners = do.repeat(other, own)  # of each first object
        first = do.repeat(do.range(do.size(partners)), partners)
        start = do.repeat(do.repeat(do.before(other), own), partners)
        return first, do.apply("add", [start, self._running(partners)])

    def _in_pairs(self, axis: Pairs) -> tuple[Any, Any]:
        do, own = self._do, self._counts_of(axis.of)
        objects = do.range(do.size(do.repeat(own, own)))
        ends = do.repeat(do.apply("add", [do.before(own), own]), own)  # behind the last object of the event
        partners = do.apply("subtract", [do.apply("subtract", [ends, objects]), do.constant(1, "int")])
        first = do.repeat(objects, partners)
        following = do.apply("add", [first, do.constant(1, "int")])
        return first, do.apply("add", [following, self._running(partners)])

    def _running(self, counts: Any) -> Any:
        """0, 1, 2 ... in each list."""
        do = self._do
        starts = do.repeat(do.before(counts), counts)
        return do.apply("subtract", [do.range(do.size(starts)), starts])
