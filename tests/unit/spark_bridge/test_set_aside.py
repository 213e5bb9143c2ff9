"""A log that another host went on with: its copy takes its place, and what was here is kept."""

import shutil

import pytest
from structlog.testing import capture_logs

from hofflight.errors import BackupUnavailable, StoreFormat
from hofflight.eventlog.backup_files import origin_of
from hofflight.eventlog.local import LogReader
from tests.unit.spark_bridge.survivors import PLACES, is_locked, spoil

P0, _, _ = PLACES
FILES = {
    "snapshots/g.1/v1-0000000000000000003.snap": b"windows",
    "sealed/g.1/manifest.json": b"{}",
    "sealed/g.1/version=1/day=2026-01-01/1-3.parquet": b"rows",
}


def put(survivor, prefix=b""):
    for name, data in FILES.items():
        path = survivor.holdings.store(P0).path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(prefix + data)


def worked(shared, store, count, *, backups=True, size=40, files=b""):
    """A host that works the partition for so many records, copies that and ends; gives it."""
    one = shared.survivor(store, backups=backups)
    one.start(P0)
    one.write(P0, count, size=size)
    put(one, files)
    if backups:
        one.holdings.save(P0)
    one.stop()
    return one


def begun(shared, store):
    """A host that begins with the partition; gives it, and what it said of that."""
    one = shared.survivor(store)
    with capture_logs() as told:
        one.start(P0)
    return one, [event["event"] for event in told]


def aside(survivor, name="g.1-5"):
    """What was put aside there: numbers of the log, and files."""
    path = survivor.holdings.store(P0).path / "aside" / name
    numbers = [meta.number for _, meta in LogReader(path / "log" / "g.1").read_meta()]
    return numbers, {name: (path / name).read_bytes() for name in FILES}


def brought_here(survivor):
    path = survivor.holdings.store(P0).path
    return {name: (path / name).read_bytes() for name in FILES}


def test_who_comes_back_with_an_older_log_goes_on_from_the_further_copy(shared):
    """And copies go on from there: what was answered meanwhile is answered alike."""
    worked(shared, "a", 5)
    worked(shared, "b", 3, size=90, files=b"newer ")
    again, told = begun(shared, "a")
    assert told == ["set_aside", "restored"]
    assert (again.logged(P0), again.begins(P0)) == (list(range(1, 9)), 8)
    assert brought_here(again) == {name: b"newer " + data for name, data in FILES.items()}

    again.write(P0, 2)
    assert again.holdings.save(P0) > 0
    again.stop()
    fourth, _ = begun(shared, "d")
    assert (fourth.logged(P0), fourth.begins(P0)) == (list(range(1, 11)), 10)


def test_the_older_log_is_kept_whole_with_its_snapshots_and_sealed_files(shared):
    worked(shared, "a", 5)
    worked(shared, "b", 3, files=b"newer ")
    again, _ = begun(shared, "a")
    assert aside(again) == ([1, 2, 3, 4, 5], FILES)
    with capture_logs() as told:
        again.stop()
        begun(shared, "a")
    assert told == []  # once


def test_what_was_put_aside_is_said_with_both_offsets(shared):
    worked(shared, "a", 5)
    worked(shared, "b", 3)
    with capture_logs() as told:
        shared.survivor("a").start(P0)
    assert told[0] == {
        "event": "set_aside", "log_level": "warning", "topic": P0.topic, "partition": 0,
        "next": 5, "copy": 8,
    }  # fmt: skip


@pytest.mark.parametrize("more", [0, 1, 7])
def test_a_log_that_is_as_far_as_its_copy_is_kept(shared, more):
    """It has what came after the last copy."""
    one = worked(shared, "a", 5)
    one.write(P0, more)
    again, told = begun(shared, "a")
    assert told == []
    assert again.logged(P0) == list(range(1, 6 + more))
    assert not (again.holdings.store(P0).path / "aside").exists()


def test_how_far_a_log_is_is_asked_of_the_topic_too(shared):
    """The last records had no entry: its mark knows more than its entries."""
    worked(shared, "a", 5)
    worked(shared, "b", 3)
    again = shared.survivor("a")
    asked = []
    again.holdings._next_offset = lambda log: asked.append(log) or 8
    again.start(P0)
    assert asked == [again.holdings.log(P0)]
    assert again.logged(P0) == [1, 2, 3, 4, 5]


# --- another log ----------------------------------------------------------------------------------


@pytest.mark.parametrize("is_copied", [False, True])
def test_another_log_does_not_take_the_place_of_the_one_that_is_here(shared, is_copied):
    """A host that began anew, since it could not reach the copies: its windows are others."""
    mine = worked(shared, "a", 2, backups=is_copied)
    shutil.rmtree(mine.copies, ignore_errors=True)
    worked(shared, "b", 7, size=90)
    again, told = begun(shared, "a")
    assert told == []
    assert (again.logged(P0), brought_here(again)) == ([1, 2], FILES)
    assert not (again.holdings.store(P0).path / "aside").exists()


def test_where_there_is_neither_log_nor_copy_it_is_said_that_all_begins_anew(shared):
    """Windows are empty until the topic filled them: loud, since it may be a wrong address."""
    with capture_logs() as told:
        shared.survivor("a").start(P0)
    said = {"event": "new_store", "log_level": "warning", "topic": P0.topic, "partition": 0}
    assert told == [said]


def test_a_log_that_was_never_copied_begins_a_history_of_its_own(shared):
    """Where there is nothing yet, as with a first `--checkpoint`."""
    worked(shared, "a", 2, backups=False)
    again, told = begun(shared, "a")
    assert told == []
    assert again.holdings.save(P0) > 0
    again.stop()
    heir, told = begun(shared, "b")
    assert told == ["restored"]
    assert heir.logged(P0) == [1, 2]
    assert origin_of(heir.holdings.log(P0)) == origin_of(again.holdings.log(P0))


def test_a_log_whose_origin_is_damaged_is_not_taken_for_another(shared):
    """Else its host would go on beside its own copy, for good."""
    one = worked(shared, "a", 5)
    path = one.holdings.log(P0) / "origin.json"
    path.write_bytes(b"{")
    again = shared.survivor("a")
    with pytest.raises(StoreFormat, match=r"HOF-503: origin.json of g.1 is damaged.*delete it"):
        again.start(P0)
    assert not is_locked(again, P0)
    path.unlink()
    again.start(P0)
    assert again.logged(P0) == [1, 2, 3, 4, 5]


# --- what fails -----------------------------------------------------------------------------------


def test_where_the_copies_are_out_of_reach_nothing_is_put_aside(shared):
    """Nor begun: another host may be further."""
    one = worked(shared, "a", 5)
    worked(shared, "b", 3)
    spoil(one.copies, "away")
    again = shared.survivor("a")
    with pytest.raises(BackupUnavailable, match="HOF-516"):
        again.start(P0)
    assert again.logged(P0) == [1, 2, 3, 4, 5]
    assert not is_locked(again, P0)


def test_an_older_log_is_put_aside_as_often_as_it_is_all_that_can_be_brought(shared):
    """The further copy lost a piece: what is restored is the one before it, each time."""
    one = worked(shared, "a", 5)
    known = set(one.copies.glob("**/objects/*"))
    worked(shared, "b", 3)
    for path in set(one.copies.glob("**/objects/*")) - known:
        path.unlink()
    for name in ("g.1-5", "g.1-5+", "g.1-5++"):
        again, told = begun(shared, "a")
        assert told == ["set_aside", "copy_passed_over", "restored"]
        assert (again.logged(P0), again.begins(P0)) == ([1, 2, 3, 4, 5], 5)
        assert aside(again, name) == ([1, 2, 3, 4, 5], FILES)
        again.die()
