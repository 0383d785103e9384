"""The model card of a version folder, ``assets.extra/model_card.json``, as `mlaas4hep-tf export` writes it."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)
FILE = Path("assets.extra") / "model_card.json"


def read(folder: Path) -> dict[str, Any]:
    """The card; empty where there is none, and, with a line in the log, where it is no JSON object."""
    path = folder / FILE
    try:
        card = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        log.warning("%s cannot be read: %s", path, error)
        return {}
    if not isinstance(card, dict):
        log.warning("%s is no JSON object", path)
        return {}
    return card


def pads_with_nan(card: dict[str, Any]) -> bool:
    """True where the model takes NaN as "no value here", so that requests of different widths may share a batch."""
    return card.get("padding") == "NaN"
