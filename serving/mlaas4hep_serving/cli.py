"""``mlaas4hep-serve``: the server as a process, or as several that share their ports."""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
import threading
from collections.abc import Sequence

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from mlaas4hep_serving.errors import ServingError
from mlaas4hep_serving.extras import SERVE, TFAAS, need
from mlaas4hep_serving.options import Options, listening, parse


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until SIGTERM or SIGINT, then drain.  Returns the exit status."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    try:
        options = parse(arguments)
        need("serve", SERVE, "mlaas4hep-serve")
        if options.enable_tfaas:
            need("serve,tfaas", TFAAS, "--enable_tfaas")
        from mlaas4hep_serving import config_files, supervisor  # here: --help and --version need neither

        config_files.model_server_config(options)  # a mistake is told before TensorFlow has taken its seconds
        if options.processes > 1 and not options.shared_folder:
            return supervisor.run(options)
        return _serve(options)
    except ServingError as error:
        print(f"Failed to start server. Error: {error}", file=sys.stderr)
        return 1


def _serve(options: Options) -> int:
    from mlaas4hep_serving.quietly import import_tensorflow  # here: it takes seconds, --help should not

    import_tensorflow()
    from mlaas4hep_serving.server import Server

    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    server = Server(options)
    gc.freeze()  # a full collection walks TensorFlow's modules for 0.4 s, and every request waits
    served = {name: server.repository.available(name) for name in server.repository.models()}
    print(listening(options, server.grpc_port, server.rest_port, served), flush=True)
    stop.wait()
    server.stop()
    return 0
