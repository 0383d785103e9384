"""Processes that the user starts, and the ways to start Python: each reads, or says at once why it cannot."""

import subprocess
import sys
from multiprocessing import get_context

import pytest
from helpers.streams import quiet_scan

from mlaas4hep_tf import RootDataset
from mlaas4hep_tf.errors import ReaderError
from mlaas4hep_tf.testing import write_files

EVENTS = 300


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return write_files(tmp_path_factory.mktemp("children"), [EVENTS], basket=100)[0]


def python(*arguments, given=None):
    """What Python prints; a process that waits for ever fails the test."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", *arguments],
        input=given, capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


SCAN = """
import sys
from mlaas4hep_tf import scan

def entries(path):
    return scan(path, progress=False).entries
"""

CHILDREN = """
from multiprocessing import get_context

def tell(path):
    print(entries(path), flush=True)

def have_child(path):
    child = context.Process(target=tell, args=(path,))
    child.start()
    child.join()

if __name__ == "__main__":
    context, path = get_context(sys.argv[1]), sys.argv[2]
    have_child(path)
    tell(path)  # from here on this process has reader processes, and threads that wait for them
    have_child(path)
    with context.Pool(1) as pool:  # its workers are daemons
        print(pool.apply(entries, (path,)), flush=True)
    tell(path)
"""


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_children_read_however_they_are_started(file, tmp_path, method):
    script = tmp_path / "script.py"
    script.write_text(SCAN + CHILDREN)
    assert python(script, method, file) == [str(EVENTS)] * 5


@pytest.mark.parametrize("way", [["-c", SCAN + "print(entries(sys.argv[1]))"], ["-"]], ids=["python -c", "python -"])
def test_programs_that_are_no_file(file, way):
    given = f"{SCAN}\nprint(entries(sys.argv[1]))\n" if way == ["-"] else None
    assert python(*way, file, given=given) == [str(EVENTS)]


def outcomes(tasks, connection):
    """Runs in a child: send what each task gives, or its error."""
    for task in tasks:
        try:
            connection.send(task())
        except ReaderError as error:
            connection.send(error)


def test_a_child_forked_from_a_process_that_uses_tensorflow_gets_an_error_at_once(file):
    specs = quiet_scan(file)
    ds = RootDataset(file, specs, batch_size=100)
    assert sum(len(x) for x in ds) == EVENTS
    mapped = ds.map(lambda x: x)
    tasks = [
        lambda: quiet_scan(file).entries,
        lambda: RootDataset(file, specs),
        lambda: next(iter(ds)),
        lambda: next(iter(mapped)),
    ]
    here, there = get_context("fork").Pipe()
    child = get_context("fork").Process(target=outcomes, args=(tasks, there))
    child.start()
    got = [here.recv() for _ in tasks if here.poll(60)]
    child.join(60)
    child.kill()
    assert got[0] == EVENTS
    assert [(type(error), "forked after it was used: start the process with" in str(error)) for error in got[1:]] == [
        (ReaderError, True), (ReaderError, True), (ReaderError, True),
    ]  # fmt: skip
    assert child.exitcode == 0
    assert sum(len(x) for x in ds) == EVENTS


DATASET = """
from mlaas4hep_tf import RootDataset

def batches(path):
    return [len(x) for x in RootDataset(path, scan(path, progress=False), batch_size=100)]
"""

LOADER = """
from torch.utils.data import DataLoader, IterableDataset

class Events(IterableDataset):
    def __init__(self, path):
        self.path = path

    def __iter__(self):
        return iter(batches(self.path))

if __name__ == "__main__":
    for method in ("fork", "spawn"):
        loader = DataLoader(Events(sys.argv[1]), batch_size=None, num_workers=1, multiprocessing_context=method)
        print(*loader)
    print(*batches(sys.argv[1]))
    try:
        print(*DataLoader(Events(sys.argv[1]), batch_size=None, num_workers=1, multiprocessing_context="fork"))
    except Exception as error:
        print(type(error).__name__)
"""


@pytest.mark.slow
def test_workers_of_a_dataloader_read(file, tmp_path):
    pytest.importorskip("torch", reason="torch is not installed (pip install 'mlaas4hep_tf[torch]')")
    script = tmp_path / "script.py"
    script.write_text(SCAN + DATASET + LOADER)
    assert python(script, file) == ["100", "100", "100"] * 3 + ["ReaderError"]


CELL = """
from multiprocessing import get_context
import mlaas4hep_tf as m

def child(queue):
    queue.put(m.scan(path, progress=False).entries)

def from_child():
    queue = get_context("fork").Queue()
    process = get_context("fork").Process(target=child, args=(queue,))
    process.start()
    found = queue.get(timeout=60)
    process.join()
    return found

print(from_child(), m.scan(path, progress=False).entries, from_child())
"""


@pytest.mark.slow
def test_a_notebook_and_its_children(file):
    pytest.importorskip("nbclient", reason="nbclient is not installed (pip install 'mlaas4hep_tf[test]')")
    from nbclient import NotebookClient
    from nbformat.v4 import new_code_cell, new_notebook

    notebook = new_notebook(cells=[new_code_cell(f"path = {file!r}"), new_code_cell(CELL)])
    NotebookClient(notebook, timeout=100, kernel_name="python3").execute()
    printed = [out["text"] for out in notebook.cells[1].outputs if out.get("name") == "stdout"]
    assert "".join(printed).split() == [str(EVENTS)] * 3
