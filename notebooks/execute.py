"""Run the notebooks and leave each as .ipynb with its outputs: ``python notebooks/execute.py [NAME...]``."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import jupytext
import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).resolve().parent
SECONDS = 180  # that a notebook may take on two cores


def execute(source: Path) -> Any:
    """Run a notebook in its folder, without the messages of libraries on stderr."""
    os.environ.update(TF_CPP_MIN_LOG_LEVEL="3", CUDA_VISIBLE_DEVICES="")
    notebook = jupytext.read(source)
    client = NotebookClient(
        notebook, timeout=SECONDS, resources={"metadata": {"path": str(FOLDER)}}, record_timing=False
    )
    client.execute()
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell{number:02d}"
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    notebook.metadata.pop("language_info", None)
    return notebook


def main(names: list[str]) -> None:
    for source in sorted(FOLDER.glob("[0-9]*.py")):
        if not names or source.stem in names:
            print(source.name, flush=True)
            nbformat.write(execute(source), source.with_suffix(".ipynb"))


if __name__ == "__main__":
    main(sys.argv[1:])
