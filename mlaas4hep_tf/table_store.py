"""A files table on disk: Parquet where pyarrow is installed, else npz."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mlaas4hep_tf.errors import SpecsError
from mlaas4hep_tf.files_table import LISTS, NUMBERS, RISING, TEXTS, Column, FilesTable, Summary
from mlaas4hep_tf.io.basket_index import BranchIndex
from mlaas4hep_tf.io.branches import BranchInfo
from mlaas4hep_tf.io.lists import IntLists, Texts
from mlaas4hep_tf.io.reals import Reals

_BRANCHES, _INDEXED = "branches", "indexed"  # keys of the metadata


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
    told = {_BRANCHES: _json(table.branches), _INDEXED: _json(table.indexed)}
    partial = path.with_name(path.name + ".part")
    (_write_parquet if path.suffix == ".parquet" else _write_npz)(table, told, partial)
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
        columns, told = (_read_parquet if path.suffix == ".parquet" else _read_npz)(path)
        branches = tuple(BranchInfo(**info) for info in json.loads(told[_BRANCHES]))
        indexed = tuple(map(_branch_index, json.loads(told.get(_INDEXED, "[]"))))
        table = FilesTable(columns, branches, indexed, summary)
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


def _write_parquet(table: FilesTable, told: dict[str, str], path: Path) -> None:
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
    made = pa.table(arrays).replace_schema_metadata(told)
    pq.write_table(made, path, compression="zstd")


def _read_parquet(path: Path) -> tuple[dict[str, Column], dict[str, str]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    made = pq.ParquetFile(path)
    columns: dict[str, Column] = {}
    for name in (*TEXTS, *NUMBERS, *LISTS):
        if name not in made.schema_arrow.names:
            columns[name] = Texts.of([""] * made.metadata.num_rows)
            continue
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
    return columns, {key.decode(): text.decode() for key, text in made.schema_arrow.metadata.items()}


def _write_npz(table: FilesTable, told: dict[str, str], path: Path) -> None:
    arrays: dict[str, Any] = {name: table.numbers(name) for name in NUMBERS}
    for name in (*TEXTS, *LISTS):
        column = table.lists(name) if name in LISTS else table.texts(name)
        arrays |= {name: column.values, f"{name}.ends": column.ends}
    arrays |= {key: np.frombuffer(text.encode(), np.uint8) for key, text in told.items()}
    with path.open("wb") as file:
        np.savez_compressed(file, **arrays)


def _read_npz(path: Path) -> tuple[dict[str, Column], dict[str, str]]:
    with np.load(path, allow_pickle=False) as made:
        columns: dict[str, Column] = {name: made[name] for name in NUMBERS}
        missing = Texts.of([""] * len(columns["entries"]))
        columns |= {n: Texts(made[n], made[f"{n}.ends"]) if n in made else missing for n in TEXTS}
        columns |= {name: IntLists(made[name], made[f"{name}.ends"], rising=name in RISING) for name in LISTS}
        return columns, {key: made[key].tobytes().decode() for key in (_BRANCHES, _INDEXED) if key in made}


def _json(facts: Sequence[BranchInfo] | Sequence[BranchIndex]) -> str:
    return json.dumps([asdict(fact) for fact in facts])


def _branch_index(content: dict[str, Any]) -> BranchIndex:
    return BranchIndex(**content | {"reals": Reals(**content["reals"]) if content["reals"] else None})


def _begin(ends: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    return np.concatenate([[0], ends]).astype(np.int64)
