"""Sums of ranges against `math.fsum` and fractions, over values chosen to round wrongly."""

import math
from fractions import Fraction
from itertools import combinations_with_replacement

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hofflight.replay.exact_sums import FloatSums, IntegerSums, Limbs
from hofflight.testing.oracle import expected_mean, expected_sum, expected_var, overflows, rounded
from tests.property.test_windows_oracle import bits

LARGEST = 1.7976931348623157e308
TINIEST = 5e-324
# Neighbours of halves of a last place, what tips them over, and the ends of the range.
HOSTILE = [0.0, 1.0, 3.0, 0.1, 2.0**53, 2.0**53 + 2, 2.0**-53, 3 * 2.0**-53, 2.0**-54, 2.0**-106,
           2.0**-1000, TINIEST, 2.2250738585072014e-308, 1e16, 1e30, 1e300, 2.0**970,
           math.nextafter(2.0**970, 0), LARGEST]  # fmt: skip
hostile = st.sampled_from([sign * value for value in HOSTILE for sign in (1.0, -1.0)])
finite = st.floats(allow_nan=False, allow_infinity=False)
money = st.integers(-(10**7), 10**7).map(lambda cents: cents / 100)
# A list keeps one kind of value, or mixes them: a single 1e308 would drown every other trouble.
floats = st.one_of(
    *(st.lists(kind, min_size=1, max_size=16) for kind in (money, hostile, finite, hostile | money))
)
integers = st.one_of(
    st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=16),
    st.lists(st.integers(-3, 3), min_size=1, max_size=16),
    st.lists(st.sampled_from((2**63 - 1, -(2**63), 2**62, 2**53 + 1, 1, -1)), min_size=1,
             max_size=16),
)  # fmt: skip


class Every:
    """Every range of some rows, of which some are not valid."""

    def __init__(self, values, skipped, dtype):
        self.rows = np.array(values, dtype)
        self.valid = np.array([place not in skipped for place in range(len(values))])
        pairs = list(combinations_with_replacement(range(len(values) + 1), 2))
        self.low, self.high = np.array(pairs, np.int64).T
        self.taken = [
            [value for value, valid in zip(values[a:b], self.valid[a:b], strict=True) if valid]
            for a, b in pairs
        ]
        self.counts = np.array([len(taken) for taken in self.taken])


def same(found, expected):
    """Bit for bit; None is NaN."""
    wanted = [math.nan if value is None else value for value in expected]
    assert list(map(bits, found.tolist())) == list(map(bits, wanted))


skips = st.sets(st.integers(0, 15), max_size=4)


@given(floats, skips)
def test_a_float_sum_is_what_fsum_says(values, skipped):
    """Of every range, whatever else lies in the chunk."""
    every = Every(values, skipped, np.float64)

    found = FloatSums(every.rows, every.valid).sums(every.low, every.high)

    same(found, [expected_sum(taken) if taken else 0.0 for taken in every.taken])
    for said, taken in zip(found.tolist(), every.taken, strict=True):
        try:
            assert said == math.fsum(taken)
        except OverflowError:  # on the way; the fraction above has no such limit
            continue


@given(st.lists(hostile | st.sampled_from((math.inf, -math.inf)), min_size=1, max_size=12), skips)
def test_infinities_are_as_ieee_has_them_and_gone_when_they_left(values, skipped):
    """One is the sum, two of different sign have none, none leaves the rest as it is."""
    every = Every(values, skipped, np.float64)
    sums = FloatSums(every.rows, every.valid)

    same(
        sums.sums(every.low, every.high),
        [expected_sum(taken) if taken else 0.0 for taken in every.taken],
    )
    same(
        sums.variances(every.low, every.high, every.counts),
        [expected_var(taken) for taken in every.taken],
    )


@given(floats, skips)
def test_a_float_variance_is_rounded_once(values, skipped):
    """Squares beyond the largest double, and below the tiniest, included."""
    every = Every(values, skipped, np.float64)

    found = FloatSums(every.rows, every.valid).variances(every.low, every.high, every.counts)

    same(found, [expected_var(taken) for taken in every.taken])


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1.0, 2.0**-53], 1.0),
        ([1.0, 2.0**-53, TINIEST], 1.0 + 2.0**-52),
        ([1.0, 2.0**-53, -TINIEST], 1.0),
        ([1.0 + 2.0**-52, 2.0**-53], 1.0 + 2.0**-51),
        ([1.0 + 2.0**-52, 2.0**-53, -TINIEST], 1.0 + 2.0**-52),
        ([2.0**53, 1.0], 2.0**53),
        ([2.0**53, 1.0, 2.0**-60], 2.0**53 + 2),
        ([1e30, 0.1, -1e30], 0.1),
        ([1e308, 1e308, -1e308], 1e308),
        ([LARGEST, math.nextafter(2.0**970, 0)], LARGEST),
        ([LARGEST, 2.0**970, -TINIEST], LARGEST),
        ([LARGEST, 2.0**970], math.inf),
        ([TINIEST, -TINIEST], 0.0),
        ([2.2250738585072014e-308, -TINIEST], math.nextafter(2.2250738585072014e-308, 0)),
    ],
)
def test_a_half_goes_to_even_unless_something_far_below_tips_it(values, expected, sign):
    """As worked out by hand."""
    rows = np.array(values) * sign
    found = FloatSums(rows, np.ones(len(rows), bool)).sums(np.array([0]), np.array([len(rows)]))

    assert found.tolist() == [expected * sign]


def test_a_sum_of_nothing_is_zero_without_a_sign():
    """Of no rows, of rows that are not valid, and of zeros alone."""
    for rows, valid in [([1.0], [True]), ([math.nan], [False]), ([0.0, 0.0], [True, True])]:
        sums = FloatSums(np.array(rows), np.array(valid))
        end = 0 if rows == [1.0] else len(rows)
        same(sums.sums(np.array([0]), np.array([end])), [0.0])


@given(integers, skips)
def test_an_integer_sum_is_exact_or_known_to_leave_int64(values, skipped):
    """Limbs that cancel never count as an overflow."""
    every = Every(values, skipped, np.int64)

    found, overflow = IntegerSums(every.rows, every.valid).sums(every.low, every.high)

    assert overflow.tolist() == [overflows(taken) for taken in every.taken]
    for said, over, taken in zip(found.tolist(), overflow.tolist(), every.taken, strict=True):
        assert over or said == sum(taken)


@given(integers, skips)
def test_an_integer_mean_and_variance_are_rounded_once(values, skipped):
    """Whether or not the sum leaves int64."""
    every = Every(values, skipped, np.int64)
    sums = IntegerSums(every.rows, every.valid)

    same(
        sums.means(every.low, every.high, every.counts),
        [expected_mean(taken) if taken else None for taken in every.taken],
    )
    same(
        sums.variances(every.low, every.high, every.counts),
        [expected_var(taken) for taken in every.taken],
    )


def test_a_hundred_thousand_rows_add_up_like_ten():
    """Money, a trillion times more, and a speck: three limbs and their carries."""
    random = np.random.default_rng(3)
    rows = np.round(random.gamma(2, 30, 100_000), 2) * random.choice([1.0, -1.0], 100_000)
    rows[::1_000] *= 1e12
    rows[::777] = 1e-13
    low = random.integers(0, 50_000, 60)
    high = low + random.integers(1, 50_000, 60)

    found = FloatSums(rows, np.ones(len(rows), bool)).sums(low, high)

    same(found, [math.fsum(rows[a:b].tolist()) for a, b in zip(low, high, strict=True)])


def test_two_limbs_are_rounded_once_when_the_upper_one_is_no_double():
    """20,000 upper limbs of up to 40 bits add up to more than 53."""
    random = np.random.default_rng(5)
    rows = random.integers(2**52, 2**53, 40_000) * 2.0**27
    rows[::2] = random.integers(1, 2**40, 20_000)
    low = random.integers(0, 500, 60)
    high = random.integers(39_500, 40_000, 60)

    found = FloatSums(rows, np.ones(len(rows), bool)).sums(low, high)

    same(found, [math.fsum(rows[a:b].tolist()) for a, b in zip(low, high, strict=True)])


@pytest.mark.parametrize("terms", [1, 3])
def test_limbs_are_so_narrow_that_no_prefix_sum_leaves_int64(terms):
    """All bits set in all terms of all rows: the worst that there is."""
    rows = (1 << 22) - 1
    all_bits = np.full(rows, (1 << 64) - 1, np.uint64)
    no_shift = np.zeros(rows, np.int64)
    low, high = np.array([0]), np.array([rows])

    limbs = Limbs(np.ones(rows, np.int64), [(all_bits, no_shift)] * terms)

    assert limbs.integers(low, high) == [terms * rows * ((1 << 64) - 1)]
    assert rows * terms << limbs.bits <= 1 << 62


def test_the_reference_is_right_where_fsum_gives_up():
    """fsum raises when a partial sum leaves the doubles; the exact sum may not."""
    values = [LARGEST, LARGEST, -LARGEST]
    with pytest.raises(OverflowError):
        math.fsum(values)

    assert rounded(sum(map(Fraction, values))) == expected_sum(values) == LARGEST
