"""Decodes the pages of RNTuples, from the bytes that the index names, each needed page once.

Layout: the RNTuple specification 1.0; values are those of ROOT (tests/data/root640).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Generator, Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import xxhash

from mlaas4hep_tf.io.basket_index import Array
from mlaas4hep_tf.io.baskets import Fetch, Multiplicities, Pieces, decompress, joined
from mlaas4hep_tf.io.page_index import Encoding, Field, PageColumn, PageIndex, Span

_CHECKSUM = 8
_TRUNCATED, _QUANTIZED = 0x1C, 0x1D
_STORED = {  # column type -> dtype of its elements in memory
    0x00: "bool", 0x01: "<u1", 0x02: "<i1", 0x03: "<i1", 0x04: "<u1", 0x05: "<i2", 0x06: "<u2",
    0x07: "<i4", 0x08: "<u4", 0x09: "<i8", 0x0A: "<u8", 0x0B: "<f2", 0x0C: "<f4", 0x0D: "<f8", 0x0E: "<u4", 0x0F: "<u8",
    0x11: "<i2", 0x12: "<u2", 0x13: "<i4", 0x14: "<u4", 0x15: "<i8", 0x16: "<u8", 0x17: "<f2", 0x18: "<f4", 0x19: "<f8",
    0x1A: "<u4", 0x1B: "<u8", _TRUNCATED: "<f4", _QUANTIZED: "<f8",
}  # fmt: skip
_SPLIT = range(0x11, 0x1C)  # the first bytes of all elements, then the second ones ...
_ZIGZAG = (0x11, 0x13, 0x15)  # 0, -1, 1, -2, 2 ... as 0, 1, 2, 3, 4 ...
_DELTA = (0x1A, 0x1B)  # differences; the first of a page is itself

_Want = tuple[int, int, int, int]  # column, elements [lo, hi) of a cluster, and how many it has (-1: unknown)
_Walk = Generator[_Want, Pieces, tuple[Pieces, list[Array]]]


class PageCache:
    """Decoded pages, those used last within a limit of bytes, seen from one of their files."""

    def __init__(self, limit: int) -> None:
        self._left, self._pages = limit, OrderedDict[tuple[Hashable, Span], Array]()
        self.file: Hashable = None

    def of(self, file: Hashable) -> PageCache:
        """The same cache, for what is asked for next of this file."""
        self.file = file
        return self

    def get(self, span: Span) -> Array | None:
        page = self._pages.get((self.file, span))
        if page is not None:
            self._pages.move_to_end((self.file, span))
        return page

    def put(self, span: Span, page: Array) -> None:
        """Keep a page; those that were not used for longest make room for it."""
        if (self.file, span) in self._pages:
            return
        self._pages[self.file, span] = page
        self._left -= page.nbytes
        while self._left < 0:
            self._left += self._pages.popitem(last=False)[1].nbytes


def known(kind: int) -> bool:
    """Whether elements of this column type become numbers here."""
    return kind in _STORED


def read_columns(
    fetch: Fetch, index: PageIndex, start: int, stop: int, groups: Mapping[str, str], cache: PageCache
) -> tuple[dict[str, Pieces], dict[str, Multiplicities]]:
    """Decode entries [start, stop) of some branches.

    Args:
        fetch: (seek, size) pairs -> their bytes, in few large requests; called once for each level of nesting.
        index: the clusters that hold these entries (`PageIndex.part`).
        groups: jagged branch -> its group, whose branches have their multiplicities from one column.
        cache: pages of this file that were decoded before.

    Returns:
        The values of each branch, and the multiplicities of each group and of each name of inner lists.

    Raises:
        ValueError, OSError, and those of decompression: bytes that are no such page.
    """
    clusters = range(len(index.bounds) - 1)
    walks = {}
    for cluster in clusters:
        first, last = index.bounds[cluster : cluster + 2].tolist()
        for field in index.fields:
            walks[field.name, cluster] = _walk(field, max(start - first, 0), min(stop, last) - first, last - first)
    done = _run(fetch, index, walks, cache)
    columns = {
        field.name: tuple(piece for cluster in clusters for piece in done[field.name, cluster][0])
        for field in index.fields
    }
    known = {}
    for field in index.fields:
        if not field.jagged:
            continue
        for level, name in enumerate((groups[field.name], field.inner)):
            if name and name not in known:
                counts = (done[field.name, cluster][1][level] for cluster in clusters)
                known[name] = Multiplicities(field.name, np.concatenate([np.empty(0, np.int64), *counts]))
    return columns, known


def _walk(field: Field, lo: int, hi: int, entries: int) -> _Walk:
    """From entries [lo, hi) of a cluster to values, and counts of the lists of each level.

    It yields what it needs, and is sent its elements.
    """
    total, width, present = entries, 1, None
    counts: list[Array] = []
    for step in field.steps:
        if step.op == "times":
            lo, hi, total, width = lo * step.number, hi * step.number, total * step.number, width * step.number
            continue
        stored = yield step.number, max(lo - 1, 0), hi, total
        ends = joined(stored if lo else (np.zeros(1, np.int64), *stored))
        sizes = np.diff(ends)
        if len(sizes) and (sizes.min() < 0 or (step.op == "maybe" and sizes.max() > 1)):
            raise ValueError("the ends of lists are not in order")
        lo, hi, total, width = int(ends[0]), int(ends[-1]), -1, 1
        counts, present = ([*counts, sizes], None) if step.op == "list" else (counts, sizes > 0)
    if field.column is None:
        return tuple(counts), []
    pieces = yield field.column, lo, hi, total
    pieces = tuple(_as(piece, np.dtype(field.dtype)) for piece in pieces)
    if present is None and field.item is None:
        return pieces, counts
    values = np.concatenate([np.empty(0, field.dtype), *pieces])
    if present is not None:
        filled = np.full(len(present), np.nan, field.dtype)
        filled[present] = values
        values = filled
    return (values if field.item is None else values[field.item :: width],), counts


def _as(values: Array, dtype: np.dtype[Any]) -> Array:
    same_size = values.dtype.kind in "iu" and dtype.kind in "iu" and values.dtype.itemsize == dtype.itemsize
    return values.view(dtype) if same_size else values.astype(dtype, copy=False)


def _run(
    fetch: Fetch, index: PageIndex, walks: dict[tuple[str, int], _Walk], cache: PageCache
) -> dict[tuple[str, int], Any]:
    """Lead all walks to their ends, one level of nesting at a time; what several need is read once."""
    done: dict[tuple[str, int], Any] = {}
    wants: dict[tuple[str, int], _Want] = {key: next(walk) for key, walk in walks.items()}
    while wants:
        needed = {(cluster, want): None for (_, cluster), want in wants.items()}
        elements = dict(zip(needed, _read(fetch, index, list(needed), cache), strict=True))
        further = {}
        for key, want in wants.items():
            try:
                further[key] = walks[key].send(elements[key[1], want])
            except StopIteration as end:
                done[key] = end.value
            except Exception as error:
                error.add_note(f"branch {key[0]!r}")
                raise
        wants = further
    return done


def _read(fetch: Fetch, index: PageIndex, needed: Sequence[tuple[int, _Want]], cache: PageCache) -> list[Pieces]:
    """The elements that are needed, from one fetch."""
    plans = [_pages(index.columns[column], cluster, lo, hi, total) for cluster, (column, lo, hi, total) in needed]
    pages = {
        index.columns[column].span(page): (column, cluster, page)
        for (cluster, (column, *_)), (own, _) in zip(needed, plans, strict=True)
        for page in range(own.start, own.stop)
    }
    elements = {span: found for span in pages if (found := cache.get(span)) is not None}
    missing = [span for span in pages if span not in elements]
    for span, raw in zip(missing, fetch(missing), strict=True):
        column, cluster, page = pages[span]
        elements[span] = _page(index.columns[column], cluster, page, raw)
    return [
        _cut(index.columns[column], own, before, lo, hi, elements, cache)
        for (_, (column, lo, hi, _)), (own, before) in zip(needed, plans, strict=True)
    ]


def _pages(column: PageColumn, cluster: int, lo: int, hi: int, total: int) -> tuple[slice, int]:
    """The pages of a cluster that hold elements [lo, hi), and how many elements lie before them."""
    first, last = column.first[cluster : cluster + 2].tolist()
    ends = np.cumsum(column.elements[first:last])
    have = int(ends[-1]) if len(ends) else 0
    missing = max(total - have, 0) if column.late else 0
    if hi > have + missing or (total >= 0 and have + missing != total):
        raise ValueError(f"the pages of a cluster hold {have} elements where {max(hi, total)} are needed")
    begin = int(np.searchsorted(ends, lo - missing, "right"))
    end = int(np.searchsorted(ends, hi - missing, "left")) + 1 if hi > max(lo, missing) else begin
    return slice(first + begin, first + end), missing + (int(ends[begin - 1]) if begin else 0)


def _page(column: PageColumn, cluster: int, page: int, raw: memoryview) -> Array:
    body = _checked(raw) if column.checked[page] else raw
    return _decode(body, int(column.elements[page]), column.encodings[int(column.chosen[cluster])])


def _cut(
    column: PageColumn, pages: slice, before: int, lo: int, hi: int, elements: dict[Span, Array], cache: PageCache
) -> Pieces:
    """Elements [lo, hi) from the pages that hold them; what precedes a late column is 0.

    A page that is not wholly used is kept: the blocks beside this one need it too.
    """
    zeros = np.zeros(max(min(before, hi) - lo, 0), np.int8)
    parts = [zeros] if len(zeros) else []
    for page in range(pages.start, pages.stop):
        span = column.span(page)
        first, last = max(lo - before, 0), hi - before
        before += len(elements[span])
        if first or last < len(elements[span]):
            cache.put(span, elements[span])
        parts.append(elements[span][first:last])
    return tuple(parts)


def decompress_all(fetch: Fetch, index: PageIndex) -> None:
    """Fetch and decompress every page of an index, and nothing else: what no reader can be faster than."""
    for column in index.columns.values():
        bits = np.repeat([column.encodings[n].bits for n in column.chosen.tolist()], np.diff(column.first))
        sizes = -(-column.elements * bits // 8)
        raw = fetch(list(zip(column.seeks.tolist(), (column.sizes - _CHECKSUM * column.checked).tolist(), strict=True)))
        for body, size in zip(raw, sizes.tolist(), strict=True):
            if len(body) != size:
                decompress(body, size)


def _checked(page: memoryview) -> memoryview:
    body = page[:-_CHECKSUM]
    if xxhash.xxh3_64_intdigest(body) != int.from_bytes(page[-_CHECKSUM:], "little"):
        raise ValueError("the checksum of a page is wrong")
    return body


def _decode(body: memoryview, elements: int, encoding: Encoding) -> Array:
    """The elements of a page."""
    kind, dtype = encoding.kind, np.dtype(_STORED[encoding.kind])
    size = -(-elements * encoding.bits // 8)
    data = np.frombuffer(body if len(body) == size else decompress(body, size), np.uint8)
    if kind == 0:
        return np.unpackbits(data, count=elements, bitorder="little").view(np.bool_)
    if kind in (_TRUNCATED, _QUANTIZED):
        return _packed_reals(data, elements, encoding)
    if kind in _SPLIT:
        data = _unsplit(data.reshape(dtype.itemsize, elements))
    values = data.view(dtype)
    if kind in _ZIGZAG:
        unsigned = values.view(f"<u{dtype.itemsize}")
        return ((unsigned >> 1) ^ -(unsigned & 1)).view(dtype)
    return np.cumsum(values, dtype=dtype) if kind in _DELTA else values


def _unsplit(planes: Array) -> Any:
    """Elements whose first bytes, second bytes ... lie in rows: neighbouring rows are joined until one is left."""
    while len(planes) > 1:
        bits = 8 * planes.itemsize
        wide = planes[1::2].astype(f"<u{2 * planes.itemsize}")
        wide <<= bits
        wide |= planes[::2]
        planes = wide
    return planes[0]


def _packed_reals(data: Array, elements: int, encoding: Encoding) -> Array:
    """Reals of fewer bits: cut at the end, or numbers of steps within a range."""
    bits = np.unpackbits(data, count=elements * encoding.bits, bitorder="little").reshape(elements, encoding.bits)
    steps = bits @ (np.uint64(1) << np.arange(encoding.bits, dtype=np.uint64))
    if encoding.kind == _TRUNCATED:
        return (steps << np.uint64(32 - encoding.bits)).astype("<u4").view("<f4")
    return steps * ((encoding.high - encoding.low) / ((1 << encoding.bits) - 1)) + encoding.low
