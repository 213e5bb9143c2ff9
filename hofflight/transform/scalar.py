"""Operators and functions of expressions on single values: libm, IEEE and int64, never numpy."""

from __future__ import annotations

import math
import operator
from typing import TYPE_CHECKING, Any, Final

from hofflight.features.expression import FLOAT_FUNCTIONS, Call, Literal

if TYPE_CHECKING:
    from collections.abc import Callable

_DAY_US: Final = 86_400_000_000
_INT64_MIN: Final = -(2**63)
_INT64_MAX: Final = 2**63 - 1


def members_of(call: Call) -> frozenset[Any]:
    """The literals of an `is_in`, without NaN, which equals nothing."""
    values = [a.value for a in call.args[1:] if isinstance(a, Literal)]
    return frozenset(value for value in values if value == value)


def _in_int64(value: int) -> int:
    if not _INT64_MIN <= value <= _INT64_MAX:
        msg = "integer arithmetic left int64"
        raise OverflowError(msg)
    return value


def divide(a: float, b: float) -> float:
    """The IEEE quotient, where Python raises too."""
    try:
        return a / b
    except ZeroDivisionError:
        # IEEE: 0 / 0 and NaN / 0 are NaN; else an infinity with the signs' product.
        return math.nan if a == 0 or a != a else math.copysign(math.inf, a) * math.copysign(1.0, b)


def _log(value: float) -> float:
    return math.log(value) if value > 0 else _at_pole(value, 0.0)


def _log10(value: float) -> float:
    return math.log10(value) if value > 0 else _at_pole(value, 0.0)


def _log1p(value: float) -> float:
    return math.log1p(value) if value > -1 else _at_pole(value, -1.0)


def _at_pole(value: float, pole: float) -> float:
    return -math.inf if value == pole else math.nan


def _exp(value: float) -> float:
    try:
        return math.exp(value)
    except OverflowError:
        return math.inf


def _sqrt(value: float) -> float:
    return math.sqrt(value) if value >= 0 else math.nan


def _civil(us: int) -> tuple[int, int, int]:
    """Year, month, day of a timestamp: H. Hinnant's `civil_from_days`, exact over all of int64."""
    days = us // _DAY_US + 719_468
    era, day_of_era = divmod(days, 146_097)
    year_of_era = (
        day_of_era - day_of_era // 1_460 + day_of_era // 36_524 - day_of_era // 146_096
    ) // 365
    day_of_year = day_of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
    shifted = (5 * day_of_year + 2) // 153  # months from March
    month = shifted + 3 if shifted < 10 else shifted - 9  # noqa: PLR2004 March is 0, so January is 10
    year = year_of_era + era * 400 + (month <= 2)  # noqa: PLR2004 January and February
    return year, month, day_of_year - (153 * shifted + 2) // 5 + 1


UNARY: Final[dict[str, Callable[[Any], Any]]] = {
    "log": _log,
    "log1p": _log1p,
    "log10": _log10,
    "exp": _exp,
    "sqrt": _sqrt,
    "abs": abs,
    "negate": operator.neg,
    "~": operator.not_,
    "to_float": float,
    "to_int": int,
    "minute": lambda us: us // 60_000_000 % 60,
    "hour": lambda us: us // 3_600_000_000 % 24,
    "day_of_week": lambda us: (us // _DAY_US + 3) % 7,  # 1970-01-01 was a Thursday, day 3
    "day": lambda us: _civil(us)[2],
    "month": lambda us: _civil(us)[1],
    "year": lambda us: _civil(us)[0],
}


def _of_float(function: Callable[[float], float]) -> Callable[[int], float]:
    return lambda value: function(float(value))


UNARY_INT: Final[dict[str, Callable[[Any], Any]]] = {
    "abs": lambda value: _in_int64(abs(value)),
    "negate": lambda value: _in_int64(-value),
    **{name: _of_float(UNARY[name]) for name in FLOAT_FUNCTIONS},
}
BINARY_INT: Final[dict[str, Callable[[Any, Any], Any]]] = {
    "+": lambda a, b: _in_int64(a + b),
    "-": lambda a, b: _in_int64(a - b),
    "*": lambda a, b: _in_int64(a * b),
    "/": lambda a, b: divide(float(a), float(b)),
}


# What a function of floats is where nothing special happens: the condition, and libm's own.
# Straight code tests the condition and calls libm; else it calls the function above.
USUAL: Final[dict[str, tuple[str, Callable[[float], float]]]] = {
    "log": ("> 0.0", math.log),
    "log1p": ("> -1.0", math.log1p),
    "log10": ("> 0.0", math.log10),
    "sqrt": (">= 0.0", math.sqrt),
}
CLOCK_PARTS: Final = {"minute": "// 60_000_000 % 60", "hour": "// 3_600_000_000 % 24"}
