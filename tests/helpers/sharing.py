"""What several processes do to one cache at a time; imports little, so that they start fast."""

import os
import random

from mlaas4hep_tf.io.cache import Cache

SIZE = 1 << 18


def put_and_get(folder: str) -> None:
    """Write and read the blocks that the other processes write and read too."""
    cache = Cache(folder, 50 * SIZE)
    for number in random.Random(os.getpid()).choices(range(60), k=300):
        block = cache.get(f"key{number}")
        assert block in (None, bytes([number]) * SIZE)
        if block is None:
            cache.put(f"key{number}", bytes([number]) * SIZE)
