"""The laws of the plan: exactly once, in proportion, disjoint, the same for the same seed."""

import math
from collections import Counter
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlaas4hep_tf.errors import PlanError
from mlaas4hep_tf.io.lists import IntLists
from mlaas4hep_tf.streaming.parts import WholeFiles, part_of, split_sizes
from mlaas4hep_tf.streaming.plan import MIXED_FILES, OPEN_CLUSTERS, apportion, make_plan
from mlaas4hep_tf.streaming.ranges import EntryRange, cut

SIZES = st.lists(st.integers(0, 200), min_size=1, max_size=40).filter(any)


def entries_of(ranges):
    return Counter((r.file, e) for r in ranges for e in range(r.start, r.stop))


def whole(sizes):
    return WholeFiles(np.array(sizes, np.int64))


def ranges_of(parts):
    return [list(parts.ranges(n)) for n in range(len(parts.events))]


def offsets_of(sizes, cluster):
    return IntLists.of((*range(0, size, cluster), size) for size in sizes)


def quotas_of(plan):
    return np.array([*plan.chunk_quotas()])


def partition(sizes, cluster, wanted, seed):
    return [part_of(whole(sizes), offsets_of(sizes, cluster), wanted, seed, n) for n in range(len(wanted))]


@given(SIZES, st.integers(1, 300))
def test_every_prefix_is_within_one_event_of_the_ideal_mix(sizes, chunk):
    total = sum(sizes)
    ends = [*range(chunk, total, chunk), total]
    steps = np.array([*apportion(sizes, ends)])
    given_so_far = steps.cumsum(axis=0)
    ideal = np.outer(ends, sizes) / total
    assert (steps >= 0).all()
    assert given_so_far.sum(axis=1).tolist() == ends
    assert given_so_far[-1].tolist() == sizes
    assert (abs(given_so_far - ideal) < 1).all()


@given(SIZES, st.integers(1, 60), st.integers(1, 20), st.integers(0, 3))
def test_the_order_of_an_epoch_is_what_its_chunks_give(sizes, chunk, batch, epoch):
    plan = make_plan(
        whole(sizes), offsets_of(sizes, 17), chunk_size=chunk, batch_size=batch, shuffle=True, seed=5
    )  # fmt: skip
    first = np.cumsum([0, *sizes]).tolist()
    queues = [
        [first[b.file] + e for b in plan.blocks(group, epoch) for e in range(b.start, b.stop)]
        for group in range(len(plan.file_groups))
    ]
    expected: list[int] = []
    for number, quotas in enumerate(plan.chunk_quotas()):
        mixed = [queue.pop(0) for queue, quota in zip(queues, quotas, strict=True) for _ in range(quota)]
        expected += [mixed[row] for row in plan.rows(epoch, number, len(mixed))]
    assert plan.order(epoch).tolist() == expected
    assert sorted(expected) == list(range(sum(sizes)))


def test_counts_beyond_64_bit_products_stay_exact():
    sizes = [3 * 10**9, 5 * 10**9, 7]
    steps = np.array([*apportion(sizes, [10**9, sum(sizes)])])
    assert steps.sum(axis=0).tolist() == sizes
    assert steps[0].sum() == 10**9


@given(st.integers(0, 500), st.integers(1, 90), st.integers(1, 120))
def test_cutting_loses_nothing_and_follows_clusters(entries, cluster, size):
    entry_offsets = (*range(0, entries, cluster), entries)
    pieces = cut(EntryRange(0, 0, entries), entry_offsets, size)
    assert [p.start for p in pieces[1:]] == [p.stop for p in pieces[:-1]]
    assert sum(map(len, pieces)) == entries
    assert all(pieces)
    if cluster <= 2 * size:
        assert {p.start for p in pieces} <= set(entry_offsets)
    assert all(len(p) <= max(2 * size, size + cluster) for p in pieces)


def test_no_cluster_is_read_twice_however_small_the_share_of_a_file_group():
    plan = make_plan(
        whole([9000] * 64), offsets_of([9000] * 64, 1000), chunk_size=20_000, batch_size=100, shuffle=True, seed=0
    )
    assert {(r.start % 1000, r.stop % 1000) for r in plan.in_order()} == {(0, 0)}


@given(SIZES, st.integers(1, 60), st.integers(1, 120), st.integers(1, 50), st.booleans(), st.integers(0, 3))
def test_every_event_once_per_epoch(sizes, cluster, chunk, batch, shuffle, epoch):
    plan = make_plan(
        whole(sizes), offsets_of(sizes, cluster), chunk_size=chunk, batch_size=batch, shuffle=shuffle, seed=1
    )
    read = [block for file_group in range(len(plan.file_groups)) for block in plan.blocks(file_group, epoch)]
    assert entries_of(read) == entries_of(r for ranges in ranges_of(whole(sizes)) for r in ranges)
    assert quotas_of(plan).sum(axis=0).tolist() == list(plan.file_group_entries)
    assert plan.chunk_size % batch == 0
    assert plan.batches == -(-sum(sizes) // batch)


@given(SIZES, st.integers(1, 60), st.integers(0, 5), st.data())
def test_splits_are_disjoint_and_complete(sizes, cluster, seed, data):
    total = sum(sizes)
    parts = data.draw(st.integers(1, min(total, 5)))
    cuts = sorted(data.draw(st.lists(st.integers(0, total), min_size=parts - 1, max_size=parts - 1)))
    wanted = np.diff([0, *cuts, total]).tolist()
    datasets = partition(sizes, cluster, wanted, seed)
    together = Counter()
    for part, size in zip(datasets, wanted, strict=True):
        own = entries_of(r for ranges in ranges_of(part) for r in ranges)
        assert sum(own.values()) == size
        together += own
        for number, ranges in enumerate(ranges_of(part)):
            assert sum(map(len, ranges)) == part.events[number]
            assert abs(part.events[number] - sizes[number] * size / total) < max(math.ceil(math.log2(parts)), 1)
    assert together == entries_of(r for ranges in ranges_of(whole(sizes)) for r in ranges)


@given(SIZES, st.integers(1, 8))
def test_shards_are_equal_to_within_one_event(sizes, shards):
    total = sum(sizes)
    wanted = [total * (i + 1) // shards - total * i // shards for i in range(shards)]
    datasets = partition(sizes, 50, wanted, 0)
    have = [sum(len(r) for ranges in ranges_of(part) for r in ranges) for part in datasets]
    assert max(have) - min(have) <= 1
    assert sum(have) == total


@given(st.integers(4, 10_000))
def test_split_sizes_sum_to_the_whole_and_are_within_one_event_of_the_fractions(entries):
    fractions = (0.64, 0.16, 0.20)
    sizes = split_sizes(entries, fractions)
    assert sum(sizes) == entries
    assert all(abs(size - fraction * entries) < 1 for size, fraction in zip(sizes, (*fractions, 0), strict=True))


def test_an_incomplete_split_leaves_the_rest_out():
    assert split_sizes(100, (0.5, 0.2)) == [50, 20, 30]


@pytest.mark.parametrize(
    ("entries", "fractions", "says"),
    [
        (100, (0.5, 0.6), "sum to at most 1"),
        (100, (0.5, -0.1), "must be positive"),
        (100, (), "must be positive"),
        (2, (0.64, 0.16, 0.20), "leaves a part without an event"),
    ],
)
def test_splits_that_make_no_sense(entries, fractions, says):
    with pytest.raises(PlanError, match=says):
        split_sizes(entries, fractions)


@pytest.mark.parametrize(("chunk", "batch", "says"), [(0, 1, "chunk_size"), (10, 0, "batch_size")])
def test_sizes_that_make_no_sense(chunk, batch, says):
    with pytest.raises(PlanError, match=says):
        make_plan(whole([5]), offsets_of([5], 5), chunk_size=chunk, batch_size=batch, shuffle=True, seed=0)


def test_no_event_at_all_is_an_error():
    with pytest.raises(PlanError, match="no event to read"):
        make_plan(whole([0, 0]), offsets_of([0, 0], 5), chunk_size=10, batch_size=5, shuffle=True, seed=0)


def test_order_depends_on_seed_and_epoch_only():
    def order(seed, epoch):
        plan = make_plan(
            whole([100_000]), offsets_of([100_000], 1000), chunk_size=1000, batch_size=10, shuffle=True, seed=seed
        )
        return [*plan.blocks(0, epoch)]

    assert order(1, 0) == order(1, 0)
    assert order(1, 0) != order(1, 1)
    assert order(1, 0) != order(2, 0)


def test_any_number_of_files_is_planned_without_a_block_of_them():
    files, entries = 1_000_000, 1_000_000
    sizes = np.full(files, entries, np.int64)
    offsets = IntLists(np.tile([0, entries // 2, entries], files), np.arange(3, 3 * files + 1, 3))
    part = part_of(WholeFiles(sizes), offsets, [7 * 10**11, 3 * 10**11], 0, 1)
    assert part.events.sum() == 3 * 10**11
    assert abs(part.events - 300_000).max() <= 1
    plan = make_plan(part, offsets, chunk_size=100_000, batch_size=1000, shuffle=True, seed=0)
    firsts = [next(plan.blocks(group, 0)) for group in range(64)]
    assert all(block.file in plan.file_groups[group] for group, block in enumerate(firsts))
    assert sum(next(plan.chunk_quotas())) == 100_000
    assert plan.batches == 300_000_000


def test_files_of_a_group_have_their_blocks_shuffled_some_at_a_time():
    files = 64 * 3 * MIXED_FILES
    plan = make_plan(
        whole([1000] * files), offsets_of([1000] * files, 100), chunk_size=100, batch_size=10, shuffle=True, seed=0
    )
    read = [block.file for block in plan.blocks(5, 1)]
    each = MIXED_FILES * 5  # of 200 entries or more
    windows = [Counter(read[at : at + each]) for at in range(0, len(read), each)]
    assert [len(own) for own in windows] == [MIXED_FILES] * 3
    assert sorted(file for own in windows for file in own) == plan.file_groups[5].tolist()


def test_many_files_share_a_group():
    plan = make_plan(
        whole([10] * 1500), offsets_of([10] * 1500, 10), chunk_size=1000, batch_size=10, shuffle=True, seed=0
    )
    assert len(plan.file_groups) == 64
    assert plan.entries == 15_000


SHARES = st.lists(
    st.tuples(st.integers(1, 200), st.floats(0.2, 5)), min_size=1, max_size=12
)  # events of each file, and its share


def shared_plan(files, *, chunk, cluster=20, batch=10):
    sizes, shares = zip(*files, strict=True)
    return make_plan(
        whole(sizes),
        offsets_of(sizes, cluster),
        chunk_size=chunk,
        batch_size=batch,
        shuffle=True,
        seed=1,
        shares=shares,
    )


def possible(files):
    """Whether every file's share of an epoch is an event or more."""
    total, weight = sum(n for n, _ in files), sum(w for _, w in files)
    return all(w / weight * total > 1 for _, w in files)


@given(SHARES.filter(possible), st.integers(1, 120), st.integers(1, 60), st.integers(1, 6))
def test_any_law_gives_each_event_its_turn(files, chunk, cluster, epochs):
    """In any number of epochs an event of a file comes floor or ceil of (given / events of the file) times."""
    plan = shared_plan(files, chunk=chunk, cluster=cluster)
    counts = [Counter({(file_group, e): 0 for e in range(n)}) for file_group, (n, _) in enumerate(files)]
    for epoch in range(epochs):
        for file_group, count in enumerate(counts):
            read = [*plan.blocks(file_group, epoch)]
            assert sum(map(len, read)) == plan.quotas[file_group]
            count.update(entries_of(read))
    for (n, _), count, quota in zip(files, counts, plan.quotas, strict=True):
        assert len(count) == n
        assert set(count.values()) <= {quota * epochs // n, -(-quota * epochs // n)}


@given(SHARES.filter(possible), st.integers(1, 120))
def test_every_prefix_of_an_epoch_has_the_composition_of_the_law(files, chunk):
    plan = shared_plan(files, chunk=chunk)
    total, weight = sum(n for n, _ in files), sum(w for _, w in files)
    ends = quotas_of(plan).sum(axis=1).cumsum()
    assert ends[-1] == plan.entries == total
    assert all(abs(q - w / weight * total) < 1 for q, (_, w) in zip(plan.quotas, files, strict=True))
    ideal = np.outer(ends, [w for _, w in files]) / weight
    assert (abs(quotas_of(plan).cumsum(axis=0) - ideal) < 2).all()  # one event of the chunk, one of the epoch
    assert plan.file_entries == dict(enumerate(plan.quotas))


@given(SIZES, st.integers(1, 60), st.integers(0, 3))
def test_shares_in_proportion_are_the_proportional_law(sizes, cluster, epoch):
    options: dict[str, Any] = {"chunk_size": 50, "batch_size": 5, "shuffle": True, "seed": 3}
    file_groups = [n or 1 for n in sizes]  # a share must be positive; a file without events has none
    one, two = (make_plan(whole(sizes), offsets_of(sizes, cluster), **options, shares=s) for s in (None, file_groups))
    assert [[*one.blocks(n, epoch)] for n in range(len(one.file_groups))] == [
        [*two.blocks(n, epoch)] for n in range(len(two.file_groups))
    ]
    assert (quotas_of(one) == quotas_of(two)).all()


@pytest.mark.parametrize(
    ("sizes", "shares", "shuffle", "says"),
    [
        ([5, 5], [1, 1], False, "needs shuffle=True"),
        ([5, 5], [1, 0], True, "must be positive numbers, not 0"),
        ([5, 5], [1, float("inf")], True, "must be positive numbers"),
        ([5, 5], [1, 1000], True, "leaves a file without an event"),
        ([5] * 65, [1] * 65, True, "at most 64; there are 65 files"),
    ],
)
def test_laws_that_make_no_sense(sizes, shares, shuffle, says):
    with pytest.raises(PlanError, match=says):
        make_plan(
            whole(sizes), offsets_of(sizes, 5), chunk_size=10, batch_size=5, shuffle=shuffle, seed=0, shares=shares
        )


def test_blocks_of_large_clusters_are_read_a_few_clusters_at_a_time():
    entries, cluster = 4_000_000, 200_000
    plan = make_plan(
        whole([entries]), offsets_of([entries], cluster), chunk_size=100_000, batch_size=100,
        shuffle=True, seed=1,
    )  # fmt: skip
    for epoch in range(3):
        blocks = [*plan.blocks(0, epoch)]
        assert sorted((b.start, b.stop) for b in blocks) == [(b.start, b.stop) for b in plan.in_order()]
        last = {block.start // cluster: at for at, block in enumerate(blocks)}
        first = {block.start // cluster: at for at, block in reversed(list(enumerate(blocks)))}
        open_at = [sum(first[c] <= at <= last[c] for c in first) for at in range(len(blocks))]
        assert max(open_at) == OPEN_CLUSTERS
        neighbours = sum(b.start == a.stop for a, b in pairwise(blocks))
        assert neighbours < len(blocks) / 10
