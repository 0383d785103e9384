"""What the inputs of a model are in a ROOT tree: branches, members of their objects, elements of their arrays.

Each has the name that `mlaas4hep_tf.scan` gives it.  What uproot reads wrong is known by its name, with the reason.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

_SIZES = re.compile(r"(\[\d+\])+$")
_REALS = ("TLeafD32", "TLeafF16")


@dataclass(frozen=True)
class Place:
    """Where the numbers of an input lie.

    Attributes:
        branch: what uproot reads for them.
        members: the way to them in what it has read.
        item: which number of the array that each object of a list has.
        fixed: whether an event has an array of them, of however many dimensions.
        gaps: whether some may be missing.
        reason: why they cannot be read, if so.
    """

    branch: str
    members: tuple[str, ...]
    item: tuple[int, ...] = ()
    fixed: bool = False
    gaps: bool = False
    reason: str = ""

    def values(self, events: Any) -> Any:
        """Those of some events that uproot has read, an entry an event."""
        found = events
        for member in self.members:
            found = found[member]
        if self.item:
            found = found[(..., *self.item)]
        if self.fixed:
            found = found.to_numpy().reshape(len(found), -1)
        return filled(found.tolist()) if self.gaps else found.tolist()


def filled(value: Any) -> Any:
    """Nested lists, with NaN for what is missing."""
    if isinstance(value, list):
        return [filled(item) for item in value]
    return math.nan if value is None else value


def places(tree: Any) -> dict[str, Place]:
    """Name -> place of all numbers in a TTree or an RNTuple, as uproot has opened it."""
    found = _of_ntuple(tree) if hasattr(tree, "to_akform") else _of_ttree(tree)
    known: dict[str, Place] = {}
    for name, place in found:
        known.setdefault(name, place)  # of two branches of one name uproot reads the first
    return known


def _of_ttree(tree: Any) -> Iterator[tuple[str, Place]]:
    for name, branch in tree.iteritems():
        if branch.branches:
            continue
        try:
            form = branch.interpretation.awkward_form(branch.file)
        except Exception:  # noqa: BLE001 (uproot has many for what it does not know, UnboundLocalError among them)
            yield name, Place(name, (name,), reason="uproot cannot interpret it")
        else:
            yield from _numbers(form, name, Place(name, (name,), reason=_misread(branch)), {})


def _misread(branch: Any) -> str:
    """Why uproot does not read the numbers of a branch that ROOT reads; nothing if it does."""
    how, typename = branch.interpretation, branch.typename
    limits = branch.member("fTitle").rpartition("/")[2]  # pt[n]/d[0,100,12]
    if "[" in limits and not hasattr(how, "num_bits") and any(f.classname in _REALS for f in branch.member("fLeaves")):
        return f"uproot misreads {typename} with limits"
    content = getattr(how, "content", how)
    if type(content).__name__ == "AsStridedObjects" and not _as_thought(branch, content, jagged=content is not how):
        return f"uproot misreads {typename}"
    return ""


def _as_thought(branch: Any, objects: Any, *, jagged: bool) -> bool:
    """Whether objects lie in the file as uproot thinks, which does not know the headers of all classes."""
    if jagged:  # without a header they are stored member by member
        return any(name.startswith("@") for name in objects.from_dtype.names or ())
    if not branch.num_baskets:
        return True
    basket = branch.basket(0)
    return bool(len(basket.data) == objects.from_dtype.itemsize * basket.num_entries)


def _of_ntuple(tree: Any) -> Iterator[tuple[str, Place]]:
    form, _ = tree.to_akform()
    misread = _misread_columns(tree)
    for field, own in zip(form.fields, form.contents, strict=True):
        for name, place in _numbers(own, field, Place(field, (field,)), misread):
            whole = any(member.isdigit() for member in place.members)  # of a pair uproot reads both or mistakes them
            yield name, place if whole else replace(place, branch=".".join(place.members))


def _misread_columns(tree: Any) -> dict[str, str]:
    """Key in a form -> why uproot does not read the numbers behind it that ROOT reads."""
    found: dict[str, str] = {}
    for number, column in enumerate(tree.column_records):
        typename = tree.field_records[column.field_id].type_name
        why = "uproot takes char as unsigned" if typename == "char" else ""
        if typename.startswith("std::unique_ptr<"):
            why = "uproot gives lists for pointers"
        if column.first_element_index and _cut(tree, number, column.first_element_index):
            why = "uproot misreads what was added while a file was written that was merged later"
        found |= dict.fromkeys((f"column-{number}", f"column-{number}-optional"), why)
    return found


def _cut(tree: Any, number: int, first: int) -> bool:
    """Whether the elements of a column that begins late are other than so many an entry."""
    stored = [own[number] for own in tree.page_link_list if number < len(own)]
    elements = first + sum(page.num_elements for own in stored for page in own.pages)
    return bool(elements % tree.num_entries)


def _numbers(
    form: Any, name: str, place: Place, misread: Mapping[str, str], *, lists: int = 0, sizes: tuple[int, ...] = ()
) -> Iterator[tuple[str, Place]]:
    """The numbers in awkward's form of a branch; `lists` and `sizes` are what is around them."""
    place = replace(place, reason=place.reason or misread.get(form.form_key or "", ""))
    if form.parameter("__array__") in ("string", "bytestring"):
        return
    if form.is_record:
        for field, own in zip(form.fields, form.contents, strict=True):
            inner = replace(place, members=(*place.members, field))
            yield from _numbers(own, f"{name}.{field}", inner, misread, lists=lists, sizes=sizes)
    elif form.is_option or form.is_list:
        inner = replace(place, gaps=place.gaps or form.is_option)
        further = (*sizes, form.size) if form.is_regular else sizes
        lists += form.is_list and not form.is_regular
        yield from _numbers(form.content, name, inner, misread, lists=lists, sizes=further)
    elif form.is_numpy and lists and sizes:
        for item in product(*map(range, sizes)):
            number = sum(i * math.prod(sizes[n + 1 :]) for n, i in enumerate(item))
            yield f"{_SIZES.sub('', name)}[{number}]", replace(place, item=item)
    elif form.is_numpy:
        yield name, replace(place, fixed=bool(sizes))
