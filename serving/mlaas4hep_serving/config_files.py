"""The text-proto files of the command line, and messages for the three that the pip package lacks.

`ModelServerConfig` comes with tensorflow-serving-api.  `BatchingParameters`, `SSLConfig` and `MonitoringConfig`
do not: their descriptors are built here, with the field names and numbers of TF-Serving, and protobuf's own parser
reads them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format, wrappers_pb2
from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

from mlaas4hep_serving.errors import invalid_argument
from mlaas4hep_serving.options import Options

PLATFORM = "tensorflow"

_Field = descriptor_pb2.FieldDescriptorProto
_INT, _BOOL, _STRING = ".google.protobuf.Int64Value", ".google.protobuf.BoolValue", ".google.protobuf.StringValue"
# message -> field -> (number, type); a leading * is a repeated field
_MESSAGES: dict[str, dict[str, tuple[int, str]]] = {
    "BatchingParameters": {
        "max_batch_size": (1, _INT),
        "batch_timeout_micros": (2, _INT),
        "max_enqueued_batches": (3, _INT),
        "num_batch_threads": (4, _INT),
        "thread_pool_name": (5, _STRING),
        "allowed_batch_sizes": (6, "*int64"),
        "pad_variable_length_inputs": (7, "bool"),
        "enable_large_batch_splitting": (8, _BOOL),
        "max_execution_batch_size": (9, _INT),
    },
    "SSLConfig": {
        "server_key": (1, "string"),
        "server_cert": (2, "string"),
        "custom_ca": (3, "string"),
        "client_verify": (4, "bool"),
    },
    "PrometheusConfig": {"enable": (1, "bool"), "path": (2, "string")},
    "MonitoringConfig": {"prometheus_config": (1, ".mlaas4hep.serving.PrometheusConfig")},
}
_TYPES = {"int64": _Field.TYPE_INT64, "bool": _Field.TYPE_BOOL, "string": _Field.TYPE_STRING}


def _build() -> dict[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(
        name="mlaas4hep_serving/config.proto",
        package="mlaas4hep.serving",
        syntax="proto3",
        dependency=[wrappers_pb2.DESCRIPTOR.name],
    )
    for message, fields in _MESSAGES.items():
        described = file.message_type.add(name=message)
        for name, (number, kind) in fields.items():
            field = described.field.add(name=name, number=number)
            field.label = _Field.LABEL_REPEATED if kind.startswith("*") else _Field.LABEL_OPTIONAL
            if kind.startswith("."):
                field.type, field.type_name = _Field.TYPE_MESSAGE, kind
            else:
                field.type = _TYPES[kind.lstrip("*")]
    pool = descriptor_pool.Default()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"mlaas4hep.serving.{name}"))
        for name in _MESSAGES
    }


_CLASSES = _build()
BatchingParameters = _CLASSES["BatchingParameters"]
SSLConfig = _CLASSES["SSLConfig"]
MonitoringConfig = _CLASSES["MonitoringConfig"]


def parse(text: str, message: type[Any], where: str) -> Any:
    """A text-proto as a message.

    Raises:
        ServingError: INVALID_ARGUMENT, text that is no such message, with line and column.
    """
    try:
        return text_format.Parse(text, message())
    except text_format.ParseError as error:
        name = message.DESCRIPTOR.name
        full = f"tensorflow.serving.{name}"
        raise invalid_argument(f"Error parsing text-format {full}: {error} ({where})") from None


def read(path: str, message: type[Any]) -> Any:
    """`parse` of a file."""
    try:
        text = Path(path).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise invalid_argument(f"{path} cannot be read: {error}") from None
    return parse(text, message, path)


def model_server_config(options: Options) -> ModelServerConfig:
    """The models of the command line.

    Raises:
        ServingError: INVALID_ARGUMENT, neither a file nor a base path, or an unreadable file.
    """
    if options.model_config_file:
        return read(options.model_config_file, ModelServerConfig)
    if not options.model_base_path and options.enable_tfaas:
        return ModelServerConfig()  # models come by upload
    if not options.model_base_path:
        raise invalid_argument("Both --model_base_path and --model_config_file are empty: give one of them")
    config = ModelServerConfig()
    config.model_config_list.config.add(
        name=options.model_name, base_path=options.model_base_path, model_platform=PLATFORM
    )
    return config
