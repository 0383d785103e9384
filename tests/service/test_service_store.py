"""Files and jobs are neither lost nor counted twice, whoever announces them and whenever the service dies."""

import threading
import time
import uuid

import pytest

from mlaas4hep_tf.errors import ConfigError, RegistryError
from mlaas4hep_tf.service import processes
from mlaas4hep_tf.service.config import Gate, Project, load
from mlaas4hep_tf.service.drift import gone
from mlaas4hep_tf.service.gate import decide
from mlaas4hep_tf.service.store import Store


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "service.db")


def names(count):
    return [(f"/data/{n}.root", str(uuid.UUID(int=n))) for n in range(count)]


def test_many_notifications_half_of_them_doubled(store):
    files = names(50_000)
    doubled = [(f"/elsewhere{url}", number) for url, number in files]  # the same file at another place
    batches = [part[start : start + 5000] for start in range(0, 50_000, 5000) for part in (files, doubled)]
    halves = [
        threading.Thread(target=lambda own: [store.announce("tth", b) for b in own], args=(batches[n::2],))
        for n in (0, 1)
    ]
    for thread in halves:
        thread.start()
    for thread in halves:
        thread.join()
    known = store.files("tth")
    assert len(known) == 50_000
    assert {url.rpartition("/")[2] for url in known} == {f"{n}.root" for n in range(50_000)}


def test_a_job_takes_all_files_that_came_before_it_and_the_next_one_the_others(store):
    store.announce("tth", names(3))
    store.plan("tth", time.time() - 60)  # not settled yet
    assert store.jobs() == []
    for _ in range(3):
        store.plan("tth", time.time())
    (job,) = store.jobs()
    assert (job.state, store.files("tth", job.upto)) == ("queued", [url for url, _ in names(3)])
    store.announce("tth", names(5))
    store.plan("tth", time.time())  # while the first one is under way
    assert len(store.jobs()) == 1
    store.ended(job.id, "promoted", "the first version", 1)
    store.plan("tth", time.time())
    store.plan("tth", time.time())
    newer, older = store.jobs()
    assert (newer.state, older.state, len(store.files("tth", newer.upto))) == ("queued", "promoted", 5)
    with pytest.raises(RegistryError, match="has ended already: promoted"):
        store.cancel(older.id)
    store.ended(newer.id, "failed", "out of memory")
    assert store.retry(newer.id).state == "queued"


def test_a_file_that_was_announced_by_name_is_known_by_what_it_is(store):
    store.announce("tth", [("/a.root", None), ("/link.root", None), ("/a.root", None)])
    for number, _, _ in store.unknown():
        store.identify(number, str(uuid.UUID(int=7)))
    assert store.files("tth") == ["/a.root"]
    assert store.unknown() == []


def test_drift_queues_a_training_once_for_the_same_files(store):
    def queued():
        store.plan_once("tth", "drift", "drift: x has a PSI of 0.4")
        (job, *_) = store.jobs()
        store.ended(job.id, "kept", "worse")
        return len(store.jobs()), job.cause

    store.announce("tth", names(3))
    store.plan("tth", time.time())
    store.ended(1, "promoted", "the first version", 1)
    assert [queued(), queued()] == [(2, "drift: x has a PSI of 0.4")] * 2
    store.announce("tth", names(4))
    assert queued() == (3, "drift: x has a PSI of 0.4")
    store.plan_again("tth", "it was asked for")
    assert store.jobs()[0].cause == "it was asked for"
    store.plan_again("vbf", "it was asked for")  # no file of it has come
    assert store.jobs("vbf") == []


def test_what_has_drifted_is_the_input_of_the_served_version_that_has_gone_farthest():
    row = lambda name, psi, version=2, served=2000: {  # noqa: E731
        "model": "tth", "version": version, "input": name, "events": "passing", "psi": psi, "served": [0, served, 0, 900],
    }  # fmt: skip
    rows = [row("x", 0.3), row("y", 0.4), row("other", 0.9, version=1), row("few", 0.9, served=99)]
    assert "y of passing events that version 2 is asked has a PSI of 0.40" in (gone(rows, "tth", 2, 0.25) or "")
    assert gone(rows, "tth", 2, 0.5) is None


def paired(auc, champion, error=0.002, events=1000):
    return {"figure": "AUC", "value": auc, "champion": champion, "error": error, "events": events}


@pytest.mark.parametrize(
    ("known", "everything", "ranges", "gate", "promoted"),
    [
        (paired(0.90, 0.85), paired(0.90, 0.85), {}, Gate(), True),
        (paired(0.85, 0.85, 0.0), paired(0.85, 0.85, 0.0), {}, Gate(margin=0), True),
        (paired(0.849, 0.85), paired(0.849, 0.85), {}, Gate(margin=0.005), True),  # -0.001 - 1.645 * 0.002
        (paired(0.849, 0.85), paired(0.849, 0.85), {}, Gate(margin=0.004), False),
        (paired(0.80, 0.85), paired(0.90, 0.85), {}, Gate(), False),  # better by labels that are wrong
        (paired(0.90, 0.85), paired(0.90, 0.85), {"x": [[0, 1], [0, 2]]}, Gate(), True),
        (paired(0.90, 0.85), paired(0.90, 0.85), {"x": [[0, 1], [0, 2]]}, Gate(new_ranges="hold"), False),
    ],
)
def test_the_gate(known, everything, ranges, gate, promoted):
    decision = decide({"champion": 3, "known": known, "all": everything, "ranges": ranges}, gate)
    assert decision.promote is promoted
    assert not ranges or "beyond those of the champion in x" in decision.reason


def test_what_is_only_not_shown_to_be_as_good_is_told_so():
    judgement = {"champion": 3, "all": paired(0.90, 0.85), "ranges": {}}
    assert decide(judgement | {"known": paired(0.80, 0.85)}, Gate()).reason.startswith("worse than version 3: AUC 0.80")
    assert decide(judgement | {"known": paired(0.851, 0.85, 0.02)}, Gate()).reason.startswith("perhaps worse than")


def test_the_first_version_has_no_champion_to_beat():
    assert decide({"champion": None}, Gate()).promote


def test_a_model_that_cannot_be_compared_is_kept():
    decision = decide({"champion": 3, "refused": "the champion held out other events"}, Gate())
    assert (decision.promote, decision.reason) == (
        False,
        "not compared with version 3: the champion held out other events",
    )


def test_a_process_is_alive_as_long_as_it_runs(tmp_path):
    processes.start(tmp_path, ["sh", "-c", "echo begun; exec sleep 60"])
    assert processes.alive(tmp_path)
    with pytest.raises(BlockingIOError):
        processes.start(tmp_path, ["true"])
    while processes.last_line(tmp_path) != "begun":
        time.sleep(0.05)
    processes.kill(tmp_path)
    while processes.alive(tmp_path):
        time.sleep(0.05)


def test_a_batch_system_starts_it_by_a_template():
    command = ["mlaas4hep-tf", "train", "my files.txt"]
    assert processes.launched([], command) == command
    assert processes.launched(["sbatch", "--wait", "--wrap", "{command}"], command) == [
        "sbatch", "--wait", "--wrap", "mlaas4hep-tf train 'my files.txt'",
    ]  # fmt: skip
    assert processes.launched(["condor_run", "-a", "request_memory=4GB", "{command}"], command) == [
        "condor_run", "-a", "request_memory=4GB", "mlaas4hep-tf train 'my files.txt'",
    ]  # fmt: skip


def test_a_configuration(tmp_path):
    path = tmp_path / "service.toml"
    assert load(path).projects == {}
    assert path.exists()  # one to begin with
    path.write_text('[project.tth]\ntrain = ["--label", "*=1"]\nhold_out = 0.1\n[project.tth.gate]\nmargin = 0.0\n')
    assert load(path).projects == {"tth": Project("tth", ("--label", "*=1"), hold_out=0.1, gate=Gate(margin=0.0))}
    assert load(path).projects["tth"].held_out == "0.1:entries"
    assert Project("tth", ("--label", "*=1"), hold_out="event % 5 == 0").held_out == "event % 5 == 0"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("prot = 1", r"unknown key 'prot' \(did you mean 'port'"),
        ('host = "0.0.0.0"', "needs a token"),
        ("[project.a]\nwatch = []", "project a: train has the options"),
        ('[project.a]\ntrain = ["x"]\nstart = "new"', "start is scratch or champion, not 'new'"),
        ('[project.a]\ntrain = ["x"]\ndrift = 0.25', "drift is asked of server = URL, and there is none"),
        ("[project.a", "cannot be read"),
    ],
)
def test_what_is_wrong_in_a_configuration(tmp_path, text, told):
    path = tmp_path / "service.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=told):
        load(path)
