"""The public keys of an issuer of tokens (a JWKS): of a file, or behind a URL, read again as they change."""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

import jwt

from mlaas4hep_serving.errors import ServingError, invalid_argument, unavailable

log = logging.getLogger(__name__)
_TIMEOUT_S = 10
_LASTS_S = 600.0  # that keys are used before they are fetched again
_PAUSE_S = 10.0  # at least between two fetches, whoever names keys that nobody knows
_HERE = ("localhost", "127.0.0.1", "::1")


class FileKeys:
    """The keys of a file, read again when it has changed.

    Raises:
        ServingError: INVALID_ARGUMENT, a file that cannot be read: that ends the start, not the first request.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._lock = path, threading.Lock()
        self._keys: jwt.PyJWKSet | None = None
        self._stamp: tuple[int, int] | None = None
        self._read()

    def now(self) -> jwt.PyJWKSet:
        """The keys.

        Raises:
            ServingError: UNAVAILABLE.
        """
        try:
            return self._read()
        except ServingError as error:  # tells a path, and is no fault of the client's
            log.error("%s", error.message)
            raise unavailable("the keys of the tokens' issuer cannot be read") from None

    def missed(self) -> None:
        """A token names another key: the file would tell."""

    def _read(self) -> jwt.PyJWKSet:
        try:
            stat = self._path.stat()
            stamp = (stat.st_mtime_ns, stat.st_ino)
            with self._lock:
                if self._keys is None or stamp != self._stamp:
                    self._keys, self._stamp = jwt.PyJWKSet.from_json(self._path.read_text()), stamp
                return self._keys
        except (OSError, ValueError, jwt.PyJWTError) as error:
            raise invalid_argument(f"JWKS file {self._path} cannot be read: {error}") from None


class UrlKeys:
    """The keys behind a URL, fetched by a thread, so that no request waits for the issuer.

    Where it does not answer the keys of before stay, and without any all of its tokens are told to come again.

    Raises:
        ServingError: INVALID_ARGUMENT, a URL that anybody on the way could answer.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme != "https" and (parts.scheme != "http" or parts.hostname not in _HERE):
            raise invalid_argument(
                f"auth config: jwks_url begins with https://, as keys decide who may do what: {url!r}"
            )
        self._url, self._keys = url, self._fetched(url)
        self._wanted = threading.Event()
        threading.Thread(target=self._forever, name="jwks", daemon=True).start()

    def now(self) -> jwt.PyJWKSet:
        """The keys.

        Raises:
            ServingError: UNAVAILABLE, none have come yet.
        """
        if self._keys is None:
            self.missed()
            raise unavailable("the issuer of the tokens has not told its keys yet")
        return self._keys

    def missed(self) -> None:
        """A token names another key: there may be a new one."""
        self._wanted.set()

    def _forever(self) -> None:
        while True:
            time.sleep(_PAUSE_S)
            self._wanted.wait(_LASTS_S)
            self._wanted.clear()
            self._keys = self._fetched(self._url) or self._keys

    @staticmethod
    def _fetched(url: str) -> jwt.PyJWKSet | None:
        try:
            return jwt.PyJWKClient(url, timeout=_TIMEOUT_S, cache_jwk_set=False).get_jwk_set(refresh=True)
        except (jwt.PyJWTError, ValueError) as error:
            log.error("the keys of %s cannot be fetched: %s", url, error)
            return None
