"""Copies in the background: one that fails costs nothing but itself, the last comes at the end."""

import threading

import pytest
import structlog

from hofflight.errors import BackupUnavailable
from hofflight.spark_bridge.backups import PERIOD_S, Backups
from hofflight.spark_bridge.executor_side import Place

PLACES = [Place("g.1", number, "hof") for number in range(3)]
NEVER_S = 3_600.0


class Copier:
    """Counts the copies of each partition; some fail."""

    def __init__(self):
        self.saved = []
        self.threads = set()
        self.errors = {}
        self._changed = threading.Condition()

    def __call__(self, place):
        with self._changed:
            self.saved.append(place)
            self.threads.add(threading.current_thread().name)
            self._changed.notify_all()
        if place in self.errors:
            raise self.errors[place]
        return 1

    def wait_for(self, place, times):
        with self._changed:
            assert self._changed.wait_for(lambda: self.saved.count(place) >= times, 20)


@pytest.fixture
def copier():
    return Copier()


def test_every_partition_is_copied_again_and_again(copier):
    """In a thread of its own, one at a time."""
    backups = Backups(lambda: PLACES, copier, period_s=0.001)
    copier.wait_for(PLACES[2], 3)
    assert copier.threads == {"hof-backup"}
    backups.stop()
    assert copier.saved == PLACES * (len(copier.saved) // 3)


def test_nothing_is_copied_before_its_time(copier):
    backups = Backups(lambda: PLACES, copier, period_s=NEVER_S)
    assert copier.saved == []
    backups.stop()
    assert PERIOD_S == 60


def test_the_last_copy_comes_at_the_end(copier):
    """It has what came since the one before; and none comes after it."""
    backups = Backups(lambda: PLACES, copier, period_s=NEVER_S)
    backups.stop()
    assert copier.saved == PLACES
    assert [thread.name for thread in threading.enumerate()].count("hof-backup") == 0


@pytest.mark.parametrize(
    "error", [BackupUnavailable("gone"), OSError(28, "No space left"), LookupError("a bug")]
)
def test_a_copy_that_fails_stops_neither_the_others_nor_the_next(copier, error):
    """Whatever it is: without its thread there would be no copies, and nobody would know."""
    copier.errors = {PLACES[0]: error, PLACES[2]: error}
    with structlog.testing.capture_logs() as told:
        backups = Backups(lambda: PLACES, copier, period_s=0.001)
        copier.wait_for(PLACES[1], 3)
        copier.errors = {}
        backups.stop()
    assert copier.saved[-3:] == PLACES
    failed = [event for event in told if event["event"] == "backup_failed"]
    assert {(event["topic"], event["partition"]) for event in failed} == {
        ("hof.in.g.1", 0), ("hof.in.g.1", 2),
    }  # fmt: skip
    assert all(event["log_level"] == "warning" and event["error"] for event in failed)


def test_what_is_copied_is_what_is_ours_then(copier):
    """Also where a partition goes or comes during a round."""
    ours = [PLACES[0], PLACES[1]]

    def save(place):
        ours[:] = [PLACES[2]]
        return copier(place)

    backups = Backups(lambda: ours, save, period_s=NEVER_S)
    backups._save_all()
    assert copier.saved == [PLACES[0], PLACES[1]]
    backups.stop()
    assert copier.saved[2:] == [PLACES[2]]


def test_the_end_waits_for_a_copy_that_is_being_taken(copier):
    """Two at one time would be two writers."""
    begun, go_on, inside = threading.Event(), threading.Event(), []

    def save(place):
        inside.append(place)
        assert len(inside) == 1
        begun.set()
        assert go_on.wait(20)
        inside.clear()
        return copier(place)

    backups = Backups(lambda: PLACES[:1], save, period_s=0.001)
    assert begun.wait(20)
    stopping = threading.Thread(target=backups.stop)
    stopping.start()
    stopping.join(0.05)
    assert stopping.is_alive()
    go_on.set()
    stopping.join(20)
    assert not stopping.is_alive()
    assert len(copier.saved) == 2
