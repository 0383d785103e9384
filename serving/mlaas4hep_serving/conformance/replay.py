"""Cases, one after the other: which are run how, and what is told of each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlaas4hep_serving.conformance import batching, codec, lifecycle, prose, servers, wire
from mlaas4hep_serving.conformance.compare import Case, Failed, NotRun, known

_FOR_PEOPLE = ("origin", "src", "note")


@dataclass(frozen=True)
class Layer:
    """One kind of case.

    Attributes:
        run: runs a case that needs no server, or starts its own.
        required: the keys of a case beside ``id``, ``layer`` and ``expect``.
        optional: more keys.
        starts_servers: it cannot be run against a server that is already there.
    """

    run: Callable[[Case], None] | None
    required: Sequence[str]
    optional: Sequence[str] = ()
    starts_servers: bool = False


LAYERS: Mapping[str, Layer] = {
    "rest": Layer(None, ("request",), ("fixture", "before")),
    "grpc": Layer(None, ("rpc", "request"), ("fixture",)),
    "path": Layer(codec.run_path, ("request",)),
    "json2tensor": Layer(codec.run_json2tensor, ("body", "infomap")),
    "json2examples": Layer(codec.run_json2examples, ("body",), ("applies",)),
    "tensor2json": Layer(codec.run_tensor2json, ("tensors",)),
    "result2json": Layer(codec.run_result2json, ("input",)),
    "metrics": Layer(codec.run_metrics, ("input",)),
    "lifecycle": Layer(lifecycle.run_lifecycle, ("steps",), starts_servers=True),
    "batching": Layer(batching.run_batching, ("steps",), ("params",), starts_servers=True),
}
Server = Callable[[Any], servers.Endpoint]  # of a fixture


def run(case: Case, server: Server, folder: Path, ours: bool = True) -> None:
    """Run one case.

    Args:
        case: as docs/how-to/conformance-cases.md describes it, or with sentences in the place of steps.
        server: gives the server of a fixture.
        folder: where files that the case names are looked for.
        ours: False for a server that is already there.

    Raises:
        Failed: it does not hold.
        NotRun: it is not understood, or cannot be run here.
    """
    if case["layer"] not in LAYERS:
        raise NotRun(f"there is no layer {case['layer']!r}; there are {', '.join(LAYERS)}")
    layer = LAYERS[case["layer"]]
    known(case, (*_FOR_PEOPLE, *layer.optional), "the case", ("id", "layer", "expect", *layer.required))
    if layer.starts_servers and not ours:
        raise NotRun("it starts servers of its own")
    made = prose.structured(case)
    if layer.run:
        layer.run(made)
    elif case["layer"] == "rest":
        wire.run_rest(made, server(made.get("fixture")), folder)
    else:
        wire.run_grpc(made, server(made.get("fixture")))


def replay(cases: Sequence[Case], server: Server, folder: Path, ours: bool = True) -> int:
    """Run all cases; a line for each that does not hold or was not run, then the counts.  Returns the exit status."""
    counts = Counter(_told(case, server, folder, ours) for case in cases)
    left = f", {counts['NOT RUN']} not run" if counts["NOT RUN"] else ""
    print(f"{counts['passed']} passed, {counts['FAILED']} failed{left}")
    return 0 if counts["passed"] == len(cases) else 1


def _told(case: Case, server: Server, folder: Path, ours: bool) -> str:
    try:
        run(case, server, folder, ours)
    except NotRun as error:
        return _tell("NOT RUN", case, str(error))
    except Failed as error:
        return _tell("FAILED", case, str(error))
    except Exception as error:  # noqa: BLE001  # whatever goes wrong in one case, the others are run
        return _tell("FAILED", case, f"{type(error).__name__}: {error}")
    return "passed"


def _tell(outcome: str, case: Case, reason: str) -> str:
    print(f"{outcome} {case['id']}: {' '.join(reason.split())}", flush=True)
    return outcome


def against_own(cases: Sequence[Case], folder: Path) -> int:
    """Run cases against servers that are started for them."""
    with servers.Own() as own:
        return replay(cases, own, folder)


def against(cases: Sequence[Case], folder: Path, rest: str, grpc: str) -> int:
    """Run cases against the server at a URL and a host:port."""
    endpoint = servers.remote(rest, grpc)
    return replay(cases, lambda _: endpoint, folder, ours=False)
