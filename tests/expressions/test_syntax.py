"""What is an expression, and what is refused, at the right place."""

import ast
import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlaas4hep_tf.errors import ExpressionError
from mlaas4hep_tf.expressions.syntax import COMPARISONS, Written, parse


def spelled(tree: Written) -> str:
    """With all brackets."""
    parts = [spelled(part) for part in tree.parts]
    if tree.form == "chain":
        signs = tree.text.split()
        return "(" + parts[0] + "".join(f" {s} {p}" for s, p in zip(signs, parts[1:], strict=True)) + ")"
    if tree.form == "binary":
        return f"({parts[0]} {tree.text} {parts[1]})"
    if tree.form == "unary":
        return f"({tree.text} {parts[0]})"
    if tree.form == "call":
        return f"{tree.text}({', '.join(parts)})"
    if tree.form == "index":
        return f"{parts[0]}[{parts[1]}]"
    return tree.text


NUMBERS = st.sampled_from(["1", "2.5", "x", "y", "f(x)", "x[0]"])


def combined(inner):
    sign = st.sampled_from(["+", "-", "*", "/", "//", "%", "**", "<<", ">>", "|", "^", "&", "and", "or", *COMPARISONS])
    return st.one_of(
        st.tuples(inner, sign, inner).map(lambda p: f"{p[0]} {p[1]} {p[2]}"),
        inner.map(lambda p: f"({p})"),
        inner.map(lambda p: f"- {p}"),
        inner.map(lambda p: f"not {p}"),
    )


@given(st.recursive(NUMBERS, combined, max_leaves=12))
def test_operators_bind_as_in_python(text):
    try:
        got = parse(text)
    except ExpressionError:
        return  # a comparison beside & | ^ or not; Python reads those as nobody means them
    try:
        want = ast.parse(text, mode="eval")
    except SyntaxError:  # 1 + not x
        return
    assert ast.dump(ast.parse(spelled(got), mode="eval")) == ast.dump(want)


@given(st.text(max_size=60) | st.text("abx_1.0 +-*/%<>=!&|^~()[],`", max_size=60))
def test_any_text_is_an_expression_or_an_error(text):
    with contextlib.suppress(ExpressionError):
        parse(text)


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("a && b || !c", "a and b or ~c"),
        ("!(a > 3)", "~(a > 3)"),
        ("(a > 30) & (b < 2)", "((a) > 30) & ((b) < 2)"),
        ("-a ** 2", "-(a ** 2)"),
        ("a ** -b ** 2", "a ** (-(b ** 2))"),
        ("0 < a <= 3", "(0 < a <= 3)"),
        ("`a.b`[0]", "a.b[0]"),
    ],
)
def test_two_ways_to_write_it(one, two):
    assert spelled(parse(one)).replace("~", "not") == spelled(parse(two)).replace("~", "not")


def test_names_as_files_have_them():
    assert parse("Muon.fP.fX").text == "Muon.fP.fX"
    assert parse("`A/B.c[0]`").text == "A/B.c[0]"
    assert parse("Jet_pt[0]").form == "index"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a > 30 & b < 2", r"beside a comparison '&' needs brackets.*in: a > 30  --> & b < 2"),
        ("!a > 3", "beside a comparison 'not' needs brackets"),
        ("a +", "expected a number, a branch, a function or '\\(', found the end"),
        ("(a", "expected '\\)', found the end"),
        ("a b", "expected an operator, found 'b'; at the mark in: a  --> b"),
        ("f(a b)", "expected ',' or '\\)', found 'b\\)'"),
        ("a == 'x'", '"\'" has no meaning'),
        ("a; b", "';' has no meaning"),
        ("lambda: 1", "':' has no meaning"),
        ("a.b.c(", "found the end"),
        ("1.2.3", "has no meaning"),
        ("x" * 2001, "may have 2000 characters, this one has 2001"),
        ("+".join("a" * 201), "may have 400 words and signs"),
        ("(" * 31 + "a" + ")" * 31, "nested 30 deep"),
        ("-" * 31 + "a", "nested 30 deep"),
        ("not " * 31 + "a", "nested 30 deep"),
        ("a" + "[0" * 31, "nested 30 deep"),
        ("f(" * 31, "nested 30 deep"),
        ("a" + "**a" * 31, "nested 30 deep"),
    ],
)
def test_what_is_refused_says_where(text, says):
    with pytest.raises(ExpressionError, match=says):
        parse(text)
