"""Where the baskets of a file lie, as a short text: kept in the files table, so that nobody parses the tree again."""

from __future__ import annotations

import zlib
from base64 import b64decode, b64encode
from collections.abc import Sequence

import numpy as np

from mlaas4hep_tf.io.basket_index import BranchIndex, FileIndex
from mlaas4hep_tf.io.page_index import PageIndex

MOST = 8192  # baskets of a file: to open one with more takes little time beside that of reading it


def coded(index: FileIndex | PageIndex) -> str:
    """The text; empty for what has none: pages, more baskets than `MOST`, and those in the tree's own header."""
    if isinstance(index, PageIndex) or index.inline or not 0 < len(index.seeks) <= MOST:
        return ""
    numbers = np.concatenate([index.first, index.seeks, index.sizes, index.starts, index.stops]).astype("<i8")
    planes = numbers.view(np.uint8).reshape(-1, 8).T  # bytes of one weight behind each other are much alike
    return b64encode(zlib.compress(planes.tobytes(), 1)).decode()


def decoded(text: str, branches: Sequence[BranchIndex]) -> FileIndex:
    """The index of a file with these branches."""
    planes = np.frombuffer(zlib.decompress(b64decode(text)), np.uint8).reshape(8, -1)
    numbers = np.ascontiguousarray(planes.T).view("<i8")[:, 0].astype(np.int64)
    first, rest = np.split(numbers, [len(branches) + 1])
    return FileIndex(tuple(branches), first, *rest.reshape(4, -1))
