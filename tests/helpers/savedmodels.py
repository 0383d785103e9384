"""A small model to upload: score = factor * sum(x)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tensorflow as tf


class Dense(tf.Module):  # type: ignore[misc]  # tensorflow has no type information
    """score = factor * sum(x) and its negative, on [B, 3]."""

    def __init__(self, factor: float = 1.0) -> None:
        super().__init__()
        self.factor = tf.Variable(factor)

    @tf.function(input_signature=[tf.TensorSpec([None, 3], tf.float32, name="x")])  # type: ignore[untyped-decorator]
    def __call__(self, x: Any) -> Any:
        total = self.factor * tf.reduce_sum(x, axis=1, keepdims=True)
        return {"score": tf.concat([total, -total], axis=1)}


def saved(folder: Path, module: tf.Module) -> Path:
    tf.saved_model.save(module, str(folder), signatures={"serving_default": module.__call__})
    return folder
