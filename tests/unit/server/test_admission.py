import pytest
from hypothesis import given
from hypothesis import strategies as st

from hofflight import limits
from hofflight.errors import Overloaded
from hofflight.server.admission import Admission


def admission(**bounds):
    return Admission(**{"rows_max": 10, "bytes_max": 100, "streams_max": 2, **bounds})


@pytest.mark.parametrize(("rows", "size"), [(11, 1), (1, 101)])
def test_what_goes_beyond_a_bound_is_refused_with_a_retry_hint(rows, size):
    with pytest.raises(Overloaded) as refused:
        admission().admit(rows, size)

    assert refused.value.retry_after_ms == limits.retry_after_ms > 0


def test_a_bound_can_be_filled_exactly():
    full = admission()

    full.admit(10, 100)

    with pytest.raises(Overloaded):
        full.admit(0, 1)


def test_a_refused_request_takes_nothing():
    nearly_full = admission()
    nearly_full.admit(9, 10)

    with pytest.raises(Overloaded):
        nearly_full.admit(2, 10)

    assert (nearly_full.rows, nearly_full.bytes) == (9, 10)


def test_one_stream_too_many_is_refused_until_one_closes():
    streams = admission()
    streams.open_stream()
    streams.open_stream()

    with pytest.raises(Overloaded):
        streams.open_stream()
    streams.close_stream()

    streams.open_stream()


@given(st.lists(st.tuples(st.integers(1, 6), st.integers(1, 60), st.booleans()), max_size=40))
def test_what_is_under_way_never_exceeds_a_bound_and_returns_to_zero(asked):
    bounds, under_way = admission(), []
    for rows, size, then_release in asked:
        try:
            bounds.admit(rows, size)
            under_way.append((rows, size))
        except Overloaded:
            assert bounds.rows + rows > 10 or bounds.bytes + size > 100
        assert bounds.rows == sum(r for r, _ in under_way) <= 10
        assert bounds.bytes == sum(s for _, s in under_way) <= 100
        if then_release and under_way:
            bounds.release(*under_way.pop())
    for rows, size in under_way:
        bounds.release(rows, size)

    assert (bounds.rows, bounds.bytes) == (0, 0)
