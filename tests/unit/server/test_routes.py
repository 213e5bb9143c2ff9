"""Rows find the partition of their key, whoever says which it is."""

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hofflight.errors import MalformedBatch, NullKey, TooLarge
from hofflight.eventlog.protocol import Request, Served
from hofflight.server.routes import Route
from hofflight.wire.ipc import encode_batch, encode_schema, join_message
from hofflight.wire.key_hash import murmur2, partition_of
from hofflight.wire.keys import KeyCodec
from hofflight.wire.schema import TIMESTAMP

PARTITIONS = 4
SCHEMA = pa.schema([("card", pa.int64()), ("ts", TIMESTAMP), ("shop", pa.string())])


def served_of(*key):
    return Served("g", 1, "g", 1, "c0de", SCHEMA, SCHEMA, partition_key=key, partitions=PARTITIONS)


BY_CARD, BY_BOTH = served_of("card"), served_of("shop", "card")


def request_of(served, rows, **fields):
    values = [{"card": c, "ts": i, "shop": s} for i, (c, s) in enumerate(rows)]
    head, body = encode_batch(pa.RecordBatch.from_pylist(values, schema=SCHEMA))
    return Request(served, head, body, bytes(16), lambda answer: None, **fields)


def partition_by_hand(served, row):
    columns = dict(zip(("card", "shop"), row, strict=True))
    codec = KeyCodec(pa.schema([SCHEMA.field(name) for name in served.partition_key]))
    return partition_of(
        murmur2(codec.encode([columns[name] for name in served.partition_key])), PARTITIONS
    )


def rows_of(part):
    batch = pa.ipc.read_record_batch(pa.py_buffer(join_message(part.head, part.body)), SCHEMA)
    return batch.to_pylist()


rows = st.lists(st.tuples(st.integers(0, 40), st.text(max_size=5)), min_size=1, max_size=12)


@given(rows, st.sampled_from([BY_CARD, BY_BOTH]))
def test_every_row_is_in_the_part_of_its_key_in_the_requests_order(given_rows, served):
    """Against the hash of each row alone: no row is lost, doubled, changed or moved."""
    request = request_of(served, given_rows)
    parts = Route("t", served).parts_of(request)
    partitions = [part.partition for part in parts]
    assert len(set(partitions)) == len(partitions)
    if len(parts) == 1:
        (part,) = parts
        assert (part.head, part.body, part.places) == (request.head, request.body, [])
        assert {partition_by_hand(served, row) for row in given_rows} == {part.partition}
        return
    seen = []
    for part in parts:
        assert part.rows == len(part.places)
        assert part.places == sorted(part.places)
        for place, row in zip(part.places, rows_of(part), strict=True):
            assert (row["card"], row["shop"]) == given_rows[place]
            assert partition_by_hand(served, given_rows[place]) == part.partition
        seen += part.places
    assert sorted(seen) == list(range(len(given_rows)))


@given(rows)
def test_the_same_request_is_split_into_the_same_bytes(given_rows):
    """Else a retry would be another payload under the same id."""
    found = [Route("t", BY_CARD).parts_of(request_of(BY_CARD, given_rows)) for _ in range(2)]
    assert found[0] == found[1]


def test_a_client_that_names_the_hash_is_believed():
    """Its bytes are not decoded: the worker finds out whether that was true."""
    request = request_of(BY_CARD, [(1, "a"), (2, "b"), (3, "c")], key_hash=0xFFFFFFFE)
    (part,) = Route("t", BY_CARD).parts_of(request)
    assert part == ((0x7FFFFFFE) % PARTITIONS, request.head, request.body, 3, [])


@pytest.mark.parametrize("key_hash", [None, 5])
def test_a_body_of_another_length_is_malformed(key_hash):
    """Before it gets into a record with others."""
    request = request_of(BY_CARD, [(1, "a"), (2, "b")], key_hash=key_hash)
    for body in (request.body[:-8], request.body + bytes(8), b""):
        request.body = body
        with pytest.raises(MalformedBatch, match="HOF-203"):
            Route("t", BY_CARD).parts_of(request)


@pytest.mark.parametrize("key_hash", [None, 5])
@pytest.mark.parametrize("head", [b"", b"x" * 40, encode_schema(SCHEMA), bytes(200)])
def test_a_head_that_is_no_batch_is_malformed(head, key_hash):
    """The same on the way that decodes and on the way that does not."""
    request = request_of(BY_CARD, [(1, "a")], key_hash=key_hash)
    request.head = head
    with pytest.raises((MalformedBatch, TooLarge)):
        Route("t", BY_CARD).parts_of(request)


def test_no_row_is_too_few():
    """A batch without rows belongs nowhere."""
    with pytest.raises(TooLarge, match="HOF-207"):
        Route("t", BY_CARD).parts_of(request_of(BY_CARD, []))


@pytest.mark.parametrize("served", [BY_CARD, BY_BOTH])
def test_a_null_key_is_named_by_its_row(served):
    """It has no partition."""
    request = request_of(served, [(1, "a"), (2, "b"), (None, "c"), (None, "d")])
    with pytest.raises(NullKey, match=r"HOF-205.*row 2"):
        Route("t", served).parts_of(request)


def test_heads_are_not_remembered_without_end():
    """Every length of a text is another head."""
    route = Route("t", BY_CARD)
    for size in range(1_100):
        route.parts_of(request_of(BY_CARD, [(1, "s" * size)], key_hash=1))
    assert len(route._headers) <= 1_024
