"""Which columns may travel, and whether a batch's columns are the registered ones."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING, Final

import pyarrow as pa

from hofflight import limits
from hofflight.errors import SchemaMismatch

if TYPE_CHECKING:
    from collections.abc import Iterator

TIMESTAMP: Final = pa.timestamp("us", tz="UTC")

INTEGERS: Final = (
    pa.int64(), pa.int32(), pa.int16(), pa.int8(), pa.uint32(), pa.uint16(), pa.uint8(),
)  # fmt: skip
FLOATS: Final = (pa.float64(), pa.float32())
# Integers inside: microseconds since 1970, and days.
AS_INTEGERS: Final = {TIMESTAMP: pa.int64(), pa.date32(): pa.int32()}
# An allow-list: null, run-end, view, union, extension and nested types can claim 2^31 rows in a
# hundred bytes, so they are refused by schema, before any body is looked at.
COLUMN_TYPES: Final = frozenset(
    (*INTEGERS, *FLOATS, pa.bool_(), pa.string(), pa.binary(), TIMESTAMP, pa.date32())
)

_SHOWN: Final = 8  # a message is for reading


def require_schema(expected: pa.Schema, got: pa.Schema) -> None:
    """Refuse any schema that is not `expected` in names, order and types.

    Metadata and nullability are not compared: nulls are checked by value.

    Raises:
        SchemaMismatch: HOF-202, naming every column that differs.
    """
    if got.names == expected.names and got.types == expected.types:
        return
    if len(got) > limits.columns_max:
        msg = f"{len(got)} columns came, {len(expected)} are registered"
        raise SchemaMismatch(msg)
    differences = list(_differences(expected, got))
    shown = differences[:_SHOWN]
    if len(differences) > _SHOWN:
        shown.append(f"and {len(differences) - _SHOWN} more")
    hint = "send exactly: " + ", ".join(f"{f.name} {f.type}" for f in expected)
    raise SchemaMismatch("; ".join(shown), hint=hint)


def _differences(expected: pa.Schema, got: pa.Schema) -> Iterator[str]:
    wanted, came = expected.names, got.names
    for name in dict.fromkeys(n for n in came if came.count(n) > 1):
        yield f"column {name!r} came {came.count(name)} times"
    for name in wanted:
        if name not in came:
            near = get_close_matches(name, [n for n in came if n not in wanted], n=1)
            yield f"column {name!r} is missing" + (f" ({near[0]!r} came)" if near else "")
    for name in came:
        if name not in wanted:
            yield f"column {name!r} is not registered"
    for field in expected:
        if came.count(field.name) == 1 and got.field(field.name).type != field.type:
            yield f"column {field.name!r} must be {field.type}, got {got.field(field.name).type}"
    if sorted(wanted) == sorted(came) and wanted != came:
        yield f"columns came in the order {came}, registered is {wanted}"
