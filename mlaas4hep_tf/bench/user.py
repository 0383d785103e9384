"""What a user writes by hand: uproot.iterate, ak.pad_none, NumPy and `from_generator`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import awkward as ak
import numpy as np
import uproot


def iterate(paths: Sequence[str], names: Sequence[str], step: int) -> int:
    """`uproot.iterate` alone, in one process: the events read."""
    return sum(len(events) for events in uproot.iterate(list(paths), list(names), step_size=step))


def padded_batches(
    paths: Sequence[str], lengths: Mapping[str, int], offset: np.ndarray, scale: np.ndarray, batch: int, step: int
) -> Iterator[np.ndarray]:
    """Padded, normalised batches, float32 [batch, D]; `lengths` has 0 for flat branches."""
    for events in uproot.iterate(list(paths), list(lengths), step_size=step):
        columns = []
        for name, length in lengths.items():
            if length:
                padded = ak.fill_none(ak.pad_none(events[name], length, clip=True), np.nan)
                columns.append(ak.to_numpy(padded).astype(np.float32))
            else:
                columns.append(ak.to_numpy(events[name]).astype(np.float32)[:, None])
        vector = np.nan_to_num((np.concatenate(columns, axis=1) - offset) / scale)
        for start in range(0, len(vector), batch):
            yield vector[start : start + batch]


def dataset(*args: Any, width: int) -> Any:
    """The same as a `tf.data.Dataset`."""
    import tensorflow as tf

    signature = tf.TensorSpec((None, width), tf.float32)
    return tf.data.Dataset.from_generator(lambda: padded_batches(*args), output_signature=signature).prefetch(2)
