"""A request resolves its version once and keeps it, whatever is loaded and unloaded meanwhile."""

import asyncio
import http.client
import json
import threading
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tensorflow as tf
from mlaas4hep_serving.errors import not_found
from mlaas4hep_serving.frontends.http import Request
from mlaas4hep_serving.frontends.rest import Rest, RestOptions
from mlaas4hep_serving.metrics import Registry
from mlaas4hep_serving.models.repository import Repository, RepositoryOptions
from mlaas4hep_serving.models.versions import State, Version
from mlaas4hep_serving.prediction import Handlers
from tensorflow.core.protobuf.meta_graph_pb2 import SignatureDef
from tensorflow_serving.apis import prediction_service_pb2_grpc
from tensorflow_serving.apis.classification_pb2 import ClassificationRequest
from tensorflow_serving.apis.get_model_metadata_pb2 import GetModelMetadataRequest
from tensorflow_serving.apis.inference_pb2 import MultiInferenceRequest
from tensorflow_serving.apis.predict_pb2 import PredictRequest
from tensorflow_serving.apis.regression_pb2 import RegressionRequest

CLASSIFY, REGRESS = "classify_x_to_y", "regress_x_to_y"


def with_example(request):
    request.input.example_list.examples.add().features.feature["x"].float_list.value.append(2.0)
    return request


def predict_request() -> PredictRequest:
    request = PredictRequest(model_spec={"name": "default"})
    request.inputs["x"].CopyFrom(tf.make_tensor_proto(np.ones(1, np.float32)))
    return request


def over_grpc(method, request):
    def ask(server):
        with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
            getattr(prediction_service_pb2_grpc.PredictionServiceStub(channel), method)(request, timeout=20)

    return ask


def over_http(method, path, body=None):
    def ask(server):
        connection = http.client.HTTPConnection("127.0.0.1", server.rest_port, timeout=20)
        connection.request(method, path, None if body is None else json.dumps(body))
        reply = connection.getresponse()
        assert reply.status == 200, reply.read()
        connection.close()

    return ask


TASKS = [
    {"model_spec": {"name": "default", "signature_name": CLASSIFY}, "method_name": "tensorflow/serving/classify"},
    {"model_spec": {"name": "default", "signature_name": REGRESS}, "method_name": "tensorflow/serving/regress"},
]
KINDS = {
    "Predict": over_grpc("Predict", predict_request()),
    "Classify": over_grpc(
        "Classify",
        with_example(ClassificationRequest(model_spec={"name": "default", "signature_name": CLASSIFY})),
    ),
    "Regress": over_grpc(
        "Regress", with_example(RegressionRequest(model_spec={"name": "default", "signature_name": REGRESS}))
    ),
    "MultiInference": over_grpc("MultiInference", with_example(MultiInferenceRequest(tasks=TASKS))),
    "GetModelMetadata": over_grpc(
        "GetModelMetadata", GetModelMetadataRequest(model_spec={"name": "default"}, metadata_field=["signature_def"])
    ),
    ":predict": over_http("POST", "/v1/models/default:predict", {"instances": [1.0]}),
    "large :predict": over_http("POST", "/v1/models/default:predict", {"instances": [1.0] * 300_000}),
    ":classify": over_http(
        "POST", "/v1/models/default:classify", {"signature_name": CLASSIFY, "examples": [{"x": 2.0}]}
    ),
    ":regress": over_http("POST", "/v1/models/default:regress", {"signature_name": REGRESS, "examples": [{"x": 2.0}]}),
    "metadata": over_http("GET", "/v1/models/default/metadata"),
    "page": over_http("GET", "/"),
    "/json": over_http("POST", "/json", {"keys": ["x"], "values": [1.0], "model": "default"}),
}


@pytest.fixture(scope="module", params=[False, True], ids=["alone", "batched"])
def counted(request, half_plus_two, tmp_path_factory):
    """A server, and the versions that its requests have resolved."""
    from mlaas4hep_serving.options import Options
    from mlaas4hep_serving.server import Server

    folder = tmp_path_factory.mktemp("uploads")
    parameters = folder / "batching"
    parameters.write_text("max_batch_size { value: 1000000 }")
    flags: dict[str, Any] = (
        {"enable_batching": True, "batching_parameters_file": str(parameters)} if request.param else {}
    )
    server = Server(
        Options(
            port=-1,
            rest_api_port=-1,
            model_base_path=str(half_plus_two.parent),
            enable_tfaas=True,
            tfaas_base_path=str(folder / "models"),
            **flags,
        )
    )
    resolved, acquire = [], server.repository.acquire

    def counting(spec):
        resolved.append(acquire(spec))
        return resolved[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(server.repository, "acquire", counting)
        yield server, resolved
    server.stop()


@pytest.mark.parametrize("kind", KINDS)
def test_each_request_resolves_its_version_once_and_lets_it_go(counted, kind):
    server, resolved = counted
    resolved.clear()
    KINDS[kind](server)
    assert len(resolved) == 1
    done = threading.Event()
    for _ in range(200):  # the answer may be out before the last hold is released
        if resolved[0].users == 0:
            break
        done.wait(0.02)
    assert resolved[0].users == 0


class FakeModel:
    """Answers with its number; tells in which thread it ran."""

    def __init__(self, number: int, dtype: Any, *, batches: bool) -> None:
        self.number, self.batches = number, batches
        self.ran_in: str | None = None
        signature = SignatureDef()
        signature.inputs["x"].name, signature.inputs["x"].dtype = "x:0", dtype
        signature.outputs["y"].name = "y:0"
        self.signatures = {"serving_default": signature}
        self.input_dtypes, self.open_inputs = {"serving_default": {"x": dtype}}, {}

    def submit(self, feeds, values, fetches, deadline=None, api="Predict", pool=None):
        self.ran_in = threading.current_thread().name
        done = Future()
        done.set_result([np.full(len(values[0]), self.number, np.float32)])
        return done


def loads_nothing(*_: object) -> Any:
    raise AssertionError


class Reloading(Repository):
    """A repository whose version is another one each time that it is asked."""

    def __init__(self, *models: FakeModel) -> None:
        super().__init__(loads_nothing, RepositoryOptions())
        self.coming = [Version("m", m.number, Path("m"), State.AVAILABLE, servable=m) for m in models]
        self.given = []

    def acquire(self, spec):
        if not self.coming:
            raise not_found("resolved too often")
        version = self.coming.pop(0)
        version.users += 1
        self.given.append(version)
        return version

    @contextmanager
    def use(self, spec):
        version = self.acquire(spec)
        yield version
        self.release(version)

    def hold(self, version):
        assert version.users > 0
        version.users += 1

    def release(self, version):
        version.users -= 1

    def configure(self, config):
        raise AssertionError("no request configures")

    def knows(self, name):
        return True


@pytest.mark.parametrize("first_batches", [False, True])
def test_a_version_that_comes_meanwhile_changes_nothing(first_batches):
    old = FakeModel(1, tf.float32.as_datatype_enum, batches=first_batches)
    new = FakeModel(2, tf.string.as_datatype_enum, batches=not first_batches)
    repository = Reloading(old, new)
    rest = Rest(Handlers(repository, Registry()), RestOptions())
    request = Request("POST", "/v1/models/m:predict", {}, b'{"instances": [1.0, 2.0]}')
    reply = asyncio.run(rest.respond_async(request))
    assert (reply.status, dict(reply.headers)["X-Model-Version"]) == (200, "1"), reply.body
    assert json.loads(reply.body) == {"predictions": [1.0, 1.0]}
    assert new.ran_in is None and [version.users for version in repository.given] == [0]
    assert (
        old.ran_in and old.ran_in.startswith("model") is not first_batches
    )  # what does not batch never runs in the event loop


def test_what_is_wrong_with_the_json_is_told_before_a_model_that_is_missing():
    rest = Rest(Handlers(Reloading(), Registry()), RestOptions())
    for body, status in ((b"not json", 400), (b'{"instances": [1.0]}', 404)):
        assert rest.respond(Request("POST", "/v1/models/m:predict", {}, body)).status == status
