"""A files table on disk: Parquet where pyarrow is installed, else npz."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mlaas4hep_tf.errors import SpecsError
from mlaas4hep_tf.files_table import LISTS, NUMBERS, RISING, TEXTS, Column, FilesTable, Summary
from mlaas4hep_tf.io.basket_index import BranchIndex
from mlaas4hep_tf.io.branches import BranchInfo
from mlaas4hep_tf.io.lists import DistantTexts, IntLists, Texts, small
from mlaas4hep_tf.io.reals import Reals

_BRANCHES, _INDEXED, _APART = "branches", "indexed", "apart"  # keys of the metadata
_ROWS = 2048  # of a group of Parquet, which is read at a time for a text of one of them
_GROUPS_KEPT = 16


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
    told = {_BRANCHES: _json(table.branches), _INDEXED: _json(table.indexed), _APART: json.dumps(table.apart)}
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
    import pyarrow.parquet as pq

    pieces = (_arrow(piece, table) for piece in _pieces(table))
    first = next(pieces).replace_schema_metadata(told)
    with pq.ParquetWriter(
        path, first.schema, compression="zstd", write_statistics=False, write_page_checksum=True,
        use_dictionary=[name for name in first.column_names if name != "baskets"],
    ) as writer:  # fmt: skip
        writer.write_table(first)
        for piece in pieces:
            writer.write_table(piece.replace_schema_metadata(told))


def _pieces(table: FilesTable) -> Iterator[FilesTable]:
    """As many files at a time as a group of Parquet has."""
    for start in range(0, max(len(table), 1), _ROWS):
        yield table.take(np.arange(start, min(start + _ROWS, len(table))))


def _arrow(table: FilesTable, whole: FilesTable) -> Any:
    """Files as a table of Arrow, with the types that all of the files have."""
    import pyarrow as pa

    arrays: dict[str, Any] = {}
    for name in TEXTS:
        column = table.columns[name]
        texts = Texts.of(column) if isinstance(column, DistantTexts) else table.texts(name)
        buffers = [None, pa.py_buffer(_begin(texts.ends)), pa.py_buffer(np.ascontiguousarray(texts.values))]
        arrays[name] = pa.LargeStringArray.from_buffers(len(table), buffers[1], buffers[2])
    for name in NUMBERS:
        arrays[name] = pa.array(table.numbers(name))
    for name in LISTS:
        lists = table.lists(name)
        values = pa.array(lists.values.astype(whole.lists(name).values.dtype))
        arrays[name] = pa.LargeListArray.from_arrays(_begin(lists.ends), values)
    return pa.table(arrays)


def _read_parquet(path: Path) -> tuple[dict[str, Column], dict[str, str]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    made = pq.ParquetFile(path, page_checksum_verification=True)
    told = {key.decode(): text.decode() for key, text in made.schema_arrow.metadata.items()}
    columns: dict[str, Column] = {}
    for name in (*TEXTS, *NUMBERS, *LISTS):
        if name not in made.schema_arrow.names:
            columns[name] = Texts.of([""] * made.metadata.num_rows)
        elif name == "baskets" and json.loads(told.get(_APART, "false")):
            columns[name] = _distant(made, path)
        else:
            columns[name] = _column(name, made.read(columns=[name]).column(0))
        pa.default_memory_pool().release_unused()
    return columns, told


def _column(name: str, chunked: Any) -> Column:
    """A column of Arrow as ours, without a copy."""
    import pyarrow as pa

    array = chunked.combine_chunks()
    array = array.chunk(0) if isinstance(array, pa.ChunkedArray) else array
    if name in NUMBERS:
        numbers: npt.NDArray[np.int64] = array.to_numpy()
        return numbers
    if name in LISTS:
        return IntLists(array.values.to_numpy(), _ends(array.offsets.to_numpy()), rising=name in RISING)
    _, ends, values = array.buffers()
    bounds = np.frombuffer(ends, np.int64)[: len(array) + 1] if ends is not None else np.zeros(1, np.int64)
    raw = np.frombuffer(values, np.uint8)[: bounds[-1]] if values is not None else np.zeros(0, np.uint8)
    return Texts(raw, _ends(bounds))


def _ends(bounds: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Where lists end; zeros that were never written take no memory."""
    return small(bounds[1:]) if bounds[-1] else np.zeros(len(bounds) - 1, np.int64)


def _distant(made: Any, path: Path) -> DistantTexts:
    """Where baskets lie, which is read when it is asked for."""
    lock = threading.Lock()  # Parquet files are read by one thread at a time

    @lru_cache(_GROUPS_KEPT)
    def block(number: int) -> Sequence[str]:
        try:
            with lock:
                found = _column("baskets", made.read_row_group(number, columns=["baskets"]).column(0))
        except OSError as error:
            raise SpecsError(f"the files table {path} cannot be read ({error}); scan again") from error
        assert isinstance(found, Texts)
        return found

    rows = made.metadata.row_group(0).num_rows
    return DistantTexts(block, rows, np.arange(made.metadata.num_rows, dtype=np.int32))


def _write_npz(table: FilesTable, told: dict[str, str], path: Path) -> None:
    arrays: dict[str, Any] = {name: table.numbers(name) for name in NUMBERS}
    for name in (*TEXTS, *LISTS):
        column = table.columns[name]
        column = Texts.of(column) if isinstance(column, DistantTexts) else column
        assert not isinstance(column, np.ndarray)
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
