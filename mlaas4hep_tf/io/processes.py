"""One reader process at the end of a pipe, which is told once what many pieces of work need.

It is a clean interpreter: it imports neither the user's ``__main__`` nor TensorFlow.
"""

from __future__ import annotations

import itertools
import os
import pickle
import select
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any, TypeVar

from mlaas4hep_tf.errors import ReaderError

R = TypeVar("R")

IDLE_S = 120.0  # after which a process without work ends
REMEMBERED = 256  # things that a process was told once and keeps
_LOOK_S = 1.0  # between two looks whether a process is alive: a child forked meanwhile may hold its end of the pipe
_PROGRAM = (
    "import signal, sys; signal.signal(signal.SIGINT, signal.SIG_IGN); "  # Ctrl-C goes to all; the parent decides
    "from multiprocessing.connection import Connection; pipe = Connection(int(sys.argv[1])); sys.path[:] = pipe.recv();"
    "from mlaas4hep_tf.io.processes import serve; serve(pipe)"
)
_numbers = itertools.count()


class Gone(Exception):
    """The process ended before it answered."""


class Late(Exception):
    """It did not answer in time."""


@dataclass(frozen=True, eq=False)
class Once:
    """An argument that is sent to each process once, however many pieces of work have it."""

    value: Any
    number: int = field(default_factory=lambda: next(_numbers))


@dataclass(frozen=True)
class _Told:
    """Stands for an argument that is sent once, and has its value where that is new."""

    number: int
    new: bool
    value: Any = None


class _Remembered(OrderedDict[int, Any]):
    """The things used last; what this end believes to be known, the other end knows."""

    def tell(self, arg: Once) -> _Told:
        told = _Told(arg.number, False) if arg.number in self else _Told(arg.number, True, arg.value)
        self._use(arg.number, None)
        return told

    def hear(self, told: _Told) -> Any:
        value = told.value if told.new else self[told.number]
        self._use(told.number, value)
        return value

    def _use(self, number: int, value: Any) -> None:
        self[number] = value
        self.move_to_end(number)
        while len(self) > REMEMBERED:
            self.popitem(last=False)


class ReaderProcess:
    """A process that does one piece of work at a time.

    Raises:
        OSError: it cannot be started.
    """

    def __init__(self) -> None:
        self._pipe, theirs = Pipe()
        with theirs:
            fd = theirs.fileno()
            command = [sys.executable, "-c", _PROGRAM, str(fd)]
            self._process = subprocess.Popen(command, pass_fds=[fd], stdin=subprocess.DEVNULL)
        self._told = _Remembered()
        self._answered = select.poll()
        self._answered.register(self._pipe, select.POLLIN)
        self._send(sys.path)

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def call(self, seconds: float, function: Callable[..., R], *args: Any) -> R:
        """The result of the function, or what it raises.

        Raises:
            Gone, Late: it gave none; the process is of no use any more.
            ReaderError: the arguments cannot be received.
        """
        try:
            self._send((function, [self._told.tell(a) if isinstance(a, Once) else a for a in args]))
            result, error, where = self._answer(time.monotonic() + seconds)
            if error is not None:
                raise error from _InReader(where)
        except BaseException:
            self._told.clear()  # it may not have heard
            raise
        return result  # type: ignore[no-any-return]

    def _send(self, message: Any) -> None:
        content = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
        try:
            self._pipe.send_bytes(content)
        except OSError as error:
            raise Gone from error

    def _answer(self, end: float) -> tuple[Any, BaseException | None, str]:
        while not self._answered.poll(1e3 * min(_LOOK_S, max(0.0, end - time.monotonic()))):
            if not self.alive and not self._pipe.poll():
                raise Gone
            if time.monotonic() > end:
                raise Late
        try:
            return pickle.loads(self._pipe.recv_bytes())  # type: ignore[no-any-return]
        except (EOFError, OSError) as error:
            raise Gone from error

    def kill(self) -> None:
        """End it, whatever it does; a thread that waits for it gets Gone."""
        self._process.kill()
        self._process.wait()


class _InReader(Exception):
    """Where in the reader process an error was raised, as text."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


def serve(pipe: Connection) -> None:
    """Runs in the process: do what comes, until the other end is closed or has had no work for long."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    told = _Remembered()
    while pipe.poll(IDLE_S):
        try:
            content = pipe.recv_bytes()
        except (EOFError, OSError):
            return
        answer = _done(content, told)
        try:
            pipe.send_bytes(answer)
        except OSError:
            return


def _done(content: bytes, told: _Remembered) -> bytes:
    """The answer to a message: result, error, and where this was raised."""
    try:
        function, args = pickle.loads(content)
        args = [told.hear(a) if isinstance(a, _Told) else a for a in args]
    except Exception as error:  # noqa: BLE001 (it is raised in the parent)
        return _failed(ReaderError(f"a reader process could not take up its work: {error!r}"))
    try:
        return pickle.dumps((function(*args), None, ""), pickle.HIGHEST_PROTOCOL)
    except Exception as error:  # noqa: BLE001 (it is raised in the parent)
        return _failed(error)


def _failed(error: Exception) -> bytes:
    where = traceback.format_exc()
    try:
        content = pickle.dumps((None, error, where))
        pickle.loads(content)  # an error whose arguments are not its parameters cannot be received
    except Exception:  # noqa: BLE001 (whatever is wrong with it)
        return pickle.dumps((None, ReaderError(f"{type(error).__name__}: {error}"), where))
    return content


def end_with_parent(parent: int) -> None:
    """Have this process end within a second of its parent, however that ends.

    A thread looks for the parent twice a second.  The kernel's own signal (PR_SET_PDEATHSIG) would come when the
    thread ends that started the process, which may be long before the parent does.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(0)

    threading.Thread(target=watch, daemon=True).start()
