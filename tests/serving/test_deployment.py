"""Containers run the stock image with the flags and files that `mlaas4hep-serve` takes."""

import json
import re
from pathlib import Path

import pytest
import yaml
from mlaas4hep_serving import config_files, options
from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

SERVING = Path(__file__).parents[2] / "serving"


def flags_of(place: str) -> list[str]:
    text = (SERVING / place).read_text()
    if place == "Dockerfile":
        (found,) = re.findall(r"^ENTRYPOINT (.*)$", text, re.MULTILINE)
        return json.loads(found)[1:]
    described = yaml.safe_load(text)
    if place == "compose.yaml":
        return described["services"]["serving"]["entrypoint"][1:]
    return described["spec"]["template"]["spec"]["containers"][0]["args"]


PLACES = ("Dockerfile", "compose.yaml", "k8s/deployment.yaml")


@pytest.mark.parametrize("place", PLACES)
def test_flags_are_ours_too(place):
    parsed = options.parse(flags_of(place))
    assert (parsed.port, parsed.rest_api_port) == (8500, 8501)
    assert flags_of(place) == flags_of(PLACES[0])


@pytest.mark.parametrize("folder", [".", "k8s"])
def test_files_are_ours_too(folder):
    models = config_files.read(str(SERVING / folder / "models.config"), ModelServerConfig).model_config_list.config
    assert [(m.name, m.base_path) for m in models] == [("tth", "/models/tth")]
    monitoring = config_files.read(str(SERVING / folder / "monitoring.config"), config_files.MonitoringConfig)
    assert monitoring.prometheus_config.enable


def test_kubernetes_files_name_each_other():
    listed = yaml.safe_load((SERVING / "k8s" / "kustomization.yaml").read_text())
    names = listed["resources"] + listed["configMapGenerator"][0]["files"]
    assert {p.name for p in (SERVING / "k8s").iterdir()} == {*names, "kustomization.yaml"}
    deployment, service, claim = (
        yaml.safe_load((SERVING / "k8s" / f"{name}.yaml").read_text()) for name in ("deployment", "service", "models")
    )
    pod = deployment["spec"]["template"]
    assert service["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
    assert {p["targetPort"] for p in service["spec"]["ports"]} == {
        p["name"] for p in pod["spec"]["containers"][0]["ports"]
    }
    volumes = {volume["name"]: volume for volume in pod["spec"]["volumes"]}
    assert volumes["models"]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    assert volumes["config"]["configMap"]["name"] == listed["configMapGenerator"][0]["name"]
