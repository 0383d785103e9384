"""The framework of the user's choice: Keras on PyTorch and JAX, and a loop in plain PyTorch."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec

import keras
import numpy as np
import pytest

from mlaas4hep_tf import RootDataset, export
from mlaas4hep_tf.runs import Run

TRAIN = """
import sys
import keras, numpy as np
from mlaas4hep_tf import RootDataset, Specs, export
from mlaas4hep_tf.errors import ModelError
from mlaas4hep_tf.models import autoencoder, build
from mlaas4hep_tf.runs import RunConfig, train_run
from mlaas4hep_tf.train import predict_batch

data, specs, out = sys.argv[1], Specs.load(sys.argv[2]), sys.argv[3]
config = RunConfig((data,), {"*signal*": 1, "*": 0}, epochs=1, batch_size=50, seed=1)
run = train_run(config, specs, out)
ds = RootDataset(data, specs, mask=True, batch_size=500, shuffle=False).sample(2000)
x = next(iter(ds.in_order()))
np.save(out + "/mlp.npy", predict_batch(run.model, x["vector"]))
knows_padding = build("set", specs)
knows_padding.save(out + "/set.keras")
np.save(out + "/set.npy", predict_batch(knows_padding, x))
losses = autoencoder(specs).fit(ds, epochs=2, verbose=0, shuffle=False).history["loss"]
assert losses[1] < losses[0]
try:
    export(run.model, ds, out + "/models/1")
except ModelError as error:
    print(error)
"""

LOOP = """
import sys
import numpy as np, torch
from mlaas4hep_tf import RootDataset, Specs
from mlaas4hep_tf.train import Evaluation

torch.manual_seed(1)
specs = Specs.load(sys.argv[2])
ds = RootDataset(sys.argv[1], specs, labels={"*signal*": 1, "*": 0}, batch_size=100)
train, test = ds.split(0.8, 0.2)
net = torch.nn.Sequential(torch.nn.Linear(len(specs.vector_names), 64), torch.nn.ReLU(), torch.nn.Linear(64, 1))
optimizer = torch.optim.Adam(net.parameters())
loss = torch.nn.BCEWithLogitsLoss()
for epoch in range(2):
    for x, y in train.as_numpy_iterator():
        optimizer.zero_grad()
        loss(net(torch.tensor(x))[:, 0], torch.tensor(y)).backward()
        optimizer.step()
with torch.no_grad():
    parts = [(y, net(torch.tensor(x))[:, 0].numpy()) for x, y in test.as_numpy_iterator()]
labels, scores = (np.concatenate(column).astype(float) for column in zip(*parts))
print(Evaluation(labels, scores, np.ones(len(labels))).auc)
"""


def needs(package):
    if find_spec(package) is None:
        pytest.skip(f"{package} is not installed (pip install 'mlaas4hep_tf[{package}]')")


def run_code(code, *args, backend=None):
    environment = {**os.environ, **({"KERAS_BACKEND": backend} if backend else {})}
    command = [sys.executable, "-c", code, *map(str, args)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("backend", ["torch", "jax"])
def test_a_run_on_another_backend(backend, demo_files, demo_specs, tmp_path):
    needs(backend)
    demo_specs.save(tmp_path / "specs.json")
    data = os.path.dirname(demo_files[0])
    said = run_code(TRAIN, data, tmp_path / "specs.json", tmp_path / "run", backend=backend)
    assert f"this process runs Keras on {backend}" in said
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["parts"]["test"]["auc"] > 0.75
    assert metrics["model"]["backend"] == backend
    assert metrics["versions"][backend]
    assert f"Keras on <b>{backend}</b>" in (tmp_path / "run" / "report.html").read_text()

    assert keras.backend.backend() == "tensorflow"  # here, and the models are the same
    run = Run.load(tmp_path / "run")
    x = next(iter(RootDataset(data, run.specs, mask=True, batch_size=500, shuffle=False).sample(2000).in_order()))
    knows_padding = keras.models.load_model(tmp_path / "run" / "set.keras")
    for name, scores in (("mlp", run.model(x["vector"])), ("set", knows_padding(x))):
        assert np.abs(np.asarray(scores) - np.load(tmp_path / "run" / f"{name}.npy")).max() < 1e-5
    assert export(run.model, run, tmp_path / "models" / "1").is_dir()


def test_a_loop_in_plain_pytorch(demo_files, demo_specs, tmp_path):
    needs("torch")
    demo_specs.save(tmp_path / "specs.json")
    assert float(run_code(LOOP, os.path.dirname(demo_files[0]), tmp_path / "specs.json")) > 0.85


def test_as_numpy_iterator_gives_arrays_for_any_framework(demo_files, demo_specs):
    ds = RootDataset(demo_files, demo_specs, labels={"*signal*": 1, "*": 0}, batch_size=100, mask=True)
    count = signal = 0
    for x, y in ds.as_numpy_iterator():
        assert {k: (type(v), v.dtype.name, v.shape) for k, v in x.items()} == {
            "vector": (np.ndarray, "float32", (len(y), ds.preprocessor.width)),
            "mask": (np.ndarray, "bool", (len(y), ds.preprocessor.width)),
        }
        count, signal = count + len(y), signal + y.sum()
    assert (count, signal) == (8522, 900)
