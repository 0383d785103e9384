"""The model card of a version folder, ``assets.extra/model_card.json``, as `mlaas4hep-tf export` writes it."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from mlaas4hep_serving.wire.jsonreader import deeper_than

log = logging.getLogger(__name__)
FILE = Path("assets.extra") / "model_card.json"
LARGEST, DEEPEST = 16 << 20, 50  # bytes; levels of lists and objects


def read(folder: Path) -> dict[str, Any]:
    """The card; empty where there is none, and, with a line in the log, where it is no JSON object."""
    path = folder / FILE
    try:
        text = path.read_bytes()
        if len(text) > LARGEST or deeper_than(text, DEEPEST):
            raise ValueError(f"more than {LARGEST} bytes, or nested deeper than {DEEPEST} levels")
        card = json.loads(text)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        log.warning("%s cannot be read: %s", path, error)
        return {}
    if not isinstance(card, dict):
        log.warning("%s is no JSON object", path)
        return {}
    return card


def pads_with_nan(card: dict[str, Any]) -> bool:
    """True where the model takes NaN as "no value here", so that requests of different widths may share a batch."""
    return card.get("padding") == "NaN"
