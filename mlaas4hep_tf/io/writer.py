"""Writes trees: predictions aligned with the input entries, and events that were decoded."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from secrets import token_hex
from typing import Any

import awkward as ak
import uproot


@contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A name to write to, which is nobody else's; the file appears under `path` only when it is complete."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.{token_hex(4)}.part")
    try:
        yield partial
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def tree_writer(path: str | os.PathLike[str], tree: str) -> Iterator[TreeWriter]:
    """Write a tree; the file appears under its name only when it is complete."""
    with whole_file(path) as partial, uproot.recreate(partial) as file:
        yield TreeWriter(file, tree)


class TreeWriter:
    """Appends rows to one tree, which the first rows create."""

    def __init__(self, file: uproot.WritableDirectory, tree: str) -> None:
        self._file, self._name = file, tree
        self._made = False

    def extend(self, rows: Mapping[str, Any]) -> None:
        """Append events.

        Args:
            rows: branch -> NumPy or awkward array, all of one length.  A record array of lists ``Jet`` becomes
                ``Jet_*`` with the counter ``nJet``.
        """
        arrays = {name: ak.Array(values) for name, values in rows.items()}
        if not self._made:
            self._file.mktree(self._name, {name: array.type.content for name, array in arrays.items()})
            self._made = True
        self._file[self._name].extend(arrays)
