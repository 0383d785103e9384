"""The pages and notebooks: every example runs, no link is broken, the diagram is true."""

import importlib.util
import json
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from mlaas4hep_tf.errors import DataWarning
from mlaas4hep_tf.testing import http_server

ROOT = Path(__file__).parent.parent
DOCS, NOTEBOOKS = ROOT / "docs", ROOT / "notebooks"
PAGES = sorted(str(p.relative_to(DOCS)) for p in DOCS.rglob("*.md"))


def load(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def blocks(page):
    """Language and text of the examples of a page; ``console`` ones need a network or an installation."""
    return re.findall(r"^```(python|bash)\n(.*?)^```$", (DOCS / page).read_text(), re.DOTALL | re.MULTILINE)


@pytest.fixture
def url():
    with http_server(ROOT / "benchmarks/data/tth") as url:
        yield url


@pytest.mark.slow
@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p)])
def test_the_examples_of_a_page_run(page, url, tmp_path, monkeypatch):
    (tmp_path / "benchmarks").symlink_to(ROOT / "benchmarks")
    monkeypatch.chdir(tmp_path)
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    names = {"__name__": "example", "url": url}
    for language, text in blocks(page):
        if language == "python":
            with warnings.catch_warnings():
                warnings.simplefilter("error", DataWarning)
                exec(compile(text, page, "exec"), names)
        else:
            done = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", text], env=environment, capture_output=True, text=True, timeout=240,
                check=False,
            )  # fmt: skip
            assert done.returncode == 0, done.stderr


def test_the_pages_build_without_a_broken_link(tmp_path):
    if importlib.util.find_spec("mkdocs") is None or importlib.util.find_spec("material") is None:
        pytest.skip("mkdocs-material is not installed (pip install 'mlaas4hep_tf[test]')")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    reference = (tmp_path / "site/reference/index.html").read_text()
    assert "mlaas4hep_tf.transforms.decode.decode" in reference
    assert "Every event comes exactly once per epoch" in reference


def test_every_page_is_in_the_navigation():
    assert set(re.findall(r"[\w/-]+\.md", (ROOT / "mkdocs.yml").read_text())) == set(PAGES)


def test_the_diagram_is_true():
    diagram = load(DOCS / "diagram.py")
    assert (DOCS / "architecture.svg").read_text() == diagram.draw(), "run python docs/diagram.py"
    modules = {m: (ROOT / "mlaas4hep_tf" / f"{m}.py") for m in diagram.places()}
    assert all(path.is_file() for path in modules.values())
    for pair in diagram.ARROWS:
        assert any(imports(modules[a], b) for a, b in (pair, pair[::-1])), f"nothing goes from {pair[0]} to {pair[1]}"


def imports(path, module):
    room, _, name = f"mlaas4hep_tf/{module}".replace("/", ".").rpartition(".")
    return bool(re.search(rf"from {room}(\.{name} import| import .*\b{name}\b)", path.read_text()))


EXPECTED = {
    "01_look_at_the_data": ["8,522 events, 69 branches, 507 columns", "vector (256, 507)"],
    "02_train": ["train       5454 events,  577 of them signal", "AUC test", "saved_model.pb"],
    "03_representations": ["vector and mask, set", "loss per epoch"],
    "04_serve": ["'state': 'AVAILABLE'", "200 events of signal", "largest difference, gRPC", "server ended with 0"],
    "05_your_own_files": ["AUC test", "8000 events with", "did you mean 'Muon.pt'"],
}


def outputs(notebook):
    return [o for cell in notebook["cells"] for o in cell.get("outputs", [])]


def printed(notebook):
    return "".join("".join(o.get("text", "")) for o in outputs(notebook))


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPECTED)
def test_a_notebook_runs(name):
    pytest.importorskip("nbclient", reason="nbclient is not installed (pip install 'mlaas4hep_tf[test]')")
    if name == "04_serve" and importlib.util.find_spec("mlaas4hep_serving") is None:
        pytest.skip("the server is not installed (serving/mlaas4hep_serving)")
    notebook = load(NOTEBOOKS / "execute.py").execute(NOTEBOOKS / f"{name}.py")
    text = printed(notebook)
    assert all(words in text for words in EXPECTED[name]), text
    for words in re.findall(r"AUC test\s+(0\.\d+)", text):
        assert float(words) > 0.6


@pytest.mark.parametrize("source", sorted(NOTEBOOKS.glob("[0-9]*.py")), ids=lambda p: p.stem)
def test_a_notebook_is_committed_as_it_stands_with_small_outputs(source):
    jupytext = pytest.importorskip("jupytext", reason="jupytext is not installed (pip install 'mlaas4hep_tf[test]')")
    path = source.with_suffix(".ipynb")
    saved = json.loads(path.read_text())
    want = [(c.cell_type, c.source) for c in jupytext.read(source).cells]
    assert [(c["cell_type"], "".join(c["source"])) for c in saved["cells"]] == want, "run python notebooks/execute.py"
    assert outputs(saved)
    assert not [o for o in outputs(saved) if o["output_type"] == "error"]
    assert path.stat().st_size < 300_000
    assert not re.search(r"/(home|root|tmp)/", printed(saved))


def test_every_notebook_is_tested():
    assert {p.stem for p in NOTEBOOKS.glob("[0-9]*.py")} == set(EXPECTED)
