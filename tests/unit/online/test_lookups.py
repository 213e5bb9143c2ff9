"""Each lookup ends once, in time, on the right loop, whoever asks and whatever the store does."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from hofflight.errors import OnlineUnavailable
from hofflight.online.lookups import Lookups, driven

TIMEOUT_MS = 20
AWAY = OnlineUnavailable("the store is away")


class Local:
    """A store that never waits. `failure`: what it raises instead."""

    waits = False

    def __init__(self):
        self.failure = None
        self.closed = 0
        self.threads = []

    def get_now(self, keys):
        self.threads.append(threading.get_ident())
        if self.failure is not None:
            raise self.failure
        return [b"value of " + key for key in keys]

    async def get_many(self, keys, *, patient=False):
        return self.get_now(keys)

    async def close(self):
        self.closed += 1


class Remote:
    """A store that is waited for. It answers in the loop's next step, or `hold`s what is asked."""

    waits = True

    def __init__(self, *, hold=False):
        self.hold = hold
        self.failure = None
        self.asked = []  # (thread, keys, timeout)
        self.held = []
        self.closed = []

    def start_get(self, keys, timeout_s, done):
        if self.closed:
            done(OnlineUnavailable("the store is closed"))
            return
        self.asked.append((threading.get_ident(), list(keys), timeout_s))
        found = self.failure or [b"value of " + key for key in keys]
        if self.hold:
            self.held.append((done, found))
        else:
            asyncio.get_running_loop().call_soon(done, found)

    def answer(self):
        held, self.held = self.held, []
        for done, found in held:
            done(found)

    async def get_many(self, keys, *, patient=False):
        await asyncio.sleep(0)
        if self.failure is not None:
            raise self.failure
        return [b"value of " + key for key in keys]

    async def close(self):
        self.closed.append(threading.get_ident())
        self.answer()


class Asked:
    """What `done` was called with, and from which thread; `wait` for so many calls."""

    def __init__(self):
        self.found = []
        self.threads = []
        self._came = threading.Semaphore(0)

    def __call__(self, found):
        self.found.append(found)
        self.threads.append(threading.get_ident())
        self._came.release()

    def wait(self, calls=1):
        for _ in range(calls):
            assert self._came.acquire(timeout=10)
        return self.found


@pytest.fixture
def opened():
    """Makes lookups of a store; closed at the end, unless the test did."""
    made = []

    class Opened(Lookups):
        is_closed = False

        def close(self):
            self.is_closed = True
            super().close()

    def opened(store):
        made.append(Opened(store, TIMEOUT_MS))
        return made[-1]

    yield opened
    for lookups in made:
        if not lookups.is_closed:
            lookups.close()
        assert lookups._thread is None or not lookups._thread.is_alive()


# --- a store that never waits ---------------------------------------------------------------------


def test_a_store_that_never_waits_answers_before_start_returns(opened):
    """On the caller's thread; no loop and no thread is made for it."""
    store, asked = Local(), Asked()
    lookups = opened(store)
    lookups.start([b"a", b"b"], None, asked)

    assert asked.found == [[b"value of a", b"value of b"]]
    assert asked.threads == store.threads == [threading.get_ident()]
    assert lookups._thread is None


def test_what_a_local_store_fails_with_is_what_is_found(opened):
    """No exception reaches whoever asked, and each failure is counted."""
    store, asked = Local(), Asked()
    lookups = opened(store)
    for store.failure in (AWAY, None, AWAY):
        lookups.start([b"a"], 0.001, asked)

    assert asked.found == [AWAY, [b"value of a"], AWAY]
    assert lookups.failed == 2


def test_a_store_that_never_waits_is_asked_at_once_on_any_thread(opened):
    """`at_once` is `start` without a callback."""
    store, found = Local(), []
    lookups = opened(store)
    thread = threading.Thread(target=lambda: found.append(lookups.at_once([b"a"])))
    thread.start()
    thread.join()
    store.failure = AWAY

    assert found == [[b"value of a"]]
    assert lookups.at_once([b"a"]) is AWAY


def test_attaching_changes_nothing_for_a_store_that_never_waits(opened):
    """It needs no loop; it is closed once, by `close`."""
    store, asked = Local(), Asked()
    lookups = opened(store)

    async def serve():
        lookups.attach()
        lookups.start([b"a"], None, asked)
        assert asked.found == [[b"value of a"]]
        await lookups.detach()

    asyncio.run(serve())
    assert store.closed == 0
    lookups.close()
    assert store.closed == 1


def test_a_coroutine_that_never_waits_is_driven_to_its_end():
    """Its result or its error comes through; one that waits after all is a bug of ours."""

    async def raising():
        raise AWAY

    async def waiting():
        await asyncio.sleep(0)

    assert driven(Local().get_many([b"a"])) == [b"value of a"]
    with pytest.raises(OnlineUnavailable, match="away"):
        driven(raising())
    with pytest.raises(AssertionError, match="never waits"):
        driven(waiting())


# --- one that does, asked from threads ------------------------------------------------------------


def test_a_store_that_waits_is_asked_on_one_loop_from_any_thread(opened):
    """A thread of its own runs it; every `done` is called once."""
    store, asked = Remote(), Asked()
    lookups = opened(store)
    keys = [b"%d" % number for number in range(40)]
    threads = [threading.Thread(target=lookups.start, args=([k], None, asked)) for k in keys]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    asked.wait(40)

    assert sorted(asked.found) == sorted([b"value of " + key] for key in keys)
    loop_thread = lookups._thread.ident
    assert loop_thread != threading.get_ident()
    assert {thread for thread, *_ in store.asked} == set(asked.threads) == {loop_thread}
    assert lookups.failed == 0


@pytest.mark.parametrize(
    ("left_s", "given_s"), [(None, 0.02), (5.0, 0.02), (0.02, 0.02), (0.005, 0.005), (0.0, 0.0)]
)
def test_a_lookup_has_the_stores_time_or_what_is_left_of_the_deadline(opened, left_s, given_s):
    """Whichever is shorter."""
    store, asked = Remote(), Asked()
    opened(store).start([b"a"], left_s, asked)
    asked.wait()

    assert store.asked[0][1:] == ([b"a"], given_s)


def test_a_deadline_that_has_passed_leaves_no_time(opened):
    """Never more than none: the store says so at once."""
    store, asked = Remote(), Asked()
    opened(store).start([b"a"], -3.0, asked)
    asked.wait()

    assert store.asked[0][2] <= 0


def test_what_a_remote_store_fails_with_is_what_is_found(opened):
    """Passed on as it is, and counted."""
    store, asked = Remote(), Asked()
    lookups = opened(store)
    for store.failure in (AWAY, None):
        lookups.start([b"a"], None, asked)
        asked.wait()

    assert asked.found == [AWAY, [b"value of a"]]
    assert lookups.failed == 1


def test_other_verbs_are_waited_for(opened):
    """Also a store's refusal comes out of `run`."""
    store = Remote()
    lookups = opened(store)

    assert lookups.run(store.get_many([b"a"])) == [b"value of a"]
    store.failure = AWAY
    with pytest.raises(OnlineUnavailable, match="away"):
        lookups.run(store.get_many([b"a"]))


def test_closing_closes_the_store_on_its_loop_and_ends_the_thread(opened):
    """What was asked before has its answer; nothing of the thread is left."""
    store, asked = Remote(hold=True), Asked()
    lookups = opened(store)
    for key in (b"a", b"b"):
        lookups.start([key], None, asked)
    loop_thread = lookups._thread
    lookups.close()

    assert asked.wait(2) == [[b"value of a"], [b"value of b"]]
    assert store.closed == [loop_thread.ident]
    assert not loop_thread.is_alive()


def test_a_store_that_nobody_asked_is_closed_without_a_thread(opened):
    """Nothing was opened."""
    store = Remote()
    lookups = opened(store)
    lookups.close()

    assert lookups._thread is None


def test_whoever_asks_a_closed_store_is_told_so(opened):
    """A request that was on its way when the store closed: an answer like any other, no bug."""
    store, before, late = Remote(), Asked(), Asked()
    lookups = opened(store)
    lookups.start([b"a"], None, before)
    before.wait()
    lookups.close()
    lookups.start([b"a"], None, late)

    assert isinstance(late.wait()[0], OnlineUnavailable)


# --- one that does, on the server's loop ----------------------------------------------------------


def test_an_attached_store_is_asked_on_the_running_loop(opened):
    """From the loop itself before `start` returns; from other threads as soon as it can."""
    store, asked = Remote(), Asked()
    lookups = opened(store)

    async def serve():
        lookups.attach()
        lookups.start([b"here"], None, asked)
        assert [keys for _, keys, _ in store.asked] == [[b"here"]]
        await asyncio.to_thread(lookups.start, [b"there"], None, asked)
        await asyncio.to_thread(asked.wait, 2)
        assert lookups._thread is None
        await lookups.detach()

    asyncio.run(serve())
    here = threading.get_ident()
    assert asked.found == [[b"value of here"], [b"value of there"]]
    assert {thread for thread, *_ in store.asked} == set(asked.threads) == {here}


def test_an_attached_store_is_closed_once_by_detach(opened):
    """On the loop; `close` afterwards, from whatever thread, finds nothing left to do."""
    store = Remote()
    lookups = opened(store)

    async def serve():
        lookups.attach()
        await lookups.detach()
        assert store.closed == [threading.get_ident()]

    asyncio.run(serve())
    lookups.close()
    assert len(store.closed) == 1


def test_verbs_run_on_the_attached_loop_from_another_thread(opened):
    """A load beside serving uses the server's connections."""
    store = Remote()
    lookups = opened(store)

    async def serve():
        lookups.attach()
        found = await asyncio.to_thread(lambda: lookups.run(store.get_many([b"a"])))
        await lookups.detach()
        return found

    assert asyncio.run(serve()) == [b"value of a"]
    assert lookups._thread is None


@pytest.mark.parametrize("where", ["the loop's thread", "another thread"])
def test_whoever_asks_after_detach_is_told_that_the_store_is_closed(opened, where):
    """The server's loop has ended; an embedded caller still gets its answer."""
    store, asked = Remote(), Asked()
    lookups = opened(store)

    async def serve():
        lookups.attach()
        await lookups.detach()

    asyncio.run(serve())
    if where == "another thread":
        with ThreadPoolExecutor(1) as pool:
            pool.submit(lookups.start, [b"a"], None, asked).result(10)
    else:
        lookups.start([b"a"], None, asked)

    assert isinstance(asked.wait()[0], OnlineUnavailable)
