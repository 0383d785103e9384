"""Looks through a stranger's SavedModel, without loading it, for whatever does more than compute.

Allowed are the ops of `allowed_ops`, in the graph and in every function of its library.  The ops of the saver are
allowed in the saver only: what a request or the start can reach may not save, and the restore reads nothing but the
file that TensorFlow names.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import tensorflow as tf
from tensorflow.core.framework import op_def_pb2, types_pb2
from tensorflow.core.framework.graph_pb2 import GraphDef
from tensorflow.core.framework.node_def_pb2 import NodeDef
from tensorflow.core.protobuf.meta_graph_pb2 import MetaGraphDef

from mlaas4hep_serving.errors import Code, ServingError, internal, invalid_argument
from mlaas4hep_serving.models.savedmodel import read_proto
from mlaas4hep_serving.tfaas.allowed_ops import ALLOWED

_HANDLES = {types_pb2.DT_RESOURCE, types_pb2.DT_VARIANT}
_SAVE = {"SaveV2", "Save", "SaveSlices", "MergeV2Checkpoints"}
_RESTORE = {"RestoreV2"}
_MAIN_COLLECTIONS = ("saved_model_main_op", "legacy_init_op")
_PASS_ON = {"Identity", "PlaceholderWithDefault"}
_CALLS = ("PartitionedCall", "StatefulPartitionedCall")
_DEEPEST_TRACE = 64
_LONGEST = 256  # characters of a name that a refusal repeats


def check(folder: Path) -> None:
    """Refuse a model that does more than compute.

    Raises:
        ServingError: PERMISSION_DENIED, naming the op and why; INVALID_ARGUMENT, no SavedModel.
    """
    proto = read_proto(folder)
    if not proto.meta_graphs:
        raise invalid_argument("saved_model.pb has no graph")
    for meta_graph in proto.meta_graphs:
        for asset in meta_graph.asset_file_def:
            raise _refused(f"asset {asset.filename!r}", "uploaded models bring no asset files")
        _check_graph(_Graph.of(meta_graph), meta_graph)


def _check_graph(graph: _Graph, meta_graph: MetaGraphDef) -> None:
    for name in set(graph.functions) & set(_ops()):
        raise _refused(f"function {name}", "it has the name of an op")
    for node in graph.all_nodes():
        if node.op not in graph.functions and node.op not in _SAVE | _RESTORE:
            _check_op(node)
    for node in graph.reached(_roots(meta_graph)):
        if node.op in _SAVE | _RESTORE:
            raise _refused(f"op {node.op} ({node.name})", "a signature or the start-up reaches it")
    for node in graph.reached([meta_graph.saver_def.restore_op_name]):
        if node.op in _SAVE:
            raise _refused(f"op {node.op} ({node.name})", "the restore reaches it")
    _check_restores(graph, _node_name(meta_graph.saver_def.filename_tensor_name))


def _check_restores(graph: _Graph, filename: str) -> None:
    for scope in graph.scopes():
        for node in scope.nodes.values():
            if node.op in _RESTORE and not _is_filename(graph, scope, node.input[0], filename):
                raise _refused(f"op {node.op} ({node.name})", "it reads another file than that of the variables")


def _check_op(node: NodeDef) -> None:
    if node.op not in ALLOWED:
        known = (
            "it is not one of the ops that uploaded models may have"
            if node.op in _ops()
            else "TensorFlow has no such op"
        )
        raise _refused(f"op {node.op} ({node.name})", known)
    if node.op == "Const" and node.attr["dtype"].type in _HANDLES:
        raise _refused(f"op {node.op} ({node.name})", "a constant is no handle of a resource")


class _Buffer(ctypes.Structure):
    """``TF_Buffer`` of TensorFlow's C API."""

    _fields_ = (("data", ctypes.c_void_p), ("length", ctypes.c_size_t), ("free", ctypes.c_void_p))


@cache
def _ops() -> Mapping[str, op_def_pb2.OpDef]:
    """All ops of this TensorFlow, as its C API lists them (Python's API has no such list).

    Raises:
        ServingError: INTERNAL, there is no such library; then no model passes.
    """
    try:
        (path,) = Path(tf.sysconfig.get_lib()).glob("libtensorflow_cc.*")
        library = ctypes.CDLL(str(path))
        library.TF_GetAllOpList.restype = ctypes.POINTER(_Buffer)
        library.TF_DeleteBuffer.argtypes = [ctypes.POINTER(_Buffer)]
        buffer = library.TF_GetAllOpList()
    except (OSError, AttributeError, ValueError) as error:
        raise internal(f"models cannot be checked: this TensorFlow does not list its ops: {error}") from error
    listed = op_def_pb2.OpList.FromString(ctypes.string_at(buffer.contents.data, buffer.contents.length))
    library.TF_DeleteBuffer(buffer)
    return {op.name: op for op in listed.op}


def _roots(meta_graph: MetaGraphDef) -> list[str]:
    """Names of the nodes that requests and the start-up run."""
    roots = [info.name for signature in meta_graph.signature_def.values() for info in signature.outputs.values()]
    for name in _MAIN_COLLECTIONS:
        roots += meta_graph.collection_def[name].node_list.value if name in meta_graph.collection_def else []
    return roots


@dataclass(frozen=True)
class _Scope:
    """The main graph (name ``""``) or the body of a function."""

    name: str
    nodes: Mapping[str, NodeDef]
    arguments: tuple[str, ...] = ()
    results: tuple[str, ...] = ()


@dataclass
class _Graph:
    main: _Scope
    functions: Mapping[str, _Scope]
    callers: dict[str, list[tuple[_Scope, NodeDef]]] = field(default_factory=dict)

    @classmethod
    def of(cls, meta_graph: MetaGraphDef) -> _Graph:
        definition: GraphDef = meta_graph.graph_def
        functions = {
            f.signature.name: _Scope(
                f.signature.name,
                {node.name: node for node in f.node_def},
                tuple(arg.name for arg in f.signature.input_arg),
                (*f.ret.values(), *f.control_ret.values()),
            )
            for f in definition.library.function
        }
        graph = cls(_Scope("", {node.name: node for node in definition.node}), functions)
        for scope in graph.scopes():
            for node in scope.nodes.values():
                for name in graph.called(node):
                    graph.callers.setdefault(name, []).append((scope, node))
        return graph

    def scopes(self) -> Iterable[_Scope]:
        return (self.main, *self.functions.values())

    def all_nodes(self) -> Iterator[NodeDef]:
        for scope in self.scopes():
            yield from scope.nodes.values()

    def called(self, node: NodeDef) -> list[str]:
        """Functions that a node may run: its op, or any attribute that names one."""
        names = [node.op]
        for value in node.attr.values():
            names.append(value.func.name)
            names += [item.name for item in value.list.func]
        return [name for name in names if name in self.functions]

    def reached(self, roots: Iterable[str]) -> Iterator[NodeDef]:
        """All nodes that run when the main graph's ``roots`` are fetched, functions included."""
        todo = [(self.main, _node_name(root)) for root in roots if root]
        seen: set[tuple[str, str]] = set()
        while todo:
            scope, name = todo.pop()
            if (scope.name, name) in seen or name not in scope.nodes:
                continue
            seen.add((scope.name, name))
            node = scope.nodes[name]
            yield node
            todo += [(scope, _node_name(source)) for source in node.input]
            for function in self.called(node):
                # stateful ops of a body run whether or not a result needs them
                todo += [(self.functions[function], inner) for inner in self.functions[function].nodes]


def _node_name(tensor: str) -> str:
    return tensor.lstrip("^").partition(":")[0]


def _is_filename(graph: _Graph, scope: _Scope, tensor: str, filename: str, depth: int = 0) -> bool:
    """True where a tensor is the file name that TensorFlow feeds, passed on unchanged."""
    name = _node_name(tensor)
    if depth > _DEEPEST_TRACE:
        return False
    if scope.name and name in scope.arguments:
        place, calls = scope.arguments.index(name), graph.callers.get(scope.name, [])
        return bool(calls) and all(
            node.op in (*_CALLS, scope.name)
            and len(node.input) > place
            and _is_filename(graph, caller, node.input[place], filename, depth + 1)
            for caller, node in calls
        )
    if not scope.name and name == filename:
        return True
    node = scope.nodes.get(name)
    if node is None or node.op not in _PASS_ON or not node.input:
        return False
    return _is_filename(graph, scope, node.input[0], filename, depth + 1)


def _refused(what: str, why: str) -> ServingError:
    what = what if len(what) <= _LONGEST else what[:_LONGEST] + "..."
    return ServingError(Code.PERMISSION_DENIED, f"the model is refused: {what}: {why}")


__all__: list[Any] = ["check"]
