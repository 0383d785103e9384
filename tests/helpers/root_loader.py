"""ROOT's RDataLoader on a file with branches `id` (1, 2 ...) and `x`: which ids it delivers in each case, as JSON."""

import json
import sys
from typing import Any

import ROOT  # type: ignore[import-not-found]  # of the Python that runs this


def epochs(loader: Any, number: int) -> list[list[int]]:
    return [[int(i) for batch in loader.as_numpy() for i in batch[:, 0]] for _ in range(number)]


def main(path: str) -> None:
    def loader(cut: str) -> Any:
        frame = ROOT.RDataFrame("events", path)
        return ROOT.Experimental.ML.RDataLoader(
            frame.Filter(cut) if cut else frame,
            batch_size=64,
            columns=["id", "x"],
            drop_remainder=False,
            set_seed=1,
        )

    found = {"plain": epochs(loader(""), 2), "filter": epochs(loader("x > 0"), 2)}
    train, valid = loader("x > 0").train_test_split(test_size=0.2)
    found["train"], found["valid"] = epochs(train, 2), epochs(valid, 2)
    print(json.dumps(found))


main(sys.argv[1])
