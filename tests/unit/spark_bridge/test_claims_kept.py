"""Leases that two threads hold: nothing is lost between them, and one holds while another works."""

import threading
import time
from contextlib import contextmanager, nullcontext

import pytest

from hofflight.clock import SystemClock
from hofflight.errors import RegistryUnavailable
from hofflight.features.leases import Leases
from hofflight.features.sqlite import SqliteDatabase
from hofflight.spark_bridge import claims
from hofflight.spark_bridge.claims import Claims, Holder
from tests.unit.kafka_fakes import FakeClock
from tests.unit.spark_bridge.survivors import PLACES, TTL_S, Watched
from tests.unit.spark_bridge.test_claims import holds

P0, P1, P2 = PLACES


# --- two threads ----------------------------------------------------------------------------------


@contextmanager
def renewing(claims):
    """A thread that renews, and stands at its first renewal until the block ends."""
    begun, go_on = threading.Event(), threading.Event()

    def wait(call):
        begun.set()
        assert go_on.wait(20)

    claims._leases.before = wait
    thread = threading.Thread(target=claims.renew)
    thread.start()
    assert begun.wait(20)
    claims._leases.before = lambda call: None
    try:
        yield
    finally:
        go_on.set()
        thread.join(20)


@pytest.fixture
def mine(shared):
    """One that holds three places."""
    mine = shared.claims("a")
    for place in PLACES:
        mine.claim(place)
    return mine


def test_nobody_waits_for_a_registry_that_does_not_answer(shared, mine):
    """Queries are looked after meanwhile; what runs out then is known."""
    with renewing(mine):
        assert mine.lost() == []
        mine.drop(P1)
        shared.clock.advance(TTL_S)
        assert mine.lost() == [P0, P2]


def test_what_is_dropped_while_it_is_renewed_stays_dropped(shared, mine):
    """Or it would be left a second time, or held for good with nobody who works it."""
    for place in PLACES:
        with renewing(mine):
            mine.drop(place)
    assert holds(mine, 2 * TTL_S, shared) == []
    assert [shared.claims("b").claim(place) for place in PLACES] == [True] * 3


def test_what_another_one_took_is_not_left_twice_where_it_is_renewed_meanwhile(shared, mine):
    shared.rob(P0)
    with renewing(mine):
        mine.drop(P0)
    assert mine.lost() == []


def test_what_is_claimed_while_others_are_renewed_is_held(shared, mine):
    mine.release([P2])
    with renewing(mine):
        assert mine.claim(P2)
    assert holds(mine, 2 * TTL_S, shared) == []
    assert not shared.claims("b").claim(P2)


def test_what_was_taken_is_known_also_where_the_registry_goes_away_behind_it(shared, mine):
    """It was asked for one place and not for the next."""
    shared.rob(P0)

    def away(call):
        if len(mine._leases.calls) == 5:
            raise RegistryUnavailable("gone")

    mine._leases.before = away
    mine.renew()
    assert len(mine._leases.calls) == 5
    assert mine.lost() == [P0]
    assert holds(mine, 2 * TTL_S, shared) == [P0]


# --- in the background ----------------------------------------------------------------------------


class Registry:
    """Leases in memory, which several threads may ask at once. A tenth of a second is long here."""

    def __init__(self, clock=None):
        self.clock = clock or FakeClock()
        self.leases = Leases(SqliteDatabase(None, clock=self.clock))

    def claims(self, name, ttl_ms=30):
        return Claims(Watched(self.leases), Holder(name, ord(name)), ttl_ms, None, self.clock)

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
    mine, other = (registry.claims(name, ttl_ms=1_000) for name in ("a", "b"))
    mine.claim(P0)
    with mine.kept():
        for _ in range(2):
            time.sleep(0.7)
            assert not other.claim(P0)
    assert mine.lost() == []


@pytest.mark.parametrize("is_error", [False, True])
def test_after_its_block_nothing_is_kept_any_longer(is_error):
    """Also where that ends with an error, which goes on."""
    registry = Registry()
    mine, other = registry.claims("a"), registry.claims("b")
    mine.claim(P0)
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
    """Our time was not over."""
    registry = Registry()
    mine = registry.claims("a")
    mine.claim(P0)
    registry.leases.release("hof.in.g.1/0", ord("a"))
    assert registry.claims("b").claim(P0)
    with mine.kept():
        wait_for(mine, 2)
    assert mine.lost() == [P0]
    assert len(mine._leases.calls) == 2  # it was not asked anew


def test_a_registry_that_goes_away_and_comes_back_is_asked_again():
    """The thread does not end with the error."""
    registry = Registry()
    mine, other = registry.claims("a"), registry.claims("b")
    mine.claim(P0)

    def away(call):
        raise RegistryUnavailable("gone")

    with mine.kept():
        for _ in range(5):
            mine._leases.before = away
            registry.pass_time(mine)
            mine._leases.before = lambda call: None
            registry.pass_time(mine)
            assert mine.lost() == []
            assert not other.claim(P0)


def test_what_was_lost_and_is_claimed_again_is_kept():
    """As after a registry was away for long."""
    registry = Registry()
    mine, other = registry.claims("a"), registry.claims("b")
    mine.claim(P0)
    with mine.kept():
        registry.clock.advance(0.031)
        assert mine.lost() == [P0]
        mine.drop(P0)
        assert mine.claim(P0)
        for _ in range(5):
            registry.pass_time(mine)
            assert not other.claim(P0)
        assert mine.lost() == []


# --- a thread that hangs --------------------------------------------------------------------------


@pytest.fixture
def hangs(monkeypatch):
    """Who does not look for a tenth of a second hangs."""
    assert claims._HANGS_S == 600
    monkeypatch.setattr(claims, "_HANGS_S", 0.1)


def test_for_a_thread_that_hangs_nothing_is_kept(hangs):
    """Its queries are not looked after: another one is to take what it has."""
    registry = Registry()
    mine, other = registry.claims("a"), registry.claims("b")
    mine.claim(P0)
    with mine.kept():
        for _ in range(9):
            registry.pass_time(mine)
        registry.clock.advance(0.002)
        time.sleep(0.03)  # for a renewal that is under way
        calls = len(mine._leases.calls)
        time.sleep(0.05)
        assert len(mine._leases.calls) == calls
        registry.clock.advance(0.031)
        assert other.claim(P0)
        assert mine.lost() == [P0]
        mine.drop(P0)

        assert mine.claim(P1)  # it is back
        registry.pass_time(mine)


@pytest.mark.parametrize("look", [lambda mine: mine.lost(), lambda mine: mine.claim(P1)])
def test_who_looks_or_claims_does_not_hang(hangs, look):
    """Or who brings one large copy behind another would lose the first of them."""
    registry = Registry()
    mine, other = registry.claims("a"), registry.claims("b")
    mine.claim(P0)
    with mine.kept():
        for _ in range(20):
            registry.pass_time(mine)
            look(mine)
            assert not other.claim(P0)
