"""particle_transformer and particle_net: networks on the particles of an event, with pairwise features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from mlaas4hep_tf import heads
from mlaas4hep_tf.layers import MaskedPool, TakeColumns
from mlaas4hep_tf.particles import (
    Attend,
    ClassToken,
    EachWithEach,
    MeanOfNeighbours,
    Nearest,
    PairFeatures,
    Particles,
    kinematics,
    need_particles,
)
from mlaas4hep_tf.tasks import SIGNAL_OR_NOT, Task
from mlaas4hep_tf.transforms.vector import Preprocessor

dense = keras.layers.Dense
EMBEDDED = 8  # numbers that describe a kind


def particle_transformer(
    preprocessor: Preprocessor,
    task: Task = SIGNAL_OR_NOT,
    *,
    width: int = 64,
    blocks: int = 2,
    attention_heads: int = 4,
) -> keras.Model:
    """Attention of the particles to each other, biased by how two of them lie, and a class token that listens to them.

    The groups that have pt, eta and phi are particles, of one list; the others are pooled as in `models.set_model` and
    stand beside the flat branches.  The order of the particles and the length of the padding make no difference.
    Smaller than its original (H. Qu, C. Li, S. Qian, 2022): as many blocks as the events of an analysis can train.

    Args:
        preprocessor: of the data: the pairs are of values in their own unit, so what normalised them is undone inside.
        task: what the model is to tell.
        width: numbers that describe a particle.
        blocks: of attention.
        attention_heads: of each block; they divide the width.

    Raises:
        ModelError: no group has pt, eta and phi.
    """
    event = _Event(preprocessor, "particle_transformer", width)
    pairs = PairFeatures(name="pairs", dtype="float32")([event.kinematics, event.real])
    bias = dense(attention_heads)(dense(16, activation="silu")(pairs))  # [B, P, P, heads]
    x = event.described
    for _ in range(blocks):
        normal = keras.layers.LayerNormalization()(x)
        heard = Attend(attention_heads)([*(dense(width)(normal) for _ in range(3)), event.real, bias])
        x = x + dense(width)(heard)
        x = x + _feed_forward(x, width)
    token = ClassToken(name="token")(x)
    normal = keras.layers.LayerNormalization()(keras.layers.Concatenate(axis=1)([token, x]))
    all_real = keras.layers.Concatenate(axis=1)([keras.ops.ones_like(event.real[:, :1]), event.real])
    token = token + Attend(attention_heads)([dense(width)(token), dense(width)(normal), dense(width)(normal), all_real])
    token = token + _feed_forward(token, width)
    return event.model(keras.layers.Flatten()(keras.layers.LayerNormalization()(token)), task)


def particle_net(
    preprocessor: Preprocessor, task: Task = SIGNAL_OR_NOT, *, width: int = 48, neighbours: int = 8
) -> keras.Model:
    """Messages between near particles: first near in delta R, then in what the network made of them.

    Each message is made of both particles and of the features of their pair; a particle hears the mean of its
    neighbours' (H. Qu, L. Gouskos, ParticleNet, 2019).  Groups as in `particle_transformer`.

    Args:
        preprocessor: of the data: distances are of values in their own unit, so what normalised them is undone inside.
        task: what the model is to tell.
        width: numbers that describe a particle.
        neighbours: that a particle hears, at most.

    Raises:
        ModelError: no group has pt, eta and phi.
    """
    event = _Event(preprocessor, "particle_net", width)
    pairs = PairFeatures(name="pairs", dtype="float32")([event.kinematics, event.real])
    x, places = event.described, event.kinematics
    for number in range(2):
        near = Nearest(neighbours, angles=number == 0, name=f"nearest_{number}")([places, event.real])
        said = EachWithEach()([dense(width)(x), dense(width, use_bias=False)(x)])
        message = keras.layers.Activation("relu")(said + dense(width, use_bias=False)(pairs))
        heard = MeanOfNeighbours()([dense(width, activation="relu")(message), near])
        x = places = keras.layers.LayerNormalization()(keras.layers.Activation("relu")(dense(width)(x) + heard))
    shown = keras.layers.Activation("relu")(x)
    return event.model(MaskedPool(name="pool")([shown, keras.ops.expand_dims(event.real, -1)]), task)


def _feed_forward(x: Any, width: int) -> Any:
    return dense(width)(dense(2 * width, activation="silu")(keras.layers.LayerNormalization()(x)))


class _Event:
    """The inputs of a network on particles, and what it begins with.

    Attributes:
        kinematics: pt, eta, phi and mass of the particles in their own unit [B, P, 4].
        real: which particles are there, bool [B, P].
        described: what the branches of each say, [B, P, width].
    """

    def __init__(self, preprocessor: Preprocessor, name: str, width: int) -> None:
        specs = preprocessor.specs
        particles = need_particles(specs, name)
        size = len(specs.vector_names)
        self._name = name
        self._inputs = {
            "vector": keras.Input((size,), name="vector"), "mask": keras.Input((size,), name="mask", dtype="bool")
        }  # fmt: skip
        self._preprocessor = preprocessor
        self.kinematics, self.real = kinematics(preprocessor, particles, self._inputs["vector"], self._inputs["mask"])
        own = [dense(width, activation="silu")(self._features(one)) for one in particles]
        self.described = keras.layers.Concatenate(axis=1)(own) if len(own) > 1 else own[0]
        self._beside = [one for one in specs.groups if one not in {p.group for p in particles}]

    def _features(self, particles: Particles) -> Any:
        """What the branches of a group say of each object, [B, L, F]; of kinds that are an index an embedding."""
        kinds = self._preprocessor.specs.kinds
        names = [branch.name for branch in particles.members]
        indices = [name for name in names if kinds.get(name, 2) > 2]
        plain = [name for name in names if name not in indices]
        vector = self._inputs["vector"]
        parts = [TakeColumns(_places(self._preprocessor, plain))(vector)] if plain else []
        for name in indices:
            (column,) = _places(self._preprocessor, [name]).T
            parts.append(keras.layers.Embedding(kinds[name], EMBEDDED)(TakeColumns(column)(vector)))
        return keras.layers.Concatenate()(parts) if len(parts) > 1 else parts[0]

    def model(self, x: Any, task: Task) -> keras.Model:
        """The model behind what is known of the particles, [B, H]."""
        specs, columns = self._preprocessor.specs, self._preprocessor.columns
        parts = [x]
        if specs.flat:
            places = [columns[b.name].start for b in specs.flat]
            parts.append(TakeColumns(places, name="flat")(self._inputs["vector"]))
        for number, group in enumerate(self._beside):
            if specs.groups[group][0].length:
                place = _places(self._preprocessor, [branch.name for branch in specs.groups[group]])
                shown = dense(32, activation="relu")(TakeColumns(place)(self._inputs["vector"]))
                real = TakeColumns(place, name=f"real_{number}")(self._inputs["mask"])
                parts.append(MaskedPool()([shown, real]))
        x = keras.layers.Concatenate()(parts) if len(parts) > 1 else x
        x = keras.layers.Dropout(0.1)(dense(64, activation="relu")(x))
        return keras.Model(self._inputs, heads.outputs(x, task), name=self._name)


def _places(preprocessor: Preprocessor, names: Sequence[str]) -> np.ndarray:
    """Column numbers of branches of one group, [L, F]."""
    slices = [preprocessor.columns[name] for name in names]
    return np.array([range(one.start, one.stop) for one in slices], np.int32).T
