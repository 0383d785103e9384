"""What models are asked beside what they were trained on: a page for people, and the same as JSON."""

from __future__ import annotations

import json
import secrets
from typing import Any

from mlaas4hep_serving.frontends.http import JSON, Answer, Reply, Request
from mlaas4hep_serving.frontends.pages import ENVIRONMENT, NO_STORE, page_headers
from mlaas4hep_serving.models.drift import Counts, Drift, Row

PAGE, LIST = "/drift", "/drift.json"
_WIDTH, _HEIGHT = 260.0, 90.0  # of a drawing
_MOST = 200  # inputs that are drawn


class DriftPages:
    """The pages as a route of `Rest`."""

    def __init__(self, drift: Drift) -> None:
        self._drift = drift

    def __call__(self, request: Request) -> Answer | None:
        """What makes the reply to a request for one of them, else None."""
        return (
            {PAGE: self._page, LIST: self._list}.get(request.path.partition("?")[0])
            if request.method == "GET"
            else None
        )

    def _list(self) -> Reply:
        rows = [row.to_json() for row in self._drift.rows()]
        return Reply(200, json.dumps({"inputs": rows}).encode(), (JSON, NO_STORE))

    def _page(self) -> Reply:
        nonce, rows = secrets.token_urlsafe(16), self._drift.rows()
        drawn = [_drawn(row) for row in rows[:_MOST]]
        page = ENVIRONMENT.get_template("drift.html.jinja").render(rows=drawn, left=len(rows) - len(drawn), nonce=nonce)
        return Reply(200, page.encode("utf-8", "replace"), page_headers(nonce))


def _drawn(row: Row) -> dict[str, Any]:
    most = max(float(shares(row.reference).max()), float(shares(row.served).max()), 1e-9)
    return {
        "row": row, "count": int(row.served.sum()), "width": _WIDTH, "height": _HEIGHT,
        "reference": _outline(row.reference, most, closed=True), "served": _outline(row.served, most, closed=False),
    }  # fmt: skip


def shares(counts: Counts) -> Counts:
    """What part of the values lies below the range, in each bin, above it."""
    found: Counts = counts[:-1] / max(counts[:-1].sum(), 1)
    return found


def _outline(counts: Counts, most: float, *, closed: bool) -> str:
    """The outline of a histogram as the path of a drawing."""
    step = _WIDTH / len(shares(counts))
    heights = [_HEIGHT * (1 - share / most) for share in shares(counts)]
    path = "".join(f"V{height:.1f}H{(at + 1) * step:.1f}" for at, height in enumerate(heights))
    return f"M0 {_HEIGHT:.0f}{path}V{_HEIGHT:.0f}" + ("Z" if closed else "")
