"""Windows as SQL: what the design says in words, said again in DuckDB's language.

It shares no code with the engine that serves, which is its whole value: it proves something. The
generated text reads in this order:

| relation | what |
|---|---|
| `timed` | every row, with `late`, and `backward`: an earlier arrival has a later time |
| `visible` | rows that are not late; `o`, their order by (ts, seq) in one number; values |
| `plain` | window functions; right for every row but the *odd* ones |
| `seen` | for each odd row its V(r), by a join, word by word; `odd` answers from lists of it |

`o` is (ts - 1900) * 4096 + the row's place in its microsecond: RANGE takes one ORDER BY, and with
plain `ts` it would take in ties that came later. An unsigned 64-bit integer holds it up to 2040.
"""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING, Final

import pyarrow as pa

from hofflight import limits
from hofflight.replay.prepared import SEQ, TS

if TYPE_CHECKING:
    from hofflight.features.window import Frame
    from hofflight.replay.prepared import Asked, AsOf, Question

INT64_MIN: Final = -(2**63)
INT64_MAX: Final = 2**63 - 1
TIES: Final = limits.ties_max
# A variance loses what the mean is larger than the spread; up to here some seven of sixteen digits.
CONDITION_MAX: Final = 1e5
_FLOATS: Final = {pa.float64(): "DOUBLE", pa.float32(): "FLOAT"}
_SPREADS: Final = frozenset(("var", "std"))
_ADDED: Final = frozenset(("sum", "mean", "var", "std"))

MACROS: Final = f"""
CREATE OR REPLACE MACRO floor_div(a, b) AS (a - ((a % b) + b) % b) // b;
-- The order of a moment: an unsigned number, 4,096 to a microsecond.
CREATE OR REPLACE MACRO moment(ts) AS
    (ts - ({limits.event_time_us_min}) + 1)::UBIGINT * {TIES};
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
        map_entries(h), lambda e: {{'n': -(e.value::BIGINT), 'v': e.key}})), 1, k), lambda s: s.v);
"""


def quoted(name: str) -> str:
    """An identifier, whatever is in it."""
    return '"' + name.replace('"', '""') + '"'


class Sql:
    """The statements for one question over the relation `source`."""

    def __init__(
        self, question: Question, as_of: AsOf, source: str, *, tolerances: bool = False
    ) -> None:
        self._question = question
        self._as_of = as_of
        self._source = quoted(source)
        self._tolerances = tolerances
        self._keys = ", ".join(question.keys)
        self._series = list(dict.fromkeys((w.column, w.where) for w in question.windows))
        self._frames = list(dict.fromkeys(w.frame for w in question.windows))
        self._sessions = sorted({f.size_us for f in self._frames if f.kind == "session"})

    def timed(self) -> str:
        """Every row with `late`, and `backward`: some earlier arrival has a later time."""
        return f"""
SELECT *, coalesce({TS} < newest - {self._question.late_us}, false) AS late,
       coalesce({TS} < newest, false) AS backward
FROM (SELECT *, max({TS}) OVER (PARTITION BY {self._keys} ORDER BY {SEQ}
        ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS newest FROM {self._source})"""

    def visible(self, *, in_order: bool) -> str:
        """Rows that are not late, in one order, a value a series; `odd`: RANGE is wrong for them.

        `in_order`: no row came after a later one, so none is odd as of arrival.
        """
        by_time = f"(PARTITION BY {self._keys} ORDER BY {TS}, {SEQ})"
        values = ", ".join(
            [f"{self._value(*series)} AS _v{n}" for n, series in enumerate(self._series)]
        )
        breaks = "".join(
            f", coalesce({TS} - lag({TS}) OVER {by_time} >= {gap}, false)::INT AS _b{n}"
            for n, gap in enumerate(self._sessions)
        )
        sessions = "".join(
            f", sum(_b{n}) OVER {by_time} AS _s{n}" for n, _ in enumerate(self._sessions)
        )
        return f"""
SELECT {self._keys}, {TS}, {SEQ}, tie, odd, moment({TS}) + tie::UBIGINT AS o
       {", " + values if values else ""}{sessions}
FROM (SELECT *, row_number() OVER {by_time}
               - rank() OVER (PARTITION BY {self._keys} ORDER BY {TS}) AS tie,
             {self._odd(by_time, in_order=in_order)} AS odd{breaks}
      FROM timed WHERE NOT late)"""

    def _odd(self, by_time: str, *, in_order: bool) -> str:
        if self._as_of == "event":  # V(r) goes on after r, to the end of its microsecond
            return f"coalesce(lead({TS}) OVER {by_time} = {TS}, false)"
        if in_order:
            return "false"
        return (
            f"coalesce(min({TS}) OVER (PARTITION BY {self._keys} ORDER BY {SEQ} "
            f"ROWS BETWEEN 1 FOLLOWING AND UNBOUNDED FOLLOWING) < {TS}, false)"
        )

    def _value(self, column: str | None, where: str | None) -> str:
        """A series: null, NaN and what `where` leaves out are NULL, -0.0 is 0.0."""
        value = "true"
        if column is not None:
            value = quoted(column)
            kind = _FLOATS.get(self._question.schema.field(column).type)
            if kind is not None:
                value = f"no_nan({value} + 0::{kind})"
        return value if where is None else f"CASE WHEN {quoted(where)} THEN {value} END"

    # --- plain rows -------------------------------------------------------------------------------

    def plain(self) -> str:
        """Window functions for every visible row, finished; `_ill`: the odd way is needed."""
        parts: dict[str, str] = {}
        columns = [
            f"{self._finished(w, parts)} AS {quoted(w.name)}" for w in self._question.windows
        ]
        columns += self._overflows(parts)
        columns += self._scales(parts)
        ill = [text for w in self._question.windows if (text := self._ill(w, parts))]
        inner = "".join(f",\n       {text} AS {name}" for text, name in parts.items())
        windows = ",\n       ".join(
            f"f{n} AS ({self._clause(frame)})" for n, frame in enumerate(self._frames)
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
        keys = self._keys
        if frame.kind == "sliding" and frame.tile_us:
            low = f"floor_div({TS} - {frame.size_us}, {frame.tile_us}) * {frame.tile_us}"
            low = f"moment(greatest({low}, {limits.event_time_us_min}))"
            return f"PARTITION BY {keys} ORDER BY o RANGE BETWEEN o - {low} PRECEDING AND {end}"
        if frame.kind == "sliding":
            back = f"least({(frame.size_us - 1) * TIES}::UBIGINT + tie::UBIGINT, o)"
            return f"PARTITION BY {keys} ORDER BY o RANGE BETWEEN {back} PRECEDING AND {end}"
        start = f"{frame.rows - 1}" if frame.kind == "last" else "UNBOUNDED"
        if frame.kind == "tumbling":
            keys += f", floor_div({TS}, {frame.size_us})"
        elif frame.kind == "session":
            keys += f", _s{self._sessions.index(frame.size_us)}"
        return f"PARTITION BY {keys} ORDER BY o ROWS BETWEEN {start} PRECEDING AND {end}"

    def _shifted(self) -> str:
        """`visible`, with `_y`: the values of a spread, as distances from some value of their key.

        Of integers they are exact, of floats they keep the digits that matter.
        """
        spreads = dict.fromkeys(
            self._of(w) for w in self._question.windows if w.function in _SPREADS
        )
        if not spreads:
            return "visible"
        shifts = []
        for n in spreads:
            value = f"_v{n}::DOUBLE" if self._is_float(n) else f"_v{n}::HUGEINT"
            good = f"CASE WHEN isfinite(_v{n}) THEN {value} END" if self._is_float(n) else value
            first = f"first_value({good} IGNORE NULLS) OVER (PARTITION BY {self._keys} ORDER BY o)"
            shifts.append(f"({value} - coalesce({first}, 0))::DOUBLE AS _y{n}")
        return f"(SELECT *, {', '.join(shifts)} FROM visible)"

    def _of(self, window: Asked) -> int:
        return self._series.index((window.column, window.where))

    def _is_float(self, series: int) -> bool:
        column = self._series[series][0]
        return column is not None and self._question.schema.field(column).type in _FLOATS

    def _part(self, parts: dict[str, str], function: str, window: Asked, prefix: str = "_v") -> str:
        """The name of an aggregate over the window's frame; each is asked for once."""
        n = self._of(window)
        is_rows = window.column is None and window.where is None
        argument = "*" if is_rows and function == "count({})" else f"{prefix}{n}"
        text = f"{function.format(argument)} OVER f{self._frames.index(window.frame)}"
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
            return _quantile(f"list_filter({values}, lambda x: x IS NOT NULL)", window.parameter)
        if function == "top_k":
            return _top_k(self._part(parts, "histogram({})", window), window.parameter)
        if function in _SPREADS:
            spread = self._part(parts, "var_samp({})", window, "_y")
            return f"sqrt({spread})" if function == "std" else spread
        total = self._part(parts, "sum({})", window)
        if function == "mean":
            return f"no_nan({total}::DOUBLE / {self._part(parts, 'count({})', window)})"
        return f"no_nan({total})" if self._is_float(self._of(window)) else _int64(total)

    def _overflows(self, parts: dict[str, str]) -> list[str]:
        return [
            f"{_leaves_int64(self._part(parts, 'sum({})', w))} AS {quoted(f'_overflow_{w.name}')}"
            for w in self._question.windows
            if w.name in self._question.sums_integers
        ]

    def _scales(self, parts: dict[str, str]) -> list[str]:
        """The sum of |x|, for the declared tolerance; of a mean divided by the count."""
        found = []
        for w in self._question.windows:
            if self._tolerances and w.function in _ADDED and w.type == pa.float64():
                size = self._part(parts, "sum(abs({}::DOUBLE))", w)
                if w.function == "mean":
                    size = f"{size} / {self._part(parts, 'count({})', w)}"
                found.append(f"{size} AS {quoted(f'_scale_{w.name}')}")
        return found

    def _ill(self, window: Asked, parts: dict[str, str]) -> str:
        """When a window function's own arithmetic is not good enough."""
        if window.function in _SPREADS:
            spread = self._part(parts, "var_samp({})", window, "_y")
            mean = self._part(parts, "avg({})", window, "_y")
            count = self._part(parts, "count({})", window)
            ill = f"NOT isfinite({spread}) OR {mean} * {mean} > {CONDITION_MAX} * {spread}"
            tiny = f"{mean} * {mean} BETWEEN 0 AND 1e-200 AND {mean} <> 0"
            return f"({count} > 1 AND coalesce({ill} OR {spread} < 1e-200 OR {tiny}, true))"
        if window.function in ("sum", "mean") and self._is_float(self._of(window)):
            return f"coalesce(NOT isfinite({self._part(parts, 'sum({})', window)}), false)"
        return ""

    # --- odd rows ---------------------------------------------------------------------------------

    def odd(self) -> str:
        """Answers of the rows that `plain` marked odd, from lists of what each row sees."""
        lists: dict[tuple[int, int], str] = {}
        columns = []
        for w in self._question.windows:
            values = f"coalesce({self._listed(w, lists)}, [])"
            columns.append(f"{self._of_list(w, values)} AS {quoted(w.name)}")
        for name in self._question.sums_integers:
            w = next(w for w in self._question.windows if w.name == name)
            total = f"list_sum(coalesce({self._listed(w, lists)}, []))"
            columns.append(f"{_leaves_int64(total)} AS {quoted(f'_overflow_{name}')}")
        columns += self._list_scales(lists)
        gathered = "".join(
            f",\n       list(_v{series} ORDER BY o) FILTER (WHERE in{frame} "
            f"AND _v{series} IS NOT NULL) AS {name}"
            for (series, frame), name in lists.items()
        )
        return f"""
SELECT r AS {SEQ}, {", ".join(columns)}
FROM (SELECT r{gathered} FROM ({self._seen()}) GROUP BY r)"""

    def _seen(self) -> str:
        """V(r) of each odd row, and in which of its frames each row of it is."""
        on = " AND ".join(f"s.{key} = r.{key}" for key in self._question.keys)
        arrived = f" AND s.{SEQ} <= r.{SEQ}" if self._as_of == "arrival" else ""
        reach = self._reach()
        near = "" if reach is None else f" AND s.{TS} >= r.{TS} - {reach}"
        runs = "".join(
            f", coalesce(lag(s.{TS}) OVER newest - s.{TS} >= {gap}, false)::INT AS g{n}"
            for n, gap in enumerate(self._sessions)
        )
        sums = "".join(
            f", sum(g{n}) OVER (PARTITION BY r ORDER BY o DESC) AS session{n}"
            for n, _ in enumerate(self._sessions)
        )
        inside = ", ".join(
            f"({self._inside(frame)}{'' if frame.own_row else f' AND {SEQ} <> r'}) AS in{n}"
            for n, frame in enumerate(self._frames)
        )
        return f"""
SELECT *, {inside} FROM (SELECT *{sums} FROM (
  SELECT s.*, r.{SEQ} AS r, r.{TS} AS r_ts, row_number() OVER newest AS back{runs}
  FROM (SELECT v.* FROM visible v JOIN plain USING ({SEQ}) WHERE plain.odd) r
  JOIN visible s ON {on} AND s.{TS} <= r.{TS}{arrived}{near}
  WINDOW newest AS (PARTITION BY r.{SEQ} ORDER BY s.o DESC)))"""

    def _inside(self, frame: Frame) -> str:
        size, tile = frame.size_us, frame.tile_us
        if frame.kind == "sliding" and tile:
            return f"{TS} >= floor_div(r_ts - {size}, {tile}) * {tile}"
        if frame.kind == "sliding":
            return f"{TS} > r_ts - {size}"
        if frame.kind == "last":
            return f"back <= {frame.rows}"
        if frame.kind == "tumbling":
            return f"floor_div({TS}, {size}) = floor_div(r_ts, {size})"
        if frame.kind == "session":
            return f"session{self._sessions.index(size)} = 0"
        return "true"

    def _reach(self) -> int | None:
        """How far back any frame looks; None where some frame is not bounded by time."""
        if any(f.kind in ("last", "session", "lifetime") for f in self._frames):
            return None
        return max(frame.size_us + frame.tile_us for frame in self._frames)

    def _listed(self, window: Asked, lists: dict[tuple[int, int], str]) -> str:
        place = (self._of(window), self._frames.index(window.frame))
        return lists.setdefault(place, f"_l{len(lists)}")

    def _of_list(self, window: Asked, values: str) -> str:
        """The aggregate of a list of values in the order of (ts, seq)."""
        function, is_float = window.function, self._is_float(self._of(window))
        if function == "quantile":
            return _quantile(values, window.parameter)
        if function == "top_k":
            return _top_k(f"list_aggregate({values}, 'histogram')", window.parameter)
        doubles = f"list_transform({values}, lambda x: x::DOUBLE)"
        if function in _SPREADS:
            if not is_float:  # integers around their first: exact, whatever their size
                doubles = f"list_transform({values}, lambda x: (x::HUGEINT - {values}[1])::DOUBLE)"
            return f"sqrt(exact_var({doubles}))" if function == "std" else f"exact_var({doubles})"
        if function == "sum":
            return f"exact_sum({doubles})" if is_float else _int64(f"list_sum({values})")
        if function == "mean":
            total = f"exact_sum({doubles})" if is_float else f"list_sum({values})::DOUBLE"
            return f"no_nan({total} / len({values}))"
        return {
            "count": f"len({values})", "count_distinct": f"len(list_distinct({values}))",
            "min": f"list_min({values})", "max": f"list_max({values})",
            "first": f"{values}[1]", "last": f"{values}[-1]",
        }[function]  # fmt: skip

    def _list_scales(self, lists: dict[tuple[int, int], str]) -> list[str]:
        found = []
        for w in self._question.windows:
            if self._tolerances and w.function in _ADDED and w.type == pa.float64():
                values = f"coalesce({self._listed(w, lists)}, [])"
                size = f"list_sum(list_transform({values}, lambda x: abs(x::DOUBLE)))"
                if w.function == "mean":
                    size = f"{size} / len({values})"
                found.append(f"{size} AS {quoted(f'_scale_{w.name}')}")
        return found

    # --- all rows ---------------------------------------------------------------------------------

    def answers(self, *, some_odd: bool, some_late: bool) -> str:
        """Every row once: plain, odd, and late ones with nothing but nulls."""
        parts = [f"SELECT false AS _late, * EXCLUDE odd FROM plain{' WHERE NOT odd' * some_odd}"]
        if some_odd:
            parts.append(f"SELECT false AS _late, * FROM ({self.odd()})")
        if some_late:
            flags = "".join(
                f", false AS {quoted(f'_overflow_{name}')}" for name in self._question.sums_integers
            )
            parts.append(f"SELECT true AS _late, {SEQ}{flags} FROM timed WHERE late")
        return " UNION ALL BY NAME ".join(parts)


def _int64(total: str) -> str:
    """A HUGEINT sum as BIGINT; null, and never an error, outside."""
    return f"CASE WHEN {total} BETWEEN {INT64_MIN} AND {INT64_MAX} THEN {total}::BIGINT END"


def _leaves_int64(total: str) -> str:
    return f"coalesce({total} NOT BETWEEN {INT64_MIN} AND {INT64_MAX}, false)"


def _quantile(values: str, q: float) -> str:
    """The smallest value whose rank is at least ceil(q n), q being the decimal that was written."""
    exact = Fraction(repr(q))
    a, b = exact.numerator, exact.denominator
    return f"list_sort({values})[(({a}::HUGEINT * len({values}) + {b - 1}) // {b})::BIGINT]"


def _top_k(histogram: str, k: float) -> str:
    """The k most frequent values, by count descending, then value; null of none."""
    return f"CASE WHEN len(map_keys({histogram})) > 0 THEN ranked({histogram}, {int(k)}) END"
