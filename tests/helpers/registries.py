"""Fixtures: an empty registry, and run folders without a training: what one of an older version left, with a model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

V1 = Path(__file__).parent.parent / "data" / "v1"
MakeRun = Callable[..., Path]
FILES = (("f864a960-e993-11f1-8bf7-02fc00000001", 60),)


@pytest.fixture(scope="session")
def empty_registry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry with its tables, which take seconds to make."""
    pytest.importorskip("mlflow", reason="MLflow is not installed (pip install 'mlaas4hep_tf[registry]')")
    from mlaas4hep_tf.registry import Registry

    folder = tmp_path_factory.mktemp("registry")
    Registry(folder)
    return folder


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """A run folder with this AUC, whose model is a file that nobody loads."""

    def make(name: str = "run", auc: float = 0.7, files: Sequence[tuple[str, int]] = FILES, **more: Any) -> Path:
        folder = tmp_path / name
        shutil.copytree(V1, folder)
        metrics = json.loads((V1 / "metrics.json").read_text())
        metrics["parts"]["test"]["auc"] = auc
        metrics["files"] = [list(one) for one in files]
        metrics["data"] = [{"file": f"{uuid[:4]}.root", "events": n, "label": 1.0} for uuid, n in files]
        (folder / "metrics.json").write_text(json.dumps({**metrics, "seconds": auc, **more}))
        (folder / "model.keras").write_bytes(b"a model")
        (folder / "history.csv").write_text("epoch,loss,val_loss\n0,0.7,0.8\n1,0.6,0.65\n")
        return folder

    return make
