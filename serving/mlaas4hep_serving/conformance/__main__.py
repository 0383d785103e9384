"""``python -m mlaas4hep_serving.conformance --cases FILE.json [--rest URL --grpc HOST:PORT]``."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

from mlaas4hep_serving.conformance import codec, prose, servers, wire
from mlaas4hep_serving.conformance.compare import Case, Failed

_ALONE: Mapping[str, Callable[[Case], None]] = {
    "path": codec.run_path,
    "json2tensor": codec.run_json2tensor,
    "json2examples": codec.run_json2examples,
    "tensor2json": codec.run_tensor2json,
    "result2json": codec.run_result2json,
    "metrics": codec.run_metrics,
    "lifecycle": prose.run_lifecycle,
    "batching": prose.run_batching,
}
_NEED_OURS = ("lifecycle", "batching")


def run(case: Case, server: Callable[[str | None], servers.Endpoint], folder: Path) -> None:
    """Run one case.

    Raises:
        Failed: it does not hold.
    """
    layer = case["layer"]
    if layer == "rest":
        wire.run_rest(case, server(case.get("fixture")), folder)
    elif layer == "grpc":
        wire.run_grpc(case, server(case.get("fixture")))
    elif layer in _ALONE:
        _ALONE[layer](case)
    else:
        raise Failed(f"layer is not known: {layer}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the cases of a file; one line per failed case, then ``N passed, N failed``."""
    parser = argparse.ArgumentParser(prog="python -m mlaas4hep_serving.conformance", description=__doc__)
    parser.add_argument("--cases", required=True, type=Path, help="JSON array of cases")
    parser.add_argument("--rest", help="URL of a running server; needs --grpc")
    parser.add_argument("--grpc", help="host:port of a running server")
    parser.add_argument("--only", default="", help="run only cases whose id contains this")
    given = parser.parse_args(arguments)
    cases = [case for case in json.loads(given.cases.read_text()) if given.only in case["id"]]
    if bool(given.rest) != bool(given.grpc):
        parser.error("--rest and --grpc belong together")
    if given.rest:
        endpoint = servers.remote(given.rest, given.grpc)
        left = [case for case in cases if case["layer"] in _NEED_OURS]
        if left:
            print(f"{len(left)} cases start servers of their own and are left out")
        return _report([case for case in cases if case not in left], lambda _: endpoint, given.cases.parent)
    with servers.Own() as own:
        return _report(cases, own, given.cases.parent)


def _report(cases: Sequence[Any], server: Callable[[str | None], servers.Endpoint], folder: Path) -> int:
    failed = 0
    for case in cases:
        try:
            run(case, server, folder)
        except Exception as error:  # noqa: BLE001  # whatever goes wrong in one case, the others are run
            failed += 1
            reason = str(error) if isinstance(error, Failed) else f"{type(error).__name__}: {error}"
            print(f"FAILED {case['id']}: {' '.join(reason.split())}", flush=True)
    print(f"{len(cases) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
