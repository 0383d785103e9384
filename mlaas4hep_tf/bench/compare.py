"""`bench`: our stream against what a user would pick instead, on the user's own files, in one run."""

from __future__ import annotations

import os
import platform
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from statistics import median
from time import perf_counter
from typing import Any

import psutil

from mlaas4hep_tf.bench.peers import peer_ways
from mlaas4hep_tf.io.files import FileArgument, RootFile
from mlaas4hep_tf.io.page_index import PageIndex
from mlaas4hep_tf.io.policy import ReadPolicy
from mlaas4hep_tf.io.read_options import DEFAULT_READ, ReadOptions
from mlaas4hep_tf.io.workers import WorkerPool, default_workers
from mlaas4hep_tf.scanner import scan
from mlaas4hep_tf.specs import Specs
from mlaas4hep_tf.streaming.open_files import open_scanned
from mlaas4hep_tf.streaming.ranges import EntryRange, blocks

SLICE = 2_000  # events on which the paper's algorithm is timed: it is that slow
LIMIT_ENTRIES = 16_384
LARGE, SMALL = 1024, 100  # sizes of batches that are compared; the names below have them
ROUNDS = 3
EPOCHS = 3  # of ours in each round
FOREIGN = 0.08  # of a core that other processes may use in a round that counts
TRIES = 3  # until a round counts all the same
A_DAY_S = 86_400.0
RATIOS = (
    ("scan", "uproot_iterate"), ("scan", "paper_scan"), ("dataset_1024", "uproot_iterate"),
    ("dataset_1024", "user_pipeline"), ("dataset_1024", "paper_chunk"), ("dataset_1024", "decompress_limit"),
    ("dataset_100", "dataset_1024"), ("memory_1024", "dataset_1024"), ("fit_1024", "memory_1024"),
    ("fit_1024", "fit_memory_1024"), ("dataset_1024", "root_tensorflow"), ("dataset_1024", "root_numpy"),
    ("memory_1024", "root_eager"), ("dataset_1024", "weaver"), ("dataset_1024", "f9columnar_padded"),
    ("dataset_1024", "f9columnar_packed"),
)  # fmt: skip


@dataclass(frozen=True)
class Bench:
    """Outcome of `run_bench`.

    Attributes:
        rates: name -> events per second in each round.
        foreign: name -> cores that other processes used in each round.
        bytes_per_event: compressed size of what is read.
        peak_rss_mb: peak memory of the process tree while our dataset was read.
    """

    rates: Mapping[str, Sequence[float]]
    foreign: Mapping[str, Sequence[float]]
    bytes_per_event: float
    peak_rss_mb: float

    def rate(self, name: str) -> float:
        return median(self.rates[name])

    @property
    def disturbed(self) -> int:
        """Rounds of any way in which others used more than `FOREIGN` of a core, however often they were repeated."""
        return sum(cores > FOREIGN for rounds in self.foreign.values() for cores in rounds)

    def to_json(self) -> dict[str, Any]:
        ratios = {f"{a}/{b}": self.rate(a) / self.rate(b) for a, b in RATIOS if a in self.rates and b in self.rates}
        spread = {name: [min(rounds), max(rounds)] for name, rounds in self.rates.items()}
        whole = {"peak_rss_mb": self.peak_rss_mb, "ratios": ratios, "spread": spread, "disturbed": self.disturbed}
        return {name: self.rate(name) for name in self.rates} | whole


def run_bench(
    files: FileArgument, tree: str | None = None, *, exclude: Sequence[str] = (), rounds: int = ROUNDS,
    tell: Callable[[str], None] = lambda _: None, read: ReadOptions = DEFAULT_READ,
) -> Bench:  # fmt: skip
    """Time every way in turn, `rounds` times after a warm-up, each second time from the last way to the first.

    A round in which other processes use more than `FOREIGN` of a core is repeated, up to `TRIES` times.

    - ``paper_scan``, ``paper_chunk``: the paper's algorithm on a slice of one file, for each of its passes;
    - ``uproot_iterate``: `uproot.iterate` of the same branches in one process;
    - ``user_pipeline``: `uproot.iterate`, `ak.pad_none`, NumPy and `from_generator` to batches of 1024;
    - ``decompress_limit``: fetching and decompressing the same baskets and nothing else, on all cores;
    - ``scan``, ``dataset_1024``, ``dataset_100``: ours, the latter for `EPOCHS` epochs, each read from the files;
    - ``memory_1024``: the same with what is kept in memory;
    - ``root_tensorflow``, ``root_numpy``, ``root_eager``: ROOT's RDataLoader; ``weaver``, ``f9columnar_padded``,
      ``f9columnar_packed``: the loaders of weaver-core and F9Columnar; each where ``make peers`` installed it, in its
      own process and environment;
    - ``fit_1024``, ``fit_memory_1024``: the paper's network trained from the files and from memory.

    Every dataset and process pool is made before the clock starts; opening files counts for `scan` and
    `uproot_iterate`.  ``user_pipeline`` is left out for remote files: XRootD and TensorFlow cannot share a process.
    """
    scan_all = partial(scan, files, tree, exclude=exclude, progress=False, read=read)
    specs = scan_all()
    from mlaas4hep_tf.dataset import RootDataset  # TensorFlow, and only now: scan needs none

    labels = [number % 2 for number in range(len(specs.files))]
    make = partial(RootDataset, files, specs, labels=labels, read=read)
    datasets = {size: make(batch_size=size, keep=False) for size in (LARGE, SMALL)}
    kept = make(batch_size=LARGE)
    opened = open_scanned(datasets[LARGE].files, WorkerPool(read))
    ways: dict[str, Callable[[], float]] = {
        **_plain_ways(opened, specs, WorkerPool(read)),
        **peer_ways(opened, specs, LARGE, EPOCHS),
        "scan": lambda: _timed(lambda: scan_all().entries),
        "dataset_1024": lambda: _timed(lambda: _drain(datasets[LARGE], EPOCHS)),
        "dataset_100": lambda: _timed(lambda: _drain(datasets[SMALL], EPOCHS)),
        "memory_1024": lambda: _timed(lambda: _drain(kept, EPOCHS)),
        "fit_1024": _fit_way(datasets[LARGE], specs),
        "fit_memory_1024": _fit_way(kept, specs),
    }
    rates, foreign = _in_turn(ways, rounds, tell)
    tell("dataset_1024, once more for its memory")  # not while the clock runs: looking takes time
    with PeakMemory() as memory:
        _drain(datasets[LARGE], 1)
    size = sum(f.index.nbytes for f in opened) / specs.entries
    return Bench(rates, foreign, size, memory.peak / 1e6)


def _in_turn(
    ways: Mapping[str, Callable[[], float]], rounds: int, tell: Callable[[str], None]
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Events per second of each way in each round, and cores that others used; the warm-up does not count."""
    rates: dict[str, list[float]] = {name: [] for name in ways}
    foreign: dict[str, list[float]] = {name: [] for name in ways}
    for name, way in ways.items():
        tell(f"{name}, warm-up")
        way()
    for number in range(1, rounds + 1):
        for name in list(ways)[:: 1 if number % 2 else -1]:
            tell(f"{name}, round {number}")
            cores, rate = _undisturbed(ways[name])
            rates[name].append(rate)
            foreign[name].append(cores)
    return rates, foreign


def _undisturbed(way: Callable[[], float]) -> tuple[float, float]:
    """Cores that others used, and events per second, in the first try where that is little, or else the least."""
    tries = []
    for _ in range(TRIES):
        clock, before = perf_counter(), _foreign_cpu()
        rate = way()
        tries.append((max(0.0, _foreign_cpu() - before) / (perf_counter() - clock), rate))
        if tries[-1][0] <= FOREIGN:
            break
    return min(tries)


def _foreign_cpu() -> float:
    """CPU seconds so far of all processes but this one and those that it started."""
    now = psutil.cpu_times()
    busy = float(sum(now) - now.idle - getattr(now, "iowait", 0.0) - getattr(now, "guest", 0.0))
    own = psutil.Process(os.getpid())
    return busy - sum(_cpu(process) for process in (own, *own.children(recursive=True)))


def _cpu(process: psutil.Process) -> float:
    try:
        return float(sum(process.cpu_times()[:2]))
    except psutil.NoSuchProcess:  # it ended since it was listed
        return 0.0


def environment() -> str:
    """Hardware and versions, for whoever reads the figures."""
    packages = ", ".join(f"{p} {version(p)}" for p in ("mlaas4hep_tf", "tensorflow", "uproot", "awkward", "numpy"))
    return f"{default_workers()} cores, {platform.machine()}, Python {platform.python_version()}, {packages}"


def _timed(work: Callable[[], int]) -> float:
    start = perf_counter()
    events = work()
    return events / (perf_counter() - start)


def _drain(ds: Any, epochs: int) -> int:
    return sum(int(element[-1].shape[0]) for _ in range(epochs) for element in ds)


def _plain_ways(files: Sequence[RootFile], specs: Specs, worker_pool: WorkerPool) -> dict[str, Callable[[], float]]:
    names = [b.name for b in specs.branches]
    paths = [f"{f.source.location}:{f.tree}" for f in files]
    alone = WorkerPool(ReadOptions(workers=1, policy=ReadPolicy(work_timeout_s=A_DAY_S)))  # for a whole pass at a time
    ways: dict[str, Callable[[], float]] = {}
    largest = max(files, key=lambda f: f.num_entries)
    for part in ("paper_scan", "paper_chunk"):
        ways[part] = partial(alone.run, time_paper, part, largest.source.location, largest.tree, names)
    ways["uproot_iterate"] = partial(alone.run, time_iterate, paths, names)
    if not any(f.source.remote for f in files):
        ways["user_pipeline"] = _user_way(paths, specs)
    ways["decompress_limit"] = lambda: _timed(lambda: decompress_all(files, names, worker_pool))
    return ways


def time_paper(part: str, url: str, tree: str, names: list[str]) -> float:
    """Runs in a reader process: events per second of the paper's pass 1 or 2, reading included."""
    from mlaas4hep_tf.bench import paper

    start = perf_counter()
    arrays = paper.events_of(url, tree, names, SLICE)
    events = len(next(iter(arrays.values())))
    specs = paper.make_specs(arrays)
    if part == "paper_chunk":
        start = perf_counter()
        paper.make_chunk(paper.events_of(url, tree, names, SLICE), specs, events)
    return events / (perf_counter() - start)


def time_iterate(paths: list[str], names: list[str]) -> float:
    """Runs in a reader process: events per second of `uproot.iterate`."""
    from mlaas4hep_tf.bench import user

    return _timed(lambda: user.iterate(paths, names, LIMIT_ENTRIES))


def _user_way(paths: Sequence[str], specs: Specs) -> Callable[[], float]:
    from mlaas4hep_tf.bench import user
    from mlaas4hep_tf.transforms.normalize import constants

    lengths = {b.name: 0 if b.kind == "flat" else b.length for b in specs.branches}
    offset, scale = constants(specs, "minmax")
    ds = user.dataset(paths, lengths, offset, scale, LARGE, LIMIT_ENTRIES, width=len(specs.vector_names))
    return lambda: _timed(lambda: sum(int(x.shape[0]) for x in ds))


def decompress_all(files: Sequence[RootFile], names: Sequence[str], worker_pool: WorkerPool) -> int:
    """Fetch and decompress the baskets of some branches, on all cores: the events done."""
    tasks = [b for n, f in enumerate(files) for b in blocks(n, f.num_entries, f.entry_offsets, LIMIT_ENTRIES)]
    parts = [(files[b.file].part(names, b.start, b.stop), b) for b in tasks]
    return sum(worker_pool.map(decompress_block, parts))


def decompress_block(task: tuple[RootFile, EntryRange]) -> int:
    """Runs in a reader process: fetch and decompress the baskets of a block, and nothing else."""
    from mlaas4hep_tf.io.baskets import raw_baskets, unpack
    from mlaas4hep_tf.io.pages import decompress_all
    from mlaas4hep_tf.io.reader import fetch

    file, block = task
    index = file.index
    if isinstance(index, PageIndex):
        decompress_all(partial(fetch, file), index)
        return len(block)
    raw = raw_baskets(partial(fetch, file), index)
    for basket, entries in zip(raw, (index.stops - index.starts).tolist(), strict=True):
        unpack(basket, entries)
    return len(block)


def _fit_way(ds: Any, specs: Specs) -> Callable[[], float]:
    from mlaas4hep_tf.models import build

    model = build("mlp", specs)

    def train() -> int:
        model.fit(ds, epochs=EPOCHS, verbose=0, shuffle=False)
        return EPOCHS * int(ds.entries)

    return lambda: _timed(train)


class PeakMemory:
    """Samples the memory of this process and its children, 20 times a second.

    Attributes:
        peak: largest sum of their resident memory so far, in bytes; pages that they share count for each.
    """

    def __init__(self) -> None:
        self.peak = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _sample(self) -> None:
        own = psutil.Process(os.getpid())
        while not self._stop.wait(0.05):
            self.peak = max(self.peak, sum(_rss(p) for p in (own, *own.children(recursive=True))))


def _rss(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.NoSuchProcess:  # it ended since it was listed
        return 0
