"""docs/expressions.md: every function is on it, and every example gives what it says."""

import ast
import re
from pathlib import Path

import numpy as np
import pytest

from mlaas4hep_tf.expressions.by_numpy import NumPy
from mlaas4hep_tf.expressions.evaluation import evaluate
from mlaas4hep_tf.expressions.meaning import FUNCTIONS, Schema, Variable, understand
from mlaas4hep_tf.expressions.syntax import COMPARISONS
from mlaas4hep_tf.expressions.tree import Group

PAGE = (Path(__file__).parents[2] / "docs" / "expressions.md").read_text()
ROWS = re.findall(r"^\| `(.+?)` \| ([^|]+) \| ([^|]+) \|$", PAGE, re.MULTILINE)
VALUE = r"True|False|NaN|\[?-?\d.*|\[.*"
EXAMPLES = [row for row in ROWS if re.fullmatch(VALUE, row[1]) and re.fullmatch(VALUE, row[2])]
DATA = [row for row in EXAMPLES if re.fullmatch(r"\w+", row[0])]


def value(text):
    return ast.literal_eval(text.replace("NaN", "1e999")) if "NaN" not in text else eval_nan(text)


def eval_nan(text):
    return [np.nan] * text.count("NaN") if text.startswith("[") else np.nan


def branches():
    """The events of the page as values, counts and schema."""
    values, variables, counts = {}, {}, {}
    for name, *cells in DATA:
        first, second = (value(cell) for cell in cells)
        if isinstance(first, list):
            group = name.split("_")[0]
            counts[group] = np.array([len(first), len(second)])
            values[name] = np.array(first + second, np.float32)
            variables[name] = Variable(name, "float", Group(group))
        else:
            values[name] = np.array([first, second], "f4" if name == "met" else "i8")
            variables[name] = Variable(name, "float" if name == "met" else "int")
    return values, counts, Schema(variables, {})


@pytest.mark.parametrize(("text", "first", "second"), [row for row in EXAMPLES if row not in DATA])
def test_an_example_gives_what_the_page_says(text, first, second):
    values, counts, schema = branches()
    (got,) = evaluate([understand(text, schema)], NumPy(), values, counts, 2)
    wanted = [value(first), value(second)]
    flat = wanted[0] + wanted[1] if isinstance(wanted[0], list) else wanted
    assert len(got) == len(flat)
    np.testing.assert_allclose(got.astype("f8"), np.array(flat, "f8"), rtol=3e-6, atol=1e-6)


def test_the_page_has_every_function_and_operator():
    operators, functions = PAGE.split("## Operators")[1].split("## Functions")
    functions = functions.split("| expression |")[0]
    assert set(re.findall(r"`(\w+)\(", functions)) == set(FUNCTIONS)
    first = re.findall(r"^\| (`.*`) \|", operators.split("Beside")[0], re.MULTILINE)
    signs = {sign for cell in first for sign in re.findall(r"`([^`\w]+|or|and|not)`", cell)}
    assert signs == {"or", "||", "and", "&&", "not", *COMPARISONS, *"|^&+-*/%~", "<<", ">>", "//", "**"}
    assert len(EXAMPLES) > 35
