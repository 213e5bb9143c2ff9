"""The SQL of odd rows: V(r), word by word, and aggregates of lists of it.

Slow and obvious: a join gives each odd row all that it sees, each frame is a condition on that, and
an aggregate is what a list function makes of the values in the order of (ts, seq).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hofflight.replay.prepared import SEQ, TS
from hofflight.replay.sql_shape import (
    SPREADS,
    int64_or_null,
    leaves_int64,
    quantile_of,
    quoted,
    top_k_of,
)

if TYPE_CHECKING:
    from hofflight.features.window import Frame
    from hofflight.replay.prepared import Asked
    from hofflight.replay.sql_shape import Shape


class OddRows:
    """The answers of the rows that `plain` marks as odd, over `visible`."""

    def __init__(self, shape: Shape) -> None:
        self._shape = shape

    def answers(self) -> str:
        """A row of windows, overflows and tolerances for each odd row."""
        lists: dict[tuple[int, int], str] = {}
        columns = []
        for w in self._shape.question.windows:
            values = f"coalesce({self._listed(w, lists)}, [])"
            columns.append(f"{self._of_list(w, values)} AS {quoted(w.name)}")
        for name in self._shape.question.sums_integers:
            w = next(w for w in self._shape.question.windows if w.name == name)
            total = f"list_sum(coalesce({self._listed(w, lists)}, []))"
            columns.append(f"{leaves_int64(total)} AS {quoted(f'_overflow_{name}')}")
        columns += self._scales(lists)
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
        on = " AND ".join(f"s.{key} = r.{key}" for key in self._shape.question.keys)
        arrived = f" AND s.{SEQ} <= r.{SEQ}" if self._shape.as_of == "arrival" else ""
        reach = self._reach()
        near = "" if reach is None else f" AND s.{TS} >= r.{TS} - {reach}"
        runs = "".join(
            f", coalesce(lag(s.{TS}) OVER newest - s.{TS} >= {gap}, false)::INT AS g{n}"
            for n, gap in enumerate(self._shape.sessions)
        )
        sums = "".join(
            f", sum(g{n}) OVER (PARTITION BY r ORDER BY o DESC) AS session{n}"
            for n, _ in enumerate(self._shape.sessions)
        )
        inside = ", ".join(
            f"({self._inside(frame)}{'' if frame.own_row else f' AND {SEQ} <> r'}) AS in{n}"
            for n, frame in enumerate(self._shape.frames)
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
            return f"session{self._shape.sessions.index(size)} = 0"
        return "true"

    def _reach(self) -> int | None:
        """How far back any frame looks; None where some frame is not bounded by time."""
        if any(f.kind in ("last", "session", "lifetime") for f in self._shape.frames):
            return None
        return max(frame.size_us + frame.tile_us for frame in self._shape.frames)

    def _listed(self, window: Asked, lists: dict[tuple[int, int], str]) -> str:
        place = (self._shape.series_of(window), self._shape.frame_of(window))
        return lists.setdefault(place, f"_l{len(lists)}")

    def _of_list(self, window: Asked, values: str) -> str:
        """The aggregate of a list of values in the order of (ts, seq)."""
        function, is_float = window.function, self._shape.is_float(self._shape.series_of(window))
        if function == "quantile":
            return quantile_of(values, window.parameter)
        if function == "top_k":
            return top_k_of(f"list_aggregate({values}, 'histogram')", window.parameter)
        doubles = f"list_transform({values}, lambda x: x::DOUBLE)"
        if function in SPREADS:
            if not is_float:  # integers around their first: exact, whatever their size
                doubles = f"list_transform({values}, lambda x: (x::HUGEINT - {values}[1])::DOUBLE)"
            return f"sqrt(exact_var({doubles}))" if function == "std" else f"exact_var({doubles})"
        if function == "sum":
            return f"exact_sum({doubles})" if is_float else int64_or_null(f"list_sum({values})")
        if function == "mean":
            total = f"exact_sum({doubles})" if is_float else f"list_sum({values})::DOUBLE"
            return f"no_nan({total} / len({values}))"
        return {
            "count": f"len({values})", "count_distinct": f"len(list_distinct({values}))",
            "min": f"list_min({values})", "max": f"list_max({values})",
            "first": f"{values}[1]", "last": f"{values}[-1]",
        }[function]  # fmt: skip

    def _scales(self, lists: dict[tuple[int, int], str]) -> list[str]:
        found = []
        for w in self._shape.with_scale():
            values = f"coalesce({self._listed(w, lists)}, [])"
            size = f"list_sum(list_transform({values}, lambda x: abs(x::DOUBLE)))"
            if w.function == "mean":
                size = f"{size} / len({values})"
            found.append(f"{size} AS {quoted(f'_scale_{w.name}')}")
        return found
