"""Stores whose logs hold everything that a log can hold, and what they hold, read another way."""

import math
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

import pyarrow as pa
import pytest

import hofflight as hof
from hofflight.errors import HofError
from hofflight.eventlog.protocol import Entry, EntryMeta
from hofflight.wire.ipc import join_message

S = 1_000_000
DAY = 86_400 * S
START = 1_780_000_000 * S
EPOCH = datetime(1970, 1, 1, tzinfo=ZoneInfo("UTC"))  # what pyarrow gives
NO_SEALER = {"seal_bytes": 0, "seal_age_s": 0}
INPUT = {
    "card": pa.int64(), "shop": pa.string(), "ts": hof.TIMESTAMP, "x": pa.float64(),
    "i": pa.int64(), "f": pa.float32(), "flag": pa.bool_(), "raw": pa.binary(), "day": pa.date32(),
    "at": hof.TIMESTAMP, "i32": pa.int32(), "i16": pa.int16(), "i8": pa.int8(),
    "u32": pa.uint32(), "u16": pa.uint16(), "u8": pa.uint8(),
}  # fmt: skip


def make_group(version=1, **changes):
    """A window of every kind of answer: numbers, text, times, lists."""
    fields = {
        "windows": {
            "n": hof.count().over("1h"),
            "total": hof.sum("i").over("1h"),
            "mean": hof.mean("x").over("1h"),
            "top": hof.top_k("shop", 2).over("1h"),
            "top_at": hof.top_k("at", 3).over("1h"),
            "first_raw": hof.first("raw").last(3),
            "last_day": hof.last("day").lifetime(),
        },
        "derive": {"more": hof.col("n") + 1},
        **changes,
    }
    return hof.feature_group(
        "g", version=version, key=("card",), event_time="ts", input=INPUT, **fields
    )


def make_row(number, **changes):
    """A row that differs from its neighbours in every column; each column is null now and then."""
    row = {
        "card": number % 3, "shop": "äb"[number % 2] * (number % 4), "ts": START + number * 30 * S,
        "x": [1.5, -0.0, math.nan, math.inf, 1e300, 0.1][number % 6], "i": 2**62 - number,
        "f": number / 3, "flag": number % 2 == 0, "raw": bytes([number % 256, 0]),
        "day": date(1970, 1, 1) + timedelta(days=number - 5),
        "at": START - number, "i32": -number, "i16": number % 99, "i8": -(number % 99),
        "u32": 2**32 - 1 - number, "u16": number % 999, "u8": number % 256,
    }  # fmt: skip
    nullable = [name for name in row if name not in ("card", "ts")]
    row[nullable[number % len(nullable)]] = None
    return row | changes


class SteppingClock:
    """Each look at the wall is `step_us` later."""

    def __init__(self, wall_us=START, step_us=0):
        self.now_us = wall_us
        self.step_us = step_us

    def wall_us(self):
        self.now_us += self.step_us
        return self.now_us

    def monotonic_s(self):
        return self.now_us / 1e6


def send_everything(app, start=0):
    """Rows alone and together, late, overflowing, refused, and taken in without an answer."""
    for number in range(start, start + 12):
        app.vector("g", make_row(number), version=1 + number % 2)
    app.vector("g", [make_row(n) for n in range(start + 12, start + 20)], version=2)
    app.ingest("g", [make_row(start + 20), make_row(start + 21)])
    app.vector("g", [make_row(start + 22), make_row(start + 1, ts=START - 9_000 * S)], version=1)
    for refused in ({"card": None}, {"ts": 2_300_000_000 * S}):
        with pytest.raises(HofError):
            app.vector("g", [make_row(start + 23), make_row(start + 24) | refused], version=2)
    app.vector("g", make_row(start + 25), version=2)


@dataclass
class Store:
    """An opened store with two versions of one group, and both ways to read its log."""

    app: object

    @property
    def path(self):
        return self.app.path

    @property
    def log(self):
        return self.app.engine._works["g.1"].partition.log

    @property
    def history(self):
        return self.app.offline().history_of("g.1")

    @property
    def sealed(self):
        return self.history.sealed

    def seal(self, **options):
        """Seal, with options that the verb of the store does not have."""
        from hofflight.replay.histories import sorting_of
        from hofflight.replay.seal import seal

        records = self.app.offline().records("g.1")
        versions = {record.version: sorting_of(record) for record in records}
        return seal(self.log, self.sealed, versions, **options)


@pytest.fixture
def open_store(tmp_path):
    opened = []

    def open_store(*groups, name="store", clock=None, **settings):
        clock = clock or SteppingClock(step_us=3_600 * S)
        settings = hof.load_settings(**{"log": NO_SEALER, **settings})
        app = hof.open(tmp_path / name, settings=settings, clock=clock)
        opened.append(app)
        for group in groups or (make_group(), make_group(2, windows=NEWER)):
            app.register(group)
        return Store(app)

    yield open_store
    for app in opened:
        app.close()


NEWER = {"n": hof.count().over("2h"), "top": hof.top_k("x", 2).last(4)}


@pytest.fixture
def store(open_store):
    """A log in which everything happened."""
    store = open_store()
    send_everything(store.app)
    return store


def live_rows(store, *, answers=None):
    """What the log holds, read entry by entry with nothing of `replay`; comparable to the bit."""
    found = []
    for _, entry in store.log.read():
        meta = entry.meta
        if meta.code != "OK":
            continue
        record = store.app.engine.registry.group("g", meta.group_version)
        rows = decoded(entry.head, entry.body, record.input)
        answered = [None] * meta.rows
        if meta.answered and meta.group_version == answers:
            answered = decoded(entry.answer_head, entry.answer_body, record.full)
        for place, row in enumerate(rows):
            about = {
                "_seq": meta.number << 20 | place,
                "_arrival": EPOCH + timedelta(microseconds=meta.arrival_us),
                "_request_id": meta.id, "_row": place, "_view": meta.view,
                "_view_version": meta.view_version, "_code_hash": meta.code_hash,
                "_answered": meta.answered, "_late": place in meta.late,
                "_overflow": sorted(n for n, over in meta.overflow.items() if place in over),
            }  # fmt: skip
            shown = {"_answer": answered[place]} if meta.group_version == answers else {}
            found.append(repr((meta.group_version, about | row | shown)))
    return found


def decoded(head, body, schema):
    return pa.ipc.read_record_batch(pa.py_buffer(join_message(head, body)), schema).to_pylist()


def history_rows(history, *args, **options):
    """The same out of a history, in the order of arrival."""
    found = []
    for part in history.parts(*args, **options):
        found += [(row["_seq"], repr((part.version, row))) for row in part.rows.to_pylist()]
    return [text for _, text in sorted(found)]


@pytest.fixture
def live():
    return live_rows


@pytest.fixture
def replayed():
    return history_rows


@pytest.fixture
def row():
    return make_row


@pytest.fixture
def group():
    return make_group


@pytest.fixture
def send():
    return send_everything


@pytest.fixture
def clock():
    return SteppingClock


def make_void(number, *, rows=2):
    meta = EntryMeta(
        number, START + number, number.to_bytes(16, "big"), rows, "g", 1, 1, "hash", "HOF-402",
        error="it hung",
    )  # fmt: skip
    return Entry(meta, b"refused head", b"refused body %d" % number, b"", b"")


@pytest.fixture
def void():
    return make_void
