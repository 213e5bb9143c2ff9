"""Letters read, chosen and put back, whoever wrote them."""

import asyncio
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hofflight.errors import KafkaUnavailable, SettingsError
from hofflight.eventlog.dead_letters import (
    BURIAL,
    Choice,
    DeadLetters,
    WayBack,
    destination,
    group_of,
    letter_of,
    summary,
)

TOPIC = "hof.in.card_tx.1"
OURS = {
    "hof-error": "the header hof-v is missing", "hof-code": "HOF-220", "hof-topic": TOPIC,
    "hof-partition": "3", "hof-offset": "17", "hof-timestamp-ms": "1700000000000",
}  # fmt: skip
NAMES = st.one_of(st.sampled_from([*BURIAL, "hof-v"]), st.text(max_size=20))
OWN_HEADERS = st.lists(st.tuples(NAMES, st.none() | st.binary(max_size=40)), max_size=12)
VALUES = st.none() | st.binary(max_size=60)


def record(value=b"x", own=(), timestamp=1_700_000_001_000, **said):
    """A record as a worker buries it; `said` takes the place of what it says, by `hof_` names."""
    about = {**OURS, **{name.replace("_", "-"): text for name, text in said.items()}}
    headers = [(n, t if isinstance(t, bytes | None) else t.encode()) for n, t in about.items()]
    return SimpleNamespace(value=value, headers=(*own, *headers), timestamp=timestamp)


class Shelf:
    """A topic in memory, as a `Reader`; None is a record that cannot be read, `gone` is none."""

    def __init__(self, *records, begin=0, gone=()):
        self.records = dict(enumerate(records, begin))
        self.begin, self.end = begin, begin + len(records)
        self.gone = set(gone)

    async def first_since(self, time_ms):
        found = [n for n, r in self.records.items() if r is not None and r.timestamp >= time_ms]
        return min(found, default=self.end)

    async def read(self, begin, end):
        for number in range(begin, end):
            if number in self.records and number not in self.gone:
                yield number, self.records[number]


class Outbox:
    """What was put back, and how."""

    def __init__(self, fails_at=None):
        self.sent = []
        self.fails_at = fails_at

    async def __call__(self, topic, partition, value, headers):
        if len(self.sent) == self.fails_at:
            raise OSError("away")
        self.sent.append((topic, partition, value, headers))

    def way(self, registered=(TOPIC,), partitions=None, bytes_max=900_000):
        counts = {TOPIC: 8} if partitions is None else partitions
        return WayBack(frozenset(registered), counts, bytes_max, self)


def letters_on(shelf):
    return DeadLetters(shelf, "hof.dlq", "hof")


def newest(shelf, limit=20, group=None, since_ms=None):
    seen = []
    found = asyncio.run(letters_on(shelf).newest(limit, group, since_ms, seen.append))
    return [entry["number"] for entry in found], sum(seen)


def put_back(shelf, choice, way):
    return asyncio.run(letters_on(shelf).put_back(choice, way, lambda _: None))


# --- one letter -----------------------------------------------------------------------------------


@given(value=VALUES, own=OWN_HEADERS)
def test_a_record_comes_out_as_it_was_buried(value, own):
    """Bytes and headers, though its sender's are called as ours are."""
    letter = letter_of(5, record(value, own))
    assert (letter.value, letter.headers) == (value, own)
    assert letter.burial == (
        "the header hof-v is missing",
        "HOF-220",
        TOPIC,
        3,
        17,
        1_700_000_000_000,
    )
    found = destination(letter, Outbox().way())
    is_there = value is not None or own  # else nobody could read it, or nothing was in it
    assert found == ((5, TOPIC, 3, "") if is_there else (5, None, None, "its bytes are not here"))


@given(value=VALUES, headers=OWN_HEADERS, timestamp=st.integers(-(1 << 63), (1 << 63) - 1))
def test_what_no_worker_buried_is_shown_and_goes_nowhere(value, headers, timestamp):
    """Whatever a stranger puts into the topic: no error, and all of it is still there."""
    stranger = SimpleNamespace(value=value, headers=tuple(headers), timestamp=timestamp)
    letter = letter_of(0, stranger)
    assert letter.burial is None
    assert (letter.value, letter.headers) == (value, headers)
    assert letter.problem.startswith("no worker of ours")
    assert summary(letter)["error"] == letter.problem
    assert destination(letter, Outbox().way()) == (0, None, None, letter.problem)


@pytest.mark.parametrize(
    "said",
    [
        {"hof_code": "HOF-2200"}, {"hof_code": "\x1b[2J"}, {"hof_code": b"\xff"},
        {"hof_error": b"\xff"}, {"hof_topic": "a/../b"}, {"hof_topic": "x" * 250},
        {"hof_topic": None}, {"hof_partition": "-1"}, {"hof_partition": "٣"},
        {"hof_partition": "9" * 10}, {"hof_partition": ""}, {"hof_offset": "1e3"},
        {"hof_offset": "9" * 19}, {"hof_timestamp_ms": "now"}, {"hof_topic": f"{TOPIC}\n"},
    ],
)  # fmt: skip
def test_a_burial_that_no_worker_writes_is_none(said):
    """A header is a stranger's word until each of the six has its form."""
    assert letter_of(0, record(**said)).burial is None


def test_a_record_without_a_time_of_its_own_is_a_letter_too():
    """Kafka's -1."""
    assert letter_of(0, record(hof_timestamp_ms="-1")).burial.timestamp_ms == -1


def test_a_record_that_cannot_be_read_is_a_letter_with_a_problem():
    letter = letter_of(4, None)
    assert (letter.number, letter.value, letter.burial) == (4, None, None)
    assert "cannot be read" in summary(letter)["error"]


def test_the_group_is_that_of_the_topic():
    assert group_of(letter_of(0, record()), "hof") == "card_tx"
    assert group_of(letter_of(0, record()), "eu") is None
    assert group_of(letter_of(0, None), "hof") is None


# --- where it goes --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "way", "word"),
    [
        ({"hof_topic": "hof.dlq"}, {}, "no registered group"),
        ({"hof_topic": "hof.reply.00"}, {"partitions": {"hof.reply.00": 1}}, "no registered group"),
        ({"hof_topic": "eu.in.card_tx.1"}, {}, "no registered group"),
        ({"hof_topic": "hof.in.card_tx.2"}, {}, "no registered group"),
        ({}, {"partitions": {}}, "is gone"),
        ({"hof_partition": "8"}, {}, "8 partitions"),
        ({}, {"bytes_max": 80}, "records have 80"),
    ],
)
def test_a_letter_chooses_no_topic(said, way, word):
    """Only an input topic of a registered group, where it is there and takes it."""
    outbox = Outbox()
    (outcome,) = put_back(Shelf(record(**said)), Choice(), outbox.way(**way))
    assert word in outcome.refused
    assert outcome.partition is None
    assert outbox.sent == []


def test_numbers_are_put_back_once_each_and_in_their_order():
    outbox = Outbox()
    shelf = Shelf(*(record(b"%d" % n, [("hof-v", b"1")]) for n in range(4)), begin=10)
    outcomes = put_back(shelf, Choice((13, 11, 13)), outbox.way())
    assert [outcome.number for outcome in outcomes] == [11, 13]
    assert outbox.sent == [(TOPIC, 3, b"%d" % n, [("hof-v", b"1")]) for n in (1, 3)]


def test_a_code_chooses_and_strangers_have_none():
    outbox = Outbox()
    stranger = SimpleNamespace(value=b"", headers=(), timestamp=0)
    shelf = Shelf(record(b"a"), record(b"b", hof_code="HOF-221"), stranger, None)
    outcomes = put_back(shelf, Choice(code="HOF-221"), outbox.way())
    assert [outcome.number for outcome in outcomes] == [1]
    everything = put_back(shelf, Choice(), outbox.way())
    assert [bool(outcome.refused) for outcome in everything] == [False, False, True, True]


def test_a_dry_run_says_the_same_and_sends_nothing():
    outbox = Outbox()
    shelf = Shelf(record(), None)
    dry = put_back(shelf, Choice(), outbox.way()._replace(produce=None))
    assert outbox.sent == []
    assert dry == put_back(shelf, Choice(), outbox.way())


def test_an_unknown_number_sends_nothing_at_all():
    outbox = Outbox()
    for number in (-1, 2, 1 << 70):
        with pytest.raises(SettingsError, match="it has 0 to 1"):
            put_back(Shelf(record(), record()), Choice((0, number)), outbox.way())
    with pytest.raises(SettingsError, match="it is empty"):
        put_back(Shelf(), Choice((0,)), outbox.way())
    assert outbox.sent == []


def test_an_offset_without_a_record_is_no_letter():
    with pytest.raises(SettingsError, match="no letter 1"):
        asyncio.run(letters_on(Shelf(record(), record(), record(), gone=[1])).letter(1))


def test_brokers_that_fail_midway_say_how_far_it_came():
    outbox = Outbox(fails_at=2)
    with pytest.raises(KafkaUnavailable, match="2 letters were put back, then 3") as found:
        put_back(Shelf(record(), None, record(), record(), record()), Choice(), outbox.way())
    assert "go on with 3" in found.value.hint


# --- the newest -----------------------------------------------------------------------------------


def test_the_newest_are_the_last_and_only_they_are_read():
    shelf = Shelf(*(record() for _ in range(10)), begin=5)
    assert newest(shelf, limit=3) == ([12, 13, 14], 3)
    assert newest(Shelf()) == ([], 0)


def test_the_newest_of_a_group_are_looked_for_among_all():
    other = [record(hof_topic="hof.in.clicks.1") for _ in range(5)]
    shelf = Shelf(record(), record(), record(), *other, None)
    assert newest(shelf, limit=2, group="card_tx") == ([1, 2], 9)
    assert newest(shelf, group="nobody") == ([], 9)


def test_since_leaves_out_what_was_buried_before():
    """A stranger's time may stand anywhere between."""
    shelf = Shelf(*(record(timestamp=time) for time in (10, 30, 20, 40)))
    assert newest(shelf, since_ms=30) == ([1, 3], 3)
    assert newest(shelf, since_ms=50) == ([], 0)
