"""The compiled descriptors are those of the .proto files, and they meet nobody else's messages."""

import subprocess
import sys

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, text_format
from mlaas4hep_serving import messages
from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig


def test_descriptors_are_compiled_from_the_proto_files(tmp_path):
    pytest.importorskip("grpc_tools", reason="grpcio-tools is not installed")
    folder = messages.DESCRIPTORS.parent
    files = sorted(path.name for path in folder.glob("*.proto"))
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I.", "--include_imports"]
    subprocess.run([*command, f"--descriptor_set_out={tmp_path / 'new'}", *files], cwd=folder, check=True, timeout=60)
    new, committed = (
        {file.name: file for file in descriptor_pb2.FileDescriptorSet.FromString(path.read_bytes()).file}
        for path in (tmp_path / "new", messages.DESCRIPTORS)
    )
    assert set(files) < set(committed)
    assert new == committed, "run: make protos"


def test_somebody_else_may_register_the_same_names_differently():
    pool = descriptor_pool.Default()
    pool.Add(descriptor_pb2.FileDescriptorProto(name="tfaas.proto", package="tfaaspb", message_type=[{"name": "Row"}]))
    assert list(pool.FindMessageTypeByName("tfaaspb.Row").fields) == []
    assert messages.Row.FromString(messages.Row(key=["a"], value=[1]).SerializeToString()).key == ["a"]
    text = 'model_config_list { config { name: "m" base_path: "/m" } }'
    assert text_format.Parse(text, ModelServerConfig()).model_config_list.config[0].name == "m"


def test_a_value_that_is_not_set_is_not_zero():
    parsed = text_format.Parse("max_batch_size { value: 3 } allowed_batch_sizes: 3", messages.BatchingParameters())
    assert parsed.max_batch_size.value == 3 and list(parsed.allowed_batch_sizes) == [3]
    assert not parsed.HasField("batch_timeout_micros")
