"""`RootDataset`: opens the files, plans the reading and builds the pipeline."""

from __future__ import annotations

import logging
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import tensorflow as tf

from mlaas4hep_tf import __version__
from mlaas4hep_tf.analysis.draws import Draw, Drawn
from mlaas4hep_tf.cross_sections import CrossSections
from mlaas4hep_tf.drawing import Folds, HoldOut, counted_parts, joined, opened_for, steps_for
from mlaas4hep_tf.errors import DataWarning, LabelError, PlanError, shorten
from mlaas4hep_tf.files_table import FilesTable
from mlaas4hep_tf.htmltable import table
from mlaas4hep_tf.io.branches import Layout, Selection
from mlaas4hep_tf.io.cache import as_cache
from mlaas4hep_tf.io.files import FileArgument, RootFile, expand
from mlaas4hep_tf.io.friends import Friends
from mlaas4hep_tf.io.read_options import DEFAULT_READ, ReadOptions
from mlaas4hep_tf.io.workers import WorkerPool
from mlaas4hep_tf.labelling import Told
from mlaas4hep_tf.scanned_files import entries_of, scanned, sources_in
from mlaas4hep_tf.scanner import passing_events, scan_distributions, scan_targets
from mlaas4hep_tf.specs import Specs
from mlaas4hep_tf.streaming.chunks import Ahead, Stream
from mlaas4hep_tf.streaming.defaults import BATCH_SIZE, CHUNK_SIZE
from mlaas4hep_tf.streaming.forks import check_process
from mlaas4hep_tf.streaming.iterators import iterator
from mlaas4hep_tf.streaming.kept import Keep, Kept, check_keep, make_kept
from mlaas4hep_tf.streaming.open_files import befriended, inspect_files, listed, tell_idle_replicas
from mlaas4hep_tf.streaming.parts import Parts, WholeFiles, part_of, split_sizes
from mlaas4hep_tf.streaming.permuted import Permuted
from mlaas4hep_tf.streaming.pipeline import DataLayout, PipelineOptions, build_pipeline, make_finished
from mlaas4hep_tf.streaming.plan import Plan, make_plan
from mlaas4hep_tf.streaming.position import BEGINNING, Cursor, Position, describe_order, make_state, read_state
from mlaas4hep_tf.streaming.skipped import Skipped, account
from mlaas4hep_tf.streaming.targets import LabelDtype, Labels, PerFile, Target, check_law, label_of, resolve_target
from mlaas4hep_tf.tasks import class_names, numbered
from mlaas4hep_tf.transforms.augmentation import Augmentation
from mlaas4hep_tf.transforms.image_axes import Image
from mlaas4hep_tf.transforms.normalize import Normalize, lacking_distribution
from mlaas4hep_tf.transforms.vector import MASK_SUFFIX, Preprocessor

# Keras says it of every tf.data.Dataset; the seed of a RootDataset shuffles it
warnings.filterwarnings("ignore", "`shuffle=True` was passed, but will be ignored .* tf.data.Dataset", UserWarning)

_log = logging.getLogger(__name__)

Mixing = Literal["proportional", "equal"] | Mapping[str, float] | Sequence[float]


def _check_form(layout: DataLayout, mask: bool, image: Image | None, specs: Specs) -> None:
    """Raise PlanError for a form of the elements that there is not."""
    names = {b.name for b in specs.branches}
    masks = sorted(name for name in names if name + MASK_SUFFIX in names) if mask and layout == "columns" else []
    if masks:
        raise PlanError(
            f"layout='columns' with a mask has {masks[0] + MASK_SUFFIX!r} for the mask of {masks[0]!r}, but there is a "
            "branch of that name too: exclude one of the two when scanning, or take mask=False"
        )
    if layout not in get_args(DataLayout):
        raise PlanError(f"layout must be one of {', '.join(map(repr, get_args(DataLayout)))}, not {layout!r}")
    if (layout == "image") != (image is not None):
        raise PlanError("layout='image' and image=Image(...) belong together: give both or neither")
    if layout == "image" and mask:
        raise PlanError("an image's first channel is its mask: take mask=False")
    if layout == "objects" and mask:
        raise PlanError("layout='objects' has a mask for each group: take mask=False")
    if layout == "ragged" and mask:
        raise PlanError("layout='ragged' has no padding to mask; take mask=False, or layout='columns'")


def _check_remainder(plan: Plan, skipped: Skipped | None) -> None:
    """Raise PlanError where whole batches are wanted and cannot be."""
    if plan.drop_remainder and skipped is not None:
        raise PlanError(
            "drop_remainder and on_bad_file='skip' exclude each other: how many batches are whole is not known"
        )
    if not plan.batches:
        raise PlanError(
            f"{plan.entries} events fill no batch of {plan.batch_size}: take a smaller one, or keep the remainder"
        )


def _open(
    files: FileArgument | FilesTable, friends: Friends | None, specs: Specs, targets: tuple[str, ...],
    worker_pool: WorkerPool, skipped: Skipped | None,
) -> Sequence[RootFile]:  # fmt: skip
    """The files with their friends, for the features and the branches of labels and weights.

    Those that were scanned are not opened; others are, and held to the specs.
    """
    wanted = Selection(tuple(dict.fromkeys((*(info.name for info in specs.read_infos), *targets))), (), ())
    known = specs.bound and not friends and skipped is None  # what is lost is told before the first epoch
    if files is specs.files and known and not specs.friends and (found := scanned(specs.files, None, wanted)):
        return found
    named = sources_in(files) if isinstance(files, FilesTable) else expand(files, specs.tree or None)
    given = specs.with_friends(befriended(listed(named, worker_pool), friends, specs.identifiers, worker_pool))
    if known and (found := scanned(specs.files, given, wanted)):
        tell_idle_replicas(given, worker_pool.read.policy)
        return found
    events = {f.url: f.events for f in specs.files} if skipped is not None else {}
    opened = inspect_files(given, wanted, worker_pool, skipped=skipped, known=events)
    specs.resolve(opened[0]).check(opened)
    return opened


def _with_targets(
    specs: Specs, names: Sequence[str], files: Sequence[RootFile], worker_pool: WorkerPool, skipped: Skipped | None
) -> Specs:
    """The specs with what there is to know of these label and weight branches, which is read where they lack it."""
    lacking = [name for name in dict.fromkeys(names) if name not in {target.name for target in specs.targets}]
    if not lacking:
        return specs
    warnings.warn(
        f"the specs do not know {shorten(lacking)}: read now for this alone; scan(..., labels=, weights=) saves it",
        DataWarning, stacklevel=3,
    )  # fmt: skip
    found = scan_targets(files, lacking, worker_pool, skipped)
    return replace(specs, targets=tuple(sorted((*specs.targets, *found), key=lambda target: target.name)))


def _with_distributions(
    specs: Specs, normalize: Normalize | None, files: Sequence[RootFile], worker_pool: WorkerPool,
    skipped: Skipped | None,
) -> Specs:  # fmt: skip
    """The specs with the distributions that the normalisation needs, which are read where they lack them."""
    lacking = lacking_distribution(specs, normalize)
    if not lacking or not specs.bound:  # constants are of the data that were scanned, and never of others
        return specs
    warnings.warn(
        f"the specs do not know the distribution of {shorten(lacking)}, which normalize={normalize!r} needs: read now "
        "for this alone; scan(..., distributions=) saves it",
        DataWarning, stacklevel=3,
    )  # fmt: skip
    return scan_distributions(files, specs, lacking, worker_pool, skipped)


def _packed_as(specs: Specs, layout: Layout, read: ReadOptions) -> str:
    """The name of the events under which packed blocks are kept in the cache; empty where all need over half of it.

    Of blocks that are read in turn and do not fit, none would be there when it is needed again.
    """
    cache = as_cache(read.cache)
    if cache is None:
        return ""
    values = {branch.name: branch.values for branch in specs.branches}
    numbers = sum(values.get(name, specs.entries) for name in layout.names) + specs.entries * len(layout.groups)
    if 4 * numbers > cache.limit_bytes // 2:
        _log.info("packed events take %d MB, which half of the cache does not hold: they are not kept", numbers * 4e-6)
        return ""
    return f"{__version__} {specs.fingerprint}"


def _fresh(kept: Kept | None) -> Kept | None:
    """Room for events that are others than those kept so far."""
    return None if kept is None else kept.fresh()


# by the constructor of tf.data.Dataset; no public names (docs/architecture.md, 14)
_SET_BY_TENSORFLOW = ("_variant_tensor_attr", "_graph_attr", "_options_attr")


class Fold(NamedTuple):
    """The three parts of the data that one of several models sees."""

    train: RootDataset
    validation: RootDataset
    test: RootDataset


class RootDataset(tf.data.Dataset):  # type: ignore[misc]  # tensorflow has no type information
    """Events of ROOT files as a `tf.data.Dataset` of batches, ready for `model.fit` (pass 2 of the paper).

    Elements are `x`, `(x, y)` or `(x, y, weight)`, with `y` [B] (see `label_dtype`) and `weight` float32 [B].  Where
    several things are told, `y` is a dict by the outputs of a model that tells them: ``score`` for the labels and
    ``value_<target>`` for each of `targets`.  What `x` is, `layout` says:

    - ``layout="vector"``: x is float32 [B, D] (columns `specs.vector_names`), or with ``mask=True`` a dict
      ``{"vector": [B, D], "mask": bool [B, D]}``, True = real value;
    - ``layout="columns"``: a dict, flat branches [B], jagged ones [B, L], with ``mask=True`` also
      ``<branch>_mask``; normalised, counts too, unless `normalize` leaves them in their unit;
    - ``layout="objects"``: a dict of groups ``{"Jet": [B, L, F], "Jet_mask": bool [B, L], "flat": [B, F]}``, branches
      in the order of the specs, groups named as in expressions;
    - ``layout="ragged"``: a dict, flat branches [B], jagged ones `tf.RaggedTensor` [B, None];
    - ``layout="image"``: x is float32 [B, bins of each axis ..., channels] (`transforms.image.Image`).

    Every event comes exactly once per epoch.  Each iteration over the dataset is an epoch with an order of its own
    (one that is not ended uses none up; `set_epoch` chooses one), which depends on the seed and not on the number of
    workers.  Files are mixed within every chunk
    in proportion to their events (paper, section 3.3; `mixed` has other laws, and says what they do to
    exactly once); rows are shuffled within the chunk.  With ``shuffle=False`` events come in the order of
    files and entries, unmixed.

    Memory holds what is kept (see `keep`), up to three chunks, for each file group (a file, or a group of them beyond
    64) a block or two (a cluster, at most 32 768 events), and the batches that are prefetched (at least two, or 8000
    events).

    Attributes:
        specs: the specs in use.
        normalize: the normalisation in use.
        files: the files; those that were scanned are `unopened` until they are read.
        entries: events per epoch.
    """

    def __init__(
        self,
        files: FileArgument | FilesTable,
        specs: Specs,
        *,
        friends: Friends | None = None,
        labels: Labels | None = None,
        targets: Sequence[str] = (),
        weights: PerFile | None = None,
        label_dtype: LabelDtype | None = None,
        batch_size: int = BATCH_SIZE,
        chunk_size: int = CHUNK_SIZE,
        drop_remainder: bool = False,
        shuffle: bool = True,
        seed: int = 0,
        normalize: Normalize | None = "minmax",
        layout: DataLayout = "vector",
        mask: bool = False,
        image: Image | None = None,
        read: ReadOptions = DEFAULT_READ,
        keep: Keep = "auto",
    ) -> None:
        """Plan the reading; no event is read, and files that were scanned are opened when they are first read.

        The options, in groups: what is read and what it is worth (`files` to `label_dtype`), order and size of
        the batches (`batch_size` to `seed`), what the model is given (`normalize` to `image`), and how files are read.

        Args:
            files: paths, patterns, folders, lists, URLs (`files.expand`); or ``specs.files``, which names those of the
                specs without a look at any, however many they are.
            specs: from `scan`; they must belong to these files unless they are `unbound`.
            friends: name -> files (see `scan`), where they are not those that were scanned, or have only the labels.
            labels: a number or the name of a class per file, by pattern (first match counts) or as a list, or the name
                of a branch.  Classes are numbered 0, 1 ... in the order given; of two the first is signal, label 1.
            targets: branches of numbers to tell beside the labels, or instead of them (float32).
            weights: a number per file, in the same ways, or the name of a branch; given to the loss by Keras.
            label_dtype: ``float32``, ``int32`` or ``int64``.  By default float32 for two classes and for regression,
                int32 for more classes (0 to K - 1), int64 for integers beyond 2^24, which float32 does not hold.

            batch_size: events per batch; the last batch of an epoch may be smaller.
            chunk_size: events mixed at a time; rounded down to whole batches.
            drop_remainder: leave out the events at the end of an epoch that fill no batch (`dropped`, others in each
                epoch of a shuffled dataset), so that all batches have one shape.
            shuffle: mix files and shuffle events.
            seed: of the order.

            normalize: ``minmax``, ``standard`` or None, with ``log``, ``logit`` or ``clip`` before it, for all branches
                or by name and pattern (`transforms.normalize`).  Counts are normalised like all others: who cuts on
                them in a ``map`` or ``filter`` keeps their unit, ``{"nMuon": None, "*": "minmax"}``.
            layout: form of the elements.
            mask: deliver the mask.
            image: axes, channels and rule of ``layout="image"``.

            read: how to read.  With ``on_bad_file="skip"`` what is left is mixed in proportion, `skipped` is the
                account, and how many batches there are is not known before they are read.
            keep: what stays in memory once it was read, so that later epochs do not read it again: ``"auto"``, as
                much as fits into a quarter of the memory that is free; True, everything; False, nothing; or so many
                bytes.  The datasets made from this one share it.  The batches are the same, bit for bit.

        Raises:
            MlaasError: see `errors`; everything that can be known before the first event.
        """
        check_process()
        _check_form(layout, mask, image, specs)
        check_keep(keep)
        names = class_names(labels) if labels is not None else ()
        numbers = numbered(labels, names) if labels is not None else None
        given = Told(numbers, weights, label_dtype, names, tuple(targets))
        given.check(specs)
        skipped, worker_pool = account(read), WorkerPool(read)
        opened = _open(files, friends, specs, given.stored(specs), worker_pool, skipped)
        if skipped is not None:
            skipped.label(partial(label_of, numbers))
        specs = specs.resolve(opened[0])
        label_target, number_targets, weight_target = given.resolve(opened, specs, skipped)
        specs = _with_targets(specs, given.branches, opened, worker_pool, skipped)
        specs = _with_distributions(specs, normalize, opened, worker_pool, skipped)
        preprocessor = Preprocessor(specs, normalize, image, layout if image is None else "vector")
        passing = passing_events(opened, specs, worker_pool, skipped)
        stream = Stream(
            opened, preprocessor.layout, {group: members[0].length for group, members in specs.groups.items()},
            given.typed(label_target, specs.targets), weight_target, worker_pool, skipped=skipped,
            entries=int((np.array([own.entries for own in passing]) if passing else entries_of(opened)).sum()),
            steps=specs.steps, passing=passing, kept=make_kept(keep, len(preprocessor.layout.groups)),
            numbers=number_targets, packed_as=_packed_as(specs, preprocessor.layout, read),
        )  # fmt: skip
        options = PipelineOptions(
            batch_size, chunk_size, shuffle, seed, layout, mask, drop_remainder=drop_remainder, told=given.outputs
        )
        self._build(stream, preprocessor, options, WholeFiles(stream.events))

    def _build(
        self,
        stream: Stream,
        preprocessor: Preprocessor,
        options: PipelineOptions,
        parts: Parts,
        start: Position = BEGINNING,
    ) -> None:
        self._stream, self._preprocessor, self._settings, self._parts = stream, preprocessor, options, parts
        self.plan = make_plan(
            parts, stream.entry_offsets,
            chunk_size=options.chunk_size, batch_size=options.batch_size, shuffle=options.shuffle,
            seed=options.seed, shares=options.shares, raw_offsets=stream.raw_offsets,
            drop_remainder=options.drop_remainder,
        )  # fmt: skip
        _check_remainder(self.plan, stream.skipped)
        self._cursor = Cursor(start)
        self._finished = make_finished(stream, preprocessor, options, self.plan, self._cursor)
        self._ahead = Ahead(stream, self.plan)

    @cached_property
    def _pipeline(self) -> tf.data.Dataset:
        """The graph, which takes a sixth of a second to build; of the parts of a dataset many are never iterated."""
        with tf.init_scope():  # it outlives the function that asks for it first
            return build_pipeline(
                self._stream, self._preprocessor, self._settings, self.plan, self._cursor, self._ahead, self._finished
            )

    def __getattr__(self, name: str) -> Any:
        """What `tf.data.Dataset` sets when it is made: that is done when it is first asked for."""
        if name not in _SET_BY_TENSORFLOW:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        super().__init__(tf.data.experimental.to_variant(self._pipeline))
        return getattr(self, name)

    def _inputs(self) -> list[tf.data.Dataset]:  # abstract in tf.data.Dataset, so every subclass has it
        return [self._pipeline]

    def __repr__(self) -> str:
        shapes = shorten((f"{name} {shape} {dtype}" for name, shape, dtype in self.elements()), 4)
        return f"<RootDataset {self._summary()}: {shapes}>"

    def _summary(self) -> str:
        return f"{self.entries:,} events of {len(self.files)} files in batches of {self._settings.batch_size}"

    def _repr_html_(self) -> str:
        files = ((file.url, events, label) for file, events, label in self.files_and_labels())
        elements = table("An element:", ("name", "shape", "type"), self.elements())
        return table(f"RootDataset, {self._summary()}", ("file", "events", "label"), files) + elements

    def elements(self) -> list[tuple[str, str, str]]:
        """Name, shape and type of each tensor of an element."""
        spec = self.element_spec if isinstance(self.element_spec, tuple) else (self.element_spec,)
        x, *others = spec
        parts = dict(x) if isinstance(x, dict) else {self._settings.layout: x}
        for name, other in zip(("label", "weight"), others, strict=False):
            parts |= other if isinstance(other, dict) else {name: other}
        return [(name, str(tuple(part.shape)).replace("None", "any"), part.dtype.name) for name, part in parts.items()]

    @property
    def element_spec(self) -> Any:
        return self._pipeline.element_spec

    @property
    def specs(self) -> Specs:
        return self._preprocessor.specs

    @property
    def normalize(self) -> Normalize | None:
        return self._preprocessor.normalize

    @property
    def files(self) -> Sequence[RootFile]:
        return self._stream.files

    @property
    def entries(self) -> int:
        return self.plan.entries

    @property
    def dropped(self) -> int:
        """Events of an epoch that come in no batch, with ``drop_remainder=True``."""
        return self.plan.entries - self.plan.batches * self.plan.batch_size if self.plan.drop_remainder else 0

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes 0, 1 ..., where labels were given by name."""
        return self._stream.labels.names if self._stream.labels is not None else ()

    @property
    def sums_of_weights(self) -> tuple[str, ...]:
        """Of `scaled` weights, for each sample its sum of weights and where that comes from."""
        return self._stream.sums_of_weights

    @property
    def preprocessor(self) -> Preprocessor:
        return self._preprocessor

    @property
    def truncated(self) -> dict[str, int]:
        """Events and objects beyond the specs' lengths, by group, in the latest iteration."""
        return dict(self._stream.truncated)

    @property
    def skipped(self) -> Skipped | None:
        """What this dataset and those split from it could not read so far; None without ``on_bad_file="skip"``."""
        return self._stream.skipped

    @property
    def delivered(self) -> dict[str, int]:
        """Events of each file in the latest iteration, by URL; counted as chunks are made, ahead of the batches."""
        return {self.files[number].url: events for number, events in sorted(self._stream.delivered.items())}

    def take_failures(self) -> list[Exception]:
        """Errors of reading since the last call."""
        failures = list(self._stream.failures)
        self._stream.failures.clear()
        return failures

    def __iter__(self) -> Any:
        check_process()
        return iterator(self, self._from_memory, self._iterator)

    def _from_memory(self) -> Permuted | None:
        """The next epoch, begun, if its rows are finished."""
        return self._finished.epoch() if self._finished is not None else None

    def _iterator(self, epoch: Permuted | None) -> Any:
        """TensorFlow's own iterator over what is left of an epoch from memory, or else over the next one.

        Reading begins while it is made.
        """
        if epoch is not None:
            return iter(epoch.rest(self.element_spec))
        if tf.executing_eagerly():
            self._ahead.begin(self._cursor.next)
        return super().__iter__()

    def skip(self, count: Any, name: str | None = None) -> tf.data.Dataset:
        """All but the first `count` batches of each iteration, as in tf.data: of another order in each.

        Warns:
            DataWarning: the dataset is shuffled, so that what it skips is not what `take` takes.
        """
        if self._settings.shuffle:
            warnings.warn(
                "take and skip of a shuffled dataset overlap, since each iteration has an order of its own, so events "
                "of the training come into the validation: ds.split(0.8, 0.2) gives parts that are disjoint",
                DataWarning, stacklevel=2,
            )  # fmt: skip
        return super().skip(count, name)

    def state(self, epoch: int, batch: int = 0) -> dict[str, Any]:
        """Where the training stands behind so many batches of an epoch, as JSON, for `starting_at`.

        What could not be read on the way to there is part of it, so ask for it while that epoch is read.

        Args:
            epoch: its number, from 0.
            batch: batches of it that were taken.
        """
        lost = self.skipped.now if self.skipped is not None and batch and epoch == self._cursor.epoch else []
        position = Position(epoch, batch, frozenset((one.number, one.start) for one in lost))
        return make_state(position, self._order(), self.skipped)

    def starting_at(self, state: Mapping[str, Any]) -> RootDataset:
        """The same batches in the same order from a state on, whatever the number of readers.

        The first iteration is the rest of the epoch that `state` stands in, the next ones are the epochs behind it.  Of
        what was delivered before, at most a chunk is read again.  How many batches it has is not known to TensorFlow
        where it begins inside of an epoch.

        Raises:
            ResumeError: a state of other files, of another split, seed, mixing law or size of batches, or of a
                version of this package with another order; says what differs.
        """
        position, account = read_state(state, self._order(), self.plan.batches)
        if self.skipped is not None:
            self.skipped.recall(account)
        return self._part(self._parts, position)

    def set_epoch(self, epoch: int) -> None:
        """Have the next iteration be this epoch, from 0; by default it is the one behind the last that was ended."""
        self._cursor.move(Position(epoch))

    def _order(self) -> dict[str, Any]:
        order = describe_order(self.plan, self.files, self.specs.fingerprint)
        drawn = [f"{one.draw.describe()}, {one.parts}" for one in self._stream.drawn]
        how = self._settings.augmentation
        order |= {"folds and held-out events": drawn} if drawn else {}
        return order | ({"augmentation": repr(how)} if how is not None else {})

    def _part(
        self, parts: Parts, start: Position = BEGINNING, stream: Stream | None = None,
        **changes: Any,
    ) -> RootDataset:  # fmt: skip
        part = RootDataset.__new__(RootDataset)
        fresh = (stream or self._stream).fresh(int(parts.events.sum())).of_parts(parts.events)
        RootDataset._build(part, fresh, self._preprocessor, replace(self._settings, **changes), parts, start)
        return part

    def split(self, *fractions: float, seed: int | None = None) -> tuple[RootDataset, ...]:
        """Disjoint datasets with these fractions of the events; fractions that sum to 1 use every event.

        Each file gives each part its share, so the parts have the composition of the whole.  Blocks of a file
        are dealt out at random but along clusters, so that no basket is read for two parts without need.

        Args:
            fractions: for example 0.64, 0.16, 0.20, as in the paper.
            seed: of the choice; the dataset's own by default.

        Raises:
            PlanError: fractions that make no sense for this many events.
        """
        sizes = split_sizes(self.entries, fractions)
        return tuple(self._share(sizes, index, seed) for index in range(len(fractions)))

    def folds(self, count: int, *, by: str | None = None) -> tuple[Fold, ...]:
        """For each of `count` models the events that it is trained, validated and tested on.

        Fold i is the test of model i, fold i + 1 its validation, and the rest its training, so every event is in the
        test of one model.  Which fold an event is of depends on nothing but the event: no other file and no other
        selection moves it.  Each part is a selection: its readers read every basket, and keep its events.

        Args:
            count: 3 at least.
            by: ``identifiers``, ``entries`` or an expression such as ``event % 5`` (`drawing.Folds`).

        Raises:
            ConfigError, ExpressionError: folds that there cannot be.
            PlanError: a fold without events, an expression with other values than 0 to ``count - 1``, or a dataset that
                was split: draw folds first.
        """
        return self._folds(Folds(count, by), range(count))

    def fold(self, number: int, count: int, *, by: str | None = None) -> Fold:
        """One of `folds`, without making the others."""
        return self._folds(Folds(count, by), [number])[0]

    def _folds(self, folds: Folds, numbers: Sequence[int]) -> tuple[Fold, ...]:
        names = range(folds.count)
        both = [(n, (n + 1) % folds.count) for n in numbers]
        parts = [[(test,), (valid,), tuple(m for m in names if m not in (test, valid))] for test, valid in both]
        made = self._drawn(folds.draw(self.specs), [own for fold in parts for own in fold])
        return tuple(Fold(train, valid, test) for test, valid, train in zip(*[iter(made)] * 3, strict=True))

    def hold_out(self, share: float | None = None, *, by: str | None = None) -> tuple[RootDataset, RootDataset]:
        """The events to train with, and those that are held out to judge by; the same ones as files are added.

        Both are selections, as with `folds`, which choose independently of this.

        Args:
            share: of the events, by a hash; a larger share has the events of a smaller one.
            by: ``identifiers``, ``entries``, or, without a share, a condition such as ``event % 5 == 0``
                (`drawing.HoldOut`).

        Raises:
            ConfigError, ExpressionError, PlanError: as `folds`.
        """
        rest, held = self._drawn(HoldOut(share, by).draw(self.specs), [(0,), (1,)])
        return rest, held

    def scaled(
        self, cross_sections: Mapping[str, float], luminosity: float, sumw: Mapping[str, float] | None = None
    ) -> RootDataset:
        """The same events, with weights that sum to what an experiment would have of each process.

        Weights (of ``weights=``, the generator's, or 1) are multiplied by cross section x luminosity / sum of weights
        of the sample, before any cut or skim (`cross_sections.CrossSections` says which sum that is).  A part of these
        events, a split, fold, sample or shard, stands for all of them: its weights are larger by all events of a file
        over those that it has of it.

        Args:
            cross_sections: pattern of files -> pb.
            luminosity: in 1 / fb.
            sumw: pattern of files -> sum of the generator's weights.

        Raises:
            LabelError: a dataset without labels, patterns that do not fit the files, or sums that are not positive.
        """
        return self._scaled(CrossSections(cross_sections, luminosity, sumw))

    def _scaled(self, expected: CrossSections) -> RootDataset:
        stream = self._stream
        if stream.labels is None and not stream.numbers:
            raise LabelError("weights go to the loss together with labels: give the dataset labels=")
        weights = stream.weights or Target((1.0,) * len(self.files))
        scale, told = expected.scales(self.files, weights.branch, stream.worker_pool)
        scales = tuple(zip(scale, stream.events.tolist(), strict=True))
        own = replace(stream, weights=weights, scales=scales, sums_of_weights=told, kept=_fresh(stream.kept))
        return self._part(self._parts, stream=own)

    def _drawn(self, draw: Draw, wanted: Sequence[tuple[int, ...]]) -> list[RootDataset]:
        """For each of several choices of parts a dataset of their events, all of which are counted once."""
        stream = self._stream
        if self._parts.events.sum() != stream.events.sum():
            raise PlanError(f"{draw.purpose} are drawn from whole files: draw first, then split, sample or shard")
        files, steps = opened_for(draw, self.files, stream.worker_pool, stream.skipped), steps_for(self.specs)
        counted = counted_parts(
            draw, stream.drawn, files, stream.passing, steps, stream.worker_pool, stream.skipped
        )  # fmt: skip
        made = []
        for parts in wanted:
            passing = joined([counted[part] for part in parts])
            own = replace(
                stream, files=files, steps=steps, passing=passing, drawn=(*stream.drawn, Drawn(draw, parts)),
                kept=_fresh(stream.kept),
            )  # fmt: skip
            made.append(self._part(WholeFiles(own.events), stream=own))
        return made

    def sample(self, events: int) -> RootDataset:
        """A dataset of this many events with the composition of the whole."""
        if not 0 < events <= self.entries:
            raise PlanError(f"a sample must have 1 to {self.entries} events, not {events}")
        return self._share([events, self.entries - events], 0)

    def shard(
        self,
        num_shards: int,
        index: int,
        name: str | None = None,  # noqa: ARG002 (as in tf.data)
        *,
        even: bool = False,
    ) -> RootDataset:
        """The events of one of `num_shards` workers: disjoint, together all, equal in size to within one event.

        Unlike `tf.data.Dataset.shard` it shards the plan, so that each worker reads its own part only.

        Args:
            even: give each the same number of events and leave out what does not divide: processes that train
                together wait for ever for one whose epoch has a batch less.

        Raises:
            PlanError: shards that make no sense, or even ones where blocks may be skipped, which makes them uneven.
        """
        if even and self.skipped is not None:
            raise PlanError(
                "even shards and on_bad_file='skip' exclude each other: what one process skips, the others wait for"
            )
        if not 0 <= index < num_shards:
            raise PlanError(f"the index of a shard must lie in 0 to {num_shards - 1}, not {index}")
        if num_shards > self.entries:
            raise PlanError(f"{self.entries} events cannot be given to {num_shards} shards; use fewer")
        if even:
            each = self.entries // num_shards
            return self._share([each] * num_shards + [self.entries - each * num_shards], index)
        sizes = [self.entries * (i + 1) // num_shards - self.entries * i // num_shards for i in range(num_shards)]
        return self._share(sizes, index)

    def _share(self, sizes: Sequence[int], index: int, seed: int | None = None) -> RootDataset:
        """One of the datasets of these sizes among which the events are divided."""
        seed = self._settings.seed if seed is None else seed
        return self._part(part_of(self._parts, self._stream.entry_offsets, sizes, seed, index))

    def in_order(self) -> RootDataset:
        """The same events in the order of files and entries, unmixed, each once: for evaluation and prediction."""
        return self._part(self._parts, shuffle=False, shares=None, drop_remainder=False, augmentation=None)

    def masked(self, mask: bool = True) -> RootDataset:
        """The same events with the mask, or without it."""
        _check_form(self._settings.layout, mask, self._preprocessor.image, self.specs)
        return self if mask == self._settings.mask else self._part(self._parts, mask=mask)

    def mixed(self, law: Mixing) -> RootDataset:
        """The same events mixed by another law than the number of events of each file; meant for training.

        An epoch has as many events as before, and every chunk (to within an event per file) and every epoch has
        the composition of the law.  Files with more than their share are read in part, the others several
        times.  The next epoch goes on in a file where the one before ended, and no event comes again before
        all others of its file have come as often.  So in any number of epochs an event comes floor or ceil of
        (events that its file gave / events that it has) times; "proportional" is exactly once per epoch.

        Args:
            law: ``"proportional"`` (paper, section 3.3); ``"equal"``, every file the same; or shares by pattern
                (first match counts) or as a list, of which only the ratios count:
                ``{"*signal*": 8, "*": 1}`` with eight background files makes half of every batch signal.

        Raises:
            PlanError: shares that are not positive, ``shuffle=False``, or more than 64 files.
            LabelError: patterns that do not fit the files.
        """
        check_law(law)
        if law == "proportional":
            return self._part(self._parts, shares=None)
        shares = [1.0] * len(self.files) if isinstance(law, str) else law
        target = resolve_target("mixing shares", shares, self.files) or Target()
        return self._part(self._parts, shares=target.per_file)

    def augmented(self, how: Augmentation) -> RootDataset:
        """The same events, each changed at random in each epoch; meant for training.

        What is random depends on the seed, the epoch and the place of the event in it alone, so that `starting_at`
        gives the same bits.  `in_order` gives the events as they are.

        Raises:
            PlanError: names of no feature, or ``layout="ragged"``.
        """
        if self._settings.layout == "ragged":
            raise PlanError("augmentation is of the rectangle of objects: take another layout than 'ragged'")
        how.branches(self.specs)
        return self._part(self._parts, augmentation=how)

    def composition(self) -> dict[float, int]:
        """Events per label in an epoch, where labels are given per file."""
        labels = self._stream.labels
        found = Counter[float]()
        for number, events in self.plan.file_entries.items():
            if labels is not None and labels.per_file:
                found[labels.per_file[number]] += events
        return dict(sorted(found.items()))

    def files_and_labels(self) -> list[tuple[RootFile, int, float | None]]:
        """Each file, how many of its events are in this dataset, and its label; None where labels are a branch."""
        given = self._stream.labels.per_file if self._stream.labels is not None else ()
        labels = given or (None,) * len(self.files)
        return list(zip(self.files, self._parts.events.tolist(), labels, strict=True))
