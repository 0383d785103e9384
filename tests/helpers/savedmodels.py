"""Models to upload, an honest one and hostile ones, and how they are packed."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import tensorflow as tf
from mlaas4hep_serving.models.savedmodel import read_proto
from mlaas4hep_serving.tfaas import apart, trial

# what `Hostile` does for a first value
ABORT, LOOP, FILL, READ, FAIL = 6.0, 7.0, 8.0, 9.0, 10.0


class Dense(tf.Module):  # type: ignore[misc]  # tensorflow has no type information
    """score = factor * sum(x) and its negative, on [B, 3]."""

    def __init__(self, factor: float = 1.0) -> None:
        super().__init__()
        self.factor = tf.Variable(factor)

    @tf.function(input_signature=[tf.TensorSpec([None, 3], tf.float32, name="x")])  # type: ignore[untyped-decorator]
    def __call__(self, x: Any) -> Any:
        total = self.factor * tf.reduce_sum(x, axis=1, keepdims=True)
        return {"score": tf.concat([total, -total], axis=1)}


class Maps(tf.Module):  # type: ignore[misc]
    """Answers the bytes of a file that an attribute names; neither stateful nor of an input."""

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])  # type: ignore[untyped-decorator]
    def __call__(self, x: Any) -> Any:
        found = tf.raw_ops.ImmutableConst(dtype=tf.uint8, shape=[200], memory_region_name="/etc/passwd")
        return {"y": x, "found": found}


class Aborts(tf.Module):  # type: ignore[misc]
    """Ends the process, but not in the trial, which feeds zeros."""

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])  # type: ignore[untyped-decorator]
    def __call__(self, x: Any) -> Any:
        def end() -> Any:
            with tf.control_dependencies([tf.raw_ops.Abort(exit_without_error=True)]):
                return x * 1.0

        return {"y": tf.cond(tf.reduce_any(x > 5), end, lambda: x * 2)}


class Hostile(tf.Module):  # type: ignore[misc]
    """Answers 2x, but for some values does what no scan would let pass: as if a kernel had an error."""

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])  # type: ignore[untyped-decorator]
    def __call__(self, x: Any) -> Any:
        first = x[0]

        def abort() -> Any:
            with tf.control_dependencies([tf.raw_ops.Abort(error_msg="it was asked to")]):
                return x * 1.0

        def loop() -> Any:
            return tf.while_loop(lambda v: v[0] > 0, lambda v: (v * 1.0,), [x])[0]

        def fill() -> Any:
            return x + tf.reduce_sum(tf.fill([1 << 16, 1 << 18], first))

        def read() -> Any:
            return x + tf.cast(tf.strings.length(tf.io.read_file("/etc/passwd")), tf.float32)

        def fail() -> Any:
            with tf.control_dependencies([tf.debugging.Assert(first < 0, ["no such value"])]):
                return x * 1.0

        y = x * 2
        for value, act in ((ABORT, abort), (LOOP, loop), (FILL, fill), (READ, read), (FAIL, fail)):
            y = tf.cond(tf.equal(first, value), act, lambda y=y: y)
        return {"y": y}


def saved(folder: Path, module: tf.Module) -> Path:
    tf.saved_model.save(module, str(folder), signatures={"serving_default": module.__call__})
    return folder


def put(base: Path, name: str, module: tf.Module) -> None:
    """A model as an upload leaves it; the trial would refuse this one."""
    folder = base / name / "1"
    tf.saved_model.save(module, str(folder), signatures={"serving_default": module.__call__})
    path = folder / apart.SIGNATURES
    path.parent.mkdir()
    path.write_bytes(trial.signatures_of(read_proto(folder).meta_graphs[0]).SerializeToString())


def packed(folder: Path, params: dict[str, Any] | None = None, root: str = ".", **more: bytes) -> bytes:
    """A tar.gz of a version folder."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        tar.add(folder, root)
        for name, content in {"params.json": json.dumps(params).encode() if params else b"", **more}.items():
            if content:
                info = tarfile.TarInfo(f"{root}/{name}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


def form(**fields: Any) -> tuple[bytes, dict[str, str]]:
    """multipart/form-data; bytes are files."""
    parts = []
    for name, value in fields.items():
        file = f'; filename="{name}.bin"' if isinstance(value, bytes) else ""
        content = value if isinstance(value, bytes) else str(value).encode()
        parts.append(
            f'--BOUND\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'.encode() + content + b"\r\n"
        )
    return b"".join(parts) + b"--BOUND--\r\n", {"Content-Type": "multipart/form-data; boundary=BOUND"}
