"""Declared expressions over one row, written out as one Python function.

A tree of closures costs a call per node, and between two requests every call is cold: eight
features took some 15 us more of a request's 330 as closures (docs/adr/0006). So the trees are
compiled, as `dataclasses` compiles `__init__`: statements over local variables named by column
number. Nothing a user, a client or a file wrote becomes source text: column names never appear,
and literals and functions are passed in as constants.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from hofflight.features.expression import (
    ARITHMETIC,
    COMPARISON,
    Call,
    Column,
    Expression,
    Literal,
    kind_of,
)
from hofflight.transform.scalar import (
    BINARY_INT,
    CLOCK_PARTS,
    UNARY,
    UNARY_INT,
    USUAL,
    divide,
    members_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import pyarrow as pa

Row = list[Any]
_INLINE: Final = frozenset((*ARITHMETIC, *COMPARISON))


class RowCode:
    """A function being written: statements, and the constants they name.

    Columns are local variables `c0`, `c1`, ... by slot; what is computed is `v0`, `v1`, ...
    """

    def __init__(self, slots: Mapping[str, int], types: Mapping[str, pa.DataType]) -> None:
        self.slots = slots
        self.types = types
        self._lines: list[str] = []
        self._constants: dict[str, Any] = {}
        # Expressions that print the same are the same: each is computed once.
        self._known: dict[str, str] = {}

    def constant(self, value: object) -> str:
        """The name under which the function knows a value."""
        name = f"k{len(self._constants)}"
        self._constants[name] = value
        return name

    def local(self, source: str) -> str:
        """The name of a new variable that holds the value of `source`."""
        name = f"v{len(self._lines)}"
        self._lines.append(f"{name} = {source}")
        return name

    def statement(self, source: str) -> None:
        """A statement of its own."""
        self._lines.append(source)

    def column(self, name: str) -> str:
        """The variable of a column."""
        return f"c{self.slots[name]}"

    def store(self, name: str, variable: str) -> None:
        """Let a column's variable be a computed one."""
        self.statement(f"{self.column(name)} = {variable}")

    def value(self, expression: Expression) -> str:
        """The variable that holds the value of an expression: None for null."""
        if isinstance(expression, Column):
            return self.column(expression.name)
        if isinstance(expression, Literal):
            return self.constant(expression.value)
        text = str(expression)
        if text not in self._known:
            assert isinstance(expression, Call)
            self._known[text] = self.local(self._call(expression))
        return self._known[text]

    def build(self, parameters: str, result: str) -> Callable[..., Any]:
        """The function that runs the statements and returns `result`."""
        body = "\n    ".join([*self._lines, f"return {result}"])
        source = f"def compiled({parameters}):\n    {body}\n"
        exec(compile(source, "<hofflight row>", "exec"), self._constants)  # noqa: S102 see above
        return self._constants["compiled"]

    def _call(self, call: Call) -> str:
        kinds = [kind_of(arg, self.types, "expression") for arg in call.args]
        first = self.value(call.args[0])
        if call.op == "is_in":
            return f"None if {first} is None else {first} in {self.constant(members_of(call))}"
        if call.op == "is_null":
            return f"{first} is None"
        if len(call.args) == 1:
            return f"None if {first} is None else {self._unary(call.op, kinds[0], first)}"
        variables = [first, self.value(call.args[1])]
        if "float" in kinds and "int" in kinds:
            # Arrow compares and adds int64 and float64 as float64; Python would compare exactly.
            pairs = zip(variables, kinds, call.args, strict=True)
            variables = [self._as_float(v, a) if kind == "int" else v for v, kind, a in pairs]
            kinds = ["float", "float"]
        return self._binary(call, kinds[0], *variables)

    def _unary(self, op: str, kind: str, variable: str) -> str:
        if op in CLOCK_PARTS:
            return f"{variable} {CLOCK_PARTS[op]}"
        is_int = kind == "int" and op in UNARY_INT
        result = f"{self.constant(UNARY_INT[op] if is_int else UNARY[op])}({variable})"
        if op in USUAL and not is_int:
            condition, function = USUAL[op]
            return (
                f"({self.constant(function)}({variable}) if {variable} {condition} else {result})"
            )
        return result

    def _as_float(self, variable: str, argument: Expression) -> str:
        if isinstance(argument, Literal):
            return self.constant(float(argument.value))
        return self.local(f"None if {variable} is None else float({variable})")

    def _binary(self, call: Call, kind: str, left: str, right: str) -> str:
        if call.op == "fill_null":
            return f"{right} if {left} is None else {left}"
        if call.op in ("&", "|"):
            decides = call.op == "|"  # true | null is true, false & null is false
            either = f"{left} is {decides} or {right} is {decides}"
            unknown = f"None if {left} is None or {right} is None else {not decides}"
            return f"{decides} if {either} else {unknown}"
        operands = zip((left, right), call.args, strict=True)
        nullable = [f"{v} is None" for v, arg in operands if not isinstance(arg, Literal)]
        result = f"{left} {call.op} {right}"
        if kind == "int" and call.op in BINARY_INT:
            result = f"{self.constant(BINARY_INT[call.op])}({left}, {right})"
        elif call.op == "/":
            result = f"({left} / {right} if {right} else {self.constant(divide)}({left}, {right}))"
        else:
            assert call.op in _INLINE
        return f"None if {' or '.join(nullable)} else {result}" if nullable else result


def compile_row(
    expression: Expression, slots: Mapping[str, int], types: Mapping[str, pa.DataType]
) -> Callable[[Row], Any]:
    """A function of one row (values by slot, None for null) that gives the expression's value.

    Raises (the function): OverflowError, integer arithmetic left int64.
    """
    code = RowCode(slots, types)
    unpack(code, range(len(slots)), "row")
    return code.build("row", code.value(expression))


def unpack(code: RowCode, slots: Sequence[int], source: str) -> None:
    """Name the values of a list after their slots."""
    if slots:
        code.statement("".join(f"c{slot}, " for slot in slots) + f"= {source}")
