"""The command line: TF-Serving's flag names and defaults, and some of our own."""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from difflib import get_close_matches
from typing import Any, NoReturn
from urllib.parse import quote

from mlaas4hep_client import __version__

from mlaas4hep_serving.errors import invalid_argument

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Options:
    """All flags; names and defaults as in TF-Serving, times as the names say."""

    port: int = 8500
    rest_api_port: int = 8501
    rest_api_timeout_in_ms: int = 30000
    rest_api_enable_cors_support: bool = False
    rest_api_num_threads: int = 64
    model_name: str = "default"
    model_base_path: str = ""
    model_config_file: str = ""
    model_config_file_poll_wait_seconds: int = 0
    file_system_poll_wait_seconds: float = 1.0
    max_num_load_retries: int = 5
    load_retry_interval_micros: int = 60_000_000
    enable_batching: bool = False
    enable_per_model_batching_parameters: bool = False
    batching_parameters_file: str = ""
    monitoring_config_file: str = ""
    ssl_config_file: str = ""
    allow_version_labels_for_unavailable_models: bool = False
    enable_grpc_healthcheck_service: bool = False
    enable_model_warmup: bool = True
    grpc_channel_arguments: str = ""
    grpc_max_threads: int = 128
    saved_model_tags: str = "serve"
    tensorflow_session_parallelism: int = 0
    tensorflow_intra_op_parallelism: int = 0
    tensorflow_inter_op_parallelism: int = 0
    tensorflow_session_config_file: str = ""
    per_process_gpu_memory_fraction: float = 0.0
    grpc_socket_path: str = ""
    use_alts_credentials: bool = False
    num_load_threads: int = 0
    num_request_iterations_for_warmup: int = 0
    flush_filesystem_caches: bool = True
    enable_signature_method_name_check: bool = False
    enable_serialization_as_tensor_content: bool = False
    # not TF-Serving's
    host: str = "127.0.0.1"
    processes: int = 1
    access_log: bool = False
    drain_seconds: float = 30.0
    load_patience_seconds: float = 60.0
    max_request_bytes: int = 256 << 20
    max_tensor_bytes: int = 0
    max_inflight_bytes: int = 0
    enable_model_list: bool = False
    count_inputs: bool = False
    auth_config_file: str = ""
    requests_per_second_per_client: float = 0
    enable_tfaas: bool = False
    tfaas_base_path: str = ""
    max_upload_processes: int = 4
    trust_uploads: bool = False
    publish_base_path: str = ""
    registry: str = ""
    shared_folder: str = ""

    def __post_init__(self) -> None:
        if self.max_upload_processes < 1:
            raise invalid_argument(f"--max_upload_processes is at least 1; was {self.max_upload_processes}")
        if self.enable_tfaas and not self.tfaas_base_path:
            raise invalid_argument("--enable_tfaas needs --tfaas_base_path, the folder of the uploaded models")
        if self.grpc_socket_path and self.processes > 1:
            raise invalid_argument("--grpc_socket_path works with one process: a socket in a folder has one listener")
        if self.use_alts_credentials and self.ssl_config_file:
            raise invalid_argument("--use_alts_credentials and --ssl_config_file exclude each other")
        if self.enable_tfaas and self.processes > 1:
            raise invalid_argument("--enable_tfaas works with one process: others would go on with a deleted model")


# TF-Serving's other flags: its default, and why it means nothing here
MEANINGLESS: Mapping[str, tuple[Any, str]] = {
    "enable_profiler": (True, "there is no profiler service"),
    "mixed_precision": ("", "models run in the precision that they were exported with"),
    "num_tflite_interpreters_per_pool": (0, "TensorFlow Lite models are not served"),
    "num_tflite_pools": (0, "TensorFlow Lite models are not served"),
    "num_unload_threads": (0, "a version is unloaded where its last request ends"),
    "platform_config_file": ("", "there is one platform, tensorflow"),
    "prefer_tflite_model": (False, "TensorFlow Lite models are not served"),
    "remove_unused_fields_from_bundle_metagraph": (True, "the memory of a graph is TensorFlow's own affair"),
    "skip_initialize_tpu": (False, "TPUs are not used"),
    "thread_pool_factory_config_file": ("", "TensorFlow's own pools are used"),
    "xla_cpu_compilation_enabled": (False, "models compile what was exported with jit_compile"),
    "xla_gpu_compilation_enabled": (False, "models compile what was exported with jit_compile"),
}
_HELP = {
    "tensorflow_session_config_file": "text-proto ConfigProto of TensorFlow's sessions; flags overrule it",
    "per_process_gpu_memory_fraction": "part of a GPU's memory; 0 lets TensorFlow choose",
    "grpc_socket_path": "listen for gRPC on a Unix socket, too",
    "use_alts_credentials": "Google's ALTS on the gRPC port",
    "num_load_threads": "models that are loaded at the same time; 0 is one",
    "num_request_iterations_for_warmup": "how often each request for the warm-up is run; 0 is once",
    "flush_filesystem_caches": "do not keep the files of a version in the system's cache when it is loaded",
    "enable_signature_method_name_check": "refuse signatures whose method name is not that of the request",
    "enable_serialization_as_tensor_content": "answers over gRPC carry tensor_content in place of *_val",
    "port": "gRPC port; 0 switches gRPC off, -1 takes any free one",
    "rest_api_port": "HTTP port; 0 switches HTTP off, -1 takes any free one",
    "model_name": "name of the model of --model_base_path",
    "model_base_path": "folder with one folder per version; instead of --model_config_file",
    "model_config_file": "text-proto ModelServerConfig",
    "model_config_file_poll_wait_seconds": "read the config again so often; 0 never",
    "file_system_poll_wait_seconds": "look for new versions so often; 0 once at the start",
    "max_num_load_retries": "how often a version that fails to load is tried again",
    "enable_batching": "run requests to one signature together",
    "batching_parameters_file": "text-proto BatchingParameters",
    "enable_per_model_batching_parameters": "batch only models with batching_params.pbtxt in the version folder",
    "monitoring_config_file": "text-proto MonitoringConfig: metrics for Prometheus",
    "host": "address to listen on",
    "access_log": "one line of JSON on stderr for each request",
    "processes": "server processes that share the ports",
    "max_request_bytes": "largest body of an HTTP request and largest gRPC message",
    "max_tensor_bytes": "most bytes of the tensors of a request, or of its answer; 0 is --max_request_bytes",
    "max_inflight_bytes": "bytes of all bodies in flight, inflated ones included; 0 is an eighth of the memory",
    "enable_model_list": "GET /v1/models lists the models, which TF-Serving refuses",
    "count_inputs": "compare what models are asked with the reference histograms of their cards: /drift, metrics",
    "auth_config_file": "TOML file of the tokens and their scopes; without it everybody may predict and read",
    "requests_per_second_per_client": "rate of one address, with bursts of twice as many; 0 is no limit",
    "enable_tfaas": "answer TFaaS's endpoints (/json, /proto, /image, /upload ...) on the HTTP port",
    "tfaas_base_path": "folder of the uploaded models; needs --enable_tfaas",
    "publish_base_path": "folder of the models that are published, /v1/publish, with stable and canary versions",
    "registry": "folder or URI of a registry whose models are shown at /registry; needs mlaas4hep_tf[service]",
    "max_upload_processes": "processes that uploaded models run in, one for each model in use",
    "trust_uploads": "run uploaded models in the server itself",
    "load_patience_seconds": "a version folder that stays incomplete for so long is told in log and status",
    "drain_seconds": "at SIGTERM, the longest time for requests under way",
}


def parse(arguments: Sequence[str] | None = None) -> Options:
    """Read flags, ``--name=value`` or ``--name value``; a boolean may stand alone."""
    parser = _Parser(
        prog="mlaas4hep-serve",
        description="Serve SavedModels with TensorFlow Serving's interfaces.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    for item in fields(Options):
        text = f"{_HELP.get(item.name, '')} (default {item.default!r})"
        hidden = item.name == "shared_folder"  # from the supervisor to its workers
        _add(parser, item.name, item.default, argparse.SUPPRESS if hidden else text)
    for name, (default, why) in MEANINGLESS.items():
        _add(parser, name, default, f"means nothing here: {why}")
    known, unknown = parser.parse_known_args(arguments)
    if unknown:
        parser.error(_unknown(unknown[0].partition("=")[0], [*vars(known)]))
    given = vars(known)
    for name, (default, why) in MEANINGLESS.items():
        if given.pop(name) != default:
            log.warning("--%s means nothing here: %s", name, why)
    base = given["model_base_path"]
    if base and "://" not in base:
        given["model_base_path"] = os.path.abspath(base)  # TF-Serving refuses a path of the working directory
    return Options(**given)


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line: the usage has ninety."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message}; see --help\n")


def _unknown(given: str, names: Sequence[str]) -> str:
    close = get_close_matches(given.lstrip("-").replace("-", "_"), names, n=1)
    return f"no flag {given}" + (f", did you mean --{close[0]}?" if close else "")


def _add(parser: argparse.ArgumentParser, name: str, default: Any, text: str) -> None:
    if isinstance(default, bool):
        parser.add_argument(f"--{name}", default=default, help=text, nargs="?", const=True, type=_bool)
    else:
        parser.add_argument(f"--{name}", default=default, help=text, type=type(default))


def _bool(text: str) -> bool:
    if text.lower() in ("true", "t", "1", "yes"):
        return True
    if text.lower() in ("false", "f", "0", "no"):
        return False
    raise argparse.ArgumentTypeError(f"true or false, not {text!r}")


def listening(
    options: Options, grpc_port: int, rest_port: int, models: Mapping[str, Sequence[int]] | None = None
) -> str:
    """What the server says when it is ready: a line of where it listens, then one for each model, and the page.

    Args:
        models: name -> versions that answer; None where they are not known.
    """
    host = f"[{options.host}]" if ":" in options.host else options.host
    scheme = "https" if options.ssl_config_file else "http"
    parts = [f"gRPC at {host}:{grpc_port}"] if grpc_port else []
    parts += [f"gRPC at unix:{options.grpc_socket_path}"] if options.grpc_socket_path else []
    parts += [f"HTTP at {scheme}://{host}:{rest_port}"] if rest_port else []
    lines = ["mlaas4hep-serve listens: " + ", ".join(parts)]
    if rest_port:
        base = f"{scheme}://{host}:{rest_port}"
        lines += [
            f"  {_versions(name, found)}: {base}/v1/models/{quote(name, '')}:predict"
            for name, found in (models or {}).items()
        ]
        lines.append(f"  models, and a form to try them: {base}/")
    return "\n".join(lines)


def _versions(name: str, found: Sequence[int]) -> str:
    many = "s" if len(found) > 1 else ""
    return f"{name}, version{many} {', '.join(map(str, found))}" if found else f"{name}, no version yet"


def arguments(options: Options) -> list[str]:
    """Flags that `parse` reads back as ``options``."""
    return [f"--{item.name}={getattr(options, item.name)}" for item in fields(Options)]
