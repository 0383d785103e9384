"""The hot path: decodes numeric baskets in one loop, from the bytes that the index names.

A basket is a key (big-endian header), then compressed blocks of the values, then, for jagged branches, the
byte offset of every entry.  Layout: ROOT's ``TBasket`` and ``RZip.cxx``; values are bit-exact against uproot.
"""

from __future__ import annotations

import itertools
import lzma
import struct
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import cramjam
import numpy as np
import xxhash

from mlaas4hep_tf.io import zlib_blocks
from mlaas4hep_tf.io.basket_index import Array, BranchIndex, FileIndex

Request = tuple[int, int, list[int]]  # seek, size, which spans lie in it
Fetch = Callable[[Sequence[tuple[int, int]]], Sequence[memoryview]]

_KEY = struct.Struct(">ihiIhh")  # fNbytes fVersion fObjlen fDatime fKeylen fCycle
_TAIL = struct.Struct(">hiiii")  # fVersion fBufferSize fNevBufSize fNevBuf fLast, then one flag byte
_COUNTS = struct.Struct(">ii")  # the last two of these
_PLAIN_KEY = _KEY.size + _TAIL.size + 1
_BLOCK = struct.Struct("<2sBHBHB")  # algorithm, its version, bytes of the block and of its content, 3 bytes each
_LZ4_CHECKSUM = 8
_MAX_GAP = 1 << 16  # bytes between two baskets up to which one request covers both
_MAX_REQUEST = 1 << 26  # bytes of a request of several baskets


Pieces = tuple[Array, ...]  # 1-D arrays (any byte order) that together are a column
_Basket = tuple[memoryview, int, int]  # its bytes, its first entry, the one behind its last


class Disagreement(ValueError):
    """A branch has other multiplicities than its group."""


class Multiplicities:
    """How many values each entry of a group has, to which all of its branches are held.

    Attributes:
        source: the branch that says so.
        counts: values per entry, int64 [entries].
    """

    def __init__(self, source: str, counts: Array) -> None:
        self.source, self.counts = source, counts
        self._starts = np.concatenate([[0], np.cumsum(counts)])
        self._positions: dict[tuple[int, int, int], Array] = {}
        self._stored: dict[tuple[int, int, int, int], tuple[int, bytes]] = {}

    def fits(self, at: int, entries: int, itemsize: int, data: Array, border: int, keylen: int) -> bool:
        """Whether a basket of the entries from `at` on has the size and the entry offsets of these counts.

        Offsets count from the start of a basket's key, so branches of one item size and length of key have the same.
        """
        key = (at, entries, itemsize, keylen)
        if key not in self._stored:
            self._stored[key] = self._expected(*key)
        size, offsets = self._stored[key]
        return border == size and data[border + 4 : border + 4 + 4 * entries].tobytes() == offsets

    def _expected(self, at: int, entries: int, itemsize: int, keylen: int) -> tuple[int, bytes]:
        """The bytes of values in a basket, and its entry offsets as they are stored."""
        if (at, entries, itemsize) not in self._positions:
            positions = (self._starts[at : at + entries + 1] - self._starts[at]) * itemsize
            self._positions[at, entries, itemsize] = positions.astype(np.int32)
        positions = self._positions[at, entries, itemsize]
        return int(positions[-1]), (positions[:-1] + np.int32(keylen)).byteswap(inplace=True).tobytes()

    def hold(self, at: int, counts: Array) -> None:
        """Raise Disagreement unless the entries from `at` on have these counts."""
        wrong = np.flatnonzero(self.counts[at : at + len(counts)] != counts)
        if len(wrong):
            first = int(wrong[0])
            raise Disagreement(
                f"it has {counts[first]} values in an event where {self.source!r} says {self.counts[at + first]}: "
                "branches with a common counter must agree in every event; exclude the branch"
            )


def read_columns(
    fetch: Fetch, index: FileIndex, start: int, stop: int, groups: Mapping[str, str], *, hold: bool = True
) -> tuple[Iterator[tuple[str, Pieces]], dict[str, Multiplicities]]:
    """Decode entries [start, stop) of some branches, and hold the jagged ones to the multiplicities of their group.

    Args:
        fetch: (seek, size) pairs -> their bytes, in few large requests.
        index: the baskets that hold these entries (`FileIndex.part`).
        groups: jagged branch -> its group.  An indexed branch of the group's name has the multiplicities; without it
            the first branch of the group has.
        hold: if not, a branch that differs from its group has its own multiplicities, under its name.

    Returns:
        Each branch and its values, decoded when it is asked for, so that they can be used while they are in the
        processor's cache; and the multiplicities of each group, at once.

    Raises:
        ValueError, OSError, struct.error, lzma.LZMAError, deflate.DeflateError, cramjam.DecompressionError:
            bytes that are no such basket, also while branches are asked for; the branch is in the exception's note.
    """
    raw = raw_baskets(fetch, index)
    if any(branch.stride for branch in index.branches):
        raw = _plain_where_shared(raw)
    baskets = _baskets(index, raw)
    known: dict[str, Multiplicities] = {}
    counters = set(groups.values())

    def decode(number: int) -> tuple[str, Pieces]:
        branch, own = index.branches[number], baskets[number]
        try:
            if branch.counter:
                return branch.name, _counted_column(branch, _all_counts(index, number, baskets), start, stop, own)
            if branch.jagged:
                return branch.name, _held_column(branch, groups[branch.name], known, start, stop, own, hold)
            column = _flat_column(branch, start, stop, own)
            if branch.name in counters:
                known[branch.name] = Multiplicities(branch.name, joined(column))
        except Exception as error:
            error.add_note(f"branch {branch.name!r}")
            raise
        return branch.name, column

    first = [decode(number) for number in _counting(index, groups)]
    names = {name for name, _ in first}
    later = [number for number, branch in enumerate(index.branches) if branch.name not in names]
    return itertools.chain(first, map(decode, later)), known


def _counting(index: FileIndex, groups: Mapping[str, str]) -> list[int]:
    """The branches that say the multiplicities of the groups, flat ones first."""
    counters = set(groups.values())
    flat = [n for n, branch in enumerate(index.branches) if not branch.jagged and branch.name in counters]
    counted = {index.branches[number].name for number in flat}
    lists: dict[str, int] = {}
    for number, branch in enumerate(index.branches):
        if branch.jagged and not branch.counter and groups[branch.name] not in counted:
            lists.setdefault(groups[branch.name], number)
    return flat + list(lists.values())


def _baskets(index: FileIndex, raw: Sequence[memoryview]) -> list[list[_Basket]]:
    """The baskets of each branch."""
    every = list(zip(raw, index.starts.tolist(), index.stops.tolist(), strict=True))
    return [every[begin:end] for begin, end in pairwise(index.first.tolist())]


def _all_counts(index: FileIndex, number: int, baskets: Sequence[Sequence[_Basket]]) -> Array:
    """What its counter says of all entries in the baskets of a branch."""
    own = baskets[number]
    if not own:
        return np.empty(0, np.int64)
    counter = [branch.name for branch in index.branches].index(index.branches[number].counter)
    return joined(_flat_column(index.branches[counter], own[0][1], own[-1][2], baskets[counter]))


def joined(pieces: Pieces) -> Array:
    """A column of integers as int64."""
    return np.concatenate([np.empty(0, np.int64), *pieces], dtype=np.int64, casting="unsafe")


def raw_baskets(fetch: Fetch, index: FileIndex) -> list[memoryview]:
    """The bytes of every basket of an index, as they lie in the file; one that several branches share is one object."""
    spans = list(zip(index.seeks.tolist(), index.sizes.tolist(), strict=True))
    needed = list(dict.fromkeys(span for span in spans if span[0] >= 0))
    fetched = dict(zip(needed, fetch(needed), strict=True))
    return [fetched[span] if span[0] >= 0 else memoryview(index.inline[-1 - span[0]]) for span in spans]


def _plain_where_shared(baskets: Sequence[memoryview]) -> list[memoryview]:
    """The same baskets, those that several branches share without compression, so that they are decompressed once."""
    use = Counter(map(id, baskets))
    plain = {id(raw): _decompressed(raw) for raw in baskets if use[id(raw)] > 1}
    return [plain.get(id(raw), raw) for raw in baskets]


def _decompressed(raw: memoryview) -> memoryview:
    _, version, objlen, time, keylen, cycle = _KEY.unpack_from(raw)
    body = raw[keylen:]
    key = _KEY.pack(keylen + objlen, version, objlen, time, keylen, cycle) + bytes(raw[_KEY.size : keylen])
    return memoryview(key + bytes(body if len(body) == objlen else decompress(body, objlen)))


def plain_basket(data: Array, offsets: Array | None, entries: int) -> bytes:
    """An uncompressed basket with these bytes and this many entries, as `unpack` reads it.

    Args:
        data: bytes of the values.
        offsets: position of each entry in them, and of their end, int32 [entries + 1]; None if entries are equal.
    """
    tail = b"" if offsets is None else struct.pack(">i", entries) + (offsets + _PLAIN_KEY).astype(">i4").tobytes()
    size = len(data) + len(tail)
    key = _KEY.pack(_PLAIN_KEY + size, 0, size, 0, _PLAIN_KEY, 0)
    return key + _TAIL.pack(0, 0, 0, entries, _PLAIN_KEY + len(data)) + b"\0" + data.tobytes() + tail


def _flat_column(branch: BranchIndex, start: int, stop: int, baskets: Iterable[_Basket]) -> Pieces:
    length = branch.length
    pieces = []
    for raw, first, last in baskets:
        lo, hi = max(start, first) - first, min(stop, last) - first
        data, border, _ = unpack(raw, last - first)  # entry offsets may follow, and say nothing new
        if border != (last - first) * branch.step:
            raise ValueError(
                f"a basket of {last - first} entries holds {border} bytes, not {(last - first) * branch.step}"
            )
        pieces.append(_values(data[:border], branch)[lo * length : max(lo, hi) * length])
    return tuple(pieces)


def _values(data: Array, branch: BranchIndex) -> Array:
    """The numbers in bytes of values that lie side by side, or of objects that each have one of them."""
    if branch.stride:
        own = data.reshape(-1, branch.stride)[:, branch.offset : branch.offset + branch.length * branch.size]
        data = np.ascontiguousarray(own).reshape(-1)
    return data.view(branch.dtype) if branch.reals is None else branch.reals.decode(data)


def _held_column(
    branch: BranchIndex, group: str, known: dict[str, Multiplicities], start: int, stop: int,
    baskets: Sequence[_Basket], hold: bool,
) -> Pieces:  # fmt: skip
    """Values of a jagged branch, held to what is known of its group; what was not known is added to that."""
    try:
        pieces, counts = _jagged_column(branch, known.get(group), start, stop, baskets)
    except Disagreement:
        if hold:
            raise
        group = branch.name
        pieces, counts = _jagged_column(branch, None, start, stop, baskets)
    if counts is not None:
        known[group] = Multiplicities(branch.name, counts)
    return pieces


def _jagged_column(
    branch: BranchIndex, known: Multiplicities | None, start: int, stop: int, baskets: Iterable[_Basket]
) -> tuple[Pieces, Array | None]:
    """Values, and counts per entry unless those of the group are known."""
    pieces, counts = [], [np.empty(0, np.int64)]
    step = branch.step
    for raw, first, last in baskets:
        lo, hi = max(start, first) - first, min(stop, last) - first
        data, border, keylen = unpack(raw, last - first)
        if border == len(data):
            raise ValueError("a basket of a jagged branch has no entry offsets")
        whole = (lo, hi) == (0, last - first)
        if whole and known and not branch.header and known.fits(first - start, hi, step, data, border, keylen):
            pieces.append(_values(data[:border], branch))
            continue
        ends = _entry_ends(data, border, keylen, last - first)
        values, per_entry = _jagged(data[:border], ends, branch)
        if known is None:
            counts.append(per_entry[lo:hi])
        else:
            known.hold(first + lo - start, per_entry[lo:hi])
        if not whole:
            at = int(per_entry[:lo].sum())
            values = values[at : at + int(per_entry[lo:hi].sum())]
        pieces.append(values)
    return tuple(pieces), np.concatenate(counts) if known is None else None


def _counted_column(branch: BranchIndex, counts: Array, start: int, stop: int, baskets: Iterable[_Basket]) -> Pieces:
    """Values of baskets without entry offsets (``kGenerateOffsetMap``), from the counts of all entries in them."""
    pieces = []
    for raw, first, last in baskets:
        lo, hi = max(start, first) - first, min(stop, last) - first
        data, border, _ = unpack(raw, last - first)
        starts = np.concatenate([[0], np.cumsum(counts[: last - first])])
        counts = counts[last - first :]
        if border != starts[-1] * branch.step:
            raise ValueError(
                f"a basket holds {border} bytes, where {branch.counter!r} says {starts[-1]} values of {branch.step}"
            )
        pieces.append(_values(data[:border], branch)[starts[lo] : starts[hi]])
    return tuple(pieces)


def _jagged(data: Array, ends: Array, branch: BranchIndex) -> tuple[Array, Array]:
    """Values without headers, and how many each entry has."""
    header = branch.header
    sizes = np.diff(ends) - header
    if len(sizes) and (sizes.min() < 0 or ends[0] != 0):
        raise ValueError("the entry offsets of a basket are not in order")
    if header:
        keep = np.ones(len(data), np.bool_)
        keep[(ends[:-1, None] + np.arange(header)).ravel()] = False
        data = data[keep]
    counts, rest = np.divmod(sizes, branch.step)
    if rest.any():
        raise ValueError(f"an entry of a basket is no multiple of {branch.step} bytes")
    return _values(data, branch), counts


def unpack(raw: memoryview, entries: int) -> tuple[Array, int, int]:
    """Decompressed bytes of a basket, where its values end in them, and the length of its key."""
    nbytes, _, objlen, _, keylen, _ = _KEY.unpack_from(raw)
    entries_there, last = _COUNTS.unpack_from(raw, keylen - _COUNTS.size - 1)
    if nbytes != len(raw) or entries_there != entries:
        raise ValueError(f"a basket says {nbytes} bytes and {entries_there} entries, its tree {len(raw)} and {entries}")
    if not 0 <= last - keylen <= objlen:
        raise ValueError(f"the values of a basket of {objlen} bytes end at {last - keylen}")
    body = raw[keylen:]
    data = np.frombuffer(body if len(body) == objlen else decompress(body, objlen), np.uint8)
    return data, last - keylen, keylen


def _entry_ends(data: Array, border: int, keylen: int, entries: int) -> Array:
    """Byte position of each entry of a jagged branch, and behind the last one, int64 [entries + 1]."""
    ends = data[border:].view(">i4")[1 : entries + 2].astype(np.int64) - keylen
    if len(ends) <= entries:
        raise ValueError(f"a basket of {entries} entries has {len(ends)} entry offsets")
    ends[-1] = border
    return ends


def decompress(blocks: memoryview, size: int) -> Any:
    """Undo ROOT's compression: blocks with a header of 9 bytes each, followed by a checksum if they are LZ4."""
    out: list[Any] = []
    position = filled = 0
    while position < len(blocks):
        if position + _BLOCK.size > len(blocks):
            raise ValueError("a compressed block ends too early")
        algorithm, _, packed, packed_high, unpacked, unpacked_high = _BLOCK.unpack_from(blocks, position)
        body = position + _BLOCK.size
        position = body + packed + (packed_high << 16)
        unpacked += unpacked_high << 16
        if position > len(blocks):
            raise ValueError("a compressed block ends too early")
        data = _decompress_block(algorithm, blocks[body:position], unpacked)
        if len(data) != unpacked:
            raise ValueError(f"a block decompressed to {len(data)} bytes, not {unpacked}")
        out.append(data)
        filled += unpacked
    if filled != size:
        raise ValueError(f"a basket decompressed to {filled} bytes, not {size}")
    return out[0] if len(out) == 1 else b"".join(map(bytes, out))


def _decompress_block(algorithm: bytes, body: memoryview, size: int) -> Any:
    if algorithm == b"ZL":
        return zlib_blocks.inflate(body, size)
    if algorithm == b"L4":
        data = body[_LZ4_CHECKSUM:]
        if xxhash.xxh64_intdigest(data) != int.from_bytes(body[:_LZ4_CHECKSUM], "big"):
            raise ValueError("the checksum of an LZ4 block is wrong")
        return cramjam.lz4.decompress_block(data, output_len=size)
    if algorithm == b"ZS":
        return cramjam.zstd.decompress(data=body, output_len=size)
    if algorithm == b"XZ":
        return lzma.decompress(body)
    raise ValueError(f"unknown compression {algorithm!r}")


def coalesce(spans: Sequence[tuple[int, int]]) -> list[Request]:
    """Join byte ranges that lie near each other: (seek, size, which of the spans lie in it)."""
    requests: list[Request] = []
    begin = end = 0
    members: list[int] = []
    for number in sorted(range(len(spans)), key=spans.__getitem__):
        seek, size = spans[number]
        stop = max(end, seek + size)
        if members and seek - end <= _MAX_GAP and stop - begin <= _MAX_REQUEST:
            members.append(number)
        else:
            if members:
                requests.append((begin, end - begin, members))
            begin, stop, members = seek, seek + size, [number]
        end = stop
    return [*requests, (begin, end - begin, members)] if members else requests
