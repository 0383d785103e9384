"""The fields of an RNTuple as branches: their kinds, which share a multiplicity, and where their pages lie."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from math import prod
from typing import Any

import numpy as np

from mlaas4hep_tf.io.branches import NESTED, BranchInfo, Kind, Selection
from mlaas4hep_tf.io.page_index import Encoding, Field, PageColumn, PageIndex, Step
from mlaas4hep_tf.io.pages import known

_NUMBERS = {
    "bool": "bool", "float": "float32", "double": "float64", "char": "int8", "std::byte": "uint8",
    **{f"std::{u}int{bits}_t": f"{u}int{bits}" for u in ("", "u") for bits in (8, 16, 32, 64)},
}  # fmt: skip
_LEAF, _COLLECTION, _RECORD = 0, 1, 2
_MAYBE = ("std::optional<", "std::unique_ptr<")
_UNNAMED = re.compile(r"_collection\d+$")  # what projected fields show under their own names


@dataclass(frozen=True)
class _Leaf:
    """A number below a field: its names and types, the way to it and whose each list is; or why it is none."""

    name: str
    typename: str
    steps: tuple[Step, ...]
    column: int | None = None
    dtype: str = ""
    owners: tuple[str, ...] = ()
    reason: str = ""


_encoding = lru_cache(Encoding)  # one object for many columns, which is pickled once


class _Schema:
    """Fields and columns of an RNTuple, linked to each other."""

    def __init__(self, ntuple: Any) -> None:
        self.fields = ntuple.all_fields
        self.records = ntuple.field_records
        self.column_records = ntuple.column_records
        self.children: dict[int, list[int]] = defaultdict(list)
        for number, record in enumerate(self.records):
            if record.parent_field_id != number:
                self.children[record.parent_field_id].append(number)
        self.columns: dict[int, list[int]] = defaultdict(list)
        for number, column in enumerate(self.column_records):
            self.columns[column.field_id].append(number)
        for alias in ntuple.alias_column_records:
            self.columns[alias.field_id] = self.columns[self.column_records[alias.physical_id].field_id]

    @property
    def top(self) -> Iterator[int]:
        for number, record in enumerate(self.records):
            unnamed = _UNNAMED.match(record.field_name) and not record.type_name
            if record.parent_field_id == number and not unnamed:
                yield number

    def leaves(
        self, number: int, name: str, typename: str, steps: tuple[Step, ...] = (), owners: tuple[str, ...] = ()
    ) -> Iterator[_Leaf]:
        """The numbers below a field; an anonymous one has its parent's name and type."""
        record, below = self.records[number], self.children[number]
        column = self.columns[number][0] if self.columns[number] else None
        if record.struct_role == _RECORD:
            for child in below:
                path = self.fields[child].path
                kind = self.records[child].type_name if path else typename
                yield from self.leaves(child, path or name, kind, steps, owners)
        elif record.struct_role == _COLLECTION and below and column is not None:
            step = Step("maybe" if record.type_name.startswith(_MAYBE) else "list", column)
            further_owners = (*owners, name) if step.op == "list" else owners
            for child in below:
                yield from self.leaves(child, name, typename, (*steps, step), further_owners)
        elif record.struct_role == _LEAF and record.type_name.startswith("ROOT::RNTupleCardinality<"):
            yield _Leaf(name, typename, (*steps, Step("list", column)) if column is not None else steps, dtype="int64")
        elif record.struct_role == _LEAF and record.type_name == "std::string":
            yield _Leaf(name, typename, steps, reason="text")
        elif record.struct_role == _LEAF and below:
            further = (*steps, Step("times", record.repetition)) if record.repetition else steps
            for child in below:
                yield from self.leaves(child, name, typename, further, owners)
        elif record.struct_role == _LEAF and column is not None:
            bits = record.type_name.startswith("std::bitset<")
            further = (*steps, Step("times", record.repetition)) if bits else steps
            yield self._number(_Leaf(name, typename, further, column, "bool" if bits else record.type_name, owners))
        else:
            reason = "objects" if record.struct_role in (_LEAF, _COLLECTION) else "variants"
            yield _Leaf(name, typename, steps, reason=reason)

    def _number(self, leaf: _Leaf) -> _Leaf:
        dtype = _NUMBERS.get(leaf.dtype, "")
        reason = _reason(leaf.steps, [self.column_records[n] for n in self.columns_of(leaf)])
        if not dtype or reason:
            return _Leaf(leaf.name, leaf.typename, (), reason=reason or "objects")
        if any(step.op == "maybe" for step in leaf.steps) and not dtype.startswith("float"):
            dtype = "float64"
        return _Leaf(leaf.name, leaf.typename, leaf.steps, leaf.column, dtype, leaf.owners)

    def columns_of(self, leaf: _Leaf) -> list[int]:
        own = [step.number for step in leaf.steps if step.op != "times"]
        return own if leaf.column is None else [*own, leaf.column]


def _reason(steps: tuple[Step, ...], columns: list[Any]) -> str:
    """Why numbers behind these steps are neither flat, an array, a list nor a list of lists; empty if they are."""
    ops = [step.op for step in steps]
    if ops.count("list") > 1 and ops != ["list", "list"]:
        return NESTED
    if "list" in ops and ops[0] != "list":
        return "arrays of lists" if ops[0] == "times" else "optional lists"
    if "maybe" in ops[:-1]:
        return "optional arrays"
    if any(not known(column.type) for column in columns):
        return "stored in an unknown way"
    late = [column.first_element_index > 0 for column in columns]
    return "added to a list while the file was written" if any(late[1:]) and not late[0] else ""


def survey(
    ntuple: Any, selection: Selection, also: tuple[str, ...] = ()
) -> tuple[tuple[BranchInfo, ...], tuple[int, ...], PageIndex]:
    """Branches, entries at which most branches start a page and the end, and where the pages lie.

    The pages are those of the selected branches and of the ones in `also`.
    """
    schema = _Schema(ntuple)
    leaves = [
        leaf for number in schema.top
        for leaf in schema.leaves(number, schema.fields[number].path, schema.records[number].type_name)
    ]  # fmt: skip
    groups = _groups(leaves)
    found = [pair for leaf in leaves for pair in _branches(leaf, groups)]
    wanted = selection.among([info.name for info, _ in found]).union(also)
    infos = [i if i.name in wanted else BranchInfo(i.name, "", "other", reason="not selected") for i, _ in found]
    fields = [field for _, field in found if field is not None and field.name in wanted]
    summaries = ntuple.cluster_summaries
    bounds = [0, *(int(s.num_first_entry) + int(s.num_entries) for s in summaries)]
    links = ntuple.page_link_list
    numbers = dict.fromkeys(number for field in fields for number in field.columns)
    columns = {n: _page_column(schema, n, links) for n in numbers}
    index = PageIndex(tuple(fields), columns, np.array(bounds, np.int64))
    starts = Counter(index.page_starts(field.columns[0]) for field in fields if not field.arrays)
    most = starts.most_common(1)[0][0] if starts else ()
    return tuple(infos), tuple(sorted({*bounds, *most})), index


def _groups(leaves: list[_Leaf]) -> dict[int, str]:
    """Column of the ends of lists -> name of the group: of the field that counts it, else of the collection."""
    counting = {leaf.steps[0].number: leaf.name for leaf in leaves if leaf.column is None and len(leaf.steps) == 1}
    numbers = [leaf for leaf in reversed(leaves) if leaf.column is not None]
    own = {
        step.number: owner for leaf in numbers
        for step, owner in zip((s for s in leaf.steps if s.op == "list"), leaf.owners, strict=True)
    }  # fmt: skip
    return own | counting


def _branches(leaf: _Leaf, groups: dict[int, str]) -> Iterator[tuple[BranchInfo, Field | None]]:
    """What a number below a field is as branches: one, or one for each element of the arrays in a list."""
    if leaf.reason or not leaf.dtype:
        yield BranchInfo(leaf.name, leaf.typename, "other", reason=leaf.reason or "objects"), None
        return
    lists = [step for step in leaf.steps if step.op == "list"]
    length = prod(step.number for step in leaf.steps if step.op == "times")
    field = Field(leaf.name, leaf.dtype, leaf.steps, leaf.column)
    if not lists or leaf.column is None:
        arrays = any(step.op == "times" for step in leaf.steps)
        kind: Kind = "array" if arrays else "flat"
        yield BranchInfo(leaf.name, leaf.typename, kind, leaf.dtype, None, length * arrays), field
        return
    group = groups[lists[0].number]
    if len(lists) == 2:
        inner = f"{groups[lists[1].number]}[]"
        counter = group if group != leaf.name else None
        info = BranchInfo(leaf.name, leaf.typename, "nested", leaf.dtype, counter, reason=NESTED, inner=inner)
        yield info, replace(field, inner=inner)
        return
    for item in range(length):
        name = leaf.name if length == 1 else f"{leaf.name}[{item}]"
        counter = group if group != name else None
        yield (
            BranchInfo(name, leaf.typename, "jagged", leaf.dtype, counter),
            Field(name, leaf.dtype, leaf.steps, leaf.column, item if length > 1 else None),
        )


def _page_column(schema: _Schema, number: int, links: Any) -> PageColumn:
    """Where the pages of a column lie: in each cluster those of the representation that is stored there."""
    record = schema.column_records[number]
    same = [n for n in schema.columns[record.field_id] if _index_in_field(schema, n) == _index_in_field(schema, number)]
    chosen, first = [], [0]
    pages: list[Any] = []
    for cluster in links:
        stored = [n for n in same if n < len(cluster) and not cluster[n].suppressed]
        chosen.append(same.index(stored[0]) if stored else 0)
        pages += cluster[stored[0]].pages if stored else []
        first.append(len(pages))
    records = [schema.column_records[n] for n in same]
    checked = np.array([page.has_checksum for page in pages], np.int64)
    return PageColumn(
        tuple(_encoding(r.type, r.nbits, r.min_value or 0.0, r.max_value or 0.0) for r in records),
        np.array(chosen, np.int64), np.array(first, np.int64),
        np.array([page.locator.offset for page in pages], np.int64),
        np.array([page.locator.num_bytes for page in pages], np.int64) + 8 * checked,
        np.array([page.num_elements for page in pages], np.int64), checked,
        any(r.first_element_index > 0 for r in records),
    )  # fmt: skip


def _index_in_field(schema: _Schema, number: int) -> int:
    """Which column of its field's representation this is."""
    record = schema.column_records[number]
    same = [n for n in schema.columns[record.field_id] if schema.column_records[n].repr_idx == record.repr_idx]
    return same.index(number)
