"""What a checkpoint of a training costs, as seconds and as a share of the minute after which the next one is written.

    python benchmarks/checkpoint_cost.py FILE... --tree events [--exclude ...] [--steps 20]

Each model is trained for some steps, with a checkpoint behind every one of them.  The wide network has as many weights
as large ones of the field.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter

import keras

from mlaas4hep_tf import RootDataset, scan
from mlaas4hep_tf.bench import environment
from mlaas4hep_tf.models import build
from mlaas4hep_tf.resume import Resume

MINUTE_S = 60.0
WIDE = 3000  # units of each of two layers


class Timed(Resume):
    """Tells how long each checkpoint took."""

    def __init__(self, path: Path, train: RootDataset) -> None:
        super().__init__(path, train, every=1)
        self.seconds: list[float] = []

    def _write(self, epoch: int, batch: int) -> None:
        start = perf_counter()
        super()._write(epoch, batch)
        self.seconds.append(perf_counter() - start)


def wide(ds: RootDataset) -> keras.Model:
    inputs = keras.Input((ds.preprocessor.width,))
    x = keras.layers.Dense(WIDE, "relu")(keras.layers.Dense(WIDE, "relu")(inputs))
    model = keras.Model(inputs, keras.layers.Dense(1, "sigmoid")(x))
    model.compile("adam", "binary_crossentropy")
    return model


def measure(model: keras.Model, ds: RootDataset, steps: int) -> tuple[float, float]:
    """Median seconds of a checkpoint, and its size in MB."""
    with TemporaryDirectory() as folder:
        timed = Timed(Path(folder) / "training.ckpt", ds)
        model.fit(timed.train, steps_per_epoch=steps, callbacks=[timed], verbose=0)
        return median(timed.seconds), (Path(folder) / "training.ckpt").stat().st_size / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("files", nargs="+")
    parser.add_argument("--tree")
    parser.add_argument("--exclude", nargs="*", default=[])
    parser.add_argument("--steps", type=int, default=20)
    args = parser.parse_args()
    specs = scan(args.files, args.tree, exclude=args.exclude, progress=False)
    models: dict[str, Callable[[RootDataset], keras.Model]] = {
        name: lambda ds, name=name: build(name, specs, preprocessor=ds.preprocessor)
        for name in ("mlp", "set", "particle_transformer")
    } | {"wide": wide}
    print(environment())
    print("\n| model | weights | checkpoint, MB | s | of a minute |\n|---|---:|---:|---:|---:|")
    labels = [n % 2 for n in range(len(specs.files))]
    for name, made in models.items():
        ds = RootDataset(args.files, specs, labels=labels, batch_size=256, mask=name not in ("mlp", "wide"))
        model = made(ds)
        seconds, size = measure(model, ds, args.steps)
        print(
            f"| {name} | {model.count_params():,} | {size:.1f} | {seconds:.3f} | {seconds / MINUTE_S:.2%} |", flush=True
        )


if __name__ == "__main__":
    main()
