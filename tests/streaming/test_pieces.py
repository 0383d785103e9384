"""Packed events keep what each event has, however they are divided and put together again."""

import numpy as np
from helpers.packed import expected, packed, unpacked
from hypothesis import given
from hypothesis import strategies as st

from mlaas4hep_tf.streaming.pieces import cut, divided, join, objects_of

inner = st.integers(2, 40).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n - 1)))


@given(inner)
def test_both_parts_have_their_events(place):
    n, at = place
    first, rest = divided(packed(5, 5 + n), at, 2)
    assert unpacked(*first) == expected(5, 5 + at)
    assert unpacked(*rest) == expected(5 + at, 5 + n)


@given(inner, st.integers(1, 40))
def test_a_part_has_its_events_and_no_more(place, length):
    n, start = place
    stop = min(n, start + length)
    part = cut(packed(0, n), start, stop, 2)
    assert unpacked(*part) == expected(start, stop)
    assert [len(array) for array in part[2:4]] == [
        sum(len(lists[g]) for _, lists, _ in expected(start, stop)) for g in (0, 1)
    ]


@given(st.lists(inner, min_size=1, max_size=6), st.integers(0, 5))
def test_pieces_lie_behind_each_other_after_a_row_of_nan(places, room):
    pieces = [divided(packed(3, 3 + n), at, 2)[1] for n, at in places]
    events, objects = sum(n - at for n, at in places), objects_of(pieces, 2)
    rows = [events, events, *(1 + objects.sum(axis=0)), events]
    chunk = [np.full((n + room, *a.shape[1:]), 99, a.dtype) for n, a in zip(rows, pieces[0], strict=True)]
    join(chunk, pieces, objects)
    assert all(np.isnan(values[0]).all() for values in chunk[2:4])
    flat, bounds, *values, target = (array[: len(array) - room] for array in chunk)
    assert bounds[0, ::2].tolist() == [1, 1]
    assert unpacked(flat, bounds, *values, target, at=1) == [e for n, at in places for e in expected(3 + at, 3 + n)]
    assert all((array[len(array) - room :] == 99).all() for array in chunk)
