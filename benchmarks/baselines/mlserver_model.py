"""The model as MLServer serves it: a runtime of its own that calls `signatures`; read by MLServer, not by us."""

from __future__ import annotations

import os
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import tensorflow as tf
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse


class SavedModelRuntime(MLModel):  # type: ignore[misc]  # MLServer is in an environment of its own
    async def load(self) -> bool:
        self._loaded: Any = tf.saved_model.load(self.settings.parameters.uri)
        self._infer = self._loaded.signatures["serving_default"]
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        x = NumpyCodec.decode_input(payload.inputs[0])
        score = self._infer(x=tf.constant(x, tf.float32))["score"].numpy()
        output = NumpyCodec.encode_output("score", score)
        return InferenceResponse(model_name=self.name, outputs=[output])
