"""The package as a whole: its surface, its layers, its README."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import mlaas4hep_tf

ROOT = Path(__file__).parent.parent
PACKAGES = {
    "mlaas4hep_tf": ROOT / "mlaas4hep_tf",
    "mlaas4hep_serving": ROOT / "serving" / "mlaas4hep_serving",
    "mlaas4hep_client": ROOT / "serving" / "client" / "mlaas4hep_client",
}


def module_order(package):
    """The modules in the order of docs/architecture.md, as paths below the package without ``.py``."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    block = text.split(f"<!-- modules {package} -->")[1].split("<!-- end -->")[0]
    room, found = "", []
    for indent, name, kind in re.findall(r"^( {2,4})([a-z_]+)(/|\.py)", block, re.MULTILINE):
        if kind == "/":
            room = f"{name}/"
        else:
            found.append(name if len(indent) == 2 else room + name)
    return found


def imports_of(package, module):
    """Modules of the package that one of its modules imports, at the top or inside a function."""
    known = set(module_order(package))
    tree = ast.parse((PACKAGES[package] / f"{module}.py").read_text())
    for node in ast.walk(tree):
        if not isinstance(node, ast.ImportFrom) or not f"{node.module}.".startswith(f"{package}."):
            continue
        path = (node.module or "").removeprefix(package).removeprefix(".").replace(".", "/")
        for alias in node.names:
            below = f"{path}/{alias.name}".removeprefix("/")
            yield below if below in known else path


MODULES = [(package, module) for package in PACKAGES for module in module_order(package)]


@pytest.mark.parametrize("package", PACKAGES)
def test_the_page_of_the_architecture_names_every_module(package):
    folder = PACKAGES[package]
    files = {str(p.relative_to(folder).with_suffix("")) for p in folder.rglob("*.py")}
    assert set(module_order(package)) == {f for f in files if not f.endswith(("__init__", "__main__"))}


@pytest.mark.parametrize(("package", "module"), MODULES)
def test_each_module_imports_only_from_those_above_it(package, module):
    order = module_order(package)
    assert not [name for name in imports_of(package, module) if name and order.index(name) >= order.index(module)]


WITHOUT_TENSORFLOW = [
    m for p, m in MODULES if p == "mlaas4hep_tf" and m.startswith(("errors", "progress", "io/", "specs", "scanner"))
]


@pytest.mark.parametrize("module", [*WITHOUT_TENSORFLOW, "streaming/plan", "streaming/skipped", "streaming/chunks"])
def test_what_reads_knows_no_tensorflow(module):
    name = f"mlaas4hep_tf.{module.replace('/', '.')}"
    code = f"import sys, {name}; assert 'tensorflow' not in sys.modules and 'keras' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_importing_the_package_is_cheap():
    code = "import sys, mlaas4hep_tf; assert not {'tensorflow', 'uproot', 'awkward', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_opening_local_files_needs_no_library_of_servers():
    code = "import sys, mlaas4hep_tf.io.inspection; assert 'uproot' in sys.modules and 'aiohttp' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_the_public_names_are_there():
    assert sorted(mlaas4hep_tf.__all__) == mlaas4hep_tf.__all__
    for name in mlaas4hep_tf.__all__:
        assert getattr(mlaas4hep_tf, name) is not None
    assert callable(mlaas4hep_tf.scan)
    assert callable(mlaas4hep_tf.export)
    assert callable(mlaas4hep_tf.models.build)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        mlaas4hep_tf.nothing


def readme_blocks():
    return re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)


@pytest.mark.slow
def test_the_readme_runs(tmp_path):
    (tmp_path / "benchmarks").symlink_to(ROOT / "benchmarks")
    code = "\n".join(readme_blocks())
    assert "RootDataset" in code
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "models" / "tth" / "1" / "saved_model.pb").is_file()
