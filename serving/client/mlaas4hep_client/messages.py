"""The messages of PredictionService, in a descriptor pool of their own.

Protobuf's default pool takes each message name once, and TensorFlow registers the same names there: messages of a
private pool live beside it in one process.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_FILES = Path(__file__).parent / "protos" / "messages.binpb"  # made from the .proto files beside it by `make protos`


def own_pool(descriptors: Path) -> descriptor_pool.DescriptorPool:
    """A pool of its own with the files of a compiled descriptor set, which every release of protobuf reads."""
    pool = descriptor_pool.DescriptorPool()
    for file in descriptor_pb2.FileDescriptorSet.FromString(descriptors.read_bytes()).file:
        pool.Add(file)
    return pool


_POOL = own_pool(_FILES)


def _message(name: str) -> Any:
    return message_factory.GetMessageClass(_POOL.FindMessageTypeByName(name))


TensorProto = _message("tensorflow.TensorProto")
PredictRequest = _message("tensorflow.serving.PredictRequest")
PredictResponse = _message("tensorflow.serving.PredictResponse")
GetModelMetadataRequest = _message("tensorflow.serving.GetModelMetadataRequest")
GetModelMetadataResponse = _message("tensorflow.serving.GetModelMetadataResponse")
SignatureDefMap = _message("tensorflow.serving.SignatureDefMap")
DTYPES: dict[str, int] = {value.name: value.number for value in _POOL.FindEnumTypeByName("tensorflow.DataType").values}
