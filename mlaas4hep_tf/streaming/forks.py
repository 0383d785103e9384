"""Processes that were forked after TensorFlow was used: its threads are not in them, so it would wait for ever."""

from __future__ import annotations

import os
import threading
from typing import Any

import tensorflow as tf

from mlaas4hep_tf.errors import ReaderError

NAME = "mlaas4hep_tf"  # of a RootDataset in the options of tf.data
_threads_lost = threading.Event()


def check_process() -> None:
    """Raise ReaderError in a process in which TensorFlow would wait for ever."""
    if _threads_lost.is_set():
        raise ReaderError(
            "TensorFlow waits for ever in a process that was forked after it was used: start the process with "
            "multiprocessing's 'spawn' or 'forkserver' (DataLoader: multiprocessing_context='spawn') and make the "
            "RootDataset in it"
        )


def _in_use() -> bool:
    """Whether TensorFlow has started its threads: after that it refuses to change how many they are."""
    threads = tf.config.threading.get_inter_op_parallelism_threads()
    try:
        tf.config.threading.set_inter_op_parallelism_threads(threads + 1)
    except RuntimeError:
        return True
    tf.config.threading.set_inter_op_parallelism_threads(threads)
    return False


def _note() -> None:
    """Runs in every child that is forked."""
    if not _in_use():
        return
    _threads_lost.set()
    whole = tf.data.Dataset.__iter__

    def checked(dataset: tf.data.Dataset) -> Any:
        """Also of what was made of a RootDataset by ``map`` and the like, which have its options."""
        if dataset.options().dataset_name == NAME:
            check_process()
        return whole(dataset)

    tf.data.Dataset.__iter__ = checked


os.register_at_fork(after_in_child=_note)
