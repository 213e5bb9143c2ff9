"""What plain and odd rows have in common in SQL: columns, frames, and answers made of aggregates.

An aggregate is the same over a window (`sum(_v0) OVER f1`) as over a group of rows
(`sum(_v0) FILTER (WHERE in1)`); what an answer is made of does not depend on it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from decimal import Decimal
from typing import TYPE_CHECKING, Final

import pyarrow as pa

from hofflight.replay.prepared import ADDED

if TYPE_CHECKING:
    from hofflight.replay.prepared import Asked, Question

INT64_MIN: Final = -(2**63)
INT64_MAX: Final = 2**63 - 1
# No window holds 10^12 rows, so from here down the rank is 1, with fewer digits.
_Q_MIN: Final = Decimal("1e-12")
_FLOATS: Final = {pa.float64(): "DOUBLE", pa.float32(): "FLOAT"}
_SPREADS: Final = frozenset(("var", "std"))

MACROS: Final = """
CREATE OR REPLACE MACRO floor_div(a, b) AS (a - ((a % b) + b) % b) // b;
CREATE OR REPLACE MACRO no_nan(x) AS CASE WHEN isnan(x) THEN NULL ELSE x END;
-- The power of two that brings the largest value near 1: exact, so nothing is rounded by it.
CREATE OR REPLACE MACRO power_for(big) AS
    CASE WHEN big = 0 THEN 1.0 ELSE pow(2.0, greatest(-1023, least(1023, -ceil(log2(big))))) END;
-- Of a histogram, by count descending, then by value.
CREATE OR REPLACE MACRO most_frequent(h, k) AS
    CASE WHEN len(map_keys(h)) > 0 THEN list_transform(list_slice(list_sort(list_transform(
        map_entries(h), lambda e: {'n': -(e.value::BIGINT), 'v': e.key})), 1, k), lambda s: s.v)
    END;
"""


def quoted(name: str) -> str:
    """An identifier, whatever is in it."""
    return '"' + name.replace('"', '""') + '"'


class Columns:
    """Numbers for what a question reads: series `_v0`.., frames 0.., gaps of sessions 0..

    A series is a column as one `where` lets it in; many windows share it.
    """

    def __init__(self, question: Question) -> None:
        self.question = question
        self.keys = ", ".join(question.keys)
        self.series = list(dict.fromkeys((w.column, w.where) for w in question.windows))
        self.frames = list(dict.fromkeys(w.frame for w in question.windows))
        self.gaps = sorted({f.size_us for f in self.frames if f.kind == "session"})

    def series_of(self, window: Asked) -> int:
        """The number of the window's series."""
        return self.series.index((window.column, window.where))

    def frame_of(self, window: Asked) -> int:
        """The number of the window's frame."""
        return self.frames.index(window.frame)

    def is_float(self, series: int) -> bool:
        """Whether the values of a series are floats."""
        column, _ = self.series[series]
        return column is not None and self.question.schema.field(column).type in _FLOATS

    def value(self, series: int) -> str:
        """A value of a series: null, NaN and what `where` leaves out are NULL, -0.0 is 0.0."""
        column, where = self.series[series]
        value = "true" if column is None else quoted(column)
        if column is not None and self.is_float(series):
            kind = _FLOATS[self.question.schema.field(column).type]
            value = f"no_nan({value} + 0::{kind})"
        return value if where is None else f"CASE WHEN {quoted(where)} THEN {value} END"

    def spreads(self) -> list[int]:
        """The series of which a var or std is asked."""
        windows = self.question.windows
        return list(dict.fromkeys(self.series_of(w) for w in windows if w.function in _SPREADS))

    def added_floats(self) -> list[int]:
        """The series of floats that are added up in any way."""
        added = (self.series_of(w) for w in self.question.windows if w.function in ADDED)
        return [n for n in dict.fromkeys(added) if self.is_float(n)]


class Answers(ABC):
    """Answers of a row, made of `parts`: aggregates by their text, each written once."""

    def __init__(self, columns: Columns) -> None:
        self._columns = columns
        self.parts: dict[str, str] = {}

    @abstractmethod
    def _over(self, aggregate: str, window: Asked) -> str:
        """The text of an aggregate over the window's frame."""

    @abstractmethod
    def _first(self, window: Asked) -> str:
        """The first value of the frame."""

    @abstractmethod
    def _last(self, window: Asked) -> str:
        """The last value of the frame."""

    @abstractmethod
    def _float_sum(self, window: Asked) -> str:
        """The sum of floats, NaN where it has none."""

    @abstractmethod
    def _variance(self, window: Asked) -> str:
        """The sample variance, NULL of less than two values."""

    def part(self, aggregate: str, window: Asked) -> str:
        """The name of an aggregate over the window's frame; `{v}` in it is the value."""
        text = self._over(aggregate.format(v=f"_v{self._columns.series_of(window)}"), window)
        return self.parts.setdefault(text, f"_p{len(self.parts)}")

    def selected(self, *, tolerances: bool) -> str:
        """Every window, whether its sum overflowed, and the tolerances if asked for."""
        windows = self._columns.question.windows
        sums = self._columns.question.sums_integers
        found = [(w.name, self.answer(w)) for w in windows]
        found += [(f"_overflow_{w.name}", self._overflow(w)) for w in windows if w.name in sums]
        if tolerances:
            inexact = self._columns.question.adds_floats
            found += [(f"_scale_{w.name}", self._scale(w)) for w in inexact]
        return "".join(f",\n       {text} AS {quoted(name)}" for name, text in found)

    def answer(self, window: Asked) -> str:
        """The value of a window."""
        function = window.function
        if function == "count" and window.column is None and window.where is None:
            return self.part("count(*)", window)
        if function in ("count", "min", "max"):
            return self.part(f"{function}({{v}})", window)
        if function == "count_distinct":
            return self.part("count(DISTINCT {v})", window)
        if function == "quantile":
            return self.part(f"quantile_disc({{v}}, {exact_decimal(window.parameter)})", window)
        if function == "top_k":
            return f"most_frequent({self.part('histogram({v})', window)}, {int(window.parameter)})"
        if function in _SPREADS:
            spread = self._variance(window)
            return f"sqrt({spread})" if function == "std" else spread
        return {"first": self._first, "last": self._last, "sum": self._sum, "mean": self._mean}[
            function
        ](window)

    def _sum(self, window: Asked) -> str:
        if self._columns.is_float(self._columns.series_of(window)):
            return f"no_nan({self._float_sum(window)})"
        total = self.part("sum({v})", window)
        return f"CASE WHEN {total} BETWEEN {INT64_MIN} AND {INT64_MAX} THEN {total}::BIGINT END"

    def _mean(self, window: Asked) -> str:
        if self._columns.is_float(self._columns.series_of(window)):
            total = self._float_sum(window)
        else:
            total = f"{self.part('sum({v})', window)}::DOUBLE"
        return f"no_nan({total} / {self.part('count({v})', window)})"

    def _overflow(self, window: Asked) -> str:
        total = self.part("sum({v})", window)
        return f"coalesce({total} NOT BETWEEN {INT64_MIN} AND {INT64_MAX}, false)"

    def _scale(self, window: Asked) -> str:
        """The sum of |x|, of a mean divided by the count."""
        size = self.part("sum(abs({v}::DOUBLE))", window)
        return f"{size} / {self.part('count({v})', window)}" if window.function == "mean" else size


def exact_decimal(q: float) -> str:
    """A quantile as the decimal that was written: DuckDB ranks by those in whole numbers."""
    return f"{max(Decimal(repr(q)), _Q_MIN):f}"
