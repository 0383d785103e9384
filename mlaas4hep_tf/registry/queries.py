"""What is searched for: ``auc > 0.9 and tag.analysis = 'ttH'`` as MLflow's filters on runs."""

from __future__ import annotations

import re
from dataclasses import dataclass

from mlaas4hep_tf.errors import RegistryError

_CONDITION = re.compile(
    r"\s*(?P<name>[\w.\-/]+|`[^`]+`)\s*(?P<op><=|>=|!=|=|<|>|\bi?like\b)\s*(?P<value>'[^']*'|\"[^\"]*\"|[-+.\deE]+)\s*",
    re.IGNORECASE,
)
_AND = re.compile(r"and\b", re.IGNORECASE)
_PARTS = ("train", "validation", "test", "epoch", "files")
_EXAMPLE = "auc > 0.9 and tag.analysis = 'ttH' and data.fingerprint = '4f...'"
NAME = "name"  # of the model


@dataclass(frozen=True)
class Query:
    """A search.

    Attributes:
        runs: filter on runs, in MLflow's language; empty for all.
        models: conditions (operator, text) on the name of the model.
    """

    runs: str = ""
    models: tuple[tuple[str, str], ...] = ()


def parse(text: str) -> Query:
    """Conditions joined by ``and``.

    ``auc``, ``loss`` ... are metrics of the test part, ``train.auc`` those of another one; ``param.epochs``,
    ``tag.analysis``, ``software.keras`` and ``data.fingerprint`` are texts; ``data.file`` is the uuid or the URL of a
    file that the model was trained on; ``name`` is that of the model.

    Raises:
        RegistryError: what is no condition, and where.
    """
    runs, models, place = list[str](), list[tuple[str, str]](), 0
    while place < len(text.rstrip()):
        if runs or models:
            joint = _AND.match(text, place)
            if joint is None:
                raise RegistryError(f"search {text!r}: expected 'and' at {text[place:]!r}, as in {_EXAMPLE}")
            place = joint.end()
        found = _CONDITION.match(text, place)
        if found is None:
            raise RegistryError(f"search {text!r}: {text[place:]!r} is no condition, such as {_EXAMPLE}")
        place = found.end()
        name, op, value = found["name"].strip("`"), found["op"].upper(), found["value"]
        if name == NAME:
            models.append((op, _quoted(name, op, value)[1:-1]))
        else:
            runs.append(_run_filter(name, op, value))
    return Query(" and ".join(runs), tuple(models))


def _run_filter(name: str, op: str, value: str) -> str:
    kind, _, rest = name.partition(".")
    if name == "data.file":
        column = "digest" if re.fullmatch(r"'[0-9a-fA-F-]{36}'", _quoted(name, op, value)) else "name"
        return f"dataset.{column} {op} {_quoted(name, op, value)}"
    if kind in ("data", "software", "git"):
        return f"tags.`{name}` {op} {_quoted(name, op, value)}"
    if kind == "tag":
        return f"tags.`{rest}` {op} {_quoted(name, op, value)}"
    if kind == "param":
        return f"params.`{rest}` {op} {_quoted(name, op, value.strip(chr(39)))}"
    if value[0] in "'\"":
        raise RegistryError(f"search: {name!r} is a metric and is compared with a number, not {value}")
    return f"metrics.`{name if kind in _PARTS else f'test.{name}'}` {op} {value}"


def _quoted(name: str, op: str, value: str) -> str:
    if op not in ("=", "!=", "LIKE", "ILIKE"):
        raise RegistryError(f"search: {name!r} is a text: it is compared by =, !=, like or ilike, not {op.lower()}")
    return "'" + value.strip("'\"") + "'"
