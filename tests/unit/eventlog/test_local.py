"""The log on disk: what was appended is read back, and damage is cut off or named, never served."""

import threading
from pathlib import Path

import pytest

from hofflight.errors import LogCorrupt, StorageFailed
from hofflight.eventlog.frames import MAGIC, frames_of
from hofflight.eventlog.local import LogReader


def numbers(log, after=0):
    return [entry.meta.number for _, entry in log.read(after)]


def fill(log, entry, count, start=1):
    """Append entries one by one; their positions."""
    return [log.append([entry(number)])[0] for number in range(start, start + count)]


def the_segment(log):
    [(_, _, path)] = log.segments()
    return path


def test_entries_come_back_as_they_were_appended(open_log, entry):
    """Every part of every entry, in order, with positions that find it again."""
    log = open_log()
    entries = [entry(1), entry(2, size=0), entry(3, code="HOF-205"), entry(4, size=100_000)]
    positions = log.append(entries[:2]) + log.append(entries[2:])

    assert list(log.read()) == list(zip(positions, entries, strict=True))
    assert [log.entry_at(position) for position in reversed(positions)] == entries[::-1]
    assert list(log.read_meta()) == [(p, e.meta) for p, e in zip(positions, entries, strict=True)]
    assert log.last_number() == 4


def test_reading_goes_on_after_a_number(open_log, entry):
    """What a restart from a snapshot needs: only what came after it."""
    log = open_log(segment_bytes=500)
    fill(log, entry, 30)

    for after in (0, 1, 7, 29, 30, 99):
        assert numbers(log, after) == list(range(after + 1, 31))
        assert [m.number for _, m in log.read_meta(after)] == list(range(after + 1, 31))


def test_a_log_is_followed_from_a_position(open_log, entry):
    """What came behind it, in this segment and the next ones, heads of before included."""
    log = open_log(segment_bytes=500)
    assert list(log.read_on()) == []
    fill(log, entry, 30)
    everything = list(log.read_on())

    assert everything == list(log.read())
    for place, (position, _) in enumerate(everything):
        assert list(log.read_on(position)) == everything[place + 1 :]
    fill(log, entry, 5, start=31)
    assert [e.meta.number for _, e in log.read_on(everything[-1][0])] == [31, 32, 33, 34, 35]


def test_a_reopened_log_goes_on_where_it_ended(open_log, entry):
    """Numbers and positions continue, after a clean close and after none."""
    first = open_log()
    positions = fill(first, entry, 3)
    first.close()
    second = open_log()
    positions += fill(second, entry, 3, start=4)
    third = open_log()  # the second one was never closed: the process died

    assert third.last_number() == 6
    assert [third.entry_at(p).meta.number for p in positions] == [1, 2, 3, 4, 5, 6]
    assert numbers(third) == [1, 2, 3, 4, 5, 6]


def test_small_segments_rotate_and_read_as_one_log(open_log, entry):
    """A segment's name says where it begins; positions stay valid across all of them."""
    log = open_log(segment_bytes=1_000)
    positions = fill(log, entry, 50)
    segments = log.segments()

    assert len(segments) > 5
    assert numbers(log) == list(range(1, 51))
    assert [log.entry_at(p).meta.number for p in positions] == list(range(1, 51))
    firsts = [next(iter(LogReaderOf(path))) for _, _, path in segments]
    assert firsts == [first for _, first, _ in segments]
    assert numbers(open_log(segment_bytes=1_000)) == list(range(1, 51))


class LogReaderOf:
    """Numbers of the entries in one segment file."""

    def __init__(self, path):
        self.path = path

    def __iter__(self):
        from hofflight.eventlog.frames import decode_meta

        frames = [f for f in frames_of(self.path) if f.is_entry]
        return iter([decode_meta(f.payload).number for f in frames])


def end_of(path):
    """Where the last whole frame ends; after it comes only room kept free."""
    return max(frame.end for frame in frames_of(path))


def test_a_tail_torn_at_any_byte_is_cut_off(open_log, entry, tmp_path):
    """A crash in the middle of a write: everything before it is there, and writing goes on."""
    log = open_log()
    fill(log, entry, 4)
    path = the_segment(log)
    *_, before, last = frames_of(path)
    data = path.read_bytes()
    for cut in range(before.end, last.end):
        copy = tmp_path / f"cut{cut}"
        copy.mkdir()
        (copy / path.name).write_bytes(data[:cut] + bytes(50))
        recovered = open_log(directory=copy)

        assert numbers(recovered) == [1, 2, 3], cut
        assert recovered.last_number() == 3
        position = recovered.append([entry(4, size=9)])[0]
        assert recovered.entry_at(position) == entry(4, size=9)
        assert numbers(LogReader(copy)) == [1, 2, 3, 4]


def test_what_is_cut_off_is_kept_aside(open_log, entry):
    """Evidence is never thrown away: the torn bytes stand in a file beside the segment."""
    log = open_log()
    fill(log, entry, 2)
    log.close()
    path = the_segment(log)
    *_, last = frames_of(path)
    torn = path.read_bytes()[last.offset : last.end - 1]
    path.write_bytes(path.read_bytes()[: last.end - 1])
    open_log()

    aside = [p for p in path.parent.iterdir() if ".torn-" in p.name]
    assert [p.read_bytes() for p in aside] == [torn.rstrip(b"\0")]
    assert numbers(LogReader(path.parent)) == [1]


def test_no_flipped_bit_is_ever_read_as_an_entry(open_log, entry, tmp_path):
    """Each bit of the last frame in turn: the entry is gone or it is the entry that was written."""
    log = open_log()
    fill(log, entry, 3)
    path = the_segment(log)
    expected = [e for _, e in log.read()]
    *_, last = frames_of(path)
    data = path.read_bytes()[: last.end + 16]
    copy = tmp_path / "flipped"
    copy.mkdir()
    for at in range(last.offset, last.end):
        for bit in (0, 3, 7):
            changed = bytearray(data)
            changed[at] ^= 1 << bit
            (copy / path.name).write_bytes(changed)

            assert [e for _, e in LogReader(copy).read()] == expected[:2], (at, bit)


@pytest.mark.parametrize("where", ["first frame", "last frame", "a byte short"])
def test_damage_before_the_last_segment_is_refused_and_named(open_log, entry, where):
    """Only the end of a log may be torn; a hole in the middle would be rows that never were."""
    log = open_log(segment_bytes=1_000)
    fill(log, entry, 50)
    log.close()
    _, _, path = log.segments()[2]
    data = bytearray(path.read_bytes())
    if where == "a byte short":
        del data[-1]
    else:
        data[{"first frame": len(MAGIC) + 9, "last frame": len(data) - 1}[where]] ^= 1
    path.write_bytes(data)

    with pytest.raises(LogCorrupt, match=rf"HOF-502.*{path.name}.*damaged at byte"):
        numbers(LogReader(path.parent))
    untouched = log.segments()[4][1]
    assert numbers(LogReader(path.parent), after=untouched - 1)[0] == untouched


def test_room_kept_free_in_an_earlier_segment_is_no_damage(open_log, entry):
    """A process killed between making a segment and closing the one before leaves both open."""
    log = open_log(segment_bytes=1_000)
    fill(log, entry, 50)
    log.close()
    _, _, path = log.segments()[2]
    path.write_bytes(path.read_bytes() + bytes(4_096))

    assert numbers(LogReader(path.parent)) == list(range(1, 51))
    assert numbers(open_log(segment_bytes=1_000)) == list(range(1, 51))


def test_a_missing_segment_is_refused_and_named(open_log, entry):
    """Entries that are not there must not look like entries that never were."""
    log = open_log(segment_bytes=1_000)
    fill(log, entry, 50)
    log.close()
    _, _, path = log.segments()[2]
    path.unlink()

    with pytest.raises(LogCorrupt, match="HOF-502"):
        numbers(LogReader(path.parent))


@pytest.mark.parametrize("content", [b"", MAGIC[:1], MAGIC[:-1], MAGIC, MAGIC + bytes(4_096)])
def test_a_segment_without_an_entry_is_an_empty_one(open_log, entry, content):
    """A crash right after a segment was made."""
    log = open_log()
    fill(log, entry, 2)
    log.close()
    directory = log.directory
    (directory / f"{2:08d}-{3:019d}.log").write_bytes(content)

    assert numbers(LogReader(directory)) == [1, 2]
    again = open_log()
    assert again.last_number() == 2
    again.append([entry(3)])
    assert numbers(LogReader(directory)) == [1, 2, 3]


def test_a_foreign_file_in_place_of_a_segment_is_refused(open_log, entry):
    """Another format, or another release's, is not read as if it were ours."""
    log = open_log()
    fill(log, entry, 1)
    log.close()
    path = the_segment(log)
    path.write_bytes(b"HOFLOG9\n" + path.read_bytes()[8:])

    with pytest.raises(LogCorrupt, match=rf"HOF-502.*{path.name}.*not a log segment"):
        numbers(LogReader(log.directory))
    with pytest.raises(LogCorrupt, match="not a log segment"):
        open_log()


def test_a_reader_beside_the_writer_sees_only_whole_entries(open_log, entry):
    """A reader may look at any moment: what it sees is a beginning of what was appended."""
    log = open_log(segment_bytes=20_000)
    done = threading.Event()
    seen, wrong = [], []

    def look():
        while not done.is_set():
            entries = [e for _, e in LogReader(log.directory).read()]
            seen.append(len(entries))
            if entries != [entry(number, size=400) for number in range(1, len(entries) + 1)]:
                wrong.append(len(entries))

    thread = threading.Thread(target=look)
    thread.start()
    for number in range(1, 301):
        log.append([entry(number, size=400)])
    done.set()
    thread.join()

    assert wrong == []
    assert seen == sorted(seen)
    assert numbers(LogReader(log.directory)) == list(range(1, 301))


def test_a_closed_log_refuses_to_be_written(open_log, entry):
    """Nothing is said to be logged that is not."""
    log = open_log()
    fill(log, entry, 1)
    log.close()
    log.close()

    with pytest.raises(StorageFailed, match=r"HOF-304.*closed"):
        log.append([entry(2)])
    assert numbers(LogReader(log.directory)) == [1]


def test_durable_means_after_a_sync(open_log, entry):
    """In batch mode the call comes from the sync thread, and the answer waits for it."""
    waiting = open_log(durability="batch")
    waiting.append([entry(1)])
    called = threading.Event()
    threads = []
    waiting.when_durable(lambda: (threads.append(threading.current_thread().name), called.set()))

    assert called.wait(10)
    assert threads == ["hof-log-sync"]
    assert not waiting.is_durable_at_once


def test_a_position_that_was_never_given_is_refused(open_log, entry):
    """An id that leads nowhere is damage, and damage has a code."""
    log = open_log()
    [position] = fill(log, entry, 1)

    for wrong in (0, position + 1, position + (1 << 36), end_of(the_segment(log))):
        with pytest.raises(LogCorrupt, match="HOF-502"):
            log.entry_at(wrong)


def test_other_files_in_the_directory_are_left_alone(open_log, entry):
    """Torn tails, editors' backups and snapshots of the operator."""
    log = open_log()
    fill(log, entry, 1)
    strangers = ["notes.txt", "00000001-0000000000000000001.log.bak", "1-1.log"]
    for name in strangers:
        Path(log.directory / name).write_text("x")

    assert numbers(log) == [1]
    assert numbers(open_log()) == [1]
    assert {p.name for p in log.directory.iterdir()} >= set(strangers)


# --- a log whose entries came over Kafka ----------------------------------------------------------


def at_offset(entry, number, offset):
    made = entry(number)
    made.meta.offset = offset
    return made


def offsets_behind(log, position):
    return [entry.meta.offset for _, entry in log.read_on(position)]


@pytest.mark.parametrize("segment_bytes", [None, 300, 1_000])
def test_behind_the_position_before_an_offset_are_all_entries_from_it_on(
    open_log, entry, segment_bytes
):
    """And none before it, wherever segments begin; a record may have several entries, or none."""
    log = open_log(segment_bytes=segment_bytes)
    offsets = [1, 1, 1, 2, 5, 5, 6, 9, 9, 9, 9, 12, 13, 20]
    for number, offset in enumerate(offsets, 1):
        log.append([at_offset(entry, number, offset)])
    for offset in range(23):
        found = offsets_behind(log, log.position_before(offset))
        assert found == [one for one in offsets if one >= offset]


def test_the_position_before_any_offset_of_an_empty_log_is_its_begin(open_log, entry):
    log = open_log()
    assert log.position_before(7) == 0
    log.append([at_offset(entry, 1, 7)])
    assert offsets_behind(log, 0) == [7]


def test_the_position_before_an_offset_that_was_trimmed_is_the_begin_of_what_is_left(
    open_log, entry
):
    log = open_log(segment_bytes=300)
    for number in range(1, 31):
        log.append([at_offset(entry, number, number)])
    log.trim(15)
    first = log.first_number()
    assert first > 5
    assert offsets_behind(log, log.position_before(2)) == list(range(first, 31))


def test_a_log_that_was_given_up_changes_nothing_and_takes_nothing(open_log, entry, tmp_path):
    """It is another process's by then: no cut, no byte."""
    log = open_log()
    fill(log, entry, 3)
    other = open_log()
    fill(other, entry, 2, start=4)
    path = the_segment(other)
    before = path.read_bytes()
    log.abandon()
    assert path.read_bytes() == before
    with pytest.raises(StorageFailed, match="HOF-304"):
        log.append([entry(4)])
    fill(other, entry, 1, start=6)
    assert numbers(open_log()) == [1, 2, 3, 4, 5, 6]


def test_a_log_that_was_given_up_is_given_up_once(open_log, entry):
    log = open_log()
    fill(log, entry, 1)
    for _ in range(2):
        log.abandon()
    log.sync()
    log.close()
    assert numbers(open_log()) == [1]
