"""``preproc.json`` of the MLaaS4HEP programs -> an `Analysis`: new branches are defined, every cut selects events."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mlaas4hep_tf.analysis.rules import Analysis, analysis
from mlaas4hep_tf.errors import ConfigError, ExpressionError, near_misses
from mlaas4hep_tf.expressions.meaning import FUNCTIONS
from mlaas4hep_tf.expressions.syntax import Written, parse

SECTIONS = ("new_branch", "flat_cut", "jagged_cut")
_NEW, _CUT = ("def", "type", "cut", "remove", "keys_to_remove"), ("cut", "remove")
_MEANT = {"true": True, "false": False}  # they write the words


def translate(content: Any) -> tuple[Analysis, tuple[str, ...]]:
    """The analysis, and the branches that are to be no features (``remove``, ``keys_to_remove``).

    A cut with ``any`` or ``all`` becomes that function of it.

    Raises:
        ConfigError: all that cannot be translated.
    """
    found = _Translation()
    for section, entries in found.known("it", content, SECTIONS):
        for name, entry in found.known(section, entries):
            found.entry(section, name, dict(found.known(f"{section} {name!r}", entry, _keys(section))))
    if found.problems:
        raise ConfigError("cannot be translated: " + "; ".join(found.problems))
    return analysis(define=found.define, select=found.select), tuple(dict.fromkeys(found.exclude))


def _keys(section: str) -> tuple[str, ...]:
    return _NEW if section == "new_branch" else _CUT


class _Translation:
    """Gathers what was understood, and what was not."""

    def __init__(self) -> None:
        self.define: dict[str, str] = {}
        self.select: list[str] = []
        self.exclude: list[str] = []
        self.problems: list[str] = []

    def known(self, what: str, content: Any, keys: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
        if not isinstance(content, Mapping):
            self.problems.append(f"{what} holds no object but {content!r}")
            return
        for key, value in content.items():
            if keys and key not in keys:
                self.problems.append(f"{what} has a key {key!r}{near_misses(key, keys)}")
            else:
                yield key, value

    def entry(self, section: str, name: str, entry: Mapping[str, Any]) -> None:
        where = f"{section} {name!r}"
        if section == "new_branch":
            self.define[name] = self._expression(f"{where} def", entry.get("def"))
        if "cut" in entry or section != "new_branch":
            self.select.append(self._cut(where, entry.get("cut"), jagged=_jagged(section, entry)))
        if self._flag(where, entry.get("remove", False)):
            self.exclude.append(name)
        also = entry.get("keys_to_remove") or []
        self.exclude += [also] if isinstance(also, str) else also

    def _cut(self, where: str, cut: Any, *, jagged: bool) -> str:
        text, how = cut if isinstance(cut, list) and len(cut) == 2 else (cut, None)
        if jagged != (how in ("any", "all")):
            wanted = '["EXPRESSION", "any"], or "all"' if jagged else 'an expression alone, "1 <= nMuon <= 16"'
            self.problems.append(f"{where} cut: {wanted} is needed, not {cut!r}")
            return ""
        expression = self._expression(f"{where} cut", text)
        return f"{how}({expression})" if jagged else expression

    def _expression(self, where: str, text: Any) -> str:
        try:
            unknown = [one.text for one in _calls(parse(str(text or "")))]
        except ExpressionError as error:
            self.problems.append(f"{where}: {error}")
            return ""
        self.problems += [f"{where}: there is no function {one!r}{near_misses(one, FUNCTIONS)}" for one in unknown]
        return str(text)

    def _flag(self, where: str, value: Any) -> bool:
        if isinstance(value, bool):
            return value
        if str(value).lower() not in _MEANT:
            self.problems.append(f"{where} remove: True or False is needed, not {value!r}")
        return _MEANT.get(str(value).lower(), False)


def _jagged(section: str, entry: Mapping[str, Any]) -> bool:
    return section == "jagged_cut" or (section == "new_branch" and entry.get("type") == "jagged")


def _calls(written: Written) -> Iterator[Written]:
    """Calls of functions that there are not."""
    if written.form == "call" and written.text not in FUNCTIONS:
        yield written
    for part in written.parts:
        yield from _calls(part)
