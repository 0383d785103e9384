"""TLS for both ports, from ``--ssl_config_file``."""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from mlaas4hep_serving.errors import invalid_argument
from mlaas4hep_serving.scratch import Scratch


@dataclass(frozen=True)
class Tls:
    """``--ssl_config_file``: PEM texts; with ``client_verify`` clients need a certificate of ``ca``."""

    key: bytes
    certificate: bytes
    ca: bytes = b""
    client_verify: bool = False

    @classmethod
    def of(cls, config: Any) -> Tls:
        """From a `messages.SSLConfig`.

        Raises:
            ServingError: INVALID_ARGUMENT, parts that are missing.
        """
        if not config.server_key or not config.server_cert:
            raise invalid_argument("--ssl_config_file needs server_key and server_cert, as PEM texts")
        if config.client_verify and not config.custom_ca:
            raise invalid_argument("--ssl_config_file: client_verify needs custom_ca, as a PEM text")
        key, certificate, ca = (text.encode() for text in (config.server_key, config.server_cert, config.custom_ca))
        return cls(key, certificate, ca, config.client_verify)

    def grpc_credentials(self) -> Any:
        """For the gRPC port."""
        return grpc.ssl_server_credentials([(self.key, self.certificate)], self.ca or None, self.client_verify)

    def context(self) -> ssl.SSLContext:
        """For the HTTP port; TLS 1.2 or newer.

        Raises:
            ServingError: INVALID_ARGUMENT, no such key or certificate.
        """
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.set_alpn_protocols(["http/1.1"])
        try:
            with Scratch() as folder:  # mode 0700, gone afterwards
                pem = Path(folder) / "server.pem"
                pem.touch(mode=0o600)
                pem.write_bytes(self.key + b"\n" + self.certificate)
                context.load_cert_chain(os.fspath(pem))
            if self.client_verify:
                context.load_verify_locations(cadata=self.ca.decode())
                context.verify_mode = ssl.CERT_REQUIRED
        except (OSError, ValueError) as error:
            raise invalid_argument(f"--ssl_config_file: {error}") from None
        return context
