"""Memory shared between reader and trainer: recycled when it is free, never something else."""

import gc
import os

import numpy as np
import pytest

from mlaas4hep_tf.io.buffers import ArrayPool, ArraySpec, BufferPool, BufferRef, allocate

SPECS = (ArraySpec((3, 2), "float32"), ArraySpec((5,), "int32"), ArraySpec((0, 4), "float32"))


def fill(ref):
    for number, array in enumerate(allocate(ref, SPECS)):
        array[...] = number + 1


def test_what_a_reader_writes_is_read():
    pool = BufferPool()
    ref = pool.lend()
    assert ref
    fill(ref)
    arrays = pool.arrays(ref, SPECS)
    assert [a.shape for a in arrays] == [(3, 2), (5,), (0, 4)]
    assert [a.tolist() for a in arrays[:2]] == [[[1, 1]] * 3, [2] * 5]
    assert all(a.ctypes.data % 64 == 0 for a in arrays if a.size)


def test_a_buffer_is_lent_again_when_its_last_array_is_gone():
    pool = BufferPool()
    ref = pool.lend()
    assert ref
    fill(ref)
    first, second, _ = pool.arrays(ref, SPECS)
    part = second[1:3]
    del first, second, _
    gc.collect()
    assert pool.lend() != ref
    assert part.tolist() == [2, 2]
    del part
    gc.collect()
    assert pool.lend() == ref


def test_no_other_file_is_taken_for_a_buffer(tmp_path):
    path = tmp_path / "precious"
    path.write_text("content")
    with path.open("r+") as file, pytest.raises(OSError, match="is no buffer"):
        allocate(BufferRef(os.getpid(), file.fileno()), SPECS)
    assert path.read_text() == "content"


def test_chunks_that_are_alive_never_share_memory():
    pool = ArrayPool()
    one, two = (pool.take([ArraySpec((1000,), "float32")])[0] for _ in range(2))
    assert not np.shares_memory(one, two)
    address = one.ctypes.data
    del one
    gc.collect()
    again = pool.take([ArraySpec((900,), "float32")])[0]
    assert again.ctypes.data == address
    assert not np.shares_memory(again, two)
