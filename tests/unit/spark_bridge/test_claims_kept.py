"""Leases that two threads hold: nothing is lost between them, and one holds while another works."""

import threading
import time
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from hofflight.clock import SystemClock
from hofflight.errors import RegistryUnavailable
from hofflight.features.leases import Leases
from hofflight.features.sqlite import SqliteDatabase
from hofflight.spark_bridge.claims import Claims, holder_of
from tests.unit.kafka_fakes import FakeClock
from tests.unit.spark_bridge.survivors import PLACES, TTL_S, Watched
from tests.unit.spark_bridge.test_claims import holds

P0, P1, P2 = PLACES


# --- two threads ----------------------------------------------------------------------------------


@contextmanager
def renewing(claims):
    """A thread that looks what is lost, and stands at its first renewal until the block ends."""
    begun, go_on, found = threading.Event(), threading.Event(), []

    def wait(call):
        begun.set()
        assert go_on.wait(20)

    claims._leases.before = wait
    thread = threading.Thread(target=lambda: found.append(claims.lost()))
    thread.start()
    assert begun.wait(20)
    claims._leases.before = lambda call: None
    try:
        yield found
    finally:
        go_on.set()
        thread.join(20)


@contextmanager
def waiting(call):
    """What `call` gives in another thread; it has to wait until the block is left."""
    found = []
    thread = threading.Thread(target=lambda: found.append(call()))
    thread.start()
    thread.join(0.05)
    assert thread.is_alive(), "it did not wait"
    yield found
    thread.join(20)
    assert not thread.is_alive()


@pytest.fixture
def robbed(shared):
    """One that holds three places, of which another one took the second."""
    mine = shared.claims("a")
    for place in PLACES:
        mine.claim(place)
    shared.clock.advance(TTL_S + 1)
    assert shared.claims("b").claim(P1)
    return mine


@pytest.mark.parametrize("is_late", [False, True])
def test_two_threads_that_look_at_once_neither_double_nor_lose_a_loss(shared, robbed, is_late):
    """Also where the second one has to renew again, so slow was the registry."""
    with capture_logs() as told, ExitStack() as stack, renewing(robbed) as first:
        shared.clock.advance(TTL_S / 3 if is_late else 0)
        second = stack.enter_context(waiting(robbed.lost))
    assert first == second == [[P1]]
    assert [event["event"] for event in told] == ["partition_lost"]
    assert robbed.lost() == [P1]


def test_what_is_dropped_while_it_is_renewed_stays_dropped(shared, robbed):
    """Or it would be left a second time."""
    with ExitStack() as stack, renewing(robbed):
        stack.enter_context(waiting(lambda: robbed.drop(P1)))
    assert robbed.lost() == []
    assert holds(robbed, TTL_S, shared) == []


def test_what_is_claimed_while_others_are_renewed_is_held(shared):
    mine = shared.claims("a")
    mine.claim(P0)
    with ExitStack() as stack, renewing(mine):
        claimed = stack.enter_context(waiting(lambda: mine.claim(P1)))
    assert claimed == [True]
    holds(mine, 2 * TTL_S, shared)
    assert not shared.claims("b").claim(P1)


def test_a_loss_is_told_once_also_where_the_registry_goes_away_behind_it(shared):
    """It was asked for one place and not for the next."""
    mine = shared.claims("a")
    for place in PLACES:
        mine.claim(place)
    shared.clock.advance(TTL_S + 1)
    assert shared.claims("b").claim(P0)

    def away(call):
        if len(mine._leases.calls) == 5:
            raise RegistryUnavailable("gone")

    mine._leases.before = away
    with capture_logs() as told:
        assert mine.lost() == [P0]
        assert holds(mine, TTL_S, shared) == [P0]
    assert mine.lost() == [P0]
    assert [event["event"] for event in told].count("partition_lost") == 1


# --- in the background ----------------------------------------------------------------------------


class Registry:
    """Leases in memory, which several threads may ask at once. A tenth of a second is long here."""

    def __init__(self, clock=None):
        self.clock = clock or FakeClock()
        self._leases = Leases(SqliteDatabase(None, clock=self.clock))

    def claims(self, name, ttl_ms=30):
        return Claims(Watched(self._leases), holder_of(Path(name)), ttl_ms, None, self.clock)

    def pass_time(self, claims):
        """More than a third of a lease, until somebody asks for it again."""
        calls = len(claims._leases.calls)
        self.clock.advance(0.011)
        wait_for(claims, calls + 1)


def wait_for(claims, calls):
    """Until the registry was asked so often."""
    end_s = time.monotonic() + 20
    while len(claims._leases.calls) < calls:
        assert time.monotonic() < end_s, "nobody renews"
        time.sleep(0.001)


def keeping():
    return [thread.name for thread in threading.enumerate()].count("hof-leases")


def test_what_is_kept_does_not_run_out_while_its_thread_does_something_else():
    """By the clock on the wall."""
    registry = Registry(SystemClock())
    mine, other = (registry.claims(name, ttl_ms=600) for name in ("a", "b"))
    mine.claim(P0)
    with mine.kept():
        for _ in range(2):
            time.sleep(0.7)
            assert not other.claim(P0)


@pytest.mark.parametrize("is_error", [False, True])
def test_after_its_block_nothing_is_kept_any_longer(is_error):
    """Also where that ends with an error, which goes on."""
    registry = Registry()
    mine, other = registry.claims("a"), registry.claims("b")
    mine.claim(P0)
    mine.lost()
    with pytest.raises(ZeroDivisionError) if is_error else nullcontext(), mine.kept():
        assert keeping() == 1
        for _ in range(9):
            registry.pass_time(mine)
            assert not other.claim(P0)
        assert 1 / (1 - is_error)
    assert keeping() == 0
    registry.clock.advance(0.031)
    assert other.claim(P0)


def test_what_is_lost_in_the_background_is_told_to_whoever_asks():
    registry = Registry()
    mine = registry.claims("a")
    mine.claim(P0)
    registry.clock.advance(0.031)
    assert registry.claims("b").claim(P0)
    with mine.kept():
        wait_for(mine, 2)
    assert mine.lost() == [P0]
    assert len(mine._leases.calls) == 2  # it was not asked anew


def test_a_registry_that_goes_away_and_comes_back_is_asked_again():
    """The thread does not end with the error."""
    registry = Registry()
    mine = registry.claims("a")
    mine.claim(P0)
    mine.lost()

    def away(call):
        raise RegistryUnavailable("gone")

    with mine.kept():
        mine._leases.before = away
        for _ in range(4):
            registry.pass_time(mine)
        mine._leases.before = lambda call: None
        for _ in range(2):
            registry.pass_time(mine)
        assert not registry.claims("b").claim(P0)
