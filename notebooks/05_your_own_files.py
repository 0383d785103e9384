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
# # Your own files
# From files nobody has seen to a trained model: what to call, and what is said when something does not fit. The files
# are made here; put your own in their place.

# %%
import warnings
from pathlib import Path
from tempfile import mkdtemp

import awkward as ak
import keras
import numpy as np
import uproot

from mlaas4hep_tf import MlaasError, RootDataset, scan
from mlaas4hep_tf.models import build
from mlaas4hep_tf.predict import predict_files
from mlaas4hep_tf.train import evaluate, fit

folder, out = Path(mkdtemp()), Path(mkdtemp())
rng = np.random.default_rng(1)
for number in range(4):
    muons = rng.poisson(2, 2000)
    truth = rng.integers(0, 2, 2000).astype(np.float32)
    pt = rng.exponential(20 + 15 * np.repeat(truth, muons)).astype(np.float32)
    with uproot.recreate(folder / f"part{number}.root") as file:
        file["Events"] = {
            "Muon": ak.zip({"pt": ak.unflatten(pt, muons), "eta": ak.unflatten(rng.normal(size=len(pt)), muons)}),
            "met": np.where(rng.random(2000) < 0.05, np.nan, rng.exponential(30, 2000)),  # some are missing
            "event": np.arange(2000),
            "truth": truth,
        }

# %% [markdown]
# ## What is in them?
# TTrees and RNTuples (uproot wrote one here), patterns, folders, lists, `root://` and `https://` URLs all work.
# Identifiers such as `event` are never features; the truth has to be left out by name.

# %%
specs = scan(f"{folder}/*.root", labels="truth", progress=False)
for b in specs.branches:
    print(
        f"{b.name:9} {b.kind:6} {b.dtype:7} {b.min:8.2f} to {b.max:8.2f}  missing {b.nan}, at most {b.largest} an event"
    )

# %% [markdown]
# A long tail of multiplicities makes a long vector. A quantile cuts it, and what is cut is counted.

# %%
short = specs.with_lengths(quantile=0.99)
print(f"{len(specs.vector_names)} columns, {len(short.vector_names)} with a quantile of 0.99")
print(f"{short.groups['Muon'][0].truncated} (events, objects) are cut")

# %% [markdown]
# ## Labels
# By file (`{"*signal*": 1, "*": 0}` or a list), or from a branch, as here. `weights=` works alike.

# %%
ds = RootDataset(f"{folder}/*.root", short, labels="truth", batch_size=100, mask=True)
train, valid, test = ds.split(0.64, 0.16, 0.20)
keras.utils.set_random_seed(1)

# %% [markdown]
# ## Your own model
# Any Keras model whose input is the vector, or `vector` and `mask`. Your own preprocessing is a layer of it: then it is
# part of what is exported, too.

# %%
vector = keras.Input((len(short.vector_names),), name="vector")
mask = keras.Input((len(short.vector_names),), name="mask", dtype="bool")
x = keras.layers.Lambda(lambda v: keras.ops.sqrt(keras.ops.maximum(v, 0)))(vector)  # long tails made shorter
x = keras.layers.Concatenate()([x, keras.ops.cast(mask, "float32")])
x = keras.layers.Dense(32, activation="relu")(x)
model = keras.Model({"vector": vector, "mask": mask}, keras.layers.Dense(1, activation="sigmoid")(x))
model.compile(loss="binary_crossentropy", optimizer="adam")
fit(model, train, valid, epochs=5)
result = evaluate(model, test)
print(f"AUC test {result.auc:.3f} ± {result.auc_error:.3f}")

# %% [markdown]
# Scores of every event go to a ROOT file, in the order of the input.

# %%
predict_files(model, f"{folder}/*.root", ds, out / "scores.root")
scores = uproot.open(f"{out}/scores.root:Events")
print(scores.num_entries, "events with", scores.keys())

# %% [markdown]
# ## When something does not fit
# An error says the rule, what was received, where, and what to do.

# %%
wrong = {
    "a branch that is not there": lambda: scan(f"{folder}/part0.root", branches=["Muon.pT"], progress=False),
    "labels that match nothing": lambda: RootDataset(f"{folder}/*.root", short, labels={"*signal*": 1}),
    "specs of other data": lambda: RootDataset(f"{folder}/*.root", scan(f"{folder}/part0.root", progress=False)),
    "no such model": lambda: build("transformer", short),
}
for what, attempt in wrong.items():
    try:
        with warnings.catch_warnings(action="ignore"):
            attempt()
    except MlaasError as error:
        print(f"{what}:\n  {str(error).replace(str(folder), '.')}\n")
