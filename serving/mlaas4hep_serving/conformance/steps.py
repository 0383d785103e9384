"""Steps and checks: objects whose arguments are those of the method that they name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from inspect import Parameter, signature
from typing import Any

from mlaas4hep_serving.conformance.compare import NotRun

Table = Mapping[str, Callable[..., None]]


def validate(items: Sequence[Any], key: str, table: Table) -> None:
    """Every item names a method of the table by ``key``, and has its arguments and no others; ``text`` is for people.

    Raises:
        NotRun: which step or check is wrong, and how.
    """
    for number, item in enumerate(items, 1):
        where = f"{'step' if key == 'action' else 'check'} {number}"
        if isinstance(item, str):
            raise NotRun(f"{where}: sentence is not understood: {item!r}")
        if not isinstance(item, Mapping) or item.get(key) not in table:
            got = item.get(key) if isinstance(item, Mapping) else item
            raise NotRun(f"{where}: unknown {key} {got!r}; there are {', '.join(table)}")
        _arguments(item, key, table[item[key]], f"{where} ({item[key]})")


def _arguments(item: Mapping[str, Any], key: str, method: Callable[..., None], where: str) -> None:
    _, *parameters = signature(method).parameters.values()
    given = set(item) - {key, "text"}
    missing = [p.name for p in parameters if p.default is Parameter.empty and p.name not in given]
    if missing:
        raise NotRun(f"{where}: argument {', '.join(missing)} is missing")
    strange = sorted(given - {p.name for p in parameters})
    if strange:
        takes = ", ".join(p.name for p in parameters) or "none"
        raise NotRun(f"{where}: unknown argument {', '.join(strange)}; it takes {takes}")


def follow(items: Sequence[Mapping[str, Any]], key: str, table: Table, actor: Any) -> None:
    """Call the method of each item on ``actor``, one after the other."""
    for item in items:
        table[item[key]](actor, **{name: value for name, value in item.items() if name not in (key, "text")})
