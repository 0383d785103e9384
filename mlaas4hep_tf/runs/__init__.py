"""A training run as a folder: `RunConfig`, `Run`, `train_run` and `evaluate_run`, loaded when first used."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlaas4hep_tf.runs.run import Run, RunConfig, evaluate_run, train_run

__all__ = ["Run", "RunConfig", "evaluate_run", "train_run"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("mlaas4hep_tf.runs.run"), name)
