"""The text-proto files of the command line, read by protobuf's own parser."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from google.protobuf import text_format
from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

from mlaas4hep_serving.errors import invalid_argument
from mlaas4hep_serving.messages import BatchingParameters, MonitoringConfig, SSLConfig
from mlaas4hep_serving.options import Options

__all__ = ["BatchingParameters", "MonitoringConfig", "SSLConfig", "model_server_config", "parse", "read"]

PLATFORM = "tensorflow"


def parse(text: str, message: type[Any], where: str) -> Any:
    """A text-proto as a message.

    Raises:
        ServingError: INVALID_ARGUMENT, text that is no such message, with line and column.
    """
    try:
        return text_format.Parse(text, message())
    except text_format.ParseError as error:
        full = message.DESCRIPTOR.full_name.replace("mlaas4hep.serving.", "tensorflow.serving.")
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
    if not options.model_base_path and (options.enable_tfaas or options.publish_base_path):
        return ModelServerConfig()  # models are brought by clients
    if not options.model_base_path:
        raise invalid_argument("Both --model_base_path and --model_config_file are empty: give one of them")
    config = ModelServerConfig()
    config.model_config_list.config.add(
        name=options.model_name, base_path=options.model_base_path, model_platform=PLATFORM
    )
    return config
