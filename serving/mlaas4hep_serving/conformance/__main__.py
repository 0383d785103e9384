"""``python -m mlaas4hep_serving.conformance [--cases FILE.json] [--rest URL --grpc HOST:PORT]``."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mlaas4hep_client import __version__

CASES = Path(__file__).parent / "cases.json"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the cases of a file; one line for each that fails or is not run, then ``N passed, M failed``."""
    parser = argparse.ArgumentParser(
        prog="python -m mlaas4hep_serving.conformance",
        description="Replay conformance cases, against servers of our own or a running one.",
    )
    parser.add_argument("--cases", default=CASES, type=Path, help="JSON array of cases (default: those of the package)")
    parser.add_argument("--rest", help="URL of a running server; needs --grpc")
    parser.add_argument("--grpc", help="host:port of a running server")
    parser.add_argument("--only", default="", help="run only cases whose id contains this")
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    given = parser.parse_args(arguments)
    if bool(given.rest) != bool(given.grpc):
        parser.error("--rest and --grpc belong together")
    try:
        cases = [case for case in read(given.cases) if given.only in case["id"]]
    except (OSError, ValueError) as error:
        parser.error(f"{given.cases}: {error}")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
    from mlaas4hep_serving.conformance import replay  # here: TensorFlow takes seconds, --help should not

    folder = given.cases.parent
    return replay.against(cases, folder, given.rest, given.grpc) if given.rest else replay.against_own(cases, folder)


def read(path: Path) -> list[Mapping[str, Any]]:
    """The cases of a file.

    Raises:
        ValueError: it is no JSON array of objects with the strings ``id`` and ``layer``.
    """
    cases = json.loads(path.read_text())
    if not isinstance(cases, list):
        raise ValueError("a file of cases is one JSON array")
    for number, case in enumerate(cases, 1):
        if not isinstance(case, dict) or not all(isinstance(case.get(key), str) for key in ("id", "layer")):
            raise ValueError(f"case {number} is no object with the strings id and layer")
    return cases


if __name__ == "__main__":
    sys.exit(main())
