"""Whether a new model replaces the one that is served: a pure decision on what `runs.judging` found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mlaas4hep_tf.service.config import Gate


@dataclass(frozen=True)
class Decision:
    """Whether it is promoted, and why, in a line."""

    promote: bool
    reason: str


def decide(judgement: Mapping[str, Any], gate: Gate) -> Decision:
    """Promote unless it is worse, by more than the margin and what chance explains, on any of the held-out events.

    Args:
        judgement: ``champion`` None, or ``all``, ``known`` (`runs.judging.Paired`) and ``ranges``, or ``refused``.
    """
    if judgement.get("champion") is None:
        return Decision(True, "the first version")
    if "refused" in judgement:
        return Decision(False, f"not compared with version {judgement['champion']}: {judgement['refused']}")
    ranges = judgement["ranges"]
    beyond = f"; values beyond those of the champion in {', '.join(sorted(ranges))}" if ranges else ""
    for what in ("known", "all"):
        difference, lower, told = _told(judgement[what], what, gate)
        if lower < -gate.margin:
            worse = "worse" if difference < -gate.margin else "perhaps worse"
            return Decision(False, f"{worse} than version {judgement['champion']}: {told}{beyond}")
    if ranges and gate.new_ranges == "hold":
        return Decision(False, f"held back{beyond}")
    return Decision(True, f"not worse than version {judgement['champion']}: {told}{beyond}")


def _told(one: Mapping[str, Any], what: str, gate: Gate) -> tuple[float, float, str]:
    """The difference, its lower bound, and how they came about."""
    difference = one["value"] - one["champion"]
    lower = difference - gate.deviations * one["error"]
    events = f"{one['events']:,} held-out events of {'all files' if what == 'all' else 'the files that both know'}"
    told = (
        f"{one['figure']} {one['value']:.4f} against {one['champion']:.4f} on {events}, difference {difference:+.4f} ± "
        f"{one['error']:.4f}, at least {lower:+.4f} where {-gate.margin:+.4f} is allowed"
    )
    return difference, lower, told
