"""Rows as people have them, made into a batch of registered columns without changing a value."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime
from functools import lru_cache
from typing import Any, Final, NamedTuple, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc

from hofflight.errors import BadRows, SchemaMismatch
from hofflight.wire.schema import FLOATS, INTEGERS, TIMESTAMP, require_schema

# A dict, a list of dicts, a RecordBatch, a Table, a pandas or a polars frame.
Rows: TypeAlias = Mapping[str, Any] | Sequence[Mapping[str, Any]] | pa.RecordBatch | pa.Table | Any

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_KINDS: Final = "a dict (one row), a list of dicts, a RecordBatch, a Table, pandas or polars"


def to_batch(rows: Rows, schema: pa.Schema) -> pa.RecordBatch:
    """One batch of exactly `schema`, rows in the order given.

    Every column must be there, in any order. A dict may leave one out (null) only where another
    row of the list has it, since a name that no row has is more often a typing error than a null.

    No value is rounded, cut, or parsed from text: an integer becomes a float only where that is
    exact, a float never becomes an integer (not even 1.0), a bool is no number. Timestamps are
    `datetime` or a frame's timestamps with a time zone, or integers: microseconds since 1970, UTC.
    The one exception is the declared type `float32`, which takes the nearest one.

    Null and NaN stay two things: None, `pandas.NA` and NaT are null. NaN is NaN in a float column,
    also where a numpy-backed pandas frame meant "missing"; elsewhere in such a frame it is null.

    Raises:
        BadRows: HOF-211, a value that is not of its column's type; names the row and the column.
        SchemaMismatch: HOF-202, unknown or missing columns, or a frame's column of another type.
    """
    if isinstance(rows, Mapping):
        return _from_dict(rows, schema)
    if isinstance(rows, pa.RecordBatch):
        if rows.schema.equals(schema):
            return rows
        return _from_table(pa.Table.from_batches([rows]), schema)
    if isinstance(rows, pa.Table):
        return _from_table(rows, schema)
    if hasattr(rows, "iloc") and hasattr(rows, "columns"):  # pandas
        return _from_pandas(rows, schema)
    if hasattr(rows, "to_arrow") and hasattr(rows, "columns"):  # polars
        return _from_table(rows.to_arrow(), schema)
    if isinstance(rows, Sequence) and not isinstance(rows, str | bytes):
        strangers = (i for i, row in enumerate(rows) if not isinstance(row, Mapping))
        at = next(strangers, None)
        if at is None:
            return _from_dicts(rows, schema)
        raise BadRows(f"row {at} is {_name(rows[at])}, expected a dict", hint=_KINDS)
    raise BadRows(f"rows cannot be {_name(rows)}", hint=_KINDS)


def to_request(rows: Rows | None, schema: pa.Schema) -> pa.RecordBatch:
    """`to_batch`, of a view that may have no columns of rows: a request for it has none.

    Raises: BadRows (HOF-211), SchemaMismatch (HOF-202).
    """
    if rows is None and not len(schema):
        return pa.RecordBatch.from_pylist([], schema=schema)
    if rows is None:
        listed = ", ".join(f"{f.name} {f.type}" for f in schema)
        raise BadRows("the view needs rows", hint=f"with {listed}")
    if not len(schema):
        raise BadRows("the view has stored features only: it takes keys= and no rows")
    return to_batch(rows, schema)


def to_table(rows: Any) -> pa.Table:
    """Rows as a table of whatever columns and types they have; in dicts every name counts.

    Raises: pa.ArrowException, TypeError, ValueError: they are no rows.
    """
    if isinstance(rows, pa.Table):
        return rows
    if isinstance(rows, pa.RecordBatch):
        return pa.Table.from_batches([rows])
    if hasattr(rows, "iloc"):  # pandas
        return pa.Table.from_pandas(rows, preserve_index=False)
    if hasattr(rows, "to_arrow"):  # polars
        return rows.to_arrow()
    dicts = [dict(row) for row in rows]
    names = dict.fromkeys(name for row in dicts for name in row)  # not of the first row alone
    return pa.table({name: pa.array([row.get(name) for row in dicts]) for name in names})


# --- dicts ---


class _Column(NamedTuple):
    """How values of one column are judged. `exact`: Python types that pass without `convert`."""

    name: str
    type: pa.DataType
    exact: frozenset[type]
    convert: Callable[[Any], Any]


class _Shape(NamedTuple):
    names: frozenset[str]
    columns: tuple[_Column, ...]
    struct: pa.DataType


@lru_cache(maxsize=256)
def _shape(schema: pa.Schema) -> _Shape:
    columns = tuple(_Column(f.name, f.type, *_rules(f.type)) for f in schema)
    return _Shape(frozenset(schema.names), columns, pa.struct(list(schema)))


def _from_dict(row: Mapping[str, Any], schema: pa.Schema) -> pa.RecordBatch:
    shape = _shape(schema)
    if row.keys() != shape.names:
        raise _wrong_names(row, schema)
    return _assemble([row], shape)


def _from_dicts(rows: Sequence[Mapping[str, Any]], schema: pa.Schema) -> pa.RecordBatch:
    shape = _shape(schema)
    came: dict[str, None] = {}
    for row in rows:
        if row.keys() != shape.names:
            came.update(dict.fromkeys(row))
        elif len(came) < len(shape.names):
            came.update(dict.fromkeys(shape.names))
    if rows and came.keys() != shape.names:
        raise _wrong_names(came, schema)
    return _assemble(rows, shape)


def _wrong_names(came: Mapping[str, Any], schema: pa.Schema) -> SchemaMismatch:
    """What `require_schema` says about names alone, with the fix for dicts."""
    try:
        _require_names([str(name) for name in came], schema)
        message = f"column names must be str: {[n for n in came if not isinstance(n, str)]}"
    except SchemaMismatch as error:
        message = error.message
    listed = ", ".join(f"{f.name} {f.type}" for f in schema)
    return SchemaMismatch(message, hint=f"every column, None where there is no value: {listed}")


def _require_names(names: Sequence[str], schema: pa.Schema) -> None:
    known = dict(zip(schema.names, schema.types, strict=True))
    if sorted(names) != sorted(schema.names):
        require_schema(schema, pa.schema([(n, known.get(n, pa.null())) for n in names]))


def _assemble(rows: Sequence[Mapping[str, Any]], shape: _Shape) -> pa.RecordBatch:
    columns = shape.columns
    values = [
        tuple(
            value
            if (value := row.get(column.name)) is None or type(value) in column.exact
            else _convert(value, column, index)
            for column in columns
        )
        for index, row in enumerate(rows)
    ]
    try:
        # One struct array costs half of one array a column: 13 against 27 us for a row of eight.
        return pa.RecordBatch.from_struct_array(pa.array(values, type=shape.struct))
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        raise _misfit(values, columns) or error from error


def _misfit(values: list[tuple[Any, ...]], columns: tuple[_Column, ...]) -> BadRows | None:
    """The first value that Arrow refuses: out of range, no exact float, or not UTF-8."""
    for index, row in enumerate(values):
        for value, column in zip(row, columns, strict=True):
            try:
                pa.array([value], type=column.type)
            except (pa.ArrowException, TypeError, ValueError, OverflowError):
                return _bad(column, index, f"a {_name(value)} that does not fit")
    return None


def _convert(value: Any, column: _Column, row: int | None) -> Any:
    """The value as one of the column's exact types, or None for pandas' kinds of null."""
    if type(value).__name__ in {"NAType", "NaTType"}:
        return None
    try:
        if type(value).__module__ == "numpy":
            value = value.item()
        return value if type(value) in column.exact else column.convert(value)
    except (TypeError, ValueError, OverflowError) as error:
        what = str(error) if isinstance(error, _Unfit) else _name(value)
        nan = isinstance(value, float) and value != value
        hint = "None where there is no value" if nan else ""
        raise _bad(column, row, what, hint) from None


class _Unfit(ValueError):
    """A value of the right kind that cannot be kept; the message says why."""


def _bad(column: _Column, row: int | None, what: str, hint: str = "") -> BadRows:
    where = "" if row is None else f"row {row}, "
    return BadRows(f"{where}column {column.name!r} must be {column.type}, got {what}", hint=hint)


def _name(value: object) -> str:
    return type(value).__name__


def _rules(column_type: pa.DataType) -> tuple[frozenset[type], Callable[[Any], Any]]:
    """Exact Python types of an Arrow type, and what to do with everything else.

    Arrow alone would read 1.5 as 1, True as 1, b"a" as "a" and a datetime as its date.
    """
    if column_type in INTEGERS:
        return frozenset({int}), _subclass_of(int)
    if column_type == pa.float32():
        return frozenset(), _to_float32
    if column_type in FLOATS:
        return frozenset({float, int}), _to_float
    if column_type == TIMESTAMP:
        return frozenset({int}), _to_microseconds
    if column_type == pa.date32():
        return frozenset({date}), _to_date
    if column_type == pa.bool_():
        return frozenset({bool}), _refuse
    if column_type == pa.string():
        return frozenset({str}), _subclass_of(str)
    if column_type == pa.binary():
        return frozenset({bytes}), _to_bytes
    raise SchemaMismatch(f"no column can be {column_type}")


def _refuse(value: object) -> Any:
    raise TypeError(_name(value))


def _subclass_of(kind: type) -> Callable[[Any], Any]:
    """Enum members that are also int or str give their value, never their name."""
    plain: Callable[[Any], Any] = str.__str__ if kind is str else int.__int__

    def convert(value: Any) -> Any:
        return (
            plain(value) if isinstance(value, kind) and type(value) is not bool else _refuse(value)
        )

    return convert


def _to_float(value: Any) -> Any:
    if isinstance(value, float):
        return float(value)
    return _subclass_of(int)(value)


def _to_float32(value: Any) -> Any:
    number = float(value) if isinstance(value, float) else _subclass_of(int)(value)
    # Halfway between the largest float32 and 2^128: from there on rounding gives infinity.
    if isinstance(number, float) and 2.0**128 - 2.0**103 <= abs(number) < math.inf:
        raise _Unfit("a float that does not fit")
    return number


def _to_microseconds(value: Any) -> int:
    if not isinstance(value, datetime):
        return int(_subclass_of(int)(value))
    if value.utcoffset() is None:
        raise _Unfit("a datetime without a time zone; use datetime(..., tzinfo=UTC)")
    if getattr(value, "nanosecond", 0):
        raise _Unfit("a time finer than a microsecond; round it yourself")
    delta = value.astimezone(UTC) - _EPOCH
    return (delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds


def _to_date(value: Any) -> Any:
    if isinstance(value, datetime):
        raise _Unfit("a datetime; use .date()")
    return date(value.year, value.month, value.day) if isinstance(value, date) else _refuse(value)


def _to_bytes(value: Any) -> bytes:
    if not isinstance(value, bytes | bytearray | memoryview):
        raise TypeError(_name(value))
    return bytes(value)


# --- frames ---


def _from_table(table: pa.Table, schema: pa.Schema) -> pa.RecordBatch:
    _require_names(table.schema.names, schema)
    arrays = [_cast(_whole(table.column(f.name)), f) for f in schema]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _from_pandas(frame: Any, schema: pa.Schema) -> pa.RecordBatch:
    names = list(frame.columns)
    if not all(isinstance(name, str) for name in names):
        raise SchemaMismatch(f"column names must be str, got {names[:8]}")
    _require_names(names, schema)
    arrays = [_cast(_from_series(frame[f.name], f), f) for f in schema]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _from_series(series: Any, field: pa.Field) -> pa.Array:
    """A pandas column as Arrow has it; objects are judged one by one, like values of dicts."""
    kind = series.dtype.kind if type(series.dtype).__module__.startswith("numpy") else ""
    if kind == "O":
        column = _Column(field.name, field.type, *_rules(field.type))
        floats = field.type in FLOATS
        values = [None if _is_missing(v, floats) else v for v in series.tolist()]
        return _from_values(values, column)
    try:
        # `pa.array(series)` would turn NaN into null; the numpy array keeps it.
        return _whole(pa.array(series.to_numpy() if kind else series))
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise BadRows(f"column {field.name!r} must be {field.type}, got {series.dtype}") from error


def _from_values(values: list[Any], column: _Column) -> pa.Array:
    converted = [
        v if v is None or type(v) in column.exact else _convert(v, column, row)
        for row, v in enumerate(values)
    ]
    try:
        return pa.array(converted, type=column.type)
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        raise _misfit([(v,) for v in converted], (column,)) or error from error


def _is_missing(value: Any, floats: bool) -> bool:
    return value is None or (not floats and isinstance(value, float) and value != value)


def _whole(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    """One array of plain values: chunks joined, dictionaries (categories) written out."""
    whole = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    return whole.dictionary_decode() if pa.types.is_dictionary(whole.type) else whole


def _cast(column: pa.Array, field: pa.Field) -> pa.Array:
    """A cast that keeps every value: it fails on what it would round, cut or parse."""
    if column.type == field.type:
        return column
    if not _same_kind(column.type, field.type):
        hint = ""
        if pa.types.is_timestamp(column.type) and field.type == TIMESTAMP:
            hint = "give the times a time zone"
        elif pa.types.is_floating(column.type) and field.type in INTEGERS:
            hint = "a pandas column with missing integers needs the dtype Int64"
        raise SchemaMismatch(
            f"column {field.name!r} must be {field.type}, got {column.type}", hint=hint
        )
    try:
        if pa.types.is_integer(column.type) and field.type == TIMESTAMP:
            column = column.cast(pa.int64())
        cast = column.cast(field.type)
    except pa.ArrowInvalid as error:
        why = str(error).splitlines()[0]
        raise BadRows(f"column {field.name!r} must be {field.type}: {why}") from error
    if (
        field.type == pa.float32()
        and pc.any(pc.and_(pc.is_inf(cast), pc.is_finite(column))).as_py()
    ):
        raise BadRows(f"column {field.name!r} must be {field.type}: a value does not fit")
    return cast


def _same_kind(came: pa.DataType, wanted: pa.DataType) -> bool:
    types = pa.types
    if types.is_null(came):
        return True
    if wanted in INTEGERS:
        return types.is_integer(came)
    if wanted in FLOATS:
        return types.is_integer(came) or types.is_floating(came)
    if wanted == TIMESTAMP:
        return types.is_integer(came) or (types.is_timestamp(came) and came.tz is not None)
    if wanted == pa.string():
        return types.is_large_string(came) or types.is_string_view(came)
    if wanted == pa.binary():
        binary = types.is_large_binary(came) or types.is_binary_view(came)
        return binary or types.is_fixed_size_binary(came)
    return False
