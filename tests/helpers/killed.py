"""Trainings that are told after which step to kill themselves; what they rest on is on the disk."""

import json
import os
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import Any

EPOCHS = 3
LAWS = ("proportional", "mixed", "shard", "skip", "select")


def train(folder: Path, law: str, kill_at: int, every: int) -> dict[str, Any]:
    """Train with the data in `folder` and go on with its checkpoint; the digest of the weights and the history."""
    import keras
    import numpy as np
    import tensorflow as tf

    from mlaas4hep_tf import ReadOptions, RootDataset, Specs
    from mlaas4hep_tf.train import INPUT_WAIT, fit

    class Kill(keras.callbacks.Callback):  # type: ignore[misc]  # keras has no type information
        steps = 0

        def get_state(self) -> None: ...

        def set_state(self, state: Any) -> None: ...

        def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
            if self.steps == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            self.steps += 1

        def on_test_batch_begin(self, batch: int, logs: Any = None) -> None:
            self.on_train_batch_begin(batch)

    keras.utils.set_random_seed(0)
    tf.config.experimental.enable_op_determinism()
    files = sorted(str(path) for path in folder.glob("*.root"))
    options: dict[str, Any] = {"executor": ThreadPoolExecutor(1)}  # whose start costs nothing
    if law == "skip":
        options |= {"on_bad_file": "skip", "max_lost_fraction": 0.5}
    ds = RootDataset(
        files, Specs.load(folder / "specs.json").unbound(), labels=[0, 1, 0], batch_size=50, chunk_size=300, seed=3,
        read=ReadOptions(**options),
    )  # fmt: skip
    part, valid = ds.split(0.8, 0.2)
    part = part.mixed("equal") if law == "mixed" else part.shard(2, 1) if law == "shard" else part
    model = keras.Sequential([
        keras.layers.Input((ds.preprocessor.width,)), keras.layers.Dense(8, "relu"), keras.layers.Dropout(0.3),
        keras.layers.BatchNormalization(), keras.layers.Dense(1, "sigmoid"),
    ])  # fmt: skip
    model.compile(keras.optimizers.Adam(1e-2), "binary_crossentropy", metrics=["accuracy", keras.metrics.AUC()])
    plateau = keras.callbacks.ReduceLROnPlateau("val_loss", patience=1)
    done = fit(
        model, part, valid, epochs=EPOCHS, patience=3, out=folder / "run", callbacks=[plateau, Kill()],
        checkpoint=folder / "training.ckpt", checkpoint_every=every, resume=True,
    )  # fmt: skip
    weights = b"".join(np.asarray(v.numpy()).tobytes() for v in [*model.variables, *model.optimizer.variables])
    history = {name: values for name, values in done.history.items() if name != INPUT_WAIT}
    return {
        "weights": sha256(weights).hexdigest(), "history": history, "composition": done.composition,
        "lost": ds.skipped.to_json() if ds.skipped is not None else [],
        "rows": (folder / "run" / "history.csv").read_text().count("\n"),
    }  # fmt: skip


def main() -> None:
    """A training in a forked process for each line of input, and a line that says how it ended, and with what.

    What they import is imported here once; TensorFlow is used in none but them.
    """
    import mlaas4hep_tf.io.reader
    import mlaas4hep_tf.train  # noqa: F401 (for the children)

    for line in sys.stdin:
        folder, law, kill_at, every = json.loads(line)
        child = os.fork()
        if not child:
            print(json.dumps(train(Path(folder), law, kill_at, every)), end=" ", flush=True)
            sys.exit()
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
