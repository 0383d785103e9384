"""The layers ``lifecycle`` and ``batching``: their steps and expectations are sentences, one rule for each kind.

A sentence that no rule fits fails the case: nothing passes unread.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

from mlaas4hep_serving.conformance.batching import Batching
from mlaas4hep_serving.conformance.compare import Case, Failed
from mlaas4hep_serving.conformance.lifecycle import Life

Rule = tuple[str, Callable[..., None]]


def run_lifecycle(case: Case) -> None:
    """Layer ``lifecycle``."""
    with Life() as life:
        _follow(case["steps"], life.steps())
        life.start()
        _follow(_clauses(case["expect"]), life.expectations())


def run_batching(case: Case) -> None:
    """Layer ``batching``."""
    with Batching(case.get("params", {})) as batching:
        _follow(case["steps"], batching.steps())
        _follow(_clauses(case["expect"]), batching.expectations())


def _clauses(expect: Iterable[str]) -> list[str]:
    """Sentences taken apart at ``;`` and commas, but not inside quotes or lists."""
    text = "; ".join(expect)
    return [part.strip() for part in re.split(r'; (?=(?:[^"]*"[^"]*")*[^"]*$)', text) if part.strip()]


def _follow(sentences: Iterable[Any], rules: Iterable[Rule]) -> None:
    rules = list(rules)
    for sentence in sentences:
        for pattern, act in rules:
            match = re.search(pattern, sentence)
            if match:
                act(*match.groups())
                break
        else:
            raise Failed(f"sentence is not understood: {sentence!r}")
