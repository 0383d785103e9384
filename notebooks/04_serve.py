# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Serve
# A trained model, its server, and clients that send events as they are in the file: by REST, by gRPC, and from here.

# %%
import atexit
import json
import logging
import re
import subprocess
import sys
import time
from pathlib import Path
from tempfile import mkdtemp
from urllib.error import HTTPError
from urllib.request import urlopen

import awkward as ak
import grpc
import keras
import numpy as np
import tensorflow as tf
import uproot
from mlaas4hep_serving import Client
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from mlaas4hep_tf import RootDataset, export, scan
from mlaas4hep_tf.models import build

logging.getLogger("tensorflow").setLevel("ERROR")  # no notes on saving
data, out = "../benchmarks/data/tth", Path(mkdtemp())
branches = ["ht", "nBJet", "Jet_pt", "Jet_eta", "Jet_btag"]
specs = scan(data, tree="events", branches=branches, progress=False)
ds = RootDataset(data, specs, labels={"*signal*": 1, "*": 0}, batch_size=100, mask=True)
keras.utils.set_random_seed(1)
model = build("set", specs)
model.fit(ds, epochs=2, verbose=0, shuffle=False)
export(model, ds, out / "tth" / "1")
print("a model of", model.count_params(), "parameters, on", ", ".join(branches))

# %% [markdown]
# ## The server
# It has the flags of `tensorflow_model_server`, and needs no Docker. Port -1 takes any that is free.

# %%
command = [
    "mlaas4hep_serving",
    "--port=-1",
    "--rest_api_port=-1",
    "--model_name=tth",
    f"--model_base_path={out / 'tth'}",
]
server = subprocess.Popen(
    [sys.executable, "-m", *command], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
)
ports = re.search(r"gRPC at (\S+), HTTP at (\S+)", server.stdout.readline())
address, url = ports[1], ports[2]
atexit.register(server.terminate)  # it ends with the notebook in any case


def available():
    """Whether the model is loaded; before that the server knows no version of it."""
    try:
        status = json.load(urlopen(f"{url}/v1/models/tth"))["model_version_status"]
    except HTTPError:
        return False
    return any(version["state"] == "AVAILABLE" for version in status)


deadline = time.monotonic() + 60
while not available() and time.monotonic() < deadline:
    time.sleep(0.1)
print(json.load(urlopen(f"{url}/v1/models/tth"))["model_version_status"])

# %% [markdown]
# ## REST
# One event, as it is: lists have their own length.

# %%
events = uproot.open(f"{data}/signal_ttH.root:events").arrays(branches, entry_stop=200)
event = events[0].to_list()
print(json.dumps(event)[:160], "...")


def post(instances):
    """Scores of events that are dicts of branches."""
    body = json.dumps({"instances": instances}).encode()
    return np.array(json.load(urlopen(f"{url}/v1/models/tth:predict", body))["predictions"])[:, 0]


print(f"score {post([event])[0]:.4f}")

# %% [markdown]
# **Ragged rows**: events of different lengths in one request. The server pads them with NaN, which the model knows as
# padding; TF-Serving itself refuses them.

# %%
several = post(events[:5].to_list())
print("jets:", ak.num(events["Jet_pt"][:5]).tolist(), "scores:", *(f"{score:.3f}" for score in several))

# %% [markdown]
# ## gRPC
# Many events in one request: lists padded with NaN to one length, which the model knows as padding.

# %%
request = predict_pb2.PredictRequest()
request.model_spec.name = "tth"
for name in branches:
    values = events[name]
    if values.ndim > 1:
        values = ak.fill_none(ak.pad_none(values, int(ak.max(ak.num(values)))), np.nan)
    request.inputs[name].CopyFrom(tf.make_tensor_proto(ak.to_numpy(values).astype(np.float32)))
with grpc.insecure_channel(address) as channel:
    answer = prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict(request, timeout=30)
served = tf.make_ndarray(answer.outputs["score"])[:, 0]
print(f"{len(served)} events of signal, median score {np.median(served):.2f}")

# %% [markdown]
# ## The client
# `Client` does this for both: events as dicts or as an Awkward array go in, an array comes out.

# %%
with Client(url) as rest, Client(f"grpc://{address}") as rpc:
    clients = {"REST": rest.predict(events[:5].to_list(), "tth")[:, 0], "gRPC": rpc.predict(events[:5], "tth")[:, 0]}
for way, scores in clients.items():
    print(f"{way}:", *(f"{score:.3f}" for score in scores))
    assert np.allclose(scores, served[:5], atol=1e-6)

# %% [markdown]
# ## The same score everywhere
# What is trained is what is served: the scores of REST, gRPC and of the model in this process.

# %%
x = next(iter(RootDataset(f"{data}/signal_ttH.root", specs.unbound(), mask=True, shuffle=False, batch_size=200)))
here = np.asarray(model(x))[:, 0]
by_rest = post(events[:20].to_list())
print("largest difference, gRPC:", f"{np.abs(served - here).max():.0e}, REST: {np.abs(by_rest - here[:20]).max():.0e}")
assert np.allclose(served, here, atol=1e-6)
assert np.allclose(by_rest, here[:20], atol=1e-6)

# %%
server.terminate()
print("server ended with", server.wait(60))
