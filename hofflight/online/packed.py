"""One stored row as bytes: what a key's value in the online store is made of.

```
i64 event time, us | i64 load | u32 schema | null bits | values, little-endian | text and bytes
```

Text and bytes stand at the end, their lengths (u32) among the values. `schema` is a checksum of the
columns' names and types: a row of another version of the group is refused, not misread. One row is
read with `struct`, a column of rows with numpy; both are tested to say the same.
"""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hofflight.errors import StoredUnreadable
from hofflight.wire.ipc import CODES, VARIABLE
from hofflight.wire.schema import AS_INTEGERS

if TYPE_CHECKING:
    from collections.abc import Sequence

_STAMP: Final = struct.Struct("<qq")
STAMP_BYTES: Final = _STAMP.size
_HEAD: Final = "qqI"


class StoredRow(NamedTuple):
    """A row: since when it holds, which load brought it, its values in the packing's order."""

    time_us: int
    load: int
    values: list[Any]


class StoredRows(NamedTuple):
    """Many of them, as columns."""

    times_us: pa.Array
    loads: pa.Array
    columns: list[pa.Array]


class Packing:
    """Rows of one schema as bytes and back. Every column of it may be null.

    texts, strings, bools: places of columns of text or bytes, of text, and of bools. codes, size:
    of the fixed part, as `struct` has it.
    """

    def __init__(self, schema: pa.Schema) -> None:
        self.schema = schema
        text = ",".join(f"{field.name}:{field.type}" for field in schema)
        self.checksum = zlib.crc32(text.encode())
        self.texts = [i for i, t in enumerate(schema.types) if t in VARIABLE]
        codes = ["I" if t in VARIABLE else CODES[t] for t in schema.types]
        self._null_bytes = -(-len(schema) // 8)
        self.no_nulls = bytes(self._null_bytes)
        self.codes = f"{_HEAD}{self._null_bytes}s{''.join(codes)}"
        self._fixed = struct.Struct(f"<{self.codes}")
        self.size = self._fixed.size
        self._dtype = np.dtype([
            ("time", "<i8"), ("load", "<i8"), ("schema", "<u4"),
            ("nulls", "u1", (self._null_bytes,)),
            *((f"c{i}", "u1" if code == "B" else f"<{code}") for i, code in enumerate(codes)),
        ])  # fmt: skip
        assert self._dtype.itemsize == self._fixed.size
        self.bools = [i for i, t in enumerate(schema.types) if t == pa.bool_()]
        self.strings = {i for i, t in enumerate(schema.types) if t == pa.string()}

    def sizes(self, columns: Sequence[pa.Array]) -> pa.Array:
        """How many bytes each row is packed into."""
        size = pa.repeat(pa.scalar(self.size, pa.int64()), len(columns[0]))
        for place in self.texts:
            length = pc.binary_length(columns[place]).cast(pa.int64())
            size = pc.add(size, pc.fill_null(length, 0))
        return size

    def pack(self, times: pa.Array, loads: pa.Array, columns: Sequence[pa.Array]) -> pa.Array:
        """Rows as a binary column, one for each."""
        rows = len(times)
        fixed = np.zeros(rows, self._dtype)
        fixed["time"] = times.cast(pa.int64()).to_numpy()
        fixed["load"] = loads.to_numpy()
        fixed["schema"] = self.checksum
        tails: list[pa.Array] = []
        for place, column in enumerate(columns):
            nulls = pc.is_null(column).to_numpy(zero_copy_only=False)
            fixed["nulls"][:, place // 8] |= (nulls << (place % 8)).astype(np.uint8)
            if place in self.texts:
                data = pc.fill_null(column.cast(pa.binary()), b"")
                fixed[f"c{place}"] = pc.binary_length(data).to_numpy()
                tails.append(data)
            else:
                fixed[f"c{place}"] = _plain_numbers(column)
        head = pa.Array.from_buffers(
            pa.binary(self._dtype.itemsize), rows, [None, pa.py_buffer(fixed.tobytes())]
        ).cast(pa.binary())
        return pc.binary_join_element_wise(head, *tails, b"") if tails else head

    def unpack(self, data: bytes) -> StoredRow:
        """The values of one row, as `to_python` gives them.

        Raises: StoredUnreadable (HOF-511), cut, or of another schema.
        """
        try:
            time_us, load, checksum, nulls, *values = self._fixed.unpack_from(data)
        except struct.error:
            raise StoredUnreadable(f"a stored row was cut: {len(data)} bytes") from None
        if checksum != self.checksum:
            raise StoredUnreadable("a stored row is of another schema", hint=_RELOAD)
        end = self._fixed.size
        for place in self.texts:
            start, end = end, end + values[place]
            text = data[start:end]
            values[place] = _text(text) if place in self.strings else text
        if end != len(data):
            raise StoredUnreadable(f"a stored row has {len(data)} bytes, not {end}", hint=_RELOAD)
        for place in self.bools:
            values[place] = values[place] != 0
        if any(nulls):
            bits = int.from_bytes(nulls, "little")
            values = [None if bits >> i & 1 else value for i, value in enumerate(values)]
        return StoredRow(time_us, load, values)

    def unpack_many(self, rows: pa.Array) -> StoredRows:
        """The columns of many rows, none of them null.

        Raises: StoredUnreadable (HOF-511).
        """
        sizes = pc.binary_length(rows).to_numpy()
        if len(rows) and sizes.min() < self._dtype.itemsize:
            raise StoredUnreadable("a stored row was cut", hint=_RELOAD)
        offsets, data = _binary_buffers(rows)
        starts = offsets[:-1]
        places = starts[:, np.newaxis] + np.arange(self._dtype.itemsize)
        fixed = data[places].view(self._dtype).reshape(len(rows))
        if (fixed["schema"] != self.checksum).any():
            raise StoredUnreadable("a stored row is of another schema", hint=_RELOAD)
        ends = starts + self._dtype.itemsize
        columns = []
        for place, column_type in enumerate(self.schema.types):
            nulls = (fixed["nulls"][:, place // 8] >> (place % 8) & 1).astype(bool)
            values = fixed[f"c{place}"]
            if place in self.texts:
                begins, ends = ends, ends + values.astype(np.int64)
                columns.append(_gathered(data, begins, ends, nulls, column_type))
            else:
                columns.append(_as_column(np.ascontiguousarray(values), nulls, column_type))
        if (ends != offsets[1:]).any():
            raise StoredUnreadable("a stored row has not the bytes it says", hint=_RELOAD)
        times, loads = (pa.array(np.ascontiguousarray(fixed[n])) for n in ("time", "load"))
        return StoredRows(times, loads, columns)


_RELOAD: Final = "load the group again: hof materialize GROUP --refill"


def stamp(row: bytes) -> tuple[int, int]:
    """Event time and load of a packed row: the greater one is newer."""
    time_us, load = _STAMP.unpack_from(row)
    return time_us, load


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise StoredUnreadable("a stored text is not UTF-8", hint=_RELOAD) from None


def _plain_numbers(column: pa.Array) -> np.ndarray[Any, Any]:
    if column.type in AS_INTEGERS:
        column = column.cast(AS_INTEGERS[column.type])
    elif column.type == pa.bool_():
        column = column.cast(pa.uint8())
    return pc.fill_null(column, pa.scalar(0, column.type)).to_numpy()


def _as_column(
    values: np.ndarray[Any, Any], nulls: np.ndarray[Any, Any], column_type: pa.DataType
) -> pa.Array:
    if column_type == pa.bool_():
        return pa.array(values != 0, mask=nulls)
    return pa.array(values, mask=nulls).view(column_type)


def _binary_buffers(rows: pa.Array) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Offsets and bytes of a binary column, offsets counted from its first row."""
    _, offsets, data = rows.buffers()
    all_offsets = np.frombuffer(offsets, np.int32)[rows.offset : rows.offset + len(rows) + 1]
    bytes_ = np.frombuffer(data, np.uint8) if data is not None else np.zeros(0, np.uint8)
    return all_offsets.astype(np.int64), bytes_


def _gathered(
    data: np.ndarray[Any, Any],
    begins: np.ndarray[Any, Any],
    ends: np.ndarray[Any, Any],
    nulls: np.ndarray[Any, Any],
    column_type: pa.DataType,
) -> pa.Array:
    """Pieces of `data` as a column of text or bytes."""
    sizes = ends - begins
    if len(sizes) and (sizes.min() < 0 or ends.max() > len(data)):
        raise StoredUnreadable("a stored row was cut", hint=_RELOAD)
    offsets = np.zeros(len(sizes) + 1, np.int64)
    np.cumsum(sizes, out=offsets[1:])
    # Byte i of the output is byte i - offset of its row's piece.
    source = np.repeat(begins - offsets[:-1], sizes) + np.arange(offsets[-1])
    valid = pa.array(~nulls).buffers()[1]
    buffers = [valid, pa.py_buffer(offsets.astype(np.int32)), pa.py_buffer(data[source])]
    found = pa.Array.from_buffers(column_type, len(sizes), buffers)
    try:
        found.validate(full=True)
    except pa.ArrowInvalid as error:
        raise StoredUnreadable("a stored text is not UTF-8", hint=_RELOAD) from error
    return found
