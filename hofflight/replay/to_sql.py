"""Windows as SQL: what the design says in words, said again in DuckDB's language.

It shares no code with the engine that serves, which is its whole value: it proves something. The
generated text reads in this order:

| relation | what |
|---|---|
| `timed` | every row, and whether it is `late` |
| `visible` | rows that are not late; `o`, their order by (ts, seq) in one number; values |
| `plain` | window functions; right for every row but the *odd* ones |
| `seen` | for each odd row its V(r), by a join, word by word; `odd` answers from lists of it |

`o` is ts * 4096 + the row's place in its microsecond, counted from the earliest row: RANGE takes
one ORDER BY, and with plain `ts` it would take in ties that came later. 71 years fit a signed
integer, for which DuckDB is fastest; more of them an unsigned one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from hofflight import limits
from hofflight.replay.odd_rows import OddRows
from hofflight.replay.prepared import SEQ, TS
from hofflight.replay.sql_shape import (
    FLOATS,
    INT64_MAX,
    SPREADS,
    Shape,
    int64_or_null,
    leaves_int64,
    quantile_of,
    quoted,
    top_k_of,
)

if TYPE_CHECKING:
    from hofflight.features.window import Frame
    from hofflight.replay.prepared import Asked, AsOf, Question

TIES: Final = limits.ties_max
# A variance loses what the mean is larger than the spread; up to here some seven of sixteen digits.
CONDITION_MAX: Final = 1e5

MACROS: Final = """
CREATE OR REPLACE MACRO floor_div(a, b) AS (a - ((a % b) + b) % b) // b;
CREATE OR REPLACE MACRO no_nan(x) AS CASE WHEN isnan(x) THEN NULL ELSE x END;
-- The power of two that brings the largest value near 1: exact, so nothing is rounded by it.
CREATE OR REPLACE MACRO power_for(big) AS
    CASE WHEN big = 0 THEN 1.0 ELSE pow(2.0, greatest(-1023, least(1023, -ceil(log2(big))))) END;
CREATE OR REPLACE MACRO scale_of(l) AS
    power_for(list_max(list_transform(l, lambda x: abs(x))));
CREATE OR REPLACE MACRO finite_sum(l) AS
    list_sum(list_transform(l, lambda x: x * scale_of(l))) / scale_of(l);
CREATE OR REPLACE MACRO infinite(l, sign) AS list_contains(l, (sign || 'inf')::DOUBLE);
CREATE OR REPLACE MACRO exact_sum(l) AS
    CASE WHEN len(l) = 0 OR (infinite(l, '+') AND infinite(l, '-')) THEN NULL
         WHEN infinite(l, '+') THEN 'inf'::DOUBLE
         WHEN infinite(l, '-') THEN '-inf'::DOUBLE
         ELSE finite_sum(l) END;
-- Two passes, with what the rounded mean left over taken out again.
CREATE OR REPLACE MACRO around(l, s) AS
    list_transform(l, lambda x: x * s - list_avg(list_transform(l, lambda y: y * s)));
CREATE OR REPLACE MACRO squares(d) AS
    list_sum(list_transform(d, lambda x: x * x)) - list_sum(d) * list_sum(d) / len(d);
CREATE OR REPLACE MACRO exact_var(l) AS
    CASE WHEN len(l) < 2 OR infinite(l, '+') OR infinite(l, '-') THEN NULL
         ELSE greatest(squares(around(l, scale_of(l))), 0)
              / (len(l) - 1) / scale_of(l) / scale_of(l) END;
CREATE OR REPLACE MACRO ranked(h, k) AS
    list_transform(list_slice(list_sort(list_transform(
        map_entries(h), lambda e: {'n': -(e.value::BIGINT), 'v': e.key})), 1, k), lambda s: s.v);
"""


class Facts(NamedTuple):
    """What the text depends on: the first and last event time, and whether rows came in order."""

    low_us: int
    high_us: int
    in_order: bool


def facts_query(question: Question, source: str) -> str:
    """One row of `Facts`: nulls where there is no row."""
    keys = ", ".join(question.keys)
    return f"""
SELECT min({TS}), max({TS}), NOT coalesce(bool_or({TS} < before), false)
FROM (SELECT {TS}, lag({TS}) OVER (PARTITION BY {keys} ORDER BY {SEQ}) AS before
      FROM {quoted(source)})"""


class Sql:
    """The statements for one question over the relation `source`."""

    def __init__(
        self,
        question: Question,
        as_of: AsOf,
        source: str,
        facts: Facts,
        *,
        tolerances: bool = False,
    ) -> None:
        self._shape = Shape(question, as_of, tolerances)
        self._source = quoted(source)
        self._facts = facts
        self._span_us = facts.high_us - facts.low_us
        # A frame reaches back from the last moment as far as to one span before the first.
        self._order = "BIGINT" if (self._span_us + 1) * TIES < INT64_MAX else "UBIGINT"

    def timed(self) -> str:
        """Every row, and whether it is late: never, where rows came in order."""
        if self._facts.in_order:
            return f"SELECT *, false AS late FROM {self._source}"
        return f"""
SELECT * EXCLUDE newest, coalesce({TS} < newest - {self._shape.question.late_us}, false) AS late
FROM (SELECT *, max({TS}) OVER (PARTITION BY {self._shape.keys} ORDER BY {SEQ}
        ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS newest FROM {self._source})"""

    def visible(self) -> str:
        """Rows that are not late, in one order, a value a series; `odd`: RANGE is wrong there."""
        by_time = f"(PARTITION BY {self._shape.keys} ORDER BY {TS}, {SEQ})"
        values = ", ".join(
            [f"{self._value(*series)} AS _v{n}" for n, series in enumerate(self._shape.series)]
        )
        breaks = "".join(
            f", coalesce({TS} - lag({TS}) OVER {by_time} >= {gap}, false)::INT AS _b{n}"
            for n, gap in enumerate(self._shape.sessions)
        )
        sessions = "".join(
            f", sum(_b{n}) OVER {by_time} AS _s{n}" for n, _ in enumerate(self._shape.sessions)
        )
        return f"""
SELECT {self._shape.keys}, {TS}, {SEQ}, tie, odd, {self._moment(TS)} + tie AS o
       {", " + values if values else ""}{sessions}
FROM (SELECT *, (row_number() OVER {by_time}
               - rank() OVER (PARTITION BY {self._shape.keys} ORDER BY {TS}))::{self._order} AS tie,
             {self._odd(by_time)} AS odd{breaks}
      FROM timed WHERE NOT late)"""

    def _moment(self, ts: str) -> str:
        """The order of the first row of a microsecond, from 1 on."""
        return f"(({ts} - ({self._facts.low_us}) + 1)::{self._order} * {TIES})"

    def _odd(self, by_time: str) -> str:
        if self._shape.as_of == "event":  # V(r) goes on after r, to the end of its microsecond
            return f"coalesce(lead({TS}) OVER {by_time} = {TS}, false)"
        if self._facts.in_order:
            return "false"
        return (
            f"coalesce(min({TS}) OVER (PARTITION BY {self._shape.keys} ORDER BY {SEQ} "
            f"ROWS BETWEEN 1 FOLLOWING AND UNBOUNDED FOLLOWING) < {TS}, false)"
        )

    def _value(self, column: str | None, where: str | None) -> str:
        """A series: null, NaN and what `where` leaves out are NULL, -0.0 is 0.0."""
        value = "true"
        if column is not None:
            value = quoted(column)
            kind = FLOATS.get(self._shape.question.schema.field(column).type)
            if kind is not None:
                value = f"no_nan({value} + 0::{kind})"
        return value if where is None else f"CASE WHEN {quoted(where)} THEN {value} END"

    # --- plain rows -------------------------------------------------------------------------------

    def plain(self) -> str:
        """Window functions for every visible row, finished; `_ill`: the odd way is needed."""
        parts: dict[str, str] = {}
        columns = [
            f"{self._finished(w, parts)} AS {quoted(w.name)}" for w in self._shape.question.windows
        ]
        columns += self._overflows(parts)
        columns += self._scales(parts)
        ill = [text for w in self._shape.question.windows if (text := self._ill(w, parts))]
        inner = "".join(f",\n       {text} AS {name}" for text, name in parts.items())
        windows = ",\n       ".join(
            f"f{n} AS ({self._clause(frame)})" for n, frame in enumerate(self._shape.frames)
        )
        shifts = self._shifted()
        return f"""
SELECT {SEQ}, odd OR {" OR ".join(ill) if ill else "false"} AS odd,
       {", ".join(columns)}
FROM (SELECT {SEQ}, odd{inner}
      FROM {shifts}
      WINDOW {windows})"""

    def _clause(self, frame: Frame) -> str:
        end = "CURRENT ROW" if frame.own_row else "1 PRECEDING"
        keys = self._shape.keys
        if frame.kind == "sliding" and frame.tile_us:
            low = f"floor_div({TS} - {frame.size_us}, {frame.tile_us}) * {frame.tile_us}"
            low = self._moment(f"greatest({low}, {self._facts.low_us})")
            return f"PARTITION BY {keys} ORDER BY o RANGE BETWEEN o - {low} PRECEDING AND {end}"
        if frame.kind == "sliding":
            # Further back than the first row there is nothing, and no number either.
            back = f"{min(frame.size_us - 1, self._span_us) * TIES}::{self._order} + tie"
            if self._order == "UBIGINT":
                back = f"least({back}, o)"
            return f"PARTITION BY {keys} ORDER BY o RANGE BETWEEN {back} PRECEDING AND {end}"
        start = f"{frame.rows - 1}" if frame.kind == "last" else "UNBOUNDED"
        if frame.kind == "tumbling":
            keys += f", floor_div({TS}, {frame.size_us})"
        elif frame.kind == "session":
            keys += f", _s{self._shape.sessions.index(frame.size_us)}"
        return f"PARTITION BY {keys} ORDER BY o ROWS BETWEEN {start} PRECEDING AND {end}"

    def _shifted(self) -> str:
        """`visible`, with `_y`: the values of a spread, as distances from some value of their key.

        Of integers they are exact, of floats they keep the digits that matter.
        """
        spreads = dict.fromkeys(
            self._shape.series_of(w) for w in self._shape.question.windows if w.function in SPREADS
        )
        if not spreads:
            return "visible"
        shifts = []
        for n in spreads:
            value = f"_v{n}::DOUBLE" if self._shape.is_float(n) else f"_v{n}::HUGEINT"
            good = (
                f"CASE WHEN isfinite(_v{n}) THEN {value} END" if self._shape.is_float(n) else value
            )
            over = f"(PARTITION BY {self._shape.keys} ORDER BY o)"
            first = f"first_value({good} IGNORE NULLS) OVER {over}"
            shifts.append(f"({value} - coalesce({first}, 0))::DOUBLE AS _y{n}")
        return f"(SELECT *, {', '.join(shifts)} FROM visible)"

    def _part(self, parts: dict[str, str], function: str, window: Asked, prefix: str = "_v") -> str:
        """The name of an aggregate over the window's frame; each is asked for once."""
        n = self._shape.series_of(window)
        is_rows = window.column is None and window.where is None
        argument = "*" if is_rows and function == "count({})" else f"{prefix}{n}"
        text = f"{function.format(argument)} OVER f{self._shape.frame_of(window)}"
        return parts.setdefault(text, f"_p{len(parts)}")

    def _finished(self, window: Asked, parts: dict[str, str]) -> str:
        function = window.function
        if function in ("count", "min", "max"):
            return self._part(parts, function + "({})", window)
        if function == "count_distinct":
            return self._part(parts, "count(DISTINCT {})", window)
        if function in ("first", "last"):
            return self._part(parts, function + "_value({} IGNORE NULLS)", window)
        if function == "quantile":
            values = self._part(parts, "list({})", window)
            return quantile_of(f"list_filter({values}, lambda x: x IS NOT NULL)", window.parameter)
        if function == "top_k":
            return top_k_of(self._part(parts, "histogram({})", window), window.parameter)
        if function in SPREADS:
            spread = self._part(parts, "var_samp({})", window, "_y")
            return f"sqrt({spread})" if function == "std" else spread
        total = self._part(parts, "sum({})", window)
        if function == "mean":
            return f"no_nan({total}::DOUBLE / {self._part(parts, 'count({})', window)})"
        return (
            f"no_nan({total})"
            if self._shape.is_float(self._shape.series_of(window))
            else int64_or_null(total)
        )

    def _overflows(self, parts: dict[str, str]) -> list[str]:
        return [
            f"{leaves_int64(self._part(parts, 'sum({})', w))} AS {quoted(f'_overflow_{w.name}')}"
            for w in self._shape.question.windows
            if w.name in self._shape.question.sums_integers
        ]

    def _scales(self, parts: dict[str, str]) -> list[str]:
        """The sum of |x|, for the declared tolerance; of a mean divided by the count."""
        found = []
        for w in self._shape.with_scale():
            size = self._part(parts, "sum(abs({}::DOUBLE))", w)
            if w.function == "mean":
                size = f"{size} / {self._part(parts, 'count({})', w)}"
            found.append(f"{size} AS {quoted(f'_scale_{w.name}')}")
        return found

    def _ill(self, window: Asked, parts: dict[str, str]) -> str:
        """When a window function's own arithmetic is not good enough."""
        if window.function in SPREADS:
            spread = self._part(parts, "var_samp({})", window, "_y")
            mean = self._part(parts, "avg({})", window, "_y")
            count = self._part(parts, "count({})", window)
            ill = f"NOT isfinite({spread}) OR {mean} * {mean} > {CONDITION_MAX} * {spread}"
            tiny = f"{mean} * {mean} BETWEEN 0 AND 1e-200 AND {mean} <> 0"
            return f"({count} > 1 AND coalesce({ill} OR {spread} < 1e-200 OR {tiny}, true))"
        if window.function in ("sum", "mean") and self._shape.is_float(
            self._shape.series_of(window)
        ):
            return f"coalesce(NOT isfinite({self._part(parts, 'sum({})', window)}), false)"
        return ""

    # --- all rows ---------------------------------------------------------------------------------

    def answers(self, *, some_odd: bool, some_late: bool) -> str:
        """Every row once: plain, odd, and late ones with nothing but nulls."""
        parts = [f"SELECT false AS _late, * EXCLUDE odd FROM plain{' WHERE NOT odd' * some_odd}"]
        if some_odd:
            parts.append(f"SELECT false AS _late, * FROM ({OddRows(self._shape).answers()})")
        if some_late:
            flags = "".join(
                f", false AS {quoted(f'_overflow_{name}')}"
                for name in self._shape.question.sums_integers
            )
            parts.append(f"SELECT true AS _late, {SEQ}{flags} FROM timed WHERE late")
        return " UNION ALL BY NAME ".join(parts)
