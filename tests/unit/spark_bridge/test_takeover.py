"""Applications that step in for each other: after a while, with the state, and one of them only."""

import subprocess
import sys
from itertools import pairwise

import pytest
from structlog.testing import capture_logs

from hofflight.errors import RegistryUnavailable
from hofflight.eventlog import backup
from hofflight.spark_bridge import holdings
from tests.unit.spark_bridge.survivors import (
    LOOK_S,
    PLACES,
    TTL_S,
    Keeper,
    Patience,
    is_locked,
    mend,
    spoil,
)

P0, P1, P2 = PLACES
GRACE_S = 30.0
HOLD = """
import sys, pathlib
from hofflight.eventlog.lock import StoreLock
lock = StoreLock(pathlib.Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


def two(shared, **first):
    """One that works 0 and 1, with something logged and copied; another one that works 2."""
    dying = shared.survivor("a", **first)
    dying.start(P0, P1)
    for place in (P0, P1):
        dying.write(place, 5 + place.number)
        dying.holdings.save(place)
    survivor = shared.survivor("b", takeover_s=GRACE_S)
    survivor.start(P2)
    return dying, survivor


def failing_at(log):
    """Begins marks on a disk that is full in one place."""
    begin_mark = holdings.begin_mark

    def failing(directory, next_offset):
        if directory == log:
            raise OSError(28, "No space left on device")
        begin_mark(directory, next_offset)

    return failing


def test_what_another_one_left_is_taken_with_its_state(shared):
    dying, survivor = two(shared)
    shared.pass_time(60, dying, survivor)
    assert survivor.numbers == [2]
    shared.pass_time(TTL_S + GRACE_S - 4, survivor)
    assert survivor.numbers == [2]
    shared.pass_time(2 * TTL_S, survivor)
    assert survivor.numbers == [0, 1, 2]
    assert [survivor.logged(place)[-1] for place in (P0, P1)] == [5, 6]
    assert [survivor.begins(place) for place in (P0, P1)] == [5, 6]
    assert all(is_locked(survivor, place) for place in PLACES)


def test_who_comes_back_in_time_keeps_its_partitions(shared):
    dying, survivor = two(shared)
    dying.die()
    shared.pass_time(TTL_S + GRACE_S - 4, survivor)
    again = shared.survivor("a")
    again.start(P0, P1)
    shared.pass_time(3 * GRACE_S, again, survivor)
    assert (again.numbers, survivor.numbers) == ([0, 1], [2])


def test_of_two_survivors_exactly_one_takes_a_partition(shared):
    """Both saw that it is nobody's, and ask for it at one moment."""
    dying, first = two(shared)
    second = shared.survivor("c", takeover_s=GRACE_S)
    second.start()
    dying.die()
    shared.pass_time(TTL_S + GRACE_S - 1, first, second)
    second.leases.before = lambda call: first.share() if call == "acquire" else None
    shared.pass_time(2 * TTL_S, second)
    assert (first.numbers, second.numbers) == ([0, 2], [1])
    assert [is_locked(second, place) for place in (P0, P1)] == [False, True]
    shared.pass_time(2 * GRACE_S, first, second)
    assert (first.numbers, second.numbers) == ([0, 2], [1])


def test_of_what_others_left_one_is_taken_at_each_look(shared):
    """Its copy may take minutes: our own queries are looked after before the next."""
    dying, survivor = two(shared)
    dying.die()
    seen = []
    for _ in range(round((2 * TTL_S + GRACE_S) / LOOK_S)):
        shared.pass_time(LOOK_S, survivor)
        seen.append(len(survivor.numbers))
    assert {after - before for before, after in pairwise(seen)} == {0, 1}
    assert seen[-1] == 3
    assert (seen.index(3) - seen.index(2)) * LOOK_S == 1.0  # not a third of a lease later


def test_a_partition_that_was_taken_is_left_at_once(shared):
    """It had not answered for long, as in a virtual machine that was moved."""
    away, survivor = two(shared)
    shared.pass_time(TTL_S + 2 * GRACE_S, survivor)
    assert survivor.numbers == [0, 1, 2]
    away.share()
    assert away.numbers == []
    assert [is_locked(away, place) for place in (P0, P1)] == [False, False]


@pytest.mark.parametrize("takeover_s", [None, GRACE_S])
def test_who_lost_all_waits_and_takes_its_own_again(shared, takeover_s):
    """As soon as nobody has it; also who takes over nothing of others."""
    away, survivor = two(shared, takeover_s=takeover_s)
    shared.pass_time(TTL_S + 2 * GRACE_S, survivor)
    shared.pass_time(GRACE_S, away, survivor)
    assert (away.numbers, survivor.numbers) == ([], [0, 1, 2])
    survivor.stop()
    shared.pass_time(TTL_S, away)
    assert away.numbers == [0, 1]


def test_one_that_was_taken_leaves_the_others_alone(shared):
    mine = shared.survivor("a")
    mine.start(*PLACES)
    shared.rob(P1)
    with capture_logs() as told:
        shared.pass_time(TTL_S / 2, mine)
    assert [(e["event"], e["log_level"], e["topic"], e["partition"]) for e in told] == [
        ("partition_lost", "error", P1.topic, 1)
    ]
    assert mine.numbers == [0, 2]
    assert [is_locked(mine, place) for place in PLACES] == [True, False, True]


def test_who_takes_over_waits_where_it_lost_all(shared):
    """Until it is needed again."""
    away, survivor = two(shared, takeover_s=GRACE_S)
    shared.pass_time(TTL_S + 2 * GRACE_S, survivor)
    shared.pass_time(GRACE_S, away, survivor)
    assert (away.numbers, survivor.numbers) == ([], [0, 1, 2])
    survivor.die()
    shared.pass_time(2 * TTL_S + GRACE_S, away)
    assert away.numbers == [0, 1, 2]


def test_while_the_registry_is_away_for_long_nobody_works_and_then_everybody_its_own(shared):
    """A lease that cannot be renewed is over: nobody knows who has it then."""
    first, survivor = two(shared)
    with shared.away():
        shared.pass_time(TTL_S - 1, first, survivor)
        assert (first.numbers, survivor.numbers) == ([0, 1], [2])
        shared.pass_time(10 * GRACE_S, first, survivor)
        assert (first.numbers, survivor.numbers) == ([], [])
        assert not any(is_locked(first, place) for place in (P0, P1))
    shared.pass_time(TTL_S, first, survivor)
    assert (first.numbers, survivor.numbers) == ([0, 1], [2])
    shared.pass_time(2 * GRACE_S, first, survivor)
    assert (first.numbers, survivor.numbers) == ([0, 1], [2])


def test_after_the_registry_was_away_everybody_has_time_to_come_back(shared):
    """However long it was."""
    _, survivor = two(shared)
    with shared.away():
        shared.pass_time(10 * GRACE_S, survivor)
    shared.pass_time(GRACE_S - 2, survivor)
    assert survivor.numbers == [2]
    shared.pass_time(2 * TTL_S, survivor)
    assert survivor.numbers == [0, 1, 2]


@pytest.mark.parametrize("error", [RegistryUnavailable("gone"), OSError(28, "No space left")])
def test_what_fails_at_a_take_is_said_and_tried_again(shared, error):
    """Nothing ends of it, and nobody has its lock meanwhile."""
    mine = shared.survivor("a")
    mine.start(P0)
    shared.rob(P0).release([P0])

    def failing(call):
        if call == "acquire" and not mine.running:
            raise error

    mine.leases.before = failing
    shared.clock.advance(TTL_S + 1)
    with capture_logs() as told:
        shared.pass_time(TTL_S, mine)
    failed = [event for event in told if event["event"] == "takeover_failed"]
    assert len(failed) == 3
    assert {(event["topic"], event["log_level"]) for event in failed} == {(P0.topic, "warning")}
    assert mine.numbers == []
    assert not is_locked(mine, P0)
    mine.leases.before = lambda call: None
    shared.pass_time(TTL_S / 3, mine)
    assert mine.numbers == [0]


@pytest.mark.parametrize("what", ["damaged", "away"])
def test_what_cannot_be_brought_is_not_taken_and_tried_again(shared, what):
    """The others are; nobody has a lock of it meanwhile."""
    dying, survivor = two(shared)
    dying.die()
    spoil(dying.copies, what)
    shared.pass_time(2 * TTL_S + GRACE_S, survivor)
    assert survivor.numbers == ([2] if what == "away" else [1, 2])
    assert not is_locked(survivor, P0)
    assert survivor.logged(P0) == []
    mend(dying.copies, what)
    shared.pass_time(3 * TTL_S + GRACE_S, survivor)
    assert survivor.numbers == [0, 1, 2]
    assert survivor.logged(P0) == ([1, 2, 3, 4, 5] if what == "away" else [])


@pytest.mark.parametrize("where", ["store", "mark"])
def test_a_disk_that_fails_at_a_takeover_ends_nothing(shared, monkeypatch, where):
    """It is said, the others are taken, and that one is tried again."""
    dying, survivor = two(shared)
    dying.die()
    path = survivor.holdings.store(P0).path
    with monkeypatch.context() as patch, capture_logs() as told:
        if where == "store":
            path.write_bytes(b"a file")
        else:
            patch.setattr(holdings, "begin_mark", failing_at(survivor.holdings.log(P0)))
        shared.pass_time(2 * TTL_S + GRACE_S, survivor)
    assert survivor.numbers == [1, 2]
    failed = [event for event in told if event["event"] == "takeover_failed"]
    assert {(event["topic"], event["log_level"]) for event in failed} == {(P0.topic, "warning")}
    assert all(event["error"] for event in failed)
    if where == "store":
        path.unlink()
    else:
        assert not is_locked(survivor, P0)
    shared.pass_time(2 * TTL_S + GRACE_S, survivor)
    assert survivor.numbers == [0, 1, 2]
    assert survivor.logged(P0) == [1, 2, 3, 4, 5]


def test_what_one_cannot_bring_another_one_takes_without_waiting(shared):
    """It gives the lease back at once: held until it runs out, it would be no time of nobody's."""
    dying, first = two(shared)
    second = shared.survivor("c", takeover_s=GRACE_S + TTL_S / 2)
    second.start()
    first.holdings.store(P0).require(create=True)
    first.holdings.store(P0).log.write_bytes(b"no folder")
    dying.die()
    with capture_logs() as told:
        shared.pass_time(TTL_S + GRACE_S + TTL_S / 2 + 6, first, second)  # each looks every 3 s
    assert [e["topic"] for e in told if e["event"] == "takeover_failed"] == [P0.topic]
    assert (first.numbers, second.numbers) == ([1, 2], [0])
    assert second.logged(P0) == [1, 2, 3, 4, 5]


def test_a_store_that_a_process_of_this_host_writes_is_not_taken_over(shared):
    """Whatever its lease says: it may be a Python worker that is about to end."""
    survivor = shared.survivor("b", takeover_s=GRACE_S)
    survivor.start(P2)
    store = survivor.holdings.store(P0)
    store.require(create=True)
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(store.lock)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout.readline() == "held\n"
        shared.pass_time(3 * GRACE_S, survivor)
        assert survivor.numbers == [1, 2]
        assert shared.claims("c").holder(P0) == "nobody"
    finally:
        process.kill()
        process.communicate()
    shared.pass_time(TTL_S, survivor)
    assert survivor.numbers == [0, 1, 2]


# --- meanwhile ------------------------------------------------------------------------------------


class Thief:
    """Looks all the time whether something is free that is not its own."""

    def __init__(self, shared, place):
        self._claims = shared.claims("thief")
        self._place = place
        self.tries = 0

    def share(self):
        self.tries += 1
        assert not self._claims.claim(self._place), "its lease ran out"


def test_what_is_ours_is_held_while_another_partition_is_waited_for(shared):
    """Longer than a lease: the one that has it dies half a second after it was asked for first."""
    mine, dying, thief = shared.survivor("b"), shared.survivor("a"), Thief(shared, P0)
    dying.start(P1)
    shared.clock.advance(TTL_S / 3 - 0.5)

    class Patient(Patience):
        def wait(self, seconds):
            super().wait(seconds)
            if self.waited_s == 0.5:
                dying.share()

    waited_s = mine.start(
        P0, P1, patience=Patient(shared, Keeper(mine.claims, shared.clock), thief)
    )
    assert waited_s == TTL_S + 0.5
    assert thief.tries > TTL_S
    assert mine.numbers == [0, 1]


def test_what_is_lost_while_another_partition_is_waited_for_is_left_by_the_first_look(shared):
    """This host stood still; what it is told once is not forgotten."""
    mine, dying, thief = shared.survivor("b"), shared.survivor("a"), shared.claims("c")
    dying.start(P1)

    class Still(Patience):
        def wait(self, seconds):
            if not self.waited_s:
                shared.clock.advance(TTL_S + 0.5)
                assert thief.claim(P0)
            super().wait(seconds)

    mine.start(P0, P1, patience=Still(shared, Keeper(mine.claims, shared.clock)))
    assert mine.numbers == [0, 1]
    mine.share()
    assert mine.numbers == [1]
    assert not is_locked(mine, P0)
    assert thief.holder(P0).endswith("/c")


def test_what_is_ours_is_held_while_a_large_copy_is_brought(shared, monkeypatch):
    """Or who steps in for one loses all its own meanwhile, to the next who steps in."""
    dying, survivor = two(shared)
    snapshots = dying.holdings.store(P0).snapshots / P0.stream
    snapshots.mkdir(parents=True)
    for number in range(12):
        (snapshots / f"v1-{number}.snap").write_bytes(b"%d" % number)
    dying.holdings.save(P0)
    dying.die()
    keeper, thief = Keeper(survivor.claims, shared.clock), Thief(shared, P2)

    class Slow:
        """Each file takes a quarter of a lease."""

        def __getattr__(self, name):
            if name == "open_input_stream":
                shared.pass_time(TTL_S / 4, keeper, thief)
            return getattr(backup.fs.LocalFileSystem(), name)

    class Known:
        @staticmethod
        def from_uri(uri):
            return Slow(), uri.removeprefix("slow://")

    monkeypatch.setattr(backup.fs, "FileSystem", Known)
    survivor.holdings._backups = f"slow://{dying.copies}"
    tries = thief.tries
    shared.pass_time(2 * TTL_S + GRACE_S, survivor)
    assert thief.tries - tries > 12 * TTL_S
    assert survivor.numbers == [0, 1, 2]
