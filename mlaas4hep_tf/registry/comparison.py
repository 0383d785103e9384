"""Runs side by side: what differs between them."""

from __future__ import annotations

from collections.abc import Sequence

from mlaas4hep_tf.registry.entries import RunEntry
from mlaas4hep_tf.registry.registry import KEY

_OWN = {KEY, "trained", "command"}  # of a run, which always differs


def differences(runs: Sequence[RunEntry]) -> dict[str, list[str]]:
    """Metric, parameter or tag -> its value in each run as text, where they are not all the same."""
    sides = [_facts(run) for run in runs]
    names = list(dict.fromkeys(name for side in sides for name in side))
    rows = {name: [side.get(name, "") for side in sides] for name in names}
    return {name: values for name, values in rows.items() if len(set(values)) > 1}


def _facts(run: RunEntry) -> dict[str, str]:
    metrics = {name: f"{value:.5g}" for name, value in sorted(run.metrics.items()) if not name.startswith("epoch.")}
    tags = {name: value for name, value in sorted(run.tags.items()) if name not in _OWN}
    params = {f"param.{name}": value for name, value in sorted(run.params.items())}
    return {**metrics, **tags, **params, "files": str(len(run.files))}
