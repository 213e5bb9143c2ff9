"""Run declared expressions: on one row with `math`, on many with `pyarrow.compute`, same bits.

`math` and `pyarrow.compute` both call libm, so log, exp and sqrt agree in every bit; numpy's
vectorised ones do not (5.8% of log1p differ by an ulp), so numpy never computes an expression.
"""

from __future__ import annotations

import math
import operator
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from hofflight.features.expression import (
    DATE_PARTS,
    FLOAT_FUNCTIONS,
    Call,
    Column,
    Expression,
    Literal,
    kind_of,
    kind_types,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Row = list[Any]
ScalarFunction = "Callable[[Row], Any]"
_DAY_US: Final = 86_400_000_000
_INT64_MIN: Final = -(2**63)
_INT64_MAX: Final = 2**63 - 1


def compile_row(
    expression: Expression, slots: Mapping[str, int], types: Mapping[str, pa.DataType]
) -> Callable[[Row], Any]:
    """A function of one row (values by slot, None for null) that gives the expression's value.

    Raises (the function): OverflowError, integer arithmetic left int64.
    """
    if isinstance(expression, Column):
        return operator.itemgetter(slots[expression.name])
    if isinstance(expression, Literal):
        value = expression.value
        return lambda _: value
    assert isinstance(expression, Call)
    kinds = [kind_of(arg, types, "expression") for arg in expression.args]
    if expression.op == "is_in":
        return _row_is_in(expression, compile_row(expression.args[0], slots, types))
    args = [compile_row(arg, slots, types) for arg in expression.args]
    if "float" in kinds and "int" in kinds:
        # Arrow compares and adds int64 and float64 as float64; Python would compare exactly.
        args = [
            _as_float(arg) if kind == "int" else arg for arg, kind in zip(args, kinds, strict=True)
        ]
        kinds = ["float" if kind == "int" else kind for kind in kinds]
    if len(args) == 1:
        return _row_unary(expression.op, kinds[0], args[0])
    constant = expression.args[1]
    if isinstance(constant, Literal) and expression.op not in ("&", "|", "fill_null"):
        return _row_constant(expression.op, kinds[0], args[0], args[1]([]))
    return _row_binary(expression.op, kinds[0], *args)


def _row_is_in(expression: Call, arg: Callable[[Row], Any]) -> Callable[[Row], Any]:
    members = _members(expression)

    def is_in(row: Row) -> bool | None:
        value = arg(row)
        return None if value is None else value in members

    return is_in


def _members(expression: Call) -> frozenset[Any]:
    """The literals of an `is_in`, without NaN, which equals nothing."""
    values = [a.value for a in expression.args[1:] if isinstance(a, Literal)]
    return frozenset(value for value in values if value == value)


def _as_float(arg: Callable[[Row], Any]) -> Callable[[Row], Any]:
    def as_float(row: Row) -> float | None:
        value = arg(row)
        return None if value is None else float(value)

    return as_float


def _row_unary(op: str, kind: str, arg: Callable[[Row], Any]) -> Callable[[Row], Any]:
    if op == "is_null":
        return lambda row: arg(row) is None
    function = _UNARY_INT[op] if kind == "int" and op in _UNARY_INT else _UNARY[op]

    def unary(row: Row) -> Any:
        value = arg(row)
        return None if value is None else function(value)

    return unary


def _row_constant(
    op: str, kind: str, arg: Callable[[Row], Any], constant: Any
) -> Callable[[Row], Any]:
    """A binary operator whose right side is a literal: one call less for the usual comparison."""
    function = _BINARY_INT[op] if kind == "int" and op in _BINARY_INT else _BINARY[op]

    def with_constant(row: Row) -> Any:
        value = arg(row)
        return None if value is None else function(value, constant)

    return with_constant


def _row_binary(
    op: str, kind: str, left: Callable[[Row], Any], right: Callable[[Row], Any]
) -> Callable[[Row], Any]:
    if op == "fill_null":

        def fill(row: Row) -> Any:
            value, other = left(row), right(row)
            return other if value is None else value

        return fill
    if op in ("&", "|"):
        decides = op == "|"  # true | null is true, false & null is false

        def logic(row: Row) -> bool | None:
            a, b = left(row), right(row)
            if a is decides or b is decides:
                return decides
            return None if a is None or b is None else not decides

        return logic
    function = _BINARY_INT[op] if kind == "int" and op in _BINARY_INT else _BINARY[op]

    def binary(row: Row) -> Any:
        # Both sides, as Arrow does: an overflow on the right counts beside a null too.
        a, b = left(row), right(row)
        return None if a is None or b is None else function(a, b)

    return binary


def _in_int64(value: int) -> int:
    if not _INT64_MIN <= value <= _INT64_MAX:
        msg = "integer arithmetic left int64"
        raise OverflowError(msg)
    return value


def _divide(a: float, b: float) -> float:
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


_UNARY: Final[dict[str, Callable[[Any], Any]]] = {
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


_UNARY_INT: Final[dict[str, Callable[[Any], Any]]] = {
    "abs": lambda value: _in_int64(abs(value)),
    "negate": lambda value: _in_int64(-value),
    **{name: _of_float(_UNARY[name]) for name in FLOAT_FUNCTIONS},
}
_COMPARE: Final[dict[str, Callable[[Any, Any], Any]]] = {
    "==": operator.eq, "!=": operator.ne, "<": operator.lt,
    "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip
_BINARY: Final[dict[str, Callable[[Any, Any], Any]]] = {
    **_COMPARE,
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": _divide,
}
_BINARY_INT: Final[dict[str, Callable[[Any, Any], Any]]] = {
    "+": lambda a, b: _in_int64(a + b),
    "-": lambda a, b: _in_int64(a - b),
    "*": lambda a, b: _in_int64(a * b),
    "/": lambda a, b: _divide(float(a), float(b)),
}


def evaluate(expression: Expression, columns: Mapping[str, pa.Array], rows: int) -> pa.Array:
    """The expression over whole columns.

    Rows: one out per row in, same order.
    Raises: pa.ArrowInvalid, integer arithmetic left int64.
    """
    types = {name: column.type for name, column in columns.items()}
    value = _evaluate(expression, columns, types)
    if isinstance(value, pa.Scalar):
        return pa.repeat(value, rows)
    return value


def _evaluate(
    expression: Expression, columns: Mapping[str, pa.Array], types: Mapping[str, pa.DataType]
) -> pa.Array | pa.Scalar:
    kind = kind_types[kind_of(expression, types, "expression")]
    if isinstance(expression, Literal):
        return pa.scalar(expression.value, kind)
    if isinstance(expression, Column):
        column = columns[expression.name]
        return column if column.type == kind else pc.cast(column, kind)
    assert isinstance(expression, Call)
    if expression.op == "is_in":
        return _is_in(expression, columns, types)
    args = [_evaluate(arg, columns, types) for arg in expression.args]
    argument_types = {arg.type for arg in args}
    if argument_types == {pa.int64(), pa.float64()}:
        # safe=False: beyond 2^53 the nearest float64, as Python's float() gives.
        args = [pc.cast(arg, pa.float64(), safe=False) for arg in args]
    if expression.op in _FLOAT_OPS:
        args = [pc.cast(arg, pa.float64(), safe=False) for arg in args]
    return _ARROW[expression.op](*args)


def _is_in(
    expression: Call, columns: Mapping[str, pa.Array], types: Mapping[str, pa.DataType]
) -> pa.Array | pa.Scalar:
    value = _evaluate(expression.args[0], columns, types)
    members = pa.array(list(_members(expression)), value.type)
    if value.type == pa.float64():
        # Arrow looks values up by their bits; -0.0 + 0.0 is 0.0, and no other value changes.
        value, members = pc.add(value, 0.0), pc.add(members, 0.0)
    # `and` with "is valid or null" keeps null where the value is null: SQL's and polars' meaning.
    known = pc.if_else(pc.is_valid(value), pa.scalar(True), pa.scalar(None, pa.bool_()))
    return pc.and_(pc.is_in(value, value_set=members), known)


def _to_number(target: pa.DataType) -> Callable[[pa.Array], pa.Array]:
    return lambda value: pc.cast(value, target, safe=False)


def _date_part(name: str) -> Callable[[pa.Array], pa.Array]:
    return getattr(pc, name)


def _year(value: pa.Array) -> pa.Array:
    """`pc.year` counts in int16: take whole 400 years (146,097 days) out, then add them again."""
    us = value.cast(pa.int64())
    eras = pc.divide(us, 146_097 * _DAY_US)
    rest = pc.subtract(us, pc.multiply(eras, 146_097 * _DAY_US))
    return pc.add(pc.year(rest.cast(kind_types["timestamp"])), pc.multiply(eras, 400))


_FLOAT_OPS: Final = frozenset(("/", "log", "log1p", "log10", "exp", "sqrt"))
_ARROW: Final[dict[str, Callable[..., Any]]] = {
    "+": pc.add_checked, "-": pc.subtract_checked, "*": pc.multiply_checked, "/": pc.divide,
    "negate": pc.negate_checked, "abs": pc.abs_checked,
    "==": pc.equal, "!=": pc.not_equal, "<": pc.less, "<=": pc.less_equal,
    ">": pc.greater, ">=": pc.greater_equal,
    "&": pc.and_kleene, "|": pc.or_kleene, "~": pc.invert,
    "is_null": pc.is_null, "fill_null": pc.coalesce,
    "log": pc.ln, "log1p": pc.log1p, "log10": pc.log10, "exp": pc.exp, "sqrt": pc.sqrt,
    "to_float": _to_number(pa.float64()), "to_int": _to_number(pa.int64()),
    **{name: _date_part(name) for name in DATE_PARTS}, "year": _year,
}  # fmt: skip
