"""Text of an expression -> a tree of what was written; what names and functions mean is not known yet.

The grammar is Python's for numbers, names, calls, indices and operators, with ``&&``, ``||`` and ``!`` besides; there
is nothing else in it, and nothing is ever evaluated as Python.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from mlaas4hep_tf.errors import ExpressionError

LONGEST = 2000  # characters of an expression
MOST = 400  # words and signs
DEEPEST = 30  # brackets, calls, signs inside each other

Form = Literal["number", "name", "unary", "binary", "chain", "call", "index", "option"]

COMPARISONS = ("<", "<=", ">", ">=", "==", "!=")
_SAME = {"&&": "and", "||": "or", "!": "not"}
_LEVELS: tuple[tuple[str, ...], ...] = (  # of binary operators, the loosest first; comparisons stand between
    ("or",), ("and",), COMPARISONS, ("|",), ("^",), ("&",), ("<<", ">>"), ("+", "-"), ("*", "/", "//", "%"),
)  # fmt: skip
_COMPARED = _LEVELS.index(COMPARISONS)
_TOKEN = re.compile(
    r"(?P<number>(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?(?![\w.]))|(?P<name>[^\W\d]\w*(\.\w+)*)|(?P<quoted>`[^`]+`)"
    r"|(?P<sign>\*\*|//|<<|>>|<=|>=|==|!=|&&|\|\||[-+*/%<>=!~&|^()\[\],])"
)


@dataclass(frozen=True)
class Written:
    """A node of the tree.

    Attributes:
        form: what it is.
        text: the number, the name, the operator, the function, or the name of an option (``over=``).
        parts: what it is made of; of a chain of comparisons the sides, `text` having the operators.
        at: position in the text.
        bracketed: whether it stands in brackets of its own.
    """

    form: Form
    text: str
    parts: tuple[Written, ...]
    at: int
    bracketed: bool = False


@dataclass(frozen=True)
class _Token:
    kind: str
    text: str
    at: int


def parse(text: str) -> Written:
    """Read an expression.

    Raises:
        ExpressionError: text that is no expression; it shows the place and says what was expected there.
    """
    if len(text) > LONGEST:
        raise ExpressionError(f"an expression may have {LONGEST} characters, this one has {len(text)}", text[:60], 0)
    return _Parser(text).whole()


def words_of(text: str) -> frozenset[str]:
    """All names in an expression, those of functions and options too."""
    found, todo = set(), [parse(text)]
    while todo:
        one = todo.pop()
        todo += one.parts
        found |= {one.text} if one.form in ("name", "call", "option") else set()
    return frozenset(found)


def _tokens(text: str) -> Iterator[_Token]:
    at = 0
    while at < len(text):
        if text[at].isspace():
            at += 1
            continue
        found = _TOKEN.match(text, at)
        if found is None:
            raise ExpressionError(f"{text[at]!r} has no meaning in an expression", text, at)
        kind = str(found.lastgroup)
        word = found[0]
        if kind == "name" and word in ("and", "or", "not"):
            kind = "sign"
        yield _Token(kind, _SAME.get(word, word) if kind == "sign" else word, at)
        at = found.end()
    yield _Token("end", "", len(text))


class _Parser:
    """Recursive descent with one token ahead."""

    def __init__(self, text: str) -> None:
        self._text, self._depth, self._number = text, 0, 0
        self._tokens = list(_tokens(text))
        if len(self._tokens) > MOST:
            raise ExpressionError(f"an expression may have {MOST} words and signs, this one has more", text, 0)

    @property
    def _next(self) -> _Token:
        return self._tokens[self._number]

    def _take(self, *signs: str) -> _Token | None:
        token = self._next
        if token.kind != "sign" or token.text not in signs:
            return None
        self._number += 1
        return token

    def _expect(self, sign: str) -> None:
        if not self._take(sign):
            raise self._error(f"expected {sign!r}")

    def _error(self, what: str) -> ExpressionError:
        token = self._next
        found = repr(self._text[token.at :].split()[0][:20]) if token.kind != "end" else "the end"
        return ExpressionError(f"{what}, found {found}", self._text, token.at)

    def whole(self) -> Written:
        tree = self._binary(0)
        if self._next.kind != "end":
            raise self._error("expected an operator")
        return tree

    def _deeper(self) -> None:
        self._depth += 1
        if self._depth > DEEPEST:
            raise ExpressionError(f"an expression may be nested {DEEPEST} deep", self._text, self._next.at)

    def _binary(self, level: int) -> Written:
        if level == len(_LEVELS):
            return self._unary()
        if level == _COMPARED:
            return self._not()
        left = self._binary(level + 1)
        while token := self._take(*_LEVELS[level]):
            left = Written("binary", token.text, (left, self._binary(level + 1)), token.at)
        return left

    def _not(self) -> Written:
        """``not`` as in Python, looser than a comparison; ``!`` as in C binds like a sign, and is taken there."""
        token = self._next
        if token.text == "not" and self._text.startswith("not", token.at) and self._take("not"):
            self._deeper()
            inner = self._not()
            self._depth -= 1
            return Written("unary", "not", (inner,), token.at)
        return self._chain()

    def _chain(self) -> Written:
        """``a < b <= c``; beside ``&``, ``|``, ``^`` a comparison needs brackets, as Python would read a chain."""
        sides, signs = [self._binary(_COMPARED + 1)], []
        while token := self._take(*COMPARISONS):
            signs.append(token)
            sides.append(self._binary(_COMPARED + 1))
        if not signs:
            return sides[0]
        for side in sides:
            loose = side.form == "binary" and side.text in ("&", "|", "^") and not side.bracketed
            if loose or (side.form == "unary" and side.text == "not" and not side.bracketed):
                raise ExpressionError(
                    f"beside a comparison {side.text!r} needs brackets, such as (a > 30) & (b < 2) or !(a > 30)",
                    self._text, side.at,
                )  # fmt: skip
        return Written("chain", " ".join(sign.text for sign in signs), tuple(sides), signs[0].at)

    def _unary(self) -> Written:
        if token := self._take("-", "+", "~", "not"):
            self._deeper()
            inner = self._unary()
            self._depth -= 1
            return inner if token.text == "+" else Written("unary", token.text, (inner,), token.at)
        base = self._postfix()
        if token := self._take("**"):  # of the right first, and before the sign of its left, as in Python
            self._deeper()
            base = Written("binary", "**", (base, self._unary()), token.at)
            self._depth -= 1
        return base

    def _postfix(self) -> Written:
        tree = self._atom()
        while token := self._take("["):
            self._deeper()
            tree = Written("index", "[", (tree, self._binary(0)), token.at)
            self._depth -= 1
            self._expect("]")
        return tree

    def _atom(self) -> Written:
        token = self._next
        if token.kind in ("number", "quoted", "name"):
            self._number += 1
            if token.kind == "number":
                return Written("number", token.text, (), token.at)
            if token.kind == "name" and self._take("("):
                return Written("call", token.text, tuple(self._arguments()), token.at)
            return Written("name", token.text.strip("`"), (), token.at)
        if not self._take("("):
            raise self._error("expected a number, a branch, a function or '('")
        self._deeper()
        inner = self._binary(0)
        self._depth -= 1
        self._expect(")")
        return replace(inner, bracketed=True)

    def _arguments(self) -> Iterator[Written]:
        self._deeper()
        while not self._take(")"):
            token, following = self._next, self._tokens[min(self._number + 1, len(self._tokens) - 1)]
            if token.kind == "name" and following.text == "=":
                self._number += 2
                yield Written("option", token.text, (self._binary(0),), token.at)
            else:
                yield self._binary(0)
            if not self._take(",") and self._next.text != ")":
                raise self._error("expected ',' or ')'")
        self._depth -= 1
