"""The tf.data graph: chunks from the lanes are shuffled, padded, normalised, masked and cut into batches.

No step of it works event by event.  A chunk stays packed; each step of some 2000 events is gathered from it,
already shuffled, straight into the rectangle.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import tensorflow as tf

from mlaas4hep_tf.buffers import keep_freed_memory
from mlaas4hep_tf.engine import default_workers
from mlaas4hep_tf.plan import Plan
from mlaas4hep_tf.stream import Stream
from mlaas4hep_tf.transforms.vector import Preprocessor

DataLayout = Literal["vector", "columns", "ragged"]

STEP_ENTRIES = 2048  # events padded at a time; smaller batches are cut from such a step
MASK_SUFFIX = "_mask"


@dataclass(frozen=True)
class PipelineOptions:
    """Form and order of the batches; see `RootDataset`."""

    batch_size: int
    chunk_size: int
    shuffle: bool
    seed: int
    layout: DataLayout
    mask: bool


class _Epochs:
    """Numbers the iterations over a dataset."""

    def __init__(self) -> None:
        self._next = itertools.count()
        self._lock = threading.Lock()

    def __call__(self) -> int:
        with self._lock:
            return next(self._next)


def build_pipeline(stream: Stream, preprocessor: Preprocessor, options: PipelineOptions, plan: Plan) -> tf.data.Dataset:
    """The whole graph from lanes to batches; nothing is read before it is iterated."""
    chunks = _chunks(stream, plan)
    batch = options.batch_size
    step = batch * max(1, -(-STEP_ENTRIES // batch))

    def chunk_to_steps(*chunk: Any) -> tf.data.Dataset:
        order, flat, groups, targets = chunk
        return tf.data.Dataset.range(0, tf.shape(order, tf.int64)[0], step).map(
            lambda start: _finish(preprocessor, options, flat, groups, targets, order[start : start + step]),
            num_parallel_calls=default_workers(),
            deterministic=True,
        )

    batches = chunks.flat_map(chunk_to_steps)
    if step != batch:
        batches = batches.flat_map(partial(_cut_step, batch))
    if plan.entries % batch == 0 and options.layout != "ragged":
        batches = batches.map(partial(_fix_rows, batch))
    batches = batches.apply(tf.data.experimental.assert_cardinality(plan.batches))
    return batches.prefetch(max(2, 4 * step // batch)).with_options(_settings())


def _settings() -> tf.data.Options:
    settings = tf.data.Options()
    settings.deterministic = True
    settings.threading.private_threadpool_size = 1 + default_workers()  # one waits for the readers
    settings.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    return settings


def _chunks(stream: Stream, plan: Plan) -> tf.data.Dataset:
    """Packed chunks: (order of the rows, flat, groups of (values with sentinel, starts, counts), targets)."""
    keep_freed_memory()
    epochs = _Epochs()

    def read() -> Iterator[tuple[Any, ...]]:
        for order, flat, *rest in stream.chunks(plan, epochs()):
            groups = tuple(tuple(rest[3 * g : 3 * g + 3]) for g in range(len(stream.layout.groups)))
            yield order, flat, groups, tuple(rest[3 * len(groups) :])

    return tf.data.Dataset.from_generator(read, output_signature=_signature(stream)).prefetch(1)


def _signature(stream: Stream) -> tuple[Any, ...]:
    def matrix(columns: int) -> tf.TensorSpec:
        return tf.TensorSpec((None, columns), tf.float32)

    rows = tf.TensorSpec((None,), tf.int32)
    groups = tuple((matrix(len(names)), rows, rows) for _, names in stream.layout.groups)
    return rows, matrix(len(stream.layout.flat)), groups, (tf.TensorSpec((None,), tf.float32),) * len(stream.targets)


def _finish(
    preprocessor: Preprocessor, options: PipelineOptions, flat: tf.Tensor, groups: Any, targets: Any, rows: tf.Tensor
) -> Any:
    """The rows of one step in the form that the user asked for."""
    flat = tf.gather(flat, rows)
    groups = [(values, tf.gather(starts, rows), tf.gather(counts, rows)) for values, starts, counts in groups]
    if options.layout == "ragged":
        x = preprocessor.ragged(flat, groups)
    else:
        x = _dense(preprocessor, options, preprocessor.from_packed(flat, groups))
    y = tuple(tf.gather(target, rows) for target in targets)
    return (x, *y) if y else x


def _dense(preprocessor: Preprocessor, options: PipelineOptions, raw: tf.Tensor) -> Any:
    vector, mask = preprocessor.finish(raw)
    if options.layout == "vector":
        return {"vector": vector, "mask": mask} if options.mask else vector
    columns = preprocessor.split(vector)
    if options.mask:
        columns |= {name + MASK_SUFFIX: part for name, part in preprocessor.split(mask).items()}
    return columns


def _element(parts: tuple[Any, ...]) -> Any:
    """tf.data passes the parts of a tuple apart, and anything else as one."""
    return parts if len(parts) > 1 else parts[0]


def _cut_step(batch: int, *parts: Any) -> tf.data.Dataset:
    step = _element(parts)
    first = tf.nest.flatten(step)[0]  # ragged tensors count as one leaf
    rows = first.nrows(tf.int64) if isinstance(first, tf.RaggedTensor) else tf.shape(first, tf.int64)[0]
    return tf.data.Dataset.range(0, rows, batch).map(
        lambda start: tf.nest.map_structure(lambda tensor: tensor[start : start + batch], step)
    )


def _fix_rows(batch: int, *parts: Any) -> Any:
    return tf.nest.map_structure(lambda tensor: tf.ensure_shape(tensor, [batch, *tensor.shape[1:]]), _element(parts))
