"""A Valkey server as a store: killed, stopped, full, elsewhere; never the answer to another."""

import asyncio
import itertools
import os
import re
import time
from pathlib import Path

import pytest

from hofflight.errors import OnlineUnavailable, SettingsError
from hofflight.online.redis import RedisStore
from hofflight.settings import OnlineSettings
from hofflight.testing.valkey import valkey_server
from tests.unit.online.servers import answering, behind_tls

TLS = Path(__file__).parents[2] / "integration" / "tls"
CERTIFICATE, KEY = TLS / "certificate.pem", TLS / "key.pem"
_numbers = itertools.count()


@pytest.fixture(scope="module")
def shared():
    """A server for tests that leave it as it was."""
    with valkey_server() as server:
        yield server


@pytest.fixture
def valkey():
    """A server of the test's own."""
    with valkey_server() as server:
        yield server


@pytest.fixture
def run():
    """One event loop a test, as a store wants it."""
    with asyncio.Runner() as runner:
        yield runner.run


@pytest.fixture
def opened(run):
    """Opens stores, each with a prefix of its own; closed at the end."""
    stores = []

    def opened(url, *, clock=time.monotonic, **settings):
        prefix = f"t{os.getpid()}_{next(_numbers)}"
        # Generous, and asked again at once: a test says where it is about time.
        chosen = {"timeout_ms": 10_000, "retry_after_ms": 1, "prefix": prefix} | settings
        stores.append(RedisStore(OnlineSettings(url=url, **chosen), clock=clock))
        return stores[-1]

    yield opened
    for store in stores:
        run(store.close())


async def until_it_answers(store, *keys):
    """What a store finds, once it is well again."""
    while True:
        try:
            return await store.get_many(keys)
        except OnlineUnavailable:
            await asyncio.sleep(0.01)


# --- where it is ----------------------------------------------------------------------------------


def test_a_lookup_is_one_mget(shared, opened, run):
    """And nothing else: not even a PING before it."""
    store = opened(shared.url)
    run(store.put_many([(b"k%d" % number, b"v") for number in range(25)]))
    shared.ask("CONFIG", "RESETSTAT")
    run(store.get_many([b"k%d" % number for number in range(25)]))

    calls = dict(re.findall(r"cmdstat_(\S+?):calls=(\d+)", shared.ask("INFO", "ALL").decode()))
    assert calls.pop("config|resetstat") == "1"
    assert {name for name in calls if not name.startswith("client|")} == {"mget"}
    assert calls["mget"] == "1"


def test_all_keys_of_a_store_are_in_one_slot(opened, run):
    """A cluster answers MGET for one slot only; whatever the keys look like."""
    keys = [b"a", b"{b}", b"}{c}", b"d" * 500, b"\0{}"]
    with valkey_server(cluster=True) as cluster:
        store = opened(cluster.url, prefix="cards")
        run(store.put_many([(key, b"v") for key in keys]))

        assert run(store.get_many(keys)) == [b"v"] * 5
        held = cluster.ask("KEYS", "*")
        assert set(held) == {b"{cards}:" + key for key in keys}
        assert len({cluster.ask("CLUSTER", "KEYSLOT", key) for key in held}) == 1


def test_stores_of_different_prefixes_share_a_server(shared, opened, run):
    one, other = opened(shared.url), opened(shared.url)
    run(one.put_many([(b"a", b"1")]))
    run(other.put_many([(b"a", b"2")]))

    assert run(one.get_many([b"a"])) == [b"1"]
    assert run(other.get_many([b"a"])) == [b"2"]


def test_a_store_is_in_the_database_of_its_url(shared, opened, run):
    first, third = opened(shared.url, prefix="x"), opened(shared.url + "/3", prefix="x")
    run(third.put_many([(b"a", b"3")]))

    assert run(first.get_many([b"a"])) == [None]
    assert run(third.get_many([b"a"])) == [b"3"]


def test_a_unix_socket_is_an_address_too(shared, opened, run):
    store = opened(shared.unix_url + "?db=2")
    run(store.put_many([(b"a", b"1")]))

    assert run(store.get_many([b"a"])) == [b"1"]
    assert "valkey.sock" in run(store.health()).detail


def test_a_store_goes_to_the_node_that_has_its_keys(opened, run):
    """At the first call, when the slot moves, and back to its URL when that node dies."""
    with valkey_server(cluster=True) as one, valkey_server(cluster=True) as two:
        two.ask("CLUSTER", "FLUSHSLOTS")
        one.ask("CLUSTER", "MEET", "127.0.0.1", two.port, two.cluster_port)
        ids = [server.ask("CLUSTER", "MYID") for server in (one, two)]
        slot = one.ask("CLUSTER", "KEYSLOT", "{cards}:")
        one.wait_for(ids[1], "CLUSTER", "NODES")
        two.wait_for(b"cluster_state:ok", "CLUSTER", "INFO")

        store = opened(one.url, prefix="cards")
        assert run(store.get_many([b"a"])) == [None]
        for server in (two, one):
            server.ask("CLUSTER", "SETSLOT", slot, "NODE", ids[1])
        run(store.put_many([(b"a", b"at two")]))
        assert two.ask("GET", "{cards}:a") == b"at two"
        assert run(store.get_many([b"a"])) == [b"at two"]
        assert str(two.port) in run(store.health()).detail

        two.kill()
        with pytest.raises(OnlineUnavailable):
            run(store.get_many([b"a"]))
        one.ask("CLUSTER", "SETSLOT", slot, "NODE", ids[0])
        assert run(until_it_answers(store, b"a")) == [None]
        assert str(one.port) in run(store.health()).detail


# --- it fails, and is well again ------------------------------------------------------------------


def test_a_server_that_was_killed_is_an_error_and_found_again_when_it_is_back(valkey, opened, run):
    """Empty, as it kept nothing; the store is the same."""
    store = opened(valkey.url)
    run(store.put_many([(b"a", b"1")]))
    valkey.kill()
    with pytest.raises(OnlineUnavailable, match="the online store failed"):
        run(store.get_many([b"a"]))
    with pytest.raises(OnlineUnavailable, match="Error 111"):
        run(store.put_many([(b"a", b"2")]))
    assert not run(store.health()).ok
    valkey.restart()

    assert run(until_it_answers(store, b"a")) == [None]
    run(store.put_many([(b"a", b"3")]))
    assert run(store.get_many([b"a"])) == [b"3"]
    assert run(store.health()).ok


def test_a_restart_between_two_calls_is_not_noticed(valkey, opened, run):
    """The connection that was left is seen to be closed before it is used."""
    store = opened(valkey.url)
    run(store.get_many([b"a"]))
    valkey.restart()
    run(asyncio.sleep(0.05))  # the end of the connection reaches the loop

    assert run(store.get_many([b"a"])) == [None]


def test_a_connection_that_the_server_closed_is_not_noticed(shared, opened, run):
    """CLIENT KILL, or the server's own timeout for idle connections."""
    store = opened(shared.url)
    run(store.put_many([(b"a", b"1")]))
    assert shared.ask("CLIENT", "KILL", "TYPE", "normal") >= 1
    run(asyncio.sleep(0.05))

    assert run(store.get_many([b"a"])) == [b"1"]


def test_a_server_that_says_nothing_is_given_up_in_time(valkey, opened, run):
    """And goes on when it does: its late answer is nobody's."""
    store = opened(valkey.url, timeout_ms=50)
    run(until_it_answers(store, b"a"))
    run(store.put_many([(b"a", b"1"), (b"b", b"2")]))
    valkey.stop()
    began = time.monotonic()
    with pytest.raises(OnlineUnavailable, match="within 50 ms"):
        run(store.get_many([b"a"]))
    assert 0.04 < time.monotonic() - began < 5
    valkey.cont()

    for _ in range(20):
        assert run(until_it_answers(store, b"b", b"x")) == [b"2", None]


def test_a_cancelled_lookup_leaves_its_answer_to_nobody(valkey, opened, run):
    """The next one on the connection would get it, and give one entity the features of another."""
    store = opened(valkey.url)
    run(store.put_many([(b"a", b"of a"), (b"b", b"of b")]))

    async def cancelled():
        asking = asyncio.create_task(store.get_many([b"a"]))
        await asyncio.sleep(0.05)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking

    for _ in range(5):
        valkey.stop()
        run(cancelled())
        valkey.cont()
        assert run(store.get_many([b"b"])) == [b"of b"]
        assert run(store.get_many([b"b", b"a"])) == [b"of b", b"of a"]


def test_lookups_cancelled_at_any_moment_never_mix_answers(shared, opened, run):
    """Hundreds at once, on few connections, given up after some microseconds."""
    store = opened(shared.url)
    run(store.put_many([(b"k%d" % number, b"v%d" % number) for number in range(100)]))
    found = []

    async def ask(number):
        try:
            async with asyncio.timeout(number % 7 / 5_000):
                answer = await store.get_many([b"k%d" % (number % 100)])
        except (TimeoutError, OnlineUnavailable):
            return
        found.append((number, answer))

    async def all_of_them():
        for first in range(0, 3_000, 30):
            await asyncio.gather(*map(ask, range(first, first + 30)))

    run(all_of_them())
    assert len(found) > 100
    assert all(answer == [b"v%d" % (number % 100)] for number, answer in found)
    assert run(store.get_many([b"k1"])) == [b"v1"], "no connection is lost"


def test_a_lookup_too_many_fails_at_once(valkey, opened, run):
    """It says nothing about the server: the others are answered, and so is the next."""
    store = opened(valkey.url, lookups_max=2, timeout_ms=10_000, retry_after_ms=60_000)
    run(store.put_many([(b"a", b"1"), (b"b", b"2")]))

    async def three():
        await until_it_answers(store, b"a")
        valkey.stop()
        asking = [asyncio.create_task(store.get_many([key])) for key in (b"a", b"b")]
        await asyncio.sleep(0.05)
        for _ in range(2):
            with pytest.raises(OnlineUnavailable, match=r"2 lookups wait.*online\.lookups_max"):
                await asyncio.wait_for(store.get_many([b"c"]), 5)
        valkey.cont()
        return await asyncio.gather(*asking)

    assert run(three()) == [[b"1"], [b"2"]]
    assert run(store.get_many([b"c", b"a"])) == [None, b"1"]


def test_all_lookups_go_over_one_connection(shared, opened, run):
    """Whatever is asked at once; and none is left after `close`."""
    store = opened(shared.url, timeout_ms=10_000)

    async def many():
        return await asyncio.gather(*[store.get_many([b"a"]) for _ in range(100)])

    before = connections(shared)
    assert run(many()) == [[None]] * 100
    assert connections(shared) - before == 1
    run(store.close())
    while connections(shared) > before:
        time.sleep(0.01)


def test_a_store_that_is_closed_during_a_lookup_answers_it_and_lets_go(valkey, opened, run):
    """Who asked before is told; no connection stays behind."""
    store = opened(valkey.url, timeout_ms=10_000)
    run(store.put_many([(b"a", b"1")]))
    run(until_it_answers(store, b"a"))
    others = connections(valkey) - 2

    async def closed_meanwhile():
        valkey.stop()
        asking = asyncio.create_task(store.get_many([b"a"]))
        await asyncio.sleep(0.05)
        await store.close()
        valkey.cont()
        return await asking

    with pytest.raises(OnlineUnavailable, match="closed"):
        run(closed_meanwhile())
    while connections(valkey) > others:
        time.sleep(0.01)


def connections(server):
    return int(re.search(rb"connected_clients:(\d+)", server.ask("INFO", "clients"))[1])


def test_a_load_may_take_longer_than_a_lookup(valkey, opened, run):
    """It is not in a hurry: neither its writes nor its reads."""
    store = opened(valkey.url, timeout_ms=20, load_timeout_ms=60_000)

    async def slow():
        await until_it_answers(store, b"a")
        valkey.stop()
        writing = asyncio.create_task(store.put_many([(b"a", b"1")]))
        reading = asyncio.create_task(store.get_many([b"b"], patient=True))
        await asyncio.sleep(0.3)
        assert not writing.done()
        assert not reading.done()
        valkey.cont()
        await writing
        return await until_it_answers(store, b"a"), await reading

    assert run(slow()) == ([b"1"], [None])


def test_a_write_gives_up_too(valkey, opened, run):
    store = opened(valkey.url, load_timeout_ms=50)
    run(store.get_many([b"a"]))
    valkey.stop()

    with pytest.raises(OnlineUnavailable, match="within 50 ms"):
        run(store.put_many([(b"a", b"1")]))
    with pytest.raises(OnlineUnavailable, match="within 50 ms"):
        run(store.get_many([b"a"], patient=True))
    valkey.cont()
    run(store.put_many([(b"a", b"2")]))
    assert run(store.get_many([b"a"])) == [b"2"]


def test_a_full_server_refuses_writes_and_still_answers(valkey, opened, run):
    """The error is the server's, in its words; lookups go on at once."""
    store = opened(valkey.url, retry_after_ms=60_000)
    run(store.put_many([(b"a", b"1")]))
    valkey.ask("CONFIG", "SET", "maxmemory", 1_000_000)
    with pytest.raises(OnlineUnavailable, match="maxmemory"):
        run(store.put_many([(b"a", b"2"), (b"b", b"x" * 1_000)]))

    assert run(store.get_many([b"a", b"b"])) == [b"1", None]
    valkey.ask("CONFIG", "SET", "maxmemory", 0)
    run(store.put_many([(b"a", b"2")]))
    assert run(store.get_many([b"a"])) == [b"2"]


ERRORS = {
    "loading": b"-LOADING Valkey is loading the dataset in memory\r\n",
    "no password": b"-NOAUTH Authentication required.\r\n",
    "busy": b"-BUSY Valkey is busy running a script.\r\n",
    "no replica": b"-MASTERDOWN Link with MASTER is down.\r\n",
    "no cluster": b"-CLUSTERDOWN The cluster is down\r\n",
    "a slot moves": b"-TRYAGAIN Multiple keys request during rehashing of slot\r\n",
    "asks elsewhere": b"-ASK 7 127.0.0.1:1\r\n",
    "moved to nobody": b"-MOVED 7 127.0.0.1:1\r\n",
    "moved to itself": b"-MOVED 7 :1\r\n",
    "moved nowhere": b"-MOVED 7\r\n",
    "an error without words": b"-\r\n",
    "an error of noise": b"-\xff\xfe\xfd\r\n",
    "another protocol": b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "noise": bytes(range(128, 256)),
    "a number": b":5\r\n",
    "a list that is too long": b"*3\r\n$1\r\na\r\n$1\r\nb\r\n$1\r\nc\r\n",
    "hangs up": None,
}


@pytest.mark.parametrize("answer", ERRORS.values(), ids=ERRORS.keys())
def test_whatever_a_server_answers_is_our_error_and_not_a_value(opened, run, answer):
    """Two keys are asked for; no exception of another library gets out."""
    with answering(answer) as url:
        store = opened(url, timeout_ms=500)
        with pytest.raises(OnlineUnavailable):
            run(store.get_many([b"a", b"b"]))
        if not (answer or b"").startswith((b":", b"*")):
            with pytest.raises(OnlineUnavailable):
                run(store.put_many([(b"a", b"1")]))
            assert not run(store.health()).ok


def test_half_an_answer_is_none(opened, run):
    """The rest never comes."""
    with answering(b"*2\r\n$1\r\na\r\n$100\r\nb") as url:
        store = opened(url, timeout_ms=50)
        with pytest.raises(OnlineUnavailable, match="within 50 ms"):
            run(store.get_many([b"a", b"b"]))


@pytest.mark.parametrize(
    "url", ["redis://127.0.0.1:1", "redis://no-such-host.invalid", "unix:///no/such.sock"]
)
def test_a_place_where_nobody_listens_is_our_error(opened, run, url):
    store = opened(url)
    with pytest.raises(OnlineUnavailable, match="the online store failed"):
        run(store.get_many([b"a"]))

    assert not run(store.health()).ok


# --- the breaker ----------------------------------------------------------------------------------


def test_after_a_failure_nobody_asks_until_it_is_time(valkey, opened, run):
    """Even when the server is back: a dead one must cost nothing. `health` asks always."""
    now = [100.0]
    store = opened(valkey.url, clock=lambda: now[0], retry_after_ms=250)
    run(store.put_many([(b"a", b"1")]))
    valkey.kill()
    with pytest.raises(OnlineUnavailable, match="the online store failed"):
        run(store.get_many([b"a"]))
    valkey.restart()

    for now[0] in (100.0, 100.2, 100.249):
        with pytest.raises(OnlineUnavailable, match=r"failed: .*; it will be asked again"):
            run(store.get_many([b"a"]))
    assert run(store.health()).ok
    now[0] = 100.25
    assert run(store.get_many([b"a"])) == [None]
    assert run(store.get_many([b"a"])) == [None]


def test_one_call_finds_out_while_the_others_fail_at_once(valkey, opened, run):
    """A hundred would fill all connections with waiting for a server that does not answer."""
    now = [100.0]
    store = opened(valkey.url, clock=lambda: now[0], retry_after_ms=250, timeout_ms=200)
    run(store.put_many([(b"a", b"1")]))
    valkey.stop()
    with pytest.raises(OnlineUnavailable, match="within"):
        run(store.get_many([b"a"]))
    now[0] = 101.0

    async def hundred():
        asked = [store.get_many([b"a"]) for _ in range(100)]
        return await asyncio.gather(*asked, return_exceptions=True)

    told = [str(error) for error in run(hundred())]
    assert sum("it will be asked again" in words for words in told) == 99
    assert sum("within 200 ms" in words for words in told) == 100
    valkey.cont()
    now[0] = 102.0
    assert run(store.get_many([b"a"])) == [b"1"]


def test_a_cancelled_lookup_is_no_failure(valkey, opened, run):
    """Its caller went away; the others are answered."""
    store = opened(valkey.url, retry_after_ms=60_000)
    run(store.get_many([b"a"]))

    async def cancelled():
        valkey.stop()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(store.get_many([b"a"]), 0.05)
        valkey.cont()
        return await store.get_many([b"a"])

    assert run(cancelled()) == [None]


# --- who may --------------------------------------------------------------------------------------

SECRET = "p@ss/w:rd"


@pytest.fixture(scope="module")
def guarded():
    """A server that wants a password."""
    with valkey_server(password=SECRET) as server:
        server.ask("ACL", "SETUSER", "reader", "on", ">other", "~*", "+@all")
        yield server


def test_a_password_is_a_setting_or_in_the_url(guarded, opened, run):
    """With a user in the URL or without."""
    address = f"127.0.0.1:{guarded.port}"
    for store in (
        opened(f"redis://{address}", password=SECRET),
        opened(f"redis://:p%40ss%2Fw%3Ard@{address}"),
        opened(f"redis://reader@{address}", password="other"),
        opened(f"redis://reader:other@{address}/1"),
    ):
        assert run(store.get_many([b"a"])) == [None]


@pytest.mark.parametrize("password", ["", "wrong-password"])
def test_a_wrong_password_is_our_error_and_is_not_told(guarded, opened, run, password):
    """Neither the password nor the URL that has one."""
    store = opened(f"redis://127.0.0.1:{guarded.port}", password=password)
    with pytest.raises(OnlineUnavailable, match=r"(?i)auth|password") as caught:
        run(store.get_many([b"a"]))

    assert "wrong-password" not in str(caught.value) + run(store.health()).detail
    assert "secret" not in repr(OnlineSettings(url="redis://:secret@host"))


def test_tls_with_the_right_authority_works(shared, opened, run):
    """The server has no TLS of its own in this build, so it stands behind some."""
    with behind_tls(shared.port, CERTIFICATE, KEY) as port:
        store = opened(f"rediss://127.0.0.1:{port}", tls_ca=CERTIFICATE)
        run(store.put_many([(b"a", b"1" * 1_000_000)]))
        assert run(store.get_many([b"a"])) == [b"1" * 1_000_000]
        run(store.close())


@pytest.mark.parametrize(
    ("scheme", "host", "settings", "words"),
    [
        ("rediss", "127.0.0.1", {}, "CERTIFICATE_VERIFY_FAILED"),
        ("rediss", "127.0.0.2", {"tls_ca": CERTIFICATE}, "127.0.0.2"),
        ("redis", "127.0.0.1", {"timeout_ms": 300}, "the online store"),
    ],
    ids=["unknown authority", "another name", "without TLS"],
)
def test_a_server_that_is_not_surely_ours_is_refused(
    shared, opened, run, scheme, host, settings, words
):
    """Nothing was said to it."""
    with behind_tls(shared.port, CERTIFICATE, KEY, host=host) as port:
        store = opened(f"{scheme}://{host}:{port}", **settings)
        with pytest.raises(OnlineUnavailable, match=words):
            run(store.get_many([b"a"]))
        run(store.close())


def test_a_server_may_want_a_certificate_of_the_client(shared, opened, run):
    """With it lookups work, without it they do not."""
    with behind_tls(shared.port, CERTIFICATE, KEY, client_ca=CERTIFICATE) as port:
        url = f"rediss://127.0.0.1:{port}"
        ours = {"tls_certificate": CERTIFICATE, "tls_key": KEY}
        store = opened(url, tls_ca=CERTIFICATE, **ours)
        assert run(store.get_many([b"a"])) == [None]
        stranger = opened(url, tls_ca=CERTIFICATE)
        with pytest.raises(OnlineUnavailable):
            run(stranger.get_many([b"a"]))
        for one in (store, stranger):
            run(one.close())


@pytest.mark.parametrize("name", ["tls_ca", "tls_certificate"])
def test_a_certificate_that_cannot_be_read_is_a_wrong_setting(tmp_path, name):
    """Said at the start, and with the setting's name."""
    junk = tmp_path / "junk.pem"
    junk.write_text("no certificate")
    for path in (junk, tmp_path / "missing.pem"):
        files = {name: path} | ({"tls_key": KEY} if name == "tls_certificate" else {})
        with pytest.raises(SettingsError, match=r"online\.tls_"):
            RedisStore(OnlineSettings(url="rediss://127.0.0.1", **files))
