"""Several processes that train one model, on Keras with JAX: they meet, share each step, and part."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Any

import keras

from mlaas4hep_tf.errors import ConfigError, need
from mlaas4hep_tf.runs.processes import Processes

STALLED = 75  # exit status of a process that the others let wait
_MEET_S, _BEAT_S = 300, 30  # to meet, and without a sign of life
_COMPILE_S = 300.0  # a step of the first epoch may take so long: it is compiled for each size of a batch


@contextmanager
def met(processes: Processes) -> Iterator[None]:
    """Have models that are made meanwhile trained by all processes, each of which gives its own part of every batch.

    Raises:
        MissingExtra: JAX is not installed.
        ConfigError: Keras runs on another backend.
    """
    need("jax", "jax", purpose="several processes that train one model")
    if keras.backend.backend() != "jax":
        raise ConfigError(
            f"several processes train one model on Keras with JAX, and this one runs on {keras.backend.backend()}: set "
            "KERAS_BACKEND=jax before it starts"
        )
    import jax

    jax.distributed.initialize(
        processes.coordinator, processes.count, processes.index, initialization_timeout=_MEET_S,
        heartbeat_timeout_seconds=_BEAT_S, shutdown_timeout_seconds=_BEAT_S,
    )  # fmt: skip
    devices = keras.distribution.list_devices()
    keras.distribution.set_distribution(keras.distribution.DataParallel(devices=devices, auto_shard_dataset=False))
    yield
    jax.distributed.shutdown()
    keras.distribution.set_distribution(None)


class Watchdog(keras.callbacks.Callback):  # type: ignore[misc]  # keras has no type information
    """Ends this process when no step was made for so many seconds: it would wait for ever for one that is gone."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._seconds, self._done = seconds, threading.Event()
        self._allowed = max(seconds, _COMPILE_S)
        self._expect()

    def _expect(self) -> None:
        """Await the next step."""
        self._due = monotonic() + self._allowed

    def on_train_begin(self, logs: Any = None) -> None:  # noqa: ARG002 (as Keras calls it)
        self._expect()
        self._done.clear()
        threading.Thread(target=self._watch, daemon=True).start()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:  # noqa: ARG002
        self._expect()

    def on_test_batch_end(self, batch: int, logs: Any = None) -> None:  # noqa: ARG002
        self._expect()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:  # noqa: ARG002
        self._allowed = self._seconds
        self._expect()

    def on_train_end(self, logs: Any = None) -> None:  # noqa: ARG002
        self._done.set()

    def _watch(self) -> None:
        while not self._done.wait(min(1.0, self._seconds / 4)):
            if monotonic() > self._due:
                print(
                    f"error: no step in {self._allowed:g} s, as if another process were gone; the same command with "
                    "--resume goes on (--step-timeout)",
                    file=sys.stderr, flush=True,
                )  # fmt: skip
                os._exit(STALLED)
