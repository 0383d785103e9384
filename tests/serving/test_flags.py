"""Flags of TF-Serving: all are known, and those that mean something are honoured.

Names and defaults are those of TF-Serving 2.19's main.cc.
"""

import logging
import os
from pathlib import Path

import grpc
import numpy as np
import pytest
import tensorflow as tf
from mlaas4hep_serving.conformance import fixtures
from mlaas4hep_serving.errors import ServingError
from mlaas4hep_serving.models.savedmodel import SessionOptions
from mlaas4hep_serving.options import MEANINGLESS, Options, arguments, parse
from tensorflow_serving.apis import prediction_service_pb2_grpc
from tensorflow_serving.apis.classification_pb2 import ClassificationRequest
from tensorflow_serving.apis.predict_pb2 import PredictRequest
from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog

NAMES = """
allow_version_labels_for_unavailable_models batching_parameters_file enable_batching enable_grpc_healthcheck_service
enable_model_warmup enable_per_model_batching_parameters enable_profiler enable_serialization_as_tensor_content
enable_signature_method_name_check file_system_poll_wait_seconds flush_filesystem_caches grpc_channel_arguments
grpc_max_threads grpc_socket_path load_retry_interval_micros max_num_load_retries mixed_precision model_base_path
model_config_file model_config_file_poll_wait_seconds model_name monitoring_config_file num_load_threads
num_request_iterations_for_warmup num_tflite_interpreters_per_pool num_tflite_pools num_unload_threads
per_process_gpu_memory_fraction platform_config_file port prefer_tflite_model
remove_unused_fields_from_bundle_metagraph rest_api_enable_cors_support rest_api_num_threads rest_api_port
rest_api_timeout_in_ms saved_model_tags skip_initialize_tpu ssl_config_file tensorflow_inter_op_parallelism
tensorflow_intra_op_parallelism tensorflow_session_config_file tensorflow_session_parallelism
thread_pool_factory_config_file use_alts_credentials version xla_cpu_compilation_enabled xla_gpu_compilation_enabled
"""
FLAGS = NAMES.split()


def test_all_flags_are_known_and_the_docs_list_each(capsys):
    assert len(FLAGS) == 48
    with pytest.raises(SystemExit):
        parse(["--help"])
    shown = capsys.readouterr().out
    page = (Path(__file__).parents[2] / "docs" / "serving.md").read_text()
    for flag in FLAGS:
        assert f"--{flag} " in shown + " " and f"`{flag}`" in page


def test_a_flag_without_a_meaning_is_taken_with_a_line_that_says_so(caplog):
    with caplog.at_level(logging.WARNING):
        options = parse(["--mixed_precision=bfloat16", "--num_unload_threads", "4", "--enable_profiler=true"])
    assert options == Options() and parse(arguments(options)) == options
    assert caplog.messages == [
        f"--{name} means nothing here: {MEANINGLESS[name][1]}" for name in ("mixed_precision", "num_unload_threads")
    ]


def test_flags_that_exclude_each_other():
    with pytest.raises(ServingError, match="grpc_socket_path works with one process"):
        Options(grpc_socket_path="/tmp/s", processes=2)
    with pytest.raises(ServingError, match="exclude each other"):
        Options(use_alts_credentials=True, ssl_config_file="/tmp/s")


def test_a_misspelt_flag_is_told_in_one_line_with_the_nearest_one(capsys):
    for given, said in (
        (["--model_base_pth=/m"], "no flag --model_base_pth, did you mean --model_base_path?; see --help"),
        (["--rest-api-port", "1"], "no flag --rest-api-port, did you mean --rest_api_port?; see --help"),
        (["--zzz"], "no flag --zzz; see --help"),
    ):
        with pytest.raises(SystemExit, match="2"):
            parse(given)
        assert capsys.readouterr().err == f"mlaas4hep-serve: error: {said}\n"


def stub(address):
    return prediction_service_pb2_grpc.PredictionServiceStub(grpc.insecure_channel(address))


def request(value=1.0, **spec):
    tensor = tf.make_tensor_proto([value])
    return PredictRequest(model_spec={"name": "default", **spec}, inputs={"x": tensor})


def test_a_unix_socket_and_answers_as_tensor_content(half_plus_two, tmp_path, start_server):
    path = str(tmp_path / "socket")
    server = start_server(
        model_base_path=str(half_plus_two.parent), grpc_socket_path=path, enable_serialization_as_tensor_content=True
    )
    for address in (f"unix:{path}", f"127.0.0.1:{server.grpc_port}"):
        output = stub(address).Predict(request(), timeout=20).outputs["y"]
        assert not output.float_val and np.frombuffer(output.tensor_content, np.float32).tolist() == [2.5]


def test_method_names_are_checked_where_that_is_asked_for(tmp_path, start_server):
    fixtures.half_plus_two_tf2(tmp_path / "1")
    lenient = start_server(model_base_path=str(tmp_path))
    strict = start_server(model_base_path=str(tmp_path), enable_signature_method_name_check=True)
    classify = ClassificationRequest(model_spec={"name": "default", "signature_name": "classify_x_to_y"})
    example = classify.input.example_list.examples.add()
    example.features.feature["x"].float_list.value.append(2.0)
    assert stub(f"127.0.0.1:{lenient.grpc_port}").Classify(classify, timeout=20).result.classifications
    with pytest.raises(grpc.RpcError) as caught:
        stub(f"127.0.0.1:{strict.grpc_port}").Classify(classify, timeout=20)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert caught.value.details() == (
        "Expected classification signature method_name to be tensorflow/serving/classify. Was: "
        "tensorflow/serving/predict"
    )
    assert stub(f"127.0.0.1:{strict.grpc_port}").Predict(request(), timeout=20).outputs


def test_warm_up_requests_run_so_many_times(tmp_path, start_server):
    folder = fixtures.saved_model_counter(tmp_path / "1")
    log = PredictionLog()
    log.predict_log.request.model_spec.signature_name = "incr_counter"
    (folder / "assets.extra").mkdir()
    with tf.io.TFRecordWriter(str(folder / "assets.extra" / "tf_serving_warmup_requests")) as writer:
        writer.write(log.SerializeToString())
    server = start_server(model_base_path=str(tmp_path), num_request_iterations_for_warmup=3)
    counter = PredictRequest(model_spec={"name": "default", "signature_name": "get_counter"})
    assert stub(f"127.0.0.1:{server.grpc_port}").Predict(counter, timeout=20).outputs["output"].float_val[0] == 3.0


def test_a_session_config_from_a_file_is_overruled_by_flags(half_plus_two, tmp_path, start_server):
    (tmp_path / "session").write_text("intra_op_parallelism_threads: 3 inter_op_parallelism_threads: 5")
    config = tf.compat.v1.ConfigProto(intra_op_parallelism_threads=3, inter_op_parallelism_threads=5)
    made = SessionOptions(inter_op=1, gpu_memory=0.5, config=config.SerializeToString()).proto()
    assert (made.intra_op_parallelism_threads, made.inter_op_parallelism_threads) == (3, 1)
    assert made.gpu_options.per_process_gpu_memory_fraction == 0.5
    base = str(half_plus_two.parent)
    assert start_server(model_base_path=base, tensorflow_session_config_file=str(tmp_path / "session")).repository
    (tmp_path / "session").write_text("threads: 3")
    with pytest.raises(ServingError, match=r"text-format tensorflow\.ConfigProto"):
        start_server(model_base_path=base, tensorflow_session_config_file=str(tmp_path / "session"))


def test_files_of_a_loaded_version_leave_the_cache_unless_that_is_switched_off(
    half_plus_two, monkeypatch, start_server
):
    told = []
    monkeypatch.setattr(os, "posix_fadvise", lambda *given: told.append(given[1:]))
    start_server(model_base_path=str(half_plus_two.parent), flush_filesystem_caches=False)
    assert told == []
    start_server(model_base_path=str(half_plus_two.parent))
    assert set(told) == {(0, 0, os.POSIX_FADV_DONTNEED)}
