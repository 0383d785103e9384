"""Opens all files, several at a time, in the reader processes, and holds them to what both passes need of them."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

from mlaas4hep_tf.errors import DataWarning, InputFileError, ReaderError, TreeError, shorten
from mlaas4hep_tf.io.branches import Selection
from mlaas4hep_tf.io.files import RootFile, Source
from mlaas4hep_tf.io.friends import Friends, befriend, sources_of
from mlaas4hep_tf.io.policy import ReadPolicy
from mlaas4hep_tf.io.workers import WorkerPool
from mlaas4hep_tf.progress import progress_bar
from mlaas4hep_tf.scanned_files import ScannedFiles
from mlaas4hep_tf.streaming.skipped import Skipped, SkippedRange, expected_entries


def inspect_source(selection: Selection, also: tuple[str, ...], source: Source) -> RootFile:
    """Runs in a reader process: one opening of a file and of its friends."""
    from mlaas4hep_tf.io.alignment import open_with_friends

    return open_with_friends(source, selection, also)


def befriended(
    sources: Sequence[Source], friends: Friends | None, identifiers: tuple[str, ...], worker_pool: WorkerPool
) -> tuple[Source, ...]:
    """Sources with their friends.

    Args:
        identifiers: branches that tell which entries belong together, where both trees have them.

    Raises:
        ConfigError, FriendError: see `befriend`.
    """
    if not friends:
        return tuple(sources)
    sources = _all_listed(sources, worker_pool)
    for name, files in friends.items():
        sources = befriend(sources, name, _all_listed(sources_of(files, sources), worker_pool), identifiers)
    return tuple(sources)


def _all_listed(sources: Sequence[Source], worker_pool: WorkerPool) -> list[Source]:
    return [source for given in sources for source in _listed(given, worker_pool)]


def inspect_files(
    sources: Sequence[Source], selection: Selection, worker_pool: WorkerPool, progress: bool = False,
    skipped: Skipped | None = None, known: Mapping[str, int] | None = None, also: tuple[str, ...] = (),
) -> tuple[RootFile, ...]:  # fmt: skip
    """Open all files, several at a time, in the order given; what servers have to list is listed first.

    Args:
        skipped: where files that cannot be opened are accounted for; None: they are errors.
        known: events of files, by URL, as the specs have them.
        also: branches to describe although they are no features: labels and weights.
    """
    sources = _all_listed(sources, worker_pool)
    tell_idle_replicas(sources, worker_pool.read.policy)
    found: list[RootFile] = []
    failed: list[SkippedRange] = []
    outcomes = worker_pool.outcomes(partial(inspect_source, selection, also), sources)
    with progress_bar("open", len(sources), "files", progress) as advance:
        for number, (source, outcome) in enumerate(zip(sources, outcomes, strict=True)):
            try:
                found.append(outcome.result())
            except (InputFileError, ReaderError) as error:
                if skipped is None:
                    raise
                failed.append(SkippedRange(source.url, number, 0, 0, str(error), opened=False, tree=source.tree))
            advance(1)
    if skipped is not None:
        counts = [(known or {}).get(file.url, file.num_entries) for file in found]
        _account_for(failed, counts, known or {}, skipped)
    if not found:
        raise InputFileError(f"none of the {len(sources)} files can be opened: {failed[0]}")
    check_distinct(found)
    check_one_tree(found)
    _tell_notes(found)
    return tuple(found)


def open_scanned(files: Sequence[RootFile], worker_pool: WorkerPool) -> tuple[RootFile, ...]:
    """The same, opened where they were not since they were scanned, for what reads all at once, with all branches."""
    if not isinstance(files, ScannedFiles):
        return tuple(files)
    return tuple(worker_pool.map(_opened, files))


def _opened(file: RootFile) -> RootFile:
    """Runs in a reader process."""
    from mlaas4hep_tf.io.opening import opened_whole

    return opened_whole(file)


def listed(sources: Sequence[Source], worker_pool: WorkerPool) -> tuple[Source, ...]:
    """The files one by one, where servers have to say which there are."""
    return tuple(_all_listed(sources, worker_pool))


def _account_for(
    failed: Sequence[SkippedRange], counts: Sequence[int], known: Mapping[str, int], skipped: Skipped
) -> None:
    """Files that could not be opened are lost whole: with the entries that the specs know, or as many as the others."""
    lost = [replace(one, stop=expected_entries(one.file, known, counts)) for one in failed]
    skipped.open_failed(lost, sum(counts))


def _listed(source: Source, worker_pool: WorkerPool) -> list[Source]:
    if not source.listing:
        return [source]
    urls = worker_pool.run(list_source, source.url)
    if not urls:
        raise InputFileError(f"{source.url} matches no file on its server; check the path")
    return [replace(source, url=url) for url in urls]


def list_source(url: str) -> list[str]:
    """Runs in a reader process: ask a server for its files."""
    from mlaas4hep_tf.io.faults import blame
    from mlaas4hep_tf.io.remote import list_files

    with blame(url):
        return list_files(url)


def check_distinct(files: Sequence[RootFile]) -> None:
    """Raise InputFileError if two names mean one file; a copy of a file is worth a warning."""
    seen: dict[object, RootFile] = {}
    for file in files:
        place = file.source.location if file.source.remote else os.path.realpath(file.source.location)
        if (place, file.tree) in seen:
            raise InputFileError(
                f"a file may be named once only, or its events would be read twice: {file.where} is named again "
                f"as {file.url!r}; take one of them out"
            )
        content = (file.uuid, file.num_entries, file.tree)
        if file.uuid.strip("0-") and content in seen:
            warnings.warn(
                f"{file.where} seems to be a copy of {seen[content].url}: same uuid", DataWarning, stacklevel=3
            )
        seen[place, file.tree] = seen[content] = file


def tell_idle_replicas(sources: Sequence[Source], policy: ReadPolicy) -> None:
    idle = [start for start in policy.replicas if not any(source.url.startswith(start) for source in sources)]
    if idle:
        warnings.warn(
            f"replicas are for URLs that begin alike, and none of the {len(sources)} files begins with "
            f"{shorten(map(repr, idle))}: correct it or take it out",
            DataWarning, stacklevel=4,
        )  # fmt: skip


def _tell_notes(files: Sequence[RootFile]) -> None:
    for note in dict.fromkeys(note for file in files for note in file.notes):
        where = [file.url for file in files if note in file.notes]
        warnings.warn(f"{note}: file {shorten(where, 3)}", DataWarning, stacklevel=4)


def check_one_tree(files: Sequence[RootFile]) -> None:
    """Raise TreeError if files that name no tree have trees of different names."""
    unnamed = [file for file in files if file.source.tree is None]
    other = next((file for file in unnamed if file.tree != unnamed[0].tree), None)
    if other is not None:
        raise TreeError(
            f"files have different trees: {unnamed[0].where} but {other.where}; name one with tree= (--tree) "
            "or as file.root:tree"
        )
