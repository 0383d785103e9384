"""Large bodies, read in processes of their own: `Readers` has them, ``python -m mlaas4hep_serving.wire.apart`` is one.

Reading JSON holds Python's lock: 100 MiB would stop all other requests for a second, and may take many times as much
memory.  Such a process has a limit of memory, is ended at the request's deadline, and holds no lock of the server's.
It takes TensorFlow's messages without TensorFlow, so that it starts in 0.2 s and has 40 MiB.

On the pipe there is a head, as JSON, and then bytes: of the body on the way there, of each array on the way back.
"""

from __future__ import annotations

import contextlib
import gc
import importlib.util
import json
import os
import resource
import subprocess
import sys
import threading
import time
import types
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

from mlaas4hep_serving.errors import Code, ServingError, as_serving_error, deadline_exceeded, invalid_argument, shown

if TYPE_CHECKING:
    from tensorflow_serving.apis.input_pb2 import Input

    from mlaas4hep_serving.wire.json_requests import PredictJson
    from mlaas4hep_serving.wire.tensors import Array

KEPT = 16 << 20  # bytes of a body after which a reader is ended: what it has used goes back to the machine
_SHORTEST_GZIP = 18  # bytes of head and foot
_LATE = "The request could not be read before its deadline"


@dataclass(frozen=True)
class Signatures:
    """What the codec asks about a model: for each signature the dtypes of its inputs, and which may be ragged.

    ``most`` is that of `json_requests.predict_request`.
    """

    dtypes: Mapping[str, Mapping[str, int]]
    open_inputs: Mapping[str, Mapping[str, tuple[int | None, ...]]] = field(default_factory=dict)
    default: str = ""
    most: int = 1 << 62


@dataclass(frozen=True)
class Body:
    """A body as it came.

    Attributes:
        limit: bytes, of one that is ``gzipped``, when it is inflated.
        deepest: nesting that is refused beyond.
    """

    data: bytes
    gzipped: bool
    limit: int
    deepest: int

    def inflated(self) -> bytes:
        """The JSON.

        Raises:
            ServingError: INVALID_ARGUMENT, damaged, or larger than the limit.
        """
        return inflated(self.data, self.limit) if self.gzipped else self.data


def inflated(data: bytes, limit: int) -> bytes:
    """Gzipped bytes, inflated.

    Raises:
        ServingError: INVALID_ARGUMENT, damaged, or larger than ``limit``.
    """
    inflater = zlib.decompressobj(wbits=31)
    try:
        body = inflater.decompress(data, limit + 1)  # one more, so that the end of the stream is seen
    except zlib.error as error:
        raise invalid_argument(f"Failed to uncompress the gzipped body: {error}") from None
    if len(body) > limit or not inflater.eof:
        raise invalid_argument(f"The gzipped body is cut off, or larger than {limit} bytes")
    return body


def declared_size(data: bytes) -> int:
    """Bytes that gzipped data says, at its end, that it inflates to; `inflated` holds it to that.

    Raises:
        ServingError: INVALID_ARGUMENT, no gzip.
    """
    if len(data) < _SHORTEST_GZIP:
        raise invalid_argument("Failed to uncompress the gzipped body: it is too short")
    return int.from_bytes(data[-4:], "little")


class Readers:
    """At most ``count`` processes, started on demand.

    Args:
        memory: bytes of address space of each.
    """

    def __init__(self, count: int, memory: int) -> None:
        self._memory = memory
        self._free = threading.BoundedSemaphore(count)
        self._idle: list[_Reader] = []

    def predict(self, body: Body, signatures: Signatures, deadline: float | None) -> PredictJson:
        """`json_requests.predict_request`.

        Raises:
            ServingError: its own; DEADLINE_EXCEEDED; RESOURCE_EXHAUSTED, a body that takes more than the memory.
        """
        from mlaas4hep_serving.wire.json_requests import PredictJson

        with self._reader(deadline) as reader:
            head = reader.ask({"codec": "predict", **asdict(signatures)}, body, deadline)
            inputs = {alias: reader.array(*shape) for alias, shape in head["inputs"].items()}
            return PredictJson(head["signature_name"], head["format"], inputs)

    def examples(self, body: Body, deadline: float | None) -> tuple[str, Input]:
        """`json_requests.examples_request`.

        Raises:
            ServingError: as `predict`.
        """
        from tensorflow_serving.apis.input_pb2 import Input

        with self._reader(deadline) as reader:
            head = reader.ask({"codec": "examples"}, body, deadline)
            return head["signature_name"], Input.FromString(reader.part())

    def close(self) -> None:
        """End those that are idle; the others end with the server."""
        while self._idle:
            self._idle.pop().end()

    @contextlib.contextmanager
    def _reader(self, deadline: float | None) -> Iterator[_Reader]:
        if not self._free.acquire(timeout=_left(deadline)):
            raise deadline_exceeded(_LATE)
        try:
            reader = self._idle.pop() if self._idle else _Reader(self._memory)
            try:
                yield reader
            except (EOFError, OSError):  # the memory that it may have was not enough for orjson or numpy
                raise _too_much() from None
            finally:
                if reader.fit:
                    self._idle.append(reader)
                else:
                    reader.end()
        finally:
            self._free.release()


class _Reader:
    """One process, seen from the server."""

    def __init__(self, memory: int) -> None:
        ours, theirs = Pipe()
        command = [sys.executable, "-m", "mlaas4hep_serving.wire.apart", str(theirs.fileno()), str(memory)]
        environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}  # each thread of which takes memory
        self._process = subprocess.Popen(command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, env=environment)
        theirs.close()
        self._pipe = ours
        self.fit = True  # for another request

    def ask(self, head: Mapping[str, Any], body: Body, deadline: float | None) -> Any:
        """The head of the answer; its arrays are still in the pipe."""
        self.fit = False
        told = {"gzipped": body.gzipped, "limit": body.limit, "deepest": body.deepest}
        self._pipe.send_bytes(json.dumps({**head, **told}).encode())
        self._pipe.send_bytes(body.data)
        if not self._pipe.poll(_left(deadline)):
            raise deadline_exceeded(_LATE)
        answer = json.loads(self._pipe.recv_bytes())
        self.fit = answer["kept"]
        if "error" in answer:
            raise ServingError(Code(answer["code"]), answer["error"])
        return answer

    def part(self) -> bytes:
        """The next bytes of an answer."""
        return self._pipe.recv_bytes()

    def array(self, enum: int, shape: list[int]) -> Array:
        """The next array of an answer."""
        import numpy as np

        from mlaas4hep_serving.wire.tensors import numpy_dtype

        kind = numpy_dtype(enum)
        if kind is not object:
            return np.frombuffer(self.part(), kind).reshape(shape)
        ends, joined = np.frombuffer(self.part(), np.int64), self.part()
        flat, start = np.empty(len(ends), object), 0
        for i, end in enumerate(ends.tolist()):
            flat[i], start = joined[start:end], end
        return flat.reshape(shape)

    def end(self) -> None:
        self._pipe.close()
        self._process.kill()
        self._process.wait()


def _left(deadline: float | None) -> float | None:
    return None if deadline is None else max(0.0, deadline - time.monotonic())


def _too_much() -> ServingError:
    return ServingError(Code.RESOURCE_EXHAUSTED, "The body takes more memory than this server has for reading one")


# the process


def serve(pipe: Connection) -> None:
    """Answer until the server closes its end, or a large body has been read."""
    kept = True
    while kept:
        try:
            head, data = json.loads(pipe.recv_bytes()), pipe.recv_bytes()
        except EOFError:
            return
        kept = max(len(data), head["limit"] if head["gzipped"] else 0) <= KEPT
        try:
            answer, parts = _read(head, Body(data, head["gzipped"], head["limit"], head["deepest"]))
        except (MemoryError, SystemError):  # the latter is orjson's
            answer, parts, kept = _told(_too_much()), [], False
        except Exception as error:  # noqa: BLE001  # told to the client, as the server would have
            answer, parts = _told(as_serving_error(error)), []
        pipe.send_bytes(json.dumps({**answer, "kept": kept}).encode())
        for part in parts:
            pipe.send_bytes(part)


def _told(error: ServingError) -> dict[str, Any]:
    return {"error": error.message, "code": int(error.code)}


def _read(head: Mapping[str, Any], body: Body) -> tuple[dict[str, Any], list[Any]]:
    from mlaas4hep_serving.wire import json_requests

    if head["codec"] == "examples":
        name, given = json_requests.examples_request(body.inflated(), body.deepest)
        return {"signature_name": name}, [given.SerializeToString()]
    parsed = predict(body, Signatures(head["dtypes"], head["open_inputs"], head["default"], head["most"]))
    inputs, parts = {}, []
    for alias, array in parsed.inputs.items():
        enum, packed = _packed(array)
        inputs[alias] = (enum, array.shape)
        parts += packed
    return {"signature_name": parsed.signature_name, "format": parsed.format, "inputs": inputs}, parts


def predict(body: Body, signatures: Signatures) -> PredictJson:
    """`json_requests.predict_request` here and now."""
    from mlaas4hep_serving.wire import json_requests

    def dtypes(name: str) -> Mapping[str, int]:
        found = signatures.dtypes.get(name or signatures.default)
        if found is None:
            raise invalid_argument(
                f'Serving signature name: "{shown(name or signatures.default)}" not found in signature def'
            )
        return found

    def open_inputs(name: str) -> Mapping[str, tuple[int | None, ...]]:
        return signatures.open_inputs.get(name or signatures.default, {})

    return json_requests.predict_request(body.inflated(), dtypes, open_inputs, body.deepest, signatures.most)


def _packed(array: Array) -> tuple[int, list[Any]]:
    import numpy as np

    from mlaas4hep_serving.wire.tensors import enum_of

    if array.dtype != object:
        return enum_of(array), [np.ascontiguousarray(array).data.cast("B") if array.size else b""]
    values = array.ravel().tolist()
    return enum_of(array), [np.cumsum(list(map(len, values)), dtype=np.int64).tobytes(), b"".join(values)]


def _messages_without_tensorflow() -> None:
    """``tensorflow.core.*_pb2`` can be imported, while TensorFlow itself is not."""
    found = importlib.util.find_spec("tensorflow")
    if found is not None and found.submodule_search_locations is not None:
        package = types.ModuleType("tensorflow")
        package.__path__ = list(found.submodule_search_locations)
        sys.modules["tensorflow"] = package


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[2]),) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    gc.disable()  # nothing here makes cycles, and millions of lists are long looked through
    _messages_without_tensorflow()
    with contextlib.suppress(BrokenPipeError, KeyboardInterrupt):
        serve(Connection(int(sys.argv[1])))
