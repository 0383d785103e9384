"""Objects as particles: which groups have pt, eta and phi, and layers that work out physics of them, in their unit."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from mlaas4hep_tf.errors import ModelError
from mlaas4hep_tf.specs import BranchSpec, Specs
from mlaas4hep_tf.transforms.vector import Preprocessor

ops = keras.ops
MEMBERS = {"pt": "pt", "eta": "eta", "phi": "phi", "mass": "mass|m"}  # how the name of a branch ends
SMALLEST = 1e-8  # of what a logarithm is taken
FAR = 1e9


@dataclass(frozen=True)
class Particles:
    """A group of objects that have a direction.

    Attributes:
        group: its name.
        members: its branches.
        vector: names of its pt, eta and phi, and of its mass or None.
    """

    group: str
    members: tuple[BranchSpec, ...]
    vector: tuple[str, str, str, str | None]

    @property
    def length(self) -> int:
        return self.members[0].length


def particles_of(specs: Specs) -> tuple[Particles, ...]:
    """The groups of the specs whose branches say where their objects lie, by name or by `Analysis.vectors`."""
    told = dict(specs.analysis.vectors)
    steps = specs.steps
    found = []
    for group, members in specs.groups.items():
        name = steps.name_of.get(group, group) if steps is not None else group
        vector = told.get(name) or [_member(members, ending) for ending in MEMBERS.values()]
        if all(vector[:3]) and members[0].length:
            found.append(Particles(group, members, tuple(vector)))  # type: ignore[arg-type]  # three names and a mass
    return tuple(found)


def _member(members: Sequence[BranchSpec], ending: str) -> str | None:
    """The branch whose name ends so, the shortest of them."""
    names = [b.name for b in members if re.search(rf"(^|[._:/])({ending})$", b.name)]
    return min(names, key=len, default=None)


def need_particles(specs: Specs, model: str) -> tuple[Particles, ...]:
    """`particles_of`, or a ModelError where there are none."""
    found = particles_of(specs)
    if not found:
        raise ModelError(
            f"{model} needs objects with pt, eta and phi, such as Jet_pt, Jet_eta and Jet_phi, among the features; "
            f"the groups are {sorted(specs.groups) or 'none'}; name them by scan(vectors={{...}}) or take model 'set'"
        )
    return found


def kinematics(preprocessor: Preprocessor, particles: Sequence[Particles], vector: Any, mask: Any) -> tuple[Any, Any]:
    """Their pt, eta, phi and mass in the unit of the files, [B, P, 4], and which are there, bool [B, P].

    A mass that nobody knows, or that is missing, is 0.  A particle is there if its pt, eta and phi are.
    """
    at = preprocessor.columns
    places = np.concatenate(
        [[[at[n].start + i if n else -1 for n in p.vector] for i in range(p.length)] for p in particles]
    )  # [P, 4]
    how = preprocessor.scaling
    values = Restored(
        places, *(np.append(column, end)[places] for column, end in (
            (how.offset, 0), (how.scale, 1), (how.log, False), (how.logit, False),
        )), name="kinematics",
    )([vector, mask])  # fmt: skip
    return values, AllReal(places[:, :3], name="particles")(mask)


@keras.saving.register_keras_serializable(package="mlaas4hep_tf")
class Restored(keras.layers.Layer):  # type: ignore[misc]  # keras has no type information
    """Columns of the vector in their own unit: vector, mask [B, D] -> [B, *shape of the places]; missing ones are 0.

    Attributes:
        places: number of the column, -1: there is none, so 0.
        offset, scale, log, logit: what was done to each (`transforms.normalize.Scaling`), and is undone.
    """

    def __init__(self, places: Any, offset: Any, scale: Any, log: Any, logit: Any, **kwargs: Any) -> None:
        super().__init__(**{"dtype": "float32", **kwargs})
        self.places = np.asarray(places, np.int32)
        self.numbers = {
            "offset": np.asarray(offset, np.float32), "scale": np.asarray(scale, np.float32),
            "log": np.asarray(log, bool), "logit": np.asarray(logit, bool),
        }  # fmt: skip

    def call(self, inputs: Any) -> Any:
        vector, mask = inputs
        shape = (-1, *self.places.shape)
        taken, real = (ops.reshape(ops.take(part, np.maximum(self.places, 0).ravel(), axis=1), shape) for part in
                       (vector, mask))  # fmt: skip
        values = taken * self.numbers["scale"] + self.numbers["offset"]
        for name, inverse in (("log", ops.exp), ("logit", ops.sigmoid)):
            chosen = self.numbers[name]
            if chosen.any():
                values = ops.where(chosen, inverse(ops.where(chosen, values, 0.0)), values)
        return ops.where(ops.logical_and(real, self.places >= 0), values, 0.0)

    def compute_output_spec(self, inputs: Any) -> Any:
        return keras.KerasTensor((inputs[0].shape[0], *self.places.shape), "float32")

    def get_config(self) -> dict[str, Any]:
        numbers = {name: values.tolist() for name, values in self.numbers.items()}
        return {**super().get_config(), "places": self.places.tolist(), **numbers}


@keras.saving.register_keras_serializable(package="mlaas4hep_tf")
class AllReal(keras.layers.Layer):  # type: ignore[misc]  # keras has no type information
    """Whether all of some columns are real: mask [B, D] -> bool [B, P], of column numbers [P, F]."""

    def __init__(self, columns: Any, **kwargs: Any) -> None:
        super().__init__(**{"dtype": "float32", **kwargs})
        self.columns = np.asarray(columns, np.int32)

    def call(self, mask: Any) -> Any:
        taken = ops.take(mask, self.columns.ravel(), axis=1)
        return ops.all(ops.reshape(taken, (-1, *self.columns.shape)), axis=-1)

    def compute_output_spec(self, mask: Any) -> Any:
        return keras.KerasTensor((mask.shape[0], len(self.columns)), "bool")

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "columns": self.columns.tolist()}


@keras.saving.register_keras_serializable(package="mlaas4hep_tf")
class PairFeatures(keras.layers.Layer):  # type: ignore[misc]  # keras has no type information
    """How two particles lie to each other: kinematics [B, P, 4], real [B, P] -> [B, P, P, 4], 0 where one is missing.

    The logarithms of delta R, of kT = min(pt) delta R, of z = min(pt) / sum of pt, and of the squared mass of both
    (H. Qu, C. Li, S. Qian, Particle Transformer for Jet Tagging, 2022, eq. 3); of what is below 1e-8 those of 1e-8.
    """

    def call(self, inputs: Any) -> Any:
        values, real = inputs
        pt, eta, phi, mass = (values[..., n] for n in range(4))
        apart = delta_r(eta, phi)
        smaller = ops.minimum(pt[:, :, None], pt[:, None, :])
        share = smaller / ops.maximum(pt[:, :, None] + pt[:, None, :], SMALLEST)
        features = [apart, smaller * apart, share, squared_mass(pt, eta, phi, mass)]
        logs = ops.stack([ops.log(ops.maximum(one, SMALLEST)) for one in features], axis=-1)
        both = ops.logical_and(real[:, :, None], real[:, None, :])
        return ops.where(both[..., None], logs, 0.0)

    def compute_output_spec(self, inputs: Any) -> Any:
        batch, particles = inputs[1].shape
        return keras.KerasTensor((batch, particles, particles, 4), inputs[0].dtype)


def squared_mass(pt: Any, eta: Any, phi: Any, mass: Any) -> Any:
    """Of each with each: [B, P] -> [B, P, P]; a sum of positive terms, as E^2 - p^2 loses all digits of a small one."""
    transverse = ops.sqrt(pt**2 + mass**2)
    rapidity = ops.arcsinh(pt * ops.sinh(eta) / ops.maximum(transverse, SMALLEST))
    (pt1, pt2), (m1, m2), (t1, t2) = ((x[:, :, None], x[:, None, :]) for x in (pt, mass, transverse))
    angles = (x[:, :, None] - x[:, None, :] for x in (rapidity, phi))
    along, around = (2 * turn(angle / 2) ** 2 for turn, angle in zip((ops.sinh, ops.sin), angles, strict=True))
    heavy = ((m1 * pt2) ** 2 + (m2 * pt1) ** 2 + (m1 * m2) ** 2) / ops.maximum(t1 * t2 + pt1 * pt2, SMALLEST)
    return m1**2 + m2**2 + 2 * (t1 * t2 * along + heavy + pt1 * pt2 * around)


def delta_r(eta: Any, phi: Any) -> Any:
    """Of each with each: [B, P] -> [B, P, P]."""
    turn = phi[:, :, None] - phi[:, None, :]
    turn = turn - 2 * np.pi * ops.floor((turn + np.pi) / (2 * np.pi))
    return ops.sqrt((eta[:, :, None] - eta[:, None, :]) ** 2 + turn**2)


@keras.saving.register_keras_serializable(package="mlaas4hep_tf")
class Nearest(keras.layers.Layer):  # type: ignore[misc]  # keras has no type information
    """Which particles are among the nearest of each: places [B, P, C], real [B, P] -> float [B, P, P], 1 or 0.

    Attributes:
        neighbours: how many at most; ties may make it more.
        angles: places are pt, eta, phi ..., and the distance is delta R; else it is that of all C numbers.
    """

    def __init__(self, neighbours: int, *, angles: bool, **kwargs: Any) -> None:
        super().__init__(**{"dtype": "float32", **kwargs})
        self.neighbours, self.angles = neighbours, angles

    def call(self, inputs: Any) -> Any:
        places, real = inputs
        if self.angles:
            distance = delta_r(places[..., 1], places[..., 2])
        else:
            distance = ops.sum((places[:, :, None, :] - places[:, None, :, :]) ** 2, axis=-1)
        particles = places.shape[1]
        other = ops.logical_and(real[:, :, None], ops.logical_and(real[:, None, :], ~np.eye(particles, dtype=bool)))
        distance = ops.where(other, distance, FAR)
        farthest = -ops.top_k(-distance, min(self.neighbours, particles))[0][..., -1:]
        return ops.cast(ops.logical_and(other, distance <= farthest), places.dtype)

    def compute_output_spec(self, inputs: Any) -> Any:
        batch, particles = inputs[1].shape
        return keras.KerasTensor((batch, particles, particles), inputs[0].dtype)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "neighbours": self.neighbours, "angles": self.angles}


@keras.saving.register_keras_serializable(package="mlaas4hep_tf")
class EachWithEach(keras.layers.Layer):  # type: ignore[misc]  # keras has no type information
    """Sum of what one particle and another say: [B, P, H], [B, P, H] -> [B, P, P, H]."""

    def call(self, inputs: Any) -> Any:
        own, other = inputs
        return own[:, :, None, :] + other[:, None, :, :]

    def compute_output_spec(self, inputs: Any) -> Any:
        batch, particles, width = inputs[0].shape
        return keras.KerasTensor((batch, particles, particles, width), inputs[0].dtype)


@keras.saving.register_keras_serializable(package="mlaas4hep_tf")
class MeanOfNeighbours(keras.layers.Layer):  # type: ignore[misc]  # keras has no type information
    """Messages [B, P, P, H], neighbours [B, P, P] -> their mean [B, P, H]; 0 where there is none."""

    def call(self, inputs: Any) -> Any:
        messages, near = inputs
        near = ops.cast(near, messages.dtype)
        total = ops.sum(messages * near[..., None], axis=2)
        return total / ops.maximum(ops.sum(near, axis=2), 1)[..., None]

    def compute_output_spec(self, inputs: Any) -> Any:
        batch, particles, _, width = inputs[0].shape
        return keras.KerasTensor((batch, particles, width), inputs[0].dtype)


@keras.saving.register_keras_serializable(package="mlaas4hep_tf")
class Attend(keras.layers.Layer):  # type: ignore[misc]  # keras has no type information
    """Attention of several heads: queries [B, Q, H], keys and values [B, P, H], real [B, P] -> [B, Q, H].

    With a bias [B, Q, P, heads] that is added before the softmax.
    """

    def __init__(self, heads: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.heads = heads

    def call(self, inputs: Any) -> Any:
        queries, keys, values, real, *bias = inputs
        width = queries.shape[-1]
        q, k, v = (self._by_head(one) for one in (queries, keys, values))  # [B, heads, n, width / heads]
        weights = ops.matmul(q, ops.transpose(k, (0, 1, 3, 2))) / (width / self.heads) ** 0.5
        if bias:
            weights = weights + ops.transpose(bias[0], (0, 3, 1, 2))
        weights = ops.softmax(ops.where(real[:, None, None, :], weights, -3e4), axis=-1)  # -3e4 fits float16
        heard = ops.transpose(ops.matmul(weights, v), (0, 2, 1, 3))
        return ops.reshape(heard, (-1, queries.shape[1], width))

    def _by_head(self, x: Any) -> Any:
        return ops.transpose(ops.reshape(x, (-1, x.shape[1], self.heads, x.shape[2] // self.heads)), (0, 2, 1, 3))

    def compute_output_spec(self, inputs: Any) -> Any:
        return keras.KerasTensor(inputs[0].shape, inputs[0].dtype)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "heads": self.heads}


@keras.saving.register_keras_serializable(package="mlaas4hep_tf")
class ClassToken(keras.layers.Layer):  # type: ignore[misc]  # keras has no type information
    """A learnt vector, the same for every event: anything [B, P, H] -> [B, 1, H]."""

    def build(self, shape: Any) -> None:
        self.token = self.add_weight(shape=(1, 1, shape[-1]), initializer="truncated_normal", name="token")

    def call(self, x: Any) -> Any:
        return ops.zeros_like(x[:, :1, :]) + self.token

    def compute_output_spec(self, x: Any) -> Any:
        return keras.KerasTensor((x.shape[0], 1, x.shape[-1]), x.dtype)
