"""What runs in the framework: the sample, its representations, and training on any of them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import keras
import numpy as np
import uproot
from features import BATCH, EVENT_WEIGHT, FIRST, FLAT, PARTS, SPLIT, TREE, TRUTH
from outside import Arrays

from mlaas4hep_tf import DataWarning, RootDataset, Specs, scan
from mlaas4hep_tf.models import MASK, VECTOR, build, mlp
from mlaas4hep_tf.train import evaluate, fit
from mlaas4hep_tf.transforms.image import EtaPhiImage

LABELS = {"*signal*": 1.0, "*": 0.0}
EVALUATION_BATCH = 4096
JETS = EtaPhiImage("Jet_eta", "Jet_phi", ("Jet_pt", "Jet_mass", "Jet_btag", "Jet_width", "Jet_nconst"))


@dataclass(frozen=True)
class Way:
    """One row of a table: a representation, a network, and what is done about the rare signal.

    Attributes:
        features: ``flat``, ``flat27``, ``jagged`` (and the flat ones), or ``truth`` (jagged with the generator's).
        model: builds the compiled network.
        dataset: options of `RootDataset`.
        prepare: from the training part to that which is trained on.
        fit: options of `train.fit`.
    """

    features: str
    model: Callable[[Specs], keras.Model]
    dataset: Mapping[str, Any] = field(default_factory=dict)
    prepare: Callable[[RootDataset], RootDataset] = lambda train: train
    fit: Mapping[str, Any] = field(default_factory=dict)


class Sample:
    """The files, and the specs of each choice of features, scanned once."""

    def __init__(self, files: Sequence[str]) -> None:
        self.files = list(files)
        with uproot.open(f"{files[0]}:{TREE}") as tree:
            self._names = set(tree.keys())
        self._specs: dict[str, Specs] = {}

    @property
    def knows_flavour(self) -> bool:
        """Whether jets carry the flavour that the generator gave them."""
        return not self._names.isdisjoint(TRUTH[1:])

    def specs(self, features: str) -> Specs:
        if features not in self._specs:
            chosen = {"flat": FLAT, "flat27": (*FLAT, *FIRST)}.get(features)
            unwanted = {EVENT_WEIGHT, *(TRUTH[:1] if features == "truth" else TRUTH)} & self._names
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DataWarning)
                specs = scan(
                    self.files, TREE, branches=chosen, exclude=() if chosen else sorted(unwanted), progress=False
                )
            self._specs[features] = first_objects(specs) if features == "flat27" else specs
        return self._specs[features]

    def parts(self, features: str, seed: int, batch: int, **options: Any) -> dict[str, RootDataset]:
        ds = RootDataset(self.files, self.specs(features), labels=LABELS, batch_size=batch, seed=seed, **options)
        return dict(zip(PARTS, ds.split(*SPLIT), strict=True))

    def arrays(self, features: str, seed: int, *, missing: float = 0.0) -> dict[str, Arrays]:
        """The dataset's own vectors of each part as arrays, for training elsewhere."""
        found = {}
        for name, part in self.parts(features, seed, EVALUATION_BATCH, mask=True).items():
            x, y = zip(*((np.where(x[MASK], x[VECTOR], missing), y.numpy()) for x, y in part), strict=True)
            found[name] = np.concatenate(x).astype(np.float32), np.concatenate(y)
        return found


def first_objects(specs: Specs) -> Specs:
    """Specs that keep the first object of each list."""
    return replace(specs, branches=tuple(replace(b, length=min(b.length, 1)) for b in specs.branches))


def paper_network(specs: Specs) -> keras.Model:
    return build("mlp", specs)


def set_network(specs: Specs) -> keras.Model:
    return build("set", specs)


def image_network(specs: Specs) -> keras.Model:
    return build("cnn", specs, image=JETS)


def masked_network(specs: Specs) -> keras.Model:
    """The paper's network, which sees the mask as so many more columns."""
    width = len(specs.vector_names)
    vector, mask = keras.Input((width,), name=VECTOR), keras.Input((width,), name=MASK, dtype="bool")
    both = keras.layers.Concatenate()([vector, keras.ops.cast(mask, "float32")])
    plain = mlp(specs)
    for layer in plain.layers[1:]:
        both = type(layer).from_config(layer.get_config())(both)
    model = keras.Model({VECTOR: vector, MASK: mask}, both, name="mlp_mask")
    model.compile(optimizer=keras.optimizers.Adam(1e-3), loss="binary_crossentropy")
    return model


def train(way: Way, sample: Sample, seed: int, epochs: int) -> tuple[dict[str, Any], float, int, list[float]]:
    """Train and evaluate in the framework.

    Returns:
        Labels and scores of each part, seconds per epoch (reading included), parameters, and the fraction of
        signal that each epoch had.
    """
    keras.utils.set_random_seed(seed)
    model = way.model(sample.specs(way.features))
    parts = sample.parts(way.features, seed, BATCH, **way.dataset)
    done = fit(model, way.prepare(parts["train"]), parts["validation"], epochs=epochs, **way.fit)
    options = {name: value for name, value in way.dataset.items() if name != "weights"}
    found = {}
    for name, part in sample.parts(way.features, seed, EVALUATION_BATCH, **options).items():
        result = evaluate(model, part)
        found[name] = result.labels, result.scores
    signal = [sum(n for url, n in c.items() if "signal" in url) / sum(c.values()) for c in done.composition]
    return found, done.seconds / epochs, model.count_params(), signal
