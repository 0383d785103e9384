"""Ctrl-C in a training: it ends behind the present step, and at the latest after two seconds."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

PATIENCE_S = 1.2  # for a step and its checkpoint
STATUS = 128 + signal.SIGINT


class Interrupt:
    """Whether Ctrl-C was pressed.

    Attributes:
        asked: set by it.
        listened: whether somebody looks at `asked` before long; else KeyboardInterrupt is raised at once.
        farewell: what is said where the process has to be ended.
    """

    def __init__(self, farewell: str) -> None:
        self.asked, self.listened, self.farewell = threading.Event(), False, farewell

    @contextmanager
    def listening(self) -> Iterator[threading.Event]:
        self.listened = True
        try:
            yield self.asked
        finally:
            self.listened = False

    def press(self, *_: Any) -> None:
        """Handler of the signal, in the main thread, which may be long in TensorFlow."""
        self.asked.set()
        if not self.listened:
            raise KeyboardInterrupt

    def end_soon(self, pipe: int) -> None:
        """In a thread of its own: the kernel's byte comes at once; a process that waits for a server would not end."""
        os.read(pipe, 1)
        self.asked.set()
        threading.Event().wait(PATIENCE_S)
        self.leave()

    def leave(self) -> NoReturn:
        """End this process at once, without waiting for TensorFlow's threads; reader processes end with it."""
        print(self.farewell, file=sys.stderr)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(STATUS)


@contextmanager
def within_two_seconds(farewell: str) -> Iterator[Interrupt]:
    """Have Ctrl-C end this process soon, as long as this holds; for a main thread, which alone gets signals."""
    interrupt = Interrupt(farewell)
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    threading.Thread(target=interrupt.end_soon, args=(reading,), daemon=True).start()
    handler = signal.signal(signal.SIGINT, interrupt.press)
    before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    try:
        yield interrupt
    finally:
        signal.set_wakeup_fd(before)
        signal.signal(signal.SIGINT, handler)
