"""Events from files: JSON, JSON lines, bodies of requests, CSV, Parquet and ROOT; in steps, each for one request."""

from __future__ import annotations

import csv
import json
import re
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from itertools import islice
from typing import Any

from mlaas4hep_client.branches import filled, places
from mlaas4hep_client.errors import invalid_argument

STEP = 1000  # events in a request
_ROOT = re.compile(r"^(?P<path>.*\.root(?:\.\d+)?)(?::(?P<tree>[^/].*))?$", re.IGNORECASE)
_OTHERWISE = "`mlaas4hep-tf predict FILES --run RUN -o scores.root` reads more, friends too; or send events as JSON"
_NOTHING: Mapping[str, str] = {}

Inputs = Callable[[], Sequence[str]]


@dataclass(frozen=True)
class FileEvents:
    """Events of a file.

    Attributes:
        steps: events as `Client.predict` takes them, at most `STEP` at a time.
        signature: that the file names, if it is the body of a request.
    """

    steps: Iterable[Any]
    signature: str = ""


def read_events(path: str, inputs: Inputs) -> FileEvents:
    """Events of a file; its ending says what it is, and one without a known ending is JSON.

    Args:
        path: ``-`` is standard input; a ROOT file may have its tree behind it, ``file.root:tree``.
        inputs: tells what the model takes; asked for tables, which hold more than that.

    Raises:
        ServingError: INVALID_ARGUMENT, a file that cannot be read, or a table that lacks inputs: all of them.
    """
    if match := _ROOT.match(path):
        return FileEvents(_from_root(match["path"], match["tree"], inputs))
    if path.lower().endswith(".csv"):
        return FileEvents(_from_csv(path, inputs))
    if path.lower().endswith(".parquet"):
        return FileEvents(_from_parquet(path, inputs))
    return _from_json(path)


def _from_json(path: str) -> FileEvents:
    try:
        text = sys.stdin.read() if path == "-" else open(path, encoding="utf-8").read()  # noqa: SIM115
    except (OSError, UnicodeDecodeError) as error:
        raise invalid_argument(f"{path} cannot be read: {error}") from None
    if not text.strip():
        raise invalid_argument(f"{'standard input' if path == '-' else path} has no events")
    try:
        whole = json.loads(text)
    except ValueError:
        whole = [_event(line, number) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    signature = ""
    if isinstance(whole, dict) and whole.keys() - {"signature_name"} in ({"instances"}, {"inputs"}):
        signature = str(whole.get("signature_name", ""))
        whole = whole.get("instances", whole.get("inputs"))
    elif isinstance(whole, dict) and not _columnar(whole):
        whole = [whole]
    return FileEvents(_steps(whole), signature)


def _event(line: str, number: int) -> Any:
    try:
        return json.loads(line)
    except ValueError as error:
        raise invalid_argument(f"line {number} of the events is no JSON: {error}") from None


def _columnar(whole: dict[str, Any]) -> bool:
    """True for an object of columns: every value is a list.  An event has a number somewhere."""
    return bool(whole) and all(isinstance(value, list) for value in whole.values())


def _steps(events: Any) -> Iterator[Any]:
    if not isinstance(events, list):
        yield events
        return
    for start in range(0, len(events), STEP):
        yield events[start : start + STEP]


def _from_csv(path: str, inputs: Inputs) -> Iterator[Any]:
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = csv.DictReader(file)
            chosen = _chosen(list(rows.fieldnames or ()), inputs(), path)
            while step := list(islice(rows, STEP)):
                last = rows.line_num
                yield [
                    {name: _cell(row[column], column, last - len(step) + n, path) for name, column in chosen.items()}
                    for n, row in enumerate(step, 1)
                ]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise invalid_argument(f"{path} cannot be read: {error}") from None


def _cell(text: str | None, column: str, line: int, path: str) -> Any:
    """A number, or a list of them as JSON; nothing is NaN."""
    for read in (int, float, json.loads):  # the model may want integers
        try:
            return read(text or "nan")
        except ValueError:
            continue
    raise invalid_argument(f"{path}, line {line}, {column}: {text!r} is neither a number nor a list")


def _from_parquet(path: str, inputs: Inputs) -> Iterator[Any]:
    parquet, arrow = _installed("pyarrow.parquet", "pyarrow", path), _installed("pyarrow", "pyarrow", path)
    try:
        with parquet.ParquetFile(path) as file:
            chosen = _chosen(file.schema_arrow.names, inputs(), path)
            for batch in file.iter_batches(STEP, columns=list(chosen.values())):
                values = batch.to_pydict()
                yield {name: [filled(value) for value in values[column]] for name, column in chosen.items()}
    except (OSError, arrow.ArrowException) as error:
        raise invalid_argument(f"{path} cannot be read: {error}") from None


def _from_root(path: str, tree: str | None, inputs: Inputs) -> Iterator[Any]:
    uproot = _installed("uproot", "uproot", path)
    try:
        with uproot.open(path) as file:
            found = _tree(file, tree, path)
            known = places(found)
            misread = {name: place.reason for name, place in known.items()}
            chosen = _chosen(known, inputs(), f"{path}, tree {found.name}", misread, _OTHERWISE)
            branches = list(dict.fromkeys(known[branch].branch for branch in chosen.values()))
            for events in found.iterate(branches, step_size=STEP):
                yield {name: known[branch].values(events) for name, branch in chosen.items()}
    except (OSError, ValueError, uproot.KeyInFileError, uproot.DeserializationError) as error:
        told = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise invalid_argument(f"{path} cannot be read: {told}") from None


def _tree(file: Any, name: str | None, path: str) -> Any:
    kinds = file.classnames(cycle=False)
    trees = sorted(key for key, kind in kinds.items() if kind in ("TTree", "TNtuple", "TNtupleD", "ROOT::RNTuple"))
    if name is not None and name not in file:
        raise invalid_argument(f"{path} has no tree {name}; it has {', '.join(trees) or 'none'}")
    if name is not None:
        return file[name]
    if len(trees) != 1:
        there = f"the trees {', '.join(trees)}: say which, {path}:{trees[0]}" if trees else "no tree"
        raise invalid_argument(f"{path} has {there}")
    return file[trees[0]]


def _chosen(
    columns: Iterable[str], inputs: Sequence[str], where: str, misread: Mapping[str, str] = _NOTHING, advice: str = ""
) -> Mapping[str, str]:
    """Input -> the column that has it: of its name, or of one that `mlaas4hep_tf.export` turns into it.

    Raises:
        ServingError: INVALID_ARGUMENT, names all inputs without such a column, with several, or one in `misread`.
    """
    known = defaultdict(list)
    for column in dict.fromkeys(columns):
        for name in {column, _input_name(column)}:
            known[name].append(column)
    found = {name: known.get(name, []) for name in inputs}
    lacking = [f"{name}{_why(own, misread)}" for name, own in found.items() if len(own) != 1 or misread.get(own[0])]
    if lacking:
        told = f"{where} lacks {len(lacking)} of the {len(inputs)} inputs: {', '.join(lacking)}"
        raise invalid_argument(f"{told}; {advice}" if advice else told)
    return {name: column for name, (column,) in found.items()}


def _why(columns: Sequence[str], misread: Mapping[str, str]) -> str:
    if len(columns) > 1:
        return f" (is it {' or '.join(map(repr, columns))}?)"
    return f" ({misread[columns[0]]})" if columns else ""


def _input_name(branch: str) -> str:
    """TensorFlow takes letters, digits and ``_`` in a name, a letter first; an export makes it so."""
    name = re.sub(r"\W", "_", branch, flags=re.ASCII)
    return name if name[:1].isalpha() else f"x{name}"


def _installed(module: str, package: str, path: str) -> Any:
    try:
        return import_module(module)
    except ImportError:
        raise invalid_argument(f"to read {path}, install {package}: pip install {package}") from None
