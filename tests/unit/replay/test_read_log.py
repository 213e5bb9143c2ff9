"""A history reads the same whether its rows are sealed or live, and beside whoever changes that."""

import threading
import time
from itertools import pairwise

import pytest

from hofflight.errors import HistoryMissing
from hofflight.eventlog.local import LogReader
from hofflight.replay.read_log import History


def test_a_live_log_reads_as_it_was_written(store, live, replayed):
    """Every column type, list, null, late and overflow mark, in both versions."""
    rows = live(store)

    assert len(rows) == 25
    assert any("'_late': True" in row for row in rows)
    assert any("'_overflow': ['total']" in row for row in rows)
    assert any("'_answered': False" in row for row in rows)
    assert replayed(store.history) == rows


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("rows_max", [1, 4, 1_000])
def test_a_sealed_log_reads_as_the_live_one_did(store, live, replayed, rows_max, version):
    """Answers included, in parts of any size."""
    rows, answered = live(store), live(store, answers=version)
    store.seal(rows_max=rows_max)

    assert replayed(store.history) == rows
    assert replayed(store.history, answers=version) == answered
    assert list(store.log.read(store.sealed.manifest().sealed_to)) == []


def test_a_log_of_which_some_is_sealed_reads_as_one(store, live, replayed, send):
    """Sealed twice, with more after it: nothing twice, nothing missing."""
    store.seal()
    send(store.app, 100)
    store.seal(rows_max=5)
    send(store.app, 200)

    assert replayed(store.history, answers=1) == live(store, answers=1)
    assert len(live(store)) == 75


def test_a_range_of_records_is_read_alone(store, live, replayed, send):
    """Whatever seals it crosses."""
    store.seal(rows_max=4)
    send(store.app, 100)
    rows = [(int(row.split("'_seq': ")[1].split(",")[0]) >> 20, row) for row in live(store)]
    end = store.log.last_number()

    for after in range(0, end, 3):
        for last in {after, after + 1, min(after + 7, end), end}:
            expected = [row for number, row in rows if after < number <= last]
            assert replayed(store.history, after, last) == expected


def test_ranges_follow_each_other_and_cover_everything(store, send):
    """A seal's stretch each, then of a given number of records."""
    store.seal(rows_max=4)
    send(store.app, 100)
    ranges = list(store.history.ranges(records=5))

    assert ranges[0][0] == 0
    assert ranges[-1][1] == store.log.last_number()
    assert all(before[1] == after[0] for before, after in pairwise(ranges))


@pytest.mark.parametrize("rows_max", [1, 3, 1_000])
def test_parts_are_whole_requests(store, rows_max):
    """Whoever judges request by request can judge part by part."""
    store.seal(rows_max=rows_max)
    seen = set()
    for part in store.history.parts():
        numbers = {seq >> 20 for seq in part.rows.column("_seq").to_pylist()}
        assert not numbers & seen
        seen |= numbers


def test_voids_are_known_sealed_and_live(store, void):
    """Which record, whose, why; and never a row of them."""
    last = store.log.last_number()
    before = list(store.history.voids(0, last))
    store.seal(rows_max=4)

    assert list(store.history.voids(0, last)) == before
    assert before
    number = before[0].number
    assert [v.number for v in store.history.voids(number - 1, number)] == [number]
    assert number not in [v.number for v in store.history.voids(number, last)]


def test_the_extent_counts_what_is_there(store, live):
    """Sealed and live rows; a seal changes neither number."""
    last = store.log.last_number()
    assert store.history.extent().last == last
    assert store.history.unsealed_rows() >= len(live(store))
    store.seal()
    assert store.history.extent() == (last, len(live(store)))
    assert store.history.unsealed_rows() == 0


def test_columns_are_chosen(store):
    """What nobody asks for is not read."""
    for step in (lambda: None, store.seal):
        step()
        for part in store.history.parts(about=("_seq", "_row")):
            assert part.rows.schema.names == ["_seq", "_row", *store.history.raw.names]


class TrimmedBetween:
    """A live log that is sealed and trimmed after it was listed, before a segment is opened."""

    def __init__(self, store):
        self._store = store
        self._reader = LogReader(store.log.directory)
        self.left = 1

    def segments(self):
        return self._reader.segments()

    def _seal_and_trim(self):
        if self.left:
            self.left -= 1
            self._store.seal()
            for _, _, path in self._store.log.segments()[:-1]:
                path.unlink()

    def _meanwhile(self, entries, after):
        # A reader lists its segments before its first entry: here it has, and not opened them all.
        for count, found in enumerate(entries):
            if count == 3:
                self._seal_and_trim()
            yield found

    def read(self, after=0):
        return self._meanwhile(self._reader.read(after), after)

    def read_meta(self, after=0):
        return self._meanwhile(self._reader.read_meta(after), after)


def test_reading_goes_on_where_a_trim_took_segments_away(small_segments, live, replayed):
    """They are sealed by then: every row is read once."""
    store = small_segments
    rows = live(store)
    history = store.history
    trimmed = History(TrimmedBetween(store), history.sealed, history.raw, {})
    last = store.log.last_number()

    assert replayed(trimmed, 0, last) == rows


def test_looking_how_far_it_goes_survives_a_trim(small_segments):
    """The number of records and rows is the same before, while and after it."""
    store = small_segments
    history = store.history
    expected = history.extent().last
    trimmed = History(TrimmedBetween(store), history.sealed, history.raw, {})

    assert trimmed.extent().last == expected
    assert trimmed.extent() == history.extent()


def test_counting_survives_a_trim(small_segments):
    """What was live is sealed by then: nothing is counted twice, and nothing is missed."""
    store = small_segments
    history = store.history
    before = history.counts()
    after = History(TrimmedBetween(store), history.sealed, history.raw, {}).counts()

    assert before.live_rows
    assert before.voids
    assert not before.sealed_rows
    assert (after.last, after.voids) == (before.last, before.voids)
    assert (after.sealed_rows, after.live_rows) == (before.live_rows, 0)
    assert after.sealed_bytes == sum(file.bytes for file in history.sealed.manifest().files)


def test_voids_are_not_lost_to_a_trim(small_segments):
    """They moved to the sealed part meanwhile."""
    store = small_segments
    history = store.history
    last = history.extent().last
    expected = list(history.voids(0, last))
    trimmed = History(TrimmedBetween(store), history.sealed, history.raw, {})

    assert expected
    assert list(trimmed.voids(0, last)) == expected


@pytest.fixture
def small_segments(open_store, send):
    """A store whose log has many segments, smaller than settings allow."""
    store = open_store()
    log = store.log
    log._settings = log._settings.model_copy(update={"segment_bytes_max": 4_000})
    for start in range(0, 500, 100):
        send(store.app, start)
    assert len(log.segments()) > 5
    return store


def test_what_is_neither_in_the_log_nor_sealed_is_missed(small_segments, replayed):
    """A segment that somebody deleted is no shorter history."""
    store = small_segments
    store.log.segments()[0][2].unlink()

    with pytest.raises(HistoryMissing, match=r"record 1 of g\.1"):
        replayed(store.history)


def test_a_history_is_read_while_a_writer_writes_and_another_seals(store, live, replayed, row):
    """Each look is a true prefix of what there is in the end."""
    stop = threading.Event()

    def write():
        number = 1_000
        while not stop.is_set():
            store.app.vector("g", row(number), version=1)
            number += 1
            time.sleep(0.002)  # a seal goes on for as long as the log grows faster than it works

    writer = threading.Thread(target=write)
    writer.start()
    looks = []
    try:
        for _ in range(6):
            store.seal(rows_max=40)
            looks.append(replayed(store.history, answers=1))
    finally:
        stop.set()
        writer.join()

    rows = live(store, answers=1)
    assert len(looks[-1]) > len(looks[0])
    for look in looks:
        assert look == rows[: len(look)]
