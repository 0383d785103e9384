"""A training run as a folder: what was asked for, what came out, and the report.

Its names are loaded when first used: reading a parameter file or a configuration needs no TensorFlow.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlaas4hep_tf.runs.config import RunConfig
    from mlaas4hep_tf.runs.run import Run, evaluate_run, train_run

__all__ = ["Run", "RunConfig", "evaluate_run", "train_run"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"mlaas4hep_tf.runs.{'config' if name == 'RunConfig' else 'run'}"), name)
