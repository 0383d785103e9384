"""How fast the stream is on the user's files, beside what a user would pick instead."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlaas4hep_tf.bench.compare import Bench, environment, run_bench

__all__ = ["Bench", "environment", "run_bench"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("mlaas4hep_tf.bench.compare"), name)
