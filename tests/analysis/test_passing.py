"""Where passing events lie: segments hold exactly the events asked for, and nothing that is known to be empty."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlaas4hep_tf.analysis.cutflow import counted, merged
from mlaas4hep_tf.analysis.passing import SEGMENT_ENTRIES, Passing, estimated
from mlaas4hep_tf.io.lists import IntLists
from mlaas4hep_tf.streaming.parts import WholeFiles
from mlaas4hep_tf.streaming.plan import BLOCK_ENTRIES, make_plan
from mlaas4hep_tf.streaming.ranges import RAW_ENTRIES, EntryRange, cut


@given(st.lists(st.lists(st.booleans(), max_size=6), min_size=1, max_size=12), st.data())
def test_segments_hold_just_the_events_asked_for(clusters, data):
    held = np.array([one for cluster in clusters for one in cluster], bool)
    edges = np.cumsum([0, *map(len, clusters)])
    passing = Passing(tuple(edges.tolist()), tuple(sum(cluster) for cluster in clusters))
    assert passing.entries == held.sum()
    start = data.draw(st.integers(0, passing.entries))
    stop = data.draw(st.integers(start, passing.entries))
    entries = []
    for segment in passing.segments(start, stop):
        own = segment.start + np.flatnonzero(held[segment.start : segment.stop])
        assert len(own) == segment.events > 0
        entries += own[segment.first : segment.last].tolist()
    assert entries == np.flatnonzero(held)[start:stop].tolist()


def test_empty_clusters_are_not_read_and_long_segments_stay_apart():
    size = SEGMENT_ENTRIES // 2
    passing = Passing(tuple(size * n for n in range(7)), (5, 5, 5, 0, 0, 5))
    assert [(s.start // size, s.stop // size, s.events) for s in passing.segments(0, 20)] == [
        (0, 2, 10), (2, 3, 5), (5, 6, 5),
    ]  # fmt: skip


def test_a_block_spans_no_more_than_so_many_entries_of_the_file():
    step = RAW_ENTRIES // 4
    passing = Passing(tuple(step * n for n in range(101)), (10,) * 100)
    blocks = cut(EntryRange(0, 0, 1000), passing.entry_offsets, BLOCK_ENTRIES, 2 * BLOCK_ENTRIES, passing.raw_offsets)
    assert [len(block) for block in blocks] == [40] * 25
    plan = make_plan(
        WholeFiles(np.array([1000])), IntLists.of([passing.entry_offsets]), chunk_size=100_000, batch_size=10,
        shuffle=True, seed=1, raw_offsets=IntLists.of([passing.raw_offsets]),
    )  # fmt: skip
    spans = [passing.segments(b.start, b.stop) for b in plan.in_order()]
    assert max(own[-1].stop - own[0].start for own in spans) == RAW_ENTRIES
    assert plan.entries == 1000


def test_what_could_not_be_counted_is_estimated_by_the_rest():
    assert estimated((5, -1, 15), (0, 100, 150, 200)) == [(100, 150, round(50 * 20 / 150))]
    assert estimated((5,), (0, 100)) == []


@given(st.integers(0, 3), st.integers(1, 30), st.integers(0, 2**32 - 1))
def test_the_flow_of_two_halves_is_that_of_the_whole(cuts, events, seed):
    rng = np.random.default_rng(seed)
    held = [rng.random(events) < 0.6 for _ in range(cuts)] or [np.ones(events, bool)]
    labels, weights = rng.integers(0, 2, events), rng.normal(size=events)
    whole = counted(held, labels, weights, 9)
    for label, (left, weighted) in whole.items():
        alive = labels == label
        assert left[0] == alive.sum()
        for number, one in enumerate(held, 1):
            alive = alive & one
            assert left[number] == alive.sum()
            assert weighted[number] == pytest.approx(weights[alive].sum())
    halves = [
        counted([one[part] for one in held], labels[part], weights[part], 9)
        for part in (slice(events // 2), slice(events // 2, None))
        if len(labels[part])
    ]
    both = merged(halves)
    assert both.keys() == whole.keys()
    assert all(both[label][0].tolist() == whole[label][0].tolist() for label in whole)
