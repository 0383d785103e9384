"""Clients of TensorFlow Serving that others have written, as they come from PyPI."""

import subprocess
import sys
from pathlib import Path

import pytest

PYTHON = Path(sys.prefix) / "min-tfs-client" / "bin" / "python"  # `make servers` installs it

PROGRAM = """
import sys

import numpy
from min_tfs_client.requests import TensorServingClient
from min_tfs_client.tensors import tensor_proto_to_ndarray

client = TensorServingClient(host="127.0.0.1", port=int(sys.argv[1]))
response = client.predict_request("default", {"x": numpy.array([[1.0], [2.0]], numpy.float32)}, model_version=123)
print(tensor_proto_to_ndarray(response.outputs["y"]).tolist())
"""


@pytest.mark.skipif(not PYTHON.exists(), reason="min-tfs-client is not installed; `make servers` does that")
def test_min_tfs_client(server):
    command = [str(PYTHON), "-c", PROGRAM, str(server.grpc_port)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.returncode) == ("[[2.5], [3.0]]\n", 0), done.stderr
