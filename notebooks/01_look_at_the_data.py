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
# # Look at the data
# Nine small files of simulated ttH(bb) events come with the project: one with signal, eight with background.
# Events have different numbers of jets, fat jets, leptons and jet pairs: this is what a *jagged array* is.

# %%
import matplotlib.pyplot as plt
import numpy as np

from mlaas4hep_tf import RootDataset, scan
from mlaas4hep_tf.runs.plots import BACKGROUND, SIGNAL

plt.rcParams.update({"figure.dpi": 70, "axes.spines.top": False, "axes.spines.right": False})
data = "../benchmarks/data/tth"
exclude = ["isSignal", "genWeight"]  # the truth, and a generator weight that is always 1

# %% [markdown]
# ## Pass 1: the specs
# `scan` reads every event once, in parallel, and leaves what padding and normalisation need.

# %%
specs = scan(data, tree="events", exclude=exclude, progress=False)
print(f"{specs.entries:,} events, {len(specs.branches)} branches, {len(specs.vector_names)} columns of the vector")
for group, members in specs.groups.items():
    events = members[0].multiplicities
    mean = np.average(range(len(events)), weights=events)
    print(f"{group:8} {len(members):3} branches, {mean:5.2f} objects an event on average, at most {members[0].largest}")

# %% [markdown]
# Each branch knows its range, how often it is missing, and how many values an event has.

# %%
for name in ("ht", "Jet_pt", "Pair_mass"):
    b = next(b for b in specs.branches if b.name == name)
    print(f"{b.name:10} {b.kind:6} {b.dtype}  {b.min:8.2f} to {b.max:8.2f}, mean {b.mean:7.2f}, {b.values:,} values")

# %% [markdown]
# ## Multiplicities of signal and background
# Specs of signal alone and of background alone hold the histograms already.

# %%
classes = {
    "signal": (scan(f"{data}/signal*.root", tree="events", exclude=exclude, progress=False), SIGNAL),
    "background": (scan(f"{data}/bkg*.root", tree="events", exclude=exclude, progress=False), BACKGROUND),
}
figure, places = plt.subplots(1, 4, figsize=(13, 2.8), layout="constrained")
for axes, group in zip(places, specs.groups, strict=True):
    for name, (part, color) in classes.items():
        counts = np.array(part.groups[group][0].multiplicities)
        axes.stairs(counts / counts.sum(), np.arange(len(counts) + 1) - 0.5, color=color, label=name, linewidth=1.5)
    axes.set(xlabel=group, ylabel="share of events")
    axes.xaxis.get_major_locator().set_params(integer=True)
places[0].legend(frameon=False)
plt.show()

# %% [markdown]
# ## Some distributions
# `layout="columns"` gives branches by name and `normalize=None` leaves them in their own unit; the mask says
# what is real.

# %%
ds = RootDataset(
    data, specs, labels={"*signal*": 1, "*": 0}, layout="columns", mask=True, normalize=None, batch_size=10_000
)
x, label = next(ds.as_numpy_iterator())  # all 8522 events in one batch
figure, places = plt.subplots(1, 4, figsize=(13, 2.8), layout="constrained")
for axes, branch in zip(places, ("ht", "btag3", "Pair_mass", "Pair_tag"), strict=True):
    for wanted, color in ((1, SIGNAL), (0, BACKGROUND)):
        values = x[branch][label == wanted][x[branch + "_mask"][label == wanted]]
        low, high = np.quantile(x[branch][x[branch + "_mask"]], [0, 0.99])
        axes.hist(values, np.linspace(low, high, 40), density=True, histtype="step", color=color, linewidth=1.5)
    axes.set(xlabel=branch, yticks=[])
plt.show()

# %% [markdown]
# ## The vector and its mask
# What the network sees (paper, figures 3 and 4): flat branches first, then each jagged branch padded to the largest
# multiplicity. White is padding; each row is an event, and the steps are lists that end.

# %%
masked = RootDataset(data, specs, labels={"*signal*": 1, "*": 0}, mask=True)
batch, label = next(masked.as_numpy_iterator())
print(f"vector {batch['vector'].shape}, {batch['mask'].mean():.0%} of it real values, {int(label.sum())} signal events")
figure, axes = plt.subplots(figsize=(13, 2.4), layout="constrained")
axes.imshow(np.where(batch["mask"], batch["vector"], np.nan)[:60], aspect="auto", cmap="viridis", interpolation="none")
axes.set(xlabel="column of the vector", ylabel="event")
plt.show()
