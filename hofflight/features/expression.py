"""Declared expressions: a small language over columns, checked when it is written.

`hof.col("amount").log1p()` is a value, not a computation: `transform.evaluate` runs it on one row
with `math` and on many with `pyarrow.compute`, bit for bit the same.

Types: every integer column is read as int64, every float as float64. Null in, null out, save for
`is_null` and `fill_null`; `&` and `|` follow Kleene (false & null = false). Float arithmetic is
IEEE (x / 0 is an infinity, log of a negative is NaN); integer arithmetic past int64 fails the
request instead of wrapping. `/` always gives float64.
"""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Final

import pyarrow as pa

from hofflight.errors import UnknownColumn, WrongType
from hofflight.wire.schema import FLOATS, INTEGERS, TIMESTAMP

if TYPE_CHECKING:
    from collections.abc import Mapping

type_kinds: Final[dict[pa.DataType, str]] = {
    pa.bool_(): "bool",
    pa.string(): "string",
    TIMESTAMP: "timestamp",
    **dict.fromkeys(INTEGERS, "int"),
    **dict.fromkeys(FLOATS, "float"),
}
kind_types: Final[dict[str, pa.DataType]] = {
    "bool": pa.bool_(),
    "string": pa.string(),
    "timestamp": TIMESTAMP,
    "int": pa.int64(),
    "float": pa.float64(),
}
ARITHMETIC: Final = ("+", "-", "*", "/")
COMPARISON: Final = ("==", "!=", "<", "<=", ">", ">=")
LOGIC: Final = ("&", "|")
FLOAT_FUNCTIONS: Final = ("log", "log1p", "log10", "exp", "sqrt")
DATE_PARTS: Final = ("minute", "hour", "day_of_week", "day", "month", "year")

Scalar = bool | int | float | str


class Expression:
    """A value computed from columns of the same row; build one with `hof.col`."""

    __slots__ = ()
    __hash__ = object.__hash__

    def __add__(self, other: Operand) -> Expression:
        """Sum."""
        return Call("+", (self, operand(other)))

    def __radd__(self, other: Operand) -> Expression:
        """Sum."""
        return Call("+", (operand(other), self))

    def __sub__(self, other: Operand) -> Expression:
        """Difference."""
        return Call("-", (self, operand(other)))

    def __rsub__(self, other: Operand) -> Expression:
        """Difference."""
        return Call("-", (operand(other), self))

    def __mul__(self, other: Operand) -> Expression:
        """Product."""
        return Call("*", (self, operand(other)))

    def __rmul__(self, other: Operand) -> Expression:
        """Product."""
        return Call("*", (operand(other), self))

    def __truediv__(self, other: Operand) -> Expression:
        """Quotient, always float64."""
        return Call("/", (self, operand(other)))

    def __rtruediv__(self, other: Operand) -> Expression:
        """Quotient, always float64."""
        return Call("/", (operand(other), self))

    def __neg__(self) -> Expression:
        """Negation."""
        return Call("negate", (self,))

    def __eq__(self, other: Operand) -> Expression:  # type: ignore[override]
        """Equal; null if either side is."""
        return Call("==", (self, operand(other)))

    def __ne__(self, other: Operand) -> Expression:  # type: ignore[override]
        """Not equal; null if either side is."""
        return Call("!=", (self, operand(other)))

    def __lt__(self, other: Operand) -> Expression:
        """Less than."""
        return Call("<", (self, operand(other)))

    def __le__(self, other: Operand) -> Expression:
        """Less than or equal."""
        return Call("<=", (self, operand(other)))

    def __gt__(self, other: Operand) -> Expression:
        """Greater than."""
        return Call(">", (self, operand(other)))

    def __ge__(self, other: Operand) -> Expression:
        """Greater than or equal."""
        return Call(">=", (self, operand(other)))

    def __and__(self, other: Operand) -> Expression:
        """Kleene and."""
        return Call("&", (self, operand(other)))

    def __or__(self, other: Operand) -> Expression:
        """Kleene or."""
        return Call("|", (self, operand(other)))

    def __invert__(self) -> Expression:
        """Logical not."""
        return Call("~", (self,))

    def __bool__(self) -> bool:
        """Refused: an expression has no truth value before a row is there."""
        msg = f"the expression {self} has no truth value"
        raise WrongType(msg, hint="use & | ~ instead of and, or, not, and .is_in() instead of in")

    def is_null(self) -> Expression:
        """True where the value is null (NaN is not null)."""
        return Call("is_null", (self,))

    def fill_null(self, value: Scalar) -> Expression:
        """The value, or `value` where it is null."""
        return Call("fill_null", (self, operand(value)))

    def is_in(self, values: list[Scalar] | tuple[Scalar, ...]) -> Expression:
        """True where the value is one of `values`; null stays null."""
        return Call("is_in", (self, *(operand(value) for value in values)))

    def abs(self) -> Expression:
        """Absolute value."""
        return Call("abs", (self,))

    def log(self) -> Expression:
        """Natural logarithm."""
        return Call("log", (self,))

    def log1p(self) -> Expression:
        """Natural logarithm of 1 + x."""
        return Call("log1p", (self,))

    def log10(self) -> Expression:
        """Logarithm to base 10."""
        return Call("log10", (self,))

    def exp(self) -> Expression:
        """E to the x."""
        return Call("exp", (self,))

    def sqrt(self) -> Expression:
        """Square root."""
        return Call("sqrt", (self,))

    def to_float(self) -> Expression:
        """A bool (1.0, 0.0) or an integer (nearest float64) as float64."""
        return Call("to_float", (self,))

    def to_int(self) -> Expression:
        """A bool as int64: 1 or 0."""
        return Call("to_int", (self,))

    def minute(self) -> Expression:
        """Minute of the hour, UTC: 0 to 59."""
        return Call("minute", (self,))

    def hour(self) -> Expression:
        """Hour of the day, UTC: 0 to 23."""
        return Call("hour", (self,))

    def day_of_week(self) -> Expression:
        """Day of the week, UTC: Monday 0 to Sunday 6."""
        return Call("day_of_week", (self,))

    def day(self) -> Expression:
        """Day of the month, UTC: 1 to 31."""
        return Call("day", (self,))

    def month(self) -> Expression:
        """Month, UTC: 1 to 12."""
        return Call("month", (self,))

    def year(self) -> Expression:
        """Year, UTC, proleptic Gregorian."""
        return Call("year", (self,))


@dataclass(frozen=True, slots=True, eq=False)
class Column(Expression):
    """The value of a column."""

    name: str

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True, eq=False)
class Literal(Expression):
    """A constant of type bool, int (int64), float or str."""

    value: Scalar

    def __str__(self) -> str:
        return repr(self.value)


@dataclass(frozen=True, slots=True, eq=False)
class Call(Expression):
    """An operator or function applied to expressions."""

    op: str
    args: tuple[Expression, ...]

    def __str__(self) -> str:
        if self.op in (*ARITHMETIC, *COMPARISON, *LOGIC):
            return f"({self.args[0]} {self.op} {self.args[1]})"
        return f"{self.op}({', '.join(map(str, self.args))})"


Operand = Expression | Scalar


def col(name: str) -> Column:
    """A column of the group, for `output`, `derive` and `where=`.

    >>> str(col("amount") / 2 > 10)
    '((amount / 2) > 10)'
    """
    return Column(name)


def operand(value: Operand) -> Expression:
    """The expression itself, or a checked literal.

    Raises:
        WrongType: HOF-103, `value` is neither, or an int outside int64.
    """
    if isinstance(value, Expression):
        return value
    if not isinstance(value, bool | int | float | str):
        msg = f"an expression takes columns, bool, int, float and str, got {type(value).__name__}"
        raise WrongType(msg)
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        msg = f"the integer {value} does not fit int64"
        raise WrongType(msg, hint="write it as a float")
    return Literal(value)


def columns_of(expression: Expression) -> tuple[str, ...]:
    """Names of the columns that an expression reads, each once, in order of appearance."""
    if isinstance(expression, Column):
        return (expression.name,)
    if isinstance(expression, Call):
        return tuple(dict.fromkeys(n for arg in expression.args for n in columns_of(arg)))
    return ()


def type_of(expression: Expression, columns: Mapping[str, pa.DataType], where: str) -> pa.DataType:
    """The Arrow type that an expression gives over these columns.

    `where` names the place in the declaration, for the message.

    Raises:
        UnknownColumn: HOF-102.
        WrongType: HOF-103, an operator does not take these types.
    """
    return kind_types[kind_of(expression, columns, where)]


def kind_of(expression: Expression, columns: Mapping[str, pa.DataType], where: str) -> str:
    """`bool`, `int`, `float`, `string` or `timestamp`: what `type_of` is built on."""
    if isinstance(expression, Column):
        if expression.name not in columns:
            raise unknown_column(expression.name, columns, where)
        kind = type_kinds.get(columns[expression.name])
        if kind is None:
            msg = f"{where}: column {expression.name!r} is {columns[expression.name]}"
            raise WrongType(msg, hint="expressions read bool, integers, floats, string, timestamp")
        return kind
    if isinstance(expression, Literal):
        names = {bool: "bool", int: "int", float: "float", str: "string"}
        return names[type(expression.value)]
    assert isinstance(expression, Call)
    kinds = [kind_of(arg, columns, where) for arg in expression.args]
    result = _result(expression.op, kinds)
    if result is None:
        msg = f"{where}: {expression} does not work on {', '.join(kinds)}"
        raise WrongType(msg)
    return result


def unknown_column(name: str, columns: Mapping[str, object], where: str) -> UnknownColumn:
    """The error for a name that is not among `columns`, with the nearest name as a hint."""
    near = get_close_matches(str(name), list(columns), n=1)
    return UnknownColumn(
        f"{where}: there is no column {name!r}; there are {', '.join(columns)}",
        hint=f"did you mean {near[0]!r}?" if near else "",
    )


def _result(op: str, kinds: list[str]) -> str | None:
    """The kind that `op` gives for arguments of these kinds; None where it does not apply."""
    numbers = all(kind in ("int", "float") for kind in kinds)
    widest = "float" if "float" in kinds else "int"
    same = len(set(kinds)) == 1 or numbers
    rules = {
        **dict.fromkeys(FLOAT_FUNCTIONS, ("float", numbers)),
        **dict.fromkeys(DATE_PARTS, ("int", kinds[0] == "timestamp")),
        **dict.fromkeys(COMPARISON, ("bool", same and kinds[0] != "bool")),
        **dict.fromkeys(("==", "!="), ("bool", same)),
        **dict.fromkeys(LOGIC, ("bool", set(kinds) == {"bool"})),
        **dict.fromkeys(("+", "-", "*", "abs", "negate"), (widest, numbers)),
        "/": ("float", numbers),
        "~": ("bool", kinds[0] == "bool"),
        "is_null": ("bool", True),
        "is_in": ("bool", len(kinds) > 1 and len(set(kinds)) == 1),
        "fill_null": (widest if numbers else kinds[0], same),
        "to_float": ("float", kinds[0] in ("bool", "int", "float")),
        "to_int": ("int", kinds[0] in ("bool", "int")),
    }
    result, applies = rules[op]
    return result if applies else None
