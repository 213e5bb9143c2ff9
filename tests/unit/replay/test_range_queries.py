"""Questions about ranges of rows against the same questions put to each range alone."""

from collections import Counter
from itertools import combinations_with_replacement

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hofflight.replay.range_queries import (
    Extremes,
    WaveletMatrix,
    expanded,
    first_valid,
    last_valid,
    most_frequent,
    prefix_counts,
    previous_equal,
    slices,
)

flags = st.lists(st.booleans(), max_size=20)
codes = st.one_of(*(st.lists(st.integers(0, top), max_size=20) for top in (1, 3, 8, 1_000)))


def every_range(rows):
    """(low, high) of every range of some rows, the empty ones too."""
    pairs = list(combinations_with_replacement(range(len(rows) + 1), 2))
    return np.array(pairs, np.int64).T


def lists(rows, low, high):
    return [rows[a:b] for a, b in zip(low.tolist(), high.tolist(), strict=True)]


@given(flags)
def test_differences_of_prefix_counts_are_counts(valid):
    """Of every range."""
    low, high = every_range(valid)
    counts = prefix_counts(np.array(valid, bool))

    assert (counts[high] - counts[low]).tolist() == [sum(part) for part in lists(valid, low, high)]


@given(flags)
def test_the_nearest_valid_rows_are_found_on_both_sides(valid):
    """From each position on, and before it; past the ends where there is none."""
    mask = np.array(valid, bool)
    places = np.arange(len(valid) + 1)
    after = [next((p for p in range(a, len(valid)) if valid[p]), len(valid)) for a in places]
    before = [next((p for p in range(b - 1, -1, -1) if valid[p]), -1) for b in places]

    assert first_valid(mask, places).tolist() == after
    assert last_valid(mask, places).tolist() == before


@pytest.mark.parametrize("greatest", [False, True])
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int64, np.uint8])
@given(st.lists(st.integers(0, 255), min_size=1, max_size=40), st.data())
def test_the_least_and_the_greatest_of_every_range(dtype, greatest, values, data):
    """Ranges no longer than was said; the type stays."""
    longest = data.draw(st.integers(1, len(values)))
    low, high = every_range(values)
    asked = (high - low >= 1) & (high - low <= longest)
    low, high = low[asked], high[asked]

    found = Extremes(np.array(values, dtype), longest, greatest=greatest).between(low, high)

    assert found.dtype == dtype
    pick = max if greatest else min
    assert found.tolist() == [pick(part) for part in lists(values, low, high)]


@given(codes)
def test_the_kth_smallest_of_every_range(values):
    """For each k that the range has."""
    asked = [
        (a, b, k) for a, b in every_range(values).T.tolist() for k in range(b - a)
    ] or [(0, 0, 0)] * bool(values)  # fmt: skip
    low, high, k = np.array(asked, np.int64).reshape(-1, 3).T

    found = WaveletMatrix(np.array(values, np.int64)).kth(low, high, k)

    assert found.tolist() == [sorted(values[a:b])[k] for a, b, k in asked]


@given(codes, st.integers(0, 1_100))
def test_how_many_of_every_range_are_below_a_bound(values, bound):
    """A bound beyond all codes takes all of them."""
    low, high = every_range(values)
    bounds = np.full(len(low), bound)

    found = WaveletMatrix(np.array(values, np.int64)).below(low, high, bounds)

    assert found.tolist() == [sum(v < bound for v in part) for part in lists(values, low, high)]


@given(codes)
def test_a_value_counts_where_it_did_not_stand_before(values):
    """So that counting them counts the different values of a range."""
    low, high = every_range(values)
    before = previous_equal(np.array(values, np.int64))
    assert before.tolist() == [
        max((p for p in range(place) if values[p] == value), default=-1)
        for place, value in enumerate(values)
    ]

    found = WaveletMatrix(before + 1).below(low, high, low + 1)

    assert found.tolist() == [len(set(part)) for part in lists(values, low, high)]


@given(codes, st.integers(1, 5), st.sampled_from((1, 7, 1 << 20)))
def test_the_most_frequent_of_every_range(values, k, pairs_max):
    """By count, then by code; however few rows are written out at a time."""
    low, high = every_range(values)
    expected = [
        sorted(counts := Counter(part), key=lambda code, counts=counts: (-counts[code], code))[:k]
        for part in lists(values, low, high)
    ]

    sizes, best = most_frequent(np.array(values, np.int64), low, high, k, pairs_max)

    assert sizes.tolist() == list(map(len, expected))
    assert best.tolist() == [code for codes in expected for code in codes]


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 9)), max_size=20))
def test_ranges_are_written_out_row_by_row(ranges):
    """Which range, which position; empty ones leave no row."""
    low, lengths = np.array(ranges, np.int64).reshape(-1, 2).T

    owners, places = expanded(low, lengths)

    assert list(zip(owners.tolist(), places.tolist(), strict=True)) == [
        (owner, start + step) for owner, (start, length) in enumerate(ranges)
        for step in range(length)
    ]  # fmt: skip


@given(st.lists(st.integers(0, 30), max_size=30), st.integers(1, 40))
def test_slices_are_whole_and_bounded(lengths, total_max):
    """All ranges in order; no slice is over the bound by more than the range that crosses it."""
    found = slices(np.array(lengths, np.int64), total_max)

    assert [place for start, end in found for place in range(start, end)] == list(
        range(len(lengths))
    )
    for start, end in found:
        assert start < end
        assert sum(lengths[start : end - 1]) < total_max or end - start == 1
