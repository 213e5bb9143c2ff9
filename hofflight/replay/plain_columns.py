"""Columns as DuckDB can hold them without changing a value, and back.

DuckDB keeps two of its timestamps for infinity and prints its own time zone; to it ours are
integers. Nothing else needs a disguise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pyarrow as pa

from hofflight.wire.schema import TIMESTAMP

if TYPE_CHECKING:
    from collections.abc import Sequence

_PLAIN: Final = {TIMESTAMP: pa.int64(), pa.date32(): pa.int32()}


def plain_type(column_type: pa.DataType) -> pa.DataType:
    """The type that a column travels through DuckDB as."""
    if pa.types.is_list(column_type):
        return pa.list_(plain_type(column_type.value_type))
    return _PLAIN.get(column_type, column_type)


def plain_schema(schema: pa.Schema) -> pa.Schema:
    """The same columns of plain types."""
    return pa.schema([(field.name, plain_type(field.type)) for field in schema])


def plain_batch(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The same rows of plain types."""
    return retyped(batch, plain_schema(batch.schema))


def retyped(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """The columns of `schema` out of a batch, by name, as exactly its types."""
    arrays = [_as(batch.column(field.name), field.type) for field in schema]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def exploded(structs: pa.StructArray, names: Sequence[str]) -> list[pa.Array]:
    """The fields of structs as columns; null where the struct is."""
    fields = structs.flatten()
    return [fields[structs.type.get_field_index(name)] for name in names]


def _as(array: pa.Array, column_type: pa.DataType) -> pa.Array:
    if array.type == column_type:
        return array
    if array.type in _PLAIN.values() and _PLAIN.get(column_type) == array.type:
        return array.view(column_type)
    if _PLAIN.get(array.type) == column_type:
        return array.view(column_type)
    return array.cast(column_type)
