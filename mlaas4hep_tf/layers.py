"""Layers on the columns of a vector: which they are, and objects pooled by their mask."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np


@keras.saving.register_keras_serializable(package="mlaas4hep_tf")
class TakeColumns(keras.layers.Layer):  # type: ignore[misc]  # keras has no type information
    """Columns of a matrix by number: [B, D] -> [B, *shape of the numbers]."""

    def __init__(self, columns: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.columns = np.asarray(columns, np.int32)

    def call(self, inputs: Any) -> Any:
        taken = keras.ops.take(inputs, self.columns.ravel(), axis=1)
        return keras.ops.reshape(taken, (-1, *self.columns.shape))

    def compute_output_spec(self, inputs: Any) -> Any:
        return keras.KerasTensor((inputs.shape[0], *self.columns.shape), inputs.dtype)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "columns": self.columns.tolist()}


@keras.saving.register_keras_serializable(package="mlaas4hep_tf")
class MaskedPool(keras.layers.Layer):  # type: ignore[misc]  # keras has no type information
    """Mean and maximum over the real objects: features [B, L, H], real [B, L, F] -> [B, 2 H]; 0 where there is none.

    An object is real if at least one of its branches is.
    """

    def call(self, inputs: Any) -> Any:
        features, real = inputs
        weight = keras.ops.cast(keras.ops.any(real, axis=-1, keepdims=True), features.dtype)  # [B, L, 1]
        count = keras.ops.sum(weight, axis=1)  # [B, 1]
        mean = keras.ops.sum(features * weight, axis=1) / keras.ops.maximum(count, 1)
        largest = keras.ops.max(features * weight, axis=1)  # features are ReLU outputs: 0 is their floor
        return keras.ops.concatenate([mean, largest], axis=-1)

    def compute_output_spec(self, inputs: Any) -> Any:
        shape = inputs[0].shape
        return keras.KerasTensor((shape[0], 2 * shape[2]), inputs[0].dtype)
