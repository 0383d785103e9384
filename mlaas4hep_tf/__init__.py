"""Stream ROOT files into TensorFlow: `scan`, `RootDataset`, `export` and the rest, loaded when first used.

Importing the package imports neither TensorFlow nor uproot: the reader processes depend on that.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "Cache": "io.cache",
    "DataWarning": "errors",
    "MlaasError": "errors",
    "ReadOptions": "io.read_options",
    "ReadPolicy": "io.policy",
    "RootDataset": "dataset",
    "Specs": "specs",
    "export": "exporter",
    "models": "models",
    "scan": "scanner",
    "train": "train",
}

_MODULES = ("models", "train")  # public as they are

__all__ = [
    "Cache",
    "DataWarning",
    "MlaasError",
    "ReadOptions",
    "ReadPolicy",
    "RootDataset",
    "Specs",
    "export",
    "models",
    "scan",
    "train",
]

if TYPE_CHECKING:
    from mlaas4hep_tf import models, train
    from mlaas4hep_tf.dataset import RootDataset
    from mlaas4hep_tf.errors import DataWarning, MlaasError
    from mlaas4hep_tf.exporter import export
    from mlaas4hep_tf.io.cache import Cache
    from mlaas4hep_tf.io.policy import ReadPolicy
    from mlaas4hep_tf.io.read_options import ReadOptions
    from mlaas4hep_tf.scanner import scan
    from mlaas4hep_tf.specs import Specs


if find_spec("triton"):
    import_module("triton")  # PyTorch's compiler: it ends the process if it comes after TensorFlow


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = import_module(f"{__name__}.{_HOME[name]}")
    value = module if name in _MODULES else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
