"""Way (iii) of section 4.2: uproot, numpy and Keras, and nothing of this package; and the network that (ii) shares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import awkward as ak
import keras
import numpy as np
import numpy.typing as npt
import uproot
from features import BATCH, FIRST, FLAT, PARTS, SPLIT, TREE

Arrays = tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]  # x [n, D], y [n]


def read(files: Sequence[str]) -> Arrays:
    """All events: 27 columns scaled to [0, 1], missing values 0; label 1 for files of signal."""
    columns, labels = [], []
    for path in files:
        with uproot.open(f"{path}:{TREE}") as tree:
            events = tree.arrays([*FLAT, *FIRST])
        flat = [ak.to_numpy(events[name]) for name in FLAT]
        first = [ak.to_numpy(ak.fill_none(ak.firsts(events[name]), np.nan)) for name in FIRST]
        columns.append(np.stack([c.astype(np.float32) for c in (*flat, *first)], axis=1))
        labels.append(np.full(len(events), "signal" in Path(path).name, np.float32))
    x = np.concatenate(columns)
    low, high = np.nanmin(x, axis=0), np.nanmax(x, axis=0)
    return np.nan_to_num((x - low) / (high - low)), np.concatenate(labels)


def split(x: npt.NDArray[np.float32], y: npt.NDArray[np.float32], seed: int) -> dict[str, Arrays]:
    order = np.random.default_rng(seed).permutation(len(y))
    ends = np.rint(np.cumsum(SPLIT) * len(y)).astype(int)
    return {name: (x[rows], y[rows]) for name, rows in zip(PARTS, np.split(order, ends[:-1]), strict=True)}


def network(width: int) -> keras.Model:
    layers = [
        keras.Input((width,)), keras.layers.Dense(128, activation="relu"), keras.layers.Dropout(0.5),
        keras.layers.Dense(64, activation="relu"), keras.layers.Dense(1, activation="sigmoid"),
    ]  # fmt: skip
    model = keras.Sequential(layers)
    model.compile(optimizer=keras.optimizers.Adam(1e-3), loss="binary_crossentropy")
    return model


def train(parts: Mapping[str, Arrays], seed: int, epochs: int) -> tuple[dict[str, Any], float, int]:
    """Train on arrays; of the epochs the one of lowest validation loss is kept.

    Returns:
        Labels and scores of each part, seconds per epoch, and parameters.
    """
    keras.utils.set_random_seed(seed)
    model = network(parts["train"][0].shape[1])
    best = keras.callbacks.EarlyStopping("val_loss", patience=epochs, restore_best_weights=True)
    start = perf_counter()
    model.fit(
        *parts["train"], validation_data=parts["validation"], batch_size=BATCH, epochs=epochs, callbacks=[best],
        verbose=0,
    )  # fmt: skip
    seconds = (perf_counter() - start) / epochs
    scores = {name: (y, np.asarray(model(x, training=False))[:, 0]) for name, (x, y) in parts.items()}
    return scores, seconds, model.count_params()
