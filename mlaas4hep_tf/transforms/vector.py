"""From branches to the vector (paper, figure 3): one object that training and the exported model share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import tensorflow as tf

from mlaas4hep_tf.analysis.steps import group_names
from mlaas4hep_tf.errors import ModelError
from mlaas4hep_tf.io.branches import BranchInfo, Layout
from mlaas4hep_tf.specs import BranchSpec, Specs
from mlaas4hep_tf.transforms.image import Image, to_image
from mlaas4hep_tf.transforms.mask import mask_missing
from mlaas4hep_tf.transforms.normalize import (
    Normalize,
    Scaling,
    by_branch,
    check_normalize,
    normalize_columns,
    prepared,
    scaling,
)
from mlaas4hep_tf.transforms.pad import pad, pad_by_value, resize

MASK_SUFFIX = "_mask"


@dataclass(frozen=True)
class Preprocessor:
    """Everything between raw branches and the model's input.

    Attributes:
        specs: lengths, order and constants of the branches.
        normalize: which constants, for all branches or by branch (see `normalize.constants`).
        image: the model takes this image rather than the vector.
        form: what else it takes: ``vector``, or by name ``columns``, ``objects`` or ``ragged`` (`RootDataset`).
    """

    specs: Specs
    normalize: Normalize | None
    image: Image | None = None
    form: str = "vector"

    def __post_init__(self) -> None:
        check_normalize(self.normalize)
        by_branch(self.specs, self.normalize)
        if self.image is not None:
            self.image.check(self.specs)

    @cached_property
    def layout(self) -> Layout:
        groups = tuple((group, tuple(b.name for b in members)) for group, members in self.specs.groups.items())
        return Layout(tuple(b.name for b in self.specs.flat), groups)

    @property
    def width(self) -> int:
        return len(self.specs.vector_names)

    @cached_property
    def _order(self) -> list[int] | None:
        """For each column of the vector its column in `flat` and groups side by side; None if they are the same."""
        lengths = {b.name: len(b.columns) for b in self.specs.branches}
        at, starts = 0, {}
        for name in self.layout.names:
            starts[name] = at
            at += lengths[name]
        order = [starts[b.name] + i for b in self.specs.branches for i in range(lengths[b.name])]
        return None if order == list(range(at)) else order

    @cached_property
    def columns(self) -> dict[str, slice]:
        """Branch -> its columns of the vector."""
        at, found = 0, {}
        for branch in self.specs.branches:
            found[branch.name] = slice(at, at + len(branch.columns))
            at += len(branch.columns)
        return found

    @property
    def parts(self) -> dict[str, slice]:
        """Branch -> where it stands on the last axis of what the model takes."""
        return self.columns if self.image is None else self.image.parts

    def from_packed(
        self, flat: tf.Tensor, groups: list[tuple[tf.Tensor, tf.Tensor, tf.Tensor]], *, compiled: bool = False
    ) -> tf.Tensor:
        """Raw vector of packed events, NaN where there is no value.

        Args:
            flat: float32 [n, flat branches].
            groups: for each group of the layout (sentinel and values [1 + m, F], starts [n], counts [n]).

        Returns:
            float32 [n, D].
        """
        parts = [flat]
        for (values, starts, counts), members in zip(groups, self.specs.groups.values(), strict=True):
            length = members[0].length
            if length:
                padded = (pad_by_value if compiled else pad)(values, starts, counts, length)
                parts.append(tf.reshape(padded, [-1, length * len(members)]))  # [n, F * L]
        vector = tf.concat(parts, axis=1) if groups else flat
        vector = tf.ensure_shape(vector, [None, self.width])
        return vector if self._order is None else tf.gather(vector, np.array(self._order, np.int32), axis=1)

    def from_branches(self, branches: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """Raw vector from branches by name: flat [n], jagged [n, any] padded with NaN -> float32 [n, D]."""
        return tf.concat([self._rectangle(b, branches[b.name]) for b in self.specs.branches], axis=1)

    def _rectangle(self, branch: BranchSpec, values: tf.Tensor) -> tf.Tensor:
        return values[:, tf.newaxis] if branch.kind == "flat" else resize(values, branch.length)

    def ragged(
        self, flat: tf.Tensor, groups: list[tuple[tf.Tensor, tf.Tensor, tf.Tensor]]
    ) -> dict[str, tf.Tensor | tf.RaggedTensor]:
        """Normalised branches of packed events (as in `from_packed`): flat [n], jagged ragged [n, None]."""
        found: dict[str, tf.Tensor | tf.RaggedTensor] = {}
        for number, name in enumerate(self.layout.flat):
            found[name] = self._normalized(name, flat[:, number])
        for (values, starts, counts), members in zip(groups, self.specs.groups.values(), strict=True):
            kept = tf.minimum(counts, members[0].length)
            splits = tf.concat([[0], tf.cumsum(kept)], axis=0)
            rows = tf.repeat(starts - splits[:-1], kept) + tf.range(splits[-1])
            objects = tf.gather(values, rows)  # [objects kept, F]
            for number, branch in enumerate(members):
                real = self._normalized(branch.name, objects[:, number])
                found[branch.name] = tf.RaggedTensor.from_row_splits(real, splits, validate=False)
        return {b.name: found[b.name] for b in self.specs.branches}

    def _normalized(self, name: str, values: tf.Tensor) -> tf.Tensor:
        if not self.columns[name].stop > self.columns[name].start:
            return values
        how = self.scaling.of_column(self.columns[name].start)
        return mask_missing(normalize_columns(prepared(values, how), how.offset, how.scale))[0]

    def finish(
        self, vector: tf.Tensor, offset: tf.Tensor = None, scale: tf.Tensor = None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Normalise and mask: raw [n, D] -> (float32 [n, D], bool [n, D], True = real value).

        `offset` and `scale` are those of `constants` as tensors that a compiler does not know: it would multiply by
        1 / scale, which rounds otherwise.
        """
        if offset is None:
            offset, scale = self.constants
        return mask_missing(normalize_columns(prepared(vector, self.scaling), offset, scale))

    def model_input(self, vector: tf.Tensor, *, mask: bool) -> tf.Tensor | dict[str, tf.Tensor]:
        """What the model takes, from the raw vector [n, D]: the image, or what `RootDataset` gives in this form."""
        values, real = self.finish(vector)
        if self.image is not None:
            return self._draw(self.image, self.split(vector), self.split(values))
        if self.form == "ragged":
            return self._lists(self.split(vector), self.split(values))
        return self.shaped(values, real, mask=mask)

    def shaped(self, values: tf.Tensor, real: tf.Tensor, *, mask: bool) -> tf.Tensor | dict[str, tf.Tensor]:
        """A finished vector and its mask, both [n, D], in the form that the model takes."""
        if self.form == "objects":
            return self.objects(values, real)
        if self.form == "columns":
            masks = {name + MASK_SUFFIX: part for name, part in self.split(real).items()} if mask else {}
            return self.split(values) | masks
        return {"vector": values, "mask": real} if mask else values

    def _lists(self, raw: dict[str, tf.Tensor], values: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Padded branches as lists again, which end behind their last object with a member that is not NaN."""
        found = dict(values)
        for members in self.specs.groups.values():
            there = ~tf.math.is_nan(tf.stack([raw[b.name] for b in members], axis=2))  # [n, L, F]
            places = tf.range(1, tf.shape(there)[1] + 1)
            ends = tf.where(tf.reduce_any(there, axis=2), places, 0)
            lengths = tf.reduce_max(tf.pad(ends, [[0, 0], [1, 0]]), axis=1)
            found |= {b.name: tf.RaggedTensor.from_tensor(values[b.name], lengths) for b in members}
        return found

    def _draw(self, image: Image, raw: dict[str, tf.Tensor], values: dict[str, tf.Tensor]) -> tf.Tensor:
        channels = tf.stack([values[name] for name in image.channels], axis=2)
        return to_image(image, [raw[axis.branch] for axis in image.axes], channels)

    def input_specs(self, *, mask: bool) -> dict[str, tf.TensorSpec]:
        """Names, shapes and dtypes of the tensors of `model_input`."""
        if self.image is not None:
            return {"image": tf.TensorSpec([None, *self.image.shape], tf.float32)}
        if self.form != "vector":
            return self._named_specs(mask=mask)
        specs = {"vector": tf.TensorSpec([None, self.width], tf.float32)}
        return specs | {"mask": tf.TensorSpec([None, self.width], tf.bool)} if mask else specs

    def _named_specs(self, *, mask: bool) -> dict[str, tf.TensorSpec]:
        """Of the forms that have names: objects of groups, or columns."""
        if self.form == "objects":
            found = {}
            for group, members in self.specs.groups.items():
                name, length = self.group_names[group], members[0].length
                found[name] = tf.TensorSpec([None, length, len(members)], tf.float32)
                found[name + MASK_SUFFIX] = tf.TensorSpec([None, length], tf.bool)
            flat = {FLAT: tf.TensorSpec([None, len(self.specs.flat)], tf.float32)} if self.specs.flat else {}
            return found | flat
        shapes = {b.name: [] if b.kind == "flat" else [b.length] for b in self.specs.branches}
        if self.form == "ragged":
            return {name: tf.TensorSpec([None, *(None for _ in shape)], tf.float32) for name, shape in shapes.items()}
        masks = {name + MASK_SUFFIX: tf.TensorSpec([None, *shape], tf.bool) for name, shape in shapes.items()}
        return {n: tf.TensorSpec([None, *shape], tf.float32) for n, shape in shapes.items()} | (masks if mask else {})

    def place_in_objects(self, name: str) -> tuple[str, int]:
        """In ``layout="objects"`` the input that a branch is in, and its place on the last axis there."""
        branch = self.specs[name]
        beside = self.specs.flat if branch.kind == "flat" else self.specs.groups[branch.group]
        return FLAT if branch.kind == "flat" else self.group_names[branch.group], beside.index(branch)

    def flat_values(self, x: Any, name: str) -> tf.Tensor:
        """The values [n] of a flat branch, from what a model is given in any form but an image."""
        if self.form == "objects":
            return x[FLAT][:, self.place_in_objects(name)[1]]
        if self.form != "vector":
            return x[name]
        return (x["vector"] if isinstance(x, dict) else x)[:, self.columns[name].start]

    @cached_property
    def constants(self) -> tuple[np.ndarray, np.ndarray]:
        """Offset and scale of each column, float32 [D]."""
        return self.scaling.offset, self.scaling.scale

    @cached_property
    def scaling(self) -> Scaling:
        """What becomes of the values of each column."""
        return scaling(self.specs, self.normalize)

    @cached_property
    def group_names(self) -> dict[str, str]:
        """Group -> its name in ``layout="objects"``, that which expressions have for it."""
        return group_names(BranchInfo(b.name, "", b.kind, b.dtype, b.group) for b in self.specs.jagged)

    def objects(self, vector: tf.Tensor, real: tf.Tensor) -> dict[str, tf.Tensor]:
        """Columns of a vector by group: objects [n, L, F] and which are there, bool [n, L]; flat branches [n, F].

        Branches stand in the order of the specs.  An object is there if one of its branches has a value.
        """
        found: dict[str, tf.Tensor] = {}
        for group, members in self.specs.groups.items():
            name = self.group_names[group]
            parts = [self.columns[b.name] for b in members]
            found[name] = tf.stack([vector[:, part] for part in parts], axis=2)
            found[name + MASK_SUFFIX] = tf.reduce_any(tf.stack([real[:, part] for part in parts], axis=2), axis=2)
        flat = [self.columns[b.name] for b in self.specs.flat]
        return found | ({FLAT: tf.concat([vector[:, part] for part in flat], axis=1)} if flat else {})

    def split(self, vector: tf.Tensor) -> dict[str, tf.Tensor]:
        """Columns of a vector by branch: flat [n], jagged [n, L]."""
        return {
            b.name: vector[:, self.columns[b.name].start] if b.kind == "flat" else vector[:, self.columns[b.name]]
            for b in self.specs.branches
        }


FLAT = "flat"  # of `Preprocessor.objects`


class Trained(Protocol):
    """What a model was trained with, and so knows its preprocessing: a `RootDataset`, a `runs.Run`."""

    @property
    def preprocessor(self) -> Preprocessor: ...


def preprocessor_of(trained: Preprocessor | Trained) -> Preprocessor:
    """The preprocessing that a model was trained with.

    Raises:
        ModelError: anything that does not say it, `Specs` above all: they do not know the normalisation.
    """
    found = trained if isinstance(trained, Preprocessor) else getattr(trained, "preprocessor", None)
    if not isinstance(found, Preprocessor):
        raise ModelError(
            f"a model is applied with the preprocessing it was trained with, and {type(trained).__name__} does not say "
            "how values were normalised: give the dataset, the run, or "
            "mlaas4hep_tf.transforms.vector.Preprocessor(specs, normalize=...)"
        )
    return found
