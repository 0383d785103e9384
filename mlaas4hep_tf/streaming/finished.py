"""Finished rows in memory: padded, normalised and masked once, so that an epoch is a permutation of them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import numpy as np
import tensorflow as tf

from mlaas4hep_tf.io.buffers import ArrayPool, ArraySpec
from mlaas4hep_tf.streaming.chunks import Stream
from mlaas4hep_tf.streaming.plan import Plan
from mlaas4hep_tf.streaming.position import Position


class InOrder(Protocol):
    """The elements of a dataset in the order of files and entries."""

    @property
    def truncated(self) -> Mapping[str, int]: ...

    def __iter__(self) -> Iterator[Any]: ...


class Finished:
    """The rows of a dataset in the form of its elements, as soon as they can be made without reading and fit.

    They are made at the beginning of the second whole epoch, where all events are kept as they were read.

    Args:
        make: gives the elements of the dataset in the order of files and entries.
    """

    def __init__(self, stream: Stream, plan: Plan, signature: Any, make: Callable[[], InOrder]) -> None:
        self._stream, self._plan, self.signature, self._make = stream, plan, signature, make
        self._lock = threading.Lock()
        self._epochs = 0
        self._rows: Any = None
        self._truncated: Mapping[str, int] = {}

    def rows(self, position: Position) -> Any:
        """The rows as a structure of arrays [entries, ...], or None where this epoch comes from packed events."""
        if position.batch or position.lost or self._plan.quotas != self._plan.file_group_entries:
            return None
        with self._lock:
            self._epochs += 1
            if self._rows is None and self._epochs > 1 and self._stream.keeps(self._plan):
                self._rows = self._fill()
            if self._rows is not None:
                self._stream.begin_kept(self._plan, self._truncated)
            return self._rows

    def _fill(self) -> Any:
        specs = [
            ArraySpec((self._plan.entries, *part.shape[1:]), part.dtype.name)
            for part in tf.nest.flatten(self.signature)
        ]
        assert self._stream.kept is not None
        if not self._stream.kept.reserve(self, sum(spec.nbytes for spec in specs)):
            return None
        rows, at = ArrayPool().take(specs), 0
        in_order = self._make()
        for element in in_order:
            parts = [part.numpy() for part in tf.nest.flatten(element)]
            for row, part in zip(rows, parts, strict=True):
                row[at : at + len(part)] = part
            at += len(parts[0])
        self._truncated = in_order.truncated
        return tf.nest.pack_sequence_as(self.signature, rows)

    def nothing(self) -> Any:
        """The same structure without a row."""
        return tf.nest.map_structure(
            lambda part: np.empty((0, *part.shape[1:]), part.dtype.as_numpy_dtype), self.signature
        )
