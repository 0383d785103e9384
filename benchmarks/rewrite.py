"""Write the trees of ROOT files anew with other baskets and another compression, to measure what these cost.

python benchmarks/rewrite.py DATA/*.root --tree events --basket 20000 --compression lz4 --out DIR
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import awkward as ak
import uproot

from mlaas4hep_tf.io.branches import Selection
from mlaas4hep_tf.io.files import expand
from mlaas4hep_tf.io.inspection import inspect
from mlaas4hep_tf.testing import COMPRESSIONS, write_tree


def branches_of(path: str, tree: str) -> dict[str, Any]:
    """All numeric branches; those of one counter together as records, so that they share it again."""
    (source,) = expand(path, tree)
    infos = [info for info in inspect(source, Selection((), (), ())).branches if info.kind != "other"]
    with uproot.open(path) as file:
        arrays = file[tree].arrays([info.name for info in infos])
    groups: dict[str, dict[str, Any]] = {}
    for info in infos:
        if info.counter:
            prefix = info.counter.removeprefix("n")
            groups.setdefault(prefix, {})[info.name.removeprefix(prefix + "_")] = arrays[info.name]
    counters = {info.counter for info in infos if info.counter}
    plain = {info.name: arrays[info.name] for info in infos if not info.counter and info.name not in counters}
    return plain | {prefix: ak.zip(members) for prefix, members in groups.items()}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+")
    parser.add_argument("--tree", required=True)
    parser.add_argument("--basket", type=int, required=True, help="entries per basket")
    parser.add_argument("--compression", choices=sorted(COMPRESSIONS), default="zlib")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args(arguments)
    args.out.mkdir(parents=True, exist_ok=True)
    for path in args.files:
        events = branches_of(path, args.tree)
        write_tree(args.out / Path(path).name, events, tree=args.tree, basket=args.basket,
                   compression=args.compression)  # fmt: skip
        print(args.out / Path(path).name)


if __name__ == "__main__":
    main()
