"""Files as coffea, Rucio and DAS name them."""

import json

import numpy as np
import pytest
from helpers.streams import quiet_scan

from mlaas4hep_tf import RootDataset, Specs
from mlaas4hep_tf.errors import InputFileError
from mlaas4hep_tf.io.files import Source, expand
from mlaas4hep_tf.testing import write_files

REPLICAS = """\
+-------------+-----------------+------------+-----------+-----------------------------------------------+
| SCOPE       | NAME            | FILESIZE   | ADLER32   | RSE: REPLICA                                  |
|-------------+-----------------+------------+-----------+-----------------------------------------------|
| mc20_13TeV  | DAOD.01.root.1  | 1.234 GB   | 0a1b2c3d  | CERN: root://eos.example:1094//a/DAOD.01.root |
| mc20_13TeV  | DAOD.01.root.1  | 1.234 GB   | 0a1b2c3d  | BNL: root://bnl.example:1094//a/DAOD.01.root  |
| mc20_13TeV  | DAOD.02.root.1  | 1.234 GB   | 0a1b2c3d  | CERN: root://eos.example:1094//a/DAOD.02.root |
+-------------+-----------------+------------+-----------+-----------------------------------------------+
"""


def test_of_a_table_of_rucio_the_first_replica_of_each_file_counts(tmp_path):
    (tmp_path / "files.txt").write_text(REPLICAS)
    names = [f"root://eos.example:1094//a/DAOD.0{n}.root" for n in (1, 2)]
    assert expand(tmp_path / "files.txt") == tuple(Source(name) for name in names)


def test_plain_lists_of_rucio_and_das_are_one_name_a_line(tmp_path):
    names = ["root://a.example//store/mc/one.root", "root://a.example//store/mc/two.root"]
    (tmp_path / "files.txt").write_text("\n".join(names) + "\n\n")
    assert [source.url for source in expand(str(tmp_path / "files.txt"))] == names


def fileset(files):
    return {
        "ttH": {"files": {files[0]: "events"}, "metadata": {"xsec": 0.5}},
        "QCD": {"files": {files[1]: {"object_path": "events", "steps": [[0, 100], [100, 200]], "num_entries": 200}}},
        "tt": {"files": [files[2]]},
    }


def test_datasets_of_a_fileset_have_labels_by_name(tmp_path):
    files = write_files(tmp_path, [300, 200, 100])
    given = fileset(files)
    (tmp_path / "fileset.json").write_text(json.dumps(given))
    specs = quiet_scan(given)
    assert specs == quiet_scan(tmp_path / "fileset.json") and [f.dataset for f in specs.files] == ["ttH", "QCD", "tt"]
    ds = RootDataset(given, specs, labels={"QCD": 0, "tt": 0, "ttH": 1})
    labels = np.concatenate([y.numpy() for _, y in ds])
    assert (len(labels), labels.sum()) == (600, 300)


def test_specs_give_a_fileset_back(tmp_path):
    files = write_files(tmp_path, [300, 200, 100])
    specs = quiet_scan(fileset(files))
    specs.save(tmp_path / "specs.json")
    given = Specs.load(tmp_path / "specs.json").to_fileset()
    assert list(given) == ["ttH", "QCD", "tt"]
    own = given["QCD"]["files"][files[1]]
    assert {**own, "uuid": ""} == {"object_path": "events", "steps": [[0, 200]], "num_entries": 200, "uuid": ""}
    assert quiet_scan(json.loads(json.dumps(given))) == specs
    assert list(quiet_scan(files).to_fileset()) == ["events"]


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"a": {}}, "dataset 'a' has no files"),
        ({"a": {"files": "x.root"}}, "dataset 'a' has no files"),
        ({"a": {"files": {"x.root": {"object_path": "t", "steps": [[0, 5]], "num_entries": 9}}}}, "leave entries out"),
    ],
)
def test_what_is_no_fileset_is_told(given, why):
    with pytest.raises(InputFileError, match=why):
        expand(given)


def test_a_file_of_two_datasets_is_told(tmp_path):
    (file,) = write_files(tmp_path, [10])
    with pytest.raises(InputFileError, match="named once only"):
        expand({"a": {"files": [file]}, "b": {"files": [file]}})


@pytest.mark.parametrize("text", ["[]", "{", '"a"'])
def test_a_json_file_that_is_no_fileset(tmp_path, text):
    (tmp_path / "f.json").write_text(text)
    with pytest.raises(InputFileError, match="fileset"):
        expand(str(tmp_path / "f.json"))
