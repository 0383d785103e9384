"""The official python stubs of tensorflow-serving-api as client."""

import grpc
import numpy as np
import pytest
import tensorflow as tf
from grpc import _server
from mlaas4hep_serving.conformance import fixtures
from mlaas4hep_serving.frontends import grpc_later
from tensorflow_serving.apis import prediction_service_pb2_grpc
from tensorflow_serving.apis.classification_pb2 import ClassificationRequest
from tensorflow_serving.apis.get_model_metadata_pb2 import GetModelMetadataRequest, SignatureDefMap
from tensorflow_serving.apis.get_model_status_pb2 import GetModelStatusRequest
from tensorflow_serving.apis.model_management_pb2 import ReloadConfigRequest
from tensorflow_serving.apis.predict_pb2 import PredictRequest
from tensorflow_serving.apis.regression_pb2 import RegressionRequest


def predict_request(values, name="default", **spec) -> PredictRequest:
    request = PredictRequest()
    request.model_spec.name = name
    for field, value in spec.items():
        setattr(request.model_spec, field, value)
    request.inputs["x"].CopyFrom(tf.make_tensor_proto(values))
    return request


def refused(call, request):
    with pytest.raises(grpc.RpcError) as caught:
        call(request, timeout=10)
    return caught.value.code(), caught.value.details()


def test_predict_answers_with_values_and_the_version(prediction):
    response = prediction.Predict(predict_request(np.array([[1], [2], [5]], np.float32)), timeout=10)
    np.testing.assert_array_equal(tf.make_ndarray(response.outputs["y"]), [[2.5], [3.0], [4.5]])
    assert response.model_spec.version.value == 123
    assert list(response.outputs["y"].float_val) == [2.5, 3.0, 4.5]


def test_shapes_are_lenient_and_dtypes_strict(prediction):
    response = prediction.Predict(predict_request(np.ones((2, 3, 4), np.float32)), timeout=10)
    assert [d.size for d in response.outputs["y"].tensor_shape.dim] == [2, 3, 4]
    code, details = refused(prediction.Predict, predict_request(np.ones(3, np.float64)))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert details == "Expects arg[0] to be float but double is provided"


@pytest.mark.parametrize("seconds", [None, 1e8])
@pytest.mark.parametrize("batching", [False, True])
def test_a_model_with_loops_answers_whatever_deadline_there_is(start_server, tmp_path, batching, seconds):
    fixtures.slow(tmp_path / "1", steps=200_000)
    server = start_server(model_base_path=str(tmp_path), enable_batching=batching)
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        predict = prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict
        assert list(predict(predict_request([1.5]), timeout=seconds).outputs["y"].float_val) == [1.5]


def test_too_few_and_too_many_inputs_are_named(prediction):
    request = predict_request(np.ones(1, np.float32))
    request.inputs["z"].CopyFrom(request.inputs["x"])
    code, details = refused(prediction.Predict, request)
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert details == (
        "input size does not match signature: 2!=1 len({x,z}) != len({x}). Sent extra: {z}. Missing but required: {}."
    )


@pytest.mark.parametrize(
    ("signature", "code"),
    [("nope", grpc.StatusCode.FAILED_PRECONDITION), ("regress_x_to_y", grpc.StatusCode.INVALID_ARGUMENT)],
)
def test_wrong_signature(prediction, signature, code):
    assert refused(prediction.Predict, predict_request(np.ones(1, np.float32), signature_name=signature))[0] is code


def test_examples_with_a_context(prediction):
    request = RegressionRequest()
    request.model_spec.name, request.model_spec.signature_name = "default", "regress_x_to_y"
    request.input.example_list_with_context.context.features.feature["x"].float_list.value.append(2.0)
    request.input.example_list_with_context.examples.add()
    request.input.example_list_with_context.examples.add().features.feature["x"].float_list.value.append(4.0)
    response = prediction.Regress(request, timeout=10)
    assert [r.value for r in response.result.regressions] == [3.0, 4.0]


def test_classify(prediction):
    request = ClassificationRequest()
    request.model_spec.name, request.model_spec.signature_name = "default", "classify_x_to_y"
    request.input.example_list.examples.add().features.feature["x"].float_list.value.append(2.0)
    (row,) = prediction.Classify(request, timeout=10).result.classifications
    assert [(c.label, c.score) for c in row.classes] == [("", 3.0)]


def test_metadata_has_the_signatures_of_the_model(prediction):
    request = GetModelMetadataRequest(metadata_field=["signature_def"])
    request.model_spec.name = "default"
    packed = prediction.GetModelMetadata(request, timeout=10).metadata["signature_def"]
    definitions = SignatureDefMap()
    assert packed.Unpack(definitions)
    assert definitions.signature_def["serving_default"].inputs["x"].name == "x:0"


def test_status_and_a_reload_that_is_refused(models):
    status = GetModelStatusRequest()
    status.model_spec.name = "default"
    (version,) = models.GetModelStatus(status, timeout=10).model_version_status
    assert (version.version, version.state) == (123, 30)
    reload = ReloadConfigRequest()
    reload.config.model_config_list.config.add(name="default", base_path="relative", model_platform="tensorflow")
    code, details = refused(models.HandleReloadConfigRequest, reload)
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert details == "Expected model default to have an absolute path or URI; got base_path()=relative"


PREDICT = "/tensorflow.serving.PredictionService/Predict"


def slow_batches(tmp_path) -> str:
    """A batch waits for a second."""
    path = tmp_path / "batching"
    path.write_text("batch_timeout_micros { value: 1000000 }")
    return str(path)


@pytest.fixture(params=["as it is", "of another release"])
def grpcio(request, monkeypatch):
    """With and without the private parts that `grpc_later` needs."""
    if request.param != "as it is":
        monkeypatch.setattr(grpc_later, "works", lambda: False)


@pytest.mark.parametrize("batching", [False, True])
def test_many_at_once_each_get_their_answer(half_plus_two, start_server, tmp_path, grpcio, batching):
    flags = {"enable_batching": True, "batching_parameters_file": slow_batches(tmp_path)} if batching else {}
    server = start_server(model_base_path=str(half_plus_two.parent), **flags)
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        call = prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict.future
        answers = [call(predict_request(np.array([float(i)], np.float32)), timeout=20) for i in range(100)]
        wrong = call(predict_request(np.ones(1, np.float64)), timeout=20)
        np.testing.assert_allclose([a.result().outputs["y"].float_val[0] for a in answers], 2 + np.arange(100) / 2)
        assert wrong.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert 'request_count{model_name="default",status="OK"} 100' in server.metrics.text()


@pytest.fixture
def fresh():
    """What `grpc_later` has found out is forgotten before and after."""
    grpc_later.works.cache_clear()
    yield
    grpc_later.works.cache_clear()


def test_this_grpcio_serves_as_predict_assumes(fresh):
    assert grpc_later.works()


def answers_nothing(event, state, body):
    """`grpc._server._status` of a release that does something else."""


def answers_emptily(event, state, body, status=_server._status):
    status(event, state, None if body is None else b"")


def forgets_the_status(event, state, body, status=_server._status):
    state.code = None
    status(event, state, body or b"")


@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnhandledThreadExceptionWarning"
)  # in the thread of the broken grpcio
@pytest.mark.parametrize("status", [answers_nothing, answers_emptily, forgets_the_status, None])
def test_a_grpcio_that_answers_otherwise_is_found_out_and_served_the_usual_way(
    half_plus_two, start_server, fresh, monkeypatch, caplog, status
):
    monkeypatch.setattr(grpc_later, "_PATIENCE", 0.5)
    if status is None:
        monkeypatch.delattr(_server, "_receive_message")
    else:
        monkeypatch.setattr(_server, "_status", status)
    assert not grpc_later.works()
    monkeypatch.undo()  # grpcio's own server needs these, too
    assert [record for record in caplog.messages if record.startswith("gRPC's Predict is served with a thread")]
    server = start_server(model_base_path=str(half_plus_two.parent))
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        response = stub.Predict(predict_request(np.array([2.0], np.float32)), timeout=10)
        assert list(response.outputs["y"].float_val) == [3.0]
        assert refused(stub.Predict, predict_request(np.ones(3, np.float64)))[0] is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize("version", ["1.59.3", "1.86.0", "2.0.0"])
def test_a_grpcio_that_nobody_has_tested_is_not_tried(fresh, monkeypatch, version):
    monkeypatch.setattr(grpc, "__version__", version)
    monkeypatch.setattr(grpc_later, "try_out", lambda: pytest.fail("tried"))
    assert not grpc_later.works()


def test_a_call_without_a_message(channel):
    with pytest.raises(grpc.RpcError) as caught:
        channel.stream_unary(PREDICT)(iter(()), timeout=10)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize(
    ("rpc", "message"),
    [
        ("PredictionService/Predict", "PredictRequest"),
        ("PredictionService/Classify", "ClassificationRequest"),
        ("PredictionService/Regress", "RegressionRequest"),
        ("PredictionService/MultiInference", "MultiInferenceRequest"),
        ("PredictionService/GetModelMetadata", "GetModelMetadataRequest"),
        ("ModelService/GetModelStatus", "GetModelStatusRequest"),
        ("ModelService/HandleReloadConfigRequest", "ReloadConfigRequest"),
    ],
)
def test_bytes_that_are_no_message(channel, rpc, message):
    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(f"/tensorflow.serving.{rpc}")(b"\xff", timeout=10)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert caught.value.details() == f"The request is no tensorflow.serving.{message}"


def test_clients_that_go_away_leave_nothing(half_plus_two, start_server, tmp_path):
    batching = slow_batches(tmp_path)
    server = start_server(
        model_base_path=str(half_plus_two.parent),
        enable_batching=True,
        batching_parameters_file=batching,
        drain_seconds=900,  # beyond the limit of a test: nothing may be left to wait for
    )
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        call = prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict.future
        gone = [call(predict_request(np.ones(1, np.float32)), timeout=20) for _ in range(20)]
        stays = call(predict_request(np.ones(1, np.float32)), timeout=20)
        assert all(each.cancel() for each in gone)
        assert stays.result().outputs["y"].float_val[0] == 2.5
        late = call(predict_request(np.ones(1, np.float32)), timeout=0.1)
        assert late.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    server.stop()
