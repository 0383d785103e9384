"""Packed blocks in the cache's folder: a later epoch, or another run, takes them from there and reads no file."""

from __future__ import annotations

import json
from collections.abc import Callable
from uuid import UUID

import numpy as np

from mlaas4hep_tf.io.buffers import ArraySpec, BufferRef, allocate
from mlaas4hep_tf.io.files import RootFile, stamp_text
from mlaas4hep_tf.io.policy import conditions
from mlaas4hep_tf.io.reader import Packed
from mlaas4hep_tf.io.stamps import file_stamp, file_uuid

_FORM = 2  # changes with the arrays that a block has
_LENGTH = 4  # bytes that say how long the shapes and dtypes are, which stand in front of the arrays


def remembered(what: str, file: RootFile, ref: BufferRef | None, read: Callable[[], Packed]) -> Packed:
    """The block that `read` reads, from the cache where it is there, or else kept there.

    Files without a uuid and those with friends are read each time, and one that was written to meanwhile is not
    looked for: reading it says so.

    Args:
        what: all that decides which events of the file a block has and what of them; empty: nothing is kept.
    """
    cache = conditions.get().cache
    known = _identity(file) if cache is not None and what else ""
    if cache is None or not known:
        return read()
    key = f"packed {_FORM} {what} {known}"
    block = cache.mapped(key)
    if block is not None:
        return _unpacked(block, ref)
    packed = read()
    cache.put(key, _content(packed, ref))
    return packed


def _identity(file: RootFile) -> str:
    """What is the same as long as the file is; empty for one that was written to, or tells too little."""
    if file.friends or (file.unopened is not None and file.unopened.friends) or not UUID(file.uuid).int:
        return ""
    size, what = file_stamp(file.source)
    own = file_uuid(file.source)
    then = file.stamp if file.unopened is None else (file.unopened.size, file.unopened.stamp)
    now = (size, what) if file.unopened is None else (size, stamp_text(what))
    return f"{file.uuid} {file.tree} {size} {stamp_text(what)}" if now == then and own == file.uuid else ""


def _content(packed: Packed, ref: BufferRef | None) -> bytes:
    arrays = packed.arrays or allocate(ref, packed.specs)
    head = json.dumps([[spec.shape, spec.dtype] for spec in packed.specs]).encode()
    return b"".join([len(head).to_bytes(_LENGTH, "little"), head, *(array.tobytes() for array in arrays)])


def _unpacked(block: memoryview, ref: BufferRef | None) -> Packed:
    begin = _LENGTH + int.from_bytes(block[:_LENGTH], "little")
    specs = tuple(ArraySpec(tuple(shape), dtype) for shape, dtype in json.loads(bytes(block[_LENGTH:begin])))
    arrays = allocate(ref, specs)
    for spec, array in zip(specs, arrays, strict=True):
        if spec.nbytes:
            array[...] = np.frombuffer(block[begin : begin + spec.nbytes], spec.dtype).reshape(spec.shape)
        begin += spec.nbytes
    return Packed(specs, tuple(arrays) if ref is None else None)
