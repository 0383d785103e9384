"""What a user would write: Starlette for JSON, a servicer for gRPC, `signatures` for each request.

    python -m baselines.servicer MODEL_FOLDER

Prints ``ready HTTP_PORT GRPC_PORT``.
"""

from __future__ import annotations

import os
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import grpc
import tensorflow as tf
import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from tensorflow_serving.apis import prediction_service_pb2_grpc
from tensorflow_serving.apis.predict_pb2 import PredictResponse


def http_application(infer: Any) -> Starlette:
    async def predict(request: Request) -> JSONResponse:
        body = await request.json()
        outputs = await run_in_threadpool(lambda: infer(x=tf.constant(body["instances"], tf.float32)))
        return JSONResponse({"predictions": outputs["score"].numpy().tolist()})

    return Starlette(routes=[Route("/v1/models/m:predict", predict, methods=["POST"])])


class Servicer(prediction_service_pb2_grpc.PredictionServiceServicer):  # type: ignore[misc]  # grpc has no types
    def __init__(self, infer: Any) -> None:
        self._infer = infer

    def Predict(self, request: Any, _: Any) -> Any:  # noqa: N802  # the name of the RPC
        outputs = self._infer(x=tf.constant(tf.make_ndarray(request.inputs["x"])))
        response = PredictResponse()
        response.outputs["score"].CopyFrom(tf.make_tensor_proto(outputs["score"].numpy()))
        return response


def main(folder: str) -> None:
    loaded = tf.saved_model.load(folder)
    infer = loaded.signatures["serving_default"]
    server = grpc.server(ThreadPoolExecutor(10))
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(Servicer(infer), server)
    grpc_port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    listening = socket.create_server(("127.0.0.1", 0), backlog=2048)
    print(f"ready {listening.getsockname()[1]} {grpc_port}", flush=True)
    uvicorn.Server(uvicorn.Config(http_application(infer), log_level="error")).run([listening])


if __name__ == "__main__":
    main(sys.argv[1])
