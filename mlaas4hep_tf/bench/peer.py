"""A script for the Python of another loader: epochs of that loader on the same branches, each time it is asked.

It imports nothing of this package, which is not installed there.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from tempfile import mkdtemp
from time import perf_counter
from typing import Any

Epoch = Callable[[], int]  # reads all events once, in batches: how many came
Job = dict[str, Any]  # files, tree, flat, groups (name -> branches), lengths of branches, batch, workers, epochs
_CENTER, _FACTOR = 0.0, 1.0  # of weaver's normalisation


def root(job: Job, way: str) -> Epoch:
    """ROOT's RDataLoader, shuffled; ``eager`` keeps the finished rows in memory."""
    import ROOT  # type: ignore[import-not-found]

    frame = ROOT.RDataFrame(job["tree"], job["files"])
    columns = [*job["flat"], *(name for names in job["groups"].values() for name in names)]
    loader = ROOT.Experimental.ML.RDataLoader(
        frame, batch_size=job["batch"], columns=columns, max_vec_sizes=job["lengths"], drop_remainder=False,
        set_seed=1, load_eager=way == "eager",
    )  # fmt: skip
    batches = loader.as_tensorflow() if way == "tensorflow" else loader.as_numpy()
    return lambda: _events(batches)


def weaver(job: Job) -> Epoch:
    """weaver-core's iterable dataset in torch's DataLoader, padded and normalised."""
    from torch.utils.data import DataLoader
    from weaver.utils.dataset import SimpleIterDataset

    config = Path(mkdtemp()) / "weaver.yaml"  # JSON is YAML
    config.write_text(json.dumps(_weaver_config(job)))
    dataset = SimpleIterDataset({"_": job["files"]}, str(config), for_training=True, fetch_step=1, name="train")
    loader = DataLoader(dataset, batch_size=job["batch"], num_workers=job["workers"], persistent_workers=True)
    return lambda: sum(len(labels["_label_"]) for _, labels, _ in loader)


def _weaver_config(job: Job) -> dict[str, Any]:
    first = job["flat"][0]
    inputs: dict[str, Any] = {"flat": _weaver_input(job["flat"], None)}
    for group, names in job["groups"].items():
        inputs[f"{group}_features"] = _weaver_input(names, job["lengths"][names[0]]) | {"pad_mode": "constant"}
    return {
        "treename": job["tree"],
        "new_variables": {"is_one": f"{first}>0", "is_other": f"{first}<=0"},
        "preprocess": {"method": "manual"},
        "inputs": inputs,
        "labels": {"type": "simple", "value": ["is_one", "is_other"]},
    }


def _weaver_input(names: Iterable[str], length: int | None) -> dict[str, Any]:
    return {"length": length, "vars": [[name, _CENTER, _FACTOR] for name in names]}


def f9columnar(job: Job, layout: str) -> Epoch:
    """F9Columnar's chunk loader, padded or packed ("varlen"), chunks and batches shuffled."""
    from f9columnar.ml.collate import CollateConfig
    from f9columnar.pipeline.dataloader import get_chunk_dataloader
    from f9columnar.pipeline.readers import RootChunkReader

    groups = {**job["groups"], "event": job["flat"]}
    lengths = {group: job["lengths"][names[0]] for group, names in job["groups"].items()}
    loader, _, _ = get_chunk_dataloader(
        "bench", job["files"],
        RootChunkReader(job["tree"], fields=[name for names in groups.values() for name in names]),
        step_size=10_000, num_workers=job["workers"],
        collate_config=CollateConfig(modalities=groups, layout=layout, max_lengths=lengths, pad_values=0.0),
        shuffle_chunks=True, shuffle_batch=True, batch_size=job["batch"], base_seed=1,
        dataloader_kwargs={"persistent_workers": True},
    )  # fmt: skip
    return lambda: _events(batch["event"][0] for batch, _ in loader)


def _events(batches: Iterable[Any]) -> int:
    return sum(int((next(iter(b.values())) if isinstance(b, dict) else b).shape[0]) for b in batches)


def make(way: str, job: Job) -> Epoch:
    if way.startswith("root_"):
        return root(job, way.removeprefix("root_"))
    if way == "weaver":
        return weaver(job)
    return f9columnar(job, {"f9columnar_padded": "padding", "f9columnar_packed": "varlen"}[way])


def main(way: str) -> None:
    """Answer a job, a line of JSON, and after it each line, with events and seconds of some epochs."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the loader prints is no answer
    job = json.loads(sys.stdin.readline())
    epoch = make(way, job)
    for _ in sys.stdin:
        start = perf_counter()
        events = sum(epoch() for _ in range(job["epochs"]))
        print(json.dumps({"events": events, "seconds": perf_counter() - start}), file=answers, flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
