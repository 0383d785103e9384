"""A SavedModel in memory: its signatures, and execution by tensor name, shapes lenient, dtypes strict."""

from __future__ import annotations

import gc
import logging
import re
import shutil
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import graph_pb2
from tensorflow.core.protobuf import config_pb2, saved_model_pb2
from tensorflow.core.protobuf.meta_graph_pb2 import MetaGraphDef, SignatureDef

from mlaas4hep_serving.errors import Code, ServingError, deadline_exceeded, not_found
from mlaas4hep_serving.scratch import Scratch
from mlaas4hep_serving.wire.tensors import Array

log = logging.getLogger(__name__)
_LONGEST = 2048  # characters of TensorFlow's messages
_PRIVATE = "_make_callable_from_options"
_TESTED = ("2.21",)
# ops whose state comes from the variables folder
_SAVED_MODEL_TAGS = (0x08, 0x12)  # saved_model_schema_version, a number, and meta_graphs, with its length
_CONTROL = re.compile(
    "While|If$|Case$|^For$|Switch|Merge$|Enter$|Dataset|Iterator|Queue|Barrier|Recv|Batch$|PyFunc|Lock"
)
_CALLER = -1  # the inter-op "pool" that is the thread which asks
_VARIABLES = {"VarHandleOp", "VariableV2", "Variable"}
Run = Callable[..., Sequence[Any]]


@dataclass(frozen=True)
class SessionOptions:
    """How TensorFlow runs: ``--tensorflow_*_op_parallelism`` and ``--saved_model_tags``; 0 lets TensorFlow choose."""

    tags: tuple[str, ...] = ("serve",)
    intra_op: int = 0
    inter_op: int = 0
    gpu_memory: float = 0.0  # part of it
    config: bytes = b""  # a ConfigProto, overruled by what is set above

    def proto(self) -> config_pb2.ConfigProto:
        """As TensorFlow takes it."""
        config = config_pb2.ConfigProto.FromString(self.config)
        config.use_per_session_threads = True  # a model whose ops queue up keeps no other waiting
        if self.intra_op:
            config.intra_op_parallelism_threads = self.intra_op
        if self.inter_op:
            config.inter_op_parallelism_threads = self.inter_op
        if self.gpu_memory:
            config.gpu_options.per_process_gpu_memory_fraction = self.gpu_memory
        return config


class SavedModel:
    """One version of a model, loaded.

    `run` goes through ``Session._make_callable_from_options`` where TensorFlow is a tested release and
    trying it succeeds: it takes a third of the time of ``Session.run`` and, as TF-Serving does, checks dtypes but not
    the static shapes of the graph.  It is private, so elsewhere the graph is loaded without static shapes and run by
    ``Session.run``.

    A graph without loops and branches runs in the thread that asks, unless ``inter_op`` threads are asked for: for a
    small model the hand-over to TensorFlow's threads and back takes five times as long as the run.  It has no time
    limit then; TensorFlow would look at one between kernels only.
    """

    at_once = 0  # it runs in the thread that asks

    def __init__(self, folder: Path, options: SessionOptions, *, fast: bool | None = None) -> None:
        self.fast = _has_fast_path() if fast is None else fast
        self._calls: dict[tuple[Any, ...], Run] = {}
        self._lock = threading.Lock()
        graph = tf.Graph()
        with graph.as_default():
            self._session = tf.compat.v1.Session(graph=graph, config=options.proto())
            try:
                self.meta_graph = self._load(folder, options)
            except BaseException:
                self._session.close()
                raise
        self.signatures: Mapping[str, SignatureDef] = dict(self.meta_graph.signature_def)
        self._here = not options.proto().inter_op_parallelism_threads and not _has_control_flow(self.meta_graph)

    def _load(self, folder: Path, options: SessionOptions) -> MetaGraphDef:
        load = tf.compat.v1.saved_model.load
        try:
            if self.fast:
                return load(self._session, list(options.tags), str(folder))
            with Scratch() as copy:
                return load(self._session, list(options.tags), str(_without_shapes(folder, Path(copy))))
        except tf.errors.OpError as error:
            raise _translated(error) from None
        except (OSError, RuntimeError, ValueError) as error:
            if (folder / "saved_model.pb").is_file():
                read_proto(folder)  # raises DATA_LOSS, if it is that
            raise ServingError(Code.INVALID_ARGUMENT, f"{folder} cannot be loaded: {error}") from error

    def run(
        self, feeds: Sequence[str], values: Sequence[Array], fetches: Sequence[str], timeout: float | None = None
    ) -> Sequence[Array]:
        """Values of the tensors ``fetches`` when those named ``feeds`` have ``values``.

        Args:
            timeout: seconds after which TensorFlow gives up, if the graph has loops or branches (rounded up to a power
                of two of milliseconds).

        Raises:
            ServingError: what TensorFlow says, with its code; DEADLINE_EXCEEDED.
        """
        try:
            outputs = self._call(tuple(feeds), tuple(fetches), _milliseconds(timeout))(*values)
            return [_array(value) for value in outputs]
        except tf.errors.OpError as error:
            raise _translated(error) from None
        except (TypeError, ValueError) as error:
            raise ServingError(Code.INVALID_ARGUMENT, str(error)) from None

    def _call(self, feeds: tuple[str, ...], fetches: tuple[str, ...], timeout: int) -> Run:
        key = (feeds, fetches, 0 if self._here else timeout)
        call = self._calls.get(key)
        if call is None:
            with self._lock:
                make = _fast_call if self.fast else _public_call
                call = self._calls[key] = make(self._session, feeds, fetches, self._run_options(timeout))
        return call

    def _run_options(self, timeout: int) -> config_pb2.RunOptions:
        if self._here:
            return config_pb2.RunOptions(inter_op_thread_pool=_CALLER)
        return config_pb2.RunOptions(timeout_in_ms=timeout)

    def close(self) -> None:
        """Free the memory.  Nothing may run any more."""
        self._calls.clear()
        self._session.close()
        del self._session
        gc.collect()  # graphs are full of cycles


@cache
def _has_fast_path() -> bool:
    """Whether the private way may be used: by TensorFlow's version, and by trying it."""
    if not tf.__version__.startswith(_TESTED):
        log.warning("models run by Session.run: TensorFlow %s is not one of those tested, %s", tf.__version__, _TESTED)
        return False
    try:
        _try_fast_path()
    except Exception as error:  # noqa: BLE001  # whatever another release does: there is the public way
        log.warning("models run by Session.run: %s: %s", type(error).__name__, error)
        return False
    return True


def _try_fast_path() -> None:
    """Run a small graph: another shape than the static one is taken, another dtype is not."""
    with tf.Graph().as_default() as graph, tf.compat.v1.Session(graph=graph) as session:
        tf.multiply(tf.compat.v1.placeholder(tf.float32, [None, 1], name="x"), 2.0, name="y")
        call = _fast_call(session, ("x:0",), ("y:0",), config_pb2.RunOptions(inter_op_thread_pool=_CALLER))
        (doubled,) = call(np.ones((2, 3), np.float32))
        if not np.array_equal(doubled, np.full((2, 3), 2.0, np.float32)):
            raise ValueError(f"2 times 1 is {doubled}")
        try:
            call(np.ones((2, 1)))
        except (tf.errors.OpError, TypeError, ValueError):
            return
        raise ValueError("float64 is taken for float32")


def _fast_call(session: Any, feeds: tuple[str, ...], fetches: tuple[str, ...], how: config_pb2.RunOptions) -> Run:
    options = config_pb2.CallableOptions(feed=feeds, fetch=fetches, run_options=how)
    return getattr(session, _PRIVATE)(options)  # type: ignore[no-any-return]


def _public_call(session: Any, feeds: tuple[str, ...], fetches: tuple[str, ...], how: config_pb2.RunOptions) -> Run:
    types = [session.graph.get_tensor_by_name(feed).dtype for feed in feeds]

    def call(*values: Array) -> Sequence[Any]:
        for feed, kind, value in zip(feeds, types, values, strict=True):
            given = tf.dtypes.as_dtype(value.dtype)
            if given != kind:
                raise ValueError(f"Type mismatch: actual {given.name} vs. expect {kind.name} ({feed})")
        return session.run(list(fetches), dict(zip(feeds, values, strict=True)), options=how)  # type: ignore[no-any-return]

    return call


def _array(value: Any) -> Array:
    return value if isinstance(value, np.ndarray) else np.array(value, object if isinstance(value, bytes) else None)


def _milliseconds(timeout: float | None) -> int:
    """A power of two, so that a model has few callables; 0 is no limit."""
    if timeout is None:
        return 0
    if timeout <= 0:
        raise deadline_exceeded("Deadline exceeded before the model ran")
    return 1 << max(0, int(timeout * 1000).bit_length())


def _without_shapes(folder: Path, copy: Path) -> Path:
    proto = read_proto(folder)
    for graph in proto.meta_graphs:
        for node in graph.graph_def.node:
            node.attr.pop("_output_shapes", None)
            if node.op in ("Placeholder", "PlaceholderWithDefault"):
                node.attr["shape"].shape.Clear()
                node.attr["shape"].shape.unknown_rank = True
    (copy / "saved_model.pb").write_bytes(proto.SerializeToString())
    for part in ("variables", "assets"):
        if (folder / part).exists():
            shutil.copytree(folder / part, copy / part, copy_function=shutil.copy)
    return copy


def read_proto(folder: Path) -> saved_model_pb2.SavedModel:
    """``saved_model.pb``.

    Raises:
        ServingError: DATA_LOSS, no such message; NOT_FOUND.
    """
    proto = saved_model_pb2.SavedModel()
    try:
        proto.ParseFromString((folder / "saved_model.pb").read_bytes())
    except OSError as error:
        raise not_found(f"{folder}/saved_model.pb cannot be read: {error.strerror}") from None
    except Exception as error:  # noqa: BLE001  # protobuf's DecodeError is not public under one name in all its versions
        raise ServingError(Code.DATA_LOSS, f"{folder}/saved_model.pb is not a SavedModel: {error}") from None
    return proto


def to_wait_for(folder: Path) -> str | None:
    """`missing_parts` that may still come; None where there is garbage: it fails to load, and that is told."""
    lacking = missing_parts(folder)
    path = folder / "saved_model.pb"
    return None if lacking and path.is_file() and _is_garbage(path.read_bytes()) else lacking


def _is_garbage(data: bytes) -> bool:
    try:
        saved_model_pb2.SavedModel().ParseFromString(data)
    except Exception:  # noqa: BLE001  # as in `read_proto`
        return not is_cut_off(data)
    return False


def is_cut_off(data: bytes) -> bool:
    """Whether data that is no SavedModel may be the beginning of one: it ends within one of the message's fields."""
    at = 0
    while at < len(data):
        tag, (field, at) = data[at], _varint(data, at + 1)
        if tag not in _SAVED_MODEL_TAGS:
            return False
        at += field if tag == _SAVED_MODEL_TAGS[1] else 0
    return at > len(data)


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """The number at a place, and the place behind it: beyond the data, where they end within the number."""
    number = shift = 0
    while at < len(data):
        number |= (data[at] & 127) << shift
        shift += 7
        at += 1
        if data[at - 1] < 128:
            return number, at
    return number, at + 1


def missing_parts(folder: Path) -> str | None:
    """What a version folder still lacks, or None when it is complete: a copy may be under way."""
    if not (folder / "saved_model.pb").is_file():
        return None if (folder / "saved_model.pbtxt").is_file() else "no saved_model.pb"
    try:
        proto = read_proto(folder)
    except ServingError as error:
        return error.message
    if not proto.meta_graphs:
        return "saved_model.pb has no graph"
    if any(_has_variables(graph.graph_def) for graph in proto.meta_graphs):
        if not (folder / "variables" / "variables.index").is_file():
            return "no variables/variables.index"
        if not any((folder / "variables").glob("variables.data-*")):
            return "no variables/variables.data"
    assets = {asset.filename for graph in proto.meta_graphs for asset in graph.asset_file_def}
    lost = sorted(name for name in assets if not (folder / "assets" / name).exists())
    return f"no assets/{lost[0]}" if lost else None


def _has_variables(graph: graph_pb2.GraphDef) -> bool:
    return any(node.op in _VARIABLES for node in graph.node)


def _has_control_flow(meta_graph: MetaGraphDef) -> bool:
    """Whether a graph may run for longer than its size tells, or wait for something."""
    graph = meta_graph.graph_def
    functions = (function.node_def for function in graph.library.function)
    return any(_CONTROL.search(node.op) for nodes in (graph.node, *functions) for node in nodes)


def _translated(error: tf.errors.OpError) -> ServingError:
    return ServingError(Code(error.error_code), str(error.message)[:_LONGEST])  # it may repeat what was fed
