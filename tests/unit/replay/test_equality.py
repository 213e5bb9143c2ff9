"""Two columns are the same to the bit, or within what is declared; nothing passes by accident."""

import math
import struct

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

import hofflight as hof
from hofflight.replay.equality import close, same
from hofflight.testing.strategies import pools

OTHER_NAN = struct.unpack("<d", struct.pack("<Q", 0x7FF8_0000_0000_0001))[0]


def check(one, other, column_type):
    return same(pa.array(one, column_type), pa.array(other, column_type)).tolist()


def test_floats_are_compared_by_their_bits():
    """Zeros have a sign; a NaN is a NaN."""
    one = [0.0, 0.1, math.nan, math.nan, math.inf, 0.3, None, None, 1.0]
    other = [-0.0, 0.1, math.nan, OTHER_NAN, -math.inf, 0.1 + 0.2, None, 0.0, None]
    expected = [False, True, True, True, False, False, True, False, False]

    assert check(one, other, pa.float64()) == expected
    assert check([0.0, math.nan, 1.5], [-0.0, math.nan, 1.5], pa.float32()) == [False, True, True]


def test_lists_are_compared_item_by_item():
    """Lengths, nulls and emptiness too."""
    one = [[1.0, 0.0], [1.0], [], None, None, [2.0], [math.nan], [1.0, 2.0]]
    other = [[1.0, -0.0], [1.0], [], None, [], None, [math.nan], [2.0, 1.0]]
    expected = [False, True, True, True, False, False, True, False]

    assert check(one, other, pa.list_(pa.float64())) == expected
    assert check([[], None], [[], None], pa.list_(pa.string())) == [True, True]
    assert check([["a"], ["a", "b"]], [["a"], ["a"]], pa.list_(pa.string())) == [True, False]


def test_slices_are_compared_where_they_begin():
    """A view into a longer column has an offset."""
    lists = pa.array([[9], [1], [2, 3], [], None], pa.list_(pa.int64()))
    other = pa.array([[1], [2, 4], [], None], pa.list_(pa.int64()))
    assert same(lists.slice(1), other).tolist() == [True, False, True, True]
    floats = pa.array([9.0, 1.0, None])
    assert same(floats.slice(1), pa.array([1.0, None])).tolist() == [True, True]


def test_nothing_is_the_same_as_nothing():
    """Columns without rows."""
    for column_type in (pa.float64(), pa.list_(pa.int64()), pa.string()):
        assert check([], [], column_type) == []


@pytest.mark.parametrize("column_type", [*pools, pa.list_(hof.TIMESTAMP)], ids=str)
def test_every_column_type_can_be_compared(column_type):
    """Nulls among values."""
    value = {pa.string(): "a", pa.binary(): b"a", pa.bool_(): True}.get(column_type, 1)
    value = [value] if pa.types.is_list(column_type) else value

    assert check([value, None, value], [value, None, None], column_type) == [True, True, False]


@given(st.lists(st.none() | st.floats(width=64), max_size=20))
def test_a_column_is_the_same_as_itself(values):
    """Any floats at all."""
    assert all(check(values, values, pa.float64()))


def near(one, other, scale, function="sum"):
    return close(*(pa.array([v], pa.float64()) for v in (one, other, scale)), function).tolist()[0]


def test_a_sum_is_close_by_the_size_of_what_was_added():
    """1e-12 of the sum of |x|, and no more."""
    assert near(0.0, 1e-12, 1.0)
    assert not near(0.0, 1.1e-12, 1.0)
    assert near(5.0, 5.0, 0.0)
    assert not near(5.0, 5.000_001, 10.0)
    assert near(1e300, 1e300 * (1 + 1e-13), 1e300)


def test_a_variance_is_close_by_its_own_size():
    """1e-9 relative; of equal values whatever squares lose."""
    assert near(4.0, 4.0 * (1 + 9e-10), 10.0, "var")
    assert not near(4.0, 4.0 * (1 + 2e-9), 10.0, "var")
    assert near(0.0, 1e-15, 10.0, "std")
    assert not near(0.0, 1e-3, 10.0, "std")
    assert not near(0.0, 1e-15, 1.0, "var")


def test_null_and_nan_are_close_to_themselves_alone():
    """Tolerance is for numbers."""
    assert near(None, None, 1.0)
    assert near(math.nan, math.nan, 1.0)
    for pair in [(None, 0.0), (0.0, None), (math.nan, 0.0), (math.nan, None), (None, math.nan)]:
        assert not near(*pair, 1e300)


def test_infinities_are_close_to_themselves_alone():
    """And never to the opposite one, whatever the scale."""
    for scale in (1.0, 1e308, None, math.nan, math.inf):
        assert near(math.inf, math.inf, scale)
        assert not near(math.inf, -math.inf, scale)
    for scale in (1.0, 1e308, None, math.nan):
        assert not near(1.0, math.inf, scale)
        assert not near(-math.inf, 1.0, scale)


def test_a_sum_may_overflow_on_the_way_where_the_sum_of_sizes_does():
    """Engines add in different orders: one meets infinity before values of the other sign."""
    assert near(1e308, math.inf, math.inf)
    assert near(-math.inf, 1e308, math.inf)


def test_an_unknown_scale_lets_nothing_but_the_same_pass():
    """Null and NaN are no tolerance, and an infinity is none without bound."""
    for scale in (None, math.nan):
        for function in ("sum", "var"):
            assert not near(1.0, 2.0, scale, function)
            assert near(1.0, 1.0, scale, function)
    assert not near(1.0, 1e300, math.inf)


def test_masks_are_numpy_of_bool():
    """Callers count and invert them."""
    mask = same(pa.array([1, None]), pa.array([1, 2]))
    assert mask.dtype == np.bool_
    assert (~mask).tolist() == [False, True]
