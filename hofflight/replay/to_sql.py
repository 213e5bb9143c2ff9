"""Windows as SQL: what the design says in words, said again in DuckDB's language.

It shares no code with the engine that serves, which is its whole value: it proves something. The
generated text reads in this order:

| relation | what |
|---|---|
| `timed` | every row, and whether it is `late` |
| `visible` | rows that are not late; `o`, their order by (ts, seq) in one number; values |
| `plain` | window functions; right for every row but the *odd* ones |
| `odd` | answers of the odd rows, by a join of each with what it sees (`odd_rows`) |
| `answers` | every row once: plain, odd, and late ones with nothing but nulls |

`o` is ts * 4096 + the row's place in its microsecond, counted from the earliest row: RANGE takes
one ORDER BY, and with plain `ts` it would take in ties that came later. 71 years fit a signed
integer, for which DuckDB is fastest; more of them an unsigned one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from hofflight import limits
from hofflight.replay.odd_rows import odd_statement
from hofflight.replay.prepared import SEQ, TS
from hofflight.replay.sql_shape import INT64_MAX, Answers, Columns, quoted

if TYPE_CHECKING:
    from collections.abc import Collection

    from hofflight.features.window import Frame
    from hofflight.replay.prepared import Asked, AsOf, Question

# A variance loses what the mean is larger than the spread; up to here some seven of sixteen digits.
CONDITION_MAX: Final = 1e5
# Squares, and sums of any number of values, stay far inside of a double's range between these.
ORDINARY: Final = "_v{n} = 0 OR abs(_v{n}) BETWEEN 1e-100 AND 1e100"


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
        self._question = question
        self._as_of = as_of
        self._source = quoted(source)
        self._tolerances = tolerances
        self._columns = Columns(question)
        self._facts = facts
        self._span_us = facts.high_us - facts.low_us
        # A frame reaches back from the last moment as far as to one span before the first.
        is_small = (self._span_us + 1) * limits.ties_max < INT64_MAX
        self._order = "BIGINT" if is_small else "UBIGINT"

    def timed(self) -> str:
        """Every row, and whether it is late: never, where rows came in order.

        Prepared columns alone, which no user can have named: `source` may have others.
        """
        names = ", ".join(self._question.schema.names)
        if self._facts.in_order:
            return f"SELECT {names}, false AS late FROM {self._source}"
        return f"""
SELECT * EXCLUDE newest, coalesce({TS} < newest - {self._question.late_us}, false) AS late
FROM (SELECT {names}, max({TS}) OVER (PARTITION BY {self._columns.keys} ORDER BY {SEQ}
        ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS newest FROM {self._source})"""

    def visible(self) -> str:
        """Rows that are not late, in one order, a value a series; `moved`: RANGE is wrong there."""
        keys, gaps = self._columns.keys, self._columns.gaps
        pauses = "".join(
            f",\n             coalesce({TS} - lag({TS}) OVER by_time >= {gap}, false)::INT AS _b{n}"
            for n, gap in enumerate(gaps)
        )
        values = "".join(
            f",\n       {self._columns.value(n)} AS _v{n}"
            for n, _ in enumerate(self._columns.series)
        )
        sessions = "".join(
            f",\n       sum(_b{n}) OVER (PARTITION BY {keys} ORDER BY {TS}, {SEQ}) AS _s{n}"
            for n, _ in enumerate(gaps)
        )
        return f"""
SELECT {keys}, {TS}, {SEQ}, tie, moved, {self._moment(TS)} + tie AS o{values}{sessions}
FROM (SELECT *, (row_number() OVER by_time
               - rank() OVER (PARTITION BY {keys} ORDER BY {TS}))::{self._order} AS tie,
             {self._moved()} AS moved{pauses}
      FROM timed WHERE NOT late
      WINDOW by_time AS (PARTITION BY {keys} ORDER BY {TS}, {SEQ}))"""

    def _moment(self, ts: str) -> str:
        """The order of the first row of a microsecond, from 1 on."""
        return f"(({ts} - ({self._facts.low_us}) + 1)::{self._order} * {limits.ties_max})"

    def _moved(self) -> str:
        if self._as_of == "event":  # V(r) goes on after r, to the end of its microsecond
            return f"coalesce(lead({TS}) OVER by_time = {TS}, false)"
        if self._facts.in_order:
            return "false"
        return (
            f"coalesce(min({TS}) OVER (PARTITION BY {self._columns.keys} ORDER BY {SEQ} "
            f"ROWS BETWEEN 1 FOLLOWING AND UNBOUNDED FOLLOWING) < {TS}, false)"
        )

    def extremes(self) -> str:
        """One row: the largest tie, then for each series of added floats whether it is wide.

        The order is that of `Columns.added_floats`.
        """
        wide = "".join(
            f", coalesce(NOT bool_and({ORDINARY.format(n=n)}), false)"
            for n in self._columns.added_floats()
        )
        return f"SELECT coalesce(max(tie), 0){wide} FROM visible"

    def plain(self, wide: Collection[bool]) -> str:
        """Window functions for every visible row; `_odd`: they are not good enough for it.

        `wide`: what `extremes` said.
        """
        columns = self._columns
        numbers = columns.added_floats()
        answers = OverFrames(columns, {n for n, is_so in zip(numbers, wide, strict=True) if is_so})
        selected = answers.selected(tolerances=self._tolerances)
        ill = [text for w in self._question.windows if (text := answers.ill(w))]
        odd = " OR ".join(["moved", *dict.fromkeys(ill)])
        parts = "".join(f",\n         {text} AS {name}" for text, name in answers.parts.items())
        frames = ",\n         ".join(
            f"f{n} AS ({self._clause(frame)})" for n, frame in enumerate(columns.frames)
        )
        named = f"\n  WINDOW {frames}" if frames else ""
        return f"""
SELECT {SEQ}, {odd} AS _odd{selected}
FROM (SELECT {SEQ}, moved{parts}
  FROM {self._shifted()}{named})"""

    def _clause(self, frame: Frame) -> str:
        end = "CURRENT ROW" if frame.own_row else "1 PRECEDING"
        keys = self._columns.keys
        if frame.kind == "sliding" and frame.tile_us:
            low = f"floor_div({TS} - {frame.size_us}, {frame.tile_us}) * {frame.tile_us}"
            low = self._moment(f"greatest({low}, {self._facts.low_us})")
            return f"PARTITION BY {keys} ORDER BY o RANGE BETWEEN o - {low} PRECEDING AND {end}"
        if frame.kind == "sliding":
            # Further back than the first row there is nothing, and no number either.
            size_us = min(frame.size_us - 1, self._span_us)
            back = f"{size_us * limits.ties_max}::{self._order} + tie"
            if self._order == "UBIGINT":
                back = f"least({back}, o)"
            return f"PARTITION BY {keys} ORDER BY o RANGE BETWEEN {back} PRECEDING AND {end}"
        start = f"{frame.rows - 1}" if frame.kind == "last" else "UNBOUNDED"
        if frame.kind == "tumbling":
            keys += f", floor_div({TS}, {frame.size_us})"
        elif frame.kind == "session":
            keys += f", _s{self._columns.gaps.index(frame.size_us)}"
        return f"PARTITION BY {keys} ORDER BY o ROWS BETWEEN {start} PRECEDING AND {end}"

    def _shifted(self) -> str:
        """`visible`, with `_y`: the values of a spread, as distances from the first of their key.

        Of integers they are exact, of floats they keep the digits that matter.
        """
        shifts = ""
        for n in self._columns.spreads():
            is_float = self._columns.is_float(n)
            value = f"_v{n}::DOUBLE" if is_float else f"_v{n}::HUGEINT"
            finite = f"CASE WHEN isfinite(_v{n}) THEN {value} END" if is_float else value
            first = f"first_value({finite} IGNORE NULLS) OVER "
            first += f"(PARTITION BY {self._columns.keys} ORDER BY o)"
            shifts += f",\n    ({value} - coalesce({first}, 0))::DOUBLE AS _y{n}"
        return f"(SELECT *{shifts}\n    FROM visible)" if shifts else "visible"

    def odd(self) -> str:
        """The answers of odd rows."""
        return odd_statement(self._columns, self._as_of, tolerances=self._tolerances)

    def answers(self, *, some_odd: bool, some_late: bool) -> str:
        """Every row once: plain, odd, and late ones with nothing but nulls."""
        where = "\nWHERE NOT _odd" if some_odd else ""
        parts = [f"SELECT false AS _late, * EXCLUDE _odd FROM plain{where}"]
        if some_odd:
            parts.append("SELECT false AS _late, * FROM odd")
        if some_late:
            flags = "".join(
                f", false AS {quoted(f'_overflow_{name}')}" for name in self._question.sums_integers
            )
            parts.append(f"SELECT true AS _late, {SEQ}{flags} FROM timed WHERE late")
        return "\nUNION ALL BY NAME ".join(parts)


class OverFrames(Answers):
    """Aggregates over the named windows `f0`..; of series that are not `wide` floats, safe ones."""

    def __init__(self, columns: Columns, wide: Collection[int]) -> None:
        super().__init__(columns)
        self._wide = wide

    def _over(self, aggregate: str, window: Asked) -> str:
        return f"{aggregate} OVER f{self._columns.frame_of(window)}"

    def _first(self, window: Asked) -> str:
        return self.part("first_value({v} IGNORE NULLS)", window)

    def _last(self, window: Asked) -> str:
        return self.part("last_value({v} IGNORE NULLS)", window)

    def _float_sum(self, window: Asked) -> str:
        return self.part("sum({v})", window)

    def _variance(self, window: Asked) -> str:
        """Of equal values exactly 0, which adding up may miss."""
        spread = self._of_distance("var_samp", window)
        return f"CASE WHEN {spread} IS NOT NULL AND {self._equal(window)} THEN 0 ELSE {spread} END"

    def ill(self, window: Asked) -> str:
        """When a window function's own arithmetic is not good enough; empty for never."""
        is_wide = self._columns.series_of(window) in self._wide
        if window.function in ("var", "std"):
            spread, mean = (self._of_distance(f, window) for f in ("var_samp", "avg"))
            good = f"{mean} * {mean} <= {CONDITION_MAX} * {spread}"
            if is_wide:
                # NaN is larger than any number here.
                good = f"{good} AND {spread} BETWEEN 1e-200 AND 1e200"
            else:
                good = f"{good} OR {self._equal(window)}"
            return f"({spread} IS NOT NULL AND NOT ({good}))"
        if window.function in ("sum", "mean") and is_wide:
            return f"coalesce(NOT isfinite({self.part('sum({v})', window)}), false)"
        return ""

    def _equal(self, window: Asked) -> str:
        """Whether all values of the frame are the same."""
        low, high = (self.part(f + "({v})", window) for f in ("min", "max"))
        return f"{low} = {high}"

    def _of_distance(self, function: str, window: Asked) -> str:
        return self.part(f"{function}(_y{self._columns.series_of(window)})", window)
