"""What docs/serving.md tells users of the shell and of C++: each command, and the example, against a server."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
EXAMPLE = ROOT / "serving" / "client" / "cpp" / "predict.cpp"


def commands() -> list[str]:
    section = (ROOT / "docs" / "serving.md").read_text().split("## From the shell and from C++")[1].split("\n## ")[0]
    block = section.split("```console\n")[1].split("```")[0]
    return re.findall(r"(?m)^curl .*(?:\\\n.*)*$", block)


def test_the_commands_of_the_page_are_answered(server, tmp_path):
    assert len(commands()) == 6
    for command in commands():
        run = command.replace("http://localhost:8501", f"http://127.0.0.1:{server.rest_port}").replace("tth", "default")
        done = subprocess.run(["bash", "-c", run], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, (command, done.stderr)
        assert "error" not in json.loads(done.stdout), command


@pytest.fixture(scope="module")
def predict(tmp_path_factory) -> Path:
    """The example, built as its first lines say."""
    build = re.search(r"c\+\+ -std=.*", EXAMPLE.read_text())
    assert build
    if not shutil.which("c++"):
        pytest.skip("there is no C++ compiler")
    folder = tmp_path_factory.mktemp("cpp")
    shutil.copy(EXAMPLE, folder)
    done = subprocess.run(
        ["bash", "-c", build[0] + " -Wall -Wextra -Werror"], cwd=folder, capture_output=True, text=True
    )
    if "curl/curl.h: No such file" in done.stderr:
        pytest.skip("the headers of libcurl are not installed (Debian: libcurl4-openssl-dev)")
    assert done.returncode == 0, done.stderr
    return folder / "predict"


def test_the_example_in_cpp(predict, server):
    def ask(events: str, model: str = "default", port: int = server.rest_port) -> tuple[int, str, str]:
        command = [predict, f"http://127.0.0.1:{port}", model]
        done = subprocess.run(command, input=events, capture_output=True, text=True, timeout=60, check=False)
        return done.returncode, done.stdout, done.stderr

    status, out, _ = ask('{"x": 1.0}\n\n{"x": 5.0}\n')
    assert (status, json.loads(out)) == (0, {"predictions": [2.5, 4.5]})
    status, out, told = ask('{"x": 1.0}', "none")
    assert (status, out) == (1, "") and "Servable not found" in told
    assert ask("", port=1)[0] == 1
