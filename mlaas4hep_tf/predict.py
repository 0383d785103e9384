"""`predict_files`: scores and identifiers of every event of some files, as a ROOT, CSV or Parquet file."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterator, Sequence
from functools import partial
from typing import cast

import keras
import numpy as np

from mlaas4hep_tf.analysis.draws import FOLD, Draw
from mlaas4hep_tf.analysis.steps import Steps
from mlaas4hep_tf.dataset import RootDataset
from mlaas4hep_tf.errors import BranchError, ConfigError, DataWarning, near_misses
from mlaas4hep_tf.evaluation import FloatArray
from mlaas4hep_tf.folded import Folded, chosen
from mlaas4hep_tf.io.branches import Selection, describe
from mlaas4hep_tf.io.files import FileArgument, RootFile
from mlaas4hep_tf.io.formats import check_format, row_writer
from mlaas4hep_tf.io.friends import Friends
from mlaas4hep_tf.io.read_options import DEFAULT_READ, ReadOptions
from mlaas4hep_tf.io.workers import WorkerPool
from mlaas4hep_tf.models import wants_mask
from mlaas4hep_tf.progress import progress_bar
from mlaas4hep_tf.specs import Specs
from mlaas4hep_tf.streaming.chunks import read_others
from mlaas4hep_tf.streaming.open_files import inspect_files
from mlaas4hep_tf.streaming.pipeline import DataLayout
from mlaas4hep_tf.streaming.ranges import EntryRange, blocks
from mlaas4hep_tf.tasks import SCORE, Task
from mlaas4hep_tf.train import predict_batch
from mlaas4hep_tf.transforms.vector import Preprocessor, Trained, preprocessor_of

STEP_EVENTS = 4096  # scored at a time
WRITE_ENTRIES = 65_536  # rows of one basket of the output


def predict_files(
    model: keras.Model | Folded,
    files: FileArgument,
    trained: Preprocessor | Trained,
    out: str | os.PathLike[str],
    *,
    friends: Friends | None = None,
    task: Task | None = None,
    observe: Sequence[str] = (),
    first_file: int = 0,
    read: ReadOptions = DEFAULT_READ,
    progress: bool = False,
) -> int:
    """Apply a model to every event of some files, which need not be those it was trained on.

    The output (of a ROOT file a tree with the name of the input's) has a row per event, in the order of files and
    entries: ``file`` (number of the input file), ``entry`` (in that file), the identifiers that the input has, and
    ``score``; of more than two classes ``score_<class>`` each (``score_0``, ``score_1`` ... without a task); of a
    number ``predicted_<target>``; where the specs have a selection also ``selected``, which the exported model gives as
    well; of models of folds also ``fold``, whose model gave the score: the one that has not seen the event.

    Args:
        trained: what the model was trained with: the `RootDataset`, the `runs.Run`, or a `Preprocessor`.  `Specs`
            are not enough: they do not know the normalisation.
        out: the file to write; its ending says how: ``.root``, ``.csv`` or ``.parquet``.
        friends: name -> files (see `scan`), where the specs have some and these files others than were scanned.
        task: what the model tells; that of the `runs.Run` by default.
        observe: branches with a number per event, of the files or derived, that go to the output as well.
        first_file: the number that the first of the files has in the output.
        read: how to read.  Every event gets a row, so nothing can be skipped.
        progress: show a progress bar on a terminal.

    Returns:
        The number of events.

    Raises:
        ModelError: specs alone.
        BranchError: an identifier with the name of a branch of the output, or nothing to observe of that name.
        ConfigError: ``on_bad_file="skip"``, or an ending that says no format.
        MlaasError: files that lack a branch of the specs, or cannot be read.
    """
    check_format(out)
    if read.on_bad_file == "skip":
        raise ConfigError("prediction gives every event a row, so on_bad_file='skip' has no place there; take 'raise'")
    preprocessor = preprocessor_of(trained)
    _check_names((*preprocessor.specs.identifiers, *observe))
    task = task or getattr(trained, "task", None)
    folded = model if isinstance(model, Folded) else None
    masked = wants_mask(folded.first if folded else model, preprocessor.form)
    ds = _in_order(files, friends, preprocessor, masked=masked, read=read)
    outputs = (*task.outputs,) if task else ()
    scores = _Scores(folded.predict_batch(x, outputs) if folded else predict_batch(model, x, outputs) for x in ds)
    with row_writer(out, ds.files[0].tree) as tree, progress_bar("predict", ds.entries, "events", progress) as advance:
        draw = folded.draw if folded else None
        for block, beside in _beside(ds.files, preprocessor.specs, observe, draw, WorkerPool(read)):
            found = scores.take(len(block))
            found = chosen(found, beside[FOLD]) if folded else found
            tree.extend(_rows(block, first_file, beside, found, task))
            advance(len(block))
    if ds.truncated:
        cut = ", ".join(f"{count:,} {what}" for what, count in ds.truncated.items())
        warnings.warn(f"lists longer than the model's were cut: {cut}", DataWarning, stacklevel=2)
    return ds.entries


def _in_order(
    files: FileArgument, friends: Friends | None, preprocessor: Preprocessor, *, masked: bool, read: ReadOptions
) -> RootDataset:
    """Every event of any files, as the model takes it, whether it is selected or not."""
    image = preprocessor.image
    return RootDataset(
        files, preprocessor.specs.unbound().all_events(), friends=friends, batch_size=STEP_EVENTS, shuffle=False,
        normalize=preprocessor.normalize, mask=masked, layout=_layout(preprocessor), image=image,
        read=read, keep=False,
    )  # fmt: skip


def _layout(preprocessor: Preprocessor) -> DataLayout:
    return cast("DataLayout", preprocessor.form if preprocessor.image is None else "image")


def _check_names(identifiers: Sequence[str]) -> None:
    """Raise BranchError for an identifier, or what is observed, with the name of a branch of the output."""
    own = ("file", "entry", "selected", FOLD)
    met = [name for name in identifiers if name in own or re.fullmatch(r"score(_.*)?|predicted_.*", name)]
    if met:
        raise BranchError(
            f"predictions have branches {', '.join(own)} and score beside identifiers and what is observed, of which "
            f"{met[0]!r} is called so too: name other identifiers when scanning, or do not observe it"
        )


def _rows(
    block: EntryRange, first_file: int, beside: dict[str, np.ndarray], scores: FloatArray, task: Task | None
) -> dict[str, np.ndarray]:
    """The branches of the output for one block of a file."""
    names = (
        task.columns if task else [SCORE] if scores.shape[1] == 1 else [f"{SCORE}_{i}" for i in range(scores.shape[1])]
    )
    return {
        "file": np.full(len(block), first_file + block.file, np.int32),
        "entry": np.arange(block.start, block.stop, dtype=np.int64),
        **beside,
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


def _beside(
    files: Sequence[RootFile], specs: Specs, observe: Sequence[str], draw: Draw | None, worker_pool: WorkerPool
) -> Iterator[tuple[EntryRange, dict[str, np.ndarray]]]:
    """Identifiers of events, what is observed, whether each is selected and its fold, block by block."""
    known = [{b.name for b in file.branches} for file in files]
    identifiers = [name for name in specs.identifiers if all(name in own for own in known)]
    steps = specs.steps_beside(observe)
    drawn = [name for name in draw.names if name in known[0]] if draw is not None else []
    also = tuple(dict.fromkeys([*identifiers, *steps.reads(observe), *drawn]))
    opened = inspect_files([f.source for f in files], Selection(also, (), ()), worker_pool) if also else files
    for name in observe:
        _check_observed(name, opened, steps)
    flat = [i for i in identifiers if all(b.kind == "flat" for f in opened for b in f.branches if b.name == i)]
    names = tuple(dict.fromkeys([*flat, *observe]))
    tasks = [b for n, f in enumerate(opened) for b in blocks(n, f.num_entries, f.entry_offsets, WRITE_ENTRIES)]
    reads = [*steps.reads(names), *drawn]
    parts = ((opened[b.file].part(reads, b.start, b.stop), b.start, b.stop) for b in tasks)
    yield from zip(tasks, worker_pool.map(partial(read_others, names, steps, draw), parts), strict=True)


def _check_observed(name: str, files: Sequence[RootFile], steps: Steps) -> None:
    """Raise BranchError unless there is a number per event of this name."""
    derived = {info.name: info for info in steps.defined}
    for file in files:
        info = derived.get(name) or next((b for b in file.branches if b.name == name), None)
        if name in steps.counters or (info is not None and info.kind == "flat"):
            continue
        known = [*derived, *(b.name for b in file.branches)]
        what = near_misses(name, known) if info is None else f", but {describe(info)}"
        raise BranchError(
            f"what is observed is a number per event: there is no such branch {name!r}{what} in {file.where}"
        )
