"""What compiled loops choose in place is what plain selections choose."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lpsphere.kernels.selection import collect, keep_above, merge, top_of_rows

SCORES = st.lists(st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.5, -3.0, math.inf, math.nan]), max_size=300)


@settings(deadline=None)
@given(scores=SCORES, least=st.sampled_from([-1.0, 0.0, 1.0, math.inf]), data=st.data())
@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_what_is_above_a_bound_and_not_taken_is_collected_until_there_is_no_room(kind, scores, least, data):
    given = np.array(scores, kind)
    taken = np.array(sorted(data.draw(st.sets(st.integers(0, 299)))), np.int64)
    found, places = np.empty(200, kind), np.empty(200, np.int64)
    at, everything = 0, []
    while at < len(given):
        before = at
        at, filled = collect(given, at, least, 1000, taken, found, places, 3)
        assert at > before or filled > 3
        everything += zip(places[3:filled].tolist(), found[3:filled].tolist(), strict=True)
    expected = [(1000 + i, s) for i, s in enumerate(given.tolist()) if abs(s) > least and i not in taken]
    assert everything == expected


@settings(deadline=None)
@given(scores=SCORES, count=st.integers(0, 300))
def test_the_largest_are_kept_in_order_and_the_first_of_those_at_the_bound(scores, count):
    given = np.array([s for s in scores if not math.isnan(s)], np.float32)
    count = min(count, len(given))
    order = np.argsort(-np.abs(given), kind="stable")[:count]
    expected = np.sort(order)
    least = abs(given[order[-1]]) if count else math.inf
    kept, places = given.copy(), np.arange(len(given))
    ties = count - int((np.abs(given) > least).sum())
    assert keep_above(kept, places, least, ties) == count
    assert places[:count].tolist() == expected.tolist()
    assert np.array_equal(kept[:count], given[expected])


@settings(deadline=None)
@given(rows=st.lists(SCORES.map(lambda scores: scores[:6]), max_size=6), count=st.integers(0, 4))
def test_the_largest_of_each_row_are_chosen_the_first_of_equal_ones(rows, count):
    pointers = np.cumsum([0, *map(len, rows)]).astype(np.int32)
    scores = np.array([score for row in rows for score in row], np.float32)
    chosen = np.zeros(len(scores), bool)
    top_of_rows(pointers, scores, count, chosen)
    expected = []
    for row in rows:
        order = sorted(range(len(row)), key=lambda i: (not math.isnan(row[i]), -row[i] if row[i] == row[i] else 0))
        expected += [i in order[:count] for i in range(len(row))]
    assert chosen.tolist() == expected


@settings(deadline=None)
@given(data=st.data(), neurons=st.integers(1, 5), fan_in=st.integers(1, 6))
def test_merged_connections_are_those_that_stay_and_those_that_are_grown(data, neurons, fan_in):
    every = range(neurons * fan_in)
    before = sorted(data.draw(st.sets(st.sampled_from(every))))
    stay = [data.draw(st.booleans()) for _ in before]
    kept_places = {place for place, stays in zip(before, stay, strict=True) if stays}
    grown = sorted(data.draw(st.sets(st.sampled_from(every))) - kept_places)
    now = sorted(kept_places | set(grown))
    pointers = np.searchsorted(np.array(before, int) // fan_in, np.arange(neurons + 1)).astype(np.int32)
    kept, new = np.array(stay, bool), np.empty(len(grown), bool)
    merged, source = np.empty((2, len(now)), np.int32), np.empty(len(now), np.int32)
    columns = np.array([place % fan_in for place in before], np.int32)
    merge(pointers, columns, kept, np.array(grown, np.int64), fan_in, merged, source, new)
    assert (merged[0] * fan_in + merged[1]).tolist() == now
    assert source.tolist() == [before.index(place) if place in before else -1 for place in now]
    assert kept.tolist() == [place in now for place in before]
    assert new.tolist() == [place not in before for place in grown]
