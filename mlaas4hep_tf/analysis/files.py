"""`load`: an `Analysis` from ``analysis.yaml``, or from the ``preproc.json`` of the paper's programs."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, NoReturn

import yaml

from mlaas4hep_tf.analysis.preproc import SECTIONS, translate
from mlaas4hep_tf.analysis.rules import NO_ANALYSIS, Analysis, analysis
from mlaas4hep_tf.errors import ConfigError, ExpressionError, near_misses
from mlaas4hep_tf.expressions.syntax import parse

SCHEMA = Path(__file__).with_name("schema.json")  # for editors: # yaml-language-server: $schema=...
KEYS = tuple(one.name for one in fields(Analysis))


@dataclass(frozen=True)
class Loaded:
    """What a file says.

    Attributes:
        analysis: selections, object cuts, orders and definitions.
        exclude: branches that are to be no features (``remove`` and ``keys_to_remove`` of ``preproc.json``).
        categories: branches of kinds, as for `scan`; a file has none.
    """

    analysis: Analysis = NO_ANALYSIS
    exclude: tuple[str, ...] = ()
    categories: Mapping[str, Any] = field(default_factory=dict)


def load(path: str | os.PathLike[str]) -> Loaded:
    """Read a file: one whose keys are those of ``preproc.json`` is translated, any other is an ``analysis.yaml``.

    The keys of ``analysis.yaml`` are those of `Analysis`: ``objects``, ``order`` and ``define`` map names to
    expressions, ``select`` and ``train_select`` are an expression or a list of them, ``vectors`` maps a group to four
    branches.  The order of a mapping counts.  JSON is YAML too.

    Raises:
        ConfigError: no such file, no YAML, a key that there is not, a value of another form, text that is no
            expression, or what cannot be translated; it says the line, or for ``preproc.json`` the keys.
    """
    where = os.fspath(path)
    try:
        text = Path(path).read_text().expandtabs()  # YAML takes no tabs, JSON does
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the analysis {where}: {error}") from error
    tree = _compose(text, where)
    keys = {key.value for key, _ in tree.value} if isinstance(tree, yaml.MappingNode) else set()
    if keys & {*SECTIONS}:
        return _translated(text, where)
    return Loaded(_Reader(where).whole(tree))


def _translated(text: str, where: str) -> Loaded:
    try:
        return Loaded(*translate(json.loads(text)))
    except ValueError as error:
        raise ConfigError(f"{where} is no JSON: {error}") from error
    except ConfigError as error:
        raise ConfigError(f"{where} {error}") from error


def _compose(text: str, where: str) -> yaml.Node:
    try:
        tree = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigError(
            f"{where}, line {line}: this is no YAML: {error.problem}; text that begins with one of ! & * ` [ {{ | > %, "
            "or has ': ' or ' #' in it, needs quotes around it"
        ) from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{where} is no YAML: {' '.join(str(error).split())}") from error
    if tree is None:
        raise ConfigError(f"{where} is empty; an analysis has {', '.join(KEYS)}")
    return tree


class _Reader:
    """Values from YAML's nodes, which know their line."""

    def __init__(self, where: str) -> None:
        self._where = where

    def whole(self, tree: yaml.Node) -> Analysis:
        return analysis(**{key: self._value(key, node) for key, node in self._mapping("the file", tree, KEYS)})

    def _value(self, key: str, node: yaml.Node) -> Any:
        if key in ("select", "train_select"):
            listed = node.value if isinstance(node, yaml.SequenceNode) else [node]
            return [self._expression(key, one) for one in listed]
        read = self._four if key == "vectors" else self._expression
        return {name: read(f"{key}, {name!r}", value) for name, value in self._mapping(key, node)}

    def _four(self, what: str, node: yaml.Node) -> list[str]:
        listed = node.value if isinstance(node, yaml.SequenceNode) else []
        if len(listed) != 4:
            self._fail(node, f"{what}: four branches are needed, its [pt, eta, phi, mass], not {_kind(node)}")
        return [self._text(what, one) for one in listed]

    def _mapping(self, what: str, node: yaml.Node, known: tuple[str, ...] = ()) -> Iterator[tuple[str, yaml.Node]]:
        """Keys with their values; each key once, and with `known` none but those."""
        if not isinstance(node, yaml.MappingNode):
            self._fail(node, f"{what}: names with values are needed, NAME: VALUE, not {_kind(node)}")
        seen: set[str] = set()
        for key, value in node.value:
            name = self._text(what, key)
            if known and name not in known:
                self._fail(key, f"there is no key {name!r}{near_misses(name, known)}; there are {', '.join(known)}")
            if name in seen:
                self._fail(key, f"{what}: {name!r} stands there twice")
            seen.add(name)
            yield name, value

    def _expression(self, what: str, node: yaml.Node) -> str:
        text = self._text(what, node)
        try:
            parse(text)
        except ExpressionError as error:
            self._fail(node, f"{what}: {error}")
        return text

    def _text(self, what: str, node: yaml.Node) -> str:
        if not node.tag.startswith("tag:yaml.org"):
            self._fail(node, f"{what}: {node.tag} would be a tag of YAML's; put the expression in quotes")
        if not isinstance(node, yaml.ScalarNode) or not node.value.strip():
            self._fail(node, f"{what}: text is needed, not {_kind(node)}")
        return " ".join(node.value.split())

    def _fail(self, node: yaml.Node, why: str) -> NoReturn:
        raise ConfigError(f"{self._where}, line {node.start_mark.line + 1}: {why}")


def _kind(node: yaml.Node) -> str:
    if isinstance(node, yaml.ScalarNode):
        return repr(node.value) if node.value.strip() else "nothing"
    return "a list" if isinstance(node, yaml.SequenceNode) else "names with values"
