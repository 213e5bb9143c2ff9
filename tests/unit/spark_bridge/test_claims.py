"""Leases on partitions: one has each, who died is waited for, and a registry away costs nobody."""

import pytest

from hofflight.errors import RegistryUnavailable
from hofflight.spark_bridge.claims import holder_of
from tests.unit.spark_bridge.survivors import LOOK_S, PLACES, TTL_S

P0, P1, P2 = PLACES
GRACE_S = 30.0


def holds(claims, seconds, shared):
    """Its process lives so long; what it lost."""
    lost = []
    for _ in range(round(seconds / LOOK_S)):
        shared.clock.advance(LOOK_S)
        lost += [place for place in claims.lost() if place not in lost]
    return lost


def looks(claims, seconds, shared):
    """What it may take after so many seconds; it looks several times a second meanwhile."""
    found = []
    for _ in range(round(seconds / LOOK_S)):
        shared.clock.advance(LOOK_S)
        found = claims.abandoned(PLACES) or found
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


def test_a_holder_is_a_store_on_a_host_at_each_of_its_starts(tmp_path):
    """By whatever way it is named; its number fits into a database's."""
    (tmp_path / "link").symlink_to(tmp_path / "a")
    found = [holder_of(tmp_path / name) for name in ("a", "b/../a", "link", "b")]
    assert found[0] == found[1] == found[2]
    assert found[3].epoch != found[0].epoch
    assert 0 <= found[0].epoch < 2**62
    assert found[3].instance.endswith(f":{tmp_path}/b")


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
    """It had not answered for so long."""
    mine, other = shared.claims("a"), shared.claims("b")
    for place in (P0, P1):
        mine.claim(place)
    shared.clock.advance(TTL_S + 1)
    assert other.claim(P1)
    assert mine.lost() == [P1]
    asked = len(mine._leases.calls)
    assert mine.lost() == [P1]
    assert len(mine._leases.calls) == asked  # just now
    assert holds(mine, TTL_S, shared) == [P1]
    mine.drop(P1)
    assert mine.lost() == []
    assert holds(mine, TTL_S, shared) == []
    assert not other.claim(P0)


def test_what_was_dropped_is_not_held_any_longer(shared):
    mine, other = shared.claims("a"), shared.claims("b")
    mine.claim(P0)
    mine.drop(P0)
    assert not other.claim(P0)
    holds(mine, TTL_S + 1, shared)
    assert other.claim(P0)


# --- the registry is away -------------------------------------------------------------------------


def test_nothing_is_lost_while_the_registry_is_away(shared):
    """Nobody else can take it then, also where every lease runs out."""
    mine = shared.claims("a")
    mine.claim(P0)
    with shared.away():
        assert holds(mine, 5 * TTL_S, shared) == []
    assert holds(mine, TTL_S / 3, shared) == []
    assert not shared.claims("b").claim(P0)


def test_who_comes_first_when_the_registry_is_back_has_it(shared):
    mine, other = shared.claims("a"), shared.claims("b")
    mine.claim(P0)
    with shared.away():
        assert holds(mine, 5 * TTL_S, shared) == []
    assert other.claim(P0)
    assert holds(mine, TTL_S, shared) == [P0]


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
    assert looks(shared.claims("b"), 10 * GRACE_S, shared) == []


def test_what_is_held_is_not_taken(shared):
    mine, survivor = shared.claims("a"), shared.claims("b", GRACE_S)
    mine.claim(P0)
    survivor.claim(P1)
    survivor.claim(P2)
    for _ in range(40):
        holds(mine, TTL_S / 3, shared)
        assert survivor.abandoned(PLACES) == []


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
    assert looks(survivor, GRACE_S + TTL_S / 2, shared) == [P1]  # nobody ever had it
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
    assert holds(mine, 0.5, shared) == []
    shared.clock.advance(TTL_S + 1)
    assert shared.claims("b").claim(P0)
