"""A version becomes what is served: copied there, routed to, and the champion only when it answers."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from mlaas4hep_tf.errors import RegistryError
from mlaas4hep_tf.registry.entries import VersionEntry
from mlaas4hep_tf.registry.registry import CHAMPION, PREVIOUS, SAVEDMODEL, Registry
from mlaas4hep_tf.registry.targets import Target, Traffic

CHALLENGER = "challenger"
WAIT_S = 60.0  # until a version answers
_CARD = Path("assets.extra") / "model_card.json"


def push(registry: Registry, target: Target, one: VersionEntry) -> None:
    """Bring a version to where it is served, and serve it beside what is; no request gets it that does not name it.

    Raises:
        RegistryError: a version that was registered without its SavedModel.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = registry.fetch(one.of.run, SAVEDMODEL, scratch)
        card = json.loads((folder / _CARD).read_text()) | {"name": one.name, "version": one.version}
        (folder / _CARD).write_text(json.dumps(card, indent=1) + "\n")
        target.put(one.name, one.version, folder)


def promote(
    registry: Registry, target: Target, name: str, which: int | str, *, canary: float | None = None,
    wait_s: float = WAIT_S,
) -> Traffic:  # fmt: skip
    """Let a version be the stable one, or a canary for a share of the requests; the aliases move when it answers.

    Args:
        canary: share of the requests that name neither version nor label, 0 to 1; None: all.

    Raises:
        RegistryError: a version that does not answer; then everything is as it was.
    """
    one, now = registry.version(name, which), target.traffic(name)
    if canary is not None and now is None:
        raise RegistryError(f"{name!r} has no stable version there yet, beside which a canary could be tried")
    if canary is not None and now is not None and now.stable == one.version:
        raise RegistryError(f"version {one.version} of {name!r} is the stable one: it is no canary")
    wanted = _traffic(now, one.version, canary)
    push(registry, target, one)
    target.route(name, wanted, wait_s)
    if canary is not None:
        registry.point(name, CHALLENGER, one.version)
        return wanted
    if now is not None and now.stable != one.version:
        registry.point(name, PREVIOUS, now.stable)
    registry.point(name, CHAMPION, one.version)
    return wanted


def _traffic(now: Traffic | None, version: int, canary: float | None) -> Traffic:
    """What is served with a new version; the stable one before it stays loaded, to go back to."""
    if now is None:
        return Traffic(version)
    if canary is not None:
        return Traffic(now.stable, version, canary, now.keep)
    return now if now.stable == version and now.canary is None else Traffic(version, keep=_before(now, version))


def _before(now: Traffic, version: int) -> tuple[int, ...]:
    return (now.stable,) if now.stable != version else tuple(kept for kept in now.keep if kept != version)


def rollback(registry: Registry, target: Target, name: str, wait_s: float = WAIT_S) -> Traffic:
    """Back to the version that was served before; where a canary is tried, to the stable version alone.

    Raises:
        RegistryError: there is no version before.
    """
    now = target.traffic(name)
    if now is not None and now.canary is not None:
        return promote(registry, target, name, now.stable, wait_s=wait_s)
    return promote(registry, target, name, PREVIOUS, wait_s=wait_s)
