"""What a TBranch is, from uproot's interpretation: one branch of numbers, or one for each member of its objects."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np
import uproot

from mlaas4hep_tf.io.basket_index import BranchIndex
from mlaas4hep_tf.io.branches import NESTED, BranchInfo, Kind
from mlaas4hep_tf.io.reals import Reals, reals, reals_of_leaf

_log = logging.getLogger(__name__)
_UNVERSIONED = 10  # bytes of the header of an object whose class has no version: size, 0, checksum
_HEADERS = (0, 10)  # bytes before each list
_MOST_ITEMS = 64  # of arrays in lists that become branches of their own
_VECTORS = (uproot.containers.AsVector, uproot.containers.AsRVec)
_SIZES = re.compile(r"(\[\d+\])+$")

Described = tuple[BranchInfo, BranchIndex | str]  # and how our decoder reads it, or why it does not


@dataclass(frozen=True)
class _Member:
    """A number, or an array of numbers, in each object of a branch; `path` is empty if it is all of the object."""

    path: str
    stored: np.dtype[Any]
    dtype: str
    shape: tuple[int, ...]
    offset: int = 0
    reals: Reals | None = None

    @property
    def size(self) -> int:
        return self.stored.itemsize if self.reals is None else self.reals.size


def describe(name: str, branch: Any) -> tuple[Described, ...]:
    """The branches of numbers that a TBranch without sub-branches holds; one of kind ``other`` says why none."""
    leaves = branch.member("fLeaves")
    title = str(branch.member("fTitle"))
    own = reals_of_leaf(leaves[0].classname, title) if len(leaves) == 1 else None
    if own is not None:
        shape = tuple(int(n) for n in re.findall(r"\[(\d+)\]", title.rpartition("/")[0]))
        jagged = leaves[0].member("fLeafCount") is not None
        member = _Member("", np.dtype("u1"), own.dtype, shape, reals=own)
        typename = f"{'Double32_t' if own.dtype == 'float64' else 'Float16_t'}{'[]' * jagged}"
        return tuple(_branches(name, typename, [member], prod(shape) * own.size, jagged, 0))
    if str(branch.member("fClassName", none_if_missing=True)) == "vector<Double32_t>" and not branch.member("fType"):
        member = _Member("", np.dtype("u1"), "float64", (), reals=Reals("float64"))
        return tuple(_branches(name, "std::vector<Double32_t>", [member], member.size, True, 10))
    try:
        interpretation, typename = branch.interpretation, str(branch.typename)
    except Exception as error:  # noqa: BLE001 (uproot raises many kinds for types that it cannot interpret)
        why = f"not interpretable: {type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
        return ((BranchInfo(name, "unknown", "other", reason=why), why),)
    return _interpreted(name, typename, interpretation, branch)


def _interpreted(name: str, typename: str, interpretation: Any, branch: Any) -> tuple[Described, ...]:
    if branch.classname == "TBranchObject":
        return _whole_objects(name, typename, interpretation, branch)
    jagged = isinstance(interpretation, uproot.interpretation.jagged.AsJagged)
    content = interpretation.content if jagged else interpretation
    header = int(interpretation.header_bytes) if jagged else 0
    members, size = _members(content)
    if members and isinstance(content, uproot.interpretation.objects.AsStridedObjects):
        why = "objects stored member by member" if jagged and not _whole(content) else ""
        why = why or ("" if _fits(branch, size, jagged, header) else "objects stored otherwise than uproot thinks")
        if why:
            return ((BranchInfo(name, typename, "other", reason=why), why),)
    if members and header in _HEADERS:
        return tuple(_branches(name, typename, members, size, jagged, header))
    why = f"its interpretation is {interpretation}"
    nested = _nested_dtype(interpretation)
    if nested:
        return ((BranchInfo(name, typename, "nested", nested, reason=NESTED, inner=f"{name}[]"), why),)
    return ((BranchInfo(name, typename, "other", reason=_nothing(interpretation)), why),)


def _whole_objects(name: str, typename: str, interpretation: Any, branch: Any) -> tuple[Described, ...]:
    """The numbers in the objects of a TBranchObject, in front of each of which is the name of its class."""
    title = str(branch.member("fClassName")).encode()
    front = bytes([len(title)]) + title + b"\0"
    try:
        content = branch.file.class_named(branch.member("fClassName")).strided_interpretation(branch.file)
        members, size = _members(content)
    except Exception as error:  # noqa: BLE001 (uproot has several for classes without a fixed size)
        _log.debug("branch %r of class %s has no fixed size: %s", name, typename, error)
        members, size = [], 0
    moved = [replace(member, offset=member.offset + len(front)) for member in members]
    if not members or not _begins(branch, front, len(front) + size):
        return ((BranchInfo(name, typename, "other", reason=_nothing(interpretation)), "objects of other sizes"),)
    return tuple(_branches(name, typename, moved, len(front) + size, False, 0))


def _begins(branch: Any, front: bytes, size: int) -> bool:
    """Whether all objects of the first basket have this size and begin with these bytes."""
    data = branch.basket(0).data.tobytes() if branch.num_baskets else b""
    return len(data) == size * (int(branch.basket(0).num_entries) if data else 0) and all(
        data.startswith(front, at) for at in range(0, len(data), size)
    )


def _nested_dtype(interpretation: Any) -> str:
    """The dtype of the numbers in lists of lists; empty if these are none."""
    levels = [getattr(interpretation, "model", None)]
    while isinstance(levels[-1], _VECTORS):
        levels.append(levels[-1].values)
    number = levels[-1]
    if len(levels) != 3 or not isinstance(number, np.dtype) or number.kind not in "biuf":
        return ""
    return number.newbyteorder("=").name


def _whole(content: Any) -> bool:
    """Whether the objects of a list are stored one behind the other: those of classes with a version are."""
    return any(name.startswith("@") for name in np.dtype(content.from_dtype).names or ())


def _fits(branch: Any, size: int, jagged: bool, header: int) -> bool:
    """Whether the first basket has objects of this size: uproot does not know the headers of all base classes."""
    if not branch.num_baskets:
        return True
    basket = branch.basket(0)
    left = len(basket.data) - header * int(basket.num_entries)
    return left % size == 0 if jagged else left == size * int(basket.num_entries)


def _nothing(interpretation: Any) -> str:
    """Why there are no numbers that could be read."""
    if isinstance(interpretation, uproot.interpretation.strings.AsStrings):
        return "text"
    model = getattr(interpretation, "model", None)
    if isinstance(getattr(model, "values", None), uproot.containers.AsVectorLike):
        return NESTED
    return "objects"


def _members(content: Any) -> tuple[list[_Member], int]:
    """The numbers in each object of a branch, and its size in bytes; none if there are none of fixed size."""
    numerical = uproot.interpretation.numerical
    if isinstance(content, numerical.TruncatedNumerical):
        dtype = "float64" if isinstance(content, numerical.AsDouble32) else "float32"
        how = reals(dtype, float(content.low), float(content.high), int(content.num_bits))
        return [_Member("", np.dtype("u1"), dtype, content.to_dims, reals=how)], prod(content.to_dims) * how.size
    if not isinstance(content, (numerical.AsDtype, uproot.interpretation.objects.AsStridedObjects)):
        return [], 0
    stored = np.dtype(content.from_dtype)
    if stored.fields is not None:
        return _fields(stored)
    base, shape = stored.subdtype or (stored, ())
    result = np.dtype(content.to_dtype)
    dtype = (result.subdtype or (result, ()))[0].newbyteorder("=").name
    if base.kind not in "biuf":
        return [], 0
    wider = Reals(dtype) if base.str == ">f4" and dtype == "float64" else None
    return [_Member("", base, dtype, shape, reals=wider)], stored.itemsize


def _fields(stored: np.dtype[Any]) -> tuple[list[_Member], int]:
    """The numbers of a structured dtype, and its size; fields that begin with ``@`` are the headers of objects.

    uproot forgets the header of an object within another whose class has no version number.
    """
    fields = {name: (field[0], int(field[1])) for name, field in (stored.fields or {}).items()}
    headed = {name.rpartition("@")[0] for name in fields if "@" in name}
    members, more, seen = [], 0, {""}
    for name, (dtype, offset) in fields.items():
        base, shape = dtype.subdtype or (dtype, ())
        inner = name.rpartition("/")[0]
        if inner not in seen and f"{inner}/" not in headed:
            more += _UNVERSIONED
        seen.add(inner)
        if "@" not in name and base.kind in "biuf":
            path = f".{name.replace('/', '.')}"
            members.append(_Member(path, base, base.newbyteorder("=").name, shape, offset + more))
    return members, stored.itemsize + more


def _branches(
    name: str, typename: str, members: list[_Member], size: int, jagged: bool, header: int
) -> Iterator[Described]:
    """Each member as a branch; of an array in a list each item.  Those of one list are a group."""
    group = _SIZES.sub("", name) if jagged and (len(members) > 1 or members[0].shape) else None
    for member in members:
        length = prod(member.shape)
        dtype = member.stored.str if member.reals is None else member.dtype
        how = BranchIndex(
            f"{name}{member.path}", dtype, jagged, header, length,
            stride=size, offset=member.offset, reals=member.reals,
        )  # fmt: skip
        kind: Kind = "jagged" if jagged else "array" if member.shape else "flat"
        info = BranchInfo(how.name, typename, kind, member.dtype, group, 0 if jagged or not member.shape else length)
        if not jagged or not member.shape:
            alone = length * member.size == size
            yield info, replace(how, stride=0) if alone else how
        elif length > _MOST_ITEMS:
            why = f"lists of arrays of {length} numbers"
            yield replace(info, kind="other", dtype="", reason=why), why
        else:
            stem = f"{_SIZES.sub('', name)}{member.path}"
            for item in range(length):
                own = f"{stem}[{item}]"
                yield (
                    replace(info, name=own),
                    replace(how, name=own, length=1, offset=member.offset + item * member.size),
                )
