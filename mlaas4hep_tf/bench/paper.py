"""The paper's algorithm (sections 3.2 and 3.3), event by event in Python, as its programs work."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any

import numpy as np
import uproot

Specs = dict[str, tuple[int, float, float]]  # branch -> (largest multiplicity, min, max); 0 for flat branches


def events_of(url: str, tree: str, names: Sequence[str], entries: int) -> dict[str, Any]:
    """Read the first entries of one file as NumPy arrays, jagged ones as arrays of arrays."""
    with uproot.open(url) as file:
        arrays: dict[str, Any] = file[tree].arrays(list(names), entry_stop=entries, library="np")
    return arrays


def make_specs(arrays: dict[str, Any]) -> Specs:
    """Pass 1 on one chunk: dimension of each jagged branch, minimum and maximum of each branch."""
    specs = {}
    for name, values in arrays.items():
        if values.dtype == object:
            largest = max((len(event) for event in values), default=0)
            flat = np.concatenate(list(values)) if len(values) else values
            specs[name] = (largest, float(min(flat, default=0)), float(max(flat, default=0)))
        else:
            specs[name] = (0, float(values.min()), float(values.max()))
    return specs


def make_chunk(arrays: dict[str, Any], specs: Specs, events: int) -> tuple[np.ndarray, np.ndarray]:
    """Pass 2 on one chunk: for every event the padded, normalised vector and its mask (1 = padded)."""
    flat = sorted(name for name, (largest, _, _) in specs.items() if not largest)
    jagged = sorted(name for name, (largest, _, _) in specs.items() if largest)
    vectors, masks = [], []
    for number in islice(range(events), events):
        vector = [normalize(float(arrays[name][number]), *specs[name][1:]) for name in flat]
        mask = [0.0] * len(flat)
        for name in jagged:
            largest, low, high = specs[name]
            values = [normalize(float(x), low, high) for x in arrays[name][number]]
            vector += values + [np.nan] * (largest - len(values))
            mask += [0.0] * len(values) + [1.0] * (largest - len(values))
        vectors.append(np.nan_to_num(np.array(vector)))
        masks.append(np.array(mask))
    return np.array(vectors), np.array(masks)


def normalize(value: float, low: float, high: float) -> float:
    return value if high == low else (value - low) / (high - low)
