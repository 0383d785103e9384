"""Weights by cross section x luminosity / sum of weights, which make events as many as an experiment would have."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from mlaas4hep_tf.errors import LabelError, TreeError
from mlaas4hep_tf.io.files import RootFile, names_of
from mlaas4hep_tf.io.workers import WorkerPool
from mlaas4hep_tf.scanner import SCAN_ENTRIES
from mlaas4hep_tf.streaming.ranges import blocks
from mlaas4hep_tf.streaming.targets import per_file

RUNS, SUM = "Runs", "genEventSumw"  # NanoAOD: the tree and the branch that hold the sum before any skim


@dataclass(frozen=True)
class CrossSections:
    """What is expected of each process.

    Attributes:
        pb: pattern of files -> cross section of their process, in pb; the first match counts, and the files that one
            pattern matches are one sample.
        luminosity: integrated, in 1 / fb.
        sumw: pattern of files -> sum of the generator's weights of the sample, before any cut; for those without one
            it is that of NanoAOD's ``Runs``, else that of all entries of the files.
    """

    pb: Mapping[str, float]
    luminosity: float
    sumw: Mapping[str, float] | None = None

    def __post_init__(self) -> None:
        wrong = [one for one in self.pb.values() if not (math.isfinite(one) and one > 0)]
        if wrong or not self.luminosity > 0:
            raise LabelError(f"cross sections and luminosity must be positive, not {wrong or self.luminosity}")

    def scales(
        self, files: Sequence[RootFile], weights: str, worker_pool: WorkerPool
    ) -> tuple[tuple[float, ...], tuple[str, ...]]:
        """By what the weights of each file are multiplied, and for each sample where its sum of weights comes from.

        Args:
            weights: branch of the generator's weights, or empty where each event counts 1.

        Raises:
            LabelError: patterns that do not fit the files, or a sum of weights that is not positive.
        """
        names = [names_of(file.url, file.tree) for file in files]
        patterns = [*self.pb]
        sample = [int(n) for n in per_file("cross sections", {p: n for n, p in enumerate(patterns)}, names)]
        found = list(worker_pool.map(partial(_sum, weights), files)) if self._must_look(patterns) else []
        sums, told = [], []
        for number, pattern in enumerate(patterns):
            own = [found[n] for n, of in enumerate(sample) if of == number] if found else []
            given = (self.sumw or {}).get(pattern)
            total = given if given is not None else sum(one for one, _ in own)
            how = "as given" if given is not None else " and ".join(sorted({how for _, how in own}))
            if not total > 0:
                raise LabelError(f"the sum of weights of {pattern!r} ({how}) must be positive, not {total:g}")
            sums.append(total)
            told.append(f"{pattern}: {self.pb[pattern]:g} pb, sum of weights {total:.6g} {how}")
        scale = [1000 * self.luminosity * self.pb[p] / total for p, total in zip(patterns, sums, strict=True)]
        return tuple(scale[of] for of in sample), tuple(told)

    def _must_look(self, patterns: Sequence[str]) -> bool:
        unknown = sorted(set(self.sumw or ()) - set(patterns))
        if unknown:
            raise LabelError(f"sumw of {unknown[0]!r}: there is no cross section of this pattern; there are {patterns}")
        return set(patterns) != set(self.sumw or ())


def _sum(weights: str, file: RootFile) -> tuple[float, str]:
    """Runs in a reader process: the sum of weights of a file before any cut, and where it comes from."""
    from mlaas4hep_tf.io.inspection import OpenTree

    try:
        runs = OpenTree(replace(file.source, tree=RUNS))
    except TreeError:
        return _sum_of_entries(weights, file)
    try:
        if SUM in runs.tree.keys():  # noqa: SIM118 (a tree of uproot)
            return float(runs.tree[SUM].array(library="np").sum()), f"of {RUNS}"
    finally:
        runs.close()
    return _sum_of_entries(weights, file)


def _sum_of_entries(weights: str, file: RootFile) -> tuple[float, str]:
    from mlaas4hep_tf.io.opening import opened
    from mlaas4hep_tf.io.reader import read

    if not weights:
        return float(file.num_entries), "of all entries"
    total, file = 0.0, opened(file)
    for block in blocks(0, file.num_entries, file.entry_offsets, SCAN_ENTRIES):
        total += sum(
            float(part.sum(dtype="f8")) for part in read(file, block.start, block.stop, [weights]).values[weights]
        )
    return total, "of all entries"
