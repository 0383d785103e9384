"""A service without trainings: a registry with three versions, and jobs that came to their ends."""

import json
import shutil
from pathlib import Path

import pytest
from helpers.registries import empty_registry, make_run  # noqa: F401 (fixtures)

V1 = Path(__file__).parent.parent / "data" / "v1"


@pytest.fixture(scope="session")
def kept(tmp_path_factory):
    """A folder with a registry of three versions of ``tth``."""
    pytest.importorskip("mlflow", reason="MLflow is not installed (pip install 'mlaas4hep_tf[service]')")
    from mlaas4hep_tf.registry import Registry

    folder = tmp_path_factory.mktemp("kept")
    registry = Registry(folder / "registry")
    for number, auc in enumerate((0.7, 0.8, 0.75), 1):
        run = shutil.copytree(V1, folder / f"run{number}")
        metrics = json.loads((V1 / "metrics.json").read_text())
        metrics["parts"]["test"]["auc"] = auc
        (run / "metrics.json").write_text(json.dumps({**metrics, "seconds": auc}))
        (run / "model.keras").write_bytes(b"a model")
        (run / "history.csv").write_text("epoch,loss,val_loss\n0,0.7,0.8\n1,0.6,0.65\n")
        saved = folder / f"saved{number}"
        (saved / "assets.extra").mkdir(parents=True)
        (saved / "saved_model.pb").write_bytes(b"")
        (saved / "assets.extra" / "model_card.json").write_text(
            json.dumps({"example": {"x": 0.5, "Jet_0": [1.0, None]}})
        )
        registry.register("tth", registry.keep(run), saved)
    registry.tag("tth", 2, {"analysis": "ttH"})
    return folder


@pytest.fixture
def engine(kept, tmp_path):
    from mlaas4hep_tf.service.config import Project, ServiceConfig
    from mlaas4hep_tf.service.engine import Engine

    made = Engine(ServiceConfig(tmp_path, {"tth": Project("tth", ("--label", "*=1"))}, registry=str(kept / "registry")))
    made.store.announce("tth", [("/data/a.root", "f864a960-e993-11f1-8bf7-02fc00000001")])
    made.store.plan("tth", 1e12)
    made.store.ended(1, "promoted", "the first version", 1)
    return made


@pytest.fixture
def registry(empty_registry, tmp_path):  # noqa: F811
    from mlaas4hep_tf.registry import Registry

    return Registry(shutil.copytree(empty_registry, tmp_path / "registry"))
