"""An epoch of finished rows: batches of them in an order, for Python one by one, for a graph as a tf.data dataset."""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property, partial
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from mlaas4hep_tf.io.buffers import ArrayPool, ArraySpec, keep_freed_memory
from mlaas4hep_tf.io.workers import default_workers
from mlaas4hep_tf.streaming.data_options import data_options
from mlaas4hep_tf.streaming.position import Cursor

Arrays = list[npt.NDArray[Any]]
Order = npt.NDArray[np.int32]
AHEAD = 2  # batches that are gathered before they are asked for


def tensor(array: npt.NDArray[Any]) -> tf.Tensor:
    """The same memory as a tensor, which keeps it; `tf.constant` would copy it."""
    return tf.experimental.dlpack.from_dlpack(array.__dlpack__())


class Rows:
    """Finished rows, from which batches are gathered.

    Args:
        arrays: of each tensor of an element [entries, ...], aligned to 64 bytes.
        structure: of an element.
        batch_size: rows of a batch; the last one of an order may have less.
        cursor: told when the last batch of an order is taken; held weakly, as a graph may live for ever.
    """

    def __init__(self, arrays: Arrays, structure: Any, batch_size: int, cursor: Cursor) -> None:
        self.arrays, self.structure, self.batch_size = arrays, structure, batch_size
        self.end = partial(_end, weakref.ref(cursor))
        self._pool = ArrayPool()

    def gather(self, order: Order) -> Arrays:
        """Some rows, in recycled memory; NumPy's `take` needs two thirds of the time of `tf.gather`."""
        batch = self._pool.take([ArraySpec((len(order), *a.shape[1:]), a.dtype.name) for a in self.arrays])
        for array, out in zip(self.arrays, batch, strict=True):
            np.take(array, order, axis=0, out=out, mode="clip")  # the mode "raise" would copy them once more
        return batch

    def element(self, arrays: Arrays) -> Any:
        """The same memory as tensors."""
        return tf.nest.pack_sequence_as(self.structure, [tensor(array) for array in arrays])

    @cached_property
    def variant(self) -> Callable[..., tf.Tensor]:
        """Makes a dataset of the batches of an order from one of them on; traced once for all epochs."""
        traced: Callable[..., tf.Tensor] = tf.function(
            partial(_batches, self.element(self.arrays), self.batch_size, self.end),
            input_signature=[tf.TensorSpec([None], tf.int32), tf.TensorSpec([], tf.int64)], autograph=False,
        )  # fmt: skip
        return traced


def _batches(rows: Any, size: int, end: Callable[[], np.int64], order: tf.Tensor, first: tf.Tensor) -> tf.Tensor:
    """A dataset's variant.

    Nothing in it is optimised: to look at it TensorFlow would copy all rows into a graph, in each epoch.
    """
    stop = -(-tf.size(order, tf.int64) // size)
    options = data_options()
    options.experimental_optimization.apply_default_optimizations = False

    def gather(number: tf.Tensor) -> tuple[tf.Tensor, Any]:
        start = tf.cast(number, tf.int32) * size
        own = order[start : start + size]
        return number + 1 == stop, tf.nest.map_structure(lambda part: tf.gather(part, own), rows)

    def mark(last: tf.Tensor, element: Any) -> Any:
        ended = tf.cond(last, lambda: tf.numpy_function(end, (), tf.int64), lambda: tf.constant(0, tf.int64))
        with tf.control_dependencies([ended]):
            return tf.nest.map_structure(tf.identity, element)

    batches = tf.data.Dataset.range(first, stop).map(gather, num_parallel_calls=default_workers(), deterministic=True)
    return tf.data.experimental.to_variant(batches.prefetch(AHEAD).map(mark).with_options(options))


def _end(cursor: weakref.ref[Cursor]) -> np.int64:
    if (alive := cursor()) is not None:
        alive.end()
    return np.int64(0)


class Permuted:
    """The batches of an epoch over finished rows, in turn.

    Args:
        rows: which those are.
        order: the number of each row, in the order of the epoch.
    """

    def __init__(self, rows: Rows, order: Order) -> None:
        self._rows, self._order = rows, order
        self._taken, self._batches = 0, self._gathered()

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        batch = next(self._batches)
        self._taken += 1
        if self._taken * self._rows.batch_size >= len(self._order):
            self._rows.end()
        return self._rows.element(batch)

    def _gathered(self) -> Iterator[Arrays]:
        size, ready = self._rows.batch_size, deque[Future[Arrays]]()
        with ThreadPoolExecutor(1, "rows") as thread:
            for start in range(0, len(self._order), size):
                ready.append(thread.submit(self._rows.gather, self._order[start : start + size]))
                if len(ready) > AHEAD:
                    yield ready.popleft().result()
            while ready:
                yield ready.popleft().result()

    def rest(self, element_spec: Any) -> tf.data.Dataset:
        """The batches that were not taken yet."""
        keep_freed_memory()
        variant = self._rows.variant(tf.constant(self._order), tf.constant(self._taken, tf.int64))
        return tf.data.experimental.from_variant(variant, element_spec)
