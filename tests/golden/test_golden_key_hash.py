"""Which partition a key is in must not change: its rows and its windows are there already.

The file is shared with other languages. Times are microseconds and dates days since 1970, types as
`describe` names them. It is only ever added to.
"""

import json
from pathlib import Path

import pyarrow as pa
import pytest

from hofflight.wire.columns import from_python
from hofflight.wire.key_hash import hash_columns, murmur2, partition_of, partitions_of
from hofflight.wire.keys import KeyCodec
from hofflight.wire.schema import COLUMN_TYPES

VECTORS = json.loads((Path(__file__).parent / "key_hash.json").read_text(encoding="ascii"))
TYPES = {str(column_type): column_type for column_type in COLUMN_TYPES}


def codec_of(vector):
    return KeyCodec(pa.schema([(f"c{i}", TYPES[name]) for i, name in enumerate(vector["types"])]))


@pytest.mark.parametrize("vector", VECTORS, ids=[vector["name"] for vector in VECTORS])
def test_a_key_has_its_bytes_hash_and_partitions(vector):
    key = codec_of(vector).encode(vector["values"])

    assert key.hex() == vector["key"]
    assert murmur2(key) == vector["key_hash"]
    found = {n: partition_of(vector["key_hash"], int(n)) for n in vector["partitions"]}
    assert found == vector["partitions"]


@pytest.mark.parametrize("vector", VECTORS, ids=[vector["name"] for vector in VECTORS])
def test_a_column_of_a_key_has_its_bytes_hash_and_partitions(vector):
    codec = codec_of(vector)
    values = zip(vector["values"], codec.schema.types, strict=True)
    columns = [from_python([value], column_type) for value, column_type in values]
    keys = codec.encode_columns(columns)

    assert [key.hex() for key in keys.to_pylist()] == [vector["key"]]
    hashes = hash_columns(keys)
    assert hashes.tolist() == [vector["key_hash"]]
    found = {n: partitions_of(hashes, int(n)).tolist() for n in vector["partitions"]}
    assert found == {n: [partition] for n, partition in vector["partitions"].items()}


def test_twins_of_unicode_and_of_other_types_are_keys_of_their_own():
    """What looks alike is not alike; what an integer is made of does not matter."""
    by_name = {vector["name"]: vector["key"] for vector in VECTORS}

    assert by_name["e acute, composed (NFC)"] != by_name["e acute, decomposed (NFD)"]
    assert by_name["two texts, cut here"] != by_name["two texts, cut there"]
    assert by_name["digits, not their number"] != by_name["one"]
    assert by_name["an int32, the same bytes as an int64"] == by_name["one"]


def test_the_vectors_cover_what_they_should():
    """Keys of every remainder of four bytes, digests, and hashes on both sides of Java's sign."""
    sizes = {len(vector["key"]) // 2 for vector in VECTORS}

    assert {size % 4 for size in sizes} == {0, 1, 2, 3}
    assert {36, 200} <= sizes
    assert {vector["key_hash"] >> 31 for vector in VECTORS} == {0, 1}
