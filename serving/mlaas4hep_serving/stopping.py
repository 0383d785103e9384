"""The wish that a process stops, by SIGTERM, SIGINT or a thread."""

from __future__ import annotations

import os
import select
import signal


class Stop:
    """Asked for by SIGTERM, by SIGINT, or by `ask`; waited for.  Made in the main thread.

    The kernel may give a signal to any thread.  Python handles it in the main one, and does not wake that where another
    had it: a lock there is waited for ever.  So the main thread waits for the byte that `signal.set_wakeup_fd` writes.
    """

    def __init__(self) -> None:
        self._reading, self._writing = os.pipe()
        os.set_blocking(self._writing, False)
        signal.set_wakeup_fd(self._writing, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)  # no byte is written for a signal without a handler

    def ask(self) -> None:
        """Ask for it, from any thread."""
        os.write(self._writing, b"\0")

    def wait(self, seconds: float | None = None) -> bool:
        """Whether it has been asked for, by now or within so many seconds; None waits for ever."""
        return bool(select.select([self._reading], [], [], seconds)[0])
