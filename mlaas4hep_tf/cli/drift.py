"""The command `drift`: what a server is asked, beside what its models were trained on."""

from __future__ import annotations

import os
from typing import Annotated

import typer
from rich.table import Table

from mlaas4hep_tf.cli.output import out, print_json
from mlaas4hep_tf.errors import ConfigError

_LARGE = 0.25  # PSI of another population


def drift(
    server: Annotated[str, typer.Argument(help="URL of a mlaas4hep-serve that runs with --count_inputs.")],
    model: Annotated[str, typer.Option(help="Only this model.")] = "",
    token: Annotated[str, typer.Option(help="Token of the server; by default that in MLAAS4HEP_TOKEN.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print the histograms as JSON.")] = False,
) -> None:
    """Show how far what a server is asked lies from the reference of its models, the inputs that drift most first."""
    from mlaas4hep_client.errors import ServingError
    from mlaas4hep_client.over_http import Http

    try:
        found = Http(server, token or os.environ.get("MLAAS4HEP_TOKEN"), 60.0, None).drift()
    except ServingError as error:
        raise ConfigError(f"no drift from {server}: {error} (does the server run with --count_inputs?)") from None
    rows = [row for row in found if model in ("", row["model"])]
    if as_json:
        print_json({"inputs": rows})
        return
    table = Table(
        "model", "version", "input", "events", "values", "PSI", "missing", "out of range", box=None, pad_edge=False
    )
    for row in rows:
        psi = f"[red]{row['psi']:.3f}[/red]" if row["psi"] > _LARGE else f"{row['psi']:.3f}"
        shares = (f"{100 * row[name]:.1f} %" for name in ("masked", "out_of_range"))
        values = f"{sum(row['served']):,.0f}"
        table.add_row(row["model"], str(row["version"]), row["input"], row["events"], values, psi, *shares)
    out.print(table if rows else "nothing has been counted yet")
