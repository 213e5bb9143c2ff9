"""Columns as DuckDB can hold them without changing a value, and back.

DuckDB keeps two of its timestamps for infinity and prints its own time zone; to it ours are
integers. Nothing else needs a disguise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa

from hofflight.wire.schema import AS_INTEGERS

if TYPE_CHECKING:
    from collections.abc import Sequence


def plain_type(column_type: pa.DataType) -> pa.DataType:
    """The type that a column travels through DuckDB as."""
    if pa.types.is_list(column_type):
        return pa.list_(plain_type(column_type.value_type))
    return AS_INTEGERS.get(column_type, column_type)


def plain_schema(schema: pa.Schema) -> pa.Schema:
    """The same columns of plain types."""
    return pa.schema([(field.name, plain_type(field.type)) for field in schema])


def plain_array(array: pa.Array) -> pa.Array:
    """The same values, of the plain type."""
    return as_type(array, plain_type(array.type))


def plain_batch(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The same rows of plain types."""
    return retyped(batch, plain_schema(batch.schema))


def retyped(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """The columns of `schema` out of a batch, by name, as exactly its types."""
    arrays = [as_type(batch.column(field.name), field.type) for field in schema]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def exploded(structs: pa.StructArray, names: Sequence[str]) -> list[pa.Array]:
    """The fields of structs as columns; null where the struct is."""
    fields = structs.flatten()
    return [fields[structs.type.get_field_index(name)] for name in names]


def as_type(array: pa.Array, column_type: pa.DataType) -> pa.Array:
    """A column as its plain type or back, or of a type that holds every value of it."""
    if array.type == column_type:
        return array
    if AS_INTEGERS.get(array.type) == column_type or AS_INTEGERS.get(column_type) == array.type:
        return array.view(column_type)
    return array.cast(column_type)
