"""Applies the steps of an analysis to events; what an array is, NumPy's or TensorFlow's, the operations know."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mlaas4hep_tf.analysis.steps import Steps
from mlaas4hep_tf.expressions.evaluation import Operations
from mlaas4hep_tf.expressions.tree import Node


class Applied(Mapping[str, Any]):
    """The branches behind the cuts of objects by name, those of the files and the derived ones.

    No list is copied before somebody asks for it: of each group is kept which of its objects stand where.

    Attributes:
        entries: number of events.
        counts: group, as expressions name it -> objects of each event.
    """

    def __init__(
        self, steps: Steps, do: Operations, values: Mapping[str, Any], counts: Mapping[str, Any], entries: Any
    ) -> None:
        """Cut and order the objects, and derive.

        Args:
            values: branch -> its values, event after event; at least those of `steps.inputs`.
            counts: group, as expressions name it -> objects of each event, int64 [entries]; and lists in the objects
                -> values of each object.
        """
        self.entries = entries
        self.counts = {group: own for group, own in counts.items() if group not in steps.inner}
        self._inner = {name: own for name, own in counts.items() if name in steps.inner}
        self._steps, self._do, self._values, self._raw = steps, do, dict(values), counts
        self._passing: Any = None
        self._places: dict[str, Any] = {}
        self._known: dict[str, Any] = {}
        self._derived: dict[str, Any] = {}
        for group, condition in steps.objects:
            self._cut(group, do.convert(self.value(condition), "bool"))
        for group, key in steps.order:
            self._choose(group, do.sorted(do.convert(self.value(key), "float"), self.counts[group]))
        for stage in steps.define:
            self._derived |= dict(zip(dict(stage), self._work_out([node for _, node in stage]), strict=True))

    def value(self, node: Node) -> Any:
        """The value of an expression, as `evaluate` gives it."""
        return self._work_out([node])[0]

    def truths(self, conditions: Sequence[Node]) -> list[Any]:
        """Which events each condition holds for."""
        return [self._do.convert(found, "bool") for found in self._work_out(conditions)]

    def also(self, values: Mapping[str, Any], counts: Mapping[str, Any]) -> None:
        """Have more branches, of the event and of groups that no step changes."""
        self._values |= values
        self.counts = {**{n: own for n, own in counts.items() if n not in self._steps.inner}, **self.counts}

    def choose_events(self, passing: Any) -> None:
        """Leave out the events for which this is false; no expression can be worked out any more."""
        do = self._do
        objects = {group: do.repeat(passing, counts) for group, counts in self.counts.items()}
        for info in self._steps.defined:
            own = passing if info.kind == "flat" else objects[self._steps.name_of[info.group]]
            self._derived[info.name] = do.keep(self._derived[info.name], own)
        for group, kept in objects.items():
            self._choose(group, do.keep(do.range(do.size(kept)), kept))
            self.counts[group] = do.keep(self.counts[group], passing)
        self._known, self._passing, self.entries = {}, passing, do.size(do.keep(passing, passing))

    def _work_out(self, nodes: Sequence[Node]) -> list[Any]:
        return self._do.work_out(nodes, self, {**self.counts, **self._inner}, self.entries)

    def _cut(self, group: str, kept: Any) -> None:
        do = self._do
        self._choose(group, do.keep(do.range(do.size(kept)), kept))
        self.counts[group] = do.reduce("sum", do.convert(kept, "int"), self.counts[group])

    def _choose(self, group: str, places: Any) -> None:
        """Take the objects of the group that stand at these places now."""
        before = self._places.get(group)
        self._places[group] = places if before is None else self._do.gather(before, places)
        self._known = {name: value for name, value in self._known.items() if self._steps.group_of.get(name) != group}
        for name in [name for name, own in self._steps.inner.items() if own == group and name in self._inner]:
            self._inner[name] = self._do.gather(self._raw[name], self._places[group])

    def __getitem__(self, name: str) -> Any:
        if name in self._steps.counters:
            return self.counts[self._steps.counters[name]]
        if name not in self._known:
            self._known[name] = self._find(name)
        return self._known[name]

    def _find(self, name: str) -> Any:
        if name in self._derived:
            return self._derived[name]
        if name in self._steps.raw_counters:
            counter = self._steps.raw_counters[name]
            cut = self._steps.counters.get(counter)
            return self._values[counter] if cut is None else self._raw[cut]
        group = self._steps.group_of.get(name)
        if group is None:
            return self._values[name] if self._passing is None else self._do.keep(self._values[name], self._passing)
        places = self._places.get(group)
        if places is not None and name in self._steps.inner_of:
            places = self._places_inside(self._steps.inner_of[name], places)
        return self._values[name] if places is None else self._do.gather(self._values[name], places)

    def _places_inside(self, inner: str, places: Any) -> Any:
        """Where the values of the lists in these objects stand."""
        do, kept = self._do, self._inner[inner]
        starts = do.apply("subtract", [do.gather(do.before(self._raw[inner]), places), do.before(kept)])
        moved = do.repeat(starts, kept)
        return do.apply("add", [moved, do.range(do.size(moved))])

    def __iter__(self) -> Iterator[str]:
        return iter((*self._values, *self._derived))

    def __len__(self) -> int:
        return len(self._values) + len(self._derived)
