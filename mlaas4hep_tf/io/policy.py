"""Deadlines, retries and replicas of reading, and how a reader process gets to know them."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TypeVar

from mlaas4hep_tf.errors import ConfigError
from mlaas4hep_tf.io.cache import Cache, removed_on_error

R = TypeVar("R")

LONGEST_PAUSE_S = 30.0
_CREDENTIALS = re.compile(rb"XRD_|XrdSec|X509_|BEARER_TOKEN|KRB5CCNAME$|XDG_RUNTIME_DIR$")


@dataclass(frozen=True)
class ReadPolicy:
    """Deadlines, retries and replicas of reading.  Nothing waits without an end.

    Attributes:
        request_timeout_s: seconds for one request to a server, connecting included.
        work_timeout_s: seconds for one piece of work, which is the opening of a file or the reading of a block; a
            reader process that takes longer is killed and replaced; a user's executor, which does not tell when work
            begins there, may take as long from the last piece that it ended.
        retries: how often a piece of work that failed is tried again; 0 for never.
        backoff_s: seconds of pause before the first retry; it doubles with each one, up to 30, and is drawn anew
            between half of that and all of it, so that many clients do not come back at once.
        replicas: start of a URL -> what may stand there instead, such as
            ``{"root://a.example//": ["root://b.example//"]}``; every try goes to the next place in turn.

    Raises:
        ConfigError: seconds that are not positive, a negative number of retries, or replicas that are no URLs.
    """

    request_timeout_s: float = 30.0
    work_timeout_s: float = 300.0
    retries: int = 4
    backoff_s: float = 0.5
    replicas: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("request_timeout_s", "work_timeout_s"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} must be more than 0 seconds, not {getattr(self, name)}")
        if self.retries < 0 or self.backoff_s < 0:
            raise ConfigError(f"retries and backoff_s cannot be negative: {self.retries} and {self.backoff_s}")
        for place in (*self.replicas, *(other for others in self.replicas.values() for other in others)):
            if "://" not in place:
                raise ConfigError(f"replicas are starts of URLs such as root://server//path/, not {place!r}")

    def pause_s(self, attempt: int, chance: float) -> float:
        """Seconds to wait after a failed attempt (0, 1 ...), for a random number `chance` from [0, 1)."""
        return float(min(LONGEST_PAUSE_S, self.backoff_s * 2**attempt) * (0.5 + 0.5 * chance))

    def busy_pause_s(self, asked_s: float, waited_s: float, attempt: int, chance: float) -> float | None:
        """Seconds to wait for a server that asks to come back in `asked_s`, and first did `waited_s` ago.

        No more than what is left of `work_timeout_s`; None where it asks for more.
        """
        left = self.work_timeout_s - waited_s
        return None if asked_s > left else min(left, asked_s + self.pause_s(attempt, chance))

    def places(self, url: str) -> tuple[str, ...]:
        """The URL, then its replicas, those of the longest matching start."""
        starts = [start for start in self.replicas if url.startswith(start)]
        if not starts:
            return (url,)
        start = max(starts, key=len)
        return (url, *(other + url[len(start) :] for other in self.replicas[start]))

    def place(self, url: str, attempt: int) -> str:
        """Where an attempt reads a URL."""
        places = self.places(url)
        return places[attempt % len(places)]


DEFAULT_POLICY = ReadPolicy()


@dataclass(frozen=True)
class Conditions:
    """What a reader process needs to know besides its piece of work.

    Attributes:
        policy: deadlines and replicas.
        cache: where remote bytes are kept, if anywhere.
        attempt: how often this piece of work failed before.
        environment: credentials and settings of XRootD, as they are in the training process.
    """

    policy: ReadPolicy = DEFAULT_POLICY
    cache: Cache | None = None
    attempt: int = 0
    environment: Mapping[str, str] = field(default_factory=dict)


_USUAL = Conditions()
conditions: ContextVar[Conditions] = ContextVar("conditions", default=_USUAL)


def place(url: str) -> str:
    """Where this attempt reads a URL."""
    now = conditions.get()
    return now.policy.place(url, now.attempt)


def credentials() -> dict[str, str]:
    """The variables of this process that tell XRootD and HTTP servers who we are, and XRootD how to behave."""
    names = [*filter(_CREDENTIALS.match, os.environb)]  # as bytes: to decode all of them takes longer
    return {os.fsdecode(name): os.fsdecode(os.environb[name]) for name in names}


def perform(given: Conditions, function: Callable[..., R], *args: object) -> R:
    """Runs in a reader process: do a piece of work under these conditions."""
    _have({**xrootd_settings(given.policy), **given.environment})
    token = conditions.set(given)
    try:
        with removed_on_error():
            return function(*args)
    finally:
        conditions.reset(token)


def _have(wanted: Mapping[str, str]) -> None:
    """Have these variables and no others of their kind, as most pieces of work find them already."""
    now = credentials()
    if now != wanted:
        for name in now.keys() - wanted.keys():
            del os.environ[name]
        os.environ.update(wanted)


def xrootd_settings(policy: ReadPolicy) -> dict[str, str]:
    """The time limits in XRootD's terms; its own defaults are half an hour."""
    seconds = max(1, round(policy.request_timeout_s))
    # a connection that says nothing is given up before a request on it expires, or all later ones would wait on it, too
    limits = {"XRD_REQUESTTIMEOUT": seconds, "XRD_CONNECTIONWINDOW": seconds, "XRD_STREAMTIMEOUT": max(1, seconds - 1)}
    # XRootD tries once and does not wait: the worker pool pauses and tries again
    return {name: str(limit) for name, limit in limits.items()} | {
        "XRD_CONNECTIONRETRY": "1", "XRD_STREAMERRORWINDOW": "0", "XRD_TIMEOUTRESOLUTION": "1",
    }  # fmt: skip
