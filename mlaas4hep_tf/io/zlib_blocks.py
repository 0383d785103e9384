"""`inflate`: undoes zlib, by libdeflate, or by isal where that has no wheel; both check the checksum."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from isal import isal_zlib


def inflate_by_isal(block: Any, size: int) -> Any:
    return isal_zlib.decompress(block, bufsize=size)


inflate: Callable[[Any, int], Any]
try:
    import deflate
except ImportError:
    inflate = inflate_by_isal
else:
    inflate = deflate.zlib_decompress
