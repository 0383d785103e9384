"""What is kept is found again: by figures, tags, data and files; once, whoever writes, and elsewhere the same."""

import json
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from multiprocessing import get_context

import pytest

from mlaas4hep_tf.errors import RegistryError
from mlaas4hep_tf.registry.queries import Query, parse

SIGNAL, OTHER = "f864a960-e993-11f1-8bf7-02fc00000001", "f865fc02-e993-11f1-8bf7-02fc00000001"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", Query()),
        ("auc > 0.9", Query("metrics.`test.auc` > 0.9")),
        (
            "train.auc >= .5 and tag.analysis = 'ttH' AND data.fingerprint='4f'",
            Query("metrics.`train.auc` >= .5 and tags.`analysis` = 'ttH' and tags.`data.fingerprint` = '4f'"),
        ),
        (f"data.file = '{SIGNAL}'", Query(f"dataset.digest = '{SIGNAL}'")),
        ("data.file like '%a.root'", Query("dataset.name LIKE '%a.root'")),
        ("param.epochs = 5 and name = 'tth'", Query("params.`epochs` = '5'", (("=", "tth"),))),
    ],
)
def test_a_search(text, found):
    assert parse(text) == found


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("auc > high", "'auc > high' is no condition"),
        ("auc > 0.9 or auc < 0.1", "expected 'and' at 'or auc < 0.1'"),
        ("auc = '0.9'", "'auc' is a metric and is compared with a number"),
        ("tag.analysis > 'ttH'", "'tag.analysis' is a text: it is compared by"),
        ("auc > 0.9; drop", "expected 'and' at '; drop'"),
    ],
)
def test_what_is_no_search(text, told):
    with pytest.raises(RegistryError) as error:
        parse(text)
    assert told in str(error.value)


def test_a_run_is_kept_once_with_what_its_folder_tells(registry, make_run):
    folder = make_run(auc=0.75)
    number = registry.keep(folder)
    assert registry.keep(folder) == number
    run = registry.run(number)
    metrics = json.loads((folder / "metrics.json").read_text())
    assert run.metrics["test.auc"] == 0.75
    assert run.metrics["train.accuracy"] == metrics["parts"]["train"]["accuracy"]
    assert run.params["batch_size"] == "50"
    assert run.tags["data.fingerprint"] == metrics["fingerprint"]
    assert [(f.uuid, f.events, f.label) for f in run.files] == [(SIGNAL, 60, 1.0)]
    assert registry.curves(number) == {"loss": [0.7, 0.6], "val_loss": [0.8, 0.65]}
    assert (registry.fetch(number, "run", folder.parent / "back") / "model.keras").read_bytes() == b"a model"


def test_versions_are_found_by_figure_tag_data_and_file(registry, make_run):
    for name, auc, files in (("a", 0.6, [(SIGNAL, 60)]), ("b", 0.8, [(SIGNAL, 60), (OTHER, 40)])):
        registry.register("tth", registry.keep(make_run(name, auc, files)))
    registry.register("vbf", registry.keep(make_run("c", 0.9)), tags={"analysis": "VBF"})
    registry.tag("tth", 2, {"analysis": "ttH"})
    registry.point("tth", "champion", 2)
    found = lambda query: [(one.name, one.version) for one in registry.search(query)]  # noqa: E731
    assert found("") == [("vbf", 1), ("tth", 2), ("tth", 1)]
    assert found("auc > 0.7") == [("vbf", 1), ("tth", 2)]
    assert found("auc > 0.7 and name = 'tth'") == [("tth", 2)]
    assert found("tag.analysis = 'ttH'") == [("tth", 2)]
    assert found("tag.analysis = 'VBF' and auc > 0.8") == [("vbf", 1)]
    assert [(one.name, one.version) for one in registry.who_saw(OTHER)] == [("tth", 2)]
    assert len(registry.who_saw(SIGNAL)) == 3
    assert registry.version("tth").version == 2
    assert registry.search("tag.analysis = 'ttH'")[0].aliases == ("champion",)
    assert [one.aliases for one in registry.versions("tth")] == [("champion",), ()]
    with pytest.raises(RegistryError, match="is its champion: promote another one first"):
        registry.delete("tth", 2)
    registry.delete("tth", 1)
    assert [one.version for one in registry.versions("tth")] == [2]
    with pytest.raises(RegistryError, match=r"no model 'tht' \(did you mean 'tth'"):
        registry.version("tht")


def register(where, folder):
    from mlaas4hep_tf.registry import Registry

    registry = Registry(where)
    return registry.register("tth", registry.keep(folder))


def test_writers_at_the_same_time_lose_nothing(registry, make_run):
    folders = [make_run(f"r{n}", 0.5 + n / 100) for n in range(6)]
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        versions = list(pool.map(register, [registry.where] * 12, folders * 2))
    assert sorted(set(versions)) == [1, 2, 3, 4, 5, 6]
    assert versions[:6] == versions[6:]
    assert len(registry.runs()) == 6


def test_a_registry_elsewhere_is_the_same(registry, empty_registry, make_run, tmp_path):
    from mlaas4hep_tf.registry import Registry
    from mlaas4hep_tf.registry.sharing import export_registry, import_registry

    for name, auc in (("a", 0.6), ("b", 0.8), ("c", 0.9)):
        registry.register("tth", registry.keep(make_run(name, auc)), tags={"of": name})
    registry.delete("tth", 2)
    registry.point("tth", "champion", 3)
    assert export_registry(registry, tmp_path / "shared") == 2
    other = Registry(tmp_path / "other")
    assert import_registry(other, tmp_path / "shared") == 2

    def told(one):
        content = asdict(one)
        return {**content, "created": 0, "of": {**content["of"], "run": "", "created": 0}}

    assert [*map(told, other.versions("tth"))] == [*map(told, registry.versions("tth"))]
    with pytest.raises(RegistryError, match="has a model 'tth' already"):
        import_registry(other, tmp_path / "shared")


def test_without_the_extra_one_line_says_what_to_install():
    code = "import sys; sys.modules['mlflow'] = None; from mlaas4hep_tf.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "models", "list"], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "need mlflow, not installed here; pip install 'mlaas4hep_tf[registry]'" in done.stderr
