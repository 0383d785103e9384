"""Iterators over a RootDataset: TensorFlow's own, made at their first element, that raise our errors."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, Protocol

import tensorflow as tf


class Failing(Protocol):
    """Of which TensorFlow passes on only the text of an error."""

    def take_failures(self) -> list[Exception]: ...


@contextmanager
def original_errors(*datasets: Failing) -> Iterator[None]:
    """Raise our own error where TensorFlow raises one that only quotes it."""
    try:
        yield
    except tf.errors.OpError as error:
        failures = [failure for ds in datasets for failure in ds.take_failures()]
        if failures:
            raise failures[-1] from error
        raise


def iterator(dataset: Failing, make: Callable[[], Any]) -> Any:
    """An iterator over a dataset, as `make` will make it when it is used.

    Keras asks for two in each epoch and uses one, and each takes as long to make as to read some thousand events.  In
    a function of TensorFlow it is made at once, to be part of the function.
    """
    lazy = _kind()(dataset, make)
    if not tf.executing_eagerly():
        lazy.made()
    return lazy


@cache
def _kind() -> Any:
    """A subclass of TensorFlow's iterator, as Keras and tf.function need."""
    owned: Any = type(iter(tf.data.Dataset.range(1)))

    class LazyIterator(owned):  # type: ignore[misc]  # tensorflow has no type information
        def __init__(self, dataset: Failing, make: Callable[[], Any]) -> None:
            self._lock, self._root_dataset = threading.Lock(), dataset
            self._make: Callable[[], Any] | None = make

        def __getattr__(self, name: str) -> Any:
            """Asked for what is not there: all that TensorFlow's own iterator has is there once that is made."""
            if name.startswith("__"):
                raise AttributeError(name)
            self.made()
            return object.__getattribute__(self, name)

        def made(self) -> None:
            with self._lock:
                if self._make is not None:
                    self.__dict__.update(vars(self._make()))
                    self._make = None

        def __next__(self) -> Any:
            with original_errors(self._root_dataset):
                return super().__next__()

        def get_next(self) -> Any:
            with original_errors(self._root_dataset):
                return super().get_next()

    return LazyIterator
