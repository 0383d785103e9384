"""Specs of files of which most were scanned before: only those that are new are read."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from mlaas4hep_tf.analysis.cutflow import CutFlow
from mlaas4hep_tf.errors import DataWarning, SpecsError, shorten
from mlaas4hep_tf.io.files import FileArgument, Source, expand
from mlaas4hep_tf.io.read_options import DEFAULT_READ, ReadOptions
from mlaas4hep_tf.io.workers import WorkerPool
from mlaas4hep_tf.scanned_files import sources_in
from mlaas4hep_tf.scanner import scan
from mlaas4hep_tf.specs import FOUND, BranchSpec, Specs, TargetSpec
from mlaas4hep_tf.statistics import BranchStats, TargetStats
from mlaas4hep_tf.streaming.open_files import listed


def update(
    specs: Specs, files: FileArgument, tree: str | None = None, *, read: ReadOptions = DEFAULT_READ, **options: Any
) -> Specs:
    """The specs of all these files, of which those that were scanned and have not changed are not read again.

    What a file that changed or is gone gave to the statistics cannot be taken out of them, so then all is read again,
    which a warning says.  The same holds for specs with distributions or kinds, which are of all events at once.

    Args:
        specs: those of before, bound to their files.
        files, tree, read: as for `scan`.
        options: the other arguments of `scan`, as they were then.

    Raises:
        SpecsError: options other than then.
        MlaasError: as `scan`.
    """
    pool = WorkerPool(read)
    sources = listed(expand(files, tree or specs.tree), pool)
    known = {(source.location, source.tree): n for n, source in enumerate(sources_in(specs.files))}
    at = [known.get((source.location, source.tree)) for source in sources]
    why = _why_all(specs, sources, at, pool)
    if why:
        warnings.warn(f"all files are read again: {why}", DataWarning, stacklevel=2)
        return scan(files, tree, read=read, **options)
    new = [source for source, number in zip(sources, at, strict=True) if number is None]
    if not new:
        return specs
    found = scan([_named(source) for source in new], tree or specs.tree, read=read, **options)
    return _merged(specs, found)


def _why_all(specs: Specs, sources: Sequence[Source], at: Sequence[int | None], pool: WorkerPool) -> str:
    """Why new files alone will not do; nothing if they will."""
    if not specs.bound or not len(specs.files):
        return "these specs do not know their files"
    if specs.kinds or any(branch.distribution for branch in specs.branches):
        return "distributions and kinds are of all events at once"
    gone = {*range(len(specs.files))} - {*at}
    if gone:
        return f"{shorten((specs.files[n].url for n in sorted(gone)), 3)} is not among them any more"
    old = [(source, n) for source, n in zip(sources, at, strict=True) if n is not None]
    stamps = pool.map(_stamp, [source for source, _ in old])
    sizes, texts = specs.files.numbers("size"), specs.files.texts("stamp")
    changed = [
        source.url for (source, n), now in zip(old, stamps, strict=True) if now != (int(sizes[n]), texts[n])
    ]  # fmt: skip
    return f"{shorten(changed, 3)} changed since it was scanned" if changed else ""


def _stamp(source: Source) -> tuple[int, str]:
    """Runs in a reader process: size, and what else tells that a file was replaced."""
    from mlaas4hep_tf.io.files import stamp_text
    from mlaas4hep_tf.io.stamps import file_stamp

    size, what = file_stamp(source)
    return size, stamp_text(what)


def _named(source: Source) -> Any:
    return {source.dataset: {"files": {source.url: source.tree}}} if source.dataset else source.url


def _merged(one: Specs, other: Specs) -> Specs:
    """The specs of the files of both."""
    differing = [what for what in ("tree", "selection", "analysis") if getattr(one, what) != getattr(other, what)]
    schemas = [[(b.name, b.kind, b.dtype, b.group) for b in specs.branches] for specs in (one, other)]
    if differing or schemas[0] != schemas[1] or [t.name for t in one.targets] != [t.name for t in other.targets]:
        raise SpecsError(
            f"specs are updated with the options that they were made with: {', '.join(differing) or 'the branches'} "
            "differ in the new files; give the same ones, or scan all files anew"
        )
    integers = {i.name for i in (*one.inputs, *other.inputs) if i.integer}
    flows = [specs.cutflow for specs in (one, other) if specs.cutflow is not None]
    return replace(
        one,
        branches=tuple(_branch(a, b) for a, b in zip(one.branches, other.branches, strict=True)),
        targets=tuple(_target(a, b) for a, b in zip(one.targets, other.targets, strict=True)),
        files=one.files.joined(other.files),
        inputs=tuple(replace(i, integer=i.name in integers) for i in one.inputs),
        cutflow=CutFlow(flows[0].cuts, tuple(row for flow in flows for row in flow.rows)) if flows else None,
        identified=None if None in (one.identified, other.identified) else one.identified and other.identified,
    )


def _branch(one: BranchSpec, other: BranchSpec) -> BranchSpec:
    total = _statistics(one).merge(_statistics(other))
    known = total.finite > 0
    return replace(
        one, length=max(one.length, other.length), multiplicities=tuple(total.multiplicities.tolist()),
        values=total.values, nan=total.nan, posinf=total.posinf, neginf=total.neginf,
        min=total.min if known else None, max=total.max if known else None,
        mean=total.mean if known else None, variance=total.m2 / total.finite if known else None,
    )  # fmt: skip


def _statistics(spec: BranchSpec) -> BranchStats:
    finite = spec.values - spec.nan - spec.posinf - spec.neginf
    low, high = (np.inf, -np.inf) if spec.min is None or spec.max is None else (spec.min, spec.max)
    return BranchStats(
        spec.values, spec.nan, spec.posinf, spec.neginf, low, high, spec.mean or 0.0, (spec.variance or 0.0) * finite,
        np.array(spec.multiplicities, np.int64),
    )  # fmt: skip


def _target(one: TargetSpec, other: TargetSpec) -> TargetSpec:
    total = _of_target(one).merge(_of_target(other))
    known, finite = total.not_finite < total.values, total.values - total.not_finite
    return replace(
        one, values=total.values, not_finite=total.not_finite,
        min=total.min if known else None, max=total.max if known else None,
        found=tuple(sorted((total.found or {}).items())),
        mean=total.mean if known else None, variance=total.m2 / finite if known else None,
    )  # fmt: skip


def _of_target(spec: TargetSpec) -> TargetStats:
    finite = spec.values - spec.not_finite
    low, high = (np.inf, -np.inf) if spec.min is None or spec.max is None else (spec.min, spec.max)
    few = bool(spec.found) or not finite
    found = Counter(dict(spec.found)) if few and len(spec.found) <= FOUND else None
    return TargetStats(
        spec.values, spec.not_finite, low, high, found, spec.mean or 0.0, (spec.variance or 0.0) * finite
    )  # fmt: skip
