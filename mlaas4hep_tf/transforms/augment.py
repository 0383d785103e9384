"""An `Augmentation` as tf ops; its random numbers depend on seed, epoch and event alone, so that training can go on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property

import numpy as np
import tensorflow as tf

from mlaas4hep_tf.transforms.augmentation import Augmentation
from mlaas4hep_tf.transforms.vector import Preprocessor


class Augmenter:
    """Applies an `Augmentation` to raw vectors."""

    def __init__(self, how: Augmentation, preprocessor: Preprocessor, seed: int) -> None:
        self._chosen, self._preprocessor, self._seed = how.branches(preprocessor.specs), preprocessor, seed

    def __call__(self, vector: tf.Tensor, turn: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
        """The events changed.

        Args:
            vector: raw, float32 [n, D].
            turn: numbers of epoch and chunk, int32 [2].
            rows: numbers of the events in the chunk, int32 [n].

        Returns:
            float32 [n, D].
        """
        key = _mixed(tf.cast(rows, tf.uint32) ^ _mixed(_uint(self._seed) ^ _folded(tf.cast(turn, tf.uint32))))
        turned, flipped = self._numbers("rotate") > 0, self._numbers("flip") > 0
        if turned.any():
            angle = vector + 2 * math.pi * uniform(key, [0])
            wrapped = angle - 2 * math.pi * tf.floor((angle + math.pi) / (2 * math.pi))
            vector = tf.where(turned, wrapped, vector)
        if flipped.any():
            vector = tf.where(flipped & (uniform(key, [1]) < 0.5), -vector, vector)
        if self._chosen["smear"]:
            vector *= 1 + self._numbers("smear") * self._each(normal(key, 2 + 2 * self._smeared), self._smeared, 0.0)
        if self._chosen["drop"]:
            objects = np.unique(self._objects[self._objects >= 0])
            first = 2 + 2 * self._preprocessor.width  # behind the draws of what is smeared
            chance = self._each(uniform(key, first + objects), objects, 1.0, self._objects)
            vector = tf.where(chance < self._numbers("drop"), np.float32(np.nan), vector)
        return vector

    def _numbers(self, what: str) -> np.ndarray:
        """The number of each column, float32 [D]; 0 where nothing is done."""
        found = np.zeros(self._preprocessor.width, np.float32)
        for name, number in self._chosen[what].items():
            found[self._preprocessor.columns[name]] = number
        return found

    @cached_property
    def _smeared(self) -> np.ndarray:
        return np.flatnonzero(self._numbers("smear"))

    @cached_property
    def _objects(self) -> np.ndarray:
        """The object that each column belongs to, by the first column that it has; -1 where none is dropped."""
        found = np.full(self._preprocessor.width, -1)
        for members in self._preprocessor.specs.groups.values():
            first = self._preprocessor.columns[members[0].name].start
            for branch in members:
                if branch.name in self._chosen["drop"]:
                    own = self._preprocessor.columns[branch.name]
                    found[own] = first + np.arange(own.stop - own.start)
        return found

    def _each(
        self, values: tf.Tensor, which: np.ndarray, default: float, wanted: np.ndarray | None = None
    ) -> tf.Tensor:
        """Values [n, k] of some numbers -> [n, D], of the wanted number of each column; the default for no such."""
        wanted = np.arange(self._preprocessor.width) if wanted is None else wanted
        place = {int(number): at for at, number in enumerate(which) if number >= 0}
        order = np.array([place.get(int(number), len(which)) for number in wanted], np.int32)
        return tf.gather(tf.pad(values, [[0, 0], [0, 1]], constant_values=default), order, axis=1)


def uniform(key: tf.Tensor, numbers: Sequence[int] | np.ndarray) -> tf.Tensor:
    """Random numbers in (0, 1): keys of events uint32 [n], numbers of draws [k] -> float32 [n, k]."""
    draw = _mixed(tf.constant(np.asarray(numbers, np.uint32)) + _uint(0x9E3779B9))
    bits = _mixed(key[:, tf.newaxis] ^ draw)
    return (tf.cast(tf.bitwise.right_shift(bits, _uint(8)), tf.float32) + 0.5) / (1 << 24)


def normal(key: tf.Tensor, numbers: np.ndarray) -> tf.Tensor:
    """The same of a normal distribution (Box and Muller); each takes its number and the one behind it."""
    radius = tf.sqrt(-2 * tf.math.log(uniform(key, numbers)))
    return radius * tf.cos(2 * math.pi * uniform(key, numbers + 1))


def _folded(turn: tf.Tensor) -> tf.Tensor:
    """Epoch and chunk as one number."""
    return _mixed(_mixed(turn[0] + _uint(1)) ^ turn[1])


def _mixed(x: tf.Tensor) -> tf.Tensor:
    """A number that looks like any other: lowbias32 (C. Wellons, hash-prospector), one to one; uint32 -> uint32."""
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        x = (x ^ tf.bitwise.right_shift(x, _uint(shift))) * _uint(factor)
    return x ^ tf.bitwise.right_shift(x, _uint(16))


def _uint(number: int) -> tf.Tensor:
    return tf.constant(number & 0xFFFFFFFF, tf.uint32)
