"""Bytes from a hostile sender: a clear refusal, or a batch that Arrow too finds valid in full."""

import contextlib
import random
import struct

import pyarrow as pa
import pytest

from hofflight.errors import HofError, MalformedBatch, SchemaMismatch, TooLarge
from hofflight.wire.ipc import BatchReader, encode_batch, encode_schema, join_message
from hofflight.wire.message import (
    _Message,
    message_kind,
    read_batch_header,
    require_little_endian,
)
from hofflight.wire.schema import TIMESTAMP, require_schema

SCHEMA = pa.schema(
    [("i", pa.int64()), ("s", pa.string()), ("b", pa.bool_()), ("t", TIMESTAMP), ("r", pa.binary())]
)
ROWS = {
    "one row": [[7, "héllo", True, 5, b"\xff\0"]],
    "one row of nulls": [[None, None, None, None, None]],
    "one row with a null text": [[7, None, False, 5, b"x"]],
    "three rows": [[1, "a", True, 1, b""], [None] * 5, [3, "ccc", False, 3, b"cc"]],
}


def batch_of(rows):
    columns = [pa.array([r[i] for r in rows], t) for i, t in enumerate(SCHEMA.types)]
    return pa.RecordBatch.from_arrays(columns, schema=SCHEMA)


def message_of(name):
    return encode_batch(batch_of(ROWS[name]))


def accepted(reader, head, body):
    """Whether the reader takes it; whatever it takes, Arrow validates in full and reads alike."""
    try:
        layout = reader.layout(head, body)
        row = layout.read_row(body) if layout.read_row else None
        if row is None:
            reader.read_batch(head, body)
    except HofError:
        return False
    batch = pa.ipc.read_record_batch(pa.py_buffer(join_message(head, body)), SCHEMA)
    batch.validate(full=True)
    assert 1 <= batch.num_rows <= 100_000
    if row is not None:
        flat = [c.view(pa.int64()) if c.type == TIMESTAMP else c for c in batch.columns]
        assert row == [c[0].as_py() for c in flat]
    return True


@pytest.mark.parametrize("name", ROWS)
def test_any_changed_byte_of_the_head_is_refused_or_harmless(name):
    """Every byte, eight values each: flipped bits, zero, all ones, the ends of signed bytes."""
    head, body = message_of(name)
    reader = BatchReader(SCHEMA)
    outcomes = set()
    for at in range(len(head)):
        for value in {head[at] ^ 1, head[at] ^ 0x80, 0, 1, 0x7F, 0x80, 0xFF, (at * 37) % 256}:
            changed = bytearray(head)
            changed[at] = value
            outcomes.add(accepted(reader, bytes(changed), body))

    assert outcomes == {True, False}


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("known", [False, True], ids=["new head", "known head"])
def test_any_changed_byte_of_the_body_is_refused_or_harmless(name, known):
    """With a head seen for the first time, and with one whose layout is remembered."""
    head, body = message_of(name)
    reader = BatchReader(SCHEMA)
    if known:
        assert accepted(reader, head, body)
    outcomes = set()
    for at in range(len(body)):
        for value in {body[at] ^ 1, body[at] ^ 0x80, 0, 0x7F, 0xFF}:
            changed = bytearray(body)
            changed[at] = value
            outcomes.add(accepted(reader if known else BatchReader(SCHEMA), head, bytes(changed)))

    assert outcomes == {True, False}


def test_random_damage_never_gets_past_the_reader():
    """Several bytes at once, at random places of head and body; the seed is in the message."""
    for seed in range(1_500):
        random_ = random.Random(seed)
        head, body = (bytearray(part) for part in message_of(random_.choice(list(ROWS))))
        for _ in range(random_.randint(1, 6)):
            part = random_.choice([head, body])
            at = random_.randrange(len(part))
            part[at : at + random_.choice([1, 4, 8])] = random_.randbytes(1)
        try:
            accepted(BatchReader(SCHEMA), bytes(head), bytes(body))
        except BaseException as error:
            raise AssertionError(f"seed {seed}") from error


@pytest.mark.parametrize("name", ROWS)
def test_a_cut_or_extended_message_is_refused(name):
    """At every length but the right one."""
    head, body = message_of(name)
    reader = BatchReader(SCHEMA)
    for length in range(len(body)):
        assert not accepted(reader, head, body[:length])
    for more in (b"\0", bytes(8), body):
        assert not accepted(reader, head, body + more)
    for length in range(0, len(head), 4):
        with contextlib.suppress(HofError):
            read_batch_header(head[:length])
            assert accepted(reader, head[:length], body)


def lying(name, change):
    """A message whose body was changed by `change(body, buffers)`."""
    head, body = message_of(name)
    changed = bytearray(body)
    change(changed, read_batch_header(head).buffers)
    return head, bytes(changed)


def offsets(*values):
    """Replace the offsets of column s: its buffers are 2 (validity), 3 (offsets) and 4 (data)."""

    def change(body, buffers):
        struct.pack_into(f"<{len(values)}i", body, buffers[3][0], *values)

    return change


LIES = [
    ("negative start", "one row", offsets(-1, 6)),
    ("negative end", "one row", offsets(0, -1)),
    ("past the end", "one row", offsets(0, 1 << 20)),
    ("decreasing", "one row", offsets(5, 2)),
    ("inside a character", "one row", offsets(0, 2)),
    ("of a null text", "one row with a null text", offsets(0, 1 << 20)),
    ("of a null text, negative", "one row with a null text", offsets(-5, -5)),
    ("decreasing in the middle", "three rows", offsets(0, 3, 1, 4)),
    ("past the end in the middle", "three rows", offsets(0, 1 << 30, 1 << 30, 4)),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "change"), [lie[1:] for lie in LIES], ids=[lie[0] for lie in LIES]
)
def test_offsets_that_lie_are_refused_whether_the_head_is_known_or_not(name, change):
    """The check is repeated for each body, since only the head is remembered."""
    head, body = lying(name, change)
    fresh, taught = BatchReader(SCHEMA), BatchReader(SCHEMA)
    assert accepted(taught, *message_of(name))

    assert not accepted(fresh, head, body)
    assert not accepted(taught, head, body)


def test_invalid_utf8_is_refused_and_binary_takes_it():
    """A string is text in every language that will ever read the log."""
    head, body = message_of("one row")
    reader = BatchReader(SCHEMA)
    at = body.index("héllo".encode())

    assert accepted(reader, head, body)
    for bad in (b"\xff", b"\xc0\x80", b"\xed\xa0\x80"):
        changed = body[:at] + bad + body[at + len(bad) :]
        assert not accepted(reader, head, changed)
        assert not accepted(BatchReader(SCHEMA), head, changed)


@pytest.mark.parametrize("name", ["one row", "one row of nulls", "three rows"])
def test_null_counts_that_lie_are_refused(name):
    """Null where the bitmap says value, value where it says null, more nulls than rows."""
    head, body = message_of(name)
    header = read_batch_header(head)
    right = [count for _, count in header.nodes]
    for column in range(len(SCHEMA)):
        for wrong in {-1, 0, 1, 2, 3, 4, 2**40} - {right[column]}:
            changed = bytearray(head)
            struct.pack_into("<q", changed, header.nodes_at + 16 * column + 8, wrong)
            assert not accepted(BatchReader(SCHEMA), bytes(changed), body), (column, wrong)


def test_lengths_and_rows_that_lie_are_refused():
    """A column longer than the batch, and a batch of 2^31 rows in two hundred bytes."""
    head, body = message_of("one row")
    header = read_batch_header(head)
    for at in (header.rows_at, header.nodes_at, header.nodes_at + 16):
        for wrong in (0, -1, 2, 1_000, 2**31, 2**62):
            changed = bytearray(head)
            struct.pack_into("<q", changed, at, wrong)
            assert not accepted(BatchReader(SCHEMA), bytes(changed), body), (at, wrong)


def test_buffers_that_overlap_or_leave_the_body_are_refused():
    """Two columns over one piece of memory, unaligned, negative, outside."""
    head, body = message_of("one row")
    header = read_batch_header(head)
    for number, (offset, length) in enumerate(header.buffers):
        at = header.buffers_at + 16 * number
        wrongs = [(offset + 4, length), (-8, length), (offset, -1), (len(body), 8), (offset, 2**40)]
        if offset:
            wrongs.append((0, max(length, 1)))
        for wrong in wrongs:
            changed = bytearray(head)
            struct.pack_into("<qq", changed, at, *wrong)
            assert not accepted(BatchReader(SCHEMA), bytes(changed), body), (number, wrong)


def written(batch, **options):
    """Head and body as another writer, with these options, would send them."""
    stream = pa.BufferOutputStream()
    with pa.ipc.new_stream(stream, batch.schema, options=pa.ipc.IpcWriteOptions(**options)) as out:
        out.write_batch(batch)
    reader = pa.ipc.MessageReader.open_stream(stream.getvalue())
    messages = list(reader)
    return [(bytes(m.metadata), bytes(m.body or b"")) for m in messages]


@pytest.mark.parametrize("codec", ["lz4", "zstd"])
def test_a_compressed_body_is_refused_before_it_is_unpacked(codec):
    """A small body may unpack to anything, so none is unpacked."""
    batch = batch_of(ROWS["three rows"] * 100)
    head, body = written(batch, compression=codec)[-1]

    with pytest.raises(MalformedBatch, match=r"HOF-203.*compressed.*compression=None"):
        BatchReader(SCHEMA).layout(head, body)


def test_old_metadata_is_refused():
    """V4 messages lay unions and validity out in another way."""
    head, body = written(batch_of(ROWS["one row"]), metadata_version=pa.ipc.MetadataVersion.V4)[-1]

    with pytest.raises(MalformedBatch, match=r"version V4, expected V5"):
        BatchReader(SCHEMA).layout(head, body)


def test_dictionaries_and_second_schemas_are_no_batches():
    """Each kind of message has its place in the stream."""
    column = pa.array(["a", "b", "a"]).dictionary_encode()
    messages = written(pa.record_batch({"s": column}))

    for head, what in ((messages[0][0], "a second schema"), (messages[1][0], "a dictionary")):
        with pytest.raises(MalformedBatch, match=f"HOF-203.*{what}"):
            read_batch_header(head)


def test_big_endian_bodies_are_refused():
    """Every number would be read backwards."""
    head = encode_schema(SCHEMA)
    require_little_endian(head)
    # A little-endian writer leaves the field out: entry 0 of the schema's vtable is zero. Let it
    # point at the first two bytes of the table's next field, which are not.
    table = _Message(head).header
    vtable = table - struct.unpack_from("<i", head, table)[0]
    assert struct.unpack_from("<H", head, vtable + 4) == (0,)
    big = bytearray(head)
    struct.pack_into("<H", big, vtable + 4, 4)

    with pytest.raises(MalformedBatch, match=r"HOF-203.*big-endian"):
        require_little_endian(bytes(big))


@pytest.mark.parametrize("length", [65_537, 2**20])
def test_a_header_past_its_limit_is_refused_unread(length):
    """64 KiB hold 512 columns many times over."""
    with pytest.raises(TooLarge, match=r"HOF-207.*at most 65536"):
        message_kind(b"\x10" * length)


class _Custom(pa.ExtensionType):
    """An extension type that nobody registered."""

    def __init__(self):
        super().__init__(pa.int64(), "test.custom")

    def __arrow_ext_serialize__(self):
        return b""

    @classmethod
    def __arrow_ext_deserialize__(cls, storage_type, serialized):
        return cls()


WRONG_TYPES = [
    pa.null(), pa.int32(), pa.uint64(), pa.float16(), pa.large_string(), pa.string_view(),
    pa.binary(), pa.binary(8), pa.list_(pa.int64()), pa.list_view(pa.int64()),
    pa.struct([("i", pa.int64())]), pa.map_(pa.string(), pa.int64()),
    pa.dictionary(pa.int32(), pa.int64()), pa.run_end_encoded(pa.int32(), pa.int64()),
    pa.dense_union([pa.field("i", pa.int64())]), pa.decimal128(10, 2), pa.timestamp("us"),
    pa.timestamp("ns", "UTC"), pa.timestamp("us", "Europe/Vienna"), _Custom(),
]  # fmt: skip


@pytest.mark.parametrize("column_type", WRONG_TYPES, ids=str)
def test_a_schema_with_another_type_is_refused_by_schema_alone(column_type):
    """A null column of 2^31 rows has a hundred bytes: it must not get as far as its body."""
    sent = SCHEMA.set(0, pa.field("i", column_type))

    with pytest.raises(SchemaMismatch, match=r"HOF-202.*column 'i' must be int64") as caught:
        require_schema(SCHEMA, sent)

    assert "send exactly: i int64, s string" in str(caught.value)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["i", "s", "b", "t"], ["'r' is missing"]),
        (["i", "s", "b", "t", "r", "x"], ["'x' is not registered"]),
        (["i", "s", "b", "time", "r"], ["'t' is missing", "'time' is not registered"]),
        (["I", "s", "b", "t", "r"], ["'i' is missing", "'I' is not registered"]),
        (["s", "i", "b", "t", "r"], ["order"]),
        (["i", "i", "s", "b", "t", "r"], ["'i' came 2 times"]),
        (["", "s", "b", "t", "r"], ["'i' is missing"]),
        ([f"c{n}" for n in range(2_000)], ["2000 columns came"]),
    ],
)
def test_renamed_reordered_missing_extra_and_double_columns_are_named(names, words):
    """The sender learns which of its columns is wrong, not just that something is."""
    types = {f.name: f.type for f in SCHEMA}
    sent = pa.schema([pa.field(name, types.get(name, pa.int64())) for name in names])

    with pytest.raises(SchemaMismatch, match="HOF-202") as caught:
        require_schema(SCHEMA, sent)

    assert [word for word in words if word not in str(caught.value)] == []


def test_metadata_and_nullability_of_a_schema_do_not_matter():
    """pandas adds metadata, other languages declare columns not null; values decide."""
    fields = [pa.field(f.name, f.type, nullable=False, metadata={"a": "b"}) for f in SCHEMA]

    require_schema(SCHEMA, pa.schema(fields, metadata={"pandas": "{}"}))
