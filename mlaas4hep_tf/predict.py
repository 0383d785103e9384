"""`predict_files`: scores and identifiers of every event of some files, as a ROOT, CSV or Parquet file."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterator, Sequence
from functools import partial

import keras
import numpy as np

from mlaas4hep_tf.dataset import RootDataset
from mlaas4hep_tf.errors import BranchError, ConfigError, DataWarning
from mlaas4hep_tf.evaluation import FloatArray
from mlaas4hep_tf.io.branches import Selection
from mlaas4hep_tf.io.files import FileArgument, RootFile
from mlaas4hep_tf.io.formats import check_format, row_writer
from mlaas4hep_tf.io.read_options import DEFAULT_READ, ReadOptions
from mlaas4hep_tf.io.workers import WorkerPool
from mlaas4hep_tf.models import wants_mask
from mlaas4hep_tf.progress import progress_bar
from mlaas4hep_tf.specs import Specs
from mlaas4hep_tf.streaming.chunks import read_flat
from mlaas4hep_tf.streaming.open_files import inspect_files
from mlaas4hep_tf.streaming.plan import EntryRange, blocks
from mlaas4hep_tf.tasks import SCORE, Task
from mlaas4hep_tf.train import predict_batch
from mlaas4hep_tf.transforms.vector import Preprocessor, Trained, preprocessor_of

STEP_EVENTS = 4096  # scored at a time
WRITE_ENTRIES = 65_536  # rows of one basket of the output


def predict_files(
    model: keras.Model,
    files: FileArgument,
    trained: Preprocessor | Trained,
    out: str | os.PathLike[str],
    *,
    task: Task | None = None,
    read: ReadOptions = DEFAULT_READ,
    progress: bool = False,
) -> int:
    """Apply a model to every event of some files, which need not be those it was trained on.

    The output (of a ROOT file a tree with the name of the input's) has a row per event, in the order of files and
    entries: ``file`` (number of the input file), ``entry`` (in that file), the identifiers that the input has, and
    ``score``; of more than two classes ``score_<class>`` each (``score_0``, ``score_1`` ... without a task).

    Args:
        trained: what the model was trained with: the `RootDataset`, the `runs.Run`, or a `Preprocessor`.  `Specs`
            are not enough: they do not know the normalisation.
        out: the file to write; its ending says how: ``.root``, ``.csv`` or ``.parquet``.
        task: what the model tells; that of the `runs.Run` by default.
        read: how to read.  Every event gets a row, so nothing can be skipped.
        progress: show a progress bar on a terminal.

    Returns:
        The number of events.

    Raises:
        ModelError: specs alone.
        BranchError: an identifier with the name of a branch of the output.
        ConfigError: ``on_bad_file="skip"``, or an ending that says no format.
        MlaasError: files that lack a branch of the specs, or cannot be read.
    """
    check_format(out)
    if read.on_bad_file == "skip":
        raise ConfigError("prediction gives every event a row, so on_bad_file='skip' has no place there; take 'raise'")
    preprocessor = preprocessor_of(trained)
    _check_names(preprocessor.specs.identifiers)
    task = task or getattr(trained, "task", None)
    ds = _in_order(files, preprocessor, masked=wants_mask(model), read=read)
    scores = _Scores(predict_batch(model, x) for x in ds)
    with row_writer(out, ds.files[0].tree) as tree, progress_bar("predict", ds.entries, "events", progress) as advance:
        for block, identifiers in _identifiers(ds.files, ds.specs, WorkerPool(read)):
            tree.extend(_rows(block, identifiers, scores.take(len(block)), task))
            advance(len(block))
    if ds.truncated:
        cut = ", ".join(f"{count:,} {what}" for what, count in ds.truncated.items())
        warnings.warn(f"lists longer than the model's were cut: {cut}", DataWarning, stacklevel=2)
    return ds.entries


def _in_order(files: FileArgument, preprocessor: Preprocessor, *, masked: bool, read: ReadOptions) -> RootDataset:
    """Every event of any files, as the model takes it."""
    return RootDataset(
        files, preprocessor.specs.unbound(), batch_size=STEP_EVENTS, shuffle=False, normalize=preprocessor.normalize,
        mask=masked, layout="vector" if preprocessor.image is None else "image", image=preprocessor.image, read=read,
    )  # fmt: skip


def _check_names(identifiers: Sequence[str]) -> None:
    """Raise BranchError for an identifier with the name of a branch of the output."""
    met = [name for name in identifiers if name in ("file", "entry") or re.fullmatch(r"score(_.*)?", name)]
    if met:
        raise BranchError(
            f"predictions have branches file, entry and score beside the identifiers, of which {met[0]!r} is called so "
            "too: name other identifiers when scanning"
        )


def _rows(
    block: EntryRange, identifiers: dict[str, np.ndarray], scores: FloatArray, task: Task | None
) -> dict[str, np.ndarray]:
    """The branches of the output for one block of a file."""
    names = (
        task.columns if task else [SCORE] if scores.shape[1] == 1 else [f"{SCORE}_{i}" for i in range(scores.shape[1])]
    )
    return {
        "file": np.full(len(block), block.file, np.int32),
        "entry": np.arange(block.start, block.stop, dtype=np.int64),
        **identifiers,
        **{name: scores[:, i].astype(np.float32) for i, name in enumerate(names)},
    }


class _Scores:
    """A stream of batches from which any number of rows is taken."""

    def __init__(self, batches: Iterator[FloatArray]) -> None:
        self._batches = iter(batches)
        self._rest: FloatArray | None = None

    def take(self, rows: int) -> FloatArray:
        parts = [] if self._rest is None else [self._rest]
        while sum(map(len, parts)) < rows:
            parts.append(next(self._batches))
        joined = np.concatenate(parts)
        self._rest = joined[rows:]
        return joined[:rows]


def _identifiers(
    files: tuple[RootFile, ...], specs: Specs, worker_pool: WorkerPool
) -> Iterator[tuple[EntryRange, dict[str, np.ndarray]]]:
    wanted = [i for i in specs.identifiers if all(any(b.name == i for b in f.branches) for f in files)]
    opened = (
        inspect_files([f.source for f in files], Selection(tuple(wanted), (), ()), worker_pool) if wanted else files
    )
    names = tuple(i for i in wanted if all(b.kind == "flat" for f in opened for b in f.branches if b.name == i))
    tasks = [b for n, f in enumerate(opened) for b in blocks(n, f.num_entries, f.entry_offsets, WRITE_ENTRIES)]
    parts = ((opened[b.file].part(names, b.start, b.stop), b) for b in tasks)
    yield from zip(tasks, worker_pool.map(partial(read_flat, names), parts), strict=True)
