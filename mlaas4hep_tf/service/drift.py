"""Whether what a served model is asked has gone so far from what it was trained on that it is trained again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from mlaas4hep_client.over_http import Http

FEWEST = 1000  # values, of which chance alone moves a PSI by 0.01
_TIMEOUT_S = 10.0


def counted(server: str, token: str | None) -> list[dict[str, Any]]:
    """What a server that runs with ``--count_inputs`` tells of its inputs.

    Raises:
        ServingError: it does not answer, or does not count.
    """
    return Http(server, token, _TIMEOUT_S, None).drift()


def gone(rows: Iterable[Mapping[str, Any]], name: str, version: int, threshold: float) -> str | None:
    """The input of a version that has gone farthest beyond a threshold of the PSI, in words; None where none has."""
    own = [
        row for row in rows
        if (row["model"], row["version"]) == (name, version) and sum(row["served"][:-1]) >= FEWEST
        and row["psi"] > threshold
    ]  # fmt: skip
    if not own:
        return None
    worst = max(own, key=lambda row: row["psi"])
    return (
        f"drift: {worst['input']} of {worst['events']} events that version {version} is asked has a PSI of "
        f"{worst['psi']:.2f} against its training, and {threshold:g} is allowed"
    )
