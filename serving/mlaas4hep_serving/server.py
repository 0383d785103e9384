"""One server process: repository, handlers and both front ends, from start to drained stop."""

from __future__ import annotations

import asyncio
import importlib
import logging
import math
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import uvicorn
import uvloop
from tensorflow.core.protobuf.config_pb2 import ConfigProto
from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

from mlaas4hep_serving import config_files, ports
from mlaas4hep_serving.errors import ServingError, invalid_argument
from mlaas4hep_serving.frontends import grpc_server
from mlaas4hep_serving.frontends.budget import Budget
from mlaas4hep_serving.frontends.drift_pages import DriftPages
from mlaas4hep_serving.frontends.grpc_server import GrpcOptions, GrpcServer
from mlaas4hep_serving.frontends.guard import GrpcGuard, Guard
from mlaas4hep_serving.frontends.http import Route
from mlaas4hep_serving.frontends.http_limits import LimitedProtocol
from mlaas4hep_serving.frontends.pages import Pages
from mlaas4hep_serving.frontends.rest import Rest, RestOptions
from mlaas4hep_serving.frontends.tls import Tls
from mlaas4hep_serving.frontends.tokens import Tokens
from mlaas4hep_serving.metrics import Registry
from mlaas4hep_serving.models.batcher import BatchingOptions
from mlaas4hep_serving.models.drift import Drift
from mlaas4hep_serving.models.model import Model, ModelOptions, Runs, warmup_requests
from mlaas4hep_serving.models.repository import Repository, RepositoryOptions
from mlaas4hep_serving.models.savedmodel import SessionOptions, to_wait_for
from mlaas4hep_serving.models.versions import Version
from mlaas4hep_serving.options import Options
from mlaas4hep_serving.prediction import Handlers
from mlaas4hep_serving.publishing import Published

log = logging.getLogger(__name__)
SHARED_POLL = 0.2  # seconds until all processes have taken a config that one was given
PUBLISHED_POLL = 0.5  # seconds until what was published in the folder is served
_REGISTRY_PAGES = "mlaas4hep_tf.service.readonly"
METRICS_PATH = "/monitoring/prometheus/metrics"


class Server:
    """A server that runs from its construction to `stop`.

    Attributes:
        grpc_port, rest_port: where it listens; 0 where that front end is off.

    Raises:
        ServingError: flags or files that make no sense.
    """

    def __init__(self, options: Options) -> None:
        if options.port > 0 and options.port == options.rest_api_port:
            raise invalid_argument("--rest_api_port cannot be same as --port")
        self._options = options
        folder = Path(options.shared_folder) if options.shared_folder else None
        self._shared = SharedConfig(folder)
        config = self._shared.news() or config_files.model_server_config(options)
        self.metrics = Registry(folder)
        model_options = _model_options(options)
        self.drift = Drift(self.metrics) if options.count_inputs else None
        self.repository = _repository(options, model_options, self.metrics, self.drift)
        self.handlers = Handlers(
            self.repository,
            self.metrics,
            configure=self._reload,
            access_log=options.access_log,
            max_tensor_bytes=model_options.max_tensor_bytes,
            check_method_names=options.enable_signature_method_name_check,
            tensor_content=options.enable_serialization_as_tensor_content,
        )
        self.repository.configure(config)
        self._published = _published(options, self.repository)
        self.repository.start()
        self._stopping = threading.Event()
        if self._published is not None:
            self._every(PUBLISHED_POLL, self._published.poll)
        if options.model_config_file and options.model_config_file_poll_wait_seconds > 0:
            self._every(options.model_config_file_poll_wait_seconds, self._read_config_file)
        if folder is not None:
            self._every(SHARED_POLL, self._read_shared_config)
        self._listen(options)

    def _listen(self, options: Options) -> None:
        """Start the front ends that are on."""
        guard, tls = _guard(options), _tls(options)
        self._budget = Budget(options.max_inflight_bytes)
        self._grpc = (
            GrpcServer(self.handlers, _grpc_options(options, guard, tls, self._budget)) if options.port else None
        )
        self.grpc_port = self._grpc.port if self._grpc else 0
        rest = Rest(self.handlers, self._rest_options(guard)) if options.rest_api_port else None
        self._rest = _HttpThread(rest, options, tls) if rest else None
        self.rest_port = self._rest.port if self._rest else 0

    def stop(self) -> None:
        """Drain: no new connections, requests under way are answered, then the models are unloaded."""
        self._stopping.set()
        drained = self._grpc.drain(self._options.drain_seconds) if self._grpc else None
        if self._rest:
            self._rest.stop()
        if drained is not None:
            drained.wait()
        self.repository.close()

    def _tfaas(self, guard: Guard) -> list[Route]:
        if not self._options.enable_tfaas:
            return []
        from mlaas4hep_serving.tfaas.endpoints import Tfaas  # an extra
        from mlaas4hep_serving.tfaas.uploads import Uploads

        return [Tfaas(self.handlers, Uploads(Path(self._options.tfaas_base_path), self.repository), guard.permit)]

    def _rest_options(self, guard: Guard) -> RestOptions:
        options = self._options
        pages = Pages(
            self.repository,
            list_models=options.enable_model_list,
            secured=guard.tokens is not None,
            counting=self.drift is not None,
            registry=bool(options.registry),
            draining=self._stopping.is_set,
        )
        return RestOptions(
            options.rest_api_timeout_in_ms / 1000,
            options.rest_api_enable_cors_support,
            _metrics_path(options),
            options.rest_api_num_threads,
            routes=[
                guard.count,
                pages,
                *([self._published] if self._published else []),
                *([DriftPages(self.drift)] if self.drift else []),
                *_registry_pages(options, secured=guard.tokens is not None),
                *self._tfaas(guard),
            ],
            more_metrics=self.drift.text if self.drift else lambda: "",
            admit=guard.http,
            max_body=options.max_request_bytes,
            budget=self._budget,
        )

    def _reload(self, config: ModelServerConfig) -> None:
        """Take a config that came by RPC, and pass it on to the other processes."""
        self.repository.configure(config)
        self._shared.tell(config)

    def _read_config_file(self) -> None:
        self.repository.configure(config_files.model_server_config(self._options))

    def _read_shared_config(self) -> None:
        config = self._shared.news()
        if config is not None:
            self.repository.configure(config)

    def _every(self, seconds: float, act: Callable[[], None]) -> None:
        def repeat() -> None:
            while not self._stopping.wait(seconds):
                try:
                    act()
                except ServingError as error:
                    log.error("the config is not taken: %s", error)

        threading.Thread(target=repeat, name="config", daemon=True).start()


class SharedConfig:
    """The last config that any process of the server got by RPC, in a file of their folder."""

    def __init__(self, folder: Path | None) -> None:
        self._path = folder / "config.pb" if folder else None
        self._known = b""

    def tell(self, config: ModelServerConfig) -> None:
        """Leave a config for the others."""
        if self._path is None:
            return
        self._known = config.SerializeToString(deterministic=True)
        scratch = self._path.with_suffix(f".{os.getpid()}")
        scratch.write_bytes(self._known)
        scratch.replace(self._path)

    def news(self) -> ModelServerConfig | None:
        """A config that this process has neither left nor seen."""
        if self._path is None or not self._path.exists():
            return None
        found = self._path.read_bytes()
        if found == self._known:
            return None
        self._known = found
        return ModelServerConfig.FromString(found)


def _registry_pages(options: Options, *, secured: bool) -> list[Route]:
    """The pages of a registry, which another package has."""
    if not options.registry:
        return []
    try:
        return [importlib.import_module(_REGISTRY_PAGES).Pages(options.registry, secured=secured)]
    except Exception as error:  # whatever is missing there, or wrong with the registry
        raise invalid_argument(
            f"--registry {options.registry} cannot be shown: {error} (its pages need mlaas4hep_tf[service])"
        ) from error


def _published(options: Options, repository: Repository) -> Published | None:
    return Published(Path(options.publish_base_path), repository) if options.publish_base_path else None


def _model_options(options: Options) -> ModelOptions:
    if options.batching_parameters_file and not options.enable_batching:
        raise invalid_argument("--batching_parameters_file is set without setting --enable_batching to true.")
    batching = None
    if options.enable_batching:
        batching = BatchingOptions()
        if options.batching_parameters_file:
            proto = config_files.read(options.batching_parameters_file, config_files.BatchingParameters)
            batching = BatchingOptions.from_proto(proto)
    every = options.tensorflow_session_parallelism
    session = SessionOptions(
        tuple(options.saved_model_tags.split(",")),
        options.tensorflow_intra_op_parallelism or every,
        options.tensorflow_inter_op_parallelism or every,
        options.per_process_gpu_memory_fraction,
        _session_config(options),
    )
    return ModelOptions(
        session,
        batching,
        options.enable_per_model_batching_parameters,
        options.enable_model_warmup,
        options.max_tensor_bytes or options.max_request_bytes,
        max(1, options.num_request_iterations_for_warmup),
        options.flush_filesystem_caches,
    )


def _session_config(options: Options) -> bytes:
    if not options.tensorflow_session_config_file:
        return b""
    return bytes(config_files.read(options.tensorflow_session_config_file, ConfigProto).SerializeToString())


def _uploaded(options: Options, folder: Path) -> bool:
    return options.enable_tfaas and folder.is_relative_to(Path(options.tfaas_base_path).resolve())


def _repository(options: Options, model_options: ModelOptions, metrics: Registry, drift: Drift | None) -> Repository:
    apart = _apart(options, model_options)
    return Repository(
        lambda name, number, path: _load(name, number, path, model_options, metrics, apart(path), drift),
        RepositoryOptions(
            options.file_system_poll_wait_seconds,
            options.max_num_load_retries,
            options.load_retry_interval_micros / 1e6,
            options.allow_version_labels_for_unavailable_models,
            options.load_patience_seconds,
            max(1, options.num_load_threads),
        ),
        lambda path: None if _uploaded(options, path) else to_wait_for(path),  # uploads are moved in place whole
    )


def _apart(options: Options, model_options: ModelOptions) -> Callable[[Path], Runs | None]:
    """What runs the version in a folder: a process of its own for an upload, None for all others."""
    if not options.enable_tfaas or options.trust_uploads:
        return lambda _: None
    from mlaas4hep_serving.tfaas.apart import Apart, ApartOptions, Processes  # an extra

    processes = Processes(ApartOptions(options.max_upload_processes, model_options.max_tensor_bytes))
    return lambda folder: Apart(folder, processes) if _uploaded(options, folder) else None


def _load(
    name: str, number: int, folder: Path, options: ModelOptions, metrics: Registry, runs: Runs | None,
    drift: Drift | None,
) -> Model:  # fmt: skip
    model = Model(name, number, folder, options, metrics, runs)
    try:
        if options.warmup:
            _warm_up(model, metrics, options.warmup_iterations)
        if drift is not None:
            model.count_inputs(drift)
    except BaseException:
        model.close()
        raise
    if options.flush_caches:
        _flush_caches(folder)
    return model


def _flush_caches(folder: Path) -> None:
    """Tell the system that the files are not read again soon."""
    for path in filter(Path.is_file, folder.rglob("*")):
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _warm_up(model: Model, metrics: Registry, iterations: int) -> None:
    """Answer the recorded requests, each so many times, before the version is available."""
    requests = warmup_requests(model.folder, model.name, model.number)
    if not requests:
        return
    alone = Handlers(Repository.of(Version(model.name, model.number, model.folder, servable=model)), metrics)
    for operation, request in requests:
        for _ in range(iterations):
            getattr(alone, operation)(request)


def _grpc_options(options: Options, guard: Guard, tls: Tls | None, budget: Budget) -> GrpcOptions:
    return GrpcOptions(
        f"{options.host}:{max(options.port, 0)}" if options.port else "",
        options.grpc_max_threads,
        bool(options.shared_folder),
        options.enable_grpc_healthcheck_service,
        grpc_server.channel_arguments(options.grpc_channel_arguments),
        _credentials(options, tls),
        [GrpcGuard(guard)] if guard.active else [],
        options.max_request_bytes,
        budget,
        options.grpc_socket_path,
    )


def _credentials(options: Options, tls: Tls | None) -> Any:
    if options.use_alts_credentials:
        return grpc.alts_server_credentials()
    return tls.grpc_credentials() if tls else None


def _guard(options: Options) -> Guard:
    tokens = Tokens.read(Path(options.auth_config_file)) if options.auth_config_file else None
    folder = Path(options.shared_folder) if options.shared_folder else None
    return Guard(tokens, options.requests_per_second_per_client, folder)


def _tls(options: Options) -> Tls | None:
    return (
        Tls.of(config_files.read(options.ssl_config_file, config_files.SSLConfig)) if options.ssl_config_file else None
    )


def _metrics_path(options: Options) -> str | None:
    path = None
    if options.monitoring_config_file:
        prometheus = config_files.read(options.monitoring_config_file, config_files.MonitoringConfig).prometheus_config
        path = (prometheus.path or METRICS_PATH) if prometheus.enable else None
    return path


class _HttpThread:
    """uvicorn in a thread of its own."""

    def __init__(self, rest: Rest, options: Options, tls: Tls | None) -> None:
        self._rest = rest
        self._socket = _listen(options.host, options.rest_api_port, reuse_port=bool(options.shared_folder))
        self.port = self._socket.getsockname()[1]
        config = uvicorn.Config(
            rest.application(),
            loop="none",
            http=LimitedProtocol,
            lifespan="off",
            ws="none",
            access_log=False,
            log_config=None,
            server_header=False,
            timeout_graceful_shutdown=math.ceil(options.drain_seconds),
        )
        config.load()
        config.ssl = tls.context() if tls else None
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._serve, name="http", daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(self._server.serve([self._socket]))  # in a thread it leaves the signals to the process

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join()
        self._rest.close()


def _listen(host: str, port: int, *, reuse_port: bool) -> socket.socket:
    listening = ports.bound("HTTP", host, port, reuse_port=reuse_port)
    listening.listen(2048)
    return listening
