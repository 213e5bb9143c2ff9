"""The canonical bytes of a key: what stored rows are found by, the same in every process.

Each part is its length (u32, little-endian) and its bytes: int64 little-endian for integers, times
and dates, one byte for a bool, UTF-8 for text. So no value can look like two, and no two like one.
A key of more than 200 bytes is its BLAKE2b digest, behind a length that no part can have.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hofflight import limits
from hofflight.errors import BadKeys, BadRows, TooLarge
from hofflight.wire.columns import to_python
from hofflight.wire.rows import to_batch
from hofflight.wire.schema import AS_INTEGERS, INTEGERS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

KEY_BYTES_MAX: Final = 200
_DIGEST: Final = b"\xff\xff\xff\xff"
_INTEGER: Final = struct.Struct("<Iq")
_LENGTH: Final = struct.Struct("<I")
_BOOLS: Final = (_LENGTH.pack(1) + b"\0", _LENGTH.pack(1) + b"\1")


class KeyCodec:
    """Keys of one schema as bytes, one by one or by column; both give the same."""

    def __init__(self, schema: pa.Schema) -> None:
        self.schema = schema
        self._parts = [_part_encoder(t) for t in schema.types]
        is_integer = len(schema) == 1 and _is_integer(schema.types[0])
        self.is_integer = is_integer

    def encode(self, values: Sequence[Any]) -> bytes | None:
        """The key of plain values, as `to_python` gives them; None where one is null."""
        if None in values:
            return None
        if self.is_integer:
            return _INTEGER.pack(8, values[0])
        parts = zip(self._parts, values, strict=True)
        return bounded(b"".join([encode(value) for encode, value in parts]))

    def encode_rows(self, columns: Sequence[Sequence[Any]]) -> list[bytes | None]:
        """The keys of columns of plain values."""
        if self.is_integer:
            pack = _INTEGER.pack
            return [None if value is None else pack(8, value) for value in columns[0]]
        return [self.encode(row) for row in zip(*columns, strict=True)]

    def encode_columns(self, columns: Sequence[pa.Array]) -> pa.Array:
        """The keys of columns: binary, null where a part is null."""
        parts = [
            encode_part(column, column_type)
            for column, column_type in zip(columns, self.schema.types, strict=True)
        ]
        whole = pc.binary_join_element_wise(*parts, pa.scalar(b""))
        long = pc.fill_null(pc.greater(pc.binary_length(whole), KEY_BYTES_MAX), False)
        if not pc.any(long).as_py():
            return whole
        # Few keys are so long; each needs its digest.
        return pa.array([k if k is None else bounded(k) for k in whole.to_pylist()], pa.binary())


def encode_part(column: pa.Array, column_type: pa.DataType) -> pa.Array:
    """One part of a key: binary, null where the column is. Parts in a row, `bounded`, are a key."""
    data = _column_bytes(column, column_type)
    return pc.binary_join_element_wise(_lengths(data), data, pa.scalar(b""))


def bounded(key: bytes) -> bytes:
    """A key as it is, or its digest where it is long."""
    if len(key) <= KEY_BYTES_MAX:
        return key
    return _DIGEST + blake2b(key, digest_size=32).digest()


def given_keys(
    keys: Mapping[str, Any] | None, schema: pa.Schema, rows: int | None
) -> dict[str, list[Any]]:
    """What a caller gave as `keys=`, as plain values of each row, by column.

    `rows`: how many there are; None: as many as the lists say.
    Raises: BadKeys (HOF-216); TooLarge (HOF-207), more than a request may have rows.
    """
    keys = {} if keys is None else keys
    if not isinstance(keys, Mapping) or keys.keys() != set(schema.names):
        came = sorted(map(str, keys)) if isinstance(keys, Mapping) else type(keys).__name__
        wanted = ", ".join(f"{field.name} {field.type}" for field in schema) or "none"
        raise BadKeys(f"keys= must name {wanted}; got {came}", hint=_HINT)
    if rows == 1 and all(_is_plain(keys[field.name], field.type) for field in schema):
        return {name: [value] for name, value in keys.items()}
    values = plain_keys(keys)
    sizes = {n: len(value) for n, value in values.items() if isinstance(value, list | tuple)}
    count = rows if rows is not None else max(sizes.values(), default=1)
    if set(sizes.values()) - {count} or not count:
        raise BadKeys(f"keys= has lists of {sizes} for {count} rows", hint=_HINT)
    if count > limits.request_rows_max:
        msg = f"a request has 1 to {limits.request_rows_max} rows, got {count}"
        raise TooLarge(msg, hint="split it into several requests")
    columns = {n: list(v) if n in sizes else [v] * count for n, v in values.items()}
    rows_of = zip(*(columns[name] for name in schema.names), strict=True)
    try:
        batch = to_batch([dict(zip(schema.names, row, strict=True)) for row in rows_of], schema)
    except BadRows as error:
        raise BadKeys(f"keys=: {error.message}", hint='1 and "1" are two keys') from error
    for name in schema.names:
        if batch.column(name).null_count:
            row = pc.index(pc.is_null(batch.column(name)), True).as_py()
            where = f", row {row}" if name in sizes else ""
            raise BadKeys(f"key {name!r}{where} is null", hint=_HINT)
    return {name: to_python(batch.column(name)) for name in schema.names}


def plain_keys(keys: Mapping[str, Any]) -> dict[str, Any]:
    """The same with columns (numpy, pandas, Arrow) as lists."""
    return {n: v.tolist() if hasattr(v, "tolist") else v for n, v in keys.items()}


def _is_plain(value: object, column_type: pa.DataType) -> bool:
    """Values that need no conversion, and would cost 10 us on the way through Arrow."""
    if type(value) is int:
        return column_type == pa.int64() and -(1 << 63) <= value < 1 << 63
    return type(value) is str and column_type == pa.string() and value.isascii()


_HINT: Final = "a value for all rows, or a list with one for each"


def _is_integer(column_type: pa.DataType) -> bool:
    return column_type in INTEGERS or column_type in AS_INTEGERS


def _part_encoder(column_type: pa.DataType) -> Callable[[Any], bytes]:
    if _is_integer(column_type):
        return lambda value: _INTEGER.pack(8, value)
    if column_type == pa.bool_():
        return _BOOLS.__getitem__
    if column_type == pa.string():
        return lambda value: _sized(value.encode())
    return _sized


def _sized(data: bytes) -> bytes:
    return _LENGTH.pack(len(data)) + data


def _column_bytes(column: pa.Array, column_type: pa.DataType) -> pa.Array:
    """A part's bytes, without its length."""
    if column_type in (pa.string(), pa.binary()):
        return column.cast(pa.binary())
    if column_type in AS_INTEGERS:
        column = column.cast(AS_INTEGERS[column_type])
    dtype = "<u1" if column_type == pa.bool_() else "<i8"
    plain = pc.fill_null(column.cast(pa.uint8() if dtype == "<u1" else pa.int64()), 0)
    fixed = _fixed(np.ascontiguousarray(plain.to_numpy(), dtype))
    return pc.if_else(pc.is_valid(column), fixed, pa.scalar(None, pa.binary()))


def _lengths(data: pa.Array) -> pa.Array:
    sizes = pc.fill_null(pc.binary_length(data), 0).to_numpy()
    return _fixed(np.ascontiguousarray(sizes, "<u4"))


def _fixed(values: np.ndarray[Any, Any]) -> pa.Array:
    """The bytes of each number as a binary column."""
    width = values.dtype.itemsize
    buffers = [None, pa.py_buffer(values)]
    return pa.Array.from_buffers(pa.binary(width), len(values), buffers).cast(pa.binary())
