"""Finished rows in memory: padded, normalised and masked once, so that an epoch is a permutation of them."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import tensorflow as tf

from mlaas4hep_tf.io.buffers import ArrayPool, ArraySpec
from mlaas4hep_tf.io.workers import default_workers
from mlaas4hep_tf.streaming.chunks import Room, Stream
from mlaas4hep_tf.streaming.permuted import Arrays, Order, Permuted, Rows, tensor
from mlaas4hep_tf.streaming.plan import Plan
from mlaas4hep_tf.streaming.position import Cursor, Position


class Finished:
    """The rows of a dataset in the form of its elements, as soon as they can be made without reading and fit.

    They are made at the beginning of the second whole epoch, where all events are kept as they were read.

    Attributes:
        signature: structure, shapes [None, ...] and dtypes of the elements.
        finish: makes the rows of a step from those of a packed chunk.
        step: rows of a step.
        room: of the chunks.
    """

    def __init__(
        self, stream: Stream, plan: Plan, cursor: Cursor, signature: Any, finish: Callable[..., Any], step: int,
        room: Room | None,
    ) -> None:  # fmt: skip
        self._stream, self._plan, self._cursor = stream, plan, cursor
        self.signature, self.finish, self.step, self.room = signature, finish, step, room
        self._lock = threading.Lock()
        self._epochs = 0
        self._rows: Rows | None = None
        self._truncated = Counter[str]()

    def rows(self, position: Position) -> Any:
        """The rows as a structure of arrays [entries, ...], or None where this epoch comes from packed events."""
        if not self._whole(position):
            return None
        with self._lock:
            self._epochs += 1
            if self._rows is None and self._epochs > 1 and self._stream.keeps(self._plan):
                self._rows = self._make(position)
            if self._rows is None:
                return None
            self._stream.begin_kept(self._plan, self._truncated)
            return tf.nest.pack_sequence_as(self.signature, self._rows.arrays)

    def epoch(self) -> Permuted | None:
        """The next epoch, begun, if it is whole and the rows have been made."""
        position = self._cursor.begin()
        if self._rows is None or not self._whole(position):
            return None
        self._stream.begin_kept(self._plan, self._truncated)
        return Permuted(self._rows, self._plan.order(position.epoch)[: self._plan.batches * self._plan.batch_size])

    def _whole(self, position: Position) -> bool:
        """Whether an epoch has each event once."""
        return not position.batch and not position.lost and self._plan.quotas == self._plan.file_group_entries

    def _make(self, position: Position) -> Rows | None:
        specs = [
            ArraySpec((self._plan.entries, *part.shape[1:]), part.dtype.name)
            for part in tf.nest.flatten(self.signature)
        ]
        if self._stream.kept is None or not self._stream.kept.reserve(self, sum(spec.nbytes for spec in specs)):
            return None
        rows = ArrayPool().take(specs)
        numbers, groups = self._plan.order(position.epoch), len(self._stream.layout.groups)
        with ThreadPoolExecutor(default_workers()) as threads:
            for number, (order, *packed) in enumerate(self._stream.chunks(self._plan, position, self.room)):
                flat, bounds, *rest = map(tensor, packed)
                turn = tf.constant([position.epoch, number])
                chunk = turn, flat, bounds, tuple(rest[:groups]), tuple(rest[groups:])
                starts = range(0, len(order), self.step)
                deque(threads.map(partial(self._put, rows, numbers, order, chunk), starts), maxlen=0)
                numbers = numbers[len(order) :]
        self._truncated.update(self._stream.truncated)
        return Rows(rows, self.signature, self._plan.batch_size, self._cursor)

    def _put(self, rows: Arrays, numbers: Order, order: Order, chunk: tuple[Any, ...], start: int) -> None:
        """Finish a step of a chunk and put its rows where they belong."""
        stop = start + self.step
        element = self.finish(tf.constant(order[start:stop]), *chunk)
        for row, part in zip(rows, tf.nest.flatten(element), strict=True):
            row[numbers[start:stop][: part.shape[0]]] = np.asarray(part)

    def nothing(self) -> Any:
        """The same structure without a row."""
        return tf.nest.map_structure(
            lambda part: np.empty((0, *part.shape[1:]), part.dtype.as_numpy_dtype), self.signature
        )
