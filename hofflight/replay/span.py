"""Ranges of event time, and how a training table is split by it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Final, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc

from hofflight import limits
from hofflight.errors import BadRange
from hofflight.features.window import duration_us

# A datetime with a time zone, microseconds since 1970, ISO 8601 text with an offset, or a date: its
# first moment in UTC.
Moment: TypeAlias = datetime | date | int | str
Split: TypeAlias = Mapping[str, "float | Moment"]
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
GAP: Final = "gap"
TRAIN: Final = "train"


def moment_us(moment: Moment, what: str) -> int:
    """Microseconds since 1970, UTC.

    Raises: BadRange (HOF-215), no moment, or one without a time zone: a clock that is set back
        shows the same time twice.
    """
    if isinstance(moment, int) and not isinstance(moment, bool):
        return moment
    found: object = moment
    if isinstance(moment, str):
        try:
            is_date = len(moment) == len("2026-01-31")
            found = date.fromisoformat(moment) if is_date else datetime.fromisoformat(moment)
        except ValueError as error:
            msg = f"{what}: {moment!r} is no time"
            raise BadRange(msg, hint="2026-01-31, or 2026-01-31T12:00:00Z") from error
    if isinstance(found, datetime):
        if found.utcoffset() is None:
            msg = f"{what}: {moment!r} has no time zone"
            raise BadRange(msg, hint="add one: 2026-01-31T12:00:00Z, or tzinfo=UTC")
        return (found - _EPOCH) // timedelta(microseconds=1)
    if isinstance(found, date):
        return (found - _EPOCH.date()).days * limits.DAY_US
    msg = f"{what} takes a datetime, a date, text or microseconds, got {moment!r}"
    raise BadRange(msg)


@dataclass(frozen=True, slots=True)
class Span:
    """Event times from `start_us` on, before `end_us`."""

    start_us: int
    end_us: int

    @classmethod
    def of(cls, start: Moment | None, end: Moment | None) -> Span:
        """The span between two moments; None is no bound. An empty span is one, too.

        Raises: BadRange (HOF-215), the end lies before the start.
        """
        low = limits.event_time_us_min if start is None else moment_us(start, "start")
        high = limits.event_time_us_max + 1 if end is None else moment_us(end, "end")
        if high < low:
            msg = f"end={end!r} lies before start={start!r}"
            raise BadRange(msg, hint="rows from start on, before end")
        return cls(low, high)

    @property
    def is_everything(self) -> bool:
        """Whether no event time lies outside."""
        return self.start_us <= limits.event_time_us_min and self.end_us > limits.event_time_us_max

    def contains(self, ts: pa.Array) -> pa.Array:
        """Per event time (int64, microseconds), whether it lies in the span; null of null."""
        return pc.and_(pc.greater_equal(ts, self.start_us), pc.less(ts, self.end_us))


@dataclass(frozen=True, slots=True)
class Parts:
    """A split by time: names in order, where each but the first begins, a gap left before each.

    `begins`: event times, or, with `by_share`, shares of the rows; rows of one time are never
    parted.
    """

    names: tuple[str, ...]
    begins: tuple[float, ...]
    by_share: bool
    gap_us: int = 0

    @classmethod
    def of(cls, split: Split) -> Parts:
        """`{"train": 0.8, "test": 0.2}`, or `{"validation": "2026-05-01", "test": "2026-06-01"}`.

        Of times, what lies before the first is "train". "gap" is a duration: rows so little before
        a part begins belong to none, since their labels may not have been known by then.
        Raises: BadRange (HOF-215); InvalidDuration (HOF-104).
        """
        given = dict(split)
        gap = given.pop(GAP, None)
        gap_us = 0 if gap is None else duration_us(str(gap), "split: gap")
        if not given:
            raise BadRange("split= names no part", hint='{"train": 0.8, "test": 0.2}')
        if all(isinstance(share, float) for share in given.values()):
            shares = [float(share) for share in given.values()]  # type: ignore[arg-type]
            # Sums of decimals; written so that NaN does not pass.
            if not (min(shares) > 0 and abs(sum(shares) - 1) <= 1e-9):  # noqa: PLR2004 the same
                raise BadRange(f"split= takes shares that add up to 1, got {given}")
            begins = tuple(sum(shares[:place]) for place in range(1, len(shares)))
            return cls(tuple(given), begins, by_share=True, gap_us=gap_us)
        if TRAIN in given:
            raise BadRange('split= by time: what lies before the first part is "train"')
        times = tuple(moment_us(m, f"split: {name}") for name, m in given.items())  # type: ignore[arg-type]
        if list(times) != sorted(set(times)):
            raise BadRange(f"split= takes times that ascend, got {given}")
        return cls((TRAIN, *given), times, by_share=False, gap_us=gap_us)
