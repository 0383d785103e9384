"""The analysis from the shell: options, and a file that they add to."""

import pytest

from mlaas4hep_tf.analysis.rules import NO_ANALYSIS, analysis
from mlaas4hep_tf.cli.options import Cuts
from mlaas4hep_tf.errors import ConfigError


def test_options_of_the_shell():
    assert Cuts().load().analysis == NO_ANALYSIS
    loaded = Cuts(
        objects=["Lepton=Lepton_pt > 20", "Jet = Jet_pt > 30 and min(delta_r(Jet, Lepton), over=Lepton) >= 0.4"],
        order=["Jet=-Jet_pt"], define=["ht=sum(Jet_pt)", "same=ht == 3"], select=["nJet >= 4", "ht > 300"],
        train_select=["truth == 1"],
    ).load()  # fmt: skip
    assert loaded.analysis == analysis(
        objects={
            "Lepton": "Lepton_pt > 20", "Jet": "Jet_pt > 30 and min(delta_r(Jet, Lepton), over=Lepton) >= 0.4",
        },
        order={"Jet": "-Jet_pt"}, define={"ht": "sum(Jet_pt)", "same": "ht == 3"}, select=["nJet >= 4", "ht > 300"],
        train_select="truth == 1",
    )  # fmt: skip


def test_options_add_to_a_file(tmp_path):
    path = tmp_path / "preproc.json"
    path.write_text('{"new_branch": {"lg": {"def": "log(e)", "type": "flat", "remove": "True", "cut": "lg > 1"}}}')
    loaded = Cuts(file=path, define=["twice=2 * lg"], select=["twice < 6"]).load()
    assert loaded.analysis == analysis(define={"lg": "log(e)", "twice": "2 * lg"}, select=["lg > 1", "twice < 6"])
    assert loaded.exclude == ("lg",)
    with pytest.raises(ConfigError, match=r"define of 'lg' is given twice: .*preproc.json says it already"):
        Cuts(file=path, define=["lg=log10(e)"]).load()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"define": ["sum(Jet_pt)"]}, "--define needs NAME=EXPRESSION, such as 'ht=sum(Jet_pt)', not 'sum"),
        ({"objects": ["Jet="]}, "--objects needs NAME=EXPRESSION, such as 'Jet=Jet_pt > 30'"),
        ({"order": ["Jet=-Jet_pt", "Jet=Jet_eta"]}, "--order names 'Jet' twice: '-Jet_pt' and 'Jet_eta'"),
    ],
)
def test_options_that_say_nothing(options, says):
    with pytest.raises(ConfigError, match=says.replace("(", r"\(").replace(")", r"\)")):
        Cuts(**options).load()
