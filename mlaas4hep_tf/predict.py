"""`predict_files`: scores and identifiers of every event of some files, as a ROOT file."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from functools import partial

import keras
import numpy as np

from mlaas4hep_tf.dataset import RootDataset
from mlaas4hep_tf.errors import DataWarning
from mlaas4hep_tf.io.branches import Selection
from mlaas4hep_tf.io.cache import CacheFolder, as_cache
from mlaas4hep_tf.io.files import FileArgument, RootFile
from mlaas4hep_tf.io.policy import DEFAULT_POLICY, ReadPolicy
from mlaas4hep_tf.io.workers import WorkerPool, default_workers
from mlaas4hep_tf.models import wants_mask
from mlaas4hep_tf.progress import progress_bar
from mlaas4hep_tf.specs import Specs
from mlaas4hep_tf.streaming.chunks import read_flat
from mlaas4hep_tf.streaming.open_files import inspect_files
from mlaas4hep_tf.streaming.plan import EntryRange, blocks
from mlaas4hep_tf.train import FloatArray, predict_batch
from mlaas4hep_tf.transforms.image import EtaPhiImage
from mlaas4hep_tf.transforms.normalize import Normalize

BATCH = 4096
WRITE_ENTRIES = 65_536  # rows of one basket of the output


def predict_files(
    model: keras.Model,
    files: FileArgument,
    specs: Specs,
    out: str | os.PathLike[str],
    *,
    normalize: Normalize | None = "minmax",
    image: EtaPhiImage | None = None,
    workers: int | None = None,
    progress: bool = False,
    policy: ReadPolicy = DEFAULT_POLICY,
    cache: CacheFolder = None,
) -> int:
    """Apply a model to every event of some files, which need not be those it was trained on.

    The tree has the name of the input's and a row per event, in the order of files and entries: ``file``
    (number of the input file), ``entry`` (in that file), the identifiers that the input has, and ``score``
    (``score_0``, ``score_1`` ... for a model with several outputs).

    Args:
        image: of a model that takes ``layout="image"``.

    Returns:
        The number of events.

    Raises:
        MlaasError: files that lack a branch of the specs, or cannot be read.
    """
    from mlaas4hep_tf.io.writer import tree_writer  # here: uproot is needed for writing only

    ds = RootDataset(
        files, specs.unbound(), batch_size=BATCH, shuffle=False, normalize=normalize, mask=wants_mask(model),
        layout="vector" if image is None else "image", image=image, workers=workers, policy=policy, cache=cache,
    )  # fmt: skip
    worker_pool = WorkerPool(workers or default_workers(), None, policy, as_cache(cache))
    scores = _Scores(predict_batch(model, x) for x in ds)
    with tree_writer(out, ds.files[0].tree) as tree, progress_bar("predict", ds.entries, "events", progress) as advance:
        for block, identifiers in _identifiers(ds.files, specs, worker_pool):
            found = scores.take(len(block))
            names = ["score"] if found.shape[1] == 1 else [f"score_{i}" for i in range(found.shape[1])]
            rows: dict[str, np.ndarray] = {
                "file": np.full(len(block), block.file, np.int32),
                "entry": np.arange(block.start, block.stop, dtype=np.int64),
                **identifiers,
                **{name: found[:, i].astype(np.float32) for i, name in enumerate(names)},
            }
            tree.extend(rows)
            advance(len(block))
    if ds.truncated:
        cut = ", ".join(f"{count:,} {what}" for what, count in ds.truncated.items())
        warnings.warn(f"lists longer than the model's were cut: {cut}", DataWarning, stacklevel=2)
    return ds.entries


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
