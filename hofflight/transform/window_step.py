"""Windows of a batch: find key, time and series values of each row, and push them in order.

The fold over rows is sequential by nature (each row sees the ones before it), so this is the one
place that walks rows in the bulk path; docs/adr/0004 has its cost and the kernel that may replace
it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa

from hofflight import limits
from hofflight.errors import BadEventTime, NullKey
from hofflight.transform.aggregate import OVERFLOW
from hofflight.transform.evaluate import evaluate
from hofflight.wire.columns import to_python
from hofflight.wire.schema import FLOATS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from hofflight.features.group import FeatureGroup
    from hofflight.transform.window_plan import Series
    from hofflight.transform.window_state import WindowState

Row = list[Any]


class Windowed(NamedTuple):
    """Answers of a batch: per row the windows (None where late), and which columns overflowed."""

    rows: list[Sequence[Any]]
    late: list[bool]
    overflow: dict[str, list[bool]]


class KeyReader:
    """Finds key and event time, and refuses rows that have none."""

    def __init__(self, group: FeatureGroup) -> None:
        self.group = group

    def of_columns(
        self, columns: Mapping[str, list[Any]], newest_us: int
    ) -> tuple[list[Any], list[int]]:
        """Keys and event times of whole columns; the first bad row is named.

        Raises: NullKey (HOF-205), BadEventTime (HOF-206).
        """
        parts = [columns[name] for name in self.group.key]
        for part in parts:
            bad = next((i for i, v in enumerate(part) if v is None or v != v), None)
            if bad is not None:
                raise self.null_key(bad)
        times = columns[self.group.event_time]
        if None in times or min(times) < limits.event_time_us_min or max(times) > newest_us:
            low = limits.event_time_us_min
            for i, ts in enumerate(times):
                if ts is None or not low <= ts <= newest_us:
                    raise self.bad_time(i, ts, newest_us)
        keys = parts[0] if len(parts) == 1 else list(zip(*parts, strict=True))
        return keys, times

    def newest_us(self, arrival_us: int) -> int:
        """The latest event time that a row arriving now may carry."""
        early = self.group.early_us
        last = limits.event_time_us_max
        return last if early is None else min(last, arrival_us + early)

    def null_key(self, index: int) -> NullKey:
        """The error for a row without a key."""
        msg = f"row {index}: the key ({', '.join(self.group.key)}) holds null or NaN"
        return NullKey(msg, hint="every event needs its entity; the whole request was refused")

    def bad_time(self, index: int, ts: int | None, newest_us: int) -> BadEventTime:
        """The error for an event time that no row arriving now may carry."""
        name = self.group.event_time
        if ts is None:
            return BadEventTime(f"row {index}: the event time {name!r} is null")
        if limits.event_time_us_min <= ts <= limits.event_time_us_max:
            ahead = (ts - newest_us) / 1e6
            msg = f"row {index}: the event time {name!r} is {ahead:.3f} s further ahead than early="
            return BadEventTime(msg, hint="check the sender's clock")
        msg = f"row {index}: the event time {name!r} is {ts} us since 1970"
        return BadEventTime(msg, hint="event times lie in 1900-01-01 to 2040-12-31")


def column_series(
    series: Sequence[Series], columns: Mapping[str, pa.Array], rows: int
) -> list[list[Any]]:
    """Per series, the values of every row, as `compile_before` gives them one by one."""
    return [_column_values(s, columns, rows) for s in series]


def _column_values(series: Series, columns: Mapping[str, pa.Array], rows: int) -> list[Any]:
    values: list[Any] = [True] * rows
    if series.column is not None:
        array = columns[series.column]
        values = to_python(array)
        if array.type in FLOATS:
            # As in row_program: NaN is skipped, -0.0 becomes 0.0.
            values = [v if v is None else v + 0.0 if v == v else None for v in values]
    if series.where is not None:
        chosen = to_python(evaluate(series.where, columns, rows))
        values = [v if w else None for v, w in zip(values, chosen, strict=True)]
    return values


def push_rows(
    state: WindowState, keys: list[Any], times: list[int], series: list[list[Any]], *, peek: bool
) -> Windowed:
    """Push rows in order; with `peek`, take each one back before the next.

    Raises: TieLimit (HOF-210); rows before it stay pushed until `undo`.
    """
    rows: list[Sequence[Any]] = []
    late: list[bool] = []
    nothing = [None] * len(state.plan.names)
    per_row = zip(*series, strict=True) if series else [()] * len(keys)
    push = state.push
    for key, ts, values in zip(keys, times, per_row, strict=True):
        mark = state.mark()
        answer = push(key, ts, values)
        rows.append(nothing if answer is None else answer)
        late.append(answer is None)
        if peek:
            state.undo(mark)
    return Windowed(rows, late, {})


def sums_integers(group: FeatureGroup) -> bool:
    """Whether any window of the group can overflow."""
    types = group.window_types
    return any(w.function == "sum" and types[n] == pa.int64() for n, w in group.windows.items())


def mark_overflows(windowed: Windowed, names: tuple[str, ...]) -> Windowed:
    """Replace each OVERFLOW by null and note where it stood."""
    rows = windowed.rows
    found: dict[str, list[bool]] = {}
    for index, row in enumerate(rows):
        if OVERFLOW in row:
            for column, value in enumerate(row):
                if value is OVERFLOW:
                    found.setdefault(names[column], [False] * len(rows))[index] = True
            rows[index] = [None if value is OVERFLOW else value for value in row]
    return Windowed(rows, windowed.late, found)
