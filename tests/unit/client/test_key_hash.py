"""A request says which partition its rows belong to, where all belong to one."""

import asyncio
import base64
import json

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import flight

from hofflight.client.client import connect, connect_async
from hofflight.client.key_hash import KeyHasher
from hofflight.client.views import view_info
from hofflight.errors import BadMetadata
from hofflight.wire.key_hash import murmur2, partition_of
from hofflight.wire.keys import KeyCodec
from hofflight.wire.schema import TIMESTAMP

COLUMNS = pa.schema(
    [("x", pa.float64()), ("card", pa.int64()), ("shop", pa.string()), ("ts", TIMESTAMP)]
)
KEYS = [("card",), ("shop",), ("shop", "card"), ("ts",)]
NONE = -1  # how the fake server says that no hash came


def batch(*rows):
    """Rows of (card, shop)."""
    columns = [[0.5] * len(rows), [c for c, _ in rows], [s for _, s in rows], [7] * len(rows)]
    arrays = [pa.array(v, t) for v, t in zip(columns, COLUMNS.types, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=COLUMNS)


def hash_of(*values):
    """Of an integer or a text."""
    types = [pa.int64() if isinstance(value, int) else pa.string() for value in values]
    codec = KeyCodec(pa.schema([(f"c{i}", t) for i, t in enumerate(types)]))
    return murmur2(codec.encode(values))


def together(count, partitions):
    """So many cards of one partition."""
    own = partition_of(hash_of(1), partitions)
    cards = (c for c in range(1, 10_000) if partition_of(hash_of(c), partitions) == own)
    return [next(cards) for _ in range(count)]


# --- a batch ---


@pytest.mark.parametrize(
    ("key", "values"),
    [(("card",), (5,)), (("shop",), ("é",)), (("shop", "card"), ("é", 5)), (("ts",), (7,))],
)
def test_one_row_is_always_in_one_partition(key, values):
    assert KeyHasher(COLUMNS, key, 8).of(batch((5, "é"))) == hash_of(*values)


@given(
    st.lists(st.tuples(st.integers(0, 3), st.text("ab", max_size=1)), max_size=8),
    st.sampled_from(KEYS),
    st.integers(1, 4),
)
def test_a_batch_has_the_hash_of_its_first_row_where_all_are_in_its_partition(
    rows, key, partitions
):
    hashes = [
        hash_of(*({"card": card, "shop": shop, "ts": 7}[name] for name in key))
        for card, shop in rows
    ]
    is_one = len({partition_of(h, partitions) for h in hashes}) == 1

    found = KeyHasher(COLUMNS, key, partitions).of(batch(*rows))

    assert found == (hashes[0] if is_one else None)


def test_a_row_in_the_middle_of_another_partition_leaves_the_hash_out():
    """The ends alone do not decide."""
    cards = together(5, 8)
    stranger = next(c for c in range(100) if c not in together(100, 8))
    hasher = KeyHasher(COLUMNS, ("card",), 8)

    assert hasher.of(batch(*((c, "") for c in cards))) == hash_of(cards[0])
    assert hasher.of(batch(*((c, "") for c in [*cards, stranger, *cards]))) is None


@pytest.mark.parametrize("at", [0, 1, 2])
def test_a_batch_with_a_null_in_its_key_has_no_hash(at):
    """The server refuses the row; which partition it would be in is nobody's question."""
    rows = [(1, "a"), (1, "a"), (1, "a")]
    rows[at] = (None, "a")

    assert KeyHasher(COLUMNS, ("card", "shop"), 8).of(batch(*rows)) is None
    assert KeyHasher(COLUMNS, ("shop",), 8).of(batch(*rows)) == hash_of("a")


def test_a_batch_without_rows_has_no_hash():
    assert KeyHasher(COLUMNS, ("card",), 8).of(batch()) is None


def test_a_slice_of_a_batch_has_the_hash_of_its_own_rows():
    rows = batch((1, "a"), (2, "b"), (2, "b"), (3, "c"))

    assert KeyHasher(COLUMNS, ("card",), 8).of(rows.slice(1, 2)) == hash_of(2)


def test_text_that_is_no_text_has_no_hash():
    """A batch of the caller's may hold any bytes; the server refuses it in its own words."""
    raw = pa.array([b"\xff"]).cast(pa.binary())
    broken = pa.Array.from_buffers(pa.string(), 1, raw.buffers())
    rows = batch((1, "a"))
    rows = pa.RecordBatch.from_arrays([rows[0], rows[1], broken, rows[3]], schema=COLUMNS)

    assert KeyHasher(COLUMNS, ("shop",), 8).of(rows) is None


# --- what a server says ---


def info_of(**said):
    document = {
        "view": "v", "version": 1, "group": "g", "group_version": 1, "code_hash": "c0de",
        "input_schema": base64.b64encode(COLUMNS.serialize()).decode(), **said,
    }  # fmt: skip
    path = flight.FlightDescriptor.for_path("v")
    return flight.FlightInfo(COLUMNS, path, [], -1, -1, False, json.dumps(document))


def test_a_server_that_says_nothing_of_partitions_gets_no_hash():
    info = view_info(info_of())

    assert (info.partition_key, info.partitions, info.hasher) == ((), 0, None)


@pytest.mark.parametrize(
    "said",
    [
        {"partition_key": ["card"], "partitions": 0},
        {"partition_key": [], "partitions": 8},
        {"partitions": 8},
        {"partition_key": ["x"], "partitions": 8},
        {"partition_key": ["card", "x"], "partitions": 8},
    ],
)
def test_keys_that_nobody_can_hash_are_left_to_the_server(said):
    """No partitions, no key, or a float in it, which has no canonical bytes."""
    assert view_info(info_of(**said)).hasher is None


@pytest.mark.parametrize(
    "said",
    [
        {"partition_key": ["nobody"], "partitions": 8},
        {"partition_key": "card", "partitions": 8},
        {"partition_key": [1], "partitions": 8},
        {"partition_key": 1, "partitions": 8},
        {"partition_key": ["card"], "partitions": "8"},
        {"partition_key": ["card"], "partitions": -1},
        {"partition_key": ["card"], "partitions": 2**31},
        {"partition_key": ["card"], "partitions": None},
    ],
)
def test_nonsense_about_partitions_is_an_error_of_ours(said):
    with pytest.raises(BadMetadata, match="HOF-204"):
        view_info(info_of(**said))


# --- on the wire ---


def row(key, say=""):
    return {"key": key, "say": say}


def sent(vector):
    """The key hash that came with a request."""
    return vector.timings_us["key_hash"]


def test_one_row_travels_with_its_hash(client):
    info = client.view("spread")

    assert (info.partition_key, info.partitions) == (("key",), 8)
    assert sent(client.vector("spread", row(-5))) == hash_of(-5)


def test_rows_travel_with_a_hash_where_it_speaks_for_all(client):
    cards = together(3, 8)

    assert sent(client.vector("spread", [row(c) for c in cards])) == hash_of(cards[0])
    assert sent(client.vector("spread", [row(c) for c in range(20)])) == NONE
    assert sent(client.vector("alone", [row(c) for c in range(20)])) == hash_of(0)


def test_a_server_that_does_not_care_gets_no_hash(client):
    assert sent(client.vector("g", row(5))) == NONE


def test_a_repeated_request_keeps_its_hash(client):
    vector = client.vector("spread", row(5, "drop once"))

    assert (vector.to_dict()["g.seen"], sent(vector)) == (2, hash_of(5))


def test_each_part_of_an_ingest_has_its_own_hash(server_url):
    rows = [row(1)] * 10_000 + [row(2)] * 10_000 + [row(3), row(4), row(5), row(6)]
    with connect(server_url, deadline_ms=10_000) as client:
        before = len(client.describe()["hashes_put"])
        assert client.ingest("spread", rows) == len(rows)
        hashes = client.describe()["hashes_put"][before:]

    assert hashes == [hash_of(1), hash_of(2), None]


def test_asyncio_sends_the_same_hashes(server_url):
    async def main():
        async with connect_async(server_url, deadline_ms=10_000) as client:
            one = await client.vector("spread", row(7))
            many = await client.vector("spread", [row(c) for c in range(20)])
            return sent(one), sent(many)

    assert asyncio.run(main()) == (hash_of(7), NONE)
