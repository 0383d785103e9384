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
# # Representations
# A network wants a rectangle, events are jagged. Which way of casting one into the other to choose?

# %%
from time import perf_counter

import awkward as ak
import keras
import matplotlib.pyplot as plt
import numpy as np

from mlaas4hep_tf import RootDataset, models, scan
from mlaas4hep_tf.train import evaluate, fit
from mlaas4hep_tf.transforms.decode import decode
from mlaas4hep_tf.transforms.image import EtaPhiImage

plt.rcParams.update({"figure.dpi": 70, "axes.spines.top": False, "axes.spines.right": False})
data, labels = "../benchmarks/data/tth", {"*signal*": 1, "*": 0}
every = scan(data, tree="events", exclude=["isSignal", "genWeight"], progress=False)
flat = scan(data, tree="events", branches=[b.name for b in every.flat], progress=False)

# %% [markdown]
# Four of them, one seed each and five epochs; the table of several seeds is made by `benchmarks/physics`. **Flat**:
# numbers per event only. **Vector**: all branches padded. **Set**: the vector with its mask, into a network that pools
# over real objects and so knows what is padding. **Image**: the jets of an event in bins of eta and phi, a channel per
# property, into a small convolutional network.

# %%
jets = EtaPhiImage("Jet_eta", "Jet_phi", ("Jet_pt", "Jet_mass", "Jet_btag"), bins=(12, 12), rule="sum")
ways = {
    "flat features, mlp": ("mlp", flat, None),
    "vector, mlp": ("mlp", every, None),
    "vector and mask, set": ("set", every, None),
    "image of jets, cnn": ("cnn", every, jets),
}
print(f"{'representation':22} {'columns':>7} {'parameters':>10} {'s/epoch':>7}  AUC test")
for name, (network, specs, image) in ways.items():
    keras.utils.set_random_seed(1)
    model = models.build(network, specs, image=image)
    layout = {"layout": "image", "image": image} if image else {"mask": models.wants_mask(model)}
    ds = RootDataset(data, specs, labels=labels, batch_size=100, seed=1, **layout)
    train, valid, test = ds.split(0.64, 0.16, 0.20)
    start = perf_counter()
    done = fit(model, train, valid, epochs=5)
    seconds = (perf_counter() - start) / len(done.history["loss"])
    result = evaluate(model, test)
    columns = np.prod(image.shape) if image else len(specs.vector_names)
    print(f"{name:22} {columns:7} {model.count_params():10,} {seconds:7.1f}  {result.auc:.3f} ± {result.auc_error:.3f}")

# %% [markdown]
# What the network of the image sees, an event of signal and one of background:

# %%
figure, places = plt.subplots(1, 2, figsize=(8, 3), layout="constrained")
for axes, kind in zip(places, ("signal_ttH", "bkg_tt_1"), strict=True):
    pictures = RootDataset(f"{data}/{kind}.root", every.unbound(), normalize=None, layout="image", image=jets)
    pt = next(pictures.as_numpy_iterator())[0, :, :, 1]  # channel 0 counts the jets
    shown = axes.imshow(
        pt.T,
        origin="lower",
        extent=[edge for axis in jets.axes for edge in (axis.low, axis.high)],
        aspect="auto",
        cmap="Blues",
        vmin=0,
        vmax=250,
    )
    axes.set(xlabel="eta", ylabel="phi", title=kind)
figure.colorbar(shown, label="sum of Jet_pt in GeV")
plt.show()

# %% [markdown]
# ## Encode and decode
# The mask makes the vector reversible (paper, section 3.2): `decode` turns it back into jagged events.

# %%
events = RootDataset(data, every, mask=True, batch_size=500, shuffle=False)
x = next(events.as_numpy_iterator())
again = decode(x["vector"], x["mask"], events.preprocessor)
for pt in again["Jet_pt"][:2]:
    print("Jet_pt:", *(f"{value:.1f}" for value in pt), "GeV")
print("nJet of the first five:", again["nJet"][:5].tolist(), "and their lists:", ak.num(again["Jet_pt"][:5]).tolist())

# %% [markdown]
# ## Autoencoder
# So a network can be trained to reproduce events through a narrow code (64 numbers in place of 507), and what it makes
# of them can be looked at as events. The loss counts real values only.

# %%
keras.utils.set_random_seed(1)
autoencoder = models.autoencoder(every, code=64)
standard = RootDataset(data, every, mask=True, batch_size=100, normalize="standard")  # all branches weigh alike
history = autoencoder.fit(standard, epochs=8, verbose=0, shuffle=False).history
print("loss per epoch:", *(f"{loss:.2f}" for loss in history["loss"]))
x = next(standard.in_order().as_numpy_iterator())
true, made = (decode(v, x["mask"], standard.preprocessor) for v in (x["vector"], np.asarray(autoencoder(x))))

figure, places = plt.subplots(1, 3, figsize=(11, 3), layout="constrained")
for axes, branch in zip(places, ("Jet_pt", "FatJet_mass", "Pair_mass"), strict=True):
    values, decoded = (ak.to_numpy(ak.flatten(part[branch])) for part in (true, made))
    top = np.quantile(values, 0.99)
    axes.plot([0, top], [0, top], color="0.6", linewidth=1)
    axes.plot(values, decoded, ".", markersize=2, color="#4477AA")
    axes.set(xlabel=f"{branch}, in the file", ylabel="decoded", xlim=(0, top), ylim=(0, top))
plt.show()
