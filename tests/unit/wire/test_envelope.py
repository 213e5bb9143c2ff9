"""`app_metadata` from outside: a small versioned map, or an answer that says why not."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hofflight.errors import BadMetadata, HofError
from hofflight.wire.envelope import AnswerMeta, RequestMeta, read_answer, read_request, write

ID = bytes(range(16))


def packed(value):
    return msgspec.msgpack.encode(value)


def test_no_metadata_means_all_defaults():
    """A plain Flight client sends none."""
    assert read_request(b"") == read_request(packed({})) == RequestMeta()


@given(
    st.builds(
        RequestMeta,
        id=st.none() | st.binary(min_size=16, max_size=16),
        deadline_ms=st.none() | st.integers(1, 3_600_000),
        store=st.booleans(),
        ordered=st.booleans(),
        key_hash=st.none() | st.integers(0, 2**32 - 1),
    )
)
def test_what_a_client_writes_a_server_reads(meta):
    """Every field, every value that is allowed."""
    assert read_request(write(meta)) == meta


def test_what_a_server_writes_a_client_reads():
    """Lists per row, statuses and errors survive."""
    meta = AnswerMeta(
        "HOF-301", 1, ID, "fraud", 2, "abc", {"g.n": ["OK", "LATE"]}, {}, [False, True],
        {"engine": 5}, "too much", "wait", 50,
    )  # fmt: skip

    assert read_answer(write(meta)) == meta


WRONG = [
    ("not msgpack", b"\xc1"),
    ("json", b'{"v": 1}'),
    ("cut", packed({"v": 1, "store": False})[:-1]),
    ("something after it", packed({"v": 1}) + b"\0"),
    ("a list", packed([1])),
    ("a number", packed(1)),
    ("nil", packed(None)),
    ("version 0", packed({"v": 0})),
    ("version 2", packed({"v": 2})),
    ("version as text", packed({"v": "1"})),
    ("unknown field", packed({"v": 1, "priority": 9})),
    ("field that is no text", packed({1: 1})),
    ("short id", packed({"id": ID[:-1]})),
    ("long id", packed({"id": ID + b"\0"})),
    ("id as text", packed({"id": "0123456789abcdef"})),
    ("deadline 0", packed({"deadline_ms": 0})),
    ("deadline past an hour", packed({"deadline_ms": 3_600_001})),
    ("deadline as float", packed({"deadline_ms": 1.5})),
    ("deadline past int64", packed({"deadline_ms": 2**64 - 1})),
    ("store as number", packed({"store": 1})),
    ("key_hash below 0", packed({"key_hash": -1})),
    ("key_hash past 32 bits", packed({"key_hash": 2**32})),
    ("key_hash past int64", packed({"key_hash": 2**64 - 1})),
    ("key_hash as float", packed({"key_hash": 1.0})),
    ("key_hash as bool", packed({"key_hash": True})),
    ("key_hash as text", packed({"key_hash": "7"})),
    ("keys as list", packed({"keys": [1]})),
    ("text that is not UTF-8", b"\x81\xa1\xff\x01"),
    ("an array that claims 2^32 items", b"\x81\xa4keys\xdd\xff\xff\xff\xff"),
    ("a map in a map, 5,000 deep", b"\x81\xa4keys" + b"\x81\xa1a" * 2_500 + b"\xc0"),
    ("1 MB", packed({"keys": {"a": "x" * 2**20}})),
]  # fmt: skip


@pytest.mark.parametrize("data", [w[1] for w in WRONG], ids=[w[0] for w in WRONG])
def test_wrong_metadata_is_refused(data):
    """Whatever is not the map of the protocol has one code."""
    with pytest.raises(BadMetadata, match="HOF-204"):
        read_request(data)


def test_metadata_past_its_limit_is_refused_unread():
    """64 KiB are enough; a megabyte is not even decoded."""
    with pytest.raises(BadMetadata, match=r"1048576 bytes, at most 65536"):
        read_request(b"\x80" * 2**20)


def test_keys_of_stored_groups_come_as_they_were_sent():
    """Whoever knows the view's keys checks them."""
    keys = {"customer": 7, "account": ["a", "b"]}

    assert read_request(packed({"keys": keys})).keys == keys


@given(st.binary(max_size=64))
def test_random_bytes_are_read_or_refused_with_a_code(data):
    """No other exception comes out, of either reader."""
    codes = []
    for read in (read_request, read_answer):
        try:
            read(data)
        except HofError as error:
            codes.append(error.code)

    assert set(codes) <= {"HOF-204", "HOF-213"}
