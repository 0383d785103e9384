"""``mlaas4hep-predict``: scores of events from the shell."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

from mlaas4hep_client import __version__
from mlaas4hep_client.arrays import is_array
from mlaas4hep_client.client import Answer, Client
from mlaas4hep_client.errors import Code, ServingError
from mlaas4hep_client.files import read_events

_DEFAULT = "default"  # as in TF-Serving
_EPILOG = """examples:
  echo '{"Jet_pt": [45.1, 32.0], "met": 17}' | mlaas4hep-predict http://127.0.0.1:8501 --model tth
  mlaas4hep-predict grpc://127.0.0.1:8500 --model tth events.json

  mlaas4hep-predict http://127.0.0.1:8501 --model tth data.root:events

Events are JSON: one object for each event, line by line or in one list; a single object of columns, each a list; or the
body of a request, as curl sends it.  Or a table with more columns than the model takes: a ROOT file (.root, with :TREE
where it has several; needs uproot), .csv with a line of names, or .parquet (needs pyarrow).
The token, if the server needs one, comes from the environment variable MLAAS4HEP_TOKEN."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the answer, one line of JSON for each event.  Returns the exit status."""
    given = _parser().parse_intermixed_args(arguments)  # options may stand between server and events
    try:
        token = os.environ.get("MLAAS4HEP_TOKEN")
        with Client(given.server, given.model, token=token, timeout=given.timeout, ca=given.ca) as client:
            _predict(client, given)
    except ServingError as error:
        hint = "; --model names another model" if error.code is Code.NOT_FOUND and given.model == _DEFAULT else ""
        print(f"mlaas4hep-predict: {error}{hint}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # of `| head`, which has seen enough; Python would complain once more at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _predict(client: Client, given: argparse.Namespace) -> None:
    which = {"version": given.model_version, "signature": given.signature}
    events = read_events(given.events, partial(client.inputs, **which))
    which["signature"] = given.signature or events.signature
    for step in events.steps:
        for line in lines(client.predict(step, **which)):
            print(line)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mlaas4hep-predict",
        description="Ask a server for its model's scores.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("server", help="http://HOST:PORT, https://, grpc:// or grpcs://")
    parser.add_argument(
        "events", nargs="?", default="-", help="file of events (see below); - (the default) is standard input"
    )
    parser.add_argument("--model", default=_DEFAULT, help="name of the model (default: default)")
    parser.add_argument("--model-version", type=int, metavar="N", help="version of the model; the newest without it")
    parser.add_argument("--signature", default="", help="signature; serving_default without it")
    parser.add_argument("--timeout", type=float, default=30.0, help="seconds (default: 30)")
    parser.add_argument("--ca", help="PEM file of the authority that signed the server's certificate")
    parser.add_argument(
        "--version",
        action=_Version,
        nargs="?",
        type=int,
        metavar="N",
        help="print the version of this program; with a number, the same as --model-version",
    )
    return parser


class _Version(argparse.Action):
    """``--version`` alone is this program's, ``--version N`` the model's."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, number: Any, *_: Any) -> None:
        if number is None:
            print(f"{parser.prog} {__version__}")
            parser.exit()
        namespace.model_version = number


def lines(answer: Answer) -> list[str]:
    """One line of JSON for each event."""
    if isinstance(answer, dict):
        listed = {name: _listed(values) for name, values in answer.items()}
        rows = zip(*listed.values(), strict=True)
        return [json.dumps(dict(zip(listed, row, strict=True)), default=_text) for row in rows]
    return [json.dumps(row, default=_text) for row in _listed(answer)]


def _listed(values: Any) -> Any:
    return values.tolist() if is_array(values) else values


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


if __name__ == "__main__":
    sys.exit(main())
