"""Synthetic ROOT files for tests and benchmarks: jagged events of any shape, written by uproot."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import uproot

COMPRESSIONS = {
    "none": None, "zlib": uproot.ZLIB(1), "lz4": uproot.LZ4(1), "zstd": uproot.ZSTD(1), "lzma": uproot.LZMA(1),
}  # fmt: skip


def make_events(
    entries: int, *, first_id: int = 0, groups: Mapping[str, int] | None = None, mean: float = 3.0, seed: int = 0
) -> dict[str, Any]:
    """Branches of random events: ``id`` (unique), ``x``, and for each group jagged float32 branches.

    Args:
        entries: number of events.
        first_id: ``id`` of the first event; ids count up.
        groups: group name -> number of its branches, ``<group>_0`` ...; default ``{"Jet": 2}``.
        mean: mean multiplicity (Poisson).
        seed: of the values.
    """
    rng = np.random.default_rng(seed)
    branches: dict[str, Any] = {
        "id": np.arange(first_id, first_id + entries, dtype=np.int32),
        "x": rng.normal(size=entries).astype(np.float32),
    }
    for group, count in (groups if groups is not None else {"Jet": 2}).items():
        counts = rng.poisson(mean, entries)
        columns = {
            str(i): ak.unflatten(rng.exponential(size=int(counts.sum())).astype(np.float32), counts)
            for i in range(count)
        }
        branches[group] = ak.zip(columns)
    return branches


def write_tree(
    path: str | os.PathLike[str],
    branches: Mapping[str, Any],
    *,
    tree: str = "events",
    compression: str = "zlib",
    basket: int | None = None,
) -> Path:
    """Write branches as a TTree; a record array ``Jet`` becomes ``nJet`` and ``Jet_*``.

    Args:
        path: file to write.
        branches: name -> NumPy or awkward array of one length.
        tree: name of the tree.
        compression: a key of `COMPRESSIONS`.
        basket: entries per basket, default all.
    """
    arrays = {name: ak.Array(values) for name, values in branches.items()}
    entries = len(next(iter(arrays.values())))
    with uproot.recreate(path, compression=COMPRESSIONS[compression]) as file:
        target = file.mktree(tree, {name: array.type.content for name, array in arrays.items()})
        step = basket or max(entries, 1)
        for start in range(0, entries, step):
            target.extend({name: array[start : start + step] for name, array in arrays.items()})
    return Path(path)


def write_files(folder: str | os.PathLike[str], sizes: list[int], **options: Any) -> list[str]:
    """Files ``f000.root`` ... of `make_events`, with ids that count through all of them."""
    known = {k: options.pop(k) for k in ("groups", "mean") if k in options}
    paths, first = [], 0
    for number, entries in enumerate(sizes):
        events = make_events(entries, first_id=first, seed=number, **known)
        paths.append(str(write_tree(Path(folder) / f"f{number:03d}.root", events, **options)))
        first += entries
    return paths
