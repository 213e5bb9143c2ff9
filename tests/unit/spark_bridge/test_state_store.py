"""Whose a partition's state is, how far it came, and which record it died of."""

import fcntl
import os
import struct
import threading
from contextlib import closing
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hofflight.errors import LogCorrupt, StoreFormat, StoreLocked
from hofflight.spark_bridge.state_store import Mark, StateStore, boot, marked


class FakeState:
    """State that only knows up to where its log was when it was opened."""

    def __init__(self, logged=-1):
        self.logged = logged
        self.is_abandoned = False

    def abandon(self):
        self.is_abandoned = True


class Opening:
    """Opens states, and remembers them."""

    def __init__(self):
        self.logged = -1
        self.states = []

    def __call__(self):
        self.states.append(FakeState(self.logged))
        return self.states[-1]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "mark"


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    """Paths for many examples."""
    directory = tmp_path_factory.mktemp("marks")
    return (directory / str(number) for number in count())


def opened(path):
    return closing(Mark(path))


def dies(path, first, last, logged=-1):
    """A process dies while it works these records; another one takes over."""
    with opened(path) as mark:
        mark.begin(first, last)
    with opened(path) as mark:
        mark.took_over(logged)


def works(path, first, last):
    with opened(path) as mark:
        mark.begin(first, last)
        mark.finish(0, 0)


# --- the mark -------------------------------------------------------------------------------------


def test_a_new_mark_says_nothing(path):
    with opened(path) as mark:
        assert (mark.next, mark.generation, mark.number, mark.rows) == (0, 0, 0, 0)
        assert mark.alone_until == -1
        assert not mark.is_deadly(0)


def test_what_was_finished_is_there_for_the_next_process(path):
    with opened(path) as mark:
        mark.begin(5, 9)
        mark.finish(12, 34)
        mark.begin(10, 10)
        mark.finish(13, 6)
    with opened(path) as mark:
        assert (mark.next, mark.number, mark.rows) == (11, 13, 40)


def test_records_that_come_again_do_not_put_it_back(path):
    works(path, 0, 20)
    works(path, 3, 5)
    with opened(path) as mark:
        assert mark.next == 21


def test_a_record_that_ended_two_processes_alone_is_deadly(path):
    """The first time it may have been chance."""
    dies(path, 7, 7)
    with opened(path) as mark:
        assert not mark.is_deadly(7)
        assert mark.alone_until == 7
    dies(path, 7, 7)
    with opened(path) as mark:
        assert mark.is_deadly(7)
        assert not mark.is_deadly(6)


def test_of_several_records_nobody_knows_which_it_was(path):
    """They are worked one by one from then on; the one of them that does it again has two tries."""
    for _ in range(3):
        dies(path, 4, 9)
    with opened(path) as mark:
        assert mark.alone_until == 9
        assert not any(map(mark.is_deadly, range(20)))


def test_records_that_come_again_before_it_do_not_wash_it_clean(path):
    """A task begins at its trigger's first record, however far the one before it came."""
    for _ in range(2):
        for offset in range(4):
            works(path, offset, offset)
        dies(path, 4, 4, logged=3)
    with opened(path) as mark:
        assert mark.is_deadly(4)


def test_two_deadly_records_of_a_trigger_do_not_hide_each_other(path):
    """Peeks are in no log: what is known of them is the mark's."""
    for offset in (3, 6):
        for _ in range(2):
            dies(path, offset, offset)
            works(path, 0, 0)
    with opened(path) as mark:
        assert [n for n in range(10) if mark.is_deadly(n)] == [3, 6]
        assert mark.alone_until == 6


def test_a_record_that_went_well_after_a_death_begins_anew(path):
    dies(path, 7, 7)
    works(path, 7, 7)
    dies(path, 7, 7)
    with opened(path) as mark:
        assert not mark.is_deadly(7)


def test_a_deadly_record_stays_so_when_it_was_skipped(path):
    """It may come again, in a later task of its trigger."""
    dies(path, 7, 7)
    dies(path, 7, 7)
    works(path, 7, 7)
    with opened(path) as mark:
        assert mark.is_deadly(7)


def test_a_death_after_the_log_has_the_record_is_none_of_it(path):
    """Its rows are counted: it comes out of the log."""
    dies(path, 7, 7, logged=7)
    dies(path, 7, 7, logged=7)
    with opened(path) as mark:
        assert not mark.is_deadly(7)
        assert mark.next == 8


def test_an_error_is_no_death(path):
    """A full disk is not the record's fault, however often it is tried."""
    for _ in range(5):
        with opened(path) as mark:
            mark.begin(7, 7)
            mark.give_up()
        with opened(path) as mark:
            mark.took_over(-1)
            assert mark.next == 0
    with opened(path) as mark:
        assert not mark.is_deadly(7)
        assert mark.alone_until == -1


def test_a_death_counts_once_however_often_it_is_opened(path):
    """Workers come and go without any record."""
    dies(path, 7, 7)
    for _ in range(5):
        with opened(path) as mark:
            mark.took_over(-1)
    with opened(path) as mark:
        assert not mark.is_deadly(7)


def test_it_remembers_the_newest_suspects_only(path):
    for offset in range(50):
        for _ in range(2):
            dies(path, offset, offset)
    with opened(path) as mark:
        assert [n for n in range(50) if mark.is_deadly(n)] == [46, 47, 48, 49]


@given(st.lists(st.tuples(st.sampled_from("dwg"), st.integers(0, 6), st.integers(0, 2)),
                max_size=30))  # fmt: skip
def test_exactly_what_died_twice_in_a_row_is_deadly(several, events):
    """Whatever else was worked, given up, or died in between."""
    path = next(several)
    in_a_row = {}
    for what, first, more in events:
        last = first + more
        if what == "d":
            dies(path, first, last)
        elif what == "w":
            works(path, first, last)
        else:
            with opened(path) as mark:
                mark.begin(first, last)
                mark.give_up()
        if what == "d" and not more:
            in_a_row[first] = in_a_row.pop(first, 0) + 1
            in_a_row = dict(list(in_a_row.items())[-4:])
        elif what == "w" and not more and in_a_row.get(first, 0) < 2:
            in_a_row.pop(first, None)
    with opened(path) as mark:
        deadly = {n for n in range(10) if mark.is_deadly(n)}
        assert deadly == {n for n, deaths in in_a_row.items() if deaths >= 2}
        if deadly:
            assert mark.alone_until >= max(deadly)


def test_after_another_start_of_the_machine_only_the_log_says_how_far_it_came(path):
    """What the page cache had is gone, of mark and log alike."""
    works(path, 0, 99)
    data = bytearray(path.read_bytes())
    this = struct.pack("<q", boot())
    assert data.count(this) == 1
    path.write_bytes(data.replace(this, struct.pack("<q", boot() + 1)))
    with opened(path) as mark:
        assert mark.next == 0
        mark.took_over(41)
        assert mark.next == 42
    with opened(path) as mark:
        assert mark.next == 42


@pytest.mark.parametrize("size", [0, 1, 8, 100])
def test_a_mark_that_a_crash_left_empty_is_a_new_one(path, size):
    path.write_bytes(bytes(size))
    with opened(path) as mark:
        assert mark.next == 0
        assert mark.alone_until == -1


@pytest.mark.parametrize("data", [b"HOFMARK0" + bytes(200), b"{}", b"junk" * 100])
def test_a_mark_of_another_format_is_refused_with_what_to_do(path, data):
    """And is left as it is."""
    path.write_bytes(data)
    with pytest.raises(StoreFormat, match=r"HOF-503.*mark is not of this release.*delete it"):
        Mark(path)
    assert path.read_bytes().startswith(data)


def test_a_mark_is_read_beside_its_writer(path):
    """By whoever watches, in another process."""
    with opened(path) as writer, opened(path) as reader:
        writer.begin(0, 4)
        writer.finish(5, 6)
        assert reader.next == 0
    with opened(path) as reader:
        assert (reader.next, reader.number, reader.rows) == (5, 5, 6)


def test_of_a_log_that_nobody_worked_there_is_no_mark(tmp_path):
    """And asking makes none."""
    for directory in (tmp_path, tmp_path / "none"):
        assert marked(directory) is None
    assert list(tmp_path.iterdir()) == []


def test_the_mark_of_a_log_is_what_it_was_when_asked(path):
    works(path, 0, 4)
    before = marked(path.parent)
    works(path, 5, 9)
    assert (before.next, marked(path.parent).next) == (5, 10)


# --- who holds it ---------------------------------------------------------------------------------


def test_state_stays_in_memory_from_task_to_task(tmp_path):
    opening = Opening()
    store = StateStore(tmp_path / "log", opening)
    for _ in range(3):
        with store.held() as (state, mark):
            assert mark.generation == 1
    assert opening.states == [state]
    assert not state.is_abandoned


def test_state_that_another_process_left_behind_is_opened_anew(tmp_path):
    """Its log has entries that this memory has not."""
    mine, others = Opening(), Opening()
    here, there = StateStore(tmp_path, mine), StateStore(tmp_path, others)
    with here.held():
        pass
    with there.held():
        pass
    mine.logged = 17
    with here.held() as (state, mark):
        assert state is mine.states[1]
        assert mark.next == 18
        assert mark.generation == 3
    assert mine.states[0].is_abandoned
    assert not others.states[0].is_abandoned


def test_an_error_of_a_task_costs_the_state_in_memory(tmp_path):
    """After a full disk or a hung function it would refuse everything."""
    opening = Opening()
    store = StateStore(tmp_path, opening)
    with pytest.raises(RuntimeError), store.held():
        raise RuntimeError
    with store.held() as (state, _):
        assert state is opening.states[1]
    assert [one.is_abandoned for one in opening.states] == [True, False]


def test_a_task_that_is_cut_off_between_two_batches_costs_nothing(tmp_path):
    """Spark closes the generator: everything that was begun is finished."""
    opening = Opening()
    store = StateStore(tmp_path, opening)

    def task():
        with store.held():
            yield

    generator = task()
    next(generator)
    generator.close()
    with store.held():
        pass
    assert len(opening.states) == 1


def test_a_second_task_waits_for_the_first(tmp_path):
    """A worker that was killed, or one that finishes its trigger, lets go in a moment."""
    first = StateStore(tmp_path, Opening())
    second = StateStore(tmp_path, Opening(), patience_s=20)
    came = threading.Event()

    def other():
        with second.held():
            came.set()

    with first.held():
        thread = threading.Thread(target=other)
        thread.start()
        assert not came.wait(0.1)
    assert came.wait(20)
    thread.join()


def test_a_task_does_not_wait_for_ever(tmp_path):
    """Two queries on one partition are somebody's mistake. Nothing is opened, nothing is lost."""
    first, opening = StateStore(tmp_path, Opening()), Opening()
    second = StateStore(tmp_path, opening, patience_s=0.05)
    with first.held() as (_, mark):
        with pytest.raises(StoreLocked, match=r"HOF-501.*another task works the log"):
            second.held().__enter__()
        assert opening.states == []
        assert mark.generation == 1
    with second.held():
        assert len(opening.states) == 1


def test_the_lock_dies_with_whoever_holds_it(tmp_path):
    """As the kernel lets go of it."""
    fd = os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(fd, fcntl.LOCK_EX)
    store = StateStore(tmp_path, Opening(), patience_s=0)
    with pytest.raises(StoreLocked):
        store.held().__enter__()
    os.close(fd)
    with store.held():
        pass


@pytest.mark.parametrize("what", ["mark", "state"])
def test_what_does_not_open_holds_no_lock(tmp_path, what):
    """Or the next try would be told of a second query that there is not."""
    is_bad = True

    def open_state():
        if is_bad and what == "state":
            raise LogCorrupt("a segment is damaged")
        return FakeState()

    if what == "mark":
        (tmp_path / "mark").write_bytes(b"HOFMARK0" + bytes(200))
    store = StateStore(tmp_path, open_state, patience_s=0)
    for _ in range(2):
        with pytest.raises((LogCorrupt, StoreFormat)):
            store.held().__enter__()
    is_bad = False
    (tmp_path / "mark").unlink()
    with store.held() as (_, mark):
        assert mark.generation == 1


def test_a_log_that_does_not_open_makes_no_record_deadly(tmp_path):
    """Nobody tried it."""
    dies(tmp_path / "mark", 7, 7)

    def open_state():
        raise LogCorrupt("a segment is damaged")

    store = StateStore(tmp_path, open_state)
    for _ in range(4):
        with pytest.raises(LogCorrupt):
            store.held().__enter__()
    with opened(tmp_path / "mark") as mark:
        assert not mark.is_deadly(7)
