"""What every online store promises: LMDB, a Valkey server, and a cluster."""

import asyncio
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import cache

import pytest

from hofflight.errors import InternalError, OnlineUnavailable
from hofflight.testing.valkey import valkey_server
from tests.conformance.online_stores import FLIPPED, Driver, lmdb_config, redis_config


@pytest.fixture(scope="session")
def servers():
    """Started when first asked for; shared, as every test has a prefix of its own."""
    with ExitStack() as stack:
        yield cache(lambda *, cluster: stack.enter_context(valkey_server(cluster=cluster)).url)


STORES = {
    "lmdb": lambda directory, servers: lmdb_config(directory),
    "valkey": lambda directory, servers: redis_config(servers(cluster=False)),
    "valkey cluster": lambda directory, servers: redis_config(servers(cluster=True)),
}


@pytest.fixture(params=STORES.values(), ids=STORES.keys())
def online(request, tmp_path, servers):
    """Every online store there is; empty."""
    driver = Driver(request.param(tmp_path, servers))
    yield driver
    driver.close()


def test_an_absent_key_is_none(online):
    """In a store without anything, and beside a key that is there."""
    assert online.get(b"a") == [None]
    online.put((b"b", b"1"))

    assert online.get(b"a", b"b", b"c") == [None, b"1", None]


def test_values_come_in_the_order_of_the_keys_and_as_often(online):
    """A request may ask for the same entity twice."""
    online.put((b"a", b"1"), (b"b", b"2"), (b"c", b"3"))

    assert online.get(b"c", b"a", b"x", b"c", b"b", b"x") == [b"3", b"1", None, b"3", b"2", None]


def test_nothing_asked_and_nothing_written_is_no_error(online):
    """MGET and MSET of nothing would be one."""
    online.put()

    assert online.get() == []


@pytest.mark.parametrize(
    "key",
    [
        b"\0",
        b"\0\0\0",
        b"a\0b",
        b"a\nb\r\nc",
        b"}{",
        b"{x}:y",
        b" a ",
        b"*?[a-z]",
        bytes(range(256)),
        b"k" * 511,
        b"k" * 510 + b"\0",
    ],
    ids=repr,
)
def test_any_bytes_are_a_key(online, key):
    """And none of its near relatives is."""
    online.put((key, b"found"))
    relatives = [r for r in (key[1:], key[:-1] + b"z", b"\0" + key[1:]) if r not in {key, b""}]

    assert online.get(key, *relatives) == [b"found"] + [None] * len(relatives)


def test_texts_that_look_the_same_are_two_keys(online):
    """Keys are bytes: nothing is normalised."""
    composed, decomposed = [unicodedata.normalize(f, "Zoë").encode() for f in ("NFC", "NFD")]
    assert composed != decomposed
    online.put((composed, b"1"), (decomposed, b"2"))

    assert online.get(composed, decomposed) == [b"1", b"2"]


def test_a_key_that_begins_like_another_is_another(online):
    """Each length of one text."""
    keys = [b"prefix"[:length] for length in range(1, 7)]
    online.put(*[(key, key * 2) for key in keys[::2]])

    assert online.get(*keys) == [key * 2 if len(key) % 2 else None for key in keys]


@pytest.mark.parametrize("value", [b"", b"\0", bytes(range(256)) * 9, b"x" * 10_000_000])
def test_any_bytes_are_a_value(online, value):
    """Also none at all, which is not the same as no key, and 10 MB."""
    online.put((b"before", b"1"), (b"key", value), (b"z", b"2"))
    found = online.get(b"before", b"key", b"z", b"absent")

    assert found[0::2] == [b"1", b"2"]
    assert found[3] is None
    assert found[1] == value


def test_a_put_replaces_what_was_there(online):
    """Shorter, longer, and what was not named stays."""
    online.put((b"a", b"first"), (b"b", b"stays"))
    for value in (b"2", b"the third", b"", b"x" * 100_000, b"6"):
        online.put((b"a", value))
        assert online.get(b"a", b"b") == [value, b"stays"]


def test_of_one_key_twice_in_a_put_the_last_counts(online):
    """As if they had come one after the other."""
    online.put((b"a", b"x" * 100_000), (b"b", b"1"), (b"a", b"2"))

    assert online.get(b"a", b"b") == [b"2", b"1"]


def test_50_000_items_are_one_put(online):
    """A load comes in large pieces."""
    items = [(b"key-%d" % number, b"value-%d" % number * 5) for number in range(50_000)]
    online.put(*items)

    assert online.get(*[key for key, _ in items[::7]]) == [value for _, value in items[::7]]


@pytest.mark.parametrize("length", [0, 512, 70_000])
def test_a_key_of_a_length_that_not_every_store_has_is_refused(online, length):
    """It would be a bug of ours; and none of the items is written."""
    with pytest.raises(InternalError, match=f"1 to 511 bytes, not {length}"):
        online.put((b"a", b"1"), (b"k" * length, b"2"))
    assert online.get(b"a") == [None]


def test_a_reader_never_sees_half_of_another_processs_put(online):
    """All keys in one `get_many` have the value of the same `put_many`, again and again."""
    seen = set()
    with online.writing_process() as writer:
        while len(seen) < 200:
            assert writer.poll() is None
            found = set(online.get(*FLIPPED))
            assert len(found) == 1, "two moments in one answer"
            seen |= found
        writer.stdin.close()

    assert writer.returncode == 0


def test_readers_at_the_same_time_get_what_they_asked_for(online):
    """Each its own, from threads where the store does not wait, else from tasks."""
    online.put(*[(b"key-%d" % number, b"value-%d" % number) for number in range(1_000)])

    async def read(first):
        for turn in range(200):
            numbers = [(first + turn) % 1_000, (first * turn) % 1_000]
            found = await online.store.get_many([b"key-%d" % number for number in numbers])
            assert found == [b"value-%d" % number for number in numbers]
        return first

    async def together():
        return await asyncio.gather(*map(read, range(16)))

    if online.store.waits:
        assert online.run(together()) == list(range(16))
    else:
        with ThreadPoolExecutor(16) as threads:
            found = threads.map(lambda first: asyncio.run(read(first)), range(16))
            assert list(found) == list(range(16))


def test_another_store_of_the_same_place_has_what_was_put(online):
    """As after a restart of the process that serves."""
    online.put((b"a", b"1"), (b"b", b"2" * 100_000))
    online.again()

    assert online.get(b"a", b"b") == [b"1", b"2" * 100_000]


def test_a_store_that_is_well_says_what_it_holds(online):
    """Also before anything was asked of it."""
    assert online.health().ok
    online.put((b"a", b"1"), (b"b", b"2"))
    ok, detail = online.health()

    assert ok
    assert " keys" in detail


def test_a_closed_store_refuses_everything_and_says_so(online):
    """With the error that a caller expects, and once is as good as twice."""
    online.put((b"a", b"1"))
    online.run(online.store.close())
    online.run(online.store.close())

    with pytest.raises(OnlineUnavailable, match="closed"):
        online.get(b"a")
    with pytest.raises(OnlineUnavailable, match="closed"):
        online.put((b"a", b"2"))
    ok, detail = online.health()
    assert not ok
    assert "closed" in detail


def test_a_store_says_truly_whether_it_waits(online):
    """If not, one `send(None)` has the answer, without an event loop."""
    if online.store.waits:
        return
    online.put((b"a", b"1"))
    with pytest.raises(StopIteration) as end:
        online.store.get_many([b"a", b"b"]).send(None)

    assert end.value.value == [b"1", None]
