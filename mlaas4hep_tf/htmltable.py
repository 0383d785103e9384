"""Tables for notebooks, as HTML that needs no style sheet."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

_LEFT, _RIGHT = ' style="text-align:left"', ' style="text-align:right"'


def table(caption: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A caption above a table that scrolls.  Numbers stand on the right."""
    head = "".join(f"<th{_LEFT}>{escape(name)}</th>" for name in columns)
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows)
    grid = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f'<p>{escape(caption)}</p><div style="max-height:32em; overflow:auto">{grid}</div>'


def _cell(value: object) -> str:
    align = _RIGHT if isinstance(value, int | float) else _LEFT
    return f"<td{align}>{escape(text(value))}</td>"


def text(value: object) -> str:
    """A value as people read it: integers with commas, other numbers with four digits, None as nothing."""
    if value is None:
        return ""
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
