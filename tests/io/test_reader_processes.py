"""A process at the end of a pipe: what it is told once, and how errors come back."""

import os
import sys
import time

import pytest

from mlaas4hep_tf.errors import ExpressionError, InputFileError, ReaderError
from mlaas4hep_tf.io import processes
from mlaas4hep_tf.io.processes import REMEMBERED, Gone, Late, Once, ReaderProcess


class Counted:
    """Becomes the number 7 on its way, and knows how often it was sent."""

    sent = 0

    def __reduce__(self):
        self.sent += 1
        return int, ("7",)


@pytest.fixture
def process():
    process = ReaderProcess()
    yield process
    process.kill()


def test_what_is_told_once_is_sent_once(process):
    thing = Counted()
    told = Once(thing)
    assert [process.call(60, max, told, n) for n in (1, 9, 3)] == [7, 9, 7]
    assert thing.sent == 1


def test_it_is_told_again_where_an_error_was_or_much_else_was_told(process):
    thing = Counted()
    told = Once(thing)
    with pytest.raises(TypeError):
        process.call(60, max, told, "7")
    assert process.call(60, max, told, 1) == 7
    assert thing.sent == 2
    for number in range(REMEMBERED):
        assert process.call(60, max, Once(number), 0) == number
    assert process.call(60, max, told, 1) == 7
    assert thing.sent == 3


def fail():
    error = InputFileError("no such file")
    error.after_s = 2.5
    error.add_note("branch 'x'")
    raise error


def fail_with_arguments_that_are_not_its_parameters():
    raise ExpressionError("no such name", "x + y", 4)


def test_errors_come_back_with_what_they_know(process):
    sys_path_of_tests = os.path.dirname(__file__)
    assert sys_path_of_tests in sys.path  # pytest put it there: readers find what their parent finds
    with pytest.raises(InputFileError, match="no such file") as caught:
        process.call(60, fail)
    assert (caught.value.after_s, caught.value.__notes__) == (2.5, ["branch 'x'"])
    assert "test_reader_processes.py" in str(caught.value.__cause__)
    with pytest.raises(ReaderError, match="ExpressionError: no such name"):
        process.call(60, fail_with_arguments_that_are_not_its_parameters)
    assert process.call(60, os.getpid) > 0


def test_a_process_that_dies_or_is_late_is_told_apart(process):
    with pytest.raises(Late):
        process.call(0.1, time.sleep, 60)
    process.kill()
    with pytest.raises(Gone):
        process.call(60, os.getpid)
    other = ReaderProcess()
    with pytest.raises(Gone):
        other.call(60, os._exit, 1)
    other.kill()


def have_little_patience():
    processes.IDLE_S = 0.1


def test_a_process_without_work_ends(process):
    assert process.call(60, have_little_patience) is None
    for _ in range(300):
        if not process.alive:
            return
        time.sleep(0.1)
    pytest.fail("it is still there")
