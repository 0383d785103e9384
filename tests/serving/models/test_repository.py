import logging
import shutil
import threading
import time
from pathlib import Path

import pytest
from google.protobuf import text_format
from mlaas4hep_serving.errors import Code, ServingError, internal
from mlaas4hep_serving.models.repository import Repository, RepositoryOptions
from mlaas4hep_serving.models.versions import Policy, State, aspired, versions_in
from tensorflow_serving.apis.model_pb2 import ModelSpec
from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig


class Loaded:
    def __init__(self, log, number):
        self.log, self.number = log, number

    def close(self):
        self.log.append(f"-{self.number}")


class Disk:
    """A base path, a repository on it without polling, and a log of loads (+n) and unloads (-n)."""

    def __init__(self, base: Path, **options):
        self.base, self.log, self.broken, self.garbage = base, [], set(), set()
        self.repository = Repository(self.load, RepositoryOptions(poll=0, retry_interval=0, **options))

    def load(self, name, number, folder):
        if number in self.broken:
            self.log.append(f"!{number}")
            raise internal("broken")
        if number in self.garbage:
            raise ServingError(Code.DATA_LOSS, "no message")
        self.log.append(f"+{number}")
        return Loaded(self.log, number)

    def write(self, *names):
        for name in names:
            (self.base / str(name)).mkdir()
            (self.base / str(name) / "saved_model.pb").write_text(str(name))

    def configure(self, more=""):
        text = f'model_config_list {{ config {{ name: "m" base_path: "{self.base}" model_platform: "tensorflow" {more} }} }}'
        self.repository.configure(text_format.Parse(text, ModelServerConfig()))

    def states(self):
        return {number: state for number, state, _ in self.repository.status("m")}


@pytest.fixture
def disk(tmp_path):
    return Disk(tmp_path)


def test_names_that_are_versions(tmp_path):
    for name in ("3", "007", "20170111173521", "x", "1.5", "-4", str(1 << 63)):
        (tmp_path / name).mkdir()
    (tmp_path / "9").write_text("a file")
    assert list(versions_in(tmp_path)) == [3, 7, 20170111173521]


@pytest.mark.parametrize(
    ("policy", "wanted"),
    [
        (Policy(), [4]),
        (Policy(latest=2), [4, 3]),
        (Policy(latest=None), [4, 3, 2, 1]),
        (Policy(latest=None, specific=frozenset({1, 3, 9})), [1, 3]),
    ],
)
def test_policies(policy, wanted):
    found = {n: Path(str(n)) for n in (1, 2, 3, 4)}
    assert sorted(aspired(found, policy)) == sorted(wanted)


def test_new_is_loaded_before_old_is_unloaded_and_deleting_rolls_back(disk):
    disk.write(1)
    disk.configure()
    disk.write(2)
    disk.repository.poll()
    shutil.rmtree(disk.base / "2")
    disk.repository.poll()
    assert disk.log == ["+1", "+2", "-1", "+1", "-2"]
    assert disk.states() == {2: State.END, 1: State.AVAILABLE}


def test_a_version_in_use_is_unloaded_after_its_last_request(disk):
    disk.write(1)
    disk.configure()
    with disk.repository.use(ModelSpec(name="m")) as version:
        disk.write(2)
        disk.repository.poll()
        assert version.state is State.UNLOADING and "-1" not in disk.log
    assert disk.log[-1] == "-1"


def test_a_broken_version_leaves_the_old_one_and_is_given_up_after_the_retries(disk):
    disk.repository._options = RepositoryOptions(poll=0, retries=2, retry_interval=0)
    disk.write(1)
    disk.configure()
    disk.broken.add(2)
    disk.write(2)
    for _ in range(6):
        disk.repository.poll()
    assert disk.log == ["+1", "!2", "!2", "!2"]
    assert disk.states() == {2: State.END, 1: State.AVAILABLE}


def test_a_folder_that_changes_after_it_was_given_up_is_tried_again(disk):
    disk.repository._options = RepositoryOptions(poll=0, retries=0, retry_interval=0)
    disk.broken.add(2)
    disk.write(1, 2)
    disk.configure()
    disk.broken.clear()
    disk.repository.poll()
    (disk.base / "2" / "more").write_text("the rest of the copy")
    disk.repository.poll()
    assert disk.states()[2] is State.AVAILABLE


def test_an_incomplete_folder_is_waited_for(tmp_path):
    disk = Disk(tmp_path)
    disk.repository._lacks = lambda folder: None if (folder / "done").exists() else "no done"
    disk.write(1)
    disk.configure()
    assert disk.log == []
    (disk.base / "1" / "done").touch()
    disk.repository.poll()
    assert disk.log == ["+1"]


def test_models_are_loaded_at_the_same_time_where_that_is_asked_for(tmp_path):
    together = threading.Barrier(2, timeout=20)

    def load(name, number, folder):
        together.wait()  # breaks where one is loaded after the other
        return Loaded([], number)

    for name in "ab":
        (tmp_path / name / "1").mkdir(parents=True)
    models = "".join(
        f'config {{ name: "{name}" base_path: "{tmp_path / name}" model_platform: "tensorflow" }}' for name in "ab"
    )
    repository = Repository(load, RepositoryOptions(poll=0, load_threads=2))
    repository.configure(text_format.Parse(f"model_config_list {{ {models} }}", ModelServerConfig()))
    assert repository.available("a") == repository.available("b") == [1]


def test_what_is_waited_for_is_told_aloud_once_when_the_patience_is_over(tmp_path, caplog):
    disk = Disk(tmp_path, patience=0)
    disk.repository._lacks = lambda folder: None if (folder / "done").exists() else "no done"
    disk.write(1)
    caplog.set_level(logging.INFO)
    disk.configure()
    for _ in range(3):
        disk.repository.poll()
    told = [record.getMessage() for record in caplog.records if "no done" in record.getMessage()]
    assert len(told) == 2 and "is not complete yet" in told[0] and "--load_patience_seconds" in told[1]
    ((number, state, error),) = disk.repository.status("m")
    assert error is not None
    assert (number, state, error.code) == (1, State.START, Code.UNAVAILABLE) and "no done" in error.message
    (disk.base / "1" / "done").touch()
    disk.repository.poll()
    assert disk.repository.status("m") == [(1, State.AVAILABLE, None)]


def test_a_folder_without_a_version_is_told_once_until_it_has_one(tmp_path, caplog):
    disk = Disk(tmp_path)
    disk.base.mkdir(exist_ok=True)
    (disk.base / "saved_model.pb").touch()
    disk.configure()
    for _ in range(3):
        disk.repository.poll()
    (told,) = [one.getMessage() for one in caplog.records if "No versions" in one.getMessage()]
    assert told.endswith("it is a version itself: give the folder that it lies in")
    disk.write(1)
    disk.repository.poll()
    assert disk.repository.available("m") == [1]


def test_a_version_that_can_never_be_loaded_is_given_up_at_once(disk):
    disk.write(1)
    disk.configure()
    disk.garbage.add(2)
    disk.write(2)
    for _ in range(3):
        disk.repository.poll()
    (_, state, error), (_, old, _) = disk.repository.status("m")
    assert error is not None
    assert (state, error.code, old) == (State.END, Code.DATA_LOSS, State.AVAILABLE)
    assert disk.log == ["+1"]


def test_labels_point_at_available_versions_only(disk):
    disk.write(1, 2)
    disk.configure('version_labels { key: "stable" value: 2 }')
    with disk.repository.use(ModelSpec(name="m", version_label="stable")) as version:
        assert version.number == 2
    with pytest.raises(ServingError) as caught:
        disk.configure('version_labels { key: "stable" value: 1 }')
    assert caught.value.code is Code.FAILED_PRECONDITION


def test_a_new_label_may_wait_for_its_version_where_that_is_allowed(tmp_path):
    disk = Disk(tmp_path, labels_for_unavailable=True)
    disk.write(1)
    disk.configure('version_labels { key: "next" value: 2 }')
    with (
        pytest.raises(ServingError, match=r"Specific\(m, 2\)"),
        disk.repository.use(ModelSpec(name="m", version_label="next")),
    ):
        pass
    disk.write(2)
    disk.repository.poll()
    with disk.repository.use(ModelSpec(name="m", version_label="next")) as version:
        assert version.number == 2


def test_a_config_without_the_model_unloads_it(disk, tmp_path):
    disk.write(1)
    disk.configure()
    other = tmp_path / "5" / "other"
    (other / "1").mkdir(parents=True)
    text = f'model_config_list {{ config {{ name: "o" base_path: "{other}" model_platform: "tensorflow" }} }}'
    disk.repository.configure(text_format.Parse(text, ModelServerConfig()))
    assert "-1" in disk.log and disk.repository.models() == ["o"]


def test_polling_finds_versions_by_itself(tmp_path):
    disk = Disk(tmp_path)
    disk.repository._options = RepositoryOptions(poll=0.02)
    disk.configure()
    disk.repository.start()
    disk.write(1)
    end = time.monotonic() + 5
    while not disk.repository.available("m") and time.monotonic() < end:
        time.sleep(0.01)
    disk.repository.close()
    assert disk.log == ["+1", "-1"]
