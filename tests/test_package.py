"""The package as a whole: its surface, its layers, its README."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import mlaas4hep_tf

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "mlaas4hep_tf"


def module_order():
    """The modules in the order of docs/architecture.md."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    block = text.split("<!-- modules -->")[1]
    return re.findall(r"^\s*([a-z_]+(?:/[a-z_]+)?)\.py", block, re.MULTILINE)


def imports_of(module):
    tree = ast.parse((PACKAGE / f"{module}.py").read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mlaas4hep_tf."):
            yield node.module.removeprefix("mlaas4hep_tf.").replace(".", "/")


def test_the_picture_of_the_architecture_names_every_module():
    files = {str(p.relative_to(PACKAGE).with_suffix("")) for p in PACKAGE.rglob("*.py")}
    assert set(module_order()) == {f for f in files if not f.endswith("__init__")}


@pytest.mark.parametrize("module", module_order())
def test_each_module_imports_only_from_those_above_it(module):
    order = module_order()
    lazy = {
        "engine": {"reader"},
        "stream": {"reader"},
        "scanner": {"opener", "reader"},
    }  # inside functions that run in reader processes
    for imported in set(imports_of(module)) - {"baselines"}:  # which lie in benchmarks/
        assert order.index(imported) < order.index(module) or imported in lazy.get(module, ())


@pytest.mark.parametrize(
    "module", [m for m in module_order() if "transforms" not in m][: module_order().index("stream") + 1]
)
def test_no_tensorflow_above_the_transforms(module):
    code = f"import sys, mlaas4hep_tf.{module}; assert 'tensorflow' not in sys.modules and 'keras' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_importing_the_package_is_cheap():
    code = "import sys, mlaas4hep_tf; assert not {'tensorflow', 'uproot', 'awkward', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_the_public_names_are_there():
    assert sorted(mlaas4hep_tf.__all__) == mlaas4hep_tf.__all__
    for name in mlaas4hep_tf.__all__:
        assert getattr(mlaas4hep_tf, name) is not None
    assert callable(mlaas4hep_tf.scan)
    assert callable(mlaas4hep_tf.export)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        mlaas4hep_tf.nothing


def readme_blocks():
    return re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)


def test_the_readme_runs(tmp_path):
    (tmp_path / "benchmarks").symlink_to(ROOT / "benchmarks")
    code = "\n".join(readme_blocks())
    assert "RootDataset" in code
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "models" / "tth" / "1" / "saved_model.pb").is_file()
