"""Both ways to undo zlib give what Python's zlib packed, and refuse what is damaged."""

import zlib

import numpy as np
import pytest
from isal import isal_zlib

from mlaas4hep_tf.io import zlib_blocks

deflate = pytest.importorskip("deflate")
WAYS = [
    pytest.param(zlib_blocks.inflate, deflate.DeflateError, id="libdeflate"),
    pytest.param(zlib_blocks.inflate_by_isal, isal_zlib.error, id="isal"),
]
CONTENT = np.arange(5000, dtype=">f4").tobytes()


@pytest.mark.parametrize(("inflate", "_"), WAYS)
@pytest.mark.parametrize("level", [0, 1, 6, 9])
@pytest.mark.parametrize("size", [0, 1, 300, len(CONTENT)])
def test_what_zlib_packed_comes_back(inflate, _, level, size):
    packed = memoryview(zlib.compress(CONTENT[:size], level))
    assert bytes(inflate(packed, size)) == CONTENT[:size]


@pytest.mark.parametrize(("inflate", "error"), WAYS)
def test_damage_is_refused(inflate, error):
    packed = zlib.compress(CONTENT, 1)
    wrong_checksum = packed[:-1] + bytes([packed[-1] ^ 1])
    wrong_content = packed[:200] + bytes([packed[200] ^ 4]) + packed[201:]
    for damaged in (packed[:-3], packed[: len(packed) // 2], b"", wrong_checksum, wrong_content):
        with pytest.raises(error):
            inflate(damaged, len(CONTENT))


def test_libdeflate_is_used_where_it_is_installed():
    assert zlib_blocks.inflate is deflate.zlib_decompress
