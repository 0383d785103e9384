"""Analyses from files: what YAML and `preproc.json` say, where they are wrong, and the schema for editors."""

import json
from dataclasses import fields

import pytest
import yaml

from mlaas4hep_tf.analysis.files import SCHEMA, load
from mlaas4hep_tf.analysis.rules import Analysis, analysis
from mlaas4hep_tf.errors import ConfigError

YAML = """\
# yaml-language-server: $schema=schema.json
objects:
  Jet: Jet_pt > 30 and abs(Jet_eta) < 2.4   # acceptance
  Lepton: Lepton_pt > 20
order: {Jet: -Jet_pt}
define:
  ht30: sum(Jet_pt)
  one: 1
select:
  - nLepton == 0
  - >
    ht30 > 300
    and "ht30" < 1000
train_select: "!isUnmatched"
vectors:
  Tau: [tau_et, tau_y, tau_phi, tau_m]
"""


def written(tmp_path, text, name="analysis.yaml"):
    path = tmp_path / name
    path.write_text(text)
    return path


def test_an_analysis_as_yaml(tmp_path):
    loaded = load(written(tmp_path, YAML.replace('"ht30"', "ht30")))
    assert loaded.exclude == ()
    assert loaded.analysis == analysis(
        objects={"Jet": "Jet_pt > 30 and abs(Jet_eta) < 2.4", "Lepton": "Lepton_pt > 20"},
        order={"Jet": "-Jet_pt"},
        define={"ht30": "sum(Jet_pt)", "one": "1"},
        select=["nLepton == 0", "ht30 > 300 and ht30 < 1000"],
        train_select="!isUnmatched",
        vectors={"Tau": ["tau_et", "tau_y", "tau_phi", "tau_m"]},
    )


def test_json_is_yaml_too_and_what_an_analysis_writes_it_reads(tmp_path):
    one = analysis(objects={"Jet": "Jet_pt > 30"}, define={"b": "`a.b c`", "a": "b"}, select="!(a > 3)")
    assert load(written(tmp_path, json.dumps(one.to_json(), indent="\t"), "analysis.json")).analysis == one


WRONG = [
    ("selct: a > 3", r"analysis.yaml, line 1: there is no key 'selct' \(did you mean 'select'"),
    ("define:\n  a: b\n  c: 1\n  a: 3", "line 4: define: 'a' stands there twice"),
    ("select: a > 3\nselect: b > 3", "line 2: the file: 'select' stands there twice"),
    ("objects: Jet_pt > 3", "line 1: objects: names with values are needed, NAME: VALUE, not 'Jet_pt > 3'"),
    ("objects:\n  Jet:\n    - Jet_pt > 3", "line 3: objects, 'Jet': text is needed, not a list"),
    ("define:\n  a:", "line 2: define, 'a': text is needed, not nothing"),
    ("define:\n  a: sum(b\n", r"line 2: define, 'a': expected ',' or '\)', found the end"),
    ("select:\n- a > 3\n- a >", "line 3: select: expected a number, a branch"),
    ("select: !isSignal", "line 1: select: !isSignal would be a tag of YAML's; put the expression in quotes"),
    ("define:\n  a: `b.c`", "line 2: this is no YAML: .*; text that begins with one of .* needs quotes"),
    ("define:\n  a: b: c", "line 2: this is no YAML"),
    ("select: a\n  - b: [", "line 2: this is no YAML"),
    ("vectors:\n  Tau: [a, b, c]", r"line 2: vectors, 'Tau': four branches are needed, its \[pt, eta, phi, mass\]"),
    ("- a > 3", "line 1: the file: names with values are needed, NAME: VALUE, not a list"),
    ("# nothing", "analysis.yaml is empty; an analysis has objects, order, define, select"),
    ("a: \x07", "analysis.yaml is no YAML"),
]


@pytest.mark.parametrize(("text", "says"), WRONG)
def test_what_is_wrong_is_told_with_its_line(tmp_path, text, says):
    with pytest.raises(ConfigError, match=says):
        load(written(tmp_path, text))


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(ConfigError, match=r"cannot read the analysis .*no.yaml: .*No such file"):
        load(tmp_path / "no.yaml")


def test_the_schema_has_the_keys_of_an_analysis():
    schema = json.loads(SCHEMA.read_text())
    assert list(schema["properties"]) == [field.name for field in fields(Analysis)]


@pytest.mark.parametrize("text", [YAML.replace('"ht30"', "ht30"), "select: [a > 3, 1]", "define: {a: 1.5}"])
def test_the_schema_takes_what_is_read(tmp_path, text):
    jsonschema = pytest.importorskip("jsonschema", reason="jsonschema is not installed; nbclient brings it")
    load(written(tmp_path, text))
    jsonschema.validate(yaml.safe_load(text), json.loads(SCHEMA.read_text()))


FORMS = ["selct: a > 3", "objects: Jet_pt > 3", "objects: {Jet: [a]}", "define: {a: }", "vectors: {Tau: [a, b, c]}",
         "- a > 3", "vectors: {Tau: [a, b, c, {}]}", "select: {a: b}", "select: [[a]]"]  # fmt: skip


@pytest.mark.parametrize("text", FORMS)
def test_the_schema_refuses_what_is_refused(tmp_path, text):
    jsonschema = pytest.importorskip("jsonschema", reason="jsonschema is not installed; nbclient brings it")
    with pytest.raises(ConfigError):
        load(written(tmp_path, text))
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(yaml.safe_load(text), json.loads(SCHEMA.read_text()))


PREPROC = {  # as the paper's programs take it
    "new_branch": {
        "log_partonE": {
            "def": "log(partonE)", "type": "jagged", "cut": ["log_partonE<6.31", "all"], "remove": "False",
            "keys_to_remove": ["partonE"],
        },
        "ratio": {"def": "a/b", "type": "flat", "cut": "ratio > 2", "remove": "True"},
    },
    "flat_cut": {"nMuon": {"cut": "1<=nMuon<=16", "remove": "False"}},
    "jagged_cut": {"Muon_Pt": {"cut": ["Muon_Pt>200", "any"], "remove": "True"}},
}  # fmt: skip


def test_the_papers_preproc_is_translated(tmp_path):
    loaded = load(written(tmp_path, json.dumps(PREPROC, indent=1), "preproc.json"))
    assert loaded.analysis == analysis(
        define={"log_partonE": "log(partonE)", "ratio": "a/b"},
        select=["all(log_partonE<6.31)", "ratio > 2", "1<=nMuon<=16", "any(Muon_Pt>200)"],
    )
    assert loaded.exclude == ("partonE", "ratio", "Muon_Pt")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"new_branch": {"x": {"type": "flat"}}}, "preproc.json cannot be translated: new_branch 'x' def: expected a number"),
        ({"new_branch": {"x": {"def": "absolute(a) + lg(b)"}}}, "no function 'absolute'; new_branch 'x' def: there is no function 'lg'"),
        ({"flat_cut": {"n": {"cut": ["n > 1", "any"]}}}, "flat_cut 'n' cut: an expression alone, .* is needed, not"),
        ({"jagged_cut": {"n": {"cut": "n > 1"}}}, r'jagged_cut \'n\' cut: \["EXPRESSION", "any"\], or "all" is needed'),
        ({"flat_cut": {"n": {"cut": "n > 1", "remove": "maybe"}}}, "remove: True or False is needed, not 'maybe'"),
        ({"flat_cut": {"n": {"cutt": "n > 1"}}}, r"flat_cut 'n' has a key 'cutt' \(did you mean 'cut'"),
        ({"flat_cut": {}, "flatcut": {}}, r"it has a key 'flatcut' \(did you mean 'flat_cut'"),
        ({"flat_cut": ["n > 1"]}, "flat_cut holds no object but"),
    ],
)  # fmt: skip
def test_what_cannot_be_translated_is_named(tmp_path, content, says):
    with pytest.raises(ConfigError, match=says):
        load(written(tmp_path, json.dumps(content), "preproc.json"))
