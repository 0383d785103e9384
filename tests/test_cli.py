"""The command line as a person uses it: what it prints, leaves behind and says when something is wrong."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import uproot

import mlaas4hep_tf
from mlaas4hep_tf.cli import main

COMMANDS = ["scan", "train", "evaluate", "predict", "export", "bench", "drift", "models", "runs", "service"]
PROGRAM = str(Path(sys.executable).with_name("mlaas4hep-tf"))


def cli(*args, cwd=None, check=True):
    done = subprocess.run([PROGRAM, *map(str, args)], capture_output=True, text=True, cwd=cwd, timeout=300, check=False)
    if check:
        assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def work(tmp_path_factory, demo_files):
    """A folder with demo files, specs and a trained run."""
    folder = tmp_path_factory.mktemp("work")
    (folder / "data").mkdir()
    for name in demo_files:
        shutil.copy(name, folder / "data")
    done = cli("scan", "data/*.root", "--tree", "events", "--exclude", "isSignal", "-o", "specs.json", cwd=folder)
    assert "70 branches, 508 columns" in done.stdout
    assert "8,522 events in" in done.stdout
    assert "one constant value (tells nothing): genWeight" in done.stderr
    done = cli(
        "train", "data/*.root", "--specs", "specs.json", "--label", "*signal*=1", "--label", "*=0", "--model", "mlp",
        "--epochs", "2", "--batch-size", "100", "--split", "0.64,0.16,0.20", "--seed", "1", "--out", "runs/tth", cwd=folder,
    )  # fmt: skip
    assert "report: runs/tth/report.html" in done.stdout
    assert done.stderr == ""
    return folder


@pytest.mark.slow
def test_the_run_folder(work):
    run = work / "runs" / "tth"
    names = {p.name for p in run.iterdir()}
    assert names >= {"model.keras", "specs.json", "config.json", "metrics.json", "history.csv", "curves.png",
                     "roc.png", "scores.png", "report.html", "tensorboard"}  # fmt: skip
    metrics = json.loads((run / "metrics.json").read_text())
    assert {name: part["events"] for name, part in metrics["parts"].items()} == {
        "train": 5454,
        "validation": 1364,
        "test": 1704,
    }
    assert metrics["parts"]["test"]["auc"] > 0.8
    assert sum(p["composition"]["1"] for p in metrics["parts"].values()) == 900
    assert len((run / "history.csv").read_text().splitlines()) == 3
    report = (run / "report.html").read_text()
    shown = ("roc", "rejection", "scores", "calibration", "importance", "curves", "multiplicity")
    assert all(f'alt="{name}"' in report for name in shown)
    assert report.count("data:image/png;base64,") == len(list(run.glob("*.png")))
    assert report.count("data:image/png;base64,") >= len(shown)
    assert "Kolmogorov-Smirnov" in report
    assert "Keras on <b>tensorflow</b>" in report
    assert sum(one["events"] for one in metrics["data"] if one["label"] == 1) == 900
    assert {one["branch"] for one in metrics["importance"]} == {
        b["name"] for b in json.loads((run / "specs.json").read_text())["branches"]
    }
    assert f"{metrics['parts']['test']['auc']:.4f}" in report


@pytest.mark.slow
def test_a_mixing_law_and_class_weights(work):
    done = cli(
        "train", "data/signal_ttH.root", "data/bkg_tt_1.root", "--specs", "specs.json", *LABELS, "--epochs", "2",
        "--mix", "*signal*=3", "--mix", "*=1", "--balanced", "--out", "runs/mixed", cwd=work,
    )  # fmt: skip
    assert re.search(r"signal_ttH.root\W+1,056\W+1,056", done.stdout), done.stdout
    metrics = json.loads((work / "runs/mixed/metrics.json").read_text())
    assert metrics["mixing"] == {"*signal*": 3, "*": 1}
    assert [sorted(epoch.values()) for epoch in metrics["composition"]] == [[352, 1056]] * 2  # of 1408 events
    assert metrics["parts"]["train"]["composition"] == {"0": 832, "1": 576}  # evaluated as they are
    assert "1,408" in cli("evaluate", "--run", "runs/mixed", cwd=work).stdout


@pytest.mark.slow
def test_a_network_on_images_from_training_to_serving(work):
    run = ("--run", "runs/image")
    cli(
        "train", "data/signal_ttH.root", "data/bkg_tt_1.root", "--specs", "specs.json", *LABELS, "--epochs", "1",
        "--model", "cnn", "--image", "Jet_eta=9:-2.5:2.5", "--channels", "Jet_pt,Jet_mass", "--cells", "max", "--out",
        "runs/image", cwd=work,
    )  # fmt: skip
    metrics = json.loads((work / "runs/image/metrics.json").read_text())
    assert {one["branch"] for one in metrics["importance"]} == {"(objects in a cell)", "Jet_pt", "Jet_mass"}
    assert f"{metrics['parts']['test']['auc']:.4f}" in cli("evaluate", *run, cwd=work).stdout
    cli("predict", "data/signal_ttH.root", *run, "-o", "image.root", cwd=work)
    assert len(set(uproot.open(f"{work}/image.root:events")["score"].array(library="np"))) > 100
    cli("export", *run, "--to", "models/image", cwd=work)
    card = json.loads((work / "models/image/1.model_card.json").read_text())
    read = card["reference"]
    assert 0 < read["events"] == sum(read["inputs"]["ht"]["all"]) and len(read["inputs"]["Jet_pt"]["all"]) == 53
    assert card["image"] == {
        "axes": [{"branch": "Jet_eta", "bins": 9, "low": -2.5, "high": 2.5}],
        "channels": ["Jet_pt", "Jet_mass"],
        "rule": "max",
    }


@pytest.mark.slow
def test_evaluate(work):
    metrics = json.loads((work / "runs/tth/metrics.json").read_text())
    own = cli("evaluate", "--run", "runs/tth", cwd=work).stdout
    assert f"{metrics['parts']['test']['auc']:.4f}" in own
    given = cli("evaluate", "data/signal_ttH.root", "data/bkg_tt_1.root", "--run", "runs/tth", cwd=work).stdout
    assert "2,200" in given


@pytest.mark.slow
def test_predict_is_aligned_with_the_input(work):
    cli(
        "predict", "data/signal_ttH.root", "data/bkg_QCD_4.root", "--run", "runs/tth", "-o", "out/scores.root", cwd=work
    )
    scores = uproot.open(f"{work}/out/scores.root:events").arrays(library="np")
    inputs = [uproot.open(f"{work}/data/{name}.root:events") for name in ("signal_ttH", "bkg_QCD_4")]
    for name in ("run", "event", "lumi"):
        assert np.array_equal(scores[name], np.concatenate([t[name].array(library="np") for t in inputs]))
    assert scores["event"].dtype == np.int64
    assert scores["file"].tolist() == [0] * 900 + [1] * 500
    assert scores["entry"].tolist() == [*range(900), *range(500)]
    assert scores["score"][:900].mean() > scores["score"][900:].mean()
    assert [p.name for p in (work / "out").iterdir()] == ["scores.root"]


@pytest.mark.slow
def test_the_test_part_is_found_again_or_not_at_all(work, monkeypatch):
    from mlaas4hep_tf.errors import ConfigError
    from mlaas4hep_tf.runs import Run, evaluate_run

    monkeypatch.chdir("/")
    run = Run.load(work / "runs" / "tth")
    test = evaluate_run(run)["test"]
    assert test.summary()["auc"] == pytest.approx(run.metrics["parts"]["test"]["auc"], abs=1e-6)
    hidden = work / "data" / "bkg_tt_1.root"
    hidden.rename(work / "data" / "bkg_tt_1.bak")
    try:
        with pytest.raises(ConfigError, match="are not those it was trained on"):
            evaluate_run(run)
    finally:
        (work / "data" / "bkg_tt_1.bak").rename(hidden)


@pytest.mark.slow
def test_bench_prints_one_json_object(work):
    content = json.loads(
        cli("bench", "data/bkg_*.root", "--exclude", "isSignal", "--rounds", "1", "--json", cwd=work).stdout
    )
    ways = {"paper_scan", "paper_chunk", "uproot_iterate", "user_pipeline", "decompress_limit", "scan", "dataset_1024",
            "dataset_100", "memory_1024", "fit_1024", "fit_memory_1024"}  # fmt: skip
    assert set(content) == ways | {"peak_rss_mb", "ratios", "spread", "disturbed"}
    assert all(content["spread"][way][0] <= content[way] <= content["spread"][way][1] for way in ways)
    assert all(content[way] > 0 for way in ways)
    ratio = content["dataset_1024"] / content["uproot_iterate"]
    assert content["ratios"]["dataset_1024/uproot_iterate"] == pytest.approx(ratio)


@pytest.mark.slow
def test_export_counts_versions(work):
    for number in (1, 2):
        assert f"models/tth/{number}" in cli("export", "--run", "runs/tth", "--to", "models/tth", cwd=work).stdout
    assert (work / "models/tth/1/saved_model.pb").is_file()
    assert (work / "models/tth/2/assets.extra/tf_serving_warmup_requests").is_file()


@pytest.mark.slow
def test_params_of_the_paper(work):
    (work / "params.json").write_text(json.dumps({
        "nevts": 2000, "shuffle": True, "chunk_size": 500, "epochs": 1, "batch_size": 50, "identifier": ["run", "event", "lumi"],
        "branch": "events", "selected_branches": "", "exclude_branches": "isSignal,Pair_*", "hist": "pdfs", "split": 0.3,
        "redirector": "root://xrootd.example", "verbose": 0, "nan": -1,
    }))  # fmt: skip
    (work / "files.txt").write_text(
        "# the paper's list\ndata/signal_ttH.root\ndata/bkg_tt_1.root, data/bkg_QCD_1.root\n"
    )
    (work / "labels.txt").write_text("1\n0\n0\n")
    done = cli(
        "train", "files.txt", "--params", "params.json", "--labels", "labels.txt", "--out", "runs/paper", cwd=work
    )
    for key in ("hist", "split", "nan"):
        assert f"note: params.json: '{key}' has no effect" in done.stderr
    metrics = json.loads((work / "runs/paper/metrics.json").read_text())
    assert sum(p["events"] for p in metrics["parts"].values()) == 2000
    config = json.loads((work / "runs/paper/config.json").read_text())
    assert (config["epochs"], config["batch_size"], config["chunk_size"]) == (1, 50, 500)
    specs = json.loads((work / "runs/paper/specs.json").read_text())
    assert not [b["name"] for b in specs["branches"] if b["name"].startswith("Pair_")]


LABELS = ("--label", "*signal*=1", "--label", "*=0")


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("scan", "data/none.root"), "no such file: data/none.root"),
        (("scan", "data/*.root", "--tree", "event"), "no tree 'event' (did you mean 'events'?) in file data/bkg_QCD_1.root"),
        (("scan", "data/*.root", "--labels", "isSignl"), "--labels names a branch, and files of one class each need none"),
        (("scan", "data/*.root", "--branches", "jet_pt"), "no branch matches 'jet_pt' (did you mean 'Jet_pt' or"),
        (("scan", "params_none.txt"), "no such file"),
        (("scan", "data/*.root", "--quantile", "2"), "must lie in (0, 1]"),
        (("scan", "data/*.root", "--group", "jet"), "--group needs NAME=PATTERN"),
        (("scan", "data/*.root", "--group", "jet=fatjet_*"), "no list branch matches 'fatjet_*' of group 'jet'"),
        (("train", "data/*.root", "--specs", "nope.json", *LABELS), "no specs file nope.json"),
        (("train", "data/*.root", "--specs", "specs.json"), "labels are needed once"),
        (("train", "data/*.root", "--specs", "specs.json", "--label", "x"), "--label must be PATTERN=NAME or PATTERN=NUMBER"),
        (("train", "data/*.root", "--specs", "specs.json", *LABELS, "--mix", "fair"), "a mixing law must be"),
        (("train", "data/*.root", "--specs", "specs.json", *LABELS, "--mix", "*=x"), "--mix must be PATTERN=NUMBER"),
        (("train", "data/*.root", "--specs", "specs.json", "--label", "*signal*=1"), "no pattern of labels matches file"),
        (("train", "data/*.root", "--specs", "specs.json", "--label", "*=0"), "labels must be 0 for background and 1 for signal, each with events; there are [0.0]"),
        (("train", "data/*.root", "--specs", "specs.json", "--label", "*signal*=2", "--label", "*=0"), "labels must be 0 to 2, each with events; there are [0.0, 2.0]"),
        (("train", "data/*.root", "--specs", "specs.json", *LABELS, "--split", "0.9,0.9,0.2"), "must sum to 1"),
        (("train", "data/*.root", "--specs", "specs.json", *LABELS, "--split", "a"), "--split needs three fractions"),
        (("train", "data/*.root", "--specs", "specs.json", *LABELS, "--batch-size", "0"), "batch_size must be at least 1"),
        (("train", "data/*.root", "--specs", "specs.json", *LABELS, "--epochs", "0"), "epochs must be at least 1"),
        (("train", "data/*.root", "--specs", "specs.json", *LABELS, "--model", "mpl"), "no model 'mpl'"),
        (("train", "data/*.root", "--specs", "specs.json", *LABELS, "--out", "runs/tth"), "holds a run already"),
        (("train",), "no input files"),
        (("train", "data/*.root", "--specs", "specs.json", *LABELS, "--exclude", "ht"), "--exclude chooses what is scanned"),
        (("train", "data/*.root", "--specs", "specs.json", *LABELS, "--split", "0.6,0.1,0.1"), "must sum to 1"),
        (("train", "data/*.root", "--specs", "specs.json", *LABELS, "--seed", "-1"), "seed must not be negative"),
        (("train", "data/*.root", "--specs", "specs.json", *LABELS, "--patience", "0"), "patience must be at least 1"),
        (("train", "data/*.root", "--specs", "specs.json", "--labels", "ht"), "cannot be label or weight and a feature"),
        (("scan", "data/*.root", "--exclude", "genWeight,isSignal", "-o", "/proc/nope/specs.json"), "FileNotFoundError"),
        (("predict", "data/*.root", "--run", "runs/none"), "runs/none holds no complete run"),
        (("export", "--run", "runs/none", "--to", "m"), "runs/none holds no complete run"),
    ],
)  # fmt: skip
def test_errors_are_one_line_without_a_traceback(work, args, says, monkeypatch, capsys):
    monkeypatch.chdir(work)
    monkeypatch.setattr(sys, "argv", ["mlaas4hep-tf", *args])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 1
    printed = capsys.readouterr().err
    assert says in printed
    assert printed.splitlines()[-1].startswith("error: ")
    assert [line for line in printed.splitlines() if not line.startswith("note: ")] == printed.splitlines()[-1:]


def test_the_program_ends_with_1_and_one_line(work):
    done = cli("scan", "data/none.root", cwd=work, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: no such file: data/none.root")
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize("args", [("--debug", "scan", "data/none.root"), ("scan", "data/none.root", "--debug")])
def test_debug_shows_the_traceback(work, args):
    done = cli(*args, cwd=work, check=False)
    assert "Traceback" in done.stderr
    assert "no such file" in done.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example(command):
    assert f"Example: mlaas4hep-tf {command}" in " ".join(cli(command, "--help").stdout.split())


LOOK = """
import sys
from mlaas4hep_tf.cli import main
sys.argv = ["mlaas4hep-tf", *sys.argv[1:]]
try:
    main()
except SystemExit as end:
    assert not end.code
heavy = {"tensorflow", "keras", "numpy", "uproot", "awkward", "scipy", "matplotlib"}
print("imported:", sorted(heavy & set(sys.modules)))
"""


@pytest.mark.parametrize(
    "args", [["--version"], ["--help"], *([command, "--help"] for command in COMMANDS)], ids=" ".join
)
def test_help_and_version_import_nothing_heavy(args):
    done = subprocess.run([sys.executable, "-c", LOOK, *args], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines()[-1] == "imported: []"
    assert len(done.stdout.splitlines()) > 1


def test_version():
    assert cli("--version").stdout == f"mlaas4hep-tf {mlaas4hep_tf.__version__}\n"


EARLY = """
import io, sys
from contextlib import redirect_stderr
from mlaas4hep_tf.cli import main
for args, says in {cases!r}:
    sys.argv = ["mlaas4hep-tf", *args]
    try:
        main()
    except SystemExit as end:
        assert end.code == 1, args
    else:
        raise AssertionError(args)
    assert "tensorflow" not in sys.modules, args
"""
TRAIN = ("train", "data/*.root", "--specs", "specs.json")


def test_mistakes_are_told_before_tensorflow_is_imported(work):
    cases = [
        ((*TRAIN, *LABELS, "--model", "mpl"), "no model 'mpl' (did you mean 'mlp'?); there are mlp, set, particle_transformer, particle_net, cnn, module:"),
        ((*TRAIN, *LABELS, "--model", "cnn"), "'cnn' takes an image: give --image, or in Python image="),
        ((*TRAIN, *LABELS, "--image", "Jet_eta=9:-3:3", "--channels", "Jet_pt"), "model 'mlp' takes no image"),
        ((*TRAIN, *LABELS, "--model", "cnn", "--image", "Jet_eta=9"), "--image needs BRANCH=BINS:LOW:HIGH, such as"),
        ((*TRAIN, *LABELS, "--model", "cnn", "--channels", "Jet_pt"), "--channels is for an image, which needs an axis"),
        ((*TRAIN, *LABELS, "--model", "none.py"), "no such model file: none.py"),
        ((*TRAIN, *LABELS, "--model", "nowhere:f"), "there is no module 'nowhere'"),
        ((*TRAIN, "--label", "*signal*=1"), "no pattern of labels matches file"),
        ((*TRAIN, "--label", "*signal*=2", "--label", "*=0"), "labels must be 0 to 2, each with events; there are [0.0, 2.0]"),
        ((*TRAIN, *LABELS, "--normalize", "max"), "normalize must be"),
        ((*TRAIN, *LABELS, "--normalize", "njet=none", "--normalize", "*=minmax"), "'njet' matches no branch"),
        ((*TRAIN, *LABELS, "--mix", "fair"), "a mixing law must be"),
        ((*TRAIN, *LABELS, "--batch-size", "0"), "batch_size must be at least 1"),
        ((*TRAIN, *LABELS, "--out", "runs/tth"), "holds a run already"),
        (("train", "data/none.root", "--specs", "specs.json", *LABELS), "no such file: data/none.root"),
        (("predict", "data/*.root", "--run", "runs/none"), "runs/none holds no complete run"),
        (("predict", "data/none.root", "--run", "runs/tth"), "no such file: data/none.root"),
        (("predict", "data/*.root", "--run", "runs/tth", "-o", "scores.txt"), "scores.txt has '.txt'"),
        (("evaluate", "data/none.root", "--run", "runs/tth"), "no such file: data/none.root"),
        (("export", "--run", "runs/none", "--to", "m"), "runs/none holds no complete run"),
        (("bench", "data/none.root"), "no such file: data/none.root"),
    ]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", EARLY.format(cases=cases)], cwd=work, capture_output=True, text=True, timeout=120,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == len(cases)
    for line, (_, says) in zip(lines, cases, strict=True):
        assert line.startswith("error: ")
        assert says in line


@pytest.mark.slow
def test_json_is_one_object_on_stdout_and_quiet_is_nothing(work):
    scanned = json.loads(cli("scan", "data/*.root", "--exclude", "isSignal", "--json", "-o", "s.json", cwd=work).stdout)
    assert (scanned["events"], scanned["branches"], scanned["columns"]) == (8522, 70, 508)
    names, mean = (scanned["groups"]["nJet"].pop(name) for name in ("names", "mean"))
    counts = [one["nJet"] for one in uproot.iterate(f"{work}/data/*.root:events", "nJet", library="np")]
    assert mean == pytest.approx(np.concatenate(counts).mean())
    assert scanned["groups"]["nJet"] == {"branches": 17, "largest": 14, "kept": 14}
    assert (len(names), "Jet_pt" in names, len(scanned["flat_names"])) == (17, True, scanned["flat"])
    train = (
        "train",
        "data/*.root",
        "--specs",
        "specs.json",
        *LABELS,
        "--epochs",
        "1",
        "--overwrite",
        "--out",
        "runs/j",
    )
    trained = json.loads(cli(*train, "--json", cwd=work).stdout)
    assert trained["run"] == "runs/j"
    assert trained["parts"] == json.loads((work / "runs/j/metrics.json").read_text())["parts"]
    evaluated = json.loads(cli("evaluate", "--run", "runs/j", "--json", cwd=work).stdout)
    assert evaluated["test"]["auc"] == pytest.approx(trained["parts"]["test"]["auc"], abs=1e-6)
    predict = ("predict", "data/signal_ttH.root", "--run", "runs/j", "-o", "out/s.csv")
    predicted = json.loads(cli(*predict, "--json", cwd=work).stdout)
    assert (predicted["events"], predicted["scores"]) == (900, "out/s.csv")
    for args in (("scan", "data/*.root", "-o", "s.json", "--quiet"), ("--quiet", *predict)):
        done = cli(*args, cwd=work)
        assert (done.stdout, done.stderr) == ("", "")


def test_an_analysis_from_the_shell(work):
    (work / "analysis.yaml").write_text("define: {lead: 'max(Jet_pt)'}\nselect: nFatJet >= 1\n")
    scan = ("scan", "data/*.root", "--tree", "events", "--exclude", "isSignal", "--analysis", "analysis.yaml")
    more = ("--select", "nLepton == 0", "--objects", "Jet=Jet_pt > 40", "--define", "tight=nJet", "-o", "cut.json")
    done = cli(*scan, *more, cwd=work)
    specs = mlaas4hep_tf.Specs.load(work / "cut.json")
    arrays = uproot.concatenate(f"{work}/data/*.root:events", ["nFatJet", "nLepton", "Jet_pt"])
    fat = arrays["nFatJet"] >= 1
    both = fat & (arrays["nLepton"] == 0)
    assert specs.entries == np.sum(both)
    assert [int(n.replace(",", "")) for n in re.findall(r"(?:all|>= 1|== 0) +([\d,]+)", done.stdout)] == [
        8522, np.sum(fat), np.sum(both),
    ]  # fmt: skip
    kept = arrays["Jet_pt"][both]
    assert specs["Jet_pt"].min == np.min(kept[kept > 40])
    assert specs["tight"].max == np.max(np.sum(kept > 40, axis=1))
    train = ("train", "data/*.root", "--specs", "cut.json", *LABELS, "--select", "nJet > 2")
    assert "--select chooses what is scanned" in cli(*train, cwd=work, check=False).stderr


def test_help_errors_and_the_list_name_the_same_models():
    listed = [line for line in cli("models").stdout.splitlines() if not line.startswith(" ")]  # but what is wrapped
    names = ["mlp", "set", "particle_transformer", "particle_net", "cnn", "autoencoder"]
    assert [line.split()[0] for line in listed[1:-1]] == names
    shown = re.sub(r"[│\s]+", " ", cli("train", "--help").stdout)  # it has lines of 80 characters
    assert "mlp, set, particle_transformer, particle_net, cnn, module:function" in shown


def test_the_shell_completes_commands_and_options():
    environment = os.environ | {"_MLAAS4HEP_TF_COMPLETE": "complete_bash"}
    for words, word, wanted in (("mlaas4hep-tf ev", 1, "evaluate"), ("mlaas4hep-tf train --bal", 2, "--balanced")):
        done = subprocess.run(
            [PROGRAM], env=environment | {"COMP_WORDS": words, "COMP_CWORD": str(word)}, capture_output=True, text=True,
            timeout=60, check=True,
        )  # fmt: skip
        assert done.stdout.split() == [wanted]
    assert "--install-completion" in cli("--help").stdout


def test_options_stand_in_groups():
    said = cli("train", "--help").stdout
    panels = [said.index(f"─ {panel} ─") for panel in ("Data", "Training", "Reading", "Output")]
    assert panels == sorted(panels)
    reading = said[panels[2] : panels[3]]
    for option in (
        "workers",
        "redirector",
        "cache",
        "replica",
        "timeout",
        "retries",
        "on-bad-file",
        "max-lost-fraction",
    ):
        assert f"--{option} " in reading


@pytest.mark.slow
def test_labels_in_a_branch_of_one_of_two_trees(tmp_path):
    x = np.random.default_rng(0).normal(size=200).astype("f4")
    with uproot.recreate(tmp_path / "two.root") as file:
        for name, label in (("wanted", (x > 0).astype("i4")), ("other", np.full(200, 7, "i4"))):
            file.mktree(name, {"x": "f4", "y": "i4"})
            file[name].extend({"x": x, "y": label})
    cli("train", "two.root", "--tree", "wanted", "--labels", "y", "--epochs", "1", "--out", "run", cwd=tmp_path)
    metrics = json.loads((tmp_path / "run/metrics.json").read_text())
    assert sum(part["events"] for part in metrics["parts"].values()) == 200
    assert json.loads((tmp_path / "run/config.json").read_text())["batch_size"] == 256
    wrong = cli("train", "two.root", "--tree", "other", "--labels", "y", "--out", "bad", cwd=tmp_path, check=False)
    assert "label branch 'y' must hold 0 to 2, each in some event; it holds 7" in wrong.stderr
