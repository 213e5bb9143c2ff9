"""The hash is Kafka's, by row and by column alike."""

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hofflight.wire.key_hash import hash_columns, murmur2, partition_of, partitions_of

keys = st.binary(max_size=9) | st.binary(min_size=12, max_size=12) | st.binary(max_size=300)

# Kafka's own test of its own hash, signed as Java has it: UtilsTest.testMurmur2.
OF_KAFKA = [
    (b"21", -973932308), (b"foobar", -790332482), (b"a-little-bit-long-string", -985981536),
    (b"a-little-bit-longer-string", -1486304829),
    (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971), (b"abc", 479470107),
]  # fmt: skip


@pytest.mark.parametrize(("data", "signed"), OF_KAFKA)
def test_the_hash_is_the_one_that_kafka_tests_itself_with(data, signed):
    assert murmur2(data) == signed % 2**32


@given(st.binary(max_size=300))
def test_the_hash_is_that_of_the_algorithm_by_its_words(data):
    assert murmur2(data) == by_the_words(data)


def by_the_words(data):
    """As slow and plain as Java's text, a byte after the other."""
    h = 0x9747B28C ^ len(data)
    for at in range(0, len(data) - 3, 4):
        k = sum(data[at + place] << 8 * place for place in range(4))
        k = k * 0x5BD1E995 % 2**32
        k ^= k >> 24
        k = k * 0x5BD1E995 % 2**32
        h = h * 0x5BD1E995 % 2**32
        h ^= k
    rest = data[len(data) // 4 * 4 :]
    for place in reversed(range(len(rest))):
        h ^= rest[place] << 8 * place
    if rest:
        h = h * 0x5BD1E995 % 2**32
    h ^= h >> 13
    h = h * 0x5BD1E995 % 2**32
    return h ^ h >> 15


@given(st.lists(keys, max_size=20))
def test_a_column_has_the_hash_of_each_row(rows):
    found = hash_columns(pa.array(rows, pa.binary()))

    assert found.dtype == "uint32"
    assert found.tolist() == [murmur2(row) for row in rows]


@given(st.integers(0, 40), st.data())
def test_a_column_of_keys_of_one_size_has_the_hash_of_each_row(size, data):
    rows = data.draw(st.lists(st.binary(min_size=size, max_size=size), max_size=10))

    assert hash_columns(pa.array(rows, pa.binary())).tolist() == [murmur2(row) for row in rows]


@given(st.lists(keys, max_size=12), st.integers(0, 12), st.integers(0, 12))
def test_a_slice_has_the_hashes_of_its_rows(rows, start, length):
    part = pa.array(rows, pa.binary()).slice(start, length)

    assert hash_columns(part).tolist() == [murmur2(row) for row in rows[start:][:length]]


@given(st.lists(keys, min_size=1, max_size=12), st.integers(1, 2**31 - 1))
def test_the_partition_of_a_column_is_that_of_each_row(rows, partitions):
    hashes = hash_columns(pa.array(rows, pa.binary()))
    found = partitions_of(hashes, partitions).tolist()

    assert found == [partition_of(murmur2(row), partitions) for row in rows]
    assert all(0 <= partition < partitions for partition in found)


def test_the_sign_bit_does_not_choose_a_partition():
    """Kafka drops it: `toPositive`, not the absolute value and not the remainder of 32 bits."""
    assert partition_of(0x80000005, 3) == partition_of(5, 3) == 2
    assert partition_of(0xFFFFFFFF, 16) == 15
    assert partition_of(0x80000000, 7) == 0
