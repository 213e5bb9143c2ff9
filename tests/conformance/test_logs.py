"""What every event log promises, whatever it keeps its entries in."""

import threading
from contextlib import suppress

import pytest

from hofflight.eventlog.protocol import Entry, EntryMeta


def make_entry(number, *, size=30):
    meta = EntryMeta(number, number, number.to_bytes(16, "big"), 1, "v", 1, 1, "hash", "OK")
    return Entry(meta, b"head", b"b" * size, b"answer head", bytes([number % 256]) * size)


def void(number):
    meta = EntryMeta(number, number, bytes(16), 2, "v", 1, 1, "hash", "HOF-205", error="null key")
    return Entry(meta, b"head", b"body", b"", b"")


def test_a_new_log_is_empty(logs):
    """Nothing to read, and the next number is 1."""
    log = logs.open()

    assert (log.last_number(), list(log.read()), log.failed) == (0, [], "")


def test_what_was_appended_is_read_in_order_and_found_by_position(logs):
    """Entries and void marks, in one write and in several."""
    log = logs.open()
    entries = [make_entry(1), void(2), make_entry(3), make_entry(4, size=0), make_entry(5)]
    positions = log.append(entries[:3]) + log.append(entries[3:])

    assert list(log.read()) == list(zip(positions, entries, strict=True))
    assert [log.entry_at(position) for position in reversed(positions)] == entries[::-1]
    assert log.last_number() == 5


def test_reading_begins_after_a_number(logs):
    """A snapshot says up to where it holds everything."""
    log = logs.open()
    for number in range(1, 21):
        log.append([make_entry(number)])

    for after in (0, 1, 19, 20, 21):
        assert [e.meta.number for _, e in log.read(after)] == list(range(after + 1, 21))


def test_what_was_appended_survives_without_a_close(logs):
    """The process may die right after `append`: another one finds every entry and position."""
    first = logs.open()
    positions = [first.append([make_entry(number)])[0] for number in range(1, 6)]
    second = logs.open()

    assert second.last_number() == 5
    assert [second.entry_at(p).meta.number for p in positions] == [1, 2, 3, 4, 5]
    second.append([make_entry(6)])
    assert [e.meta.number for _, e in logs.open().read()] == [1, 2, 3, 4, 5, 6]


def test_durability_is_announced(logs):
    """Once, after what was appended before; at once where nobody waits for it."""
    log = logs.open()
    log.append([make_entry(1)])
    called = []
    done = threading.Event()
    log.when_durable(lambda: (called.append(1), done.set()))

    assert done.wait(10)
    assert called == [1]


def test_a_large_entry_is_one_entry(logs):
    """The largest request with its answer is some tens of megabytes."""
    log = logs.open()
    entry = make_entry(1, size=20_000_000)
    [position] = log.append([entry])

    assert log.entry_at(position) == entry
    assert [e for _, e in logs.open().read()] == [entry]


def test_nothing_was_trimmed_of_a_new_log(logs):
    """The first entry is the first there will be."""
    log = logs.open()
    assert log.first_number() == 1
    log.append([make_entry(1), make_entry(2)])
    assert log.first_number() == 1


@pytest.fixture
def rotating(logs):
    """Logs that can forget: a segment is full after a megabyte."""
    logs._settings = logs._settings.model_copy(update={"segment_bytes_max": 1 << 20})
    return logs


@pytest.mark.parametrize("through", [0, 1, 7, 49, 50, 99])
def test_a_trim_keeps_every_entry_above_its_number(rotating, through):
    """What may be forgotten is up to the log; what may not, is not, and it goes on."""
    log = rotating.open()
    positions = {}
    for number in range(1, 51):
        positions[number] = log.append([make_entry(number, size=100_000)])[0]
    freed = log.trim(through)

    kept = [entry.meta.number for _, entry in log.read()]
    assert kept == list(range(log.first_number(), 51))
    assert log.first_number() <= through + 1
    assert (freed > 0) == (log.first_number() > 1)
    assert log.last_number() == 50
    for number in kept:
        assert log.entry_at(positions[number]) == make_entry(number, size=100_000)
    again = rotating.open()
    assert (again.first_number(), again.last_number()) == (log.first_number(), 50)
    again.append([make_entry(51)])
    assert [meta.number for _, meta in again.read_meta(48)] == [49, 50, 51]


def test_a_trim_frees_what_it_can(rotating):
    """Some of it at least, where there are megabytes; once."""
    log = rotating.open()
    for number in range(1, 51):
        log.append([make_entry(number, size=100_000)])

    assert log.trim(49) > 1_000_000
    assert log.trim(49) == 0


def test_a_reader_under_way_survives_a_trim_or_sees_it(rotating):
    """It gets entries in order, then the end or a missing file; never a gap."""
    log = rotating.open()
    for number in range(1, 51):
        log.append([make_entry(number, size=100_000)])
    reader = log.read()
    found = [next(reader)[1].meta.number for _ in range(3)]
    log.trim(49)
    with suppress(FileNotFoundError):
        found += [entry.meta.number for _, entry in reader]

    assert found == list(range(1, len(found) + 1))
