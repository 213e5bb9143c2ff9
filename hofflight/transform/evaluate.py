"""Run declared expressions over whole columns with `pyarrow.compute`.

`math` (see `row_code`) and `pyarrow.compute` both call libm, so log, exp and sqrt agree in every
bit; numpy's vectorised ones do not (5.8% of log1p differ by an ulp), so numpy never computes an
expression.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from hofflight.features.expression import (
    DATE_PARTS,
    Call,
    Column,
    Expression,
    Literal,
    kind_of,
    kind_types,
)
from hofflight.transform.scalar import members_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_DAY_US: Final = 86_400_000_000


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
    members = pa.array(list(members_of(expression)), value.type)
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
