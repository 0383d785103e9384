"""Iterators over a RootDataset: TensorFlow's own, made at their first element, that raise our errors."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, Protocol

import tensorflow as tf

from mlaas4hep_tf.streaming.permuted import Permuted


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


def iterator(
    dataset: Failing, from_memory: Callable[[], Permuted | None], make: Callable[[Permuted | None], Any]
) -> Any:
    """An iterator over a dataset, as `make` will make it when it is used.

    Keras asks for two in each epoch and uses one, and each takes as long to make as to read some thousand events.  In
    a function of TensorFlow it is made at once, to be part of the function.

    Args:
        dataset: whose errors it raises.
        from_memory: begins an epoch and gives its elements, where Python can have them without TensorFlow's iterator.
        make: of what is left of these, or else of an epoch.
    """
    lazy = _kind()(dataset, from_memory, make)
    if not tf.executing_eagerly():
        lazy.made()
    return lazy


@cache
def _kind() -> Any:
    """A subclass of TensorFlow's iterator, as Keras and tf.function need."""
    owned: Any = type(iter(tf.data.Dataset.range(1)))

    class LazyIterator(owned):  # type: ignore[misc]  # tensorflow has no type information
        def __init__(
            self, dataset: Failing, from_memory: Callable[[], Permuted | None],
            make: Callable[[Permuted | None], Any],
        ) -> None:  # fmt: skip
            self._lock, self._root_dataset = threading.Lock(), dataset
            self._from_memory: Callable[[], Permuted | None] | None = from_memory
            self._make: Callable[[Permuted | None], Any] | None = make
            self._elements: Permuted | None = None

        def __getattr__(self, name: str) -> Any:
            """Asked for what is not there: all that TensorFlow's own iterator has is there once that is made."""
            if name.startswith("__"):
                raise AttributeError(name)
            self.made()
            return object.__getattribute__(self, name)

        def made(self) -> None:
            with self._lock:
                if self._make is not None:
                    self.__dict__.update(vars(self._make(self._begun())))
                    self._make = self._from_memory = self._elements = None

        def _begun(self) -> Permuted | None:
            """The elements from memory, if they come from there and TensorFlow's iterator is not made yet."""
            if self._from_memory is not None and tf.executing_eagerly():
                self._elements, self._from_memory = self._from_memory(), None
            return self._elements

        def __next__(self) -> Any:
            with original_errors(self._root_dataset):
                elements = self._begun()
                return next(elements) if elements is not None else super().__next__()

        def get_next(self) -> Any:
            with original_errors(self._root_dataset):
                return super().get_next()

    return LazyIterator
