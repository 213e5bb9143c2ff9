"""What every event log promises, whatever it keeps its entries in."""

import threading

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
