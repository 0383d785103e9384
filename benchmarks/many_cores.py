"""What the training process alone can take: readers that answer at once, with blocks that nobody has read.

    python benchmarks/many_cores.py FILE... --tree T [--chunk 2304 20000 81000] [--rounds 5]

An epoch is taken from `Stream.chunks`, so without the graph: the generator and the threads that talk to the readers.
With more cores reading gets faster and this does not, as Python runs one thread at a time: events per second of CPU are
what any number of cores can reach at most.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from statistics import median
from time import perf_counter, process_time, thread_time

import instant

from mlaas4hep_tf import RootDataset, scan
from mlaas4hep_tf.bench import environment
from mlaas4hep_tf.streaming import chunks
from mlaas4hep_tf.streaming.position import Position


def epoch(ds: RootDataset, number: int) -> dict[str, float]:
    """Seconds of an epoch: on the clock, of CPU in the generator, and in the other threads."""
    stream, plan = ds._stream, ds.plan  # noqa: SLF001 (what is measured lies below the public interface)
    clock, cpu, own = perf_counter(), process_time(), thread_time()
    for _ in stream.chunks(plan, Position(number)):
        pass
    generator = thread_time() - own
    return {"clock": perf_counter() - clock, "generator": generator, "threads": process_time() - cpu - generator}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+")
    parser.add_argument("--tree")
    parser.add_argument("--exclude", nargs="*", default=[])
    parser.add_argument("--chunk", nargs="+", type=int, default=[2_304, 20_000, 81_000])
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    # unbound, so that files are opened here: readers that answer at once open none
    specs = scan(args.files, args.tree, exclude=args.exclude, progress=False).unbound()
    chunks.read_block = instant.instant_block
    datasets = {n: RootDataset(args.files, specs, chunk_size=n, batch_size=256, keep=False) for n in args.chunk}
    times: defaultdict[int, list[dict[str, float]]] = defaultdict(list)
    for number in range(args.rounds + 1):  # the first is a warm-up
        for size, ds in datasets.items():
            times[size].append(epoch(ds, number))
    print(environment())
    print("| events a block | blocks | us an event: generator | threads | ms a block | events a second | of CPU |")
    print("|---:|---:|---:|---:|---:|---:|---:|")
    for size, ds in datasets.items():
        blocks = sum(1 for _ in ds.plan.in_order())
        clock, generator, threads = (
            median(row[name] for row in times[size][1:]) for name in ("clock", "generator", "threads")
        )
        cells = (
            f"{ds.entries // blocks:,}", f"{blocks}", f"{1e6 * generator / ds.entries:.3f}",
            f"{1e6 * threads / ds.entries:.3f}", f"{1e3 * (generator + threads) / blocks:.2f}",
            f"{ds.entries / clock:,.0f}", f"{ds.entries / (generator + threads):,.0f}",
        )  # fmt: skip
        print("| " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
