"""Ranges of event time and splits by it: exact to the microsecond, refused when unclear."""

from datetime import UTC, date, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pandas as pd
import pytest

from hofflight import limits
from hofflight.errors import BadRange, InvalidDuration
from hofflight.replay.span import Parts, Span, moment_us

S = 1_000_000
DAY = 86_400 * S
BERLIN = ZoneInfo("Europe/Berlin")
NEW_YEAR = 1_767_225_600 * S  # 2026-01-01T00:00:00Z


@pytest.mark.parametrize(
    "moment",
    [
        date(2026, 1, 1), "2026-01-01", "2026-01-01T00:00:00Z", "2026-01-01T00:00:00+00:00",
        "2026-01-01T01:00+01:00", "20260101T000000Z", datetime(2026, 1, 1, tzinfo=UTC),
        datetime(2026, 1, 1, 1, tzinfo=BERLIN), NEW_YEAR, pd.Timestamp("2026-01-01", tz="UTC"),
        datetime(2025, 12, 31, 19, tzinfo=timezone(-timedelta(hours=5))),
    ],
)  # fmt: skip
def test_a_moment_is_written_in_many_ways(moment):
    """A date is its first moment in UTC, whatever zone the machine is in."""
    assert moment_us(moment, "start") == NEW_YEAR


def test_a_moment_is_exact_to_the_microsecond():
    """Far from 1970, and before it, where floats would round."""
    assert moment_us(datetime(2040, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC), "end") % S == 999_999
    assert moment_us("1969-12-31T23:59:59.999999Z", "start") == -1
    assert moment_us(date(1969, 12, 31), "start") == -DAY
    assert moment_us(0, "start") == 0


def test_the_hour_that_comes_twice_is_two_hours():
    """Clocks in Berlin went back on 2026-10-25, 03:00 to 02:00: `fold` says which one is meant."""
    first = datetime(2026, 10, 25, 2, 30, tzinfo=BERLIN)
    second = first.replace(fold=1)

    assert moment_us(first, "start") == moment_us("2026-10-25T00:30:00Z", "start")
    assert moment_us(second, "start") == moment_us("2026-10-25T01:30:00Z", "start")
    span = Span.of(first, second)
    assert span.end_us - span.start_us == 3_600 * S
    with pytest.raises(BadRange, match="before"):
        Span.of(second, first)


def test_the_day_that_lacks_an_hour_has_23():
    """Clocks went forward on 2026-03-29."""
    days = [datetime(2026, 3, day, tzinfo=BERLIN) for day in (29, 30)]
    span = Span.of(*days)

    assert span.end_us - span.start_us == 23 * 3_600 * S


@pytest.mark.parametrize(
    ("moment", "message"),
    [
        (datetime(2026, 1, 1), "has no time zone"),  # noqa: DTZ001 that is the point
        ("2026-01-01T00:00:00", "has no time zone"),
        ("2026-01-01 00:00", "has no time zone"),
        ("yesterday", "is no time"),
        ("2026-02-30", "is no time"),
        ("2026-13-01T00:00:00Z", "is no time"),
        ("", "is no time"),
        (1.5, "takes a datetime"),
        (True, "takes a datetime"),
        (b"2026-01-01", "takes a datetime"),
        ((2026, 1, 1), "takes a datetime"),
    ],
)
def test_what_is_no_moment_is_refused(moment, message):
    """Above all local time: it happens twice a year that it is two times."""
    with pytest.raises(BadRange, match=f"HOF-215: start.*{message}"):
        Span.of(moment, None)


def test_a_span_without_bounds_is_everything():
    """Every event time that a row may have."""
    span = Span.of(None, None)

    assert span.is_everything
    assert span.start_us <= limits.event_time_us_min
    assert limits.event_time_us_max < span.end_us
    assert not Span.of("2026-01-01", None).is_everything
    assert not Span.of(None, "2026-01-01").is_everything


def test_a_span_may_be_empty_but_not_backwards():
    """No rows are an answer, a slip of the pen is none."""
    assert Span.of("2026-01-01", "2026-01-01") == Span(NEW_YEAR, NEW_YEAR)
    with pytest.raises(BadRange, match=r"HOF-215.*lies before"):
        Span.of("2026-01-02", "2026-01-01")


def test_parts_by_share_begin_where_those_before_end():
    """In the order in which they are named; decimals need not add up to the last bit."""
    parts = Parts.of({"train": 0.7, "validation": 0.1, "test": 0.2})

    assert parts.names == ("train", "validation", "test")
    assert parts.begins == pytest.approx((0.7, 0.8))
    assert parts.by_share
    assert parts.gap_us == 0
    assert Parts.of({"all": 1.0}).begins == ()
    assert Parts.of({f"p{n}": 0.1 for n in range(10)}).begins[-1] == pytest.approx(0.9)


def test_parts_by_time_begin_at_it_and_the_rest_is_train():
    """Any way of writing a moment; a gap is a duration."""
    parts = Parts.of({"validation": date(2026, 1, 1), "test": "2026-01-02", "gap": "7d"})

    assert parts == Parts(
        ("train", "validation", "test"), (NEW_YEAR, NEW_YEAR + DAY), by_share=False, gap_us=7 * DAY
    )
    assert Parts.of({"test": NEW_YEAR}).begins == (NEW_YEAR,)


@pytest.mark.parametrize(
    "split",
    [
        {}, {"gap": "1d"}, {"train": 0.5, "test": 0.4}, {"train": 0.8, "test": 0.3},
        {"train": 1.0, "test": 0.0}, {"train": 1.5, "test": -0.5},
        {"train": float("nan"), "test": 1.0}, {"train": 1.0, "test": float("nan")},
        {"train": float("inf"), "test": float("-inf")},
        {"train": "2026-01-01", "test": "2026-02-01"}, {"test": "2026-02-01", "late": "2026-01-01"},
        {"test": "2026-02-01", "same": "2026-02-01"}, {"train": 0.5, "test": "2026-01-01"},
        {"test": "2026-02-01T00:00:00"}, {"test": None}, {"train": 1, "test": 0},
    ],
)  # fmt: skip
def test_a_split_that_is_unclear_is_refused(split):
    """Shares that do not add up, times that do not ascend, both at once."""
    with pytest.raises(BadRange, match="HOF-215"):
        Parts.of(split)


@pytest.mark.parametrize("gap", ["a day", "-1d", 5, ""])
def test_a_gap_that_is_no_duration_is_refused(gap):
    """As everywhere else."""
    with pytest.raises(InvalidDuration, match=r"HOF-104.*gap"):
        Parts.of({"test": "2026-01-01", "gap": gap})
