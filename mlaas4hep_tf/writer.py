"""Writes predictions as a ROOT file, aligned with the input entries."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
import uproot

Rows = Mapping[str, npt.NDArray[np.generic]]


@contextmanager
def tree_writer(path: str | os.PathLike[str], tree: str) -> Iterator[TreeWriter]:
    """Write a tree of flat branches; the file appears under its name only when it is complete."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.part")
    try:
        with uproot.recreate(partial) as file:
            yield TreeWriter(file, tree)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


class TreeWriter:
    """Appends rows to one tree, which the first rows create."""

    def __init__(self, file: uproot.WritableDirectory, tree: str) -> None:
        self._file, self._name = file, tree
        self._made = False

    def extend(self, rows: Rows) -> None:
        if not self._made:
            self._file.mktree(self._name, {name: values.dtype for name, values in rows.items()})
            self._made = True
        self._file[self._name].extend(dict(rows))
