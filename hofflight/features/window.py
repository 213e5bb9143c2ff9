"""Windows: an aggregate over a frame of the entity's own past, declared, never coded.

```python
hof.mean("amount").over("30d")  # the last 30 days, this event included
hof.sum("amount").over("30d", tile="1h")  # the tail rounded down to whole hours
hof.count_distinct("category").over("1h", own_row=False)
hof.max("amount", where=hof.col("category") == "food").last(100)
hof.count().tumbling("1h"), hof.count().session("5m"), hof.sum("amount").lifetime()
```
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

import pyarrow as pa

from hofflight import limits
from hofflight.errors import InvalidDuration, InvalidWindow, WrongType
from hofflight.features.expression import Column, Expression, columns_of, type_of, unknown_column
from hofflight.wire.schema import COLUMN_TYPES, FLOATS, INTEGERS, TIMESTAMP

if TYPE_CHECKING:
    from collections.abc import Mapping

UNITS_US: Final = {
    "us": 1, "ms": 1_000, "s": 1_000_000, "m": 60_000_000, "h": 3_600_000_000,
    "d": 86_400_000_000, "w": 604_800_000_000,
}  # fmt: skip
NUMBERS: Final = frozenset((*INTEGERS, *FLOATS))
ORDERED: Final = NUMBERS | {pa.string(), TIMESTAMP, pa.date32()}
ANY: Final = COLUMN_TYPES
# What each aggregate may be taken of.
takes: Final[dict[str, frozenset[pa.DataType]]] = {
    "count": ANY, "first": ANY, "last": ANY, "count_distinct": ANY, "top_k": ANY,
    "min": ORDERED, "max": ORDERED,
    "sum": NUMBERS, "mean": NUMBERS, "var": NUMBERS, "std": NUMBERS, "quantile": NUMBERS,
}  # fmt: skip
# These need the values themselves: there is no small partial to keep for settled rows.
HOLISTIC: Final = frozenset(("count_distinct", "quantile", "top_k"))
FrameKind = Literal["sliding", "last", "tumbling", "session", "lifetime"]


def duration_us(text: str, where: str = "duration") -> int:
    """Microseconds of a duration such as `10m`, `1h30m` is not one: one number, one unit.

    Raises:
        InvalidDuration: HOF-104.
    """
    match = re.fullmatch(r"([0-9]{1,18})(us|ms|s|m|h|d|w)", text) if isinstance(text, str) else None
    value = int(match[1]) * UNITS_US[match[2]] if match else 0
    if not 0 < value <= limits.duration_us_max:
        msg = f"{where} must be a positive duration of at most 100 years, got {text!r}"
        raise InvalidDuration(msg, hint="a number and one of us ms s m h d w, such as '10m'")
    return value


def duration_text(us: int) -> str:
    """The shortest text that `duration_us` reads back: 600000000 is `10m`."""
    unit = next(u for u in ("w", "d", "h", "m", "s", "ms", "us") if us % UNITS_US[u] == 0)
    return f"{us // UNITS_US[unit]}{unit}"


@dataclass(frozen=True, slots=True)
class Frame:
    """Which of the visible rows a window takes; r, the row that asks, is the last of them.

    sliding   s.ts > r.ts - size_us; with tile_us: s.ts >= floor((r.ts - size_us) / tile) * tile
    last      the last `rows` rows
    tumbling  the same floor(ts / size_us)
    session   the longest suffix whose neighbours are less than size_us apart
    lifetime  all
    """

    kind: FrameKind
    size_us: int = 0
    tile_us: int = 0
    rows: int = 0
    own_row: bool = True

    def __str__(self) -> str:
        size = duration_text(self.size_us) if self.size_us else ""
        tile = f", tile={duration_text(self.tile_us)}" if self.tile_us else ""
        own = "" if self.own_row else ", own_row=False"
        shown = {"sliding": f"over({size}{tile}", "last": f"last({self.rows}"}
        return shown.get(self.kind, f"{self.kind}({size}") + f"{own})"


@dataclass(frozen=True, slots=True, eq=False)
class Window:
    """One window column: `function` of `column` over `frame`, for rows where `where` is true.

    `parameter` is q of `quantile` and k of `top_k`.
    """

    function: str
    frame: Frame
    column: str | None = None
    where: Expression | None = None
    parameter: float = 0

    def __str__(self) -> str:
        parts = [p for p in (self.column, repr(self.parameter) if self.parameter else "") if p]
        if self.where is not None:
            parts.append(f"where={self.where}")
        return f"{self.function}({', '.join(parts)}).{self.frame}"

    def result_type(self, columns: Mapping[str, pa.DataType], name: str) -> pa.DataType:
        """The Arrow type of the window column over these raw and transformed columns.

        Raises:
            UnknownColumn: HOF-102.
            WrongType: HOF-103, an aggregate of a type it has no meaning for.
            InvalidWindow: HOF-105, no exact and bounded answer exists.
        """
        place = f"window {name!r}"
        if self.frame.kind == "lifetime" and self.function in HOLISTIC:
            msg = f"{place}: {self.function} over a lifetime needs every value ever seen"
            raise InvalidWindow(msg, hint="use over('365d') or another bounded window")
        if self.where is not None and type_of(self.where, columns, place) != pa.bool_():
            msg = f"{place}: where= must be true or false, {self.where} is not"
            raise WrongType(msg)
        if self.column is None:
            return pa.int64()
        if self.column not in columns:
            raise unknown_column(self.column, columns, place)
        column_type = columns[self.column]
        if column_type not in takes[self.function]:
            msg = f"{place}: {self.function} of {self.column!r} is not defined for {column_type}"
            raise WrongType(msg, hint="count it with where=, or turn it into a number in output=")
        return _result_type(self.function, column_type)

    def columns_read(self) -> tuple[str, ...]:
        """Names of the columns that the window needs."""
        where = columns_of(self.where) if self.where is not None else ()
        return tuple(dict.fromkeys(((self.column,) if self.column else ()) + where))


def _result_type(function: str, column_type: pa.DataType) -> pa.DataType:
    if function in ("count", "count_distinct"):
        return pa.int64()
    if function in ("mean", "var", "std"):
        return pa.float64()
    if function == "sum":
        return pa.int64() if column_type in INTEGERS else pa.float64()
    return pa.list_(column_type) if function == "top_k" else column_type


@dataclass(frozen=True, slots=True)
class Aggregate:
    """An aggregate that still needs its frame: call `over`, `last`, `tumbling`, `session`, ..."""

    function: str
    column: str | None = None
    where: Expression | None = None
    parameter: float = 0

    def _framed(self, frame: Frame) -> Window:
        return Window(self.function, frame, self.column, self.where, self.parameter)

    def over(self, size: str, *, tile: str | None = None, own_row: bool = True) -> Window:
        """The rows of the last `size`; with `tile`, the tail is rounded down to whole tiles.

        Raises:
            InvalidDuration: HOF-104.
            InvalidWindow: HOF-105, the tile is longer than the window.
        """
        size_us = duration_us(size, "over()")
        tile_us = duration_us(tile, "tile=") if tile is not None else 0
        if tile_us > size_us:
            msg = f"tile={tile!r} is longer than the window {size!r}"
            raise InvalidWindow(msg, hint="a tile is a fraction of the window, such as '1h' of 30d")
        return self._framed(Frame("sliding", size_us, tile_us, own_row=own_row))

    def last(self, rows: int, *, own_row: bool = True) -> Window:
        """The last `rows` rows of the key; null values and `where` are left out afterwards.

        Raises:
            InvalidWindow: HOF-105.
        """
        if isinstance(rows, bool) or not isinstance(rows, int):
            msg = f"last() takes a number of rows, got {rows!r}"
            raise InvalidWindow(msg)
        if not 1 <= rows <= limits.last_rows_max:
            msg = f"last() takes 1 to {limits.last_rows_max} rows, got {rows}"
            raise InvalidWindow(msg)
        return self._framed(Frame("last", rows=rows, own_row=own_row))

    def tumbling(self, size: str, *, own_row: bool = True) -> Window:
        """The rows of the current interval of length `size`, counted from 1970, so far."""
        return self._framed(Frame("tumbling", duration_us(size, "tumbling()"), own_row=own_row))

    def session(self, gap: str, *, own_row: bool = True) -> Window:
        """The rows since the last pause of `gap` or longer."""
        return self._framed(Frame("session", duration_us(gap, "session()"), own_row=own_row))

    def lifetime(self, *, own_row: bool = True) -> Window:
        """Every row of the key, ever."""
        return self._framed(Frame("lifetime", own_row=own_row))


Where = Expression | str | None


def _aggregate(function: str, column: str | None, where: Where, parameter: float = 0) -> Aggregate:
    if column is not None and not isinstance(column, str):
        msg = f"{function}() takes the name of a column, got {column!r}"
        raise WrongType(msg, hint="put an expression into output= and aggregate that column")
    if isinstance(where, str):
        where = Column(where)
    if where is not None and not isinstance(where, Expression):
        msg = f"where= takes an expression or the name of a boolean column, got {where!r}"
        raise WrongType(msg)
    return Aggregate(function, column, where, parameter)


def count(column: str | None = None, *, where: Where = None) -> Aggregate:
    """Rows, or non-null values of `column`: int64, 0 when there are none."""
    return _aggregate("count", column, where)


def sum(column: str, *, where: Where = None) -> Aggregate:
    """Sum: int64 of integers (past it null, status OVERFLOW), else float64, correctly rounded.

    A float sum is what `math.fsum` gives: it carries no trace of values that left the window.
    """
    return _aggregate("sum", column, where)


def mean(column: str, *, where: Where = None) -> Aggregate:
    """Arithmetic mean, float64: the exact sum, divided by the count."""
    return _aggregate("mean", column, where)


def min(column: str, *, where: Where = None) -> Aggregate:
    """Smallest value, of the column's type."""
    return _aggregate("min", column, where)


def max(column: str, *, where: Where = None) -> Aggregate:
    """Largest value, of the column's type."""
    return _aggregate("max", column, where)


def var(column: str, *, where: Where = None) -> Aggregate:
    """Sample variance, float64; null for fewer than two values."""
    return _aggregate("var", column, where)


def std(column: str, *, where: Where = None) -> Aggregate:
    """Sample standard deviation, float64; null for fewer than two values."""
    return _aggregate("std", column, where)


def first(column: str, *, where: Where = None) -> Aggregate:
    """Value of the first row by (event time, arrival), of the column's type."""
    return _aggregate("first", column, where)


def last(column: str, *, where: Where = None) -> Aggregate:
    """Value of the last row by (event time, arrival), of the column's type."""
    return _aggregate("last", column, where)


def count_distinct(column: str, *, where: Where = None) -> Aggregate:
    """Number of different values, exact: int64, 0 when there are none."""
    return _aggregate("count_distinct", column, where)


def quantile(column: str, q: float, *, where: Where = None) -> Aggregate:
    """Smallest value whose rank is at least ceil(q n): exact, of the column's type.

    Raises:
        InvalidWindow: HOF-105, q is not in (0, 1].
    """
    if isinstance(q, bool) or not isinstance(q, int | float) or not 0 < q <= 1:
        msg = f"quantile() takes 0 < q <= 1, got {q!r}"
        raise InvalidWindow(msg)
    return _aggregate("quantile", column, where, float(q))


def top_k(column: str, k: int, *, where: Where = None) -> Aggregate:
    """List of the k most frequent values, by count descending, then value ascending.

    Raises:
        InvalidWindow: HOF-105, k is not in 1 to 1,000.
    """
    if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= limits.top_k_max:
        msg = f"top_k() takes 1 to {limits.top_k_max}, got {k!r}"
        raise InvalidWindow(msg)
    return _aggregate("top_k", column, where, k)
