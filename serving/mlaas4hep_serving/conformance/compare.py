"""How what came is held against what a case expects."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Case = Mapping[str, Any]


class Failed(Exception):
    """A case that does not hold, and why."""


class NotRun(Exception):
    """A case that cannot be run here, and why."""


def check(holds: bool, reason: str) -> None:
    """Fail with a reason unless it holds."""
    if not holds:
        raise Failed(reason[:600])


def equal(expected: Any, got: Any, where: str = "value") -> None:
    """Compare as JSON: numbers by value (``"NaN"``, ``"Infinity"`` may be words), float32 precision."""
    if isinstance(expected, Mapping):
        check(isinstance(got, Mapping) and set(expected) == set(got), f"{where}: expected {expected}, got {got}")
        for key in expected:
            equal(expected[key], got[key], f"{where}.{key}")
    elif isinstance(expected, Sequence) and not isinstance(expected, str):
        same = isinstance(got, Sequence) and not isinstance(got, str) and len(got) == len(expected)
        check(same, f"{where}: expected {expected}, got {got}")
        for i, item in enumerate(expected):
            equal(item, got[i], f"{where}[{i}]")
    else:
        check(_same(expected, got), f"{where}: expected {expected!r}, got {got!r}")


def _same(expected: Any, got: Any) -> bool:
    if isinstance(expected, str) and isinstance(got, str):
        return expected == got
    wanted, value = _number(expected), _number(got)
    if wanted is None or value is None:
        return bool(expected == got)
    if math.isnan(wanted) or math.isnan(value):
        return math.isnan(wanted) and math.isnan(value)
    return wanted == value or bool(np.isclose(wanted, value, rtol=1e-6, atol=0))


def _number(value: Any) -> float | None:
    if value in ("NaN", "Infinity", "-Infinity"):
        return float(value)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def body(text: str) -> bytes:
    """A request body with its placeholders expanded: ``GZIP(...)``, ``<"[" x N>``, ``"A"*N``."""
    import gzip

    if text.startswith("GZIP(") and text.endswith(")"):
        return gzip.compress(body(text[5:-1]))
    text = re.sub(r'<"([^"]+)" x (\d+)>', lambda m: m[1] * int(m[2]), text)
    text = re.sub(r'"(\w)"\*(\d+)', lambda m: '"' + m[1] * int(m[2]) + '"', text)
    return text.encode()


def message(expect: Case, got: str, prefix: str) -> None:
    """``error_*`` or ``message_*`` of an expectation against a message; an empty ``prefix`` error is a failure."""
    if prefix in expect or f"{prefix}_equals" in expect:
        wanted = expect.get(prefix, expect.get(f"{prefix}_equals"))
        check(got == wanted, f"{prefix}: expected {wanted!r}, got {got!r}")
    for key in (f"{prefix}_contains", f"{prefix}_prefix", f"{prefix}_suffix"):
        parts = expect.get(key, [])
        for part in [parts] if isinstance(parts, str) else parts:
            found = {"contains": part in got, "prefix": got.startswith(part), "suffix": got.endswith(part)}
            check(found[key.rsplit("_", 1)[1]], f"{key}: expected {part!r}, got {got!r}")


def known(given: Case, names: Sequence[str], where: str, required: Sequence[str] = ()) -> None:
    """Refuse keys that nothing here understands, for a check that is not made must not pass; and missing ones.

    Raises:
        NotRun: which.
    """
    strange = sorted(set(given) - set(names) - set(required))
    if strange:
        raise NotRun(f"{where} has keys that this replay does not understand: {', '.join(strange)}")
    missing = [name for name in required if name not in given]
    if missing:
        raise NotRun(f"{where} has no {', '.join(missing)}")
