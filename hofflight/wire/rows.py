"""Rows as people have them, made into a batch of registered columns without changing a value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from hofflight.errors import BadRows, SchemaMismatch
from hofflight.wire.schema import TIMESTAMP, require_schema

# A dict, a list of dicts, a RecordBatch, a Table, a pandas or a polars frame.
Rows = Mapping[str, Any] | Sequence[Mapping[str, Any]] | pa.RecordBatch | pa.Table | Any


def to_batch(rows: Rows, schema: pa.Schema) -> pa.RecordBatch:
    """One batch of exactly `schema`.

    Dicts may leave out columns (null); frames may hold their columns in any order. Numbers are
    widened (int to float64 only where exact), never rounded, cut or parsed from text; timestamps
    may be `datetime` with a time zone, or integers: microseconds since 1970, UTC.

    Raises:
        BadRows: HOF-211, naming the column.
        SchemaMismatch: HOF-202, unknown or missing columns.
    """
    if isinstance(rows, Mapping):
        rows = [rows]
    if isinstance(rows, pa.RecordBatch):
        return _from_table(pa.Table.from_batches([rows]), schema)
    if isinstance(rows, pa.Table):
        return _from_table(rows, schema)
    if hasattr(rows, "to_arrow"):  # polars
        return _from_table(rows.to_arrow(), schema)
    if hasattr(rows, "to_dict") and hasattr(rows, "dtypes"):  # pandas
        return _from_table(pa.Table.from_pandas(rows, preserve_index=False), schema)
    if isinstance(rows, Sequence) and all(isinstance(row, Mapping) for row in rows):
        return _from_dicts(rows, schema)
    msg = f"rows cannot be {type(rows).__name__}"
    raise BadRows(msg, hint="a dict, a list of dicts, a RecordBatch, a Table, pandas or polars")


def _from_table(table: pa.Table, schema: pa.Schema) -> pa.RecordBatch:
    if sorted(table.schema.names) == sorted(schema.names):
        table = table.select(schema.names)
    else:
        require_schema(schema, table.schema)
    arrays = []
    for field, column in zip(schema, table.columns, strict=True):
        whole = column.combine_chunks()
        if whole.type != field.type:
            whole = _cast(whole, field)
        arrays.append(whole)
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _cast(column: pa.Array, field: pa.Field) -> pa.Array:
    """A cast that keeps every value: it fails on what it would round, cut or parse."""
    text = pa.types.is_large_string(column.type) or pa.types.is_string_view(column.type)
    same_kind = (
        (pa.types.is_integer(column.type) and pa.types.is_integer(field.type))
        or (pa.types.is_floating(field.type) and _is_number(column.type))
        or (pa.types.is_timestamp(column.type) and field.type == TIMESTAMP and column.type.tz)
        or (pa.types.is_integer(column.type) and field.type == TIMESTAMP)
        or (text and field.type == pa.string())
        or (pa.types.is_large_binary(column.type) and field.type == pa.binary())
        or pa.types.is_null(column.type)
    )
    try:
        if same_kind:
            if pa.types.is_integer(column.type) and field.type == TIMESTAMP:
                column = column.cast(pa.int64())
            return column.cast(field.type)
    except pa.ArrowInvalid as error:
        msg = f"column {field.name!r} must be {field.type}: {str(error).splitlines()[0]}"
        raise BadRows(msg) from error
    msg = f"column {field.name!r} must be {field.type}, got {column.type}"
    raise SchemaMismatch(msg)


def _is_number(column_type: pa.DataType) -> bool:
    return pa.types.is_integer(column_type) or pa.types.is_floating(column_type)


def _from_dicts(rows: Sequence[Mapping[str, Any]], schema: pa.Schema) -> pa.RecordBatch:
    known = set(schema.names)
    for index, row in enumerate(rows):
        if not known.issuperset(row):
            unknown = sorted(set(map(str, row)) - known)
            msg = f"row {index} has {unknown}, the input columns are {schema.names}"
            raise SchemaMismatch(msg)
    arrays = [_column([row.get(f.name) for row in rows], f) for f in schema]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _column(values: list[Any], field: pa.Field) -> pa.Array:
    if field.type == TIMESTAMP:
        values = [_timestamp(v, row, field.name) for row, v in enumerate(values)]
    try:
        # pa.array reads True as 1 and 1 as True; a bool is not a number here.
        if any(isinstance(v, bool) != (field.type == pa.bool_()) for v in values if v is not None):
            kind = "bool" if field.type != pa.bool_() else "no bool"
            msg = f"got {kind}"
            raise TypeError(msg)
        return pa.array(values, type=field.type)
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        msg = f"column {field.name!r} must be {field.type}: {str(error).splitlines()[0]}"
        raise BadRows(msg) from error


def _timestamp(value: object, row: int, name: str) -> object:
    if isinstance(value, datetime):
        if value.tzinfo is None:
            msg = f"row {row}, column {name!r}: {value} has no time zone"
            raise BadRows(msg, hint="use datetime(..., tzinfo=UTC)")
        delta = value.astimezone(UTC) - datetime(1970, 1, 1, tzinfo=UTC)
        return (delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds
    return value
