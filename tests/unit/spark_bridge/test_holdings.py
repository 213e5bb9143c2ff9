"""Partitions become an application's own and another's: lease, lock and state go together."""

import os
import shutil

import pytest
from structlog.testing import capture_logs

from hofflight.errors import BackupUnavailable, RegistryUnavailable, StoreFormat, StoreLocked
from hofflight.spark_bridge.state_store import begin_mark
from tests.unit.spark_bridge.survivors import PLACES, TTL_S, Patience, is_locked, spoil

P0, P1, P2 = PLACES
GRACE_S = 30.0


# --- what was asked for ---------------------------------------------------------------------------


def test_what_was_asked_for_is_leased_and_locked(shared):
    mine = shared.survivor("a")
    assert mine.start(P0, P2) == 0
    assert mine.numbers == [0, 2]
    assert [is_locked(mine, place) for place in (P0, P2)] == [True, True]
    assert not shared.claims("b").claim(P0)


def test_streams_of_one_partition_share_its_lock(shared):
    """Each has a lease of its own; the lock goes with the last of them."""
    other = P0._replace(stream="h.1")
    mine = shared.survivor("a")
    mine.start(P0, other)
    for place, left in ((P0, [other]), (other, [])):
        thief = shared.rob(place)
        shared.pass_time(TTL_S / 3, mine)
        assert mine.running == left
        assert is_locked(mine, other) == bool(left)
    assert thief.holder(P0).endswith("/thief")


def test_an_application_that_died_is_waited_for(shared):
    """Until its lease ran out, and not longer."""
    shared.survivor("a").start(P0)
    mine = shared.survivor("b")
    assert TTL_S <= mine.start(P0, P1) <= TTL_S + 0.5
    assert mine.numbers == [0, 1]


def test_an_application_that_starts_again_waits_for_nothing(shared):
    before = shared.survivor("a")
    before.start(P0)
    before.die()
    assert shared.survivor("a").start(P0) == 0


def test_without_taking_over_a_partition_of_a_living_one_is_refused(shared):
    """With who has it, and what to do; after the time in which one that died would have gone."""
    living = shared.survivor("a")
    living.start(P1)
    mine = shared.survivor("b")
    patience = Patience(shared, living)
    with pytest.raises(StoreLocked, match=r"HOF-501: partition 1 of hof.in.g.1 is worked by .*/a"
                       r" Hint: .*--partitions.*--takeover"):  # fmt: skip
        mine.start(P0, P1, patience=patience)
    assert TTL_S + 1 <= patience.waited_s <= TTL_S + 2
    assert not is_locked(mine, P1)
    assert living.numbers == [1]


def test_who_takes_over_leaves_others_theirs_and_waits_for_nothing(shared):
    living = shared.survivor("a")
    living.start(P1)
    mine = shared.survivor("b", takeover_s=GRACE_S)
    assert mine.start(*PLACES) == 0
    assert mine.numbers == [0, 2]
    assert not is_locked(mine, P1)


@pytest.mark.parametrize("waits", [0, 1])
def test_who_is_told_to_stop_waits_no_longer_and_takes_no_more(shared, waits):
    """A copy that is brought for nothing may take minutes."""
    shared.survivor("a").start(P0)
    mine, patience = shared.survivor("b"), Patience(shared)
    patience.is_set = lambda: patience.waited_s >= 0.25 * waits
    assert mine.start(P0, P1, patience=patience) == 0.25 * waits
    assert mine.numbers == []
    assert mine.leases.calls == ["acquire"] * waits


def test_a_store_that_another_process_writes_is_refused(shared):
    """Before any lease is asked for: it has the same holder."""
    mine = shared.survivor("a")
    other = shared.survivor("a")
    other.start(P0)
    with pytest.raises(StoreLocked, match=f"HOF-501: process {os.getpid()} is writing this store"):
        mine.start(P0)
    assert mine.leases.calls == []
    mine.start(P1)
    assert mine.numbers == [1]


def test_who_takes_over_leaves_a_store_that_another_process_writes(shared):
    """And begins with what is free."""
    shared.survivor("a").start(P0)
    mine = shared.survivor("a", takeover_s=GRACE_S)
    assert mine.start(*PLACES) == 0
    assert mine.numbers == [1, 2]


def test_nothing_is_claimed_of_a_registry_that_is_away(shared):
    mine = shared.survivor("a")
    with shared.away(), pytest.raises(RegistryUnavailable, match="HOF-515"):
        mine.start(P0)
    assert not is_locked(mine, P0)
    mine.start(P0)
    assert mine.numbers == [0]


# --- state ----------------------------------------------------------------------------------------


def test_a_partition_that_was_never_here_comes_from_its_copy(shared):
    before = shared.survivor("a")
    before.start(P0)
    before.write(P0, 5)
    assert before.holdings.save(P0) > 0
    before.stop()
    mine = shared.survivor("b")
    mine.start(P0, P1)
    assert mine.logged(P0) == [1, 2, 3, 4, 5]
    assert mine.logged(P1) == []


def test_a_mark_says_where_the_topic_goes_on_after_a_copy(shared):
    """Or the query would begin with all that the topic has. Its last records had no entry."""
    before = shared.survivor("a")
    before.start(P0)
    before.write(P0, 5)
    begin_mark(before.holdings.log(P0), 7)
    before.holdings.save(P0)
    before.stop()
    mine = shared.survivor("b")
    mine.start(P0, P1)
    assert mine.begins(P0) == 7
    assert mine.begins(P1) is None


def test_a_log_that_was_never_worked_is_no_copy(shared):
    """It is without a mark: how far it came nobody knows."""
    mine = shared.survivor("a")
    mine.start(P0)
    assert mine.holdings.save(P0) == 0
    mine.write(P0, 5)
    mark = mine.holdings.log(P0) / "mark"
    mark.rename(mark.with_name("aside"))
    assert mine.holdings.save(P0) == 0
    assert list(mine.copies.glob("**/manifest-*")) == []
    mark.with_name("aside").rename(mark)
    assert mine.holdings.save(P0) > 0


def test_a_log_that_is_here_is_not_overwritten(shared):
    """It has what came after the last copy."""
    mine = shared.survivor("a")
    mine.start(P0)
    mine.write(P0, 5)
    mine.holdings.save(P0)
    mine.write(P0, 2)
    mine.die()
    again = shared.survivor("a")
    again.start(P0)
    assert again.logged(P0) == list(range(1, 8))
    assert again.begins(P0) == 7


def test_without_copies_a_new_host_begins_anew(shared):
    before = shared.survivor("a")
    before.start(P0)
    before.write(P0, 5)
    before.holdings.save(P0)
    before.stop()
    mine = shared.survivor("b", backups=False)
    mine.start(P0)
    assert mine.logged(P0) == []


@pytest.mark.parametrize("what", ["damaged", "away"])
def test_what_cannot_be_brought_is_said_and_at_once_nobodys(shared, what):
    """Its windows would begin anew, silently. Another host may be able to."""
    before = shared.survivor("a")
    before.start(P0)
    before.write(P0, 5)
    before.holdings.save(P0)
    before.stop()
    spoil(before.copies, what)
    mine = shared.survivor("b")
    with pytest.raises((StoreFormat, BackupUnavailable)):
        mine.start(P0)
    assert mine.holdings.places == []
    assert not is_locked(mine, P0)
    assert shared.claims("c").claim(P0)


def test_what_an_application_leaves_is_free_at_once(shared):
    """But not what another one has in the same store."""
    mine, beside = shared.survivor("a"), shared.survivor("a")
    mine.start(P0)
    beside.start(P1)
    mine.stop()
    other = shared.claims("b")
    assert [other.claim(place) for place in (P0, P1)] == [True, False]
    assert not is_locked(mine, P0)
    assert is_locked(beside, P1)


def test_copies_where_there_is_no_place_for_them_are_refused(shared):
    """The partition goes on."""
    mine = shared.survivor("a")
    mine.start(P0)
    mine.write(P0, 1)
    shutil.rmtree(mine.copies)
    mine.copies.write_bytes(b"")
    with pytest.raises(BackupUnavailable, match="HOF-516"):
        mine.holdings.save(P0)
    assert mine.numbers == [0]


# --- given up -------------------------------------------------------------------------------------


def test_what_cannot_be_worked_here_is_left_to_another_application(shared):
    """The tenth time its query ended; the others go on."""
    mine, other = (shared.survivor(store, takeover_s=GRACE_S) for store in "ab")
    mine.refusing = [P0]
    mine.start(P0, P1)
    other.start(P2)
    with capture_logs() as told:
        shared.pass_time(155, mine, other)
    (given,) = [event for event in told if event["event"] == "given_up"]
    assert (given["topic"], given["partition"], given["log_level"]) == (P0.topic, 0, "error")
    assert given["error"] == "the query of hof.in.g.1/0 ended 10 times: it died"
    assert mine.numbers == [1]
    assert not is_locked(mine, P0)
    shared.pass_time(GRACE_S + TTL_S, mine, other)
    assert (mine.numbers, other.numbers) == ([1], [0, 2])


def given_up(shared, mine, place):
    """Its query ended for the last time."""
    mine.application.remove(place)
    mine.holdings.give_up(place, "it died")
    shared.pass_time(TTL_S / 3, mine)  # since then it is nobody's


def test_what_was_given_up_is_free_at_once(shared):
    mine = shared.survivor("a", takeover_s=GRACE_S)
    mine.start(P0)
    given_up(shared, mine, P0)
    assert shared.claims("b").claim(P0)
    assert mine.numbers == []


@pytest.mark.parametrize("wanted", [[P0], []])
def test_what_was_given_up_is_tried_again_after_ten_minutes(shared, wanted):
    """Whoever asked for it: maybe there is no other application. Another one is taken meanwhile."""
    mine = shared.survivor("a", takeover_s=GRACE_S)
    mine.start(P0)
    mine.wanted = wanted
    given_up(shared, mine, P0)
    shared.clock.advance(595)
    mine.share()
    mine.share()
    assert mine.numbers == [1]
    shared.pass_time(TTL_S, mine)
    assert 0 in mine.numbers


def test_what_was_lost_already_is_not_given_back_for_others(shared):
    mine = shared.survivor("a", takeover_s=GRACE_S)
    mine.start(P0)
    thief = shared.rob(P0)
    shared.pass_time(TTL_S / 3, mine)
    mine.holdings.give_up(P0, "it died")
    assert thief.holder(P0).endswith("/thief")
    assert mine.numbers == []
