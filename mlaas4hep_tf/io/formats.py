"""Tables of rows as the ending of a file's name says: ROOT, CSV or Parquet."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from mlaas4hep_tf.errors import ConfigError, need

if TYPE_CHECKING:
    from pyarrow.parquet import ParquetWriter

FORMATS = ".root, .csv or .parquet"


class RowWriter(Protocol):
    def extend(self, rows: Mapping[str, Any]) -> None:
        """Append rows: column -> NumPy array, all of one length."""


def check_format(path: str | os.PathLike[str]) -> None:
    """Raise ConfigError for an ending that says no format, MissingExtra where Parquet cannot be written."""
    suffix = Path(path).suffix
    if suffix not in (".root", ".csv", ".parquet"):
        raise ConfigError(f"the ending of a file says how it is written, {FORMATS}: {os.fspath(path)} has {suffix!r}")
    if suffix == ".parquet":
        need("parquet", "pyarrow", purpose="Parquet files")


@contextmanager
def row_writer(path: str | os.PathLike[str], tree: str) -> Iterator[RowWriter]:
    """Write rows; the file appears under its name only when it is complete.

    Args:
        path: the file.
        tree: name of the tree in a ROOT file.

    Raises:
        ConfigError: an ending that says no format.
        MissingExtra: pyarrow, of the extra ``parquet``, is not installed.
    """
    from mlaas4hep_tf.io.writer import tree_writer, whole_file  # here: it imports uproot

    check_format(path)
    suffix = Path(path).suffix
    if suffix == ".root":
        with tree_writer(path, tree) as root:
            yield root
        return
    with whole_file(path) as partial, (_Csv if suffix == ".csv" else _Parquet)(partial) as table:
        yield table


class _Csv:
    """Comma-separated, with a line of names; numbers in the fewest digits that give them back."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("w", newline="")
        self._begun = False

    def extend(self, rows: Mapping[str, Any]) -> None:
        lines = csv.writer(self._file)
        if not self._begun:
            lines.writerow(rows)
            self._begun = True
        lines.writerows(zip(*(column.astype(str) for column in rows.values()), strict=True))

    def __enter__(self) -> _Csv:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


class _Parquet:
    """Columns, a row group for each `extend`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._writer: ParquetWriter | None = None

    def extend(self, rows: Mapping[str, Any]) -> None:
        import pyarrow
        from pyarrow.parquet import ParquetWriter  # an extra

        table = pyarrow.table(dict(rows))
        if self._writer is None:
            self._writer = ParquetWriter(self._path, table.schema)
        self._writer.write_table(table)

    def __enter__(self) -> _Parquet:
        return self

    def __exit__(self, *_: object) -> None:
        if self._writer is not None:
            self._writer.close()
