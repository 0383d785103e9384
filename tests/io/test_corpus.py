"""The corpus of scikit-hep-testdata, which it downloads on demand: the same numbers as uproot reads, or a clear error."""

from collections import Counter

import pytest
from helpers.agreement import EVERYTHING, assert_like_uproot
from helpers.soak import cases, report

from mlaas4hep_tf.errors import MlaasError
from mlaas4hep_tf.io.files import Source
from mlaas4hep_tf.io.inspection import inspect

testdata = pytest.importorskip("skhep_testdata", reason="scikit-hep-testdata is not installed (pip install -e .[test])")
requests = pytest.importorskip("requests", reason="scikit-hep-testdata downloads with requests")

FEW = ["uproot-Zmumu-zlib.root", "uproot-HZZ-zlib.root", "uproot-mc10events.root", "uproot-foriter.root"]
ALL = sorted(name for name in testdata.known_files if name.endswith(".root"))


def outcome_of(path: str) -> str:
    """Whatever differs from uproot, or fails otherwise than with an error of ours, ends the test."""
    try:
        file = inspect(Source(path), EVERYTHING)
    except MlaasError:
        return "refused"
    assert_like_uproot(path, file.tree, 0, file.num_entries, expect_fast=False)
    return "as uproot"


@pytest.mark.soak
@pytest.mark.timeout(7200)
def test_the_corpus_is_read_like_uproot():
    names = (FEW, ALL)[cases(0, 1)]
    try:
        paths = [testdata.data_path(name) for name in names]
    except (requests.ConnectionError, requests.Timeout):
        pytest.skip("scikit-hep-testdata cannot download its files here")
    outcomes = Counter(outcome_of(path) for path in paths)
    assert outcomes["as uproot"] >= len(FEW)
    report("corpus", **outcomes)
