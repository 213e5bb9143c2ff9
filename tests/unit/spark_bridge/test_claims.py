"""Leases on partitions: one has each, who died is waited for, who cannot renew has lost it."""

import pytest

from hofflight.errors import RegistryUnavailable
from tests.unit.spark_bridge.survivors import LOOK_S, PLACES, TTL_S

P0, P1, P2 = PLACES
GRACE_S = 30.0


def holds(claims, seconds, shared):
    """Its process lives so long, and renews three times a lease; what it lost."""
    lost = []
    for step in range(1, round(seconds / LOOK_S) + 1):
        shared.clock.advance(LOOK_S)
        if step % (TTL_S / 3 / LOOK_S) == 0:
            claims.renew()
        lost += [place for place in claims.lost() if place not in lost]
    return lost


def looks(claims, seconds, shared, wanted=(), others=PLACES):
    """What it may take after so many seconds; it looks several times a second meanwhile."""
    found = []
    for step in range(1, round(seconds / LOOK_S) + 1):
        shared.clock.advance(LOOK_S)
        if step % (TTL_S / 3 / LOOK_S) == 0:
            claims.renew()
        found = claims.free(wanted, others) or found
    return found


# --- who has it -----------------------------------------------------------------------------------


def test_a_partition_has_one_holder(shared):
    mine, theirs = shared.claims("a"), shared.claims("b")
    assert mine.claim(P0)
    assert not theirs.claim(P0)
    assert theirs.claim(P1)
    assert mine.holder(P0).endswith("/a")
    assert mine.holder(P1).endswith("/b")
    assert mine.holder(P2) == "nobody"


def test_partitions_of_other_streams_are_others(shared):
    other = P0._replace(stream="h.1")
    assert shared.claims("a").claim(P0)
    assert shared.claims("b").claim(other)


def test_a_store_that_starts_again_has_its_partitions_at_once(shared):
    """Its process died a moment ago."""
    shared.claims("a").claim(P0)
    assert shared.claims("a").claim(P0)
    assert not shared.claims("b").claim(P0)


def test_another_store_has_it_when_its_lease_ran_out(shared):
    shared.claims("a").claim(P0)
    other = shared.claims("b")
    shared.clock.advance(TTL_S - 0.1)
    assert not other.claim(P0)
    shared.clock.advance(0.2)
    assert other.claim(P0)


def test_what_is_held_for_longer_does_not_run_out(shared):
    """And the registry is asked three times a lease, not several times a second."""
    mine, other = shared.claims("a"), shared.claims("b")
    mine.claim(P0)
    for _ in range(20):
        assert holds(mine, TTL_S, shared) == []
        assert not other.claim(P0)
    assert 60 <= len(mine._leases.calls) <= 62


def test_what_another_one_took_is_lost_until_it_is_dropped(shared):
    """Though our time was not over: somebody set the registry's clock. Also when that one goes."""
    mine = shared.claims("a")
    for place in (P0, P1):
        mine.claim(place)
    other = shared.rob(P1)
    assert mine.lost() == []  # it was not heard of yet
    assert holds(mine, TTL_S, shared) == [P1]
    assert mine.lost() == [P1]
    other.release([P1])
    assert holds(mine, TTL_S, shared) == [P1]
    mine.drop(P1)
    assert mine.lost() == []
    assert holds(mine, TTL_S, shared) == []
    assert [other.claim(place) for place in (P0, P1)] == [False, True]


def test_to_say_what_is_lost_nobody_is_asked(shared):
    """The registry may not answer for long."""
    mine = shared.claims("a")
    mine.claim(P0)
    shared.clock.advance(TTL_S + 1)
    assert mine.lost() == [P0]
    assert mine._leases.calls == ["acquire"]


def test_what_was_not_renewed_in_time_is_lost_until_it_is_dropped(shared):
    """This host stood still: others had it, maybe, and are gone again. Not a moment earlier."""
    mine = shared.claims("a")
    mine.claim(P0)
    shared.clock.advance(TTL_S - 0.1)
    assert mine.lost() == []
    shared.clock.advance(0.1)
    assert mine.lost() == [P0]
    assert holds(mine, TTL_S, shared) == [P0]
    mine.drop(P0)
    assert mine.claim(P0)
    assert holds(mine, 2 * TTL_S, shared) == []


def test_the_time_of_a_lease_begins_before_the_registry_is_asked(shared):
    """It may take long to answer: from then on it is somebody else's time, maybe."""
    mine = shared.claims("a")
    mine._leases.before = lambda call: shared.clock.advance(TTL_S / 2)
    mine.claim(P0)
    mine._leases.before = lambda call: None
    shared.clock.advance(TTL_S / 2 - 0.1)
    assert mine.lost() == []
    mine._leases.before = lambda call: shared.clock.advance(TTL_S / 2)
    mine.renew()
    assert mine.lost() == []
    shared.clock.advance(TTL_S / 2)
    assert mine.lost() == [P0]


def test_what_was_dropped_is_not_held_any_longer(shared):
    mine, other = shared.claims("a"), shared.claims("b")
    mine.claim(P0)
    mine.drop(P0)
    assert not other.claim(P0)
    holds(mine, TTL_S + 1, shared)
    assert other.claim(P0)


# --- the registry is away -------------------------------------------------------------------------


def test_a_registry_that_is_away_for_a_moment_takes_nothing_from_anybody(shared):
    """One renewal may fail, again and again."""
    mine = shared.claims("a")
    mine.claim(P0)
    for _ in range(5):
        with shared.away():
            assert holds(mine, TTL_S / 3, shared) == []
        assert holds(mine, TTL_S / 3, shared) == []
        assert not shared.claims("b").claim(P0)


def test_what_could_not_be_renewed_in_time_is_lost(shared):
    """The registry may be there for others. So do servers."""
    mine, other = shared.claims("a"), shared.claims("b")
    mine.claim(P0)
    with shared.away():
        assert holds(mine, TTL_S - LOOK_S, shared) == []
        assert holds(mine, LOOK_S, shared) == [P0]
    assert other.claim(P0)
    assert holds(mine, TTL_S, shared) == [P0]


def test_of_several_those_are_lost_that_could_not_be_renewed(shared):
    """The registry went away between two of them."""
    mine = shared.claims("a")
    for place in PLACES:
        mine.claim(place)
    shared.clock.advance(TTL_S / 2)

    def away(call):
        if len(mine._leases.calls) > 4:
            raise RegistryUnavailable("gone")

    mine._leases.before = away
    mine.renew()
    shared.clock.advance(TTL_S / 2)
    assert mine.lost() == [P1, P2]


def test_a_registry_that_forgot_a_lease_gets_it_again(shared):
    """It was restored from a backup."""
    mine = shared.claims("a")
    mine.claim(P0)
    shared.change("DELETE FROM leases")
    holds(mine, TTL_S / 3, shared)
    assert not shared.claims("b").claim(P0)


def test_nothing_is_claimed_of_a_registry_that_is_away(shared):
    mine = shared.claims("a")
    with shared.away():
        with pytest.raises(RegistryUnavailable, match="HOF-515"):
            mine.claim(P0)
        with pytest.raises(RegistryUnavailable, match="HOF-515"):
            mine.holder(P0)
    holds(mine, TTL_S, shared)
    assert mine.holder(P0) == "nobody"


# --- what nobody has ------------------------------------------------------------------------------


def test_what_nobody_had_for_a_while_may_be_taken(shared):
    """Once its lease ran out, and its host had time to come back."""
    shared.claims("a").claim(P0)
    survivor = shared.claims("b", GRACE_S)
    survivor.claim(P1)
    survivor.claim(P2)
    assert looks(survivor, TTL_S + GRACE_S, shared) == []
    assert looks(survivor, TTL_S, shared) == [P0]


def test_who_takes_over_nothing_finds_nothing(shared):
    """Nor does it ask."""
    mine = shared.claims("b")
    assert looks(mine, 10 * GRACE_S, shared, others=[]) == []
    assert mine._leases.calls == []


def test_what_is_held_is_not_taken(shared):
    mine, survivor = shared.claims("a"), shared.claims("b", GRACE_S)
    mine.claim(P0)
    survivor.claim(P1)
    survivor.claim(P2)
    for _ in range(40):
        holds(mine, TTL_S / 3, shared)
        survivor.renew()
        assert survivor.free([], PLACES) == []


@pytest.mark.parametrize("takeover_s", [None, GRACE_S])
def test_what_was_asked_for_may_be_taken_as_soon_as_it_is_nobodys(shared, takeover_s):
    """Others have it, and have their time to come back for what is theirs."""
    living, dying = shared.claims("a"), shared.claims("c")
    dying.claim(P0)
    living.claim(P1)
    mine = shared.claims("b", takeover_s)
    others = PLACES if takeover_s else []
    for _ in range(5):
        holds(living, TTL_S / 3, shared)
        dying.renew()
        assert mine.free([P0, P1], others) == []
    assert looks(mine, TTL_S / 3, shared, [P0, P1], others) == []
    living.renew()
    assert looks(mine, 2 * TTL_S / 3, shared, [P0, P1], others) == [P0]
    assert mine.claim(P0)
    assert looks(mine, 2 * TTL_S, shared, [P0], []) == []


def test_others_that_are_nobodys_come_behind_what_was_asked_for(shared):
    survivor = shared.claims("b", GRACE_S)
    assert looks(survivor, GRACE_S, shared, [P2]) == [P2]
    assert looks(survivor, TTL_S, shared, [P2]) == [P2, P0, P1]


def test_who_looks_asks_the_registry_three_times_a_lease(shared):
    """However often it looks; not at all where it has everything."""
    mine = shared.claims("b", GRACE_S)
    looks(mine, 10 * TTL_S, shared, [P0])
    assert mine._leases.calls == ["held"] * 30
    for place in PLACES:
        mine.claim(place)
    looks(mine, TTL_S, shared, [P0])
    assert "held" not in mine._leases.calls[33:]


def test_who_comes_back_in_time_has_its_whole_time_again(shared):
    """Dying twice, with a moment in between, is not being away for long."""
    survivor = shared.claims("b", GRACE_S)
    survivor.claim(P1)
    survivor.claim(P2)
    for _ in range(4):
        shared.claims("a").claim(P0)
        assert looks(survivor, TTL_S + GRACE_S - 1, shared) == []
    assert looks(survivor, 2 * TTL_S, shared) == [P0]


def test_of_one_of_several_that_is_away_the_others_say_nothing(shared):
    """Each has its own time."""
    survivor = shared.claims("b", GRACE_S)
    shared.claims("a").claim(P0)
    survivor.claim(P2)
    assert looks(survivor, GRACE_S + TTL_S * 2 / 3, shared) == [P1]  # nobody ever had it
    assert looks(survivor, 2 * TTL_S, shared) == [P0, P1]


def test_after_the_registry_was_away_everybody_has_time_to_come_back(shared):
    """Nobody could hold anything: that a lease is over says nothing then."""
    shared.claims("a").claim(P0)
    survivor = shared.claims("b", GRACE_S)
    survivor.claim(P1)
    survivor.claim(P2)
    looks(survivor, TTL_S + GRACE_S - 5, shared)
    with shared.away():
        assert looks(survivor, 10 * GRACE_S, shared) == []
    assert looks(survivor, GRACE_S - 1, shared) == []
    assert looks(survivor, TTL_S, shared) == [P0]


def test_who_tried_to_take_one_waits_as_long_again(shared):
    """It was another's, or its state could not be brought."""
    survivor = shared.claims("b", GRACE_S)
    survivor.claim(P1)
    survivor.claim(P2)
    assert looks(survivor, 2 * GRACE_S, shared) == [P0]
    assert survivor.claim(P0)
    survivor.drop(P0)
    assert looks(survivor, TTL_S + GRACE_S, shared) == []
    assert looks(survivor, TTL_S, shared) == [P0]


# --- back to others -------------------------------------------------------------------------------


def test_what_is_given_back_is_free_at_once(shared):
    """But not what another application has that shares the store, and the holder with it."""
    mine, beside, other = shared.claims("a"), shared.claims("a"), shared.claims("b")
    mine.claim(P0)
    mine.claim(P1)
    beside.claim(P2)
    mine.release(PLACES)
    assert [other.claim(place) for place in PLACES] == [True, True, False]


def test_what_is_not_given_back_is_held_still(shared):
    mine, other = shared.claims("a"), shared.claims("b")
    mine.claim(P0)
    mine.claim(P1)
    mine.release([P0])
    assert [other.claim(place) for place in (P0, P1)] == [True, False]
    assert holds(mine, 2 * TTL_S, shared) == []  # it was given, not taken
    assert not other.claim(P1)


def test_what_another_one_took_is_not_given_back_for_it(shared):
    mine, other = shared.claims("a"), shared.claims("b")
    mine.claim(P0)
    shared.clock.advance(TTL_S + 1)
    other.claim(P0)
    mine.release([P0])
    assert other.holder(P0).endswith("/b")


def test_to_a_registry_that_is_away_nothing_is_given_back(shared):
    """It runs out by itself."""
    mine = shared.claims("a")
    mine.claim(P0)
    with shared.away():
        mine.release([P0])
    assert holds(mine, TTL_S, shared) == []
    shared.clock.advance(TTL_S + 1)
    assert shared.claims("b").claim(P0)
