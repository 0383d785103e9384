"""Coverage-guided inputs (atheris, libFuzzer) for whatever reads requests: JSON bodies, URLs, protobuf bytes.

    PYTHONPATH=tests python tests/helpers/coverage_fuzz.py -runs=50000 -timeout=20

Ends with a traceback and the input in a file at the first reply that is not a client's error; libFuzzer's flags apply.
"""

import os
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import atheris
import tensorflow  # noqa: F401  # before the modules that atheris instruments, so that it stays as it is
import tensorflow_serving.apis.prediction_service_pb2_grpc  # noqa: F401

with atheris.instrument_imports(include=["mlaas4hep_serving"]):
    from mlaas4hep_serving.conformance import fixtures
    from mlaas4hep_serving.errors import Code, ServingError
    from mlaas4hep_serving.frontends.http import Request
    from mlaas4hep_serving.frontends.rest import Rest, RestOptions
    from mlaas4hep_serving.options import Options
    from mlaas4hep_serving.server import Server
    from mlaas4hep_serving.tfaas.endpoints import Tfaas
    from mlaas4hep_serving.tfaas.uploads import Uploads

from google.protobuf.message import DecodeError
from tensorflow_serving.apis.classification_pb2 import ClassificationRequest
from tensorflow_serving.apis.get_model_metadata_pb2 import GetModelMetadataRequest
from tensorflow_serving.apis.inference_pb2 import MultiInferenceRequest
from tensorflow_serving.apis.predict_pb2 import PredictRequest
from tensorflow_serving.apis.regression_pb2 import RegressionRequest

from helpers.near_requests import VALID, body_of

SLOWEST = 20.0  # seconds
CLIENT_FAULTS = (200, 400, 403, 404, 409, 413, 429)
BODIES = [f"/v1/models/half_plus_two:{verb}" for verb in ("predict", "classify", "regress")] + ["/json", "/proto"]
MESSAGES = {
    "predict": PredictRequest,
    "classify": ClassificationRequest,
    "regress": RegressionRequest,
    "multi_inference": MultiInferenceRequest,
    "get_model_metadata": GetModelMetadataRequest,
}
KINDS = len(BODIES) + 1 + len(MESSAGES)


URLS = [b"/v1/models/half_plus_two", b"/v1/models/half_plus_two/versions/1/metadata", b"/v1/models", b"/healthz"]
BASES = [[body_of(seed) for seed in range(200)]] * len(BODIES) + [URLS] + [VALID] * len(MESSAGES)


def request_of(data: bytes) -> tuple[int, bytes]:
    """A kind and a request close to a valid one: which one, then four bytes an edit (two place, operation, byte)."""
    kind, base, edits = (data[0] % KINDS, data[1], data[2:]) if len(data) > 1 else (0, 0, b"")
    request = bytearray(BASES[kind][base % len(BASES[kind])])
    for i in range(0, len(edits) - 3, 4):
        at, operation, byte = int.from_bytes(edits[i : i + 2]) % (len(request) + 1), edits[i + 2] % 3, edits[i + 3]
        request[at : at + (operation > 0)] = bytes([byte]) if operation < 2 else b""
    return kind, bytes(request)


def check_http(rest: Rest, method: str, path: str, body: bytes) -> None:
    reply = rest.respond(Request(method, path, {}, body, time.monotonic() + 30))
    assert reply.status in CLIENT_FAULTS, (reply.status, reply.body, method, path, body)
    assert b"Traceback" not in reply.body and b'File "' not in reply.body, (reply.body, path, body)


def check_message(server: Server, operation: str, wire: bytes) -> None:
    try:
        request = MESSAGES[operation].FromString(wire)
    except DecodeError:
        return  # refused by gRPC itself
    try:
        getattr(server.handlers, operation)(request, time.monotonic() + 30)
    except ServingError as error:
        if error.code in (Code.INTERNAL, Code.UNKNOWN, Code.UNAVAILABLE):
            raise AssertionError((error.code, error.message, wire)) from error


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        base = Path(name)
        fixtures.half_plus_two(base / "half_plus_two" / "1")
        options = Options(
            port=-1, rest_api_port=-1, model_name="half_plus_two", model_base_path=str(base / "half_plus_two")
        )
        server = Server(options)
        tfaas = Tfaas(server.handlers, Uploads(base / "uploads", server.repository))
        rest = Rest(server.handlers, RestOptions(routes=[tfaas]))

        def one(data: bytes) -> None:
            kind, request = request_of(data)
            start = time.monotonic()
            if kind < len(BODIES):
                check_http(rest, "POST", BODIES[kind], request)
            elif kind == len(BODIES):
                check_http(rest, "POST" if data[-1] % 2 else "GET", request.decode("latin-1"), b"")
            else:
                check_message(server, list(MESSAGES)[kind - len(BODIES) - 1], request)
            assert time.monotonic() - start < SLOWEST

        atheris.Setup([*sys.argv, "-rss_limit_mb=4096", "-max_len=66", "-len_control=0"], one)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
