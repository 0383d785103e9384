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
# # Train
# The paper's network (section 4.2: 128 and 64 neurons, dropout 0.5, batches of 100, split 64/16/20) on the vector of
# all branches, and the same data in other frameworks.

# %%
import logging
from importlib.util import find_spec
from pathlib import Path
from tempfile import mkdtemp

import keras
import matplotlib.pyplot as plt
import numpy as np

from mlaas4hep_tf import RootDataset, export, scan
from mlaas4hep_tf.models import build
from mlaas4hep_tf.runs.importance import permutation_importance
from mlaas4hep_tf.runs.plots import plot_curves, plot_importance, plot_roc, plot_scores
from mlaas4hep_tf.train import Evaluation, evaluate, fit, over_training

# %matplotlib inline
logging.getLogger("tensorflow").setLevel("ERROR")  # no notes on saving
plt.rcParams.update({"figure.dpi": 70, "axes.spines.top": False, "axes.spines.right": False})
out = Path(mkdtemp())
data = "../benchmarks/data/tth"
specs = scan(data, tree="events", exclude=["isSignal", "genWeight"], progress=False)

# %% [markdown]
# A `RootDataset` **is** a `tf.data.Dataset`; nothing is read until it is iterated. Files are mixed in proportion.

# %%
ds = RootDataset(data, specs, labels={"*signal*": 1, "*": 0}, batch_size=100, seed=1)
train, valid, test = ds.split(0.64, 0.16, 0.20)
for name, part in (("train", train), ("validation", valid), ("test", test)):
    print(f"{name:10} {part.entries:5} events, {part.composition()[1.0]:4} of them signal")

# %% [markdown]
# `model.fit(train, validation_data=valid)` is all that is needed; `fit` keeps the best epoch and measures input wait.

# %%
keras.utils.set_random_seed(1)
model = build("mlp", specs)
done = fit(model, train, valid, epochs=5)
print(f"Keras {keras.__version__} on {keras.backend.backend()}, {model.count_params():,} parameters")
plot_curves(done.history)

# %%
results = {"train": evaluate(model, train), "validation": evaluate(model, valid), "test": evaluate(model, test)}
for name, result in results.items():
    print(f"AUC {name:10} {result.auc:.3f} ± {result.auc_error:.3f}")
plot_roc(results)

# %% [markdown]
# Is it over-trained? Training (filled) and test (points) should agree; the Kolmogorov-Smirnov test puts a number on it.

# %%
for name, ks in over_training(results["train"], results["test"]).items():
    print(f"{name:10} distance {ks.distance:.3f}, p = {ks.p_value:.2f}")
plot_scores(results["train"], results["test"])

# %% [markdown]
# What does it look at? The AUC that is lost when one branch is shuffled among the events of the test part.

# %%
plot_importance([vars(one) for one in permutation_importance(model, test)], shown=8)

# %% [markdown]
# `mlaas4hep-tf train` does all of this from the shell and leaves a run folder with `report.html`.
#
# ## Export
# Preprocessing and model together, for TF-Serving: raw branches in, score out.

# %%
path = export(model, ds, out / "models" / "tth" / "1")
print(sorted(p.name for p in path.iterdir()))

# %% [markdown]
# ## The framework of your choice
# Keras takes the same dataset on its other backends: set `KERAS_BACKEND=torch` or `jax` before Python starts, and
# everything above stays as it is. Models saved as `.keras` are the same for every backend.
#
# Without Keras, `as_numpy_iterator()` gives plain arrays: here a loop in PyTorch.

# %%
if find_spec("torch") is None:
    print("PyTorch is not installed: pip install 'mlaas4hep_tf[torch]'")
else:
    import torch

    torch.manual_seed(1)
    net = torch.nn.Sequential(torch.nn.Linear(len(specs.vector_names), 64), torch.nn.ReLU(), torch.nn.Linear(64, 1))
    optimizer, loss = torch.optim.Adam(net.parameters()), torch.nn.BCEWithLogitsLoss()
    for _ in range(3):
        for x, y in train.as_numpy_iterator():
            optimizer.zero_grad()
            loss(net(torch.tensor(x))[:, 0], torch.tensor(y)).backward()
            optimizer.step()
    with torch.no_grad():
        parts = [(y, net(torch.tensor(x))[:, 0].numpy()) for x, y in test.as_numpy_iterator()]
    labels, scores = (np.concatenate(column).astype(float) for column in zip(*parts, strict=True))
    result = Evaluation(labels, scores, np.ones(len(labels)))
    print(f"PyTorch loop: AUC test {result.auc:.3f} ± {result.auc_error:.3f}")
