"""One row's way through a group, as two functions: up to the windows, and from them on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hofflight import limits
from hofflight.features.expression import Expression
from hofflight.transform.row_code import RowCode, unpack
from hofflight.wire.schema import FLOATS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import pyarrow as pa

    from hofflight.features.group import FeatureGroup
    from hofflight.transform.window_plan import Series
    from hofflight.transform.window_step import KeyReader

Row = list[Any]


def compile_before(
    group: FeatureGroup, series: Sequence[Series], keys: KeyReader
) -> Callable[[Row, Sequence[Any], int], tuple[Row, Any, int, Sequence[Any]]]:
    """`f(raw, opaque, newest_us)`: the row with its outputs, key, event time, series values.

    `opaque` are the values of the group's function, in declaration order. A series value is None
    where null, NaN or not in `where`; -0.0 becomes 0.0.

    Raises (the function): NullKey (HOF-205), BadEventTime (HOF-206), OverflowError.
    """
    code = _code(group)
    raw = len(group.input)
    unpack(code, range(raw), "raw")
    key = _key(code, group, keys)
    unpack(code, [code.slots[name] for name in group.opaque_output], "opaque")
    for name, output in group.output.items():
        if isinstance(output, Expression):
            code.store(name, code.value(output))
    values = [_series_value(code, one, group.transformed) for one in series]
    row = ", ".join(f"c{slot}" for slot in range(len(group.transformed)))
    result = (
        f"[{row}], {key}, {code.column(group.event_time)}, ({''.join(f'{v}, ' for v in values)})"
    )
    return code.build("raw, opaque, newest_us", result)


def compile_derive(group: FeatureGroup) -> Callable[[Row], Row]:
    """`f(row)`: the derived columns of a row with its windows; None where a function fills in."""
    code = _code(group)
    known = len(group.transformed) + len(group.windows)
    unpack(code, range(known), "row")
    values = [
        code.value(derived) if isinstance(derived, Expression) else "None"
        for derived in group.derive.values()
    ]
    return code.build("row", f"[{', '.join(values)}]")


def _code(group: FeatureGroup) -> RowCode:
    types = {field.name: field.type for field in group.schema}
    return RowCode({name: slot for slot, name in enumerate(types)}, types)


def _key(code: RowCode, group: FeatureGroup, keys: KeyReader) -> str:
    """Statements that check key and event time; the expression for the key."""
    parts = [code.column(name) for name in group.key]
    ts = code.column(group.event_time)
    # NaN is not equal to itself.
    bad = " or ".join(f"{part} is None or {part} != {part}" for part in parts)
    code.statement(f"if {bad}: raise {code.constant(keys.null_key)}(0)")
    early = code.constant(limits.event_time_us_min)
    code.statement(
        f"if {ts} is None or not {early} <= {ts} <= newest_us: "
        f"raise {code.constant(keys.bad_time)}(0, {ts}, newest_us)"
    )
    return parts[0] if len(parts) == 1 else f"({', '.join(parts)})"


def _series_value(code: RowCode, series: Series, types: dict[str, pa.DataType]) -> str:
    where = None if series.where is None else code.value(series.where)
    if series.column is None:
        return "True" if where is None else f"({where} or None)"
    column = code.column(series.column)
    value, unusable = column, []
    if where is not None:
        unusable.append(f"not {where}")
    if types[series.column] in FLOATS:
        value = f"{column} + 0.0"
        unusable.append(f"{column} is None or {column} != {column}")
    return code.local(f"None if {' or '.join(unusable)} else {value}") if unusable else value
