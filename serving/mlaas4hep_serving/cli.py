"""``mlaas4hep-serve``: the server as a process, or as several that share their ports."""

from __future__ import annotations

import gc
import json
import logging
import os
import shutil
import signal
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, NoReturn

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from mlaas4hep_serving.errors import ServingError
from mlaas4hep_serving.extras import SERVE, TFAAS, need
from mlaas4hep_serving.options import Options, listening, parse
from mlaas4hep_serving.stopping import Stop

if TYPE_CHECKING:
    from mlaas4hep_serving.server import Server

log = logging.getLogger(__name__)
_LOOK = 0.05  # seconds between looks at a server that starts
_MARGIN = 1.0  # seconds after `drain_seconds` until the process ends whatever is under way


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until SIGTERM or SIGINT, then drain.  Returns the exit status."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    try:
        options = parse(arguments)
        stop = Stop()
        need("serve", SERVE, "mlaas4hep-serve")
        if options.enable_tfaas:
            need("serve,tfaas", TFAAS, "--enable_tfaas")
        from mlaas4hep_serving import config_files, ports, scratch, supervisor  # here: --help and --version need none

        scratch.remove_left()
        config_files.model_server_config(options)  # a mistake is told before TensorFlow has taken its seconds
        if not options.shared_folder:  # else the supervisor has the ports
            ports.check_free(options)
        if options.processes > 1 and not options.shared_folder:
            return supervisor.run(options, stop)
        _serve(options, stop)
    except ServingError as error:
        print(f"Failed to start server. Error: {error}", file=sys.stderr)
        return 1


def _serve(options: Options, stop: Stop) -> NoReturn:
    if options.shared_folder:
        _stop_with_supervisor(options.shared_folder, stop)
    starting = _starting(options)
    while not starting.done():
        if stop.wait(_LOOK):
            _end()  # nothing is under way
    server = starting.result()
    gc.freeze()  # a full collection walks TensorFlow's modules for 0.4 s, and every request waits
    served = {name: server.repository.available(name) for name in server.repository.models()}
    told = listening(options, server.grpc_port, server.rest_port, served)
    print(json.dumps(told) if options.shared_folder else told, flush=True)  # a supervisor reads one line
    stop.wait()
    _end_after(options.drain_seconds + _MARGIN)
    server.stop()
    _end()


def _starting(options: Options) -> Future[Server]:
    """The server, started in a thread: this one is told of signals, which it would not be while a model is loaded."""
    started: Future[Server] = Future()

    def start() -> None:
        try:
            from mlaas4hep_serving.quietly import import_tensorflow  # here: it takes seconds, --help should not

            import_tensorflow()
            from mlaas4hep_serving.server import Server

            started.set_result(Server(options))
        except BaseException as error:  # noqa: BLE001  # raised by `result`
            started.set_exception(error)

    threading.Thread(target=start, name="start", daemon=True).start()
    return started


def _stop_with_supervisor(folder: str, stop: Stop) -> None:
    """Stop when the other end of the pipe that is our standard input closes: the supervisor has ended, however."""

    def watch() -> None:
        sys.stdin.buffer.read()
        shutil.rmtree(folder, ignore_errors=True)  # of a supervisor that was killed
        stop.ask()

    threading.Thread(target=watch, name="supervisor", daemon=True).start()


def _end_after(seconds: float) -> None:
    """The process ends by then, whatever is under way: here, or, if Python's lock cannot be had, by the kernel."""

    def cut_off() -> None:
        log.warning("what took longer than --drain_seconds was cut off")
        _end()

    timer = threading.Timer(seconds, cut_off)
    timer.daemon = True
    timer.start()
    signal.setitimer(signal.ITIMER_REAL, seconds + _MARGIN)  # nobody handles SIGALRM


def _end() -> NoReturn:
    """Exit status 0, at once: the interpreter would wait for threads in the midst of a run."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
