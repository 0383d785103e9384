"""A stranger's model served in a process of its own: runs by tensor name, over a Unix socket, for `apart`."""

from __future__ import annotations

import math
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
from tensorflow_serving.apis.predict_pb2 import PredictRequest, PredictResponse

from mlaas4hep_serving.errors import ServingError, as_serving_error, deadline_exceeded
from mlaas4hep_serving.models.savedmodel import SavedModel, SessionOptions
from mlaas4hep_serving.wire import tensors
from mlaas4hep_serving.wire.tensors import Array

SERVICE, METHOD = "mlaas4hep.serving.Apart", "Run"
OWN = "model"  # metadata of an error that the model itself has made
AT_ONCE = 8  # runs at a time
GRACE = 2.0  # seconds between the time limit of a run and that of its request
_WAITING = 64  # requests that wait for their run or their time
_LARGEST = (1 << 31) - 1
_STATUS = {code.value[0]: code for code in grpc.StatusCode}


def serve(folder: Path, socket: Path) -> None:
    """Answer until the server has ended."""
    threading.Thread(target=_end_with_the_server, name="parent", daemon=True).start()
    run = _method(_Runs(SavedModel(folder, SessionOptions())))
    sizes = [("grpc.max_receive_message_length", _LARGEST), ("grpc.max_send_message_length", _LARGEST)]
    server = grpc.server(ThreadPoolExecutor(_WAITING), options=sizes)
    handler = grpc.unary_unary_rpc_method_handler(run, PredictRequest.FromString, PredictResponse.SerializeToString)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {METHOD: handler}),))
    server.add_insecure_port(f"unix:{socket}")
    server.start()
    server.wait_for_termination()


def _end_with_the_server() -> None:
    sys.stdin.buffer.read()  # nobody writes: it returns when the server has ended, however that was
    os._exit(0)


class _Runs:
    """Runs of a model, which end in time or end the process: TensorFlow stops between kernels, not inside of one."""

    def __init__(self, model: SavedModel) -> None:
        self._model, self._pool = model, ThreadPoolExecutor(AT_ONCE)
        self._ends: dict[int, float] = {}  # when each run under way must be over
        threading.Thread(target=self._watch, name="watch", daemon=True).start()

    def __call__(
        self, feeds: Sequence[str], values: Sequence[Array], fetches: Sequence[str], seconds: float
    ) -> Sequence[Array]:
        """Run, for so many seconds at most."""
        try:
            return self._pool.submit(self._run, feeds, values, fetches, seconds).result(seconds)
        except TimeoutError:
            raise deadline_exceeded("The uploaded model did not answer in time") from None

    def _run(
        self, feeds: Sequence[str], values: Sequence[Array], fetches: Sequence[str], seconds: float
    ) -> Sequence[Array]:
        key = threading.get_ident()
        self._ends[key] = time.monotonic() + 2 * seconds + GRACE  # TensorFlow's own limit is up to twice as long
        try:
            return self._model.run(feeds, values, fetches, seconds)
        finally:
            del self._ends[key]

    def _watch(self) -> None:
        while min(list(self._ends.values()), default=math.inf) > time.monotonic():
            time.sleep(0.5)
        os._exit(1)


def _method(runs: _Runs) -> Callable[[PredictRequest, grpc.ServicerContext], PredictResponse]:
    def run(request: PredictRequest, context: grpc.ServicerContext) -> PredictResponse:
        try:
            return _answer(runs, request, context.time_remaining() - GRACE)
        except Exception as error:  # noqa: BLE001  # the server is told, whatever it is
            known: ServingError = as_serving_error(error)
            context.set_trailing_metadata(((OWN, "1"),))
            context.abort(_STATUS[known.code], known.message)

    return run


def _answer(runs: _Runs, request: PredictRequest, seconds: float) -> PredictResponse:
    """Inputs and outputs go by the names of tensors."""
    feeds = sorted(request.inputs)
    values = [tensors.from_proto(request.inputs[feed], feed) for feed in feeds]
    response = PredictResponse()
    found = runs(feeds, values, list(request.output_filter), seconds)
    for fetch, array in zip(request.output_filter, found, strict=True):
        tensors.to_proto(array, response.outputs[fetch])
    return response
