"""The tf.data graph: chunks from the file groups are shuffled, padded, normalised, masked and cut into batches.

No step of it works event by event.  A chunk stays packed; each step of some 2000 events is gathered from it,
already shuffled, straight into the rectangle.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, Literal

import numpy as np
import tensorflow as tf

from mlaas4hep_tf.io.buffers import keep_freed_memory
from mlaas4hep_tf.io.workers import default_workers
from mlaas4hep_tf.streaming.chunks import Ahead, Room, Stream
from mlaas4hep_tf.streaming.data_options import data_options
from mlaas4hep_tf.streaming.finished import Finished
from mlaas4hep_tf.streaming.plan import Plan
from mlaas4hep_tf.streaming.position import Cursor
from mlaas4hep_tf.transforms.augment import Augmenter
from mlaas4hep_tf.transforms.augmentation import Augmentation
from mlaas4hep_tf.transforms.vector import Preprocessor

DataLayout = Literal["vector", "columns", "objects", "ragged", "image"]

COMPILED_ENTRIES = (
    50_000  # in an epoch from which the step is compiled: that takes as long as it saves in 300 000 events
)
STEP_ENTRIES = 1024  # events padded at a time; smaller batches are cut from such a step
STEP_BYTES = 2 << 20  # of narrow events more are padded at a time, up to so many bytes, as each step has its price
MOST_STEP_ENTRIES = 8192
PREFETCH_ENTRIES = 8192
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PipelineOptions:
    """Form and order of the batches; see `RootDataset`.  `told` are the names of labels and targets, if several."""

    batch_size: int
    chunk_size: int
    shuffle: bool
    seed: int
    layout: DataLayout
    mask: bool
    shares: tuple[float, ...] | None = None
    drop_remainder: bool = False
    augmentation: Augmentation | None = None
    told: tuple[str, ...] = ()

    def element(self, x: Any, targets: Sequence[Any]) -> Any:
        """An element of the dataset: features alone, or with labels or a dict of what is told, and weights if any."""
        if len(self.told) < 2:
            return (x, *targets) if targets else x
        return x, dict(zip(self.told, targets, strict=False)), *targets[len(self.told) :]


# nor anything that it calls: to look for Python's loops takes half a second
@tf.autograph.experimental.do_not_convert  # type: ignore[untyped-decorator]  # tensorflow has no types
def build_pipeline(
    stream: Stream, preprocessor: Preprocessor, options: PipelineOptions, plan: Plan, cursor: Cursor,
    ahead: Ahead, finished: Finished | None,
) -> tf.data.Dataset:  # fmt: skip
    """The whole graph from file groups to batches; nothing is read before it is iterated.

    Each iteration begins where `cursor` says.  How many batches it has is known, unless some may be lost or the first
    iteration is the rest of an epoch.

    The graph is kept small, above all the function inside `flat_map`: TensorFlow optimises each function anew for
    every epoch, and those inside such a function again for every chunk.
    """
    batch = options.batch_size
    step = _step_entries(preprocessor, options, plan)
    finish, room = _step(preprocessor, options, plan, step), _room(preprocessor, options, plan)
    if finished is not None:  # nothing is traced or compiled twice
        finish, room = finished.finish, finished.room
    batches = _steps(stream, plan, cursor, ahead, step, room, finished).map(
        partial(_take, finish),
        num_parallel_calls=default_workers(),
        deterministic=True,
    )
    if step != batch:
        batches = batches.rebatch(batch)
    whole = plan.entries % batch == 0
    if options.drop_remainder and not whole:
        batches, whole = batches.take(plan.batches), True
    if stream.skipped is None and whole and options.layout != "ragged":
        batches = batches.map(partial(_fix_rows, batch))
    batches = batches.prefetch(max(2, PREFETCH_ENTRIES // batch))
    known = plan.batches if stream.skipped is None and cursor.next.batch == 0 else None
    return _with_end(batches, cursor, known).with_options(data_options())


def make_finished(
    stream: Stream, preprocessor: Preprocessor, options: PipelineOptions, plan: Plan, cursor: Cursor
) -> Finished | None:
    """Where finished rows are kept once they are there; None if nothing is kept, or rows differ in shape or by epoch.

    The bits of a logarithm depend on where in a tensor it stands, as the last few are not worked out side by side.
    """
    same = options.layout in ("vector", "image") and options.augmentation is None
    if stream.kept is None or not same or preprocessor.scaling.has_logarithms:
        return None
    x: Any = preprocessor.input_specs(mask=options.mask)
    if not options.mask:
        (x,) = x.values()
    targets = [tf.TensorSpec((None,), tf.as_dtype(target.dtype)) for target in stream.targets]
    step = _step_entries(preprocessor, options, plan)
    return Finished(
        stream, plan, cursor, options.element(x, targets), _step(preprocessor, options, plan, step), step,
        _room(preprocessor, options, plan),
    )  # fmt: skip


def _step_entries(preprocessor: Preprocessor, options: PipelineOptions, plan: Plan) -> int:
    """Rows that are finished at a time: whole batches, and of ragged ones, which are slow to cut, a single one.

    More than `STEP_ENTRIES` are so many that a chunk is cut evenly.
    """
    batch, most = options.batch_size, STEP_ENTRIES
    if options.layout == "ragged":
        return batch
    if options.layout != "image":
        most = min(MOST_STEP_ENTRIES, max(most, STEP_BYTES // (4 * preprocessor.width)))
    if most < 2 * STEP_ENTRIES:
        return batch * -(-STEP_ENTRIES // batch)
    return batch * -(-plan.chunk_size // (batch * -(-plan.chunk_size // most)))


def _with_end(batches: tf.data.Dataset, cursor: Cursor, known: int | None) -> tf.data.Dataset:
    """The same batches, with which the cursor gets to know when all have been taken: with the last one, as Keras asks
    for no more where it knows how many there are, or behind it.
    """
    weak = weakref.ref(cursor)

    def end() -> np.int64:
        if (alive := weak()) is not None:
            alive.end()
        return np.int64(0)

    def nothing(_: tf.Tensor) -> tf.data.Dataset:
        with tf.control_dependencies([tf.numpy_function(end, (), tf.int64, stateful=True)]):
            return batches.take(tf.constant(0, tf.int64))

    def ended(*parts: Any) -> Any:
        with tf.control_dependencies([tf.numpy_function(end, (), tf.int64, stateful=True)]):
            return tf.nest.map_structure(tf.identity, _element(parts))

    if known == 1:  # a mark before the only batch would come before the epoch has begun
        return batches.map(ended).apply(tf.data.experimental.assert_cardinality(known))
    mark = tf.data.Dataset.range(1).flat_map(nothing)
    if known is None:
        return batches.concatenate(mark)
    which = [tf.data.Dataset.from_tensors(tf.constant(n, tf.int64)) for n in (0, 1)]
    turns = which[0].repeat(known - 1).concatenate(which[1]).concatenate(which[0])
    marked = tf.data.Dataset.choose_from_datasets([batches, mark], turns, stop_on_empty_dataset=False)
    return marked.apply(tf.data.experimental.assert_cardinality(known))


def _steps(
    stream: Stream, plan: Plan, cursor: Cursor, ahead: Ahead, step: int, room: Room | None, finished: Finished | None
) -> tf.data.Dataset:
    """Steps (rows, finished, turn, flat, bounds, groups, targets): the rows of a step, and what they lie in.

    That is a whole packed chunk, or the finished rows of an epoch.  `turn` is the numbers of epoch and chunk.

    TensorFlow never forgets a Python function that a graph has called, so the one here holds all of these weakly; the
    RootDataset holds them, and every dataset and iterator made from it holds the RootDataset.
    """
    weak_stream, weak_plan, weak_cursor = weakref.ref(stream), weakref.ref(plan), weakref.ref(cursor)
    weak_ahead = weakref.ref(ahead)
    weak_finished = weakref.ref(finished) if finished is not None else None

    def read() -> Iterator[tuple[Any, ...]]:
        alive, its_plan, its_cursor, its_ahead = weak_stream(), weak_plan(), weak_cursor(), weak_ahead()
        if alive is None or its_plan is None or its_cursor is None or its_ahead is None:
            raise ReferenceError("the RootDataset that this iterator reads from is gone; keep a reference to it")
        keep_freed_memory()  # here, as TensorFlow has glibc map each batch anew when it makes a generator's dataset
        position, ready = its_cursor.begin(), weak_finished() if weak_finished is not None else None
        rows = ready.rows(position) if ready is not None else None
        if rows is not None:
            yield its_plan.order(position.epoch), rows, *nothing
            return
        no_rows = ready.nothing() if ready is not None else ()
        first = position.batch * its_plan.batch_size // its_plan.chunk_size
        for number, (order, flat, bounds, *rest) in enumerate(alive.chunks(its_plan, position, room, its_ahead), first):
            turn = np.array([position.epoch, number], np.int32)
            yield order, no_rows, turn, flat, bounds, tuple(rest[: len(groups)]), tuple(rest[len(groups) :])

    def cut(order: tf.Tensor, *chunk: Any) -> tf.data.Dataset:
        starts = tf.data.Dataset.range(0, tf.shape(order, tf.int64)[0], step)
        return starts.map(lambda start: (order[start : start + step], *chunk))

    def matrix(columns: int, dtype: tf.DType = tf.float32) -> tf.TensorSpec:
        return tf.TensorSpec((None, columns), dtype)

    groups = stream.layout.groups
    packed = (
        tf.TensorSpec((2,), tf.int32), matrix(len(stream.layout.flat)),
        matrix(2 * len(groups), tf.int32), tuple(matrix(len(names)) for _, names in groups),
        tuple(tf.TensorSpec((None,), tf.as_dtype(target.dtype)) for target in stream.targets),
    )  # fmt: skip
    nothing = tf.nest.map_structure(
        lambda part: np.zeros([size or 0 for size in part.shape], part.dtype.as_numpy_dtype), packed
    )
    signature = (tf.TensorSpec((None,), tf.int32), () if finished is None else finished.signature, *packed)
    return tf.data.Dataset.from_generator(read, output_signature=signature).prefetch(1).flat_map(cut)


def _compiled(preprocessor: Preprocessor, options: PipelineOptions, plan: Plan) -> bool:
    """Whether XLA compiles the step.

    Ragged tensors have no shape to compile for; in images sums would change, and so would logarithms, which
    augmentation takes too.
    """
    same = options.layout in ("vector", "columns", "objects") and not preprocessor.scaling.has_logarithms
    return same and options.augmentation is None and plan.entries >= COMPILED_ENTRIES and compiles()


@cache
def compiles() -> bool:
    """Whether TensorFlow has XLA for this machine, tried once."""
    try:
        tf.function(lambda x: x + 1, jit_compile=True, autograph=False)(tf.zeros(1))
    except (tf.errors.OpError, RuntimeError) as error:
        _log.info("XLA compiles nothing here, so steps are not compiled: %s", error)
        return False
    return True


def _room(preprocessor: Preprocessor, options: PipelineOptions, plan: Plan) -> Room | None:
    return Room(min(plan.entries, plan.chunk_size)) if _compiled(preprocessor, options, plan) else None


def _step(preprocessor: Preprocessor, options: PipelineOptions, plan: Plan, step: int) -> Callable[..., Any]:
    """The function that makes batches of the rows of a step; compiled it does the same, bit for bit, in half the time.

    It is compiled for `step` rows, so a shorter step is filled up with row 0, which is cut off again.
    """
    if not _compiled(preprocessor, options, plan):
        return partial(_finish, preprocessor, options, ())
    compiled = tf.function(partial(_finish, preprocessor, options), jit_compile=True, autograph=False)
    offset, scale = (tf.constant(numbers) for numbers in preprocessor.constants)

    def finish(rows: tf.Tensor, *chunk: Any) -> Any:
        if rows.shape[0] == step:
            return compiled((offset, scale), rows, *chunk)
        count = tf.shape(rows)[0]
        whole = tf.ensure_shape(tf.pad(rows, [[0, step - count]]), [step])
        return tf.nest.map_structure(lambda part: part[:count], compiled((offset, scale), whole, *chunk))

    return finish


def _take(finish: Callable[..., Any], rows: tf.Tensor, finished: Any, *chunk: Any) -> Any:
    """The rows of a step: those that are finished already where these are there, or else they are finished now."""
    ready = tf.nest.flatten(finished)
    if not ready:
        return finish(rows, *chunk)
    return tf.cond(
        tf.shape(ready[0])[0] > 0,
        lambda: tf.nest.map_structure(lambda part: tf.gather(part, rows), finished),
        lambda: finish(rows, *chunk),
    )


def _finish(
    preprocessor: Preprocessor, options: PipelineOptions, constants: tuple[tf.Tensor, ...],
    rows: tf.Tensor, turn: tf.Tensor, flat: tf.Tensor, bounds: tf.Tensor, groups: tuple[tf.Tensor, ...],
    targets: tuple[tf.Tensor, ...],
) -> Any:  # fmt: skip
    """The rows of one step in the form that the user asked for."""
    flat = tf.gather(flat, rows)
    starts_and_counts = tf.unstack(tf.gather(bounds, rows), axis=1)
    packed = [(g, *starts_and_counts[2 * n : 2 * n + 2]) for n, g in enumerate(groups)]
    if options.layout == "ragged":
        x = preprocessor.ragged(flat, packed)
    else:
        raw = preprocessor.from_packed(flat, packed, compiled=bool(constants))
        if options.augmentation is not None:
            raw = Augmenter(options.augmentation, preprocessor, options.seed)(raw, turn, rows)
        x = _dense(preprocessor, options, constants, raw)
    return options.element(x, [tf.gather(target, rows) for target in targets])


def _dense(
    preprocessor: Preprocessor, options: PipelineOptions, constants: tuple[tf.Tensor, ...], raw: tf.Tensor
) -> Any:
    if options.layout == "image":
        return preprocessor.model_input(raw, mask=False)
    return preprocessor.shaped(*preprocessor.finish(raw, *constants), mask=options.mask)


def _element(parts: tuple[Any, ...]) -> Any:
    """The element again: tf.data passes a tuple to a function as several arguments, and anything else as one."""
    return parts if len(parts) > 1 else parts[0]


def _fix_rows(batch: int, *parts: Any) -> Any:
    return tf.nest.map_structure(lambda tensor: tf.ensure_shape(tensor, [batch, *tensor.shape[1:]]), _element(parts))
