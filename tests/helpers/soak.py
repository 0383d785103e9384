"""How many cases of a campaign run: a few by default, many under ``make soak`` (MLAAS4HEP_SOAK=1)."""

import os

SOAK = os.environ.get("MLAAS4HEP_SOAK", "") not in ("", "0")


def cases(few: int, many: int) -> int:
    return many if SOAK else few


def report(what: str, **counts: object) -> None:
    """What a campaign has run, for the reader of ``make soak``; kept by pytest otherwise."""
    print(f"\nsoak: {what}: " + ", ".join(f"{count} {name}" for name, count in counts.items()))
