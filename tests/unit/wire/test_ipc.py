"""The fast one-row paths mean exactly what Arrow means, for every schema and every value."""

import struct

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hofflight.errors import HofError, MalformedBatch, TooLarge
from hofflight.wire.columns import to_python
from hofflight.wire.ipc import (
    BatchReader,
    RowWriter,
    empty_message,
    encode_batch,
    encode_schema,
    join_message,
    split_message,
)
from hofflight.wire.message import SCHEMA, message_kind
from hofflight.wire.schema import COLUMN_TYPES, TIMESTAMP

TYPES = sorted(COLUMN_TYPES, key=str)
BYTES = st.binary(max_size=20)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


def values_of(column_type):
    """Any value of a type as the engine holds it: times and dates are integers."""
    if pa.types.is_boolean(column_type):
        return st.booleans()
    if pa.types.is_floating(column_type):
        return st.floats(width=column_type.bit_width)
    if column_type == pa.string():
        return TEXT
    if column_type == pa.binary():
        return BYTES
    bits = column_type.bit_width
    if pa.types.is_unsigned_integer(column_type):
        return st.integers(0, 2**bits - 1)
    return st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


@st.composite
def schemas(draw):
    types = draw(st.lists(st.sampled_from(TYPES), min_size=1, max_size=8))
    return pa.schema([(f"c{i}", t) for i, t in enumerate(types)])


@st.composite
def tables(draw, rows_max):
    """A schema and rows of it, with nulls."""
    schema = draw(schemas())
    row = st.tuples(*[st.none() | values_of(t) for t in schema.types]).map(list)
    return schema, draw(st.lists(row, min_size=1, max_size=rows_max))


def batch_of(schema, rows):
    """What pyarrow makes of the rows; the reference."""
    columns = [pa.array([row[i] for row in rows], t) for i, t in enumerate(schema.types)]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def decoded(head, body, schema):
    """Read by pyarrow alone, and fully validated."""
    batch = pa.ipc.read_record_batch(pa.py_buffer(join_message(head, body)), schema)
    batch.validate(full=True)
    return batch


def bits(row):
    """Values with floats by their bits: NaN equals itself, -0.0 is not 0.0."""
    return [struct.pack("<d", v) if isinstance(v, float) else (type(v), v) for v in row]


@given(tables(rows_max=3))
def test_a_row_written_is_the_batch_that_pyarrow_would_have_made(table):
    """Head and body decode, validate in full, and hold the same values, bit for bit."""
    schema, rows = table
    writer = RowWriter(schema)
    for row in rows + rows:  # the second time the layout comes from the cache
        batch = decoded(*writer.write(row), schema)

        assert batch.num_rows == 1
        assert bits([to_python(c)[0] for c in batch.columns]) == bits(
            [to_python(c)[0] for c in batch_of(schema, [row]).columns]
        )
        for name, value in zip(schema.names, row, strict=True):
            assert batch[name].null_count == (value is None)


@given(tables(rows_max=3))
def test_a_row_written_is_read_back_by_our_own_reader(table):
    """What we answer we can take in again."""
    schema, rows = table
    reader, writer = BatchReader(schema), RowWriter(schema)
    for row in rows:
        head, body = writer.write(row)
        expected = [to_python(c)[0] for c in batch_of(schema, [row]).columns]

        assert bits(reader.layout(head, body).read_row(body)) == bits(expected)


@given(tables(rows_max=4))
def test_a_batch_of_pyarrow_is_read_as_pyarrow_reads_it(table):
    """One row by `read_row`, many by `read_batch`; slices and their offsets included."""
    schema, rows = table
    reader = BatchReader(schema)
    whole = batch_of(schema, rows)
    for start in range(len(rows)):
        for length in {1, len(rows) - start}:
            part = whole.slice(start, length)
            head, body = encode_batch(part)
            layout = reader.layout(head, body)

            assert layout.rows == length
            assert (layout.read_row is None) == (length > 1)
            columns = [to_python(c) for c in reader.read_batch(head, body).columns]
            assert [bits(c) for c in columns] == [bits(to_python(c)) for c in part.columns]
            if length == 1:
                assert bits(layout.read_row(body)) == [bits(c)[0] for c in columns]


def test_a_schema_without_null_bitmaps_and_one_with_them_read_the_same():
    """Other writers send a bitmap of ones where pyarrow sends none."""
    schema = pa.schema([("a", pa.int64()), ("s", pa.string()), ("b", pa.bool_())])
    bitmap = pa.py_buffer(b"\x01")
    columns = [
        pa.Array.from_buffers(c.type, 1, [bitmap, *c.buffers()[1:]], null_count=0)
        for c in batch_of(schema, [[7, "x", True]]).columns
    ]
    head, body = encode_batch(pa.RecordBatch.from_arrays(columns, schema=schema))

    assert BatchReader(schema).layout(head, body).read_row(body) == [7, "x", True]


def test_lists_are_left_to_arrow():
    """A one-row writer takes only what a struct can hold."""
    plain = pa.schema([("a", pa.int64()), ("s", pa.string())])

    assert RowWriter.supports(plain)
    assert not RowWriter.supports(plain.append(pa.field("l", pa.list_(pa.int64()))))


def test_messages_split_and_join_to_the_same_bytes():
    """Flight sends head and body apart; together they are one IPC message."""
    batch = batch_of(pa.schema([("t", TIMESTAMP), ("s", pa.string())]), [[1, "a"], [None, None]])
    message = batch.serialize()

    assert join_message(*split_message(message)) == message.to_pybytes()
    assert message_kind(encode_schema(batch.schema)) == SCHEMA


def test_an_empty_message_is_a_batch_without_rows():
    """What an error answer carries: every column, no row."""
    schema = pa.schema([("a", pa.int64()), ("l", pa.list_(pa.string()))])
    batch = decoded(*empty_message(schema), schema)

    assert (batch.num_rows, batch.schema) == (0, schema)


def test_no_row_and_too_many_rows_are_refused():
    """A request has 1 to 100,000 rows."""
    schema = pa.schema([("a", pa.int8())])
    reader = BatchReader(schema)

    assert reader.layout(*encode_batch(batch_of(schema, [[1]] * 100_000))).rows == 100_000
    for rows in (0, 100_001):
        with pytest.raises(TooLarge, match=rf"HOF-207.*1 to 100000 rows, got {rows}"):
            reader.layout(*encode_batch(batch_of(schema, [[1]] * rows)))


def test_a_body_of_another_length_than_announced_is_refused_every_time():
    """The first time it is computed, later it comes from the cache; both look."""
    schema = pa.schema([("a", pa.int64())])
    head, body = encode_batch(batch_of(schema, [[1]]))
    reader = BatchReader(schema)
    for _ in range(2):
        for bad in (body[:-8], body[:-1], b"", body + b"\0", body + bytes(8)):
            with pytest.raises(MalformedBatch, match="announces a body of 8 bytes"):
                reader.layout(head, bad)
        assert reader.layout(head, body).rows == 1


def test_a_batch_of_another_schema_is_refused_by_its_buffers():
    """The schema came once; a batch that does not fit it never reaches Arrow's decoder."""
    reader = BatchReader(pa.schema([("a", pa.int64()), ("s", pa.string())]))
    for types in ([pa.int64()], [pa.int64(), pa.int64()], [pa.string(), pa.int64(), pa.int64()]):
        schema = pa.schema([(f"c{i}", t) for i, t in enumerate(types)])
        row = ["x" if t == pa.string() else 1 for t in types]
        with pytest.raises(MalformedBatch, match="buffers came"):
            reader.layout(*encode_batch(batch_of(schema, [row])))


def test_the_layout_cache_is_bounded():
    """A sender that varies its text's length makes a new header each time."""
    schema = pa.schema([("s", pa.string())])
    reader, writer = BatchReader(schema), RowWriter(schema)
    for length in range(3_000):
        head, body = writer.write(["x" * length])
        reader.layout(head, body)

    assert len(reader._layouts) <= 1_024
    assert len(writer._layouts) <= 1_024


def test_every_error_of_the_reader_is_ours():
    """Nothing of pyarrow's comes out, whatever goes in."""
    reader = BatchReader(pa.schema([("a", pa.int64())]))
    for head in (b"", b"\0", bytes(8), b"\xff" * 64, bytes(range(256)), b"A" * 70_000):
        with pytest.raises(HofError):
            reader.layout(head, b"")
