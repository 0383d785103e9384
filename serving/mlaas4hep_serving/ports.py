"""TCP ports that are ours to listen on, or whose they are not: asked before TensorFlow has taken its seconds."""

from __future__ import annotations

import socket

from mlaas4hep_serving.errors import invalid_argument
from mlaas4hep_serving.options import Options


def check_free(options: Options) -> None:
    """Raise INVALID_ARGUMENT if the server cannot have one of its ports."""
    for what, port in (("gRPC", options.port), ("HTTP", options.rest_api_port)):
        if port > 0:
            bound(what, options.host, port).close()


def bound(what: str, host: str, port: int, *, reuse_port: bool = False) -> socket.socket:
    """A socket of this port, or of any free one below 1, that does not listen yet.

    Raises:
        ServingError: INVALID_ARGUMENT where somebody else has it, or the host is none of this machine.
    """
    held = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if reuse_port:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        held.bind((host, max(port, 0)))
    except OSError as error:
        held.close()
        raise invalid_argument(f"{what} cannot listen on {host}:{port}: {error.strerror}") from None
    return held
