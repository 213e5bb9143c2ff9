"""The reference answer: every window of every row computed from nothing, by the words of the spec.

It shares no code with the engine and has no state, no batches and no shortcuts: for each row it
looks at all rows that came before. That is its whole value; do not make it faster.

Rows are dicts of plain Python values, raw and transformed columns, in arrival order: timestamps
as microseconds since 1970, dates as days since 1970, null as None. A row's place is its seq.
"""

from __future__ import annotations

import math
import operator
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Final, Literal

from hofflight.features.expression import (
    ARITHMETIC,
    COMPARISON,
    DATE_PARTS,
    Call,
    Column,
    Expression,
    kind_of,
)
from hofflight.features.expression import Literal as Constant

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    import pyarrow as pa

    from hofflight.features.group import FeatureGroup
    from hofflight.features.window import Frame, Window

INT64_MIN: Final = -(2**63)
INT64_MAX: Final = 2**63 - 1


@dataclass(frozen=True, slots=True)
class OracleRow:
    """What the windows of one row must be.

    late: the row came too late: all its windows are null, and it enters none.
    overflow: windows that are null because their integer sum left int64.
    """

    late: bool
    windows: dict[str, object]
    overflow: frozenset[str]


def replay(
    group: FeatureGroup,
    rows: Sequence[Mapping[str, object]],
    *,
    places: Iterable[int] | None = None,
    as_of: Literal["arrival", "event"] = "arrival",
) -> list[OracleRow]:
    """The answer to every row, or to the rows at `places` alone, which spares time on long input.

    Rows: one out per row (or place), same order. `as_of="event"`: as if every row that was not
    late had been there from the start.
    """
    keys = [tuple(row[name] for name in group.key) for row in rows]
    times: list[Any] = [row[group.event_time] for row in rows]
    late = late_rows(keys, times, group.late_us)
    chosen = {name: where_rows(window, group, rows) for name, window in group.windows.items()}
    answers = []
    for r in range(len(rows)) if places is None else places:
        if late[r]:
            answers.append(OracleRow(late=True, windows=dict.fromkeys(group.windows), overflow=_NO))
            continue
        visible = visible_rows(r, keys, times, late, as_of)
        windows: dict[str, object] = {}
        overflow = set()
        for name, window in group.windows.items():
            framed = frame_rows(window.frame, visible, times, r)
            taken = [rows[s] for s in framed if chosen[name][s]]
            values = taken if window.column is None else cleaned(s[window.column] for s in taken)
            windows[name] = aggregated(window, values)
            if window.function == "sum" and overflows(values):
                overflow.add(name)
        answers.append(OracleRow(late=False, windows=windows, overflow=frozenset(overflow)))
    return answers


_NO: Final[frozenset[str]] = frozenset()


# --- which rows -----------------------------------------------------------------------------------


def late_rows(keys: Sequence[object], times: Sequence[int], late_us: int) -> list[bool]:
    """Per row, whether r.ts < max(ts of earlier rows of its key) - late."""
    late = []
    for r in range(len(keys)):
        earlier = [times[s] for s in range(r) if keys[s] == keys[r]]
        late.append(bool(earlier) and times[r] < max(earlier) - late_us)
    return late


def where_rows(
    window: Window, group: FeatureGroup, rows: Sequence[Mapping[str, object]]
) -> list[bool]:
    """Per row, whether `where=` lets it in; null does not."""
    if window.where is None:
        return [True] * len(rows)
    return [evaluate(window.where, row, group.transformed) is True for row in rows]


def visible_rows(
    r: int,
    keys: Sequence[object],
    times: Sequence[int],
    late: Sequence[bool],
    as_of: Literal["arrival", "event"] = "arrival",
) -> list[int]:
    """V(r): same key, not late, s.ts <= r.ts and s.seq <= r.seq, by (ts, seq); r is the last.

    As of the event the bound on seq is dropped: ties that came later follow r.
    """
    arrived = range(r + 1) if as_of == "arrival" else range(len(keys))
    visible = [s for s in arrived if keys[s] == keys[r] and not late[s] and times[s] <= times[r]]
    return sorted(visible, key=lambda s: (times[s], s))


def frame_rows(frame: Frame, visible: Sequence[int], times: Sequence[int], r: int) -> list[int]:
    """The rows of V(r) in the frame; without the own row, r is taken out once the frame is cut."""
    found = _frame_with_own_row(frame, visible, times)
    return found if frame.own_row else [s for s in found if s != r]


def _frame_with_own_row(frame: Frame, visible: Sequence[int], times: Sequence[int]) -> list[int]:
    now = times[visible[-1]]
    size = frame.size_us
    if frame.kind == "sliding" and frame.tile_us:
        start = (now - size) // frame.tile_us * frame.tile_us
        return [s for s in visible if times[s] >= start]
    if frame.kind == "sliding":
        return [s for s in visible if times[s] > now - size]
    if frame.kind == "last":
        return list(visible[-frame.rows :])
    if frame.kind == "tumbling":
        return [s for s in visible if times[s] // size == now // size]
    if frame.kind == "session":
        session = [visible[-1]]
        for s in reversed(visible[:-1]):
            if times[session[0]] - times[s] >= size:
                break
            session.insert(0, s)
        return session
    assert frame.kind == "lifetime"
    return list(visible)


# --- which value ----------------------------------------------------------------------------------


def cleaned(values: Iterable[Any]) -> list[Any]:
    """The values without null and NaN, -0.0 as 0.0."""
    present = [value for value in values if value is not None and not is_nan(value)]
    return [value + 0.0 if isinstance(value, float) else value for value in present]


def is_nan(value: object) -> bool:
    """Whether this is a float that is not a number."""
    return isinstance(value, float) and math.isnan(value)


def aggregated(window: Window, values: Sequence[Any]) -> object:
    """The window's aggregate of cleaned values in the order of (ts, seq)."""
    function, parameter = window.function, window.parameter
    if function == "count":
        return len(values)
    if function == "count_distinct":
        return len(set(values))
    if not values:
        return None
    if function == "first":
        return values[0]
    if function == "last":
        return values[-1]
    if function == "sum":
        return None if overflows(values) else expected_sum(values)
    if function == "quantile":
        return expected_quantile(values, parameter)
    if function == "top_k":
        return expected_top_k(values, int(parameter))
    return _of_values[function](values)


def overflows(values: Sequence[Any]) -> bool:
    """Whether these are integers whose sum does not fit int64."""
    return all(isinstance(v, int) for v in values) and not INT64_MIN <= sum(values) <= INT64_MAX


def expected_sum(values: Sequence[Any]) -> int | float | None:
    """Of integers exact, of any size; of floats the exact sum, rounded once.

    An infinity among the values is the sum, two of different sign have none.
    """
    if isinstance(values[0], int):
        return sum(values)
    infinities = {v for v in values if math.isinf(v)}
    if infinities:
        return infinities.pop() if len(infinities) == 1 else None
    return rounded(sum(map(Fraction, values), Fraction()))


def expected_mean(values: Sequence[Any]) -> float | None:
    """Of integers the exact quotient, rounded once; of floats the rounded sum over the count."""
    total = expected_sum(values)
    if isinstance(total, int):
        return rounded(Fraction(total, len(values)))
    return None if total is None else total / len(values)


def expected_var(values: Sequence[Any]) -> float | None:
    """The exact sample variance, rounded once; null of fewer than two values or any infinity."""
    n = len(values)
    if n < 2 or any(math.isinf(v) for v in values):  # noqa: PLR2004 a spread needs two
        return None
    exact = [Fraction(v) for v in values]
    mean = sum(exact, Fraction()) / n
    return rounded(sum(((v - mean) ** 2 for v in exact), Fraction()) / (n - 1))


def expected_std(values: Sequence[Any]) -> float | None:
    """Square root of the rounded variance."""
    var = expected_var(values)
    return None if var is None else math.sqrt(var)


def expected_quantile(values: Sequence[Any], q: float) -> object:
    """Smallest value whose rank is at least ceil(q n), q being the decimal that the user wrote."""
    rank = math.ceil(Fraction(repr(q)) * len(values))
    return sorted(values)[rank - 1]


def expected_top_k(values: Sequence[Any], k: int) -> list[Any]:
    """The k most frequent values, by count descending, then value ascending."""
    counts = Counter(values)
    return sorted(counts, key=lambda value: (-counts[value], value))[:k]


def rounded(exact: Fraction) -> float:
    """The nearest double, ties to even; an infinity past the largest one."""
    try:
        return float(exact)  # Python rounds a quotient of integers correctly
    except OverflowError:
        return math.inf if exact > 0 else -math.inf


_of_values: Final[dict[str, Callable[[Sequence[Any]], object]]] = {
    "mean": expected_mean,
    "var": expected_var,
    "std": expected_std,
    "min": min,
    "max": max,
}


# --- expressions, one row at a time, for where= ---------------------------------------------------


def evaluate(
    expression: Expression, row: Mapping[str, Any], columns: Mapping[str, pa.DataType]
) -> Any:
    """The expression's value for a row, None for null.

    Raises:
        OverflowError: integer arithmetic left int64.
    """
    if isinstance(expression, Column):
        return row[expression.name]
    if isinstance(expression, Constant):
        return expression.value
    assert isinstance(expression, Call)
    args = [evaluate(arg, row, columns) for arg in expression.args]
    kinds = [kind_of(arg, columns, "oracle") for arg in expression.args]
    if "float" in kinds or expression.op == "/":  # a number beside a float becomes a float
        args = [
            float(arg) if kind == "int" and arg is not None else arg
            for arg, kind in zip(args, kinds, strict=True)
        ]
    return _called(expression.op, args)


def _called(op: str, args: list[Any]) -> Any:
    value = args[0]
    if op == "is_null":
        return value is None
    if op == "fill_null":
        return args[1] if value is None else value
    if op == "&":
        return False if False in args else None if None in args else True
    if op == "|":
        return True if True in args else None if None in args else False
    if any(arg is None for arg in args):
        return None
    if op == "is_in":
        return any(value == other for other in args[1:])
    if op in COMPARISON:
        return _comparisons[op](*args)
    if op in ARITHMETIC:
        return _in_int64(_divided(*args) if op == "/" else _arithmetic[op](*args))
    if op in DATE_PARTS:
        moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=value)
        return moment.weekday() if op == "day_of_week" else getattr(moment, op)
    return _in_int64(_functions[op](value))


_comparisons: Final[dict[str, Callable[[Any, Any], bool]]] = {
    "==": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le,
    ">": operator.gt, ">=": operator.ge,
}  # fmt: skip
_arithmetic: Final[dict[str, Callable[[Any, Any], Any]]] = {
    "+": operator.add, "-": operator.sub, "*": operator.mul,
}  # fmt: skip
_functions: Final[dict[str, Callable[[Any], Any]]] = {
    "~": operator.not_,
    "abs": abs,
    "negate": operator.neg,
    "to_float": float,
    "to_int": int,
    # Python raises where IEEE has an answer.
    "log": lambda x: _logarithm(math.log, x, 0),
    "log10": lambda x: _logarithm(math.log10, x, 0),
    "log1p": lambda x: _logarithm(math.log1p, x, -1),
    "sqrt": lambda x: math.nan if x < 0 else math.sqrt(x),
    "exp": lambda x: _exponential(float(x)),
}


def _in_int64(value: Any) -> Any:
    if isinstance(value, int) and not INT64_MIN <= value <= INT64_MAX:
        raise OverflowError(value)
    return value


def _divided(a: float, b: float) -> float:
    if b != 0:
        return a / b
    if a == 0 or math.isnan(a):
        return math.nan
    return math.copysign(math.inf, a) * math.copysign(1, b)


def _logarithm(function: Callable[[float], float], x: float, pole: int) -> float:
    if x == pole:
        return -math.inf
    return math.nan if x < pole else function(x)


def _exponential(x: float) -> float:
    try:
        return math.exp(x)
    except OverflowError:
        return math.inf
