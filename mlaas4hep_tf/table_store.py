"""A files table on disk: Parquet where pyarrow is installed, else npz."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mlaas4hep_tf.errors import SpecsError
from mlaas4hep_tf.files_table import LISTS, NUMBERS, RISING, TEXTS, Column, FilesTable, Summary
from mlaas4hep_tf.io.branches import BranchInfo
from mlaas4hep_tf.io.lists import IntLists, Texts

_BRANCHES = "branches"  # key of the metadata


def table_name(specs: Path) -> str:
    """What the table beside specs of this name is called."""
    return f"{specs.stem}.files.{'parquet' if _has_pyarrow() else 'npz'}"


def _has_pyarrow() -> bool:
    try:
        import pyarrow.parquet  # noqa: F401 (is it there?)
    except ImportError:
        return False
    return True


def write_table(table: FilesTable, path: Path) -> None:
    """Write a table; it appears under its name only when it is complete."""
    branches = json.dumps([asdict(info) for info in table.branches])
    partial = path.with_name(path.name + ".part")
    (_write_parquet if path.suffix == ".parquet" else _write_npz)(table, branches, partial)
    with partial.open("rb+") as file:
        os.fsync(file.fileno())
    partial.replace(path)


def read_table(path: Path, summary: Summary) -> FilesTable:
    """Read a table.

    Args:
        summary: what the specs say of it.

    Raises:
        FileNotFoundError: there is none.
        SpecsError: it is damaged, or another one, or Parquet where pyarrow is not installed.
    """
    try:
        columns, branches = (_read_parquet if path.suffix == ".parquet" else _read_npz)(path)
        table = FilesTable(columns, tuple(BranchInfo(**info) for info in json.loads(branches)), summary)
        found = table.checksum()
    except FileNotFoundError:
        raise
    except ImportError as error:
        raise SpecsError(f"the files table {path} is Parquet, which pyarrow reads: pip install pyarrow") from error
    except Exception as error:  # pyarrow and zipfile raise many kinds for damaged bytes
        why = f"{type(error).__name__}: {error}"
        raise SpecsError(f"the files table {path} cannot be read ({why}); scan again") from error
    if found != summary.checksum:
        raise SpecsError(
            f"the files table {path} is not the one of these specs: its checksum is {found}, they say "
            f"{summary.checksum}; take the one that was written with them, or scan again"
        )
    return table


def _write_parquet(table: FilesTable, branches: str, path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    n = len(table)
    arrays: dict[str, Any] = {}
    for name in TEXTS:
        texts = table.texts(name)
        buffers = [None, pa.py_buffer(_begin(texts.ends)), pa.py_buffer(np.ascontiguousarray(texts.values))]
        arrays[name] = pa.LargeStringArray.from_buffers(n, buffers[1], buffers[2])
    for name in NUMBERS:
        arrays[name] = pa.array(table.numbers(name))
    for name in LISTS:
        lists = table.lists(name)
        arrays[name] = pa.LargeListArray.from_arrays(_begin(lists.ends), pa.array(lists.values))
    made = pa.table(arrays).replace_schema_metadata({_BRANCHES: branches})
    pq.write_table(made, path, compression="zstd")


def _read_parquet(path: Path) -> tuple[dict[str, Column], str]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    made = pq.ParquetFile(path)
    columns: dict[str, Column] = {}
    for name in (*TEXTS, *NUMBERS, *LISTS):
        array = made.read(columns=[name]).column(0).combine_chunks()
        array = array.chunk(0) if isinstance(array, pa.ChunkedArray) else array
        if name in NUMBERS:
            columns[name] = array.to_numpy()
        elif name in LISTS:
            columns[name] = IntLists(array.values.to_numpy(), array.offsets.to_numpy()[1:], rising=name in RISING)
        else:
            _, ends, values = array.buffers()
            bounds = np.frombuffer(ends, np.int64)[: len(array) + 1] if ends is not None else np.zeros(1, np.int64)
            raw = np.frombuffer(values, np.uint8)[: bounds[-1]] if values is not None else np.zeros(0, np.uint8)
            columns[name] = Texts(raw, bounds[1:])
    return columns, made.schema_arrow.metadata[_BRANCHES.encode()].decode()


def _write_npz(table: FilesTable, branches: str, path: Path) -> None:
    arrays: dict[str, Any] = {name: table.numbers(name) for name in NUMBERS}
    for name in (*TEXTS, *LISTS):
        column = table.lists(name) if name in LISTS else table.texts(name)
        arrays |= {name: column.values, f"{name}.ends": column.ends}
    arrays[_BRANCHES] = np.frombuffer(branches.encode(), np.uint8)
    with path.open("wb") as file:
        np.savez_compressed(file, **arrays)


def _read_npz(path: Path) -> tuple[dict[str, Column], str]:
    with np.load(path, allow_pickle=False) as made:
        columns: dict[str, Column] = {name: made[name] for name in NUMBERS}
        columns |= {name: Texts(made[name], made[f"{name}.ends"]) for name in TEXTS}
        columns |= {name: IntLists(made[name], made[f"{name}.ends"], rising=name in RISING) for name in LISTS}
        return columns, made[_BRANCHES].tobytes().decode()


def _begin(ends: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    return np.concatenate([[0], ends]).astype(np.int64)
