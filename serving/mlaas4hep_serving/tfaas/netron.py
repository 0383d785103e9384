"""The graph of a model as a page, drawn here: what TFaaS shows at /netron/MODEL.

Each graph of the SavedModel, the main one and its functions, is a picture: a box for each node, below those that it
takes its inputs from.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from mlaas4hep_serving.errors import invalid_argument
from mlaas4hep_serving.frontends.http import Reply
from mlaas4hep_serving.models.savedmodel import read_proto

MOST_NODES, MOST_GRAPHS = 300, 50  # that are drawn
LARGEST = 64 << 20  # bytes of saved_model.pb
_WIDTH, _HEIGHT, _ROW = 170, 34, 70  # pixels: of a box, and from one row of boxes to the next
_HEADERS = (
    ("Content-Type", "text/html; charset=utf-8"),
    ("Content-Security-Policy", "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    ("Cache-Control", "no-store"),
)
_ENVIRONMENT = jinja2.Environment(
    loader=jinja2.PackageLoader("mlaas4hep_serving.tfaas"), autoescape=True, undefined=jinja2.StrictUndefined
)


@dataclass(frozen=True)
class Node:
    """A node: what it does, and the names of those that it takes inputs from."""

    name: str
    op: str
    inputs: tuple[str, ...]


def index(models: Sequence[str]) -> Reply:
    """A page with a link to each model."""
    return _reply("", models=models, graphs=[])


def page(model: str, folder: Path) -> Reply:
    """The page of the model in a version folder.

    Raises:
        ServingError: INVALID_ARGUMENT, a file that is too large; DATA_LOSS.
    """
    if _size(folder) > LARGEST:
        raise invalid_argument(f"the graph of {model} is larger than {LARGEST} bytes: too large for a picture")
    return _reply(model, models=[], graphs=[picture(name, nodes) for name, nodes in _graphs(folder)][:MOST_GRAPHS])


def _size(folder: Path) -> int:
    try:
        return (folder / "saved_model.pb").stat().st_size
    except OSError as error:
        raise invalid_argument(f"the model has no saved_model.pb: {error.strerror}") from None


def _graphs(folder: Path) -> Iterable[tuple[str, list[Node]]]:
    graph = read_proto(folder).meta_graphs[0].graph_def
    yield "graph", list(map(_node, graph.node))
    for function in graph.library.function:
        arguments = [Node(each.name, "argument", ()) for each in function.signature.input_arg]
        yield function.signature.name, arguments + list(map(_node, function.node_def))


def _node(node: Any) -> Node:
    return Node(node.name, node.op, tuple(name.lstrip("^").partition(":")[0] for name in node.input))


def rows(nodes: Sequence[Node]) -> dict[str, int]:
    """Name -> row of each node: one more than the lowest of its inputs; what lies in a cycle follows as it comes."""
    names = {node.name for node in nodes}
    wanted = {node.name: names.intersection(node.inputs) for node in nodes}
    found: dict[str, int] = {}
    left = list(nodes)
    while left:
        ready = [node for node in left if wanted[node.name] <= found.keys()] or left[:1]
        level = {node.name: 1 + max((found[i] for i in node.inputs if i in found), default=-1) for node in ready}
        found.update(level)
        left = [node for node in left if node.name not in level]
    return found


def picture(name: str, nodes: Sequence[Node]) -> Mapping[str, Any]:
    """A graph as boxes and lines with their places in pixels, for the template."""
    drawn = list(nodes[:MOST_NODES])
    level, filled = rows(drawn), dict[int, int]()
    places: dict[str, tuple[int, int]] = {}
    for node in drawn:
        column = filled.setdefault(level[node.name], 0)
        filled[level[node.name]] += 1
        places[node.name] = (column * (_WIDTH + 20) + 10, level[node.name] * _ROW + 10)
    boxes = [{"x": places[n.name][0], "y": places[n.name][1], "name": n.name, "op": n.op} for n in drawn]
    lines = [_line(places[i], places[node.name]) for node in drawn for i in node.inputs if i in places]
    size = (max(filled.values(), default=0) * (_WIDTH + 20) + 10, (max(filled, default=0) + 1) * _ROW)
    return {"name": name, "boxes": boxes, "lines": lines, "size": size, "nodes": len(nodes)}


def _line(above: tuple[int, int], below: tuple[int, int]) -> tuple[int, int, int, int]:
    return above[0] + _WIDTH // 2, above[1] + _HEIGHT, below[0] + _WIDTH // 2, below[1]


def _reply(model: str, **shown: Any) -> Reply:
    template = _ENVIRONMENT.get_template("netron.html.jinja")
    text = template.render(model=model, width=_WIDTH, height=_HEIGHT, most=MOST_NODES, **shown)
    return Reply(200, text.encode("utf-8", "replace"), _HEADERS)
