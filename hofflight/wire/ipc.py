"""Record batches to and from Arrow IPC bytes: head (the flatbuffer) and body, as Flight sends them.

One row is read and written with `struct`: pyarrow needs 100 us to build a one-row batch of 23
columns, one `Struct.pack` needs 1 us. Both ways are byte-equal to Arrow's meaning and tested so.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa

from hofflight import limits
from hofflight.errors import MalformedBatch, TooLarge
from hofflight.wire.message import BatchHeader, read_batch_header
from hofflight.wire.schema import TIMESTAMP

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Row = list[Any]
CODES: Final[dict[pa.DataType, str]] = {
    pa.int64(): "q", pa.int32(): "i", pa.int16(): "h", pa.int8(): "b", pa.uint32(): "I",
    pa.uint16(): "H", pa.uint8(): "B", pa.float64(): "d", pa.float32(): "f", pa.bool_(): "B",
    TIMESTAMP: "q", pa.date32(): "i",
}  # fmt: skip
VARIABLE: Final = frozenset((pa.string(), pa.binary()))
_CONTINUATION: Final = b"\xff\xff\xff\xff"


def split_message(message: pa.Buffer) -> tuple[bytes, bytes]:
    """Head and body of an encapsulated IPC message."""
    view = memoryview(message)
    body_at = 8 + struct.unpack_from("<i", view, 4)[0]
    return bytes(view[8:body_at]), bytes(view[body_at:])


def join_message(head: bytes, body: bytes) -> bytes:
    """The encapsulated message of a head and a body; the body starts on 8 bytes."""
    padded = head + bytes(-len(head) % 8)
    return b"".join((_CONTINUATION, struct.pack("<i", len(padded)), padded, body))


def encode_batch(batch: pa.RecordBatch) -> tuple[bytes, bytes]:
    """Head and body of a batch, uncompressed."""
    return split_message(batch.serialize())


def encode_schema(schema: pa.Schema) -> bytes:
    """Head of a schema message."""
    return split_message(schema.serialize())[0]


def empty_message(schema: pa.Schema) -> tuple[bytes, bytes]:
    """Head and body of a batch with zero rows: what an error answer carries."""
    return encode_batch(pa.RecordBatch.from_pylist([], schema=schema))


@dataclass(frozen=True, slots=True)
class Layout:
    """What one header promises about every body that comes with it.

    `read_row` gives the values of a one-row body, column by column: bool, int, float, str, bytes
    or None, timestamps as microseconds and dates as days; None when there are more rows.
    """

    rows: int
    body_length: int
    read_row: Callable[[bytes], Row] | None


class BatchReader:
    """Decodes the batches of one schema, after checking everything a hostile sender could bend."""

    def __init__(self, schema: pa.Schema) -> None:
        self.schema = schema
        self._layouts: dict[bytes, Layout] = {}

    def layout(self, head: bytes, body: bytes) -> Layout:
        """The checked layout of a header, from a bounded cache where it is known.

        Raises:
            MalformedBatch: HOF-203.
            TooLarge: HOF-207, no row, or more than `request_rows_max`.
        """
        layout = self._layouts.get(head)
        if layout is None:
            layout = self._learn(head, body)
        elif len(body) != layout.body_length:
            msg = f"the header announces a body of {layout.body_length} bytes, {len(body)} came"
            raise MalformedBatch(msg)
        return layout

    def read_batch(self, head: bytes, body: bytes) -> pa.RecordBatch:
        """Decode and fully validate a batch whose layout was checked.

        Raises:
            MalformedBatch: HOF-203, offsets, UTF-8 or null counts that lie.
        """
        try:
            batch = pa.ipc.read_record_batch(pa.py_buffer(join_message(head, body)), self.schema)
            batch.validate(full=True)
        except (pa.ArrowException, OSError, ValueError) as error:
            msg = f"the record batch does not decode: {str(error).splitlines()[0][:200]}"
            raise MalformedBatch(msg) from error
        return batch

    def _learn(self, head: bytes, body: bytes) -> Layout:
        header = read_batch_header(head)
        self._require_numbers(header, len(body))
        self._require_bitmaps(header, body)
        self.read_batch(head, body)
        read_row = _row_reader(self.schema, header) if header.rows == 1 else None
        layout = Layout(header.rows, header.body_length, read_row)
        if header.rows == 1:
            if len(self._layouts) >= limits.layouts_max:
                self._layouts.clear()
            self._layouts[head] = layout
        return layout

    def _require_numbers(self, header: BatchHeader, body_length: int) -> None:
        if header.body_length != body_length:
            msg = f"the header announces a body of {header.body_length} bytes, {body_length} came"
            raise MalformedBatch(msg)
        if not 1 <= header.rows <= limits.request_rows_max:
            msg = f"a request has 1 to {limits.request_rows_max} rows, got {header.rows}"
            raise TooLarge(msg, hint="split it into several requests" if header.rows else "")
        widths = [3 if t in VARIABLE else 2 for t in self.schema.types]
        if len(header.nodes) != len(self.schema) or len(header.buffers) != sum(widths):
            msg = f"{len(header.nodes)} columns and {len(header.buffers)} buffers came"
            raise MalformedBatch(f"{msg}, the schema has {len(self.schema)} and {sum(widths)}")
        if any(n != header.rows or not 0 <= nulls <= n for n, nulls in header.nodes):
            msg = "a column's length or null count contradicts the batch"
            raise MalformedBatch(msg)
        end = 0
        for offset, length in header.buffers:
            if offset < end or length < 0 or offset % 8 or offset + length > body_length:
                msg = "the buffers overlap, are unaligned or end outside the body"
                raise MalformedBatch(msg)
            end = offset + length

    def _require_bitmaps(self, header: BatchHeader, body: bytes) -> None:
        """Arrow ignores the bitmap of a column without nulls: one that has nulls is a lie."""
        every = (1 << header.rows) - 1
        at = 0
        for column_type, (_, nulls) in zip(self.schema.types, header.nodes, strict=True):
            offset, length = header.buffers[at]
            at += 3 if column_type in VARIABLE else 2
            bitmap = int.from_bytes(
                body[offset : offset + length][: header.rows // 8 + 1], "little"
            )
            if not nulls and length and bitmap & every != every:
                msg = "a null count contradicts its validity bitmap"
                raise MalformedBatch(msg)


def _row_reader(schema: pa.Schema, header: BatchHeader) -> Callable[[bytes], Row]:
    """A function that unpacks exactly this one-row layout; the same values `read_batch` gives."""
    parts: list[str] = []  # the struct format, buffer by buffer
    fields = at = 0
    places: list[int] = []  # per column: which unpacked field holds its value
    bools: list[int] = []
    texts: list[tuple[int, bool]] = []
    validity: list[tuple[int, int]] = []
    nulls: list[tuple[int, int]] = []
    buffers = iter(header.buffers)

    def take(code: str) -> int:
        """Read `code` from the start of the next buffer."""
        nonlocal at, fields
        offset, length = next(buffers)
        size = struct.calcsize(f"<{code}")
        if length < size:
            msg = f"a buffer has {length} bytes, its column needs {size}"
            raise MalformedBatch(msg)
        parts.append(f"{offset - at}x{code}")
        at, place = offset + size, fields
        fields += len(code) if "s" not in code else 1
        return place

    def skip() -> int:
        return next(buffers)[1]

    for column, (column_type, (_, null_count)) in enumerate(
        zip(schema.types, header.nodes, strict=True)
    ):
        if header.buffers[_buffer_index(schema, column)][1]:
            validity.append((take("B"), 1 - null_count))
        else:
            skip()
        if null_count and column_type in VARIABLE:
            places.append(take("ii"))
            nulls.append((column, skip()))
        elif null_count:
            nulls.append((column, -1))
            places.append(0)
            skip()
        elif column_type in VARIABLE:
            places.append(take("ii"))
            size = header.buffers[_buffer_index(schema, column) + 2][1]
            take(f"{size}s")
            texts.append((column, column_type == pa.string()))
        else:
            places.append(take(CODES[column_type]))
            if column_type == pa.bool_():
                bools.append(column)
    return _bind(struct.Struct("<" + "".join(parts)), places, bools, texts, validity, nulls)


def _buffer_index(schema: pa.Schema, column: int) -> int:
    return sum(3 if t in VARIABLE else 2 for t in schema.types[:column])


def _bind(
    packed: struct.Struct, places: list[int], bools: list[int], texts: list[tuple[int, bool]],
    validity: list[tuple[int, int]], nulls: list[tuple[int, int]],
) -> Callable[[bytes], Row]:  # fmt: skip
    unpack = packed.unpack_from
    # itemgetter of one item gives the item, not a tuple: take the first twice, drop one.
    pick = itemgetter(places[0], *places)

    def read(body: bytes) -> Row:
        values = unpack(body)
        row = list(pick(values))
        del row[0]
        for place, expected in validity:
            if values[place] & 1 != expected:
                msg = "a null count contradicts its validity bitmap"
                raise MalformedBatch(msg)
        for column in bools:
            row[column] = bool(row[column] & 1)
        for column, is_text in texts:
            place = places[column]
            start, end, data = values[place], values[place + 1], values[place + 2]
            if not 0 <= start <= end <= len(data):
                msg = "string offsets point outside their buffer"
                raise MalformedBatch(msg)
            row[column] = _decode(data[start:end]) if is_text else data[start:end]
        for column, size in nulls:
            place = places[column]
            if size >= 0 and not 0 <= values[place] <= values[place + 1] <= size:
                msg = "the string offsets of a null point outside their buffer"
                raise MalformedBatch(msg)
            row[column] = None
        return row

    return read


def _decode(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        msg = "a string is not UTF-8"
        raise MalformedBatch(msg) from error


class RowWriter:
    """Writes one row of a schema of fixed-width, string and binary columns as head and body."""

    def __init__(self, schema: pa.Schema) -> None:
        self.schema = schema
        nulls = pa.RecordBatch.from_arrays(
            [pa.array([None], t) for t in schema.types], schema=schema
        )
        self._template = encode_batch(nulls)[0]
        self._header = read_batch_header(self._template)
        self._texts = [i for i, t in enumerate(schema.types) if t in VARIABLE][::-1]
        self._strings = {i for i in self._texts if schema.types[i] == pa.string()}
        self._layouts: dict[tuple[object, ...], tuple[bytes, Callable[..., bytes]]] = {}

    @staticmethod
    def supports(schema: pa.Schema) -> bool:
        """Whether every column is one that a `struct` can hold (lists are not)."""
        return all(t in CODES or t in VARIABLE for t in schema.types)

    def write(self, row: Sequence[Any]) -> tuple[bytes, bytes]:
        """Head and body of the batch that holds exactly this row."""
        try:
            return self._write(list(row), None)
        except (struct.error, AttributeError, TypeError):  # a null: pack and encode take none
            mask = tuple([value is None for value in row])
            return self._write([0 if value is None else value for value in row], mask)

    def _write(self, values: Row, mask: tuple[bool, ...] | None) -> tuple[bytes, bytes]:
        key: list[object] = [mask]
        for column in self._texts:
            value = values[column]
            # Under a mask a null is 0, and bytes(0) is empty.
            data = value.encode() if column in self._strings and value != 0 else bytes(value)
            values[column : column + 1] = (0, len(data), data)
            key.append(len(data))
        layout = self._layouts.get(tuple(key))
        if layout is None:
            layout = self._layout(mask, key[:0:-1])
            if len(self._layouts) >= limits.layouts_max:
                self._layouts.clear()
            self._layouts[tuple(key)] = layout
        return layout[0], layout[1](*values)

    def _layout(
        self, mask: tuple[bool, ...] | None, lengths: list[Any]
    ) -> tuple[bytes, Callable[..., bytes]]:
        parts: list[str] = []
        buffers: list[int] = []
        nodes: list[int] = []
        text = iter(lengths)
        at = 0

        def add(code: str) -> None:
            nonlocal at
            size = struct.calcsize(f"<{code}")
            buffers.extend((at, size))
            parts.append(code + f"{-size % 8}x")
            at += size + -size % 8

        for column, column_type in enumerate(self.schema.types):
            is_null = mask is not None and mask[column]
            nodes += (1, int(is_null))
            if is_null:
                add("x")  # a validity byte of zero
            else:
                buffers += (at, 0)
            if column_type in VARIABLE:
                add("ii")
                add(f"{next(text)}s")
            else:
                add(CODES[column_type])
        head = bytearray(self._template)
        struct.pack_into(f"<{len(nodes)}q", head, self._header.nodes_at, *nodes)
        struct.pack_into(f"<{len(buffers)}q", head, self._header.buffers_at, *buffers)
        struct.pack_into("<q", head, self._header.body_length_at, at)
        return bytes(head), struct.Struct("<" + "".join(parts)).pack
