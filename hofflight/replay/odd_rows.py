"""Odd rows as SQL: the definition word by word, by a join of each with what it sees.

A window function cannot answer them: as of arrival, rows of an earlier time that came after them;
as of the event, those with later ties; and those whose float arithmetic needs more care.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hofflight.replay.prepared import SEQ, TS
from hofflight.replay.sql_shape import Answers, Columns

if TYPE_CHECKING:
    from hofflight.features.window import Frame
    from hofflight.replay.prepared import Asked, AsOf

_NEWEST_FIRST = "(PARTITION BY r ORDER BY o DESC)"


def odd_statement(columns: Columns, as_of: AsOf, *, tolerances: bool) -> str:
    """The answers of the rows that `plain` marked odd.

    | relation | what |
    |---|---|
    | `seen` | V(r) of each odd row r |
    | `counted` | how far back each row is, and the pauses between it and r |
    | `framed` | in which frames each row is |
    | `scales` | the power of two for each sum of floats, and the value to measure spreads from |
    """
    answers = InFrames(columns)
    selected = answers.selected(tolerances=tolerances)
    parts = "".join(f",\n         {text} AS {name}" for text, name in answers.parts.items())
    scales = "".join(f",\n         {text} AS {name}" for text, name in answers.scales.items())
    # Read off a joined row: without float arithmetic there is nothing to join.
    scaled = f" JOIN (SELECT r{scales} FROM framed GROUP BY r) USING (r)" if scales else ""
    return f"""
WITH seen AS ({_seen(columns, as_of)}),
counted AS ({_counted(columns)}),
framed AS ({_framed(columns)})
SELECT r AS {SEQ}{selected}
FROM (SELECT r{parts}
  FROM framed{scaled} GROUP BY r)"""


def _seen(columns: Columns, as_of: AsOf) -> str:
    """V(r): rows of its key up to its time, as of arrival up to its place."""
    on = [f"s.{key} = r.{key}" for key in columns.question.keys] + [f"s.{TS} <= r.{TS}"]
    if as_of == "arrival":
        on.append(f"s.{SEQ} <= r.{SEQ}")
    if all(frame.kind in ("sliding", "tumbling") for frame in columns.frames):
        reach = max((frame.size_us + frame.tile_us for frame in columns.frames), default=0)
        on.append(f"s.{TS} >= r.{TS} - {reach}")
    return f"""
  SELECT r.{SEQ} AS r, r.{TS} AS r_ts, s.*
  FROM (SELECT v.* FROM visible v JOIN plain USING ({SEQ}) WHERE _odd) r
  JOIN visible s ON {" AND ".join(on)}"""


def _counted(columns: Columns) -> str:
    if not any(frame.kind in ("last", "session") for frame in columns.frames):
        return "FROM seen"
    pauses = "".join(
        f",\n         coalesce(lag({TS}) OVER newest_first - {TS} >= {gap}, false)::INT AS pause{n}"
        for n, gap in enumerate(columns.gaps)
    )
    return f"""
  SELECT *, row_number() OVER newest_first AS back{pauses}
  FROM seen WINDOW newest_first AS {_NEWEST_FIRST}"""


def _framed(columns: Columns) -> str:
    sums = "".join(
        f", sum(pause{n}) OVER {_NEWEST_FIRST} AS pauses{n}" for n, _ in enumerate(columns.gaps)
    )
    counted = f"(SELECT *{sums} FROM counted)" if sums else "counted"
    inside = "".join(
        f",\n         {_inside(frame, columns)} AS in{n}" for n, frame in enumerate(columns.frames)
    )
    return f"""
  SELECT *{inside}
  FROM {counted}"""


def _inside(frame: Frame, columns: Columns) -> str:
    """Whether a row of V(r) is in the frame; without its own row, r is taken out last."""
    size, tile = frame.size_us, frame.tile_us
    if frame.kind == "sliding" and tile:
        inside = f"{TS} >= floor_div(r_ts - {size}, {tile}) * {tile}"
    elif frame.kind == "sliding":
        inside = f"{TS} > r_ts - {size}"
    elif frame.kind == "last":
        inside = f"back <= {frame.rows}"
    elif frame.kind == "tumbling":
        inside = f"floor_div({TS}, {size}) = floor_div(r_ts, {size})"
    elif frame.kind == "session":
        inside = f"pauses{columns.gaps.index(size)} = 0"
    else:
        inside = "true"
    return inside if frame.own_row else f"{inside} AND {SEQ} <> r"


class InFrames(Answers):
    """Aggregates over the rows of V(r) that are in a frame, with float arithmetic that holds.

    Sums are of values brought near 1, so that no partial sum overflows; variances are of distances
    from a value of the frame, which loses nothing that the variance would keep. Both are scaled by
    powers of two: exact. `scales` are aggregates that must be there before the others.
    """

    def __init__(self, columns: Columns) -> None:
        super().__init__(columns)
        self.scales: dict[str, str] = {}

    def _over(self, aggregate: str, window: Asked, also: str = "") -> str:
        return f"{aggregate} FILTER (WHERE in{self._columns.frame_of(window)}{also})"

    def _first(self, window: Asked) -> str:
        return self.part("arg_min({v}, o)", window)

    def _last(self, window: Asked) -> str:
        return self.part("arg_max({v}, o)", window)

    def _float_sum(self, window: Asked) -> str:
        """An infinity decides alone, two of different sign are NaN."""
        power = self._power(window)
        infinite = self._of_some("sum({v})", window, "isinf({v})")
        total = self._of_some(f"fsum({{v}} * {power})", window, "isfinite({v})")
        return f"coalesce({infinite}, {total} / {self.part(f'any_value({power})', window)})"

    def _variance(self, window: Asked) -> str:
        if not self._columns.is_float(self._columns.series_of(window)):
            origin = self._scale_named("arg_min({v}, o)", window, "true")
            return self.part(f"var_samp(({{v}}::HUGEINT - {origin})::DOUBLE)", window)
        power = self._power(window)
        origin = self._scale_named("arg_min({v}, o)", window, "isfinite({v})")
        distance = f"{{v}} * {power} - {origin} * {power}"
        spread = self._of_some(f"var_samp({distance})", window, "isfinite({v})")
        infinite = self._of_some("count({v})", window, "isinf({v})")
        used = self.part(f"any_value({power})", window)
        return f"CASE WHEN {infinite} = 0 THEN {spread} / {used} / {used} END"

    def _power(self, window: Asked) -> str:
        return self._scale_named("power_for(max(abs({v}::DOUBLE))", window, "isfinite({v})", ")")

    def _of_some(self, aggregate: str, window: Asked, condition: str) -> str:
        """The name of an aggregate over those rows of the frame that meet a condition."""
        text = self._over_some(aggregate, window, condition)
        return self.parts.setdefault(text, f"_p{len(self.parts)}")

    def _scale_named(self, aggregate: str, window: Asked, condition: str, end: str = "") -> str:
        text = self._over_some(aggregate, window, condition) + end
        return self.scales.setdefault(text, f"_q{len(self.scales)}")

    def _over_some(self, aggregate: str, window: Asked, condition: str) -> str:
        value = f"_v{self._columns.series_of(window)}"
        return self._over(aggregate.format(v=value), window, f" AND {condition.format(v=value)}")
