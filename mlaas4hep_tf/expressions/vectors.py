"""Functions of four-vectors, written out in pt, eta, phi and mass; angles in radians, the rest in the file's unit."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from mlaas4hep_tf.expressions.tree import Node, constant

Do = Callable[..., Node]  # the name of an elementwise operation and its arguments -> the value
Vector = tuple[Node, Node, Node, Node]  # pt, eta, phi, mass


def delta_phi(do: Do, phi1: Node, phi2: Node) -> Node:
    """In [-pi, pi)."""
    apart = do("subtract", phi1, phi2)
    turns = do("floor", do("divide", do("add", apart, constant(math.pi)), constant(2 * math.pi)))
    return do("subtract", apart, do("multiply", constant(2 * math.pi), turns))


def delta_r(do: Do, eta1: Node, phi1: Node, eta2: Node, phi2: Node) -> Node:
    return do("hypot", do("subtract", eta1, eta2), delta_phi(do, phi1, phi2))


def mass(do: Do, vectors: Sequence[Vector]) -> Node:
    """Of the sum of the vectors; zero where rounding leaves less."""
    energy, *momentum = (_total(do, column) for column in zip(*(_cartesian(do, *v) for v in vectors), strict=True))
    square = _square(do, energy)
    for component in momentum:
        square = do("subtract", square, _square(do, component))
    return do("sqrt", do("maximum", square, constant(0.0)))


def _cartesian(do: Do, pt: Node, eta: Node, phi: Node, m: Node) -> Vector:
    """Energy and momentum."""
    px, py = (do("multiply", pt, do(turn, phi)) for turn in ("cos", "sin"))
    pz, p = (do("multiply", pt, do(turn, eta)) for turn in ("sinh", "cosh"))
    return do("sqrt", do("add", _square(do, m), _square(do, p))), px, py, pz


def _total(do: Do, terms: Sequence[Node]) -> Node:
    total = terms[0]
    for term in terms[1:]:
        total = do("add", total, term)
    return total


def _square(do: Do, x: Node) -> Node:
    return do("multiply", x, x)
